"""`/card`: the report card of what is being served, as `cut` or `measure` wrote it beside the model."""

import json
from pathlib import Path

from starlette.responses import HTMLResponse, JSONResponse, Response

from smidgen.serving.hosting import Hosted
from smidgen.serving.refusals import Refusal

_LARGEST = 32 * 2**20  # bytes
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def page_of_card(model: Hosted) -> Response:
    """The page. It may run no program and ask no other server. Raises Refusal with status 404 where there is none."""
    return HTMLResponse(_read(model, "card.html"), headers=_HEADERS)


def data_of_card(model: Hosted) -> Response:
    """The same figures for programs. Raises Refusal with status 404 where there are none."""
    try:
        return JSONResponse(json.loads(_read(model, "card.json")))
    except ValueError as error:
        raise Refusal(f"the report card of {model.name} is damaged; `smidgen measure` makes a new one.", 404) from error


def _read(model: Hosted, name: str) -> str:
    path: Path = model.card_folder / name
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST:
            raise FileNotFoundError
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(
            f"{model.name} has no report card; `smidgen measure ORIGINAL CUT -o DIR/card.json` makes one.", 404
        ) from error
