"""A GGUF file's vocabulary, checked: texts, kinds, scores and the ids with a role.

Source of the keys: the GGUF specification (ggml/docs/gguf.md, section "Tokenizer"). Where the
specification is silent (defaults, tokens known by their text alone) the facts are those of llama.cpp's
src/llama-vocab.cpp, because the files are run there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from smidgen.errors import BadFile, Unsupported

MetadataValue = str | int | float | bool | list[str] | np.ndarray

MODELS = ("llama", "gpt2")  # the values of tokenizer.ggml.model that we can read
END_IDS = "tokenizer.smidgen.end_ids"  # ids that end generation, for which GGUF's own keys have no room
LARGEST_VOCABULARY = 1 << 22  # sixteen times the largest vocabulary in use; more is a mistake or an attack

_SURROGATE = re.compile("[\ud800-\udfff]")
BYTE_TEXT = re.compile(r"<0x([0-9A-F]{2})>")

# Tokens that end generation although no metadata key may say so.
END_TEXTS = frozenset(
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> "
    "<EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> "
    "<｜end▁of▁sentence｜> [e~[".split()
)
# Fill-in-the-middle tokens after which nothing of use follows; of each group the first one present counts.
FILL_END_TEXTS = {
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
# The other fill-in-the-middle tokens: they end nothing, but are control tokens whatever the file says.
FILL_TEXTS = frozenset(
    "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|> "
    "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|> "
    "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>".split()
)


class TokenKind(IntEnum):
    """The values of tokenizer.ggml.token_type."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Texts and kinds by id, and the ids with a role.

    model: "llama" (SentencePiece-like) or "gpt2" (byte-level BPE).
    control: ids of tokens that mean something other than their text (control and unknown tokens).
    roles: ids by the name that chat templates give them ("bos_token", "eos_token", "unk_token", "pad_token").
    end_ids: ids after which generation stops.
    """

    model: str
    texts: list[str]
    kinds: list[int]
    ids: dict[str, int]
    control: frozenset[int]
    roles: dict[str, int]
    end_ids: frozenset[int]

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, MetadataValue]) -> "Vocabulary":
        """Read and check. Raises BadFile for data that contradicts itself, Unsupported for other tokenizer models."""
        model = metadata.get("tokenizer.ggml.model")
        if model is None:
            raise BadFile("the file has no tokenizer: the key tokenizer.ggml.model is missing. Take a file with one.")
        if not isinstance(model, str) or model not in MODELS:
            found = repr(str(model)[:40])
            raise Unsupported(
                f"tokenizer model {found} is not supported; smidgen reads 'llama' (SentencePiece) and 'gpt2'."
            )
        texts = _token_texts(metadata)
        ids = {text: index for index, text in enumerate(texts)}
        if len(ids) != len(texts):
            twice = next(text for index, text in enumerate(texts) if ids[text] != index)
            raise BadFile(f"tokenizer.ggml.tokens holds {twice[:40]!r} twice; each token must occur once.")
        kinds = _kinds(metadata, len(texts), required=model == "llama")
        roles = _roles(metadata, len(texts), model)
        end_ids = _end_ids(metadata, ids, len(texts)) | ({roles["eos_token"]} if "eos_token" in roles else set())
        control = {i for i, kind in enumerate(kinds) if kind in (TokenKind.CONTROL, TokenKind.UNKNOWN)}
        named = END_TEXTS.union(FILL_TEXTS, *FILL_END_TEXTS.values())
        control |= {ids[text] for text in named if text in ids}
        return cls(model, texts, kinds, ids, frozenset(control), roles, frozenset(end_ids))

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def user_defined(self) -> frozenset[int]:
        """Ids of tokens that are found in any text, whatever stands around them."""
        return frozenset(i for i, kind in enumerate(self.kinds) if kind == TokenKind.USER_DEFINED)

    @property
    def special(self) -> frozenset[int]:
        """Ids of tokens that are cut out of text before the rest is tokenized."""
        return self.user_defined | self.control

    def byte_value(self, token: int) -> int | None:
        """The byte that a token like <0x41> of kind BYTE stands for; None for any other token."""
        if self.kinds[token] != TokenKind.BYTE:
            return None
        match = BYTE_TEXT.fullmatch(self.texts[token])
        if match is None:
            raise BadFile(
                f"token {token} is of the byte kind, but its text {self.texts[token][:40]!r} is not like <0x41>."
            )
        return int(match[1], 16)


def _token_texts(metadata: Mapping[str, MetadataValue]) -> list[str]:
    texts = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(texts, list) or not texts:
        raise BadFile("tokenizer.ggml.tokens is missing or not an array of strings; the file cannot be used as text.")
    if len(texts) > LARGEST_VOCABULARY:
        raise BadFile(
            f"tokenizer.ggml.tokens holds {len(texts)} tokens; more than {LARGEST_VOCABULARY} is no vocabulary."
        )
    if any(_SURROGATE.search(text) for text in texts):
        raise BadFile("tokenizer.ggml.tokens holds text that is not valid Unicode (lone surrogates).")
    return [text or f"[EMPTY_{index}]" for index, text in enumerate(texts)]  # llama.cpp's name for an empty token


def _kinds(metadata: Mapping[str, MetadataValue], size: int, *, required: bool) -> list[int]:
    if not required and "tokenizer.ggml.token_type" not in metadata:
        return [TokenKind.NORMAL] * size
    return number_array(metadata, "tokenizer.ggml.token_type", size).astype(np.int64).tolist()


def number_array(metadata: Mapping[str, MetadataValue], key: str, size: int) -> np.ndarray:
    """The numeric array under `key`, which must have `size` finite elements."""
    values = metadata.get(key)
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iuf":
        raise BadFile(f"{key} is missing or not an array of numbers; this tokenizer model needs it.")
    if len(values) != size:
        raise BadFile(f"{key} has {len(values)} elements for {size} tokens; the two must be equal.")
    if not np.isfinite(values).all():
        raise BadFile(f"{key} holds infinite or undefined numbers.")
    return values


def flag(metadata: Mapping[str, MetadataValue], key: str, default: bool) -> bool:
    """The truth value under `key`, `default` where it is absent."""
    value = metadata.get(key, default)
    if not isinstance(value, bool):
        raise BadFile(f"{key} is {str(value)[:40]!r}, which is not true or false.")
    return value


def _special_id(metadata: Mapping[str, MetadataValue], role: str, size: int, default: int | None) -> int | None:
    """The token that a key names; None for a number that is no token's, which is how many writers say that there is
    none (-1, 2^32 - 1, the number of tokens)."""
    key = f"tokenizer.ggml.{role}_token_id"
    value = metadata.get(key)
    if value is None:
        return default if default is not None and default < size else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadFile(f"{key} is {str(value)[:40]!r}, which is not the id of a token.")
    return value if 0 <= value < size else None


def _roles(metadata: Mapping[str, MetadataValue], size: int, model: str) -> dict[str, int]:
    first_llama = {"unk_token": 0, "bos_token": 1, "eos_token": 2}  # what holds where no key says otherwise
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    defaults = first_llama if model == "llama" else {}
    found = {name: _special_id(metadata, role, size, defaults.get(name)) for name, role in keys.items()}
    return {name: token for name, token in found.items() if token is not None}


def _end_ids(metadata: Mapping[str, MetadataValue], ids: dict[str, int], size: int) -> set[int]:
    """End-of-generation ids but for eos: by key, and by text as llama.cpp finds them."""
    found: set[int | None] = {ids[text] for text in END_TEXTS if text in ids}
    for role in ("eot", "eom"):
        found.add(_special_id(metadata, role, size, None))
    for role, texts in FILL_END_TEXTS.items():
        by_text = next((ids[text] for text in texts if text in ids), None)
        found.add(_special_id(metadata, role, size, by_text))
    return {token for token in found if token is not None} | set(_more_end_ids(metadata, size))


def _more_end_ids(metadata: Mapping[str, MetadataValue], size: int) -> list[int]:
    values = metadata.get(END_IDS, np.zeros(0, dtype=np.int32))
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iu" or values.ndim != 1:
        raise BadFile(f"{END_IDS} is not an array of token ids.")
    return [token for token in values.tolist() if 0 <= token < size]
