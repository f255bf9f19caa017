"""The pieces of work on a corpus, each for a process of its own, and what they leave in `DIR/work`.

A part is some megabytes of documents that follow one another in the sources. It is sifted (filtered, hashed, given
its MinHash signatures), and, once it is known which of its documents are duplicates, tokenized into one shard. What is
finished is written under its own name in one step, with a record that says of which text it was made, so that a resumed
run repeats only what is missing.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from smidgen.atomic import replacing, write_whole
from smidgen.data.corpus.duplicates import exact_hash, write_signatures
from smidgen.data.corpus.filters import Filter, Rules
from smidgen.data.corpus.shards import Shard, refuse_damaged, write_shard
from smidgen.errors import BadFile
from smidgen.model.tokenizer import MetadataValue, Tokenizer


@dataclass(frozen=True)
class Sifted:
    """What came out of a part. digest: of the documents that went in.  hashes: of those kept, for exact duplicates."""

    digest: str
    read: int
    dropped: dict[str, int]
    hashes: list[str]


def digest_of(texts: Iterable[str]) -> str:
    """SHA-256 of documents, one after another, each behind its length."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def sifted_already(part: int, digest: str, work: Path) -> Sifted | None:
    """The record of a part that is sifted, where it was made of the same documents."""
    path = _record(part, work)
    if not path.exists():
        return None
    found = Sifted(**json.loads(path.read_text()))
    return found if found.digest == digest else None


def sift(part: int, texts: list[str], digest: str, work: Path, rules: Rules, near: bool) -> Sifted:
    """Filter a part's documents and keep the rest, with signatures if near duplicates are to be found."""
    _record(part, work).unlink(missing_ok=True)
    reasons = [_filter(rules).reason(text) for text in texts]
    kept = [text for text, reason in zip(texts, reasons, strict=True) if reason is None]
    data = "".join(json.dumps(text) + "\n" for text in kept).encode()
    with replacing(_texts(part, work), len(data)) as file:
        file.write(data)
    if near:
        write_signatures(kept, part, work)
    dropped = Counter(reason for reason in reasons if reason is not None)
    sifted = Sifted(digest, len(texts), dict(sorted(dropped.items())), [exact_hash(text) for text in kept])
    write_whole(_record(part, work), json.dumps(asdict(sifted)))
    return sifted


def tokenize(part: int, without: Collection[int], work: Path, output: Path) -> Shard | None:
    """Write a part's shard, without some of its documents; None where no document is left.

    Needs `use_tokenizer` before.
    """
    record = work / f"shard-{part:05d}.json"
    made_of = [json.loads(_record(part, work).read_text())["digest"], sorted(without)]
    if (shard := _tokenized_already(record, made_of, output)) is not None:
        return shard
    with _texts(part, work).open(encoding="utf-8") as file:
        kept = [json.loads(line) for number, line in enumerate(file) if number not in without]
    tokenizer, end = _tokenizer()
    encoded = ([*tokenizer.encode(text, add_bos=tokenizer.adds_bos), *end] for text in kept)
    documents = [ids for ids in encoded if ids]
    if not documents:
        return None
    shard = write_shard(output / f"shard-{part:05d}.safetensors", documents, len(tokenizer))
    write_whole(record, json.dumps({"made_of": made_of, "shard": asdict(shard)}))
    return shard


def _tokenized_already(record: Path, made_of: list[Any], output: Path) -> Shard | None:
    if not record.exists():
        return None
    found = json.loads(record.read_text())
    shard = Shard(**found["shard"])
    try:
        refuse_damaged(output / shard.name, shard)
    except BadFile:
        return None
    return shard if found["made_of"] == made_of else None


_metadata: Mapping[str, MetadataValue] = {}


def use_tokenizer(metadata: Mapping[str, MetadataValue]) -> None:
    """Say, once in each process, with which model's tokenizer this process tokenizes."""
    global _metadata
    _metadata = metadata
    _tokenizer.cache_clear()


@cache
def _tokenizer() -> tuple[Tokenizer, list[int]]:
    """The tokenizer, and what ends a document: the model's own end-of-text token, where it has one."""
    tokenizer = Tokenizer.from_gguf(_metadata)
    end = tokenizer.special_texts.get("eos_token")
    return tokenizer, [] if end is None else tokenizer.encode(end, parse_special=True)[-1:]


@cache
def _filter(rules: Rules) -> Filter:
    return Filter(rules)


def _record(part: int, work: Path) -> Path:
    return work / f"part-{part:05d}.json"


def _texts(part: int, work: Path) -> Path:
    return work / f"part-{part:05d}.jsonl"
