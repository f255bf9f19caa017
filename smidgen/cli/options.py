"""The options that commands share, so that they read and behave alike.

    def command(model: Model, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None: ...

`quiet` and `debug` act when they are parsed; a command declares them and need not look at them.
"""

from pathlib import Path
from typing import Annotated, Protocol, cast

import typer

from smidgen import progress
from smidgen.bounds import one_of
from smidgen.model.kept import KV_TYPES, KVType
from smidgen.shell import path_of

MODEL_HELP = (
    "Catalogue name (see `smidgen models`), .gguf file, folder (of a cut, or in Hugging Face layout), or repository on "
    "the Hugging Face hub: org/name, org/name@revision, org/name:Q4_K_M."
)
#: Of all commands, though some could do with more: llama.cpp's seeds have 32 bits, and 2^32 - 1 is its word for "any".
LARGEST_SEED = 2**32 - 2

_debug = False


def debug_wanted() -> bool:
    """Whether `--debug` was given: show tracebacks, and the engine's own log."""
    return _debug


def _set_debug(value: bool) -> bool:
    global _debug
    _debug = _debug or value
    return value


def _set_quiet(value: bool) -> bool:
    if value:
        progress.set_quiet(True)
    return value


def comma_list(text: str | None) -> tuple[str, ...]:
    """What commas separate: `"de, en"` → `("de", "en")`."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


class Result(Protocol):
    """What a verb of the long kind returns."""

    def to_json(self) -> str:
        """One JSON object."""
        ...

    def describe(self) -> str:
        """What a person wants to know at the end."""
        ...


def show(result: Result, json: bool) -> None:
    """Print a result for a program or a person."""
    print(result.to_json() if json else result.describe())


Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
Draft = Annotated[
    str | None,
    typer.Option(
        "--draft", metavar="MODEL", help="Smaller model of the same vocabulary that proposes tokens, for speed."
    ),
]


System = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="Instruction that a chat model sees first.")
]
Template = Annotated[
    str | None,
    typer.Option("--template", metavar="NAME", help="One of the model's chat templates, where it has several."),
]
Lora = Annotated[
    Path | None,
    typer.Option(
        "--lora", metavar="ADAPTER", parser=path_of, help="Adapter of `smidgen tune`: its folder, or an adapter.gguf."
    ),
]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="DIR", parser=path_of, help="Folder for the result.", show_default=False),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the same run was interrupted or killed.")]
EverySeed = Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, metavar="N", help="Of every random choice.")]
GivenSeed = Annotated[  # the same where it matters whether it was given
    int | None,
    typer.Option("--seed", min=0, max=LARGEST_SEED, metavar="N", help="Of every random choice.  [default: 0]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="No progress, no notes.")]
Debug = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Show a traceback when something fails.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=512, metavar="N", help="CPU threads.  [default: the physical cores]"),
]
CtxSize = Annotated[
    int | None,
    typer.Option(
        "--ctx-size", min=16, metavar="N", help="Context in tokens.  [default: the model's own, at most 4096]"
    ),
]
KV = Annotated[
    str,
    typer.Option(
        "--kv",
        metavar="f16|q8_0|q4_0",
        help="How keys and values of the context are kept: q8_0 takes about half the memory of f16, q4_0 about a "
        "quarter; `smidgen measure --kv` tells what they cost.",
    ),
]


def kv_type(text: str) -> KVType:
    """Raises SmidgenError for what is no such type."""
    one_of("--kv", text, KV_TYPES)
    return cast("KVType", text)


Temperature = Annotated[
    float | None,
    typer.Option("--temperature", min=0, metavar="T", help="0 takes the likeliest token always.  [default: 0.8]"),
]
TopK = Annotated[
    int | None, typer.Option("--top-k", min=0, metavar="K", help="Draw from the K likeliest; 0 for all.  [default: 40]")
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", min=0, max=1, metavar="P", help="Draw from the likeliest that make up P.  [default: 0.95]"),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, max=LARGEST_SEED, metavar="N", help="Fix the draw.  [default: random]"),
]

Port = Annotated[int, typer.Option("--port", min=0, max=65535, metavar="PORT", help="Port; 0 takes a free one.")]

_TOGETHER = "More than one process"
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, max=4096, metavar="N", rich_help_panel=_TOGETHER,
        help="Processes that share every batch.  [default: 1; with --ray 2]",
    ),
]  # fmt: skip
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="ADDRESS", rich_help_panel=_TOGETHER,
        help="Start them on this Ray cluster: auto, HOST:PORT, ray://HOST:PORT; local for a new one.",
    ),
]  # fmt: skip
