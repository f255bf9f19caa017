"""Calibration and evaluation text for benchmarks: which piece of which file, and proof that they do not overlap.

A piece is written `FILE` (from its beginning) or `FILE@0.5` (from the first line after half of it), `FILE@0.2-0.5` with
its end. Texts are named in results by file name and sha256, never by folder.

    python -m benchmarks.texts model.gguf piece.txt --tokens 16384 FILE[@START] …

writes a piece and prints what it is as JSON: for benchmarks that must not load a tokenizer themselves.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from smidgen.data.sources import read_text
from smidgen.data.text import overlap
from smidgen.errors import SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.model.tokenizer import Tokenizer

_HIGHEST_OVERLAP = 0.01  # share of 8-token runs; encyclopedias repeat phrases, and markup


class InTokens(Protocol):
    """Any text as tokens."""

    @property
    def ids(self) -> list[int]: ...


@dataclass(frozen=True)
class Piece:
    """A stretch of text of a known number of tokens, and where it comes from."""

    text: str
    ids: list[int]
    sources: list[dict[str, Any]]

    @property
    def description(self) -> dict[str, Any]:
        """For results."""
        known = hashlib.sha256(self.text.encode()).hexdigest()
        return {"tokens": len(self.ids), "sha256": known, "sources": self.sources}

    def write(self, path: Path) -> Path:
        """As a UTF-8 file, for programs that read files."""
        path.write_text(self.text, encoding="utf-8", newline="")
        return path


@dataclass(frozen=True)
class Stretch:
    """A piece of a file as it was asked for.

    start: characters of the file before it.  described: for results.
    """

    text: str
    start: int
    described: dict[str, Any]


def stretch_of(argument: str) -> Stretch:
    """What `FILE[@START[-END]]` means, in whole lines."""
    name, at, between = argument.rpartition("@")
    path, shares = (name, between.split("-")) if at and not Path(argument).exists() else (argument, ["0"])
    source = read_text(path)
    first, last = float(shares[0]), float(shares[1]) if len(shares) > 1 else 1.0
    start = line_after(source.text, first)
    stop = line_after(source.text, last) if last < 1 else len(source.text)
    said = {"file": Path(path).name, "sha256": source.sha256, "from": first} | ({"to": last} if last < 1 else {})
    return Stretch(source.text[start:stop], start, said)


def take(arguments: Sequence[str], tokens: int, tokenizer: Tokenizer) -> Piece:
    """`tokens` tokens, the same number from each `FILE[@START[-END]]`. Raises SmidgenError where a file has too few."""
    share = -(-tokens // len(arguments))
    texts, sources = [], []
    for argument in arguments:
        stretch = stretch_of(argument)
        text = _first_tokens(stretch.text, share, tokenizer)
        if text is None:
            raise SmidgenError(f"{argument} has fewer than {share} tokens; give more or longer files.")
        texts.append(text)
        sources.append({**stretch.described, "characters": len(text)})
    text = "\n".join(texts)
    return Piece(text, tokenizer.encode(text), sources)


def refuse_overlap(calibration: InTokens, evaluation: InTokens) -> float:
    """The share of the evaluation text's runs of 8 tokens that the calibration text holds; SmidgenError if over 1%."""
    share = overlap([calibration.ids], [evaluation.ids])
    if share > _HIGHEST_OVERLAP:
        raise SmidgenError(f"{share:.1%} of the evaluation text is in the calibration text; choose other pieces.")
    return share


def line_after(text: str, fraction: float) -> int:
    """Where the first line begins after this share of a text."""
    return text.find("\n", int(len(text) * fraction)) + 1 if fraction else 0


def _first_tokens(text: str, tokens: int, tokenizer: Tokenizer) -> str | None:
    """The shortest run of whole lines with at least `tokens` tokens."""
    taken, count = [], 0
    for line in text.splitlines(keepends=True):
        taken.append(line)
        count += len(tokenizer.encode(line))
        if count >= tokens:
            return "".join(taken)
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="GGUF file whose tokenizer counts")
    parser.add_argument("destination", type=Path)
    parser.add_argument("files", nargs="+", metavar="FILE[@START]")
    parser.add_argument("--tokens", type=int, required=True)
    options = parser.parse_args(arguments)
    with GGUFFile.open(options.model) as file:
        piece = take(options.files, options.tokens, Tokenizer.from_gguf(file.metadata))
    piece.write(options.destination)
    print(json.dumps(piece.description))


if __name__ == "__main__":
    main()
