"""Evaluation text as articles, some windows of each, so that a benchmark can say how sure it is (bootstrap.py).

A text with headings as in WikiText (` = Title = `) is taken apart at them, and its first articles are used. Any other
text (a novel, program code) is cut into as many equal parts, at lines, and each part counts as an article: the parts
lie far enough apart to depend on each other little. A piece is written as in texts.py; `FILE@0-0.5` is its first half.
Where there are few tokens for an article, only its beginning is read, in a window of so many tokens: many articles say
more about a mean than long ones.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import texts
from smidgen.data.text import WINDOW, Windows, cut_into_windows
from smidgen.errors import SmidgenError
from smidgen.model.tokenizer import Tokenizer

_HEADING = re.compile(r"^ ?= [^=\n]+ = ?$", re.MULTILINE)
_SHORTEST = 64  # tokens of an article
_CHARACTERS_A_TOKEN = 16  # at most; more of an article is not even tokenized


@dataclass(frozen=True)
class Evaluation:
    """Text to measure on.

    windows: of all articles, one after the other.  article_of: the number of each window's article.
    places: characters of its file before each article.  description: for results.
    """

    windows: Windows
    article_of: list[int]
    places: list[int]
    description: dict[str, Any]

    @property
    def ids(self) -> list[int]:
        """All tokens, window after window."""
        return [token for row in self.windows.rows() for token in row]

    def first(self, tokens: int) -> Windows:
        """The windows of a quick look, spread over the articles."""
        count = min(len(self.windows), -(-tokens // self.windows.ids.shape[1]))
        return self.windows.take(torch.linspace(0, len(self.windows) - 1, count).round().long().tolist())


def take(arguments: Sequence[str], articles: int, tokens: int, tokenizer: Tokenizer) -> Evaluation:
    """At least `articles` articles, the same number from each `FILE[@START[-END]]`, with about `tokens` tokens in all.

    Raises SmidgenError where a file has not so many.
    """
    share, length = -(-articles // len(arguments)), max(_SHORTEST + 1, min(WINDOW, tokens // articles))
    each = max(1, round(tokens / articles / length))
    windows: list[Windows] = []
    article_of: list[int] = []
    places: list[int] = []
    sources = []
    for argument in arguments:
        stretch = texts.stretch_of(argument)
        found = 0
        for at, text in _articles(stretch.text, share):
            cut = cut_into_windows(text[: each * length * _CHARACTERS_A_TOKEN], tokenizer, length)
            cut = cut.take(range(min(each, len(cut))))
            if cut.text_tokens < _SHORTEST:
                continue
            windows.append(cut)
            article_of += [len(places)] * len(cut)
            places.append(stretch.start + at)
            found += 1
            if found == share:
                break
        if found < share:
            raise SmidgenError(
                f"{argument} has {found} articles of at least {_SHORTEST} tokens, {share} are needed; give a longer "
                "text, or ask for fewer with --articles."
            )
        sources.append(stretch.described)
    together = _joined(windows)
    known = hashlib.sha256(together.ids.numpy().tobytes()).hexdigest()
    return Evaluation(
        together, article_of, places,
        {"articles": len(places), "tokens": together.text_tokens, "window": length, "sha256_of_ids": known,
         "sources": sources},
    )  # fmt: skip


def _articles(text: str, parts: int) -> Iterator[tuple[int, str]]:
    """Articles and where they begin, first to last; of a text without headings `parts` parts."""
    starts = [heading.start() for heading in _HEADING.finditer(text)]
    if len(starts) < parts:
        starts = [texts.line_after(text, part / parts) for part in range(parts)]
    for start, stop in zip(starts, [*starts[1:], len(text)], strict=True):
        yield start, text[start:stop]


def _joined(parts: Sequence[Windows]) -> Windows:
    """Windows of several texts, one after the other, as if these were one text."""
    width = max(part.ids.shape[1] for part in parts)
    ids = [torch.nn.functional.pad(part.ids, (0, width - part.ids.shape[1])) for part in parts]
    sizes = torch.tensor([0, *(int(part.text_bytes.sum()) for part in parts)]).cumsum(0)
    starts = [part.text_starts + before for part, before in zip(parts, sizes[:-1], strict=True)]
    lengths, text_bytes, first_bytes = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("lengths", "text_bytes", "first_bytes")
    )
    return Windows(torch.cat(ids), lengths, text_bytes, first_bytes, torch.cat(starts), parts[0].has_bos)
