"""The tab *Cut*: choose a model and a size, see the plan, carry it out, cancel, and chat with the result."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from smidgen.errors import SmidgenError
from smidgen.showing.card_tab import frame_of
from smidgen.showing.chat_tab import Updates
from smidgen.showing.cut_desk import CutDesk, progress_of
from smidgen.showing.cut_size import proposed_size
from smidgen.showing.models import Shelf
from smidgen.showing.words import about_kind, status

_LOOK_EVERY_S = 1.0


def build_cut(shelf: Shelf, desk: CutDesk, tabs: Any, chat: Any, card: tuple[Any, Any]) -> Callable[[Any], None]:
    """The tab's content. Returns a function for the page's load: the state of a cut that others began.

    tabs: of the page, to go to the chat.  chat, card: the choices of a model on these tabs, and the card's frame.
    """
    names = list(shelf.to_cut())
    gr.Markdown(
        status(
            f"The result is a new folder in {desk.place}. Without a text to calibrate on, the model writes one first, "
            "which takes minutes. The report card takes some more."
        )
    )
    with gr.Row():
        model = gr.Dropdown(names, value=names[0], label="Model", filterable=False, min_width=260, elem_id="cut-model")
        fit = gr.Textbox(
            _proposed(shelf, names[0]), label="Largest size", info="165MB, 1.2GB, 512MiB", elem_id="cut-size"
        )
        name = gr.Textbox("smaller", label="Name of the new folder", elem_id="cut-name")
    with gr.Accordion("More", open=False, elem_id="cut-more"):
        languages = gr.Textbox(label="Languages to keep", info="codes such as de,en; empty for all", max_lines=1)
        text = gr.Textbox(
            label="Text to calibrate on", info="as the model will be used for", lines=3, max_lines=8, elem_id="cut-text"
        )
        tokens = gr.Number(
            None, label="Tokens of calibration", info="empty: 16384", precision=0, minimum=512, elem_id="cut-tokens"
        )
        with_card = gr.Checkbox(True, label="Measure the result and write its report card", elem_id="cut-card")
        resume = gr.Checkbox(False, label="Go on with a cut that was interrupted, with the same wishes")
    with gr.Row():
        plan = gr.Button("Show the plan", elem_id="cut-plan")
        begin = gr.Button("Cut", variant="primary", elem_id="cut-begin")
        cancel = gr.Button("Cancel", variant="stop", interactive=False, elem_id="cut-cancel")
        talk = gr.Button("Chat with the result", interactive=False, elem_id="cut-chat")
    told = gr.Markdown(elem_id="cut-status")
    clock = gr.Timer(_LOOK_EVERY_S, active=False)

    def look() -> Updates:
        running = desk.running
        return {
            told: progress_of(desk.run), clock: gr.Timer(active=running), cancel: gr.Button(interactive=running),
            plan: gr.Button(interactive=not running), begin: gr.Button(interactive=not running),
            talk: gr.Button(interactive=desk.finished is not None),
        }  # fmt: skip

    def start(dry: bool, *wishes: object) -> Updates:
        try:
            desk.begin(dry, *wishes)
        except SmidgenError as error:
            return {told: status(str(error), is_error=True)}
        return look()

    def stop() -> Updates:
        desk.cancel()
        return look() | {told: status("Cancelling…")}

    def show_result() -> Updates:
        if desk.finished is None:
            return look()
        try:
            made = shelf.show_cut(desk.finished)
        except SmidgenError as error:
            return {told: status(str(error), is_error=True)}
        chosen = gr.Dropdown(shelf.names, value=made.name)
        note = status(f"{made.name} is among the models of Chat now. {about_kind(made)}")
        return {
            tabs: gr.Tabs(selected="chat"),
            chat: chosen,
            card[0]: chosen,
            card[1]: frame_of(shelf, made.name),
            told: note,
        }

    wishes = [model, fit, name, languages, text, tokens, with_card, resume]
    state = [told, clock, cancel, plan, begin, talk]
    quick: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    model.change(lambda name: _proposed(shelf, name), [model], [fit], **quick)
    plan.click(lambda *wishes: start(True, *wishes), wishes, state, **quick)
    begin.click(lambda *wishes: start(False, *wishes), wishes, state, **quick)
    cancel.click(stop, None, state, **quick)
    clock.tick(look, None, state, **quick)
    talk.click(show_result, None, [tabs, chat, *card, *state], **quick)
    return lambda page: page.load(look, None, state, **quick)


def _proposed(shelf: Shelf, name: object) -> str:
    """A size to begin with; nothing where the model cannot be read, which the plan will say."""
    try:
        return proposed_size(shelf.file_to_cut(name))
    except SmidgenError:
        return ""
