"""`smidgen chat`: a conversation on the terminal, or line by line from a pipe."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from smidgen import progress
from smidgen.cli import options
from smidgen.cli.options import (
    CtxSize,
    Debug,
    Draft,
    Lora,
    Model,
    Quiet,
    Seed,
    Temperature,
    Template,
    Threads,
    TopK,
    TopP,
)  # fmt: skip
from smidgen.errors import EngineEnded, SmidgenError

if TYPE_CHECKING:
    from smidgen.engines.llama_cpp.engine import LlamaCppEngine, Message, Reply, Sampling

System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="Instruction the model sees first.")]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", "-n", min=1, metavar="N", help="Longest reply, in tokens.  [default: no limit]"),
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
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Talk with a model on the terminal. It remembers the conversation until /reset.

    Type /exit or Ctrl-D to leave, /reset to start over; Ctrl-C stops a reply. Piped lines are taken one by one.

    \b
    Examples:
      smidgen chat smollm2-135m-instruct
      smidgen chat smollm2-135m-instruct --system "Answer in one sentence."
      echo "Why is the sky blue?" | smidgen chat smollm2-135m-instruct --temperature 0
    """
    from smidgen.engines.llama_cpp.engine import Sampling
    from smidgen.running.open import open_engine

    sampling = Sampling(temperature, top_k, top_p, seed)
    with open_engine(
        model, ctx_size=ctx_size, threads=threads, draft=draft, lora=lora, chatting=True, template=template,
        verbose=options.debug_wanted(),
    ) as engine:  # fmt: skip
        _Conversation(engine, sampling, max_tokens, system, template).run()


class _Conversation:
    """The messages so far and the loop that adds to them."""

    def __init__(
        self, engine: "LlamaCppEngine", sampling: "Sampling", max_tokens: int | None, system: str | None,
        template: str | None,
    ) -> None:  # fmt: skip
        self._engine, self._sampling, self._max_tokens, self._template = engine, sampling, max_tokens, template
        self._start: list[Message] = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._start)
        self._interactive = sys.stdin.isatty()

    def run(self) -> None:
        if self._interactive:
            progress.say("Type a message; /reset starts over, /exit leaves, Ctrl-C stops a reply.")
        for line in self._lines():
            if line == "/exit":
                return
            if line == "/reset":
                self._messages = list(self._start)
                progress.say("The conversation starts over.")
            elif line.startswith("/") and self._interactive:
                progress.say(f"There is no {line.split()[0]}; /reset and /exit are all.")
            elif line:
                self._answer(line)

    def _lines(self) -> Iterator[str]:
        while True:
            try:
                line = _ask() if self._interactive else sys.stdin.readline()
            except EOFError:
                print()
                return
            except UnicodeDecodeError as error:
                raise SmidgenError(f"a line on stdin is not UTF-8 text ({error.reason}).") from error
            if not line and not self._interactive:
                return
            yield line.strip()

    def _answer(self, line: str) -> None:
        """Print the reply to `line` as it comes. A message that does not fit is taken back, on a terminal."""
        messages: list[Message] = [*self._messages, {"role": "user", "content": line}]
        try:
            reply = self._engine.chat(messages, self._max_tokens, self._sampling, self._template)
            pieces = self._show(reply)
        except SmidgenError as error:
            if not self._interactive:
                raise
            advice = "" if isinstance(error, EngineEnded) else " Or /reset the conversation."
            progress.say(f"smidgen: {error}{advice}")
            return
        print()
        if reply.stop == "context":
            progress.say(f"smidgen: the context of {self._engine.ctx_size} tokens is full; /reset, or use --ctx-size.")
        self._messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]

    def _show(self, reply: "Reply") -> list[str]:
        """Print a reply as it comes; its pieces, up to Ctrl-C."""
        pieces: list[str] = []
        try:
            for piece in reply:
                pieces.append(piece)
                options.show_piece(piece)
        except KeyboardInterrupt:
            reply.close()
            if not self._interactive:
                raise
        except SmidgenError:
            print()  # the line that says why stands alone
            raise
        return pieces


def _ask() -> str:
    """One line from the terminal, with the usual line editing where Python has it; Ctrl-C at the prompt leaves."""
    try:
        import readline  # noqa: F401  (importing it gives input() line editing and history)
    except ImportError:
        pass
    return input("> ") or " "
