"""The speed of models in llama.cpp for benchmarks, which need every figure: on a busy machine there is none, said."""

from collections.abc import Sequence
from pathlib import Path

from smidgen.engines.llama_cpp.bench import measure_speed
from smidgen.engines.llama_cpp.loading import Loading
from smidgen.engines.llama_cpp.speed_result import SpeedResult
from smidgen.errors import SmidgenError

_SECONDS = 3600.0  # a benchmark may take its time


def rates(
    paths: Sequence[Path], threads: int, repeats: int, loadings: Sequence[Loading] | None = None
) -> list[SpeedResult]:
    """As `measure_speed`, with short prompts alone. Raises SmidgenError where the machine was too busy for a rate."""
    found = measure_speed(paths, threads, repeats, loadings, contexts=(), seconds=_SECONDS)
    for one in found:
        if one["reason"] is not None:
            raise SmidgenError(f"{Path(one['path']).name}: {one['reason']}.")
    return found
