"""Small tokenizers in the files of Hugging Face layout: byte-level and SentencePiece-like, trained on a sentence."""

import json
import struct
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from smidgen.model.tokenizers.byte_level import BYTE_CHARACTERS

TEXT = (
    "the quick brown fox jumps over the lazy dog and then the other dog runs after the fox through the old town "
    "where people sing songs that nobody knows any more because the singers of those songs are long gone from here"
)
SPACE = "▁"
CHARACTERS = [*"abcdefghijklmnopqrstuvwxyz", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"0123456789", *".,!?'\"<>[]/|_:\n", "é"]

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


@cache
def trained(space: str, count: int = 80) -> tuple[tuple[str, str], ...]:
    """Merges of a BPE over TEXT, best first; words begin with `space`."""
    words = Counter(tuple(f"{space}{word}") for word in TEXT.split(" "))
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += times
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = Counter({_merged(word, best): times for word, times in words.items()})
    return tuple(merges)


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    parts: list[str] = []
    for part in word:
        if parts and (parts[-1], part) == pair:
            parts[-1] += part
        else:
            parts.append(part)
    return tuple(parts)


def added(token: int, text: str, **flags: Any) -> dict[str, Any]:
    """An entry of added_tokens."""
    entry = {"id": token, "content": text, "single_word": False, "lstrip": False, "rstrip": False}
    return entry | {"normalized": False, "special": True} | flags


def template(before: str | None = None, after: str | None = None, **ids: int) -> dict[str, Any]:
    """A post-processor that adds special tokens; ids: those of the texts, as bos=1."""
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    if before:
        single.insert(0, {"SpecialToken": {"id": before, "type_id": 0}})
    if after:
        single.append({"SpecialToken": {"id": after, "type_id": 0}})
    texts = {
        text: {"id": text, "ids": [token], "tokens": [text]}
        for text, token in zip((before, after), ids.values(), strict=False)
        if text
    }
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": texts}


def byte_level_json(specials: tuple[str, ...] = ("<|begin|>", "<|end|>"), **changes: Any) -> dict[str, Any]:
    """A tokenizer.json as Llama 3's and Qwen's; `specials` are the last tokens. changes: other top-level keys."""
    merges = trained("Ġ")
    texts = [*BYTE_CHARACTERS, *dict.fromkeys(left + right for left, right in merges)]
    vocabulary = {text: token for token, text in enumerate(texts)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [added(len(texts) + place, text) for place, text in enumerate(specials)],
        "normalizer": None,
        "pre_tokenizer": split_at(QWEN2),
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": bpe(vocabulary, [f"{left} {right}" for left, right in merges]),
    }
    return tokenizer | changes


def split_at(*patterns: str, **byte_level: Any) -> dict[str, Any]:
    """A pre-tokenizer that cuts at expressions and then spells bytes as characters."""
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False} | byte_level
    splits = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns]
    return {"type": "Sequence", "pretokenizers": [*splits, last]}


def bpe(vocabulary: Mapping[str, int], merges: list[Any], **options: Any) -> dict[str, Any]:
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False}
    return model | {"vocab": dict(vocabulary), "merges": merges} | options


def pieces(specials: tuple[str, ...] = ("<unk>", "<s>", "</s>")) -> list[tuple[str, float, int]]:
    """Text, score and SentencePiece kind of a small Llama-like vocabulary: special, byte, merged and single tokens."""
    merged = list(dict.fromkeys(left + right for left, right in trained(SPACE)))
    normal = [*merged, SPACE, *CHARACTERS]
    found = [(text, 0.0, 2 if text == "<unk>" else 3) for text in specials]
    found += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    return found + [(text, -float(place), 1) for place, text in enumerate(normal)]


def sentencepiece_json(normalizer: Any = None, added_tokens: Any = None, **changes: Any) -> dict[str, Any]:
    """A tokenizer.json as Llama 2's, with all pairs that make a token listed from the scores."""
    vocabulary = {text: token for token, (text, _, _) in enumerate(pieces())}
    normal = {text for text, _, kind in pieces() if kind == 1}
    merges = [
        [text[:cut], text[cut:]]
        for text, _, kind in pieces()
        for cut in range(len(text) - 1, 0, -1)
        if kind == 1 and text[:cut] in normal and text[cut:] in normal
    ]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]}
    decoders = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}]
    decoders += [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    tokenizer = {
        "version": "1.0",
        "added_tokens": added_tokens or [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": normalizer or prepend,
        "pre_tokenizer": None,
        "post_processor": template("<s>", bos=1),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": bpe(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True),
    }
    return tokenizer | changes


CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
BYTE_LEVEL_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|end|>"}


def varint(value: int) -> bytes:
    """Protobuf's integer: seven bits a byte, the lowest first."""
    value %= 1 << 64
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def message(number: int, value: bytes | int | float) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: str, score: float, kind: int) -> bytes:
    """A SentencePiece inside a ModelProto; NORMAL, the default kind, is left out as SentencePiece does."""
    body = message(1, text.encode()) + message(2, score)
    return message(1, body + (message(3, kind) if kind != 1 else b""))


def model_proto(
    listed: list[tuple[str, float, int]] | None = None,
    trainer: Mapping[int, bytes | int | float] | None = None,
    normalizer: Mapping[int, bytes | int | float] | None = None,
) -> bytes:
    """A tokenizer.model: BPE, text left as it is, bos 1, eos 2, no padding token."""
    body = b"".join(piece(*entry) for entry in (pieces() if listed is None else listed))
    training = {1: b"a.txt", 3: 2, 4: 100, 35: 1, 40: 0, 41: 1, 42: 2, 43: -1} | dict(trainer or {})
    normalizing = {1: b"identity", 3: 1, 4: 0, 5: 1} | dict(normalizer or {})
    for number, fields in ((2, training), (3, normalizing)):
        body += message(number, b"".join(message(key, value) for key, value in fields.items()))
    return body


def write_folder(folder: Path, **files: Any) -> Path:
    """A folder of files named as keywords with "__" for the dot; values that are not bytes or text become JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        raw = value if isinstance(value, bytes | str) else json.dumps(value)
        (folder / name.replace("__", ".")).write_bytes(raw.encode() if isinstance(raw, str) else raw)
    return folder
