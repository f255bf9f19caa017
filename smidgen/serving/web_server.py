"""The web server under `serve` and `ui`: silent, since nothing of a request belongs into a log."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from smidgen.serving.connections import Impatient


class WebServer(uvicorn.Server):
    """Ends with Ctrl-C or SIGTERM without raising them anew.

    announce: called when it answers.  last_words_s: seconds that answers under way have when it is told to stop.
    """

    def __init__(self, app: ASGIApp, announce: Callable[[], object], last_words_s: int) -> None:
        super().__init__(
            uvicorn.Config(
                app, http=Impatient, ws="none", log_config=None, log_level="critical", access_log=False,
                server_header=False, lifespan="on", timeout_graceful_shutdown=last_words_s, proxy_headers=False,
            )
        )  # fmt: skip
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so."""
        await super().startup(sockets)
        self._announce()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own would end the process with the signal once more."""
        earlier = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)
