"""tokenizer.json, the file of the `tokenizers` library: its BPE model, its added tokens and the steps around them.

The format is that library's own serialization (https://github.com/huggingface/tokenizers). Everything in the file is
checked before it is used: ids and texts are unique and in range, merges join tokens into tokens, and what smidgen would
tokenize differently is refused by name (pipeline.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.errors import BadFile, printable
from smidgen.formats.hf.folder import read_json
from smidgen.formats.hf.tokenizer import pipeline
from smidgen.formats.hf.tokenizer.pipeline import Ends, Words, refuse
from smidgen.model.tokenizers.vocabulary import LARGEST_VOCABULARY

LARGEST_FILE = 128 * 2**20  # bytes; Gemma 3's, the largest known, has 33 million
LONGEST_TOKEN = 1 << 12  # characters; the longest in use have 256
MOST_MERGES = 1 << 22
_BAD_MODEL = "; download or copy the file again."


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in text as it stands. special: it means something other than its text.
    strip_left, strip_right: it swallows the white space on that side."""

    id: int
    text: str
    special: bool
    strip_left: bool = False
    strip_right: bool = False


@dataclass(frozen=True)
class TokenizerJson:
    """vocabulary: text → id of the model's tokens. merges: pairs, best first. unknown: text of the unknown token.
    words: how a byte-level tokenizer splits text, None for a SentencePiece-like one. nfc: it normalises.
    space_prefix: "never" or one of `text_rules.SPACE_PREFIXES`. ends: tokens that the post-processor adds."""

    vocabulary: dict[str, int]
    merges: list[tuple[str, str]]
    added: list[AddedToken]
    unknown: str | None
    words: Words | None
    nfc: bool
    space_prefix: str
    ends: Ends


def read_tokenizer_json(path: Path) -> TokenizerJson:
    """Read and check. Raises BadFile for a file that contradicts itself, Unsupported for steps GGUF cannot name."""
    return checked_tokenizer(read_json(path, LARGEST_FILE))


def checked_tokenizer(tokenizer: Any) -> TokenizerJson:
    """What a tokenizer.json holds, checked; errors as of `read_tokenizer_json`."""
    model = tokenizer.get("model") if isinstance(tokenizer, dict) else None
    if not isinstance(model, dict):
        raise BadFile(f"tokenizer.json has no model{_BAD_MODEL}")
    if model.get("type", "BPE" if "merges" in model else None) != "BPE":
        refuse("model", model.get("type"))
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            refuse("model", f"BPE with {option}")
    byte_level = pipeline.is_byte_level(tokenizer)
    if byte_level == bool(model.get("byte_fallback", False)):
        refuse("model", "byte-level BPE with byte_fallback" if byte_level else "BPE that knows no bytes")
    vocabulary = _vocabulary(model.get("vocab"))
    unknown = model.get("unk_token")
    added = added_tokens(tokenizer.get("added_tokens", []), vocabulary)
    prefix = "never" if byte_level else pipeline.space_prefix(tokenizer)
    if prefix == "always":
        _refuse_normalized(tokenizer.get("added_tokens", []))
    return TokenizerJson(
        vocabulary,
        _merges(model.get("merges"), vocabulary),
        added,
        unknown if isinstance(unknown, str) else None,
        pipeline.byte_level_words(tokenizer, bool(model.get("ignore_merges", False))) if byte_level else None,
        pipeline.normalizes_nfc(tokenizer) if byte_level else False,
        prefix,
        pipeline.added_ends(tokenizer),
    )


def token_id(value: Any, text: str) -> int:
    """An id from a file. Raises BadFile for one that no vocabulary has."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < LARGEST_VOCABULARY:
        raise BadFile(f"the tokenizer gives {printable(text, 40)!r} the id {printable(value, 40)}{_BAD_MODEL}")
    return value


def _vocabulary(vocab: Any) -> dict[str, int]:
    if not isinstance(vocab, dict) or not vocab:
        raise BadFile(f"tokenizer.json: the model's vocab is missing or not an object{_BAD_MODEL}")
    if len(vocab) > LARGEST_VOCABULARY:
        raise BadFile(f"tokenizer.json holds {len(vocab)} tokens; more than {LARGEST_VOCABULARY} is no vocabulary.")
    texts: dict[int, str] = {}
    for text, value in vocab.items():
        other = texts.setdefault(token_id(value, text), text)
        if other != text:
            names = f"{printable(other, 40)!r} and {printable(text, 40)!r}"
            raise BadFile(f"tokenizer.json gives {names} the same id {value}{_BAD_MODEL}")
        if len(text) > LONGEST_TOKEN:
            raise BadFile(f"tokenizer.json: token {value} has {len(text)} characters{_BAD_MODEL}")
    return vocab


def _merges(merges: Any, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    if not isinstance(merges, list) or len(merges) > MOST_MERGES:
        raise BadFile(f"tokenizer.json: the merges are missing or no list of at most {MOST_MERGES}{_BAD_MODEL}")
    pairs: dict[tuple[str, str], None] = {}
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge  # a line until 2024, a list since
        left, right = parts if isinstance(parts, list) and len(parts) == 2 else (None, None)
        if not isinstance(left, str) or not isinstance(right, str):
            raise BadFile(f"tokenizer.json: the merge {printable(merge, 60)!r} is not a pair of tokens{_BAD_MODEL}")
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            shown = printable(f"{left} {right}", 60)
            raise BadFile(f"tokenizer.json: the merge {shown!r} does not join two tokens into a third{_BAD_MODEL}")
        pairs[left, right] = None
    if len(pairs) != len(merges):
        raise BadFile(f"tokenizer.json lists {len(merges) - len(pairs)} merges twice{_BAD_MODEL}")
    return list(pairs)


def added_tokens(entries: Any, vocabulary: Mapping[str, int]) -> list[AddedToken]:
    """The list `added_tokens`; ids and texts occur once and agree with the vocabulary."""
    if not isinstance(entries, list) or len(entries) > LARGEST_VOCABULARY:
        raise BadFile(f"tokenizer.json: added_tokens is not a list{_BAD_MODEL}")
    texts = {value: text for text, value in vocabulary.items()}
    found: dict[str, AddedToken] = {}
    for entry in entries:
        token = added_token(entry, entry.get("id") if isinstance(entry, dict) else None)
        known = vocabulary.get(token.text, token.id)
        if known != token.id or texts.setdefault(token.id, token.text) != token.text or token.text in found:
            raise BadFile(
                f"tokenizer.json: the added token {printable(token.text, 40)!r} with the id {token.id} contradicts the "
                f"rest of the vocabulary{_BAD_MODEL}"
            )
        found[token.text] = token
    return list(found.values())


def added_token(entry: Any, identity: Any) -> AddedToken:
    """One added token, as tokenizer.json and tokenizer_config.json describe it."""
    text = entry.get("content") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST_TOKEN:
        raise BadFile(f"the tokenizer has an added token without a text (id {printable(identity, 40)}){_BAD_MODEL}")
    flags = {name: entry.get(name, False) for name in ("special", "lstrip", "rstrip", "single_word")}
    if not all(isinstance(value, bool) for value in flags.values()):
        raise BadFile(f"the added token {printable(text, 40)!r} has flags that are not true or false{_BAD_MODEL}")
    if flags["single_word"]:
        refuse("added token", f"{text!r}, found only where it is a word of its own,")
    return AddedToken(token_id(identity, text), text, flags["special"], flags["lstrip"], flags["rstrip"])


def _refuse_normalized(entries: list[Any]) -> None:
    """Under a normalizer that prepends "▁" the library finds normalised tokens only after a space. Special tokens are
    read as what they are meant for; the others would change plain text."""
    for entry in entries:
        if entry.get("normalized") is True and not entry.get("special"):
            refuse("added token", f"{entry.get('content')!r}, found only after a space,")
