"""What a tokenizer does to text around its special tokens, where GGUF's own keys have no words for it.

A tokenizer in Hugging Face layout may say three things that GGUF cannot (Unicode normalisation, white space that a
special token swallows, a space put before the very first word only). `smidgen.formats.hf.tokenizer` keeps them under
keys of our own, so that `Tokenizer` gives the ids of transformers. llama.cpp does not know these keys: it normalises
nothing, puts the space after every special token, and swallows white space for models named Phi-3 alone.
"""

import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from tokenizers import normalizers

from smidgen.errors import BadFile, Unsupported, printable
from smidgen.model.tokenizers.sentencepiece import SPACE
from smidgen.model.tokenizers.vocabulary import MetadataValue, Vocabulary

NORMALIZER = "tokenizer.smidgen.normalizer"  # "nfc": text between special tokens is brought into that form
SPACE_PREFIX = "tokenizer.smidgen.space_prefix"  # one of SPACE_PREFIXES; without the key the first of them holds
STRIP_LEFT = "tokenizer.smidgen.strip_left"  # ids of tokens that swallow the white space before them
STRIP_RIGHT = "tokenizer.smidgen.strip_right"  # … and after them

# Where a tokenizer with add_space_prefix puts that space: before each stretch of text between special tokens; before
# each that does not begin with a space anyhow; before the first word of the text, if there is no space yet.
SPACE_PREFIXES = ("always", "missing", "first")

# Unicode's White_Space, which the `tokenizers` library strips (Rust's char::is_whitespace), and C's isspace.
UNICODE_SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_PHI3_KEEPS = ("<unk>", "<s>", "<|endoftext|>")  # the tokens of Phi-3 after which llama.cpp swallows nothing


@dataclass(frozen=True)
class TextRules:
    """nfc: normalise. space_prefix: of SPACE_PREFIXES. strip_left, strip_right: ids. spaces: what these strip."""

    nfc: bool = False
    space_prefix: str = SPACE_PREFIXES[0]
    strip_left: frozenset[int] = frozenset()
    strip_right: frozenset[int] = frozenset()
    spaces: str = UNICODE_SPACES

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, MetadataValue], vocabulary: Vocabulary) -> "TextRules":
        """The rules under our keys, or those that llama.cpp has for models whose general.name says Phi-3.

        Raises BadFile for ids outside the vocabulary and Unsupported for a rule not known here.
        """
        for key, known in ((NORMALIZER, ("nfc",)), (SPACE_PREFIX, SPACE_PREFIXES)):
            if str(metadata.get(key, known[0])) not in known:
                raise Unsupported(f"{key} is {printable(metadata[key], 40)}; this smidgen knows {', '.join(known)}.")
        left, right = (_ids(metadata, key, len(vocabulary)) for key in (STRIP_LEFT, STRIP_RIGHT))
        name = str(metadata.get("general.name", "")).lower()
        if not left and not right and vocabulary.model == "llama" and ("phi-3" in name or "phi3" in name):
            keep = {vocabulary.ids[text] for text in _PHI3_KEEPS if text in vocabulary.ids}
            return cls(strip_right=vocabulary.special - keep, spaces=string.whitespace)
        return cls(NORMALIZER in metadata, str(metadata.get(SPACE_PREFIX, SPACE_PREFIXES[0])), left, right)

    def prefixed(self, text: str, at_start: bool) -> str:
        """A stretch of text with the space that add_space_prefix puts before it, where it does."""
        if self.space_prefix == "first" and not at_start:
            return text
        return text if self.space_prefix != "always" and text[0] in (" ", SPACE) else " " + text

    def normalize(self, text: str) -> str:
        """A stretch of text as the vocabulary was made for it."""
        return normalizers.NFC().normalize_str(text) if self.nfc else text

    def strip(self, parts: Iterable[str | int]) -> Iterator[str | int]:
        """Token ids and the stretches of text between them, without the white space that the tokens swallow."""
        parts = list(parts)
        for place, part in enumerate(parts):
            if isinstance(part, str):
                if place and parts[place - 1] in self.strip_right:
                    part = part.lstrip(self.spaces)
                if place + 1 < len(parts) and parts[place + 1] in self.strip_left:
                    part = part.rstrip(self.spaces)
            if part != "":
                yield part


def _ids(metadata: Mapping[str, MetadataValue], key: str, size: int) -> frozenset[int]:
    values = metadata.get(key, np.zeros(0, dtype=np.int32))
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iu" or values.ndim != 1:
        raise BadFile(f"{key} is not an array of token ids.")
    if len(values) and not 0 <= values.min() <= values.max() < size:
        raise BadFile(f"{key} names ids outside the vocabulary of {size} tokens.")
    return frozenset(values.tolist())
