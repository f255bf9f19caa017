"""What was done to a model, step by step, as its GGUF metadata say it. Torch-free."""

import json
from collections.abc import Mapping
from typing import Any

from smidgen.formats.gguf.reader import MetadataValue

#: Metadata key with the steps that made a model, first to last, as JSON.
HISTORY = "smidgen.history"
_LONGEST = 2**20  # characters; of a stranger's file more is not even parsed


def history(metadata: Mapping[str, MetadataValue]) -> list[dict[str, Any]]:
    """The steps that made a model, as far as its file says; a history that makes no sense is none."""
    text = metadata.get(HISTORY)
    if not isinstance(text, str) or len(text) > _LONGEST:
        return []
    try:
        steps = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def kept_layers(
    before: Mapping[str, MetadataValue], after: Mapping[str, MetadataValue], layers: int, left: int
) -> tuple[int, ...] | None:
    """For each layer of a cut, its number in the original, as the cut's history says; None where it makes no sense.

    before, after: metadata of the original and of the cut.  layers, left: how many layers they have.
    """
    known, steps = history(before), history(after)
    if steps[: len(known)] == known:
        steps = steps[len(known) :]
    numbers = list(range(layers))
    for step in steps:
        gone = _removed(step)
        numbers = [number for place, number in enumerate(numbers) if place not in gone]
    return tuple(numbers) if len(numbers) == left else None


def _removed(step: Mapping[str, Any]) -> set[int]:
    """The layers that a step took out, in the numbers that they had then."""
    parameters = step.get("parameters")
    runs = parameters.get("removed") if step.get("step") == "depth" and isinstance(parameters, dict) else None
    runs = runs if isinstance(runs, list) else []
    return {layer for run in runs if isinstance(run, list) for layer in run if isinstance(layer, int)}


def with_step(metadata: Mapping[str, MetadataValue], step: Mapping[str, Any]) -> str:
    """The value of `HISTORY` once `step` is done too."""
    return json.dumps([*history(metadata), dict(step)], ensure_ascii=False)
