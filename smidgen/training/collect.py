"""The verb `data`: text from anywhere as a corpus for one model, tokenized once (`data.corpus`)."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from smidgen.bounds import MOST_THREADS, several, within
from smidgen.data.corpus.prepare import CorpusOptions, prepare
from smidgen.data.corpus.shards import INDEX, Index
from smidgen.formats.hub.catalogue import ModelName
from smidgen.formats.opening import open_model
from smidgen.shell import path_of
from smidgen.sizes import format_size


@dataclass(frozen=True)
class CollectResult:
    """Where the corpus is, and what became of the documents."""

    path: Path
    index: Index
    seconds: float

    def to_json(self) -> str:
        """One JSON object: what `index.json` holds, without the list of shards."""
        index = asdict(self.index)
        shards = index.pop("shards")
        counted = {"shards": len(shards), "tokens": self.index.tokens, "sha256": self.index.sha256()}
        return json.dumps({"path": str(self.path), **counted, **index, "seconds": round(self.seconds, 1)})

    def describe(self) -> str:
        """For people: what was kept, and what was dropped by which rule."""
        counts, index = self.index.counts, self.index
        size = sum((self.path / shard.name).stat().st_size for shard in index.shards)
        lines = [f"{counts['read']} documents read, {counts['kept']} kept"]
        lines += [f"  {rule.replace('_', ' ')}: {number} dropped" for rule, number in counts["dropped"].items()]
        if counts["malformed"]:
            lines.append(f"  malformed lines: {counts['malformed']} skipped")
        shards = f"{len(index.shards)} shard{'s' * (len(index.shards) != 1)}"
        lines.append(f"{self.path / INDEX}: {index.tokens} tokens in {shards}, {format_size(size)}")
        return "\n".join(lines)


def collect(
    model: ModelName, sources: str | Path | Sequence[str | Path], output: str | Path,
    options: CorpusOptions | None = None, *, workers: int = 1, resume: bool = False,
) -> CollectResult:  # fmt: skip
    """Make the corpus `output` for `model` out of files, folders, patterns and hub data sets. Raises as `prepare`.

    With more than one of `workers` a script that calls this needs its `if __name__ == "__main__":`.
    """
    started = time.monotonic()
    within("workers", workers, 1, MOST_THREADS)
    with open_model(model) as checkpoint:
        metadata = dict(checkpoint.file.metadata)
    output = path_of(output)
    index = prepare(several("sources", sources), metadata, output, options, workers=workers, resume=resume)
    return CollectResult(output, index, time.monotonic() - started)
