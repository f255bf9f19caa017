"""Which part of a text a cut may learn from. The rest stays unseen, so that the result can be measured on that text.

Windows are laid through the text in the original's tokens, and every fifth is kept aside. A model with another
vocabulary gets its windows from the text between those, never from what lies in them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.data.sources import TextSource
from smidgen.data.text import WINDOW, TextTokenizer, choose_windows, cut_into_windows
from smidgen.errors import SmidgenError
from smidgen.shapes import Int

#: Of a text that is given, one window in so many is kept for measuring.
HELD_OUT_EVERY = 5


@dataclass(frozen=True)
class CalibrationText:
    """The part of a text to learn from.

    source: the text, of which only that part is left.  pieces: the runs of it that hang together.
    windows: full windows of it in the original's tokens.  seen: all of them, the short last one (padded) too: what is
    not to be measured on, since the vocabulary is chosen by the whole part.
    """

    source: TextSource
    pieces: tuple[str, ...]
    windows: Int[Tensor, "windows position"]
    seen: Int[Tensor, "all_windows position"]

    @classmethod
    def of(cls, source: TextSource, tokenizer: TextTokenizer, *, whole: bool = False) -> "CalibrationText":
        """tokenizer: the original's.  whole: nothing needs to be kept aside (text that was written for this)."""
        windows = cut_into_windows(source.text, tokenizer)
        if whole:
            return cls(source, (source.text,), windows.full(), windows.ids)
        pieces = tuple(_runs(source.text.encode(), windows.text_bytes.tolist()))
        kept = [place for place in range(len(windows)) if not _is_held_out(place)]
        part = TextSource.of(source.name, "".join(pieces), source.path, source.language)
        learned = windows.take(kept)
        return cls(part, pieces, learned.full(), learned.ids)

    def parts(self) -> list[TextSource]:
        """The runs of the text that hang together, each as a text."""
        return [TextSource.of(self.source.name, piece, self.source.path, self.source.language) for piece in self.pieces]

    def windows_of(self, tokenizer: TextTokenizer) -> Int[Tensor, "windows position"]:
        """The same text in the tokens of a model with another vocabulary."""
        return torch.cat([cut_into_windows(piece, tokenizer).full() for piece in self.pieces])


def _is_held_out(place: int) -> bool:
    return place % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def _runs(text: bytes, sizes: Sequence[int]) -> Iterator[str]:
    """The text between the windows that are kept aside. sizes: bytes of each window, end to end."""
    start = stop = 0
    for place, size in enumerate(sizes):
        if _is_held_out(place):
            yield text[start:stop].decode()
            start = stop + size
        stop += size
    if stop > start:
        yield text[start:stop].decode()


def calibration_windows(
    parts: Sequence[Int[Tensor, "_windows position"]], tokens: int, seed: int
) -> Int[Tensor, "windows position"]:
    """About `tokens` tokens of several texts' windows, each giving an equal share, spread evenly through each.

    Raises SmidgenError where there is not one window.
    """
    share = -(-tokens // (len(parts) * WINDOW))
    windows = torch.cat([part[choose_windows(len(part), share, seed)] for part in parts])
    if not len(windows):
        raise SmidgenError(
            "The calibration text has fewer than 512 tokens. Give more, or leave out --text to let the model write."
        )
    return windows
