"""The real engine, once for each module, and its scorer."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from smidgen.engines.llama_cpp.engine import read_facts, require_chat_template
from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.answers.scorer import PromptScorer
from smidgen.serving.upstream import LocalUpstream


@dataclass(frozen=True)
class Running:
    """A model that runs. loop: where everything that it does must run.

    model: its conversations are rendered by llama.cpp.  rendering: the same, but they are rendered by us.
    """

    model: AnsweringModel
    rendering: AnsweringModel
    scorer: PromptScorer
    loop: asyncio.Runner


@pytest.fixture(scope="module")
def running(smollm_path: Path) -> Iterator[Running]:
    scorer = PromptScorer(smollm_path, threads=1)
    engine = LlamaServer(smollm_path, ctx_size=512, parallel=2, threads=1)
    with asyncio.Runner() as loop, engine as server:
        facts = read_facts(smollm_path)
        model = AnsweringModel("ours", facts, LocalUpstream(server, 2), scorer)
        yield Running(model, replace(model, template=require_chat_template(facts)), scorer, loop)
        loop.run(scorer.aclose())
