"""Damaged and hostile files: the engine's process may end, the one that asked it may not, and nothing waits forever."""

from pathlib import Path

import pytest

from smidgen.engines.llama_cpp import process
from smidgen.engines.llama_cpp import server as supervision
from smidgen.engines.llama_cpp.engine import LlamaCppEngine, Sampling
from smidgen.engines.llama_cpp.server import BUILT_IN_TEMPLATE, LlamaServer
from smidgen.errors import SmidgenError
from tests.mutated_gguf import mutated, mutations, passes

SEED, COUNT = 1, 30


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LOADING_S", 20)
    monkeypatch.setattr(supervision, "_CHECK_EVERY_S", 0.2)
    monkeypatch.setattr(supervision, "_PATIENCE_S", 10)


def test_files_that_pass_our_checks_write_or_are_refused_in_one_line(tmp_path: Path) -> None:
    path, written = tmp_path / "mutated.gguf", 0
    for raw in mutations(SEED, COUNT):
        path.write_bytes(raw)
        try:
            with LlamaCppEngine(path, ctx_size=16, threads=1) as engine:
                engine.stream("abc 1", 3, Sampling(temperature=0)).text()
                written += 1
        except SmidgenError as error:
            assert str(error).isprintable() and len(str(error)) < 1000
    assert written > COUNT // 3


def test_files_that_our_checks_refuse_would_not_end_us_either(tmp_path: Path) -> None:
    """Should a check miss one, the child is what ends."""
    tried = 0
    for number in range(1000):
        raw = mutated(number).as_bytes()
        if passes(raw, tmp_path):
            continue
        try:
            with LlamaServer(tmp_path / "mutated.gguf", ctx_size=16, threads=1, template=BUILT_IN_TEMPLATE) as server:
                server.call("/completion", {"prompt": [5, 6, 7], "n_predict": 2})
        except SmidgenError as error:
            assert str(error).isprintable()
        tried += 1
        if tried == COUNT:
            return
    pytest.fail("too few files were refused")
