"""The tab *Card*: the report card of a model that is shown, as the card's own page in a frame that may do nothing.

A card may come with a stranger's model. So it is served with rules under which it runs no scripts, loads nothing, and
counts as a page of nobody.
"""

import html
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from smidgen.errors import SmidgenError
from smidgen.showing.models import Shelf
from smidgen.showing.words import status

_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"


def card_route(shelf: Shelf) -> Route:
    """`/card/0` is the card of the first model that is shown, and so on."""

    def card(request: Request) -> Response:
        models, number = shelf.all, request.path_params["number"]
        path = models[number].card if number < len(models) else None
        if path is None:
            return PlainTextResponse("There is no report card here.", 404)
        rules = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
        return FileResponse(path, media_type="text/html", headers=rules)

    return Route("/card/{number:int}", card)


def frame_of(shelf: Shelf, name: object) -> str:
    """The card of a model as HTML for the page, or why there is none."""
    try:
        model = shelf.find(name)
    except SmidgenError as error:
        return status(str(error), is_error=True)
    if model.card is None:
        return status(
            f"There is no report card beside {model.name}. The command smidgen cut writes one, and smidgen "
            "measure makes one of an original and its cut."
        )
    title = html.escape(f"Report card of {model.name}", quote=True)
    return f'<iframe class="card" sandbox src="/card/{shelf.all.index(model)}" title="{title}"></iframe>'


def build_card(shelf: Shelf, tab: Any) -> tuple[Any, Any]:
    """The tab's content. Returns its choice of the model, and the frame, which other tabs may set."""
    first = next((model for model in shelf.given if model.card is not None), shelf.given[0])
    choice = gr.Dropdown(shelf.names, value=first.name, label="Model", filterable=False, elem_id="card-model")
    frame = gr.Markdown(elem_id="card", sanitize_html=False)
    for begins in (choice.change, tab.select):  # a card may have come meanwhile
        begins(lambda name: frame_of(shelf, name), [choice], [frame], concurrency_limit=None, show_progress="hidden")
    return choice, frame
