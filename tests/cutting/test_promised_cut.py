"""Whole cuts to a speed and to a memory, with the engine's place taken by a machine whose rates are known."""

import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from smidgen.cutting import budget, rehearsal
from smidgen.cutting.cut import cut
from smidgen.cutting.recipe import CutOptions, read_recipe
from smidgen.errors import BudgetError, SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.traffic import shares_read
from smidgen.formats.workspace import Workspace
from smidgen.numerics.block_types import BlockType
from tests.cutting.commands import sha256
from tests.parity.test_kept_llama_cpp import tiny
from tests.tiny_models import write_gemma3

KNOWN, REAL = 2e-8, 2.4e-8  # seconds a byte: what was measured for each type, and what short rows really take
BESIDE = 0.001, 50_000  # seconds and bytes that no weights take
SAVED = {"f16": 0, "q4_0": 30_000}  # bytes, by a smaller cache


def rate(path: Path) -> float:
    """Tokens a second of a file."""
    with GGUFFile.open(path) as file:
        read = sum(share * file.tensors[name].nbytes for name, share in shares_read(file).items())
    return 1 / (BESIDE[0] + REAL * read)


@pytest.fixture
def kept() -> list[str]:
    """How keys and values were kept, of each file that was measured."""
    return []


@pytest.fixture
def model(own_folder: Path, monkeypatch: pytest.MonkeyPatch, kept: list[str]) -> Path:
    def measure(paths: Sequence[Path], *_: Any, kv: Sequence[str], **__: Any) -> list[dict[str, Any]]:
        kept.extend(kv)
        return [
            {
                "decode_tokens_per_s": rate(path), "reason": None, "busy": {"sentence": None},
                "resident_bytes": path.stat().st_size + BESIDE[1] - SAVED[one],
            }
            for path, one in zip(paths, kv, strict=True)
        ]  # fmt: skip

    def type_rates(kinds: Collection[BlockType], threads: int | None) -> dict[str, float]:
        return {kind.name: KNOWN for kind in kinds}

    for room in (budget, rehearsal):
        monkeypatch.setattr(room, "measure_speed", measure)
    monkeypatch.setattr(budget, "type_rates", type_rates)
    monkeypatch.setattr(rehearsal, "_QUICKER", 1.0)
    letters = random.Random(4)
    text = "".join(letters.choice("abcdefghijklmnopqrstuvwxyz ,.") for _ in range(4000))
    (own_folder / "text.txt").write_text(text)
    return write_gemma3(own_folder / "tiny.gguf")


def test_a_speed_that_is_asked_for_is_met_and_the_recipe_makes_the_same_file(model: Path) -> None:
    """The predictions are off by a fifth here; the trial of the plan sets them right."""
    asked = 3.0 * rate(model)
    done = cut(model, "out", speed=asked, texts="text.txt", tokens=1024, measured=False)
    assert done.path is not None
    assert asked <= rate(done.path) <= 1.05 * asked
    assert "Tried beforehand" in done.plan and "of the budget" not in done.plan
    again = cut(model, "again", read_recipe(Path("out/recipe.toml"), "text.txt"), measured=False)
    assert again.path is not None and sha256(again.path) == sha256(done.path)


def test_a_memory_that_is_asked_for_is_kept_to(model: Path) -> None:
    asked = BESIDE[1] + model.stat().st_size // 3
    done = cut(model, "out", ram=asked, texts="text.txt", tokens=1024, measured=False)
    assert 0.95 * asked <= done.size + BESIDE[1] <= asked


def test_a_memory_counts_the_cache_that_was_asked_for(own_folder: Path, model: Path, kept: list[str]) -> None:
    """A smaller one leaves more bytes for the weights, from the first measurement to the last trial."""
    wide = tiny(own_folder / "wide.gguf", 32)
    asked = BESIDE[1] + wide.stat().st_size // 2
    small = cut(wide, "small", ram=asked, texts="text.txt", tokens=1024, kv="q4_0", measured=False)
    assert set(kept) == {"q4_0"} and len(kept) > 1
    assert 0.95 * asked <= small.size + BESIDE[1] - SAVED["q4_0"] <= asked
    parameters = small.steps[-1]["parameters"]
    assert parameters["ram"] == asked and parameters["kv"] == "q4_0"


def test_a_cut_goes_on_only_with_the_cache_that_its_plan_was_tried_with(tmp_path: Path) -> None:
    tried, fit = CutOptions(ram=10**6), CutOptions(fit=10**6)
    Workspace.start(tmp_path / "work", tried.fingerprint("0" * 64, []))
    with pytest.raises(SmidgenError, match="was begun with kv 'f16', now it is 'q8_0'"):
        Workspace.resume(tmp_path / "work", tried.changed(kv="q8_0").fingerprint("0" * 64, []))
    assert fit.fingerprint("", []) == fit.changed(kv="q8_0").fingerprint("", []), "the file is the same"


def test_a_cache_for_which_nothing_is_measured_is_refused(model: Path) -> None:
    with pytest.raises(SmidgenError, match="--kv q8_0 is for the report card, for --speed and for --ram"):
        cut(model, "idle", fit="1MB", kv="q8_0", measured=False)
    assert not Path("idle").exists()


def test_what_cannot_be_had_is_refused_before_anything_is_read(model: Path) -> None:
    for limits, words in (({"speed": 0.99 / BESIDE[0]}, "tokens/s here"), ({"ram": BESIDE[1] + 9000}, "--ram")):
        with pytest.raises(BudgetError, match=words):
            cut(model, "out", texts="text.txt", tokens=1024, **limits)
        assert not Path("out").exists()


def test_where_types_cannot_be_timed_nothing_is_left_behind(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any) -> dict[str, float]:
        raise SmidgenError("the machine was too busy")

    monkeypatch.setattr(budget, "type_rates", busy)
    with pytest.raises(SmidgenError, match="too busy"):
        cut(model, "out", texts="text.txt", tokens=1024, speed=rate(model))
    assert not Path("out").exists()
