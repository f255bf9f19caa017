"""The tab *Compare*: one prompt, two answers, a vote, and only then the names."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import gradio as gr

from smidgen.errors import SmidgenError
from smidgen.shell import as_word
from smidgen.showing.ballots import BallotBox
from smidgen.showing.chat_tab import Updates, settings_fields, shown
from smidgen.showing.duel import Duel
from smidgen.showing.models import Shelf
from smidgen.showing.settings import Settings, refuse_half_characters
from smidgen.showing.words import status
from smidgen.votes import Winner

_CHOICES: dict[Winner, str] = {
    "model_a": "A is better", "model_b": "B is better", "tie": "A tie", "both_bad": "Both are bad",
}  # fmt: skip
_ONE_MODEL = "Two models are compared here. Start the page with both: smidgen ui MODEL MODEL"


@dataclass
class Round:
    """What one window compares at present."""

    duel: Duel | None = None


def build_compare(shelf: Shelf, box: BallotBox) -> None:
    """The tab's content."""
    if len(shelf.given) < 2:
        gr.Markdown(status(_ONE_MODEL))
        return
    gr.Markdown(status(_what_happens(shelf, box)))
    state = gr.State(Round())
    prompt = gr.Textbox(
        elem_id="compare-prompt", show_label=False, placeholder="A prompt for both", lines=1, max_lines=10,
        submit_btn=True,
    )  # fmt: skip
    with gr.Row():
        panes = [
            gr.Chatbot(
                label=letter, elem_id=f"compare-{letter.lower()}", height="44vh", min_width=300, buttons=["copy"],
                latex_delimiters=[],
            )
            for letter in "AB"
        ]  # fmt: skip
    with gr.Row():
        votes = [
            gr.Button(text, elem_id=f"vote-{winner}", interactive=False, min_width=120)
            for winner, text in _CHOICES.items()
        ]
    said = gr.Markdown(elem_id="compare-status")
    fields = settings_fields("compare", 256)

    def buttons(active: bool) -> Updates:
        return {button: gr.Button(interactive=active) for button in votes}

    async def ask(text: object, state: Round, *values: object) -> AsyncIterator[Updates]:
        try:
            if state.duel is not None and not all(one.ended for one in state.duel.writings):
                raise SmidgenError("answers are being written; stop them first.")
            question = refuse_half_characters(str(text or ""))
            if not question.strip():
                raise SmidgenError("write a prompt first.")
            duel = state.duel = Duel.draw(question, Settings.of_page(*values), shelf.given)
        except SmidgenError as error:
            yield {said: status(str(error), is_error=True)}
            return
        panes_empty = {pane: shown([]) for pane in panes}
        yield {prompt: gr.Textbox(submit_btn=False, stop_btn=True), **panes_empty, **buttons(False)}
        for letter, pane in zip("AB", panes, strict=True):
            writing = duel.begin_next()
            async for _ in writing.looks():
                yield {pane: shown([], writing.text), said: status(f"{letter} is being written…")}
            if duel.stopped or writing.state != "done":
                break
        yield _ended(duel)

    def _ended(duel: Duel) -> Updates:
        failed = next((one.error for one in duel.writings if one.error), None)
        if failed is not None:
            text = f"There is nothing to vote on: {failed}"
        elif not duel.complete:
            text = "Stopped. A vote needs two whole answers."
        else:
            text = f"Which answer is better? The names come with your vote.{_cut_short(duel)}"
        return {
            prompt: gr.Textbox(submit_btn=True, stop_btn=False), said: status(text, is_error=failed is not None),
            **buttons(duel.complete),
        }  # fmt: skip

    def vote(winner: Winner, state: Round) -> Updates:
        duel = state.duel
        try:
            if duel is None:
                raise SmidgenError("ask something first.")
            kept = f"It is number {duel.vote(winner, box)} in {box.path}."
        except SmidgenError as error:
            if duel is None or duel.ballot is None:
                return {said: status(str(error), is_error=True)}
            kept = "The first vote on two answers counts; later ones are not kept."
        assert duel.ballot is not None
        a, b, choice = *duel.models, _CHOICES[cast(Winner, duel.ballot.winner)]
        return {said: status(f"A was {a.name}, B was {b.name}. Your vote: {choice}. {kept}"), **buttons(False)}

    def stop(state: Round) -> None:
        if state.duel is not None:
            state.duel.stop()

    quick: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    prompt.submit(
        ask, [prompt, state, *fields], [prompt, said, *panes, *votes], trigger_mode="once", show_progress="hidden",
        concurrency_limit=None,
    )  # fmt: skip
    prompt.stop(stop, [state], None, **quick)
    for winner, button in zip(_CHOICES, votes, strict=True):
        button.click(partial(vote, winner), [state], [said, *votes], **quick)


def _cut_short(duel: Duel) -> str:
    """Which answers are not whole, and why."""
    reasons = {"max_tokens": f"the longest answer of {duel.settings.max_tokens} tokens", "context": "a full context"}
    ends = [
        f" {letter} ends at {reasons[one.reply.stop]}."
        for letter, one in zip("AB", duel.writings, strict=True)
        if one.reply is not None and one.reply.stop in reasons
    ]
    return "".join(ends)


def _what_happens(shelf: Shelf, box: BallotBox) -> str:
    base = [model.name for model in shelf.given if not model.chats]
    continued = f" {' and '.join(base)}: a base model, which continues the prompt as a text." if base else ""
    return (
        f"{' and '.join(shelf.names[:2])} answer the same prompt, in an order that is drawn.{continued} A vote keeps "
        f"the prompt and both answers in {box.path}; rank the models by them: smidgen arena --votes {as_word(box.path)}"
    )
