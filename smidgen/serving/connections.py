"""Connections of clients: those that send nothing whole, or take nothing, do not stay.

uvicorn waits without an end for the rest of a request's head, and for somebody to read an answer. Who opens many
connections and sends a line a minute would hold them all; who asks and never reads would keep a place at the engine.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_PATIENCE_S = 30.0  # for the first byte and all of a request's head
READER_PATIENCE_S = 60.0  # for a client to read on, once the buffers are full


class Impatient(H11Protocol):
    """uvicorn's protocol, which closes a connection whose request's head does not come."""

    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

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
        for waiting in (self._late, self._unread):
            if waiting is not None:
                waiting.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """The next request on the same connection has as long."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._wait_for_head()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered, which has its time."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """It has read on."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def shutdown(self) -> None:
        """A request whose body has not come is nothing to wait for."""
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_started:
            self.transport.close()
        else:
            super().shutdown()

    def _wait_for_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_PATIENCE_S, self.transport.close)

    def _wait_for_reader(self) -> None:
        before = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() < before:
                self._wait_for_reader()
            else:
                self.transport.abort()  # closing would wait for what is in the buffer

        self._unread = self.loop.call_later(READER_PATIENCE_S, look)
