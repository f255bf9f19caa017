"""`smidgen chat`: a conversation on the terminal, or message by message from a pipe."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smidgen import progress
from smidgen.cli import options
from smidgen.cli.options import (
    KV,
    CtxSize,
    Debug,
    Draft,
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
from smidgen.shell import path_of

if TYPE_CHECKING:
    from smidgen.cli.terminal.talking import Asking

MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", "-n", min=1, metavar="N", help="Longest answer, in tokens.  [default: no limit]"),
]
Plain = Annotated[bool, typer.Option("--plain", help="Show answers as they are written, not as rendered Markdown.")]
History = Annotated[
    Path | None,
    typer.Option(
        "--history", metavar="FILE", parser=path_of, help="Keep what you type in FILE.  [default: in memory only]"
    ),
]


def command(
    model: Model,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    ctx_size: CtxSize = None,
    draft: Draft = None,
    lora: Lora = None,
    template: Template = None,
    threads: Threads = None,
    kv: KV = "f16",
    plain: Plain = False,
    history: History = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Talk with a model. It remembers the conversation until /clear; /help shows all commands.

    A pasted text is one message. Ctrl-C stops an answer, Ctrl-D leaves. From a pipe each line is a message, or the
    lines between \"\"\" and \"\"\"; a whole file as one message is what `smidgen run` takes.

    \b
    Examples:
      smidgen chat smollm2-135m-instruct
      smidgen chat smollm2-135m-instruct --system "Answer in one sentence."
      echo "Why is the sky blue?" | smidgen chat smollm2-135m-instruct --temperature 0
    """
    from smidgen.cli.terminal.showing import answer_stdout

    answer_stdout()
    interactive = sys.stdin is not None and sys.stdin.isatty()
    with _terminal_given_back() if interactive else nullcontext():
        from smidgen.cli.terminal.talking import NO_SYSTEM_ROLE, Talk
        from smidgen.engines.llama_cpp.engine import Sampling
        from smidgen.running.conversation import Conversation
        from smidgen.running.open import open_engine

        asking = _asking(interactive, history)
        sampling = Sampling(temperature, top_k, top_p, seed)
        with open_engine(
            model, ctx_size=ctx_size, threads=threads, draft=draft, lora=lora, chatting=True, template=template,
            verbose=options.debug_wanted(), kv=kv_type(kv),
        ) as engine:  # fmt: skip
            conversation = Conversation(engine, sampling, max_tokens, system, template)
            if system and not conversation.has_system_role:
                progress.say(NO_SYSTEM_ROLE)
            if interactive:
                progress.say(f"The context is {engine.ctx_size} tokens. /help lists the commands, Ctrl-D leaves.")
            Talk(conversation, asking, Path(model).name if Path(model).exists() else model, interactive, plain).run()


def _asking(interactive: bool, history: Path | None) -> "Asking":
    if interactive:
        from smidgen.cli.terminal.keyboard import TypedMessages

        return TypedMessages(history)
    if history is not None:
        raise SmidgenError("--history keeps what is typed at a terminal; messages come from a pipe here.")
    from smidgen.cli.terminal.piped import PipedMessages

    return PipedMessages()


@contextmanager
def _terminal_given_back() -> Iterator[None]:
    """Keys wait from the start, and the terminal is as it was also after a signal that ends the program."""
    from smidgen.cli.terminal.keyboard import keys_wait

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)
    with keys_wait():
        yield
