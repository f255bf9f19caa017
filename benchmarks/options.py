"""The options that benchmarks share, and how each of them ends: the result saved, and its table printed."""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import record

_INSTRUCTIONS = {
    "all": {},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}  # what torch is told
TEXTS = "FILE[@START[-END]]"  # how texts are named: see texts.py


def parser_of(doc: str | None, result: str | None = None) -> argparse.ArgumentParser:
    """A parser with what every benchmark is told.

    doc: of the benchmark's module; its first line describes it.  result: file name of the result; None where it follows
    from the other options.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    default = None if result is None else record.RESULTS / result
    parser.add_argument("--output", type=Path, default=default, help="of the result  [default: in results/]")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def add_calibration(parser: argparse.ArgumentParser, tokens: int, of: str = "of calibration") -> None:
    """Text to calibrate on, and how much of it."""
    parser.add_argument("--calibration", nargs="+", required=True, metavar=TEXTS)
    add_tokens(parser, tokens, of)


def add_tokens(parser: argparse.ArgumentParser, tokens: int, of: str) -> None:
    """How many tokens are learned from."""
    parser.add_argument("--tokens", type=int, default=tokens, help=of)


def add_evaluation(parser: argparse.ArgumentParser, tokens: int) -> None:
    """Text to measure on, and how much of it."""
    parser.add_argument("--evaluation", nargs="+", required=True, metavar=TEXTS)
    add_evaluation_tokens(parser, tokens)


def add_evaluation_tokens(parser: argparse.ArgumentParser, tokens: int) -> None:
    """How many tokens of each text are measured on."""
    parser.add_argument("--evaluation-tokens", type=int, default=tokens, help="of each text")


def add_heal(parser: argparse.ArgumentParser) -> None:
    """Whether, and for how long, smidgen trains what it cuts."""
    parser.add_argument("--heal", help="tokens or time that smidgen may train for: see smidgen cut --help")


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Of every random choice."""
    parser.add_argument("--seed", type=int, default=0)


def add_instructions(parser: argparse.ArgumentParser) -> None:
    """Which of the processor's instructions torch may use; llama.cpp still uses all of them."""
    parser.add_argument("--instructions", choices=_INSTRUCTIONS, default="all", help="of the processor, for torch")


def environment_of(instructions: str) -> dict[str, str]:
    """What tells torch so."""
    return _INSTRUCTIONS[instructions]


def result_with(instructions: str, name: str) -> Path:
    """Where a result goes: that with fewer instructions beside that with all of them."""
    return record.RESULTS / (f"{name}.json" if instructions == "all" else f"{name}_{instructions.lower()}.json")


def add_work(parser: argparse.ArgumentParser, what: str, default: str | None = None) -> None:
    """Where files in between go. what: they are, and how large.  default: None for a folder of the system's."""
    parser.add_argument("--work", type=Path, default=None if default is None else Path(default), help=what)


def add_llama_cpp_types(parser: argparse.ArgumentParser) -> None:
    """What llama.cpp's quantizer makes."""
    parser.add_argument("--type", default="IQ4_NL", help="llama.cpp's file type")
    parser.add_argument("--embedding", default="iq4_nl", help="llama.cpp's type for the embedding")


@contextmanager
def work_folder(name: str, inside: Path | None = None) -> Iterator[Path]:
    """A folder that is gone at the end."""
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=inside) as folder:
        yield Path(folder)


def finish(output: Path, result: Mapping[str, Any], table: str) -> None:
    """Save a result, and print its table."""
    record.save(output, result)
    print(table)
