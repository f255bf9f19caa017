"""Connections of clients: those that send nothing whole do not stay.

uvicorn waits without an end for the rest of a request's head. Somebody who opens many connections and sends a line a
minute would hold them all.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_PATIENCE_S = 30.0  # for the first byte and all of a request's head


class Impatient(H11Protocol):
    """uvicorn's protocol, which closes a connection whose request's head does not come."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """The clock runs from here …"""
        super().connection_made(transport)
        self._wait_for_head()

    def handle_events(self) -> None:
        """… until a request's head is whole."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete and self._late is not None:
            self._late.cancel()
            self._late = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """The next request on the same connection has as long."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_PATIENCE_S, self.transport.close)
