"""A tokenizer with fewer tokens: which tokens need which others, and the metadata of what is kept. Torch-free.

Both kinds of tokenizer here merge greedily: of all adjacent pairs that make a token the best one is merged, the
leftmost among equals, until no pair does. (SentencePiece ranks a pair by the token that it makes, byte-level BPE by
the pair.) The pieces of a token are what this makes of the token's text while the token itself does not exist; a token
made by merging has two, those of its last merge. A set of tokens is *closed* if it holds the pieces of its tokens.
A closed set with all bytes and the special tokens in use (`Pieces.essential`), ids in their old order, guarantees:

(a) Any text encodes, and decodes to itself. Decoding joins the bytes of tokens, which have not changed, and encoding
    can spell any text: SentencePiece has its 256 byte tokens, byte-level BPE its 256 byte characters.

(b) A text whose tokens are all kept encodes to the same tokens. Take a stretch between special tokens that ends up as
    the tokens w₁ … wₙ. A merge never crosses the border between two of these, since parts only grow. So within wᵢ the
    merges are exactly those that wᵢ's text by itself undergoes: there the same pairs compete, the pairs across its
    borders, which compete in the text, never win, and which of two pairs wins does not depend on what else competes.
    By induction wᵢ is made of its pieces, these of theirs, and all results of merges on the way are in the closure of
    wᵢ and so are kept. Now merge with the kept tokens only: the pairs that may merge are a subset of what they were, in
    the same order of preference, and the winner of each step of before is still among them. So it wins, and every
    step is the same; in the end no pair merges, as none did before. A character that was no token still is none.
    A special token that is not in the text's encoding was chosen nowhere in it, and `SpecialTokens` lets what is not
    chosen block nothing: text is cut at the same places. Words that are tokens as they stand (whole_words) are kept
    if they occur; words that were no token are none now.

Tokens that plain text never becomes (merging leaves their text in several pieces) are closed by these pieces, so that
they do not become reachable. Which token has which role is said by keys, but where no key says, engines and we decide
by the texts of tokens and by first ids (`DEFAULT_IDS`): all tokens on which such a decision falls are essential.

The `tokenizers` library in addition wants every single character of a merge to be a token where it was one: pieces go
down to characters.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import product

import numpy as np

from smidgen.errors import SmidgenError
from smidgen.model.chat import render_chat
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.byte_level import BYTE_CHARACTERS, read_merges
from smidgen.model.tokenizers.sentencepiece import SPACE, SentencePiece
from smidgen.model.tokenizers.special_tokens import SpecialTokens
from smidgen.model.tokenizers.splitting import pre_tokenizer
from smidgen.model.tokenizers.text_rules import STRIP_LEFT, STRIP_RIGHT
from smidgen.model.tokenizers.vocabulary import END_IDS, MetadataValue, TokenKind, Vocabulary, number_array

# By kind of tokenizer: so many first ids mean something where no key says otherwise, here or in llama.cpp (unknown, BOS
# and EOS are 0, 1, 2 for SentencePiece; BOS and EOS are both 11, GPT-2's, for byte-level BPE). They stay in place.
DEFAULT_IDS = {"llama": 3, "gpt2": 12}

_TOKENS, _SCORES, _KINDS = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type"))
_MERGES = "tokenizer.ggml.merges"
_TEMPLATE = "tokenizer.chat_template"
_ID_ARRAYS = (STRIP_LEFT, STRIP_RIGHT, END_IDS, "tokenizer.ggml.suppress_tokens")
_WHOLE_COPIES = ("tokenizer.huggingface.json",)  # of the whole vocabulary in another form: no longer true
# Special tokens that are there for later use, as <unused12>, <|reserved_special_token_3|>, [control_8].
_SPARE = re.compile(r"(?:unused|reserved|spare|extra|dummy|placeholder|special|control)\w*?\d+\W*$", re.IGNORECASE)
# Conversations that a template is asked to write, by the roles of their messages, and what these say: what is written
# whatever they say is the template's own.
_CHATS = (
    ("user",), ("system", "user"), ("user", "assistant"), ("user", "assistant", "user"), ("user", "assistant", "tool"),
    ("system", "user", "assistant", "user"),
)  # fmt: skip
_CONTENTS = ("text", "9")
# What day it is, templates ask for with this name. It has to be the same on every day that a cut is made, so a macro of
# the same name in front of the template answers for it, with days of all months.
_TODAY = "strftime_now"
_MONTHS = "January February March April May June July August September October November December".split()


class Pieces:
    """What every token of a vocabulary is made of.

    of: for each token the ids of its pieces; empty for single characters and for tokens that nothing is merged into.
    reachable: whether some text becomes the token.
    essential: ids that every subset holds.
    """

    def __init__(self, metadata: Mapping[str, MetadataValue]) -> None:
        """Takes about 10 microseconds a token. Raises BadFile and Unsupported as `Tokenizer.from_gguf` does."""
        vocabulary = Vocabulary.from_gguf(metadata)
        sentencepiece = vocabulary.model == "llama"
        made = list(_sentencepiece(vocabulary, metadata) if sentencepiece else _byte_level(vocabulary, metadata))
        ids = vocabulary.ids
        self.of = [tuple(ids[text] for text in texts if text in ids) if len(texts) > 1 else () for texts, _ in made]
        self.reachable = np.array([reachable for _, reachable in made])
        self.reachable[sorted(vocabulary.special)] = True
        self.essential = frozenset(_essential(vocabulary, metadata))

    def __len__(self) -> int:
        return len(self.of)

    def in_order(self, ranked: Iterable[int]) -> Iterator[int]:
        """The ids in this order, each once and after all that it is made of."""
        seen: set[int] = set()
        for wanted in ranked:
            waiting = [wanted]
            while waiting:
                token = waiting[-1]
                missing = [piece for piece in self.of[token] if piece not in seen] if token not in seen else []
                if missing:
                    waiting += missing  # shorter than the token, so this ends
                    continue
                waiting.pop()
                if token not in seen:
                    seen.add(token)
                    yield token

    def closed(self, wanted: Iterable[int]) -> np.ndarray:
        """The smallest closed set with `wanted` and all that is essential, ids ascending."""
        return np.array(sorted(self.in_order([*self.essential, *wanted])), dtype=np.int64)


def subset(
    metadata: Mapping[str, MetadataValue], metadata_types: Mapping[str, tuple[int, ...]], kept: np.ndarray
) -> tuple[dict[str, MetadataValue], dict[str, tuple[int, ...]]]:
    """The keys under `tokenizer.`, with only the tokens `kept` (ids ascending, closed), and their types.

    Whatever holds ids follows: ids that are gone leave the lists they were in. Everything else stays as it is.
    """
    vocabulary = Vocabulary.from_gguf(metadata)
    place = np.full(len(vocabulary), -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    values: dict[str, MetadataValue] = {}
    for key, value in metadata.items():
        if key.startswith("tokenizer.") and key not in _WHOLE_COPIES:
            values[key] = _restricted(key, value, kept, place)
    if isinstance(merges := values.get(_MERGES), list):
        texts = {vocabulary.texts[token] for token in kept.tolist()}
        values[_MERGES] = [line for line in merges if _within(line, texts)]
    return values, {key: metadata_types[key] for key in values}


def _restricted(key: str, value: MetadataValue, kept: np.ndarray, place: np.ndarray) -> MetadataValue:
    """The value of a key once token `i` is at `place[i]`, or gone (-1)."""
    if key == _TOKENS and isinstance(value, list):
        return [value[token] for token in kept.tolist()]
    if key in (_SCORES, _KINDS) and isinstance(value, np.ndarray):
        return value[kept]
    token = _id(key, value, len(place))
    if token is not None:
        return int(place[token])
    if _holds_ids(key) and isinstance(value, np.ndarray):
        # What is no id (some writers put -1 for none) stays as it is.
        inside = (value >= 0) & (value < len(place))
        moved = np.where(inside, place[np.where(inside, value, 0)], value)
        return moved[~inside | (moved >= 0)].astype(value.dtype)
    return value


def _id(key: str, value: MetadataValue, size: int) -> int | None:
    """The token that a key names; None where it names none."""
    if not key.startswith("tokenizer.") or not key.endswith("_token_id") or not isinstance(value, int):
        return None
    return value if 0 <= value < size else None


def _holds_ids(key: str) -> bool:
    return key.endswith("_token_ids") or key in _ID_ARRAYS


def _within(merge: str, texts: set[str]) -> bool:
    """Whether the two parts of a line of merges, and what they make, are in the vocabulary."""
    space = merge.find(" ", 1)
    left, right = merge[:space], merge[space + 1 :]
    return left in texts and right in texts and left + right in texts


# -- what a token is made of -----------------------------------------------------------------------------------------


_Made = tuple[Sequence[str], bool]  # the pieces of a token as texts (itself, where there are none); whether they merge


def _sentencepiece(vocabulary: Vocabulary, metadata: Mapping[str, MetadataValue]) -> Iterator[_Made]:
    coder = SentencePiece(vocabulary, number_array(metadata, _SCORES, len(vocabulary)))
    for text in vocabulary.texts:
        pieces = coder.pieces_without(text)
        yield pieces, len(pieces) <= 2


def _byte_level(vocabulary: Vocabulary, metadata: Mapping[str, MetadataValue]) -> Iterator[_Made]:
    ranks = {pair: rank for rank, pair in enumerate(read_merges(metadata, vocabulary))}
    whole_words = pre_tokenizer(metadata).whole_words
    for token, text in enumerate(vocabulary.texts):
        pieces = [text] if token in vocabulary.control else _pieces_by_pairs(text, ranks)
        yield pieces, whole_words or len(pieces) == 1 or tuple(pieces) in ranks


def _pieces_by_pairs(text: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """What byte-level BPE makes of a token's text without the merges that make the token. O(n log n)."""
    size = len(text)
    stop_of = list(range(1, size + 1))  # where the part that begins here stops; beyond the end once merged away
    before = list(range(-1, size - 1))
    queue: list[tuple[int, int, int, int]] = []

    def offer(start: int, middle: int) -> None:
        stop = stop_of[middle]
        rank = ranks.get((text[start:middle], text[middle:stop])) if stop - start < size else None
        if rank is not None:
            heappush(queue, (rank, start, middle, stop))

    for middle in range(1, size):
        offer(middle - 1, middle)
    while queue:
        _, start, middle, stop = heappop(queue)
        if stop_of[start] != middle or stop_of[middle] != stop:
            continue  # one of the two parts has been merged with another since
        stop_of[start], stop_of[middle] = stop, size + 1
        if start > 0:
            offer(before[start], start)
        if stop < size:
            before[stop] = start
            offer(start, stop)
    parts, start = [], 0
    while start < size:
        parts.append(text[start : stop_of[start]])
        start = stop_of[start]
    return parts


# -- what has to stay ------------------------------------------------------------------------------------------------


def _essential(vocabulary: Vocabulary, metadata: Mapping[str, MetadataValue]) -> Iterator[int]:
    """Bytes; tokens with a role, by key, by text or by default; special tokens but those for later use; what chat
    templates write."""
    yield from range(min(DEFAULT_IDS[vocabulary.model], len(vocabulary)))
    yield from (token for token, kind in enumerate(vocabulary.kinds) if kind == TokenKind.BYTE)
    spelling = BYTE_CHARACTERS if vocabulary.model == "gpt2" else [SPACE]
    yield from (vocabulary.ids[text] for text in spelling if text in vocabulary.ids)
    yield from vocabulary.roles.values()
    yield from vocabulary.end_ids
    ids = (_id(key, value, len(vocabulary)) for key, value in metadata.items())
    yield from (token for token in ids if token is not None)
    yield from (token for token in vocabulary.special if not _SPARE.search(vocabulary.texts[token]))
    yield from _in_templates(vocabulary, metadata)


def _in_templates(vocabulary: Vocabulary, metadata: Mapping[str, MetadataValue]) -> set[int]:
    """Special tokens that a chat template spells, and the tokens of all that it writes beside the messages' own text.

    The latter are in every conversation: names of roles, line ends, a system prompt where none is given. All templates
    of the model count, those with names too.
    """
    templates = [
        value for key, value in metadata.items() if key.startswith(_TEMPLATE) and isinstance(value, str) and value
    ]
    if not templates:
        return set()
    special = SpecialTokens({vocabulary.texts[token]: token for token in sorted(vocabulary.special)})
    found = {part for template in templates for part in special.split(template) if isinstance(part, int)}
    tokenizer = Tokenizer.from_gguf(metadata)
    for dated in (variant for template in templates for variant in _on_many_days(template)):
        for roles, prompted in product(_CHATS, (True, False)):
            found |= _written(dated, roles, prompted, tokenizer)
    return found


def _on_many_days(template: str) -> list[str]:
    if _TODAY not in template:
        return [template]
    days = [
        f"{day:02} {month[:length]} {2026 + day // 8}"
        for length in (3, None)
        for day, month in enumerate(_MONTHS, 1 if length else 13)
    ]
    return [f"{{% macro {_TODAY}(form) %}}{day}{{% endmacro %}}{template}" for day in days]


def _written(template: str, roles: Sequence[str], prompted: bool, tokenizer: Tokenizer) -> set[int]:
    """The tokens that a conversation has whatever its messages say. prompted: it ends where the next answer begins."""
    found: list[set[int]] = []
    for content in _CONTENTS:
        chat = [{"role": role, "content": content} for role in roles]
        try:
            text = render_chat(template, chat, tokenizer.special_texts, add_generation_prompt=prompted)
        except SmidgenError:
            return set()  # a template may refuse roles, and what it does not write needs no token
        found.append(set(tokenizer.encode(text, add_bos=tokenizer.adds_bos, parse_special=True)))
    return set.intersection(*found)
