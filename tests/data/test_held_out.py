"""What a cut may learn from a text, and what is kept aside to measure it on, have nothing in common."""

from smidgen.data.held_out import CalibrationText
from smidgen.data.sources import TextSource
from smidgen.data.text import cut_into_windows
from smidgen.measuring.run import held_out
from tests.data.test_text import ByteTokenizer


def test_what_was_learned_from_is_not_measured_on() -> None:
    text = "".join(f"{number:05d} " for number in range(1000))
    tokenizer = ByteTokenizer()
    windows = cut_into_windows(text, tokenizer)
    learned = CalibrationText.of(TextSource.of("text", text), tokenizer)
    left = held_out(windows, learned.seen)
    assert 0 < len(left) < len(windows)
    for row in left.rows():
        assert tokenizer.decode(row) not in learned.source.text
    assert learned.source.text == "".join(learned.pieces)
