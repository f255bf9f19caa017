"""SentencePiece-like tokenization (tokenizer.ggml.model = "llama": Llama 2, Mistral, Gemma).

BPE by scores, as SentencePiece's BPE model and llama.cpp do it (Kudo and Richardson 2018,
arXiv:1808.06226; facts checked against llm_tokenizer_spm in llama.cpp's src/llama-vocab.cpp): spaces become
"▁", and starting from single characters the adjacent pair whose concatenation is the token with the
highest score is merged, the leftmost among equals, until nothing merges. What is left and is no token
becomes the byte tokens <0xNN> of its UTF-8.

Why not the `tokenizers` library, which serves the byte-level models here: its merges are an ordered list of
pairs, so two pairs never tie, while scores do (all ways to build one token have the same score, and files
hold different tokens of one score); the leftmost rule cannot be written down there. And the list takes time:
Gemma's 262,144 tokens have 514,847 pairs, 4.5 s to list and load, where this is ready in about 1 s.

Speed comes from an exact shortcut. A merge makes a token, so no merge ever joins two characters that stand
side by side in no token: text is cut at such places first (almost always before each "▁"), and the pieces,
which are words that come again and again, are remembered.

Differences from llama.cpp, all where its own ids do not decode to the text again: a literal "▁" (U+2581)
becomes byte tokens, not a space, and control and byte tokens are never merged from plain text.
"""

from heapq import heapify, heappop, heappush

import numpy as np

from smidgen.errors import BadFile
from smidgen.model.tokenizers.vocabulary import TokenKind, Vocabulary

SPACE = "▁"
REMEMBERED_WORDS = 1 << 16  # about 30 MB at most with words no longer than the next line says
LONGEST_REMEMBERED = 32


class SentencePiece:
    """Encode text between special tokens; know the bytes of each token."""

    def __init__(self, vocabulary: Vocabulary, scores: np.ndarray):
        """scores: one per token, finite. Raises BadFile where the byte tokens are not complete."""
        self._ids = {text: index for index, text in enumerate(vocabulary.texts) if _can_be_merged(vocabulary, index)}
        if SPACE not in self._ids:
            raise BadFile(
                f"the vocabulary has no normal token {SPACE!r} for the space; tokenizer model 'llama' needs it."
            )
        rank = np.unique(-scores.astype(np.float32), return_inverse=True)[1].tolist()
        self._rank = {text: rank[index] for text, index in self._ids.items()}  # 0 is merged first
        self._pairs = {text[i : i + 2] for text in self._ids for i in range(len(text) - 1)}
        self._byte_ids = _byte_ids(vocabulary)
        self._words: dict[str, list[int]] = {}
        self.pieces = [_piece(vocabulary, index) for index in range(len(vocabulary))]

    def encode(self, text: str) -> list[int]:
        """Token ids of a stretch of text without special tokens."""
        ids: list[int] = []
        literal = self._bytes(SPACE)
        for index, part in enumerate(text.split(SPACE)):
            if index:
                ids += literal
            for word in self._split(part.replace(" ", SPACE)):
                ids += self._word(word)
        return ids

    def spell(self, token_text: str) -> list[int]:
        """Token ids for the text of a token, as files write it, of this or another vocabulary of the same kind."""
        return self.encode(token_text.replace(SPACE, " "))

    def pieces_without(self, token_text: str) -> list[str]:
        """What merging makes of a token's text while that token does not exist: two pieces where it makes the token.

        The text whole, for tokens that nothing merges into (control and byte tokens).
        """
        rank = self._rank.pop(token_text, None)
        if rank is None:
            return [token_text]
        try:
            return self._merge(token_text)
        finally:
            self._rank[token_text] = rank

    def _split(self, text: str) -> list[str]:
        """Cut between characters that stand side by side in no token."""
        pairs = self._pairs
        cuts = [i + 1 for i in range(len(text) - 1) if text[i : i + 2] not in pairs]
        return [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    def _word(self, word: str) -> list[int]:
        known = self._words.get(word)
        if known is not None:
            return known
        ids: list[int] = []
        for part in self._merge(word):
            token = self._ids.get(part)
            ids += self._bytes(part) if token is None else [token]
        if len(word) <= LONGEST_REMEMBERED:
            if len(self._words) >= REMEMBERED_WORDS:
                self._words.clear()
            self._words[word] = ids
        return ids

    def _bytes(self, text: str) -> list[int]:
        return [self._byte_ids[byte] for byte in text.encode()]

    def _merge(self, text: str) -> list[str]:
        """Merge characters into tokens: the best score first, then the leftmost. O(n log n)."""
        size = len(text)
        rank = self._rank
        stop_of = list(range(1, size + 1))  # where the part that begins here stops; beyond the end once merged away
        before = list(range(-1, size - 1))  # where the part before the one that begins here begins
        queue = [(rank[text[i : i + 2]], i, i + 2) for i in range(size - 1) if text[i : i + 2] in rank]
        heapify(queue)

        def offer(start: int, stop: int) -> None:
            found = rank.get(text[start:stop])
            if found is not None:
                heappush(queue, (found, start, stop))

        while queue:
            _, start, stop = heappop(queue)
            middle = stop_of[start]
            if middle >= size or stop_of[middle] != stop:
                continue  # one of the two parts has been merged with another since
            stop_of[start], stop_of[middle] = stop, size + 1
            if start > 0:
                offer(before[start], stop)
            if stop < size:
                before[stop] = start
                offer(start, stop_of[stop])
        parts, start = [], 0
        while start < size:
            parts.append(text[start : stop_of[start]])
            start = stop_of[start]
        return parts


def _can_be_merged(vocabulary: Vocabulary, token: int) -> bool:
    """Whether plain text may become this token. A user-defined "▁" is a real "▁", which plain text spells in bytes."""
    kind = vocabulary.kinds[token]
    if token in vocabulary.control or kind == TokenKind.BYTE:
        return False
    return kind != TokenKind.USER_DEFINED or SPACE not in vocabulary.texts[token]


def _byte_ids(vocabulary: Vocabulary) -> list[int]:
    tokens = (token for token, kind in enumerate(vocabulary.kinds) if kind == TokenKind.BYTE)
    found = {vocabulary.byte_value(token): token for token in tokens}
    missing = [byte for byte in range(256) if byte not in found]
    if missing:
        raise BadFile(f"the vocabulary lacks {len(missing)} of the 256 byte tokens, <0x{missing[0]:02X}> first.")
    return [found[byte] for byte in range(256)]


def _piece(vocabulary: Vocabulary, token: int) -> bytes:
    """The bytes that a token stands for."""
    byte = vocabulary.byte_value(token)
    if byte is not None:
        return bytes([byte])
    text = vocabulary.texts[token]
    if token not in vocabulary.control and vocabulary.kinds[token] != TokenKind.USER_DEFINED:
        text = text.replace(SPACE, " ")
    return text.encode()
