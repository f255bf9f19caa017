"""Full windows drawn from several texts, to calibrate on, and how many tokens of each text they hold.

Calibration computes on windows of one length without padding. Of each text as many tokens are drawn as of any other,
spread evenly through it. A text that has fewer gives all it has, and the others the rest.

No token is out of reach. A window begins at any token, also inside a character. Through a stretch of text the windows
lie end to end, and the last of them ends where the stretch ends, so that it shares some tokens with the one before it.
Stretches that are shorter than a window are packed into windows, an empty line between them; what is left over in the
last of these is filled up with other text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from smidgen.data.text import TextTokenizer, beginning, choose_windows
from smidgen.errors import SmidgenError
from smidgen.shapes import Int

_BETWEEN = "\n\n"  # packed stretches, as between documents of any text


@dataclass(frozen=True)
class Runs:
    """The tokens of a text in stretches that hang together, BOS not among them.  name: of the text."""

    name: str
    ids: tuple[list[int], ...]

    @property
    def tokens(self) -> int:
        """Of all stretches."""
        return sum(map(len, self.ids))


@dataclass(frozen=True)
class Used:
    """Of one text: the tokens that windows hold, each counted once, those that there are, and those wanted of it."""

    text: str
    tokens: int
    available: int
    share: int

    @property
    def too_short(self) -> bool:
        """Whether the text has fewer tokens than were wanted of it."""
        return self.available < self.share


@dataclass(frozen=True)
class Drawn:
    """windows: full ones, BOS included.  used: what they hold of each text."""

    windows: Int[Tensor, "windows position"]
    used: list[Used]


def draw(texts: Sequence[Runs], tokens: int, length: int, tokenizer: TextTokenizer, seed: int) -> Drawn:
    """About `tokens` tokens in windows of `length`: the same arguments, the same choice.

    Raises SmidgenError where all texts together do not fill one window.
    """
    bos, between = beginning(tokenizer), tokenizer.encode(_BETWEEN)
    room, share = length - len(bos), -(-tokens // (len(texts) * length))
    every = np.array([*chain.from_iterable(chain.from_iterable(text.ids for text in texts)), *between], dtype=np.int64)
    ends = np.cumsum([text.tokens for text in texts])
    laid = [_lay(text, end - text.tokens, room) for text, end in zip(texts, ends.tolist(), strict=True)]
    quotas = _quotas([one.most for one in laid], share * len(texts))
    rows = list(chain.from_iterable(one.chosen(quota, seed) for one, quota in zip(laid, quotas, strict=True)))
    short = [place for one, quota in zip(laid, quotas, strict=True) if quota == one.most for place in one.short]
    rows += _pack(short, np.arange(ends[-1], len(every)), room, _filling(laid, rows))
    if not rows:
        raise SmidgenError(
            f"The calibration text has fewer than {length} tokens. "
            "Give more, or leave out --text to let the model write."
        )
    places = np.stack(rows)
    begun = np.tile(np.array(bos, dtype=np.int64), (len(rows), 1))
    held = np.bincount(np.searchsorted(ends, np.unique(places), "right"), minlength=len(texts))[: len(texts)]
    used = [
        Used(text.name, count, text.tokens, -(-tokens // len(texts)))
        for text, count in zip(texts, held.tolist(), strict=True)
    ]
    return Drawn(torch.from_numpy(np.concatenate([begun, every[places]], axis=1)), used)


_Places = Int[np.ndarray, " places"]  # of tokens, in all texts laid end to end


@dataclass(frozen=True)
class _Laid:
    """A text as windows.  short: stretches that do not fill one."""

    windows: list[_Places]
    short: list[_Places]

    @property
    def most(self) -> int:
        """Windows that the text can give, its short stretches counted as one."""
        return len(self.windows) + bool(self.short)

    def chosen(self, quota: int, seed: int) -> list[_Places]:
        """So many of the full windows, spread evenly; all, if there are no more."""
        return [self.windows[place] for place in choose_windows(len(self.windows), quota, seed)]


def _lay(text: Runs, start: int, room: int) -> _Laid:
    laid = _Laid([], [])
    for ids in text.ids:
        stop = start + len(ids)
        if len(ids) >= room:
            begins = [*range(start, stop - room, room), stop - room]
            laid.windows.extend(np.arange(begin, begin + room) for begin in begins)
        elif ids:
            laid.short.append(np.arange(start, stop))
        start = stop
    return laid


def _quotas(most: Sequence[int], rows: int) -> list[int]:
    """How many of `rows` windows each text gives: as many as any other, or all that it has; `most` says how many."""
    quotas = [0] * len(most)
    for left, place in zip(range(len(most), 0, -1), sorted(range(len(most)), key=lambda one: most[one]), strict=True):
        quotas[place] = min(most[place], -(-rows // left))
        rows -= quotas[place]
    return quotas


def _pack(short: Sequence[_Places], between: _Places, room: int, filling: _Places) -> list[_Places]:
    """Short stretches end to end in full windows.  filling: more text for the last of them."""
    if not short:
        return []
    stream = np.concatenate([part for stretch in short for part in (stretch, between)])
    stream = stream[: len(stream) - len(between)]
    missing = -len(stream) % room
    if missing and len(filling):
        stream = np.concatenate([stream, between, filling])[: len(stream) + missing]
    rows = [stream[at : at + room] for at in range(0, len(stream) - room + 1, room)]
    if missing and not len(filling) and len(stream) > room:
        rows.append(stream[-room:])
    return rows


def _filling(laid: Sequence[_Laid], rows: Sequence[_Places]) -> _Places:
    """A window's tokens that no window has yet, of the text that has most of them; else of any."""
    taken = {int(row[0]) for row in rows}
    free = [[window for window in one.windows if int(window[0]) not in taken] for one in laid]
    best = max(free, key=len)
    if best:
        return best[0]
    return rows[-1] if rows else np.zeros(0, dtype=np.int64)
