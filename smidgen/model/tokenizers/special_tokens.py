"""Cutting text at special tokens, longest token first.

llama.cpp (tokenizer_st_partition in src/llama-vocab.cpp) takes the special tokens by falling length in
bytes and cuts out every occurrence of one before it looks for the next. That is not the leftmost match
which regular expressions and Aho-Corasick automata find: in "<<a>>>" with the tokens "<<a" and "a>>>" the
longer one wins, although it begins later. So here, too, all occurrences are settled in the order of their
lengths. (Among tokens of one length llama.cpp's order is that of an unstable sort; here the leftmost wins.)

Cost: one scan of the text, then for each place where a special token begins one look-up for each length that
tokens with the same first characters have, nearly always one or two.
"""

import re
from collections import defaultdict
from collections.abc import Iterator

PREFIX = 8  # characters by which the scan recognises where a special token may begin


class SpecialTokens:
    """A set of tokens that are cut out of text before anything else happens to it."""

    def __init__(self, ids: dict[str, int]):
        """ids: token text → id; the texts are not empty."""
        self._ids = ids
        self._lengths: dict[str, list[tuple[int, int]]] = _lengths_by_prefix(ids)
        self._begin = _prefix_pattern(self._lengths)

    def split(self, text: str) -> Iterator[str | int]:
        """The text in order, as token ids and the stretches between them (never empty)."""
        done = 0
        for start, stop in sorted(self._chosen(text)):
            if start > done:
                yield text[done:start]
            yield self._ids[text[start:stop]]
            done = stop
        if done < len(text):
            yield text[done:]

    def _chosen(self, text: str) -> list[tuple[int, int]]:
        """The (start, stop) that are cut out: the longest first, then the leftmost, none overlapping."""
        waiting: dict[int, list[tuple[int, int, str]]] = defaultdict(list)  # by length in bytes

        def wait(start: int, prefix: str, below: int | None) -> None:
            """Let the longest token at `start` (with fewer bytes than `below`) wait for its turn."""
            for size, length in self._lengths[prefix]:
                if (below is None or size < below) and text[start : start + length] in self._ids:
                    waiting[size].append((start, start + length, prefix))
                    return

        for match in self._begin.finditer(text):
            wait(match.start(), match[1], None)
        taken = bytearray(len(text))
        chosen = []
        while waiting:
            size = max(waiting)
            for start, stop, prefix in sorted(waiting.pop(size)):
                if taken[start]:
                    continue
                if taken.find(1, start, stop) >= 0:
                    wait(start, prefix, size)
                    continue
                taken[start:stop] = b"\1" * (stop - start)
                chosen.append((start, stop))
        return chosen


def _lengths_by_prefix(texts: dict[str, int]) -> dict[str, list[tuple[int, int]]]:
    """By the first characters of each token: the (bytes, characters) of all tokens that fit them, longest first."""
    lengths: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for text in texts:
        lengths[text[:PREFIX]].add(_sizes(text))
    for prefix, found in lengths.items():
        found.update(_sizes(prefix[:n]) for n in range(1, len(prefix)) if prefix[:n] in texts)
    return {prefix: sorted(found, reverse=True) for prefix, found in lengths.items()}


def _sizes(text: str) -> tuple[int, int]:
    return len(text.encode()), len(text)


def _prefix_pattern(prefixes: dict[str, list[tuple[int, int]]]) -> re.Pattern[str]:
    """Finds every place where one of `prefixes` stands, overlaps included; group 1 is the longest one there."""
    rests: dict[str, list[str]] = defaultdict(list)  # by first character, which makes the scan several times faster
    for prefix in sorted(prefixes, key=len, reverse=True):
        rests[prefix[0]].append(re.escape(prefix[1:]))
    branches = (f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in rests.items())
    return re.compile(f"(?=({'|'.join(branches)}))") if prefixes else re.compile("(?!)")
