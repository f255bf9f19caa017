"""SentencePiece's tokenizer.model: a protobuf message `ModelProto`, read without protobuf.

Sources: sentencepiece_model.proto (https://github.com/google/sentencepiece) for the fields, and
https://protobuf.dev/programming-guides/encoding/ for the wire format: a message is a row of fields, each a varint
(number and wire type) followed by a varint, four bytes, eight bytes, or a length and that many bytes.

Only models of the BPE kind are read, and only those that leave the text as it is (Llama 2, Mistral, Gemma, Phi-3):
spaces become "▁" and nothing else happens to the text.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from smidgen.errors import BadFile, Unsupported, printable
from smidgen.model.tokenizers.vocabulary import LARGEST_VOCABULARY, TokenKind

LARGEST_FILE = 64 * 2**20  # bytes; Gemma 3's, the largest known, has 4.7 million
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # wire types
_BPE = 2  # TrainerSpec.model_type
_MODEL_KINDS = {1: "unigram", 3: "word", 4: "char"}
_DAMAGED = "the file is damaged: download or copy it again"

Value = int | memoryview


@dataclass(frozen=True)
class Piece:
    """A token: its text with "▁" for spaces, its score (higher merges first) and what it is for."""

    text: str
    score: float
    kind: TokenKind


@dataclass(frozen=True)
class SentencePieceModel:
    """pieces: by id. add_dummy_prefix: a text begins with a space of the tokenizer's own.
    ids: bos_token, eos_token, unk_token and pad_token, where the model has them."""

    pieces: list[Piece]
    add_dummy_prefix: bool
    ids: dict[str, int]


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a tokenizer.model. Raises BadFile where it is damaged, Unsupported where it is not BPE on unchanged text."""
    shown = printable(path.name)
    with path.open("rb") as file:
        raw = file.read(LARGEST_FILE + 1)
    if len(raw) > LARGEST_FILE:
        raise BadFile(f"{shown} is larger than {LARGEST_FILE} bytes, which no real tokenizer needs; {_DAMAGED}.")
    if raw.startswith(b"version https://git-lfs"):
        raise BadFile(f"{shown} is a Git LFS pointer, so the file itself was not downloaded; run `git lfs pull`.")
    try:
        return _model(memoryview(raw))
    except (ValueError, UnicodeDecodeError) as error:
        raise BadFile(f"{shown} is not a SentencePiece model ({printable(error)}); {_DAMAGED}.") from error


def _model(raw: memoryview) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    for number, value in _fields(raw):
        if number == 1:
            pieces.append(_piece(_bytes(value)))
            if len(pieces) > LARGEST_VOCABULARY:
                raise ValueError(f"it has more than {LARGEST_VOCABULARY} pieces")
        elif number in (2, 3):
            (trainer if number == 2 else normalizer).update(_fields(_bytes(value)))
    if not pieces:
        raise ValueError("it has no pieces")
    seen: set[str] = set()
    for piece in pieces:
        if piece.text in seen:
            raise ValueError(f"the piece {printable(piece.text, 40)!r} occurs twice")
        seen.add(piece.text)
    _refuse_unsupported(trainer, normalizer)
    return SentencePieceModel(pieces, bool(_integer(normalizer.get(3, 1))), _special_ids(trainer, pieces))


def _piece(raw: memoryview) -> Piece:
    fields = dict(_fields(raw))
    score = fields.get(2, memoryview(bytes(4)))
    if not isinstance(score, memoryview) or len(score) != 4:
        raise ValueError("a piece's score is not a float")
    text = str(_bytes(fields.get(1, memoryview(b""))), "utf-8")
    value = float(struct.unpack("<f", score)[0])
    if not text or not abs(value) < float("inf"):
        raise ValueError("a piece has no text or no finite score")
    return Piece(text, value, TokenKind(_integer(fields.get(3, 1))))  # the kinds have the same numbers in GGUF


def _refuse_unsupported(trainer: dict[int, Value], normalizer: dict[int, Value]) -> None:
    kind = _integer(trainer.get(3, 1))
    if kind != _BPE:
        name = _MODEL_KINDS.get(kind, f"model type {kind}")
        raise Unsupported(f"tokenizer.model is a SentencePiece model of the kind {name}; smidgen reads BPE only.")
    rules = {
        "a table of characters to replace": len(_bytes(normalizer.get(2, memoryview(b"")))) > 0,
        "remove_extra_whitespaces": bool(_integer(normalizer.get(4, 1))),
        "spaces that are not escaped": not _integer(normalizer.get(5, 1)),
        "white space as a suffix": bool(_integer(trainer.get(24, 0))),
    }
    found = [rule for rule, present in rules.items() if present]
    if found:
        raise Unsupported(f"tokenizer.model changes text in a way that smidgen cannot: {', '.join(found)}.")


def _special_ids(trainer: dict[int, Value], pieces: list[Piece]) -> dict[str, int]:
    """The ids of TrainerSpec; -1 there means that there is no such token. Raises ValueError for other odd ids."""
    defaults = {"unk_token": (40, 0), "bos_token": (41, 1), "eos_token": (42, 2), "pad_token": (43, -1 % 2**64)}
    ids = {}
    for role, (number, default) in defaults.items():
        token = _integer(trainer.get(number, default))
        if token < len(pieces):
            ids[role] = token
        elif token < 2**31:
            raise ValueError(f"{role} is {token}, but there are {len(pieces)} pieces")
    return ids


def _fields(raw: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a message in order: (number, value), the value of a fixed-width field as its bytes."""
    place = 0
    while place < len(raw):
        tag, place = _varint(raw, place)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"field number {number}")
        if wire_type == _VARINT:
            value, place = _varint(raw, place)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, place = _varint(raw, place)
        elif wire_type in (_FOUR, _EIGHT):
            length = 4 if wire_type == _FOUR else 8
        else:
            raise ValueError(f"wire type {wire_type}")
        if length > len(raw) - place:
            raise ValueError(f"a field of {length} bytes where {len(raw) - place} are left")
        yield number, raw[place : place + length]
        place += length


def _varint(raw: memoryview, place: int) -> tuple[int, int]:
    """An unsigned integer of at most ten bytes, seven bits each, and where the next thing begins."""
    value = 0
    for count, byte in enumerate(raw[place : place + 10]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, place + count + 1
    raise ValueError("an integer that is too long or cut off")


def _bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("an integer where bytes belong")
    return value


def _integer(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes where an integer belongs")
    return value
