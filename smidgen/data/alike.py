"""Which texts are nearly the same, by their tokens: what is measured on must not lie in what is learned.

MinHash with locality-sensitive hashing (Broder 1997, "On the resemblance of documents and containers"; Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, chapter 3), over sets of five consecutive tokens. 14 bands of 8 hashes
as in `data.corpus.duplicates`: two texts that share a part J of their fives (Jaccard) come together with probability

    1 − (1 − J⁸)¹⁴

which is 98.8% at 0.85, 77% at 0.75 and 5% at 0.5. That module keeps signatures on disk and needs datatrove; examples to
tune on fit in memory, and the 112 hashes of a token take NumPy two microseconds or three. Fives that many texts have (a
system prompt, the words of a chat template) make no two of them alike, and do not count.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from smidgen.shapes import Int

_GRAM, _BANDS, _HASHES = 5, 14, 8
_FEW, _SHARE = 8, 0.2  # texts that may have a five, and share of all
_AT_ONCE = 512  # fives of a text that are hashed together: half a megabyte
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as in SplitMix64


class Groups:
    """Which of some things, by their numbers, belong together: sets that are joined (Galler and Fischer 1964)."""

    def __init__(self, count: int) -> None:
        self._first = list(range(count))

    def join(self, one: int, other: int) -> None:
        """These two belong together, with all that belongs to either."""
        one, other = self.first(one), self.first(other)
        self._first[max(one, other)] = min(one, other)

    def first(self, number: int) -> int:
        """The first of those that one belongs to."""
        while self._first[number] != number:
            self._first[number] = self._first[self._first[number]]
            number = self._first[number]
        return number


def groups_of_alike(texts: Sequence[Sequence[int]]) -> Groups:
    """The texts that are equal or nearly the same. texts: tokens.

    What is like a text that is like a third belongs to that, too.
    """
    groups, seen = Groups(len(texts)), dict[tuple[int, bytes], int]()
    for number, fives in enumerate(_own([_fives(np.asarray(text, np.uint64)) for text in texts])):
        for band, key in enumerate(_signature(fives)):
            groups.join(seen.setdefault((band, key.tobytes()), number), number)
    return groups


def _own(texts: list[Int[np.ndarray, " five"]]) -> Iterator[Int[np.ndarray, " five"]]:
    """The fives of each text that few others have; where there are none, one number for all of it."""
    if not texts:
        return
    found, counts = np.unique(np.concatenate(texts), return_counts=True)
    common = found[counts > max(_FEW, _SHARE * len(texts))]
    for fives in texts:
        left = fives[~np.isin(fives, common)]
        yield left if len(left) else _mixed(fives).sum(keepdims=True, dtype=np.uint64)


def _signature(fives: Int[np.ndarray, " five"]) -> Int[np.ndarray, "band hash"]:
    """The smallest value of each hash function over the fives of a text."""
    smallest = np.full(_BANDS * _HASHES, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(fives), _AT_ONCE):
        hashed = fives[start : start + _AT_ONCE, None] * _FACTORS + _SUMMANDS
        smallest = np.minimum(smallest, hashed.min(0))
    return smallest.reshape(_BANDS, _HASHES)


def _fives(ids: Int[np.ndarray, " token"]) -> Int[np.ndarray, " five"]:
    """A number for each five consecutive tokens; one for all of a shorter text."""
    length = min(_GRAM, len(ids))
    numbers = np.zeros(len(ids) - length + 1, np.uint64)
    for place in range(length):
        numbers = _mixed(numbers + ids[place : place + len(numbers)])
    return np.unique(numbers)


def _mixed(values: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """Well mixed bits: SplitMix64 (Steele et al. 2014). Overflow is what it is made of."""
    values = values + _ODD
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


_COUNTED = np.arange(1, 1 + _BANDS * _HASHES, dtype=np.uint64)
_FACTORS, _SUMMANDS = _mixed(_COUNTED) | np.uint64(1), _mixed(_COUNTED * _ODD)  # Dietzfelbinger et al. 1997, section 2
