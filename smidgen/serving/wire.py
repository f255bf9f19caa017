"""One HTTP request to an engine's port on this machine, and its answer as it comes.

Each token of each answer comes this way, so it takes the shortest one: httpx2 needs twice as much processor time for a
token as all else that the front does with it. h11 knows the protocol, as it does for uvicorn on the other side.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import h11

_PIECE = 1 << 16  # bytes that are read at once, at most
BROKEN = (OSError, h11.RemoteProtocolError)  # what a request raises where its connection breaks


@asynccontextmanager
async def exchange(
    method: str, address: str, path: str, body: dict[str, Any] | None, headers: Mapping[str, str]
) -> AsyncIterator["WireAnswer"]:
    """Send one request over a connection of its own. Leaving the context ends the connection at once.

    address: `http://host:port`.  Raises one of BROKEN where the connection breaks.
    """
    host = urlsplit(address)
    reader, writer = await asyncio.open_connection(host.hostname, host.port)
    try:
        wire = h11.Connection(h11.CLIENT)
        raw = b"" if body is None else json.dumps(body).encode()
        lines = {"Host": host.netloc, "Content-Type": "application/json", "Content-Length": str(len(raw)), **headers}
        events = (h11.Request(method=method, target=path, headers=[*lines.items()]), h11.Data(raw), h11.EndOfMessage())
        writer.write(b"".join(wire.send(event) or b"" for event in events))
        await writer.drain()
        yield await WireAnswer.begin(wire, reader)
    finally:
        writer.transport.abort()


class WireAnswer:
    """An answer whose head has come."""

    def __init__(self, head: h11.Response, wire: h11.Connection, reader: asyncio.StreamReader) -> None:
        self.status = head.status_code
        self.headers: Mapping[str, str] = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        self._wire, self._reader = wire, reader

    @classmethod
    async def begin(cls, wire: h11.Connection, reader: asyncio.StreamReader) -> "WireAnswer":
        """Wait for the head."""
        while not isinstance(head := await _next(wire, reader), h11.Response):
            pass  # such as 100 Continue
        return cls(head, wire, reader)

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, cut anywhere."""
        while isinstance(event := await _next(self._wire, self._reader), h11.Data):
            yield event.data


async def _next(wire: h11.Connection, reader: asyncio.StreamReader) -> h11.Event:
    while (event := wire.next_event()) is h11.NEED_DATA:
        wire.receive_data(await reader.read(_PIECE))
    assert isinstance(event, h11.Event)  # the wire is paused only for another request, which there is none of
    if isinstance(event, h11.ConnectionClosed):
        raise ConnectionResetError("the engine closed the connection")
    return event
