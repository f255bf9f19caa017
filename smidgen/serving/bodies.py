"""Bodies of requests: read once, bounded in size and in time, and strictly."""

import asyncio
import re
from typing import Any

from starlette.requests import Request

from smidgen.errors import BadFile
from smidgen.formats.hf.json_text import parse_json
from smidgen.serving.refusals import Refusal

LONGEST_BODY = 16 * 2**20  # bytes
_PATIENCE_S = 60.0  # for the whole of it


async def read_body(request: Request) -> dict[str, Any]:
    """The JSON object in a request. Raises Refusal for anything else, and for one that is too large or too slow."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal("requests are read uncompressed; leave Content-Encoding out.", 415)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            raw = await _read_bounded(request)
    except TimeoutError:
        raise Refusal(f"the request was not complete after {_PATIENCE_S:.0f} s.", 408) from None
    try:
        body = parse_json(raw, "the request")
    except BadFile as error:
        raise Refusal(f"{re.split('; |, which', str(error))[0]}.") from error
    if not isinstance(body, dict):
        raise Refusal("the request must be a JSON object.")
    return body


async def _read_bounded(request: Request) -> bytes:
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > LONGEST_BODY:
            raise Refusal(f"the request has more than {LONGEST_BODY} bytes.", 413)
    return bytes(raw)
