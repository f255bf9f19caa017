"""`smidgen run`: one prompt, answered or continued, streaming to stdout."""

import codecs
import json as json_format
import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from smidgen import progress
from smidgen.cli import options
from smidgen.cli.options import (
    KV,
    CtxSize,
    Debug,
    Draft,
    Json,
    Lora,
    Model,
    Quiet,
    Seed,
    System,
    Temperature,
    Template,
    Threads,
    TopK,
    TopP,
    kv_type,
)  # fmt: skip
from smidgen.errors import SmidgenError

if TYPE_CHECKING:
    from smidgen.engines.llama_cpp.engine import LlamaCppEngine
    from smidgen.engines.llama_cpp.reply import Reply

_LONGEST_TEXT = 256  # tokens that are added to a text; an answer has an end of its own
Mode = Literal["chat", "raw"]

Prompt = Annotated[
    str | None, typer.Argument(metavar="[PROMPT]", help="Question, or text to go on with; `-` or nothing: from stdin.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens", "-n", min=1, metavar="N",
        help=f"Longest reply, in tokens.  [default: {_LONGEST_TEXT} where text is continued, no limit for an answer]",
    ),
]  # fmt: skip
Raw = Annotated[bool, typer.Option("--raw", help="Continue the text, also with a model that has a chat template.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help="End the reply at TEXT; repeatable.")]


def command(
    model: Model,
    prompt: Prompt = None,
    raw: Raw = False,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    stop: Stop = None,
    ctx_size: CtxSize = None,
    draft: Draft = None,
    lora: Lora = None,
    template: Template = None,
    threads: Threads = None,
    kv: KV = "f16",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Answer a prompt. A model with a chat template takes it for a person's message; a base model continues the text.

    \b
    Examples:
      smidgen run smollm2-135m-instruct "Why is the sky blue?"
      smidgen run gemma-3-270m "The capital of France is"
      smidgen run smollm2-135m-instruct --raw "Once upon a time" --max-tokens 50 --seed 7
      cat notes.txt | smidgen run smollm2-135m-instruct --system "Sum this up." --temperature 0 --json
    """
    from smidgen.cli.terminal.showing import answer_stdout

    answer_stdout()
    if raw and (system or template):
        raise SmidgenError(f"--raw continues text as it is; leave it out, or {'--system' if system else '--template'}.")
    text = _read_prompt(prompt)
    from smidgen.engines.llama_cpp.engine import Sampling
    from smidgen.running.open import open_engine

    sampling = Sampling(temperature, top_k, top_p, seed, tuple(stop or ()))
    with open_engine(
        model, ctx_size=ctx_size, threads=threads, draft=draft, lora=lora, chatting=bool(system or template),
        template=template, verbose=options.debug_wanted(), kv=kv_type(kv),
    ) as engine:  # fmt: skip
        mode: Mode = "raw" if raw or not engine.facts.has_chat_template else "chat"
        if mode == "chat" and not text.strip():
            raise SmidgenError("the prompt is empty; ask something.")
        if mode == "raw":
            reply = engine.stream(text, max_tokens or _LONGEST_TEXT, sampling)
        else:
            messages = [{"role": "system", "content": system}] if system else []
            reply = engine.chat([*messages, {"role": "user", "content": text}], max_tokens, sampling, template)
        if json:
            _print_json(reply, mode)
            return
        _say_what_is_done(engine, mode, raw, bool(system), template)
        _show(reply)
        _say_how_it_ended(reply, engine.ctx_size, max_tokens)


def _print_json(reply: "Reply", mode: Mode) -> None:
    result = {
        "mode": mode,
        "text": reply.text(),
        "prompt_tokens": reply.prompt_tokens,
        "generated_tokens": reply.generated_tokens,
        "tokens_per_s": reply.tokens_per_s,
        "stop": reply.stop,
    }
    print(json_format.dumps(result))


def _say_what_is_done(engine: "LlamaCppEngine", mode: Mode, raw: bool, system: bool, template: str | None) -> None:
    """A prompt can be meant either way, so it is said how it is taken. raw: as the option says."""
    if mode == "raw":
        progress.say(f"Continuing the text{', by --raw.' if raw else ': this model has no chat template.'}")
        return
    progress.say("Answering as a chat model; --raw continues the text.")
    if system and not engine.takes_system_role(template):
        from smidgen.cli.terminal.talking import NO_SYSTEM_ROLE

        progress.say(NO_SYSTEM_ROLE)


def _show(reply: "Reply") -> None:
    from smidgen.cli.terminal.showing import PlainText, answer_stdout

    shown = PlainText(answer_stdout())
    try:
        for piece in reply:
            shown.piece(piece)
    finally:
        shown.end()


def _say_how_it_ended(reply: "Reply", context: int, max_tokens: int | None) -> None:
    """Where a reply ended because there was no more room, which nobody asked for."""
    if reply.stop == "context":
        progress.say(f"smidgen: the context of {context} tokens is full; --ctx-size makes it larger.")
    elif reply.stop == "max_tokens" and max_tokens is None:
        progress.say(f"smidgen: stopped after {reply.generated_tokens} tokens; --max-tokens N writes more.")


def _read_prompt(prompt: str | None) -> str:
    """The argument, or all of stdin. Raises SmidgenError if there is neither, or if it is not text."""
    if prompt is not None and prompt != "-":
        raw = os.fsencode(prompt)
    elif sys.stdin is None or (prompt is None and sys.stdin.isatty()):
        raise SmidgenError('no prompt: give one, as in `smidgen run MODEL "Why is the sky blue?"`, or pipe it in.')
    else:
        raw = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8).removesuffix(b"\n").removesuffix(b"\r")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SmidgenError(f"the prompt is not UTF-8 text ({error.reason} at byte {error.start}).") from error
