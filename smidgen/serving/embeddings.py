"""`/v1/embeddings`: vectors of texts, the mean of the hidden states over a text's tokens, of length 1."""

import base64
import json
import struct
from dataclasses import replace
from typing import Any

from smidgen.serving.answers.events import refusal_of
from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.answers.prompts import prompts_of
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked


async def embed(model: AnsweringModel, asked: Asked) -> dict[str, Any]:
    """The vectors of the inputs of a request. Raises Refusal for one that is empty or too long."""
    try:
        ids = [prompt.ids for prompt in await prompts_of(model, replace(asked, prompts=asked.inputs, max_tokens=0))]
    except Refusal as refusal:
        refusal.param = "input"
        raise
    async with model.upstream.exchange("POST", "/v1/embeddings", {"input": ids}) as answer:
        raw = await answer.read()
        if answer.status != 200:
            raise refusal_of(answer.status, raw)
    found = json.loads(raw)
    vectors = [one["embedding"] for one in sorted(found["data"], key=lambda one: one["index"])]
    width = len(vectors[0])
    if asked.dimensions is not None and asked.dimensions != width:
        raise Refusal(f"this model's vectors have {width} numbers, and are not shortened.", param="dimensions")
    used = sum(map(len, ids))
    return {
        "object": "list",
        "model": model.name,
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, asked.encoding_format)}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def _encoded(vector: list[float], form: str) -> list[float] | str:
    """As numbers, or as base64 of little-endian float32."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if form == "base64" else vector
