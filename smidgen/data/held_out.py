"""Which part of a text a cut may learn from. The rest stays unseen, so that the result can be measured on that text.

Windows are laid through the text in the original's tokens, and every fifth is kept aside. A model with another
vocabulary gets its windows from the text between those, never from what lies in them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from torch import Tensor

from smidgen.data.drawing import Runs
from smidgen.data.sources import TextSource
from smidgen.data.text import TextTokenizer, beginning, cut_into_windows
from smidgen.errors import SmidgenError, printable
from smidgen.shapes import Int

#: Of a text that is given, one window in so many is kept for measuring.
HELD_OUT_EVERY = 5

_FEWEST = 2  # tokens of which one can be predicted


@dataclass(frozen=True)
class CalibrationText:
    """The part of a text to learn from.

    source: the text, of which only that part is left.  pieces: the stretches of it that hang together.
    runs: these in the original's tokens.  seen: all windows of them (the short ones padded): what is not to be measured
    on, since the vocabulary is chosen by the whole part.
    """

    source: TextSource
    pieces: tuple[str, ...]
    runs: Runs
    seen: Int[Tensor, "all_windows position"]

    @classmethod
    def of(cls, source: TextSource, tokenizer: TextTokenizer, length: int, *, whole: bool = False) -> "CalibrationText":
        """tokenizer: the original's.  length: of a window.  whole: nothing needs to be kept aside (text that was
        written for this).

        Raises SmidgenError for a text that has nothing to learn from.
        """
        windows = cut_into_windows(source.text, tokenizer, length)
        if windows.text_tokens < _FEWEST:
            raise SmidgenError(
                f"The text {printable(source.name)} has fewer than {_FEWEST} tokens: nothing can be learned from it. "
                "Give a longer one, or leave it out."
            )
        skipped = len(beginning(tokenizer))
        rows = [row[skipped:] for row in windows.rows()]
        if whole:
            return cls(source, (source.text,), Runs(source.name, (_joined(rows),)), windows.ids)
        pieces = tuple(_pieces(source.text.encode(), windows.text_bytes.tolist()))
        part = TextSource.of(source.name, "".join(pieces), source.path, source.language)
        kept = [place for place in range(len(windows)) if not _is_held_out(place)]
        stretches = [rows[at : at + HELD_OUT_EVERY - 1] for at in range(0, len(rows), HELD_OUT_EVERY)]
        return cls(part, pieces, Runs(source.name, tuple(map(_joined, stretches))), windows.take(kept).ids)

    def parts(self) -> list[TextSource]:
        """The pieces of the text, each as a text."""
        return [TextSource.of(self.source.name, piece, self.source.path, self.source.language) for piece in self.pieces]

    def runs_of(self, tokenizer: TextTokenizer) -> Runs:
        """The same text in the tokens of a model with another vocabulary."""
        return Runs(self.source.name, tuple(tokenizer.encode(piece) for piece in self.pieces))


def _joined(rows: Sequence[list[int]]) -> list[int]:
    return list(chain.from_iterable(rows))


def _is_held_out(place: int) -> bool:
    return place % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def _pieces(text: bytes, sizes: Sequence[int]) -> Iterator[str]:
    """The text between the windows that are kept aside. sizes: bytes of each window, end to end."""
    start = stop = 0
    for place, size in enumerate(sizes):
        if _is_held_out(place):
            yield text[start:stop].decode()
            start = stop + size
        stop += size
    if stop > start:
        yield text[start:stop].decode()
