"""The folder of a tokenized corpus: shards of tokens with checksums, and `index.json` that says what they are.

A shard is a safetensors file with the tokens of its documents one after another ("tokens", each document with BOS in
front where the model wants one and the end-of-text token behind) and where each document begins ("starts"). It is read
through a memory map, and held against its SHA-256 when it is first opened in a process.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from smidgen.atomic import replacing, write_whole
from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.model.tokenizer import MetadataValue
from smidgen.model.tokenizers.padding import without_padding
from smidgen.shapes import Int

INDEX, SHARDS = "index.json", "shard-*.safetensors"
_FORMAT = 1
_OPEN_AT_ONCE = 64
_TOKENIZER = "tokenizer."
_CHAT_TEMPLATE = "tokenizer.chat_template"
_REPAIR = "Make the corpus anew with `smidgen data`."


@dataclass(frozen=True)
class Shard:
    """One file of a corpus. sha256: of the file."""

    name: str
    sha256: str
    tokens: int
    documents: int


@dataclass(frozen=True)
class Index:
    """What a corpus is.

    tokenizer: `tokenizer_hash` of the model it was made for.  bos: begins each document, None where none does.
    settings: all that its making depended on.  sources: name, documents and SHA-256 of their texts.
    counts: documents read, kept and dropped, by rule.
    """

    tokenizer: str
    vocabulary: int
    bos: int | None
    shards: list[Shard]
    settings: dict[str, Any] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @property
    def documents(self) -> int:
        return sum(shard.documents for shard in self.shards)

    def write(self, folder: Path) -> None:
        """Write `index.json`, last of all: with it the corpus is there."""
        write_whole(folder / INDEX, json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n")

    def sha256(self) -> str:
        """Names the corpus: its shards' hashes, in their order."""
        return hashlib.sha256("\n".join(shard.sha256 for shard in self.shards).encode()).hexdigest()


def tokenizer_hash(metadata: Mapping[str, MetadataValue]) -> str:
    """SHA-256 of all metadata of a GGUF file that says how text becomes tokens.

    Chat templates do not, nor do rows of padding: models that differ in these alone share a corpus.
    """
    digest = hashlib.sha256()
    tokenizer = without_padding(metadata)
    for key in sorted(key for key in tokenizer if key.startswith(_TOKENIZER) and not key.startswith(_CHAT_TEMPLATE)):
        value = tokenizer[key]
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        digest.update(json.dumps([key, plain], ensure_ascii=True).encode())
    return digest.hexdigest()


def write_shard(path: Path, documents: Sequence[Sequence[int]], vocabulary: int) -> Shard:
    """Write the tokens of documents, none of them empty, as one shard. Raises SmidgenError where it cannot be."""
    lengths = np.array([len(document) for document in documents], np.int64)
    kind = np.uint16 if vocabulary <= 1 << 16 else np.uint32
    tokens = np.fromiter((token for document in documents for token in document), kind, int(lengths.sum()))
    data = save({"tokens": tokens, "starts": lengths.cumsum() - lengths})
    with replacing(path, len(data)) as file:
        file.write(data)
    return Shard(path.name, hashlib.sha256(data).hexdigest(), len(tokens), len(documents))


class Corpus:
    """A tokenized corpus, read. Its tokens are numbered through all shards, from 0."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index
        self._first = np.cumsum([0, *(shard.tokens for shard in index.shards)])
        self._open = lru_cache(_OPEN_AT_ONCE)(self._opened)
        self._verified: set[int] = set()

    @classmethod
    def open(cls, folder: Path, tokenizer: str | None = None) -> "Corpus":
        """Read the index. tokenizer: the hash that it must have been made for.

        Raises BadFile: no corpus, another format, a file missing or of another size; SmidgenError: another tokenizer.
        """
        index = _read_index(folder)
        if tokenizer is not None and tokenizer != index.tokenizer:
            raise SmidgenError(
                f"the corpus {printable(folder)} was tokenized for another model (its tokenizer's hash begins with "
                f"{index.tokenizer[:12]}, the model's with {tokenizer[:12]}). Make it anew with `smidgen data`."
            )
        for shard in index.shards:
            if not (folder / shard.name).is_file():
                raise BadFile(f"{printable(folder / shard.name)} is missing from its corpus. {_REPAIR}")
        return cls(folder, index)

    @property
    def tokens(self) -> int:
        return int(self._first[-1])

    def read(self, start: int, stop: int) -> tuple[Int[np.ndarray, " position"], Int[np.ndarray, " documents"]]:
        """Tokens [start, stop) as int64, and the places among them where a document begins."""
        pieces: list[np.ndarray] = []
        begins: list[np.ndarray] = []
        shard = int(np.searchsorted(self._first, start, "right")) - 1
        place = start
        while place < min(stop, self.tokens):
            offset = int(self._first[shard])
            end = min(stop, int(self._first[shard + 1]))
            tokens, starts = self._open(shard)
            pieces.append(tokens[place - offset : end - offset].astype(np.int64))
            low, high = np.searchsorted(starts, [place - offset, end - offset])
            begins.append(starts[low:high] + offset - start)
            place, shard = end, shard + 1
        if not pieces:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate(pieces), np.concatenate(begins)

    def document_at(self, place: int) -> tuple[int, int]:
        """Where the document begins and ends that a token belongs to."""
        shard = int(np.searchsorted(self._first, place, "right")) - 1
        offset = int(self._first[shard])
        _, starts = self._open(shard)
        after = int(np.searchsorted(starts, place - offset, "right"))
        end = int(starts[after]) + offset if after < len(starts) else int(self._first[shard + 1])
        return int(starts[after - 1]) + offset, end

    def verify(self) -> None:
        """Hold every shard against its checksum. Raises BadFile for the first that is damaged."""
        for number in range(len(self.index.shards)):
            self._open(number)

    def _opened(self, number: int) -> tuple[Any, np.ndarray]:
        """The tokens of a shard as something to slice, on the map, and its starts."""
        shard = self.index.shards[number]
        path = self.folder / shard.name
        if number not in self._verified:
            refuse_damaged(path, shard)
            self._verified.add(number)
        try:
            with safe_open(path, "np") as file:
                return file.get_slice("tokens"), file.get_tensor("starts")
        except (OSError, SafetensorError) as error:
            raise BadFile(f"{printable(path)} cannot be read: {printable(error)}. {_REPAIR}") from error


def refuse_damaged(path: Path, shard: Shard) -> None:
    """Raises BadFile where a shard is missing or has not the bytes that were written."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadFile(f"{printable(path)} cannot be read: {error.strerror}. {_REPAIR}") from error
    if found != shard.sha256:
        raise BadFile(
            f"{printable(path)} is damaged: its sha256 begins with {found[:12]}, the index says {shard.sha256[:12]}. "
            f"{_REPAIR}"
        )


def _read_index(folder: Path) -> Index:
    path = folder / INDEX
    shown = printable(path)
    try:
        found = json.loads(path.read_bytes())
        if found.pop("format") != _FORMAT:
            raise BadFile(f"{shown} is of a format that this smidgen does not know. {_REPAIR}")
        shards = [Shard(**shard) for shard in found.pop("shards")]
        index = Index(shards=shards, **found)
    except OSError as error:
        raise BadFile(f"{printable(folder)} is no corpus: it has no {INDEX}. Make one with `smidgen data`.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadFile(f"{shown} is damaged: {printable(error)}. {_REPAIR}") from error
    if any(Path(shard.name).name != shard.name for shard in index.shards) or not index.shards:
        raise BadFile(f"{shown} is damaged: it names files elsewhere, or none. {_REPAIR}")
    return index
