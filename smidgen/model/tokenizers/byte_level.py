"""Byte-level BPE (tokenizer.ggml.model = "gpt2": GPT-2, Llama 3, Qwen, SmolLM) through the `tokenizers` library.

Radford et al. 2019 ("Language Models are Unsupervised Multitask Learners"): text is cut into words by
regular expressions, each byte of a word becomes one printable character, and pairs merge by a ranked list.
Which expressions these are says splitting.py.

A vocabulary may lack bytes (SmolLM2 lacks 0x04 and seven others that occur in valid UTF-8). Like llama.cpp,
`encode` leaves them out and merges nothing across the gap; `missing_bytes` names them.
"""

import re
from collections.abc import Iterator, Mapping

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from smidgen.errors import BadFile, SmidgenError
from smidgen.model.tokenizers.splitting import PreTokenizer
from smidgen.model.tokenizers.vocabulary import MetadataValue, TokenKind, Vocabulary

LONGEST_SPACE = (
    1_000_000  # white space in a row; the library's regular expressions give up (and crash) at ten times that
)
_SPACES = re.compile(r"\s+")
_PART = 1 << 16  # characters, at least: the library holds Python's lock, so Ctrl-C is noticed between two parts only
# Where every set of expressions in splitting.py ends a word, and decides so without what stands beyond.
_BORDER = re.compile(r"(?<=\S)(?= )|(?<=\S\n)(?=[^\s/])")


def _byte_characters() -> list[str]:
    """GPT-2's printable character for each byte: printable Latin-1 stands for itself, the rest for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)]


BYTE_CHARACTERS = _byte_characters()
_BYTE_OF = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}


class ByteLevel:
    """Encode text between special tokens; know the bytes of each token."""

    def __init__(self, vocabulary: Vocabulary, merges: list[tuple[str, str]], pre: PreTokenizer):
        """merges: pairs of token texts, best first; both and their concatenation are tokens."""
        absent = [character for character in BYTE_CHARACTERS if character not in vocabulary.ids]
        self.missing_bytes = frozenset(_BYTE_OF[character] for character in absent)
        # An id of its own keeps the place of a byte without a token, so that nothing merges across it.
        placeholders = {character: len(vocabulary) + index for index, character in enumerate(absent)}
        self._size = len(vocabulary)
        bpe = models.BPE(vocab=vocabulary.ids | placeholders, merges=merges, ignore_merges=pre.whole_words)
        self._tokenizer = Tokenizer(bpe)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
            + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        self.pieces = [_piece(vocabulary, index) for index in range(len(vocabulary))]

    def encode(self, text: str) -> list[int]:
        """Token ids of a stretch of text without special tokens. Raises SmidgenError for a million spaces in a row."""
        if len(text) > LONGEST_SPACE and any(len(run[0]) > LONGEST_SPACE for run in _SPACES.finditer(text)):
            raise SmidgenError(f"the text has more than {LONGEST_SPACE} spaces in a row; shorten the run.")
        ids: list[int] = []
        for part in _parts(text):
            ids += self._tokenizer.encode(part, add_special_tokens=False).ids
        return [token for token in ids if token < self._size] if self.missing_bytes else ids

    def spell(self, token_text: str) -> list[int]:
        """Token ids for the text of a token, as files write it, of this or another vocabulary: merged as one word."""
        return [token.id for token in self._tokenizer.model.tokenize(token_text) if token.id < self._size]


def _parts(text: str) -> Iterator[str]:
    """The text in parts that are encoded as they are within the whole."""
    start = 0
    while border := _BORDER.search(text, start + _PART):
        yield text[start : border.start()]
        start = border.start()
    yield text[start:]


def read_merges(metadata: Mapping[str, MetadataValue], vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The ranked pairs of tokenizer.ggml.merges; of a pair given twice the first counts."""
    lines = metadata.get("tokenizer.ggml.merges")
    if not isinstance(lines, list):
        raise BadFile("tokenizer.ggml.merges is missing or not an array of strings; tokenizer model 'gpt2' needs it.")
    pairs: dict[tuple[str, str], None] = {}
    for line in lines:
        space = line.find(" ", 1)
        left, right = line[:space], line[space + 1 :]
        if space < 0 or left not in vocabulary.ids or right not in vocabulary.ids or left + right not in vocabulary.ids:
            raise BadFile(f"tokenizer.ggml.merges holds {line[:60]!r}, which does not join two tokens into a third.")
        pairs[left, right] = None
    return list(pairs)


def _piece(vocabulary: Vocabulary, token: int) -> bytes:
    """The bytes that a token stands for; a character outside GPT-2's byte alphabet stands for itself."""
    byte = vocabulary.byte_value(token)
    if byte is not None:
        return bytes([byte])
    text = vocabulary.texts[token]
    if token in vocabulary.control or vocabulary.kinds[token] == TokenKind.USER_DEFINED:
        return text.encode()
    spelled = (bytes([_BYTE_OF[char]]) if char in _BYTE_OF else char.encode() for char in text)
    return b"".join(spelled)
