"""What a model writes by itself, written by many workers of a Ray cluster (`distill.cluster`)."""

from collections.abc import Callable
from functools import partial

from smidgen.data.self_written import self_written
from smidgen.data.sources import TextSource
from smidgen.distill.cluster import Job, map_on_ray
from smidgen.engines.torch import TorchEngine
from smidgen.formats.catalogue import cache_folder
from smidgen.formats.checkpoint import load
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import set_quiet

_SEEDS_APART = 1_000_003  # so that the jobs of one seed are not those of the next


def written_on_ray(
    model: str, tokens: int, seed: int, workers: int, address: str, *, tokens_a_job: int = 1 << 16
) -> TextSource:
    """About `tokens` tokens of `self_written` calibration text: the same whatever the number of workers.

    Each job draws from a seed of its own, and is kept in the cache of the host that did it.
    """
    jobs: list[Job] = [
        {"seed": seed * _SEEDS_APART + place, "tokens": min(tokens_a_job, tokens - start)}
        for place, start in enumerate(range(0, tokens, tokens_a_job))
    ]
    pieces = map_on_ray(partial(_author, model), jobs, workers, address)
    return TextSource.of("self-written", "\n\n".join(piece["text"] for piece in pieces))


def _author(model: str) -> Callable[[Job], Job]:
    """What a worker does, with the model loaded."""
    set_quiet(True)
    checkpoint = load(model)
    engine, tokenizer = TorchEngine(checkpoint), Tokenizer.from_gguf(checkpoint.file.metadata)

    def write(job: Job) -> Job:
        source = self_written(
            engine, tokenizer, checkpoint.sha256(), job["tokens"], job["seed"], "calibration",
            cache_folder() / "self-written",
        )  # fmt: skip
        return {"text": source.text}

    return write
