"""The page: its tabs, how it looks, and the application that serves it."""

from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from gradio.themes import Base, Font
from starlette.responses import JSONResponse
from starlette.routing import Route

from smidgen.showing.ballots import BallotBox
from smidgen.showing.card_tab import build_card, card_route
from smidgen.showing.chat_tab import build_chat
from smidgen.showing.compare_tab import build_compare
from smidgen.showing.cut_desk import CutDesk
from smidgen.showing.cut_tab import build_cut
from smidgen.showing.models import Shelf

_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_FONTS = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # of the machine: none is fetched
_MOST_WAITING = 256  # of each kind of request


def build_page(shelf: Shelf, box: BallotBox, desk: CutDesk) -> FastAPI:
    """The application, without its door."""
    title = f"smidgen: {' and '.join(shelf.names)}"
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as blocks:
        with gr.Tabs(selected="chat") as tabs:
            with gr.Tab("Chat", id="chat"):
                chat = build_chat(shelf)
            with gr.Tab("Compare", id="compare"):
                build_compare(shelf, box)
            with gr.Tab("Card", id="card") as tab:
                card = build_card(shelf, tab)
            with gr.Tab("Cut", id="cut"):
                on_load = build_cut(shelf, desk, tabs, chat, card)
        on_load(blocks)
    blocks.queue(max_size=_MOST_WAITING, api_open=False)
    application = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    application.router.routes += [card_route(shelf), Route("/health", lambda request: JSONResponse({"status": "ok"}))]
    body, code = _FONTS
    theme = Base(
        font=[Font(name) for name in body], font_mono=[Font(name) for name in code],
        primary_hue="teal", neutral_hue="slate",
    )  # fmt: skip
    return gr.mount_gradio_app(
        application, blocks, path="/", footer_links=[], run_history=False, allowed_paths=[], show_error=True,
        max_file_size=1, ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False, theme=theme, css=_CSS,
    )  # fmt: skip
