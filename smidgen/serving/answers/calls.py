"""Calls of tools that must come: the answer is begun with the words that open one (requests/forcing.py)."""

import json

from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.requests.asked import Asked
from smidgen.serving.requests.forcing import PROBE, begun_with, opening_of_calls


class RequiredCalls:
    """Knows how each model's template opens a call; llama.cpp is asked once for each."""

    def __init__(self) -> None:
        self._openings: dict[str, str | None] = {}

    async def begun(self, model: AnsweringModel, asked: Asked) -> Asked:
        """The request with a begun answer where a call is required; the same request elsewhere."""
        if asked.tool_choice != "required" or not asked.tools or model.upstream.dialect != "llama.cpp":
            return asked
        if model.name not in self._openings:
            self._openings[model.name] = await _opening(model)
        opening = self._openings[model.name]
        return asked if opening is None else begun_with(asked, opening)


async def _opening(model: AnsweringModel) -> str | None:
    async with model.upstream.exchange("POST", "/v1/chat/completions", PROBE) as answer:
        raw = await answer.read()
        return opening_of_calls(json.loads(raw)) if answer.status == 200 else None
