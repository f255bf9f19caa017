"""What a cut may learn from a text, and what is kept aside to measure it on, have nothing in common."""

import pytest

from smidgen.data.held_out import CalibrationText
from smidgen.data.sources import TextSource
from smidgen.data.text import WINDOW, cut_into_windows
from smidgen.errors import SmidgenError
from smidgen.measuring.run import held_out
from tests.data.test_text import ByteTokenizer


def test_what_was_learned_from_is_not_measured_on() -> None:
    text = "".join(f"{number:05d} " for number in range(1000))
    tokenizer = ByteTokenizer()
    windows = cut_into_windows(text, tokenizer)
    learned = CalibrationText.of(TextSource.of("text", text), tokenizer, WINDOW)
    left = held_out(windows, learned.seen)
    assert 0 < len(left) < len(windows)
    for row in left.rows():
        assert tokenizer.decode(row) not in learned.source.text
    assert learned.source.text == "".join(learned.pieces)
    assert (
        [tokenizer.decode(ids) for ids in learned.runs.ids]
        == list(learned.pieces)
        == [tokenizer.decode(ids) for ids in learned.runs_of(tokenizer).ids]
    )


def test_a_text_without_anything_to_learn_is_refused() -> None:
    with pytest.raises(SmidgenError, match="The text de has fewer than 2 tokens: nothing can be learned from it"):
        CalibrationText.of(TextSource.of("de", "x"), ByteTokenizer(), WINDOW)
