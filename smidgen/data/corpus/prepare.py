"""From sources to a folder of shards: read, sift, find duplicates, tokenize; in parallel, and to be resumed.

One process reads, in the sources' order, and closes a part after so many bytes of text; what the other processes do
with parts does not depend on how many they are, so neither do the shards. Until the index is written everything else is
in `DIR/work`: it needs about the room of the text that is kept.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from smidgen.atomic import write_whole
from smidgen.data.corpus.documents import Document, Source, open_sources
from smidgen.data.corpus.duplicates import BANDS, duplicates, match_band
from smidgen.data.corpus.filters import Rules, versions
from smidgen.data.corpus.parts import Sifted, digest_of, sift, sifted_already, tokenize, use_tokenizer
from smidgen.data.corpus.shards import INDEX, SHARDS, Index, tokenizer_hash
from smidgen.data.corpus.workers import Workers
from smidgen.data.json_lines import stop
from smidgen.errors import SmidgenError, printable
from smidgen.model.tokenizer import MetadataValue, Tokenizer
from smidgen.progress import Task, say, track

WORK = "work"
_SETTINGS = "settings.json"
_TOKENIZER_KEYS = "tokenizer."


@dataclass(frozen=True)
class CorpusOptions:
    """What becomes of the documents.

    deduplicate: drop those that are there already, exactly or nearly.  field: that holds the text of JSONL and Parquet.
    skip_bad: count malformed lines instead of stopping.  limit: documents to read of each source at most.
    part_bytes: of text that become one shard.
    """

    rules: Rules = field(default_factory=Rules)
    deduplicate: bool = True
    field: str = "text"
    skip_bad: bool = False
    limit: int | None = None
    part_bytes: int = 16 << 20


def prepare(
    arguments: Sequence[str | Path], metadata: Mapping[str, MetadataValue], output: Path,
    options: CorpusOptions | None = None, *, workers: int = 1, resume: bool = False,
) -> Index:  # fmt: skip
    """Make the corpus `output` out of all sources that `arguments` name (`documents`).

    metadata: of the model's GGUF, for its tokenizer.  resume: go on with what an interrupted run of the same settings
    left; sources are read again from their beginning, but what was made of the same text is not made again.
    Raises SmidgenError (BadFile) for sources, settings and folders that will not do, and when the disk is full.
    """
    options = options or CorpusOptions()
    sources = open_sources(arguments, options.field)
    if not sources:
        raise SmidgenError("there is nothing to read: give a file, a folder, a pattern, or hf:org/name.")
    of_tokenizer = {key: value for key, value in metadata.items() if key.startswith(_TOKENIZER_KEYS)}
    tokenizer, hashed = Tokenizer.from_gguf(of_tokenizer), tokenizer_hash(of_tokenizer)
    settings = asdict(options) | {"tokenizer": hashed, "packages": versions()}
    work = _workspace(output, settings | {"sources": [source.name for source in sources]}, resume)
    reading = _Reading(options)
    with Workers(workers, use_tokenizer, of_tokenizer) as pool:
        parts = _sift_all(reading, sources, pool, work)
        without = _find_duplicates(parts, pool, work, options.deduplicate)
        counts = _counts(parts, without, reading.malformed)
        jobs = ((number, exact | near, work, output) for number, (exact, near) in enumerate(without))
        with track("tokenizing", len(parts)) as task:
            shards = [shard for shard in _watched(pool.run(tokenize, jobs), task) if shard is not None]
    if not shards:
        raise SmidgenError(f"no document is left of {counts['read']}: {_listed(counts['dropped'])}. Relax the rules.")
    bos = tokenizer.bos_id if tokenizer.adds_bos else None
    index = Index(hashed, len(tokenizer), bos, shards, json.loads(json.dumps(settings)), reading.sources, counts)
    _remove_shards(output, but={shard.name for shard in shards})
    index.write(output)
    shutil.rmtree(work)
    return index


def _workspace(output: Path, settings: Mapping[str, Any], resume: bool) -> Path:
    """`DIR/work`, with what an interrupted run of the same settings left if that is to be resumed."""
    shown, work = printable(output), output / WORK
    if (output / INDEX).exists():
        raise SmidgenError(f"{shown} holds a finished corpus already. Choose another folder with -o, or remove it.")
    asked = json.loads(json.dumps(settings))
    if work.exists() and any(work.iterdir()):
        path = work / _SETTINGS
        if not path.exists():
            raise SmidgenError(
                f"{printable(work)} is in the way: no corpus has made it. Choose another folder with -o."
            )
        found = json.loads(path.read_text())
        if resume and found != asked:
            differs = next(key for key in asked | found if asked.get(key) != found.get(key))
            raise SmidgenError(
                f"{shown} was begun with another {differs}: {printable(found.get(differs), 60)}, now it is "
                f"{printable(asked.get(differs), 60)}. Resume with the same, or leave out --resume to begin anew."
            )
        if not resume:
            shutil.rmtree(work)
            _remove_shards(output)
    elif any(output.glob(SHARDS)):
        raise SmidgenError(f"{shown} holds shards of another corpus. Choose another folder with -o, or remove them.")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmidgenError(f"{shown} cannot be made: {error.strerror}. Choose another folder with -o.") from error
    write_whole(work / _SETTINGS, json.dumps(asked))
    return work


def _remove_shards(output: Path, but: Collection[str] = ()) -> None:
    """Shards that an earlier run left of text that has changed since."""
    for path in output.glob(SHARDS):
        if path.name not in but:
            path.unlink()


class _Reading:
    """All documents of all sources, counted and hashed as they pass."""

    def __init__(self, options: CorpusOptions) -> None:
        self.options = options
        self.malformed = 0
        self.sources: list[dict[str, Any]] = []

    def parts(self, sources: Sequence[Source], task: Task) -> Iterator[list[str]]:
        """The texts of one part after another."""
        part: list[str] = []
        size = 0
        for document in self._documents(sources):
            part.append(document.text)
            size += len(document.text.encode("utf-8"))
            task.advance(document.size)
            if size >= self.options.part_bytes:
                yield part
                part, size = [], 0
        if part:
            yield part

    def _documents(self, sources: Sequence[Source]) -> Iterator[Document]:
        for source in sources:
            digest, number = hashlib.sha256(), 0
            malformed = self._count_malformed if self.options.skip_bad else stop
            for document in islice(source.read(malformed), self.options.limit):
                number += 1
                digest.update(digest_of([document.text]).encode())
                yield document
            self.sources.append({"name": source.name, "documents": number, "sha256": digest.hexdigest()})

    def _count_malformed(self, message: str) -> None:
        self.malformed += 1
        if self.malformed == 1:
            say(f"Skipped: {message}")


def _sift_all(reading: _Reading, sources: Sequence[Source], pool: Workers, work: Path) -> list[Sifted]:
    options = reading.options
    found: dict[int, Sifted] = {}
    numbers: list[int] = []

    def jobs() -> Iterator[tuple[Any, ...]]:
        for number, texts in enumerate(reading.parts(sources, task)):
            digest = digest_of(texts)
            done = sifted_already(number, digest, work)
            if done is not None:
                found[number] = done
            else:
                numbers.append(number)
                yield number, texts, digest, work, options.rules, options.deduplicate

    with track("reading and sifting", max(1, sum(source.size for source in sources)), in_bytes=True) as task:
        for place, sifted in enumerate(pool.run(sift, jobs())):
            found[numbers[place]] = sifted
    return [found[number] for number in sorted(found)]


def _find_duplicates(
    parts: Sequence[Sifted], pool: Workers, work: Path, wanted: bool
) -> list[tuple[set[int], set[int]]]:
    if not wanted:
        return [(set(), set()) for _ in parts]
    with track("finding duplicates", BANDS) as task:
        for _ in _watched(pool.run(match_band, ((band, work) for band in range(BANDS))), task):
            pass
    return duplicates([part.hashes for part in parts], work)


def _watched(results: Iterable[Any], task: Task) -> Iterator[Any]:
    for result in results:
        task.advance()
        yield result


def _counts(parts: Sequence[Sifted], without: Sequence[tuple[set[int], set[int]]], malformed: int) -> dict[str, Any]:
    dropped = Counter[str]()
    for part in parts:
        dropped.update(part.dropped)
    exact, near = (sum(len(found[kind]) for found in without) for kind in (0, 1))
    dropped.update({"exact_duplicate": exact, "near_duplicate": near})
    read = sum(part.read for part in parts)
    gone = {rule: number for rule, number in sorted(dropped.items()) if number}
    return {"read": read, "kept": read - sum(gone.values()), "dropped": gone, "malformed": malformed}


def _listed(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {rule}" for rule, number in dropped.items()) or "there was none"
