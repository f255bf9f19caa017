"""Questions to the engine whose answers are one JSON object."""

import json
from typing import Any

from smidgen.serving.answers.events import refusal_of
from smidgen.serving.answers.model import AnsweringModel


async def call(model: AnsweringModel, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The engine's answer. Raises Refusal with its words where it refuses, EngineEnded where it ends."""
    async with model.upstream.exchange("POST", path, body) as answer:
        raw = await answer.read()
    if answer.status != 200:
        raise refusal_of(answer.status, raw)
    return json.loads(raw)
