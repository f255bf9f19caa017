"""Rows of a vocabulary that no text becomes, and whether two vocabularies are one but for these. Torch-free.

Makers pad an embedding to a round number of rows: Qwen 2.5 has one tokenizer of 151,665 tokens, and 151,936 rows in its
small models, 152,064 in its large ones. A GGUF file names every row, so converters call those without a token
"[PAD151665]" and give them the kind UNUSED. Two models whose vocabularies differ in such rows alone read and write the
same tokens. This is the one place that says so.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np

from smidgen.model.tokenizers.vocabulary import MetadataValue, TokenKind

# "[PAD640]", "<unused12>", "<dummy00001>": brackets and a word inside of them, which are never one word of a text.
_PADDING = re.compile(r"[\[<]\W*\w.*[\]>]", re.DOTALL)
_TOKENS, _KINDS, _SCORES = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "scores"))
_ROLE = re.compile(r"tokenizer\.ggml\.\w+_token_id")

Tokens = Sequence[str | None]


def padding_of(metadata: Mapping[str, MetadataValue]) -> frozenset[int]:
    """Ids of the rows of a GGUF file's vocabulary that no text becomes: unused ones, which nothing is merged into."""
    texts, kinds = metadata.get(_TOKENS), metadata.get(_KINDS)
    if not isinstance(texts, list) or not isinstance(kinds, np.ndarray) or len(kinds) != len(texts):
        return frozenset()
    unused = np.flatnonzero(kinds == TokenKind.UNUSED).tolist()
    if not unused:
        return frozenset()
    roles = {value for key, value in metadata.items() if _ROLE.fullmatch(key) and isinstance(value, int)}
    known = set(texts)
    return frozenset(row for row in unused if row not in roles and _is_padding(texts[row], known))


def _is_padding(text: str, known: set[str]) -> bool:
    """Whether an unused token is out of reach: no two tokens make it."""
    if text and not _PADDING.fullmatch(text):
        return False
    return not any(text[:cut] in known and text[cut:] in known for cut in range(1, len(text)))


def tokens_of(metadata: Mapping[str, MetadataValue]) -> list[str | None]:
    """The texts of a GGUF file's tokens by id, None for rows that no text becomes; empty where it has none."""
    texts = metadata.get(_TOKENS)
    if not isinstance(texts, list):
        return []
    padding = padding_of(metadata)
    return [None if row in padding else text for row, text in enumerate(texts)] if padding else list(texts)


def first_difference(one: Tokens, other: Tokens) -> int | None:
    """The first id that means different tokens in two vocabularies, as `tokens_of` gives them; None if none does."""
    if one == other:
        return None
    pairs = enumerate(zip_longest(one, other))
    return next((token for token, (text, other_text) in pairs if text != other_text), None)


def without_padding(metadata: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
    """The same metadata as if the vocabulary had no padding: rows at its end are gone, those within are all alike."""
    padding = padding_of(metadata)
    texts = metadata.get(_TOKENS)
    if not padding or not isinstance(texts, list):
        return dict(metadata)
    rows = np.array(sorted(padding))
    size = 1 + max((row for row in range(len(texts)) if row not in padding), default=-1)
    shorter: dict[str, MetadataValue] = {_TOKENS: ["" if row in padding else texts[row] for row in range(size)]}
    for key in (_KINDS, _SCORES):
        values = metadata.get(key)
        if isinstance(values, np.ndarray) and len(values) == len(texts):
            values = values.copy()
            values[rows] = TokenKind.UNUSED if key == _KINDS else 0
            shorter[key] = values[:size]
    return dict(metadata) | shorter
