"""Both sides of a comparison calibrate on the same text.

smidgen keeps every fifth window of a text that it is given for its own report card, and draws full windows out of the
rest. What it draws is written to a file here, and that is what llama-imatrix gets. Both files go into the result by
their sha256.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import llama_cpp_tools, record, texts
from benchmarks.artefacts import Shelf, sha256
from smidgen.data.drawing import draw
from smidgen.data.held_out import HELD_OUT_EVERY, CalibrationText
from smidgen.data.sources import read_text
from smidgen.data.text import WINDOW, beginning
from smidgen.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Calibration:
    """given: file for `smidgen cut --text`.  piece: what is in it.  learned: file with what smidgen calibrates on."""

    given: Path
    piece: texts.Piece
    learned: Path

    @property
    def description(self) -> dict[str, Any]:
        """For results."""
        return {**self.piece.description, "calibrated_on": {"sha256": sha256(self.learned)}}


def same_for_both(
    arguments: Sequence[str], tokens: int, tokenizer: Tokenizer, folder: Path, seed: int, given: int | None = None
) -> Calibration:
    """Text of which smidgen calibrates on `tokens` tokens, and these alone.

    given: tokens that it gets, to heal on; None for as many as calibration needs.
    """
    needed = (tokens + 2 * WINDOW) * HELD_OUT_EVERY // (HELD_OUT_EVERY - 1)
    piece = texts.take(arguments, needed if given is None else max(given, needed), tokenizer)
    known = piece.description["sha256"][:16]
    path = piece.write(folder / f"given-{known}.txt")
    text = CalibrationText.of(read_text(path), tokenizer, WINDOW)
    skipped = len(beginning(tokenizer))
    windows = draw([text.runs], tokens, WINDOW, tokenizer, seed).windows
    learned = folder / f"learned-{known}-{tokens}-{seed}.txt"
    learned.write_text(
        "\n".join(tokenizer.decode(row[skipped:]) for row in windows.tolist()), encoding="utf-8", newline=""
    )
    return Calibration(path, piece, learned)


def make_imatrix(
    options: argparse.Namespace, tools: llama_cpp_tools.Tools, shelf: Shelf, calibration: Path
) -> tuple[Path, str]:
    """llama-imatrix on a text (BOS at the start of each chunk, as the model's metadata asks), and its command.

    options: with `original`, `tokens` and `threads`.
    """
    chunks = options.tokens // WINDOW
    path = shelf.path(
        "imatrix", ".gguf", original=sha256(options.original), text=sha256(calibration), chunk=WINDOW, chunks=chunks,
        tool=tools.version(),
    )  # fmt: skip
    unfinished = path.with_name(f"unfinished-{path.name}")  # the tool saves what it has now and then
    command = [
        tools.imatrix, "-m", options.original, "-f", calibration, "-o", unfinished, "-c", str(WINDOW),
        "--chunks", str(chunks), "--no-ppl", "-t", str(options.threads),
    ]  # fmt: skip
    if not path.exists():
        record.run(command, shelf.folder / "llama-imatrix.log")
        unfinished.replace(path)
    return path, record.shown(command)
