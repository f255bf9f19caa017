"""The tab *Chat*: a conversation (talk.py), its answers streamed, with stop, retry, edit and undo."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr

from smidgen.engines.llama_cpp.engine import Message
from smidgen.errors import SmidgenError
from smidgen.showing.models import Shelf, ShownModel
from smidgen.showing.settings import Settings
from smidgen.showing.talk import Talk
from smidgen.showing.words import about_kind, status, when_ended, while_written
from smidgen.showing.writing import Writing

_LONGEST_ANSWER, _LONGEST_TEXT = 1024, 256  # tokens; a text that is continued has no end of its own
Updates = dict[Any, Any]  # component → its new value, or itself with new properties


def shown(messages: list[Message], writing: str | None = None) -> list[dict[str, Any]]:
    """The conversation for Gradio, to the letter (a bare text it would strip of its indentation)."""
    all_of_it = messages if writing is None else [*messages, {"role": "assistant", "content": writing}]
    return [
        {"role": message["role"], "content": [{"type": "text", "text": message["content"]}]} for message in all_of_it
    ]


def settings_fields(tab: str, max_tokens: int) -> list[Any]:
    """The fields of `Settings`, in its order, folded away."""
    with gr.Accordion("Settings", open=False, elem_id=f"{tab}-settings"):
        system = gr.Textbox(label="System message", lines=2, max_lines=6, placeholder="none")
        with gr.Row():
            temperature = gr.Number(
                0.8,
                label="Temperature",
                info="0: always the likeliest token",
                minimum=0,
                step=0.1,
                elem_id=f"{tab}-temperature",
            )
            top_p = gr.Number(0.95, label="Top-p", info="draw from the likeliest that make up this share", step=0.05)
        with gr.Row():
            longest = gr.Number(
                max_tokens, label="Longest answer", info="in tokens; empty for no limit", precision=0,
                elem_id=f"{tab}-max-tokens",
            )  # fmt: skip
            seed = gr.Number(None, label="Seed", info="fixes the draw; empty for a new one", precision=0)
    return [temperature, top_p, longest, seed, system]


def build_chat(shelf: Shelf) -> Any:
    """The tab's content. Returns its choice of the model, which other tabs may set."""
    first = shelf.given[0]
    choice = gr.Dropdown(shelf.names, value=first.name, label="Model", elem_id="chat-model", filterable=False)
    kind = gr.Markdown(status(about_kind(first)))
    talk = gr.State(Talk())
    pane = gr.Chatbot(
        elem_id="chat", show_label=False, height="56vh", editable="user", buttons=["copy"], layout="bubble",
        placeholder="Nothing of a conversation is stored, and nothing leaves this machine.", latex_delimiters=[],
    )  # fmt: skip
    said = gr.Markdown(elem_id="chat-status")
    box = gr.Textbox(
        elem_id="chat-message", show_label=False, placeholder="Message", lines=1, max_lines=10,
        submit_btn=True,
    )  # fmt: skip
    fields = settings_fields("chat", _longest(first))
    longest = fields[2]

    async def answer(
        change: Callable[[Talk], None], talk: Talk, name: object, values: tuple[object, ...]
    ) -> AsyncIterator[Updates]:
        """Change the conversation, and stream the answer to its last message."""
        try:
            model, settings = shelf.find(name), Settings.of_page(*values)
            change(talk)
        except SmidgenError as error:
            yield {said: status(str(error), is_error=True)}
            return
        writing = talk.writing = model.write(talk.messages, settings.next_try(talk.tries))
        yield {box: gr.Textbox(value="", submit_btn=False, stop_btn=True)}
        async for _ in writing.looks():
            if talk.writing is not writing:  # cleared meanwhile
                yield {box: gr.Textbox(submit_btn=True, stop_btn=False)}
                return
            if not writing.ended:
                yield {pane: shown(talk.messages, writing.text), said: status(while_written(writing))}
        yield _ended(talk, writing, model, settings)

    def _ended(talk: Talk, writing: Writing, model: ShownModel, settings: Settings) -> Updates:
        failed = writing.state == "failed"
        unanswered = talk.answered("" if failed else writing.text)
        text = str(writing.error) if failed else when_ended(writing, model, settings)
        if unanswered is not None:
            text += " Your message is back in its field."
        back: Updates = {} if unanswered is None else {"value": unanswered}  # else what is being typed stays
        ready = gr.update(submit_btn=True, stop_btn=False, **back)
        return {pane: shown(talk.messages), said: status(text, is_error=failed), box: ready}

    async def send(text: object, talk: Talk, name: object, *values: object) -> AsyncIterator[Updates]:
        async for updates in answer(lambda talk: talk.ask(text), talk, name, values):
            yield updates

    async def retry(event: gr.RetryData, talk: Talk, name: object, *values: object) -> AsyncIterator[Updates]:
        async for updates in answer(lambda talk: talk.ask_again(event.index), talk, name, values):
            yield updates

    async def edit(event: gr.EditData, talk: Talk, name: object, *values: object) -> AsyncIterator[Updates]:
        async for updates in answer(lambda talk: talk.edit(event.index, event.value), talk, name, values):
            yield updates

    def undo(event: gr.UndoData, talk: Talk) -> Updates:
        try:
            text = talk.back_to(event.index)
        except SmidgenError as error:
            return {said: status(str(error), is_error=True)}
        return {pane: shown(talk.messages), box: text, said: ""}

    def stop(talk: Talk) -> None:
        if talk.writing is not None:
            talk.writing.stop()

    def clear(talk: Talk) -> Updates:
        talk.clear()
        return {pane: [], said: ""}

    def choose(name: object, limit: object) -> Updates:
        try:
            model = shelf.find(name)
        except SmidgenError as error:
            return {kind: status(str(error), is_error=True)}
        untouched = limit in (_LONGEST_ANSWER, _LONGEST_TEXT)
        return {kind: status(about_kind(model)), longest: _longest(model) if untouched else gr.skip()}

    streamed: dict[str, Any] = {"outputs": [pane, said, box], "show_progress": "hidden", "concurrency_limit": None}
    quick: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    box.submit(send, [box, talk, choice, *fields], trigger_mode="once", **streamed)
    pane.retry(retry, [talk, choice, *fields], **streamed)
    pane.edit(edit, [talk, choice, *fields], **streamed)
    pane.undo(undo, [talk], [pane, box, said], **quick)
    pane.clear(clear, [talk], [pane, said], **quick)
    box.stop(stop, [talk], None, **quick)
    choice.change(choose, [choice, longest], [kind, longest], **quick)
    return choice


def _longest(model: ShownModel) -> int:
    """Tokens of an answer, where nothing else is set."""
    return _LONGEST_ANSWER if model.chats else _LONGEST_TEXT
