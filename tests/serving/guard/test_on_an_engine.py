"""The whole way on a real model, which is no guard and says so: both protocols, through llama.cpp."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smidgen.engines.llama_cpp.engine import Facts
from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.serving.guard import judging
from smidgen.serving.guard.defaults import default_policies
from smidgen.serving.guard.judging import Guard
from smidgen.serving.guard.protocols import choose_protocol
from smidgen.serving.upstream import LocalUpstream


@pytest.fixture(scope="module")
def server(smollm_path: Path) -> Iterator[LlamaServer]:
    with LlamaServer(smollm_path, ctx_size=384, threads=1, parallel=1) as server:
        yield server


def guard_on(server: LlamaServer, facts: Facts, protocol: str, count: int = 2) -> Guard:
    spoken = choose_protocol(facts.metadata, protocol)
    policies = [replace(one, seconds=120) for one in default_policies(spoken.name)[:count]]
    return Guard(LocalUpstream(server, 1), facts, spoken, policies)


@pytest.mark.parametrize("protocol", ["shieldgemma", "llama-guard"])
def test_a_model_that_is_no_guard_is_undecided(server: LlamaServer, facts: Facts, protocol: str) -> None:
    found = asyncio.run(guard_on(server, facts, protocol).judge("prompt", [], "How do I bake bread?"))
    assert {one.verdict for one in found} == {"undecided"}
    assert {one.consequence for one in found} == {"refuse"}
    assert "it answers neither" in found[0].reason


@pytest.mark.parametrize("protocol", ["shieldgemma", "llama-guard"])
def test_with_any_share_it_gives_a_probability(
    server: LlamaServer, facts: Facts, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "LEAST_SHARE", 1e-30)
    monkeypatch.setattr(judging, "_ALTERNATIVES", 4096)
    long = "Bread is made of flour and water. " * 25  # more than the context
    messages: list[dict[str, Any]] = [{"role": "user", "content": "How do I bake bread?"}]

    async def judged() -> None:
        guard = guard_on(server, facts, protocol, 1)
        for text in ("Mix flour and water.", long):
            for one in await guard.judge("answer", messages, text):
                # What it names as categories, should it say "unsafe", is no matter here.
                assert one.verdict == "undecided" or one.probability is None or 0 <= one.probability <= 1
                assert "neither" not in one.reason and "fit" not in one.reason

    asyncio.run(judged())


def test_an_engine_that_was_ended_is_undecided(smollm_path: Path, facts: Facts) -> None:
    server = LlamaServer(smollm_path, ctx_size=384, threads=1, parallel=1)
    guard = guard_on(server, facts, "shieldgemma")
    server.close()
    found = asyncio.run(guard.judge("prompt", [], "How do I bake bread?"))
    assert [one.verdict for one in found] == ["undecided"]
