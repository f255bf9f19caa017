"""A vocabulary laid out by id, as GGUF stores it: the text, the score and the kind of every token.

Which kind a token gets, and what stands where a tokenizer has no token, follows llama.cpp's converter, so that a file
made here and one made there have the same vocabulary. Where a tokenizer.json has no scores, because the library that
reads it merges by a list of pairs, they are made from the order of that list; the converter has none then.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from smidgen.errors import BadFile, Unsupported, printable
from smidgen.formats.hf.tokenizer.sentencepiece_model import SentencePieceModel
from smidgen.formats.hf.tokenizer.tokenizer_json import AddedToken
from smidgen.model.tokenizers.sentencepiece import SPACE
from smidgen.model.tokenizers.vocabulary import BYTE_TEXT, TokenKind

ADDED_SCORE = -1000.0  # the converter's; added tokens are cut out of the text and never merged
PADDING_SCORE = -10000.0
# Tokens of real models that are meant as control tokens although their files do not call them special.
_CONTROL_TEXTS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_CONTROL_FORMS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


def looks_special(text: str) -> bool:
    """Whether llama.cpp's converter makes an added token of this text a control token in any case."""
    return text in _CONTROL_TEXTS or any(text.startswith(begin) and text.endswith(end) for begin, end in _CONTROL_FORMS)


def padding_text(token: int) -> str:
    """What stands for a row of the embedding that no token uses."""
    return f"[PAD{token}]"


@dataclass
class Layout:
    """Texts, scores and kinds by id; all rows are padding until a token is put there."""

    rows: int
    texts: list[str] = field(init=False)
    scores: np.ndarray = field(init=False)
    kinds: list[TokenKind] = field(init=False)
    ids: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.texts = [padding_text(token) for token in range(self.rows)]
        self.scores = np.full(self.rows, PADDING_SCORE, dtype=np.float32)
        self.kinds = [TokenKind.UNUSED] * self.rows

    def put(self, token: int, text: str, kind: TokenKind, score: float = 0.0) -> None:
        """Put a token in its row, in place of what was there. Raises BadFile where there is no such row."""
        if token >= self.rows:
            raise BadFile(
                f"the tokenizer has the token {printable(text, 40)!r} with the id {token}, but the model has only "
                f"{self.rows} rows of embeddings; tokenizer and weights are not of the same model."
            )
        if self.ids.get(self.texts[token]) == token:
            del self.ids[self.texts[token]]
        if self.ids.setdefault(text, token) != token:
            raise BadFile(f"the tokenizer has {printable(text, 40)!r} as token {self.ids[text]} and as token {token}.")
        self.texts[token], self.kinds[token], self.scores[token] = text, kind, score

    def put_vocabulary(self, vocabulary: dict[str, int], unknown: str | None, *, bytes_spelled: bool) -> None:
        """The tokens of a tokenizer.json's model. bytes_spelled: "<0x41>" is the byte 0x41 (byte_fallback)."""
        for text, token in vocabulary.items():
            kind = TokenKind.NORMAL
            if bytes_spelled and BYTE_TEXT.fullmatch(text):
                kind = TokenKind.BYTE
            elif bytes_spelled and text == unknown:
                kind = TokenKind.UNKNOWN
            self.put(token, text, kind)

    def put_pieces(self, model: SentencePieceModel) -> None:
        """The tokens of a tokenizer.model."""
        for token, piece in enumerate(model.pieces):
            text = piece.text.replace(SPACE, " ") if piece.kind == TokenKind.USER_DEFINED else piece.text
            self.put(token, text, piece.kind, piece.score)

    def put_added(self, token: AddedToken, *, escaped: bool) -> None:
        """An added token: control, or found in any text. Its row may hold what it replaces (a reserved piece).

        escaped: "▁" in the vocabulary is a space in the text, which is where GGUF's tokens are looked for.
        """
        if token.special or looks_special(token.text):
            self.put(token.id, token.text, TokenKind.CONTROL, ADDED_SCORE)
        else:
            text = token.text.replace(SPACE, " ") if escaped else token.text
            self.put(token.id, text, TokenKind.USER_DEFINED, ADDED_SCORE)

    def check_padding(self) -> None:
        """Raises BadFile where a real token has the name of an unused row."""
        for token, text in enumerate(self.texts):
            if self.kinds[token] == TokenKind.UNUSED and self.ids.get(text, token) != token:
                raise BadFile(f"the tokenizer has a token called {text!r}, the name of a row without a token.")

    def score_by_merges(self, merges: list[tuple[str, str]]) -> None:
        """Scores under which merging the best-scored token first does what the list of pairs does.

        That holds where the list has every pair that makes a token, as lists made from SentencePiece models do (of
        pairs that make the same token the leftmost is then merged first, not the first in the list). Raises
        Unsupported where pairs are missing, because scores would merge them all the same (early conversions lack those
        of the token whose score is 0, for example OpenLLaMA's).
        """
        normal = {text for text, token in self.ids.items() if self.kinds[token] == TokenKind.NORMAL}
        listed: Counter[str] = Counter()
        order: dict[str, int] = {}
        for left, right in merges:
            order.setdefault(left + right, len(order))
            if left in normal and right in normal:
                listed[left + right] += 1
        for text in normal:
            possible = len([cut for cut in range(1, len(text)) if text[:cut] in normal and text[cut:] in normal])
            if possible != listed[text]:
                raise Unsupported(
                    f"tokenizer.json has {listed[text]} of the {possible} merges that make {printable(text, 40)!r}; "
                    "smidgen needs all of them where there are no scores; add the model's tokenizer.model."
                )
            token = self.ids[text]
            self.scores[token] = -order.get(text, len(order) + token)
