"""Text to token ids and back, from the metadata of a GGUF file alone.

The ids are those that llama.cpp gives for the same file (tests/parity/test_tokenizer_llama_cpp.py), because
that is where the model will run; the places where smidgen differs on purpose are named in
tokenizers/sentencepiece.py and, for byte-level models, in tokenizers/splitting.py. A model that came in Hugging Face
layout may carry rules that llama.cpp does not know (tokenizers/text_rules.py); its ids are those of transformers.
"""

import operator
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import SupportsIndex

from smidgen.errors import SmidgenError
from smidgen.model.tokenizers import byte_level
from smidgen.model.tokenizers.byte_level import ByteLevel
from smidgen.model.tokenizers.padding import padding_of
from smidgen.model.tokenizers.sentencepiece import SentencePiece
from smidgen.model.tokenizers.special_tokens import SpecialTokens
from smidgen.model.tokenizers.splitting import pre_tokenizer
from smidgen.model.tokenizers.text_rules import TextRules
from smidgen.model.tokenizers.vocabulary import MetadataValue, Vocabulary, flag, number_array

ADD_BOS = "tokenizer.ggml.add_bos_token"
ADD_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
_SURROGATE = re.compile("[\ud800-\udfff]")
_DISARMED = "\U0010fffd"  # Unicode's last private character, which no text has a use for


class Tokenizer:
    """A model's tokenizer.

    bos_id, eos_id: the tokens that begin and end a sequence, None where the model has none.
    eos_ids: the tokens after which generation stops.
    adds_bos: whether the model expects `encode(…, add_bos=True)` at the start of a sequence.
    missing_bytes: bytes that the vocabulary cannot express; `encode` leaves them out. Empty for nearly all models.
    padding: rows that no text becomes.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        coder: SentencePiece | ByteLevel,
        rules: TextRules,
        adds_bos: bool,
        add_space_prefix: bool = False,
        padding: frozenset[int] = frozenset(),
    ):
        self._vocabulary = vocabulary
        self._coder = coder
        self._rules = rules
        self._add_space_prefix = add_space_prefix
        self.padding = padding
        self.bos_id = vocabulary.roles.get("bos_token")
        self.eos_id = vocabulary.roles.get("eos_token")
        self.adds_bos = adds_bos and self.bos_id is not None
        self.eos_ids = vocabulary.end_ids
        self.missing_bytes = coder.missing_bytes if isinstance(coder, ByteLevel) else frozenset[int]()
        self._special = vocabulary.special
        always = sorted(vocabulary.user_defined - vocabulary.control)
        self._always = SpecialTokens({vocabulary.texts[i]: i for i in always})
        self._all_special = SpecialTokens({vocabulary.texts[i]: i for i in sorted(self._special)})
        spelled = {vocabulary.texts[i]: i for i in sorted(vocabulary.control)}
        self._control = SpecialTokens({text: token for text, token in spelled.items() if len(text) > 1})

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, MetadataValue]) -> "Tokenizer":
        """Build from a GGUF file's metadata (`GGUFFile.metadata`).

        Raises BadFile for metadata that contradicts itself and Unsupported for a kind of tokenizer not known here.
        """
        vocabulary = Vocabulary.from_gguf(metadata)
        rules = TextRules.from_gguf(metadata, vocabulary)
        if vocabulary.model == "llama":
            prefix = flag(metadata, ADD_SPACE_PREFIX, True)
            scores = number_array(metadata, "tokenizer.ggml.scores", len(vocabulary))
            coder, adds_bos = SentencePiece(vocabulary, scores), flag(metadata, ADD_BOS, True)
            return cls(vocabulary, coder, rules, adds_bos, prefix, padding_of(metadata))
        pre = pre_tokenizer(metadata)
        coder = ByteLevel(vocabulary, byte_level.read_merges(metadata, vocabulary), pre)
        return cls(vocabulary, coder, rules, flag(metadata, ADD_BOS, pre.adds_bos), padding=padding_of(metadata))

    def __len__(self) -> int:
        """The number of tokens in the vocabulary."""
        return len(self._vocabulary)

    @property
    def tokens(self) -> list[str | None]:
        """The texts of all tokens by id, as `token_text` has them; None for rows that no text becomes."""
        return [None if token in self.padding else text for token, text in enumerate(self._vocabulary.texts)]

    @property
    def special_texts(self) -> dict[str, str]:
        """Texts of the special tokens, as chat templates name them: bos_token, eos_token, unk_token, pad_token."""
        return {name: self.token_text(token) for name, token in self._vocabulary.roles.items()}

    def token_text(self, token: int) -> str:
        """A token as the file spells it, e.g. "▁the" or "<bos>": for templates and tables, not for output."""
        return self._vocabulary.texts[token]

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for in a text; half a character for some."""
        return self._coder.pieces[token]

    @property
    def control(self) -> frozenset[int]:
        """Tokens that mean something other than their text, such as BOS; plain text never becomes one."""
        return self._vocabulary.control

    def spell(self, token_text: str) -> list[int]:
        """How a text has a stretch that another vocabulary has a token for: that token's text, as `token_text` has it.

        No space is put before it and no rule for whole texts applied: this is the inside of a text.
        """
        return self._coder.spell(token_text)

    def disarm(self, text: str) -> str:
        """Text from people, changed so that no control token is found in it within a rendered chat template.

        A private character stands after the first letter of each one that it spells; `encode(…, disarmed=True)` takes
        it out again.
        """
        text = text.replace(_DISARMED, "\ufffd")
        parts = list(self._control.split(text))
        while any(isinstance(part, int) for part in parts):
            texts = [part if isinstance(part, str) else self.token_text(part) for part in parts]
            marked = zip(parts, texts, strict=True)
            text = "".join(text if isinstance(part, str) else text[0] + _DISARMED + text[1:] for part, text in marked)
            parts = list(self._control.split(text))  # one may have overlapped with another
        return text

    def encode(
        self, text: str, *, add_bos: bool = False, parse_special: bool = False, disarmed: bool = False
    ) -> list[int]:
        """Token ids of a text.

        add_bos: begin with exactly one BOS, also where the text itself begins with it (a rendered chat template).
        parse_special: control tokens spelled out in the text, such as "<bos>", become those tokens; keep it off for
            text from people. (Tokens that the model's makers defined as plain text, like Gemma's runs of newlines,
            are found either way.)
        disarmed: parts of the text come from `disarm`, and stay text.
        Lone surrogates, which are not text, are replaced by U+FFFD.
        """
        text = _SURROGATE.sub("\ufffd", text)
        ids: list[int] = []
        special = self._all_special if parse_special else self._always
        for place, part in enumerate(self._rules.strip(special.split(text))):
            if isinstance(part, int):
                ids.append(part)
            else:
                stretch = self._rules.normalize(part.replace(_DISARMED, "") if disarmed else part)
                ids += self._coder.encode(
                    self._rules.prefixed(stretch, not place) if self._add_space_prefix else stretch
                )
        return self._with_one_bos(ids) if add_bos else ids

    def fewest_tokens(self, text: str) -> int:
        """No more than `encode` finds, as if each were the longest; counted at once, where that may take a while."""
        text = self._rules.normalize(text.replace(_DISARMED, ""))
        if self._rules.strip_left or self._rules.strip_right:
            text = "".join(text.split())
        counted = text.encode(errors="replace").translate(None, bytes(self.missing_bytes))
        return -(-len(counted) // self._longest_piece)

    @cached_property
    def _longest_piece(self) -> int:
        return max(map(len, self._coder.pieces))

    def decode(self, ids: Iterable[SupportsIndex], *, skip_special: bool = False) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD.

        skip_special: leave control tokens out instead of spelling them.
        Raises ValueError for an id outside the vocabulary.
        """
        pieces: list[bytes] = []
        after_special = True
        for token in map(operator.index, ids):
            if not 0 <= token < len(self):
                raise ValueError(f"token id {token} is outside the vocabulary of {len(self)} tokens")
            piece = self._coder.pieces[token]
            if after_special and self._add_space_prefix and token not in self._special:
                piece = piece.removeprefix(b" ")  # the space that encode put before this stretch of text
            after_special = token in self._special and (token == self.bos_id or self._rules.space_prefix != "first")
            if not (skip_special and token in self._vocabulary.control):
                pieces.append(piece)
        return b"".join(pieces).decode("utf-8", "replace")

    def _with_one_bos(self, ids: list[int]) -> list[int]:
        if self.bos_id is None:
            raise SmidgenError("this model has no BOS token (tokenizer.ggml.bos_token_id); encode without add_bos.")
        first = next((place for place, token in enumerate(ids) if token != self.bos_id), len(ids))
        return [self.bos_id, *ids[first:]]
