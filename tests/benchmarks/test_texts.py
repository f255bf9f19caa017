"""Pieces of text: where they begin, how long they are, and that overlap is refused."""

import hashlib
from pathlib import Path

import pytest

from benchmarks import texts
from smidgen.errors import SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.model.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(smollm_path: Path) -> Tokenizer:
    with GGUFFile.open(smollm_path) as file:
        return Tokenizer.from_gguf(file.metadata)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{n}: {hashlib.sha256(bytes([n])).hexdigest()}\n" for n in range(200)))
    return path


def test_pieces_of_one_file_do_not_overlap(lines: Path, tokenizer: Tokenizer) -> None:
    first = texts.take([str(lines)], 300, tokenizer)
    second = texts.take([f"{lines}@0.5"], 300, tokenizer)
    assert first.text.startswith("0: ") and second.text.startswith("10")
    assert 300 <= len(first.ids) < 400
    assert first.sources[0]["file"] == "lines.txt" and second.sources[0]["from"] == 0.5
    assert texts.refuse_overlap(second, first) == 0
    with pytest.raises(SmidgenError, match="of the evaluation text is in the calibration text"):
        texts.refuse_overlap(first, first)


def test_too_short_a_file_is_refused(lines: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(SmidgenError, match="fewer than 100000 tokens"):
        texts.take([str(lines)], 100_000, tokenizer)
