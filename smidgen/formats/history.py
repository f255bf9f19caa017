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


def with_step(metadata: Mapping[str, MetadataValue], step: Mapping[str, Any]) -> str:
    """The value of `HISTORY` once `step` is done too."""
    return json.dumps([*history(metadata), dict(step)], ensure_ascii=False)
