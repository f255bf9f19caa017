"""card.json: the contract's keys, nulls with reasons, and files that appear whole or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import SmidgenError
from smidgen.measuring.card import SPEED_KEYS, Fidelity, ModelFacts, TensorFacts, build_card, write_card

ROLES = {
    "query": "attention", "key": "attention", "value": "attention", "output": "attention",
    "gate": "feed_forward", "up": "feed_forward", "down": "feed_forward",
}  # fmt: skip


def model(name: str, kind: str, size: int) -> ModelFacts:
    matrices = [TensorFacts("embedding.weight", "Q8_0", 8.5, 3200, 3400)]
    matrices += [
        TensorFacts(f"blocks.{layer}.{part}.{role}.weight", kind, 4.5, 6400, 3600)
        for layer in range(3)
        for role, part in ROLES.items()
    ]
    return ModelFacts(name, Path(f"/models/{name}.gguf"), "ab" * 32, size, 200_000, tuple(matrices))


def text(name: str, kl: float, language: str | None = None, seen: float | None = None) -> Fidelity:
    figures = {
        "tokens": 8192, "windows": 17, "bytes": 33_000, "kl_mean": kl, "kl_standard_error": 0.002, "kl_p99": kl * 9,
        "kl_p999": kl * 30, "same_top1": 0.873, "bits_per_byte_original": 0.912, "bits_per_byte_cut": 0.931,
    }  # fmt: skip
    return Fidelity(name, "cd" * 32, figures, language, seen)


def speed(rate: float) -> dict[str, Any]:
    return {
        "path": "/models/x.gguf", "prompt_tokens_per_s": 10 * rate, "decode_tokens_per_s": rate,
        "peak_ram_bytes": 300_000_000, "threads": 2, "machine": "a machine", "engine": "llama.cpp",
        "energy": {"joules_per_token": None, "reason": "no counter"},
    }  # fmt: skip


STEPS = [
    {
        "step": "quantize", "parameters": {"fit": 110_000, "texts": []},
        "tensors": [
            {"name": tensor.name, "damage": 0.001 * place} for place, tensor in enumerate(model("x", "Q4_0", 1).tensors)
        ],
    }
]  # fmt: skip


def full_card() -> dict[str, Any]:
    return build_card(
        model("big", "Q8_0", 200_000), model("small", "Q4_0", 110_000),
        [text("prose", 0.06), text("fr", 0.05, "fr"), text("de", 0.09, "de")],
        steps=STEPS, speed=[speed(40.0), speed(60.0)], cost={"seconds": 400.0, "peak_ram_bytes": 2_000_000_000},
        settings={"seed": 0, "machine": "a machine", "seconds": 12.0},
    )  # fmt: skip


def test_the_contract() -> None:
    card = full_card()
    assert card["schema"] == 1
    assert {"name", "path", "sha256", "bytes", "parameters"} <= card["original"].keys()
    assert {"path", "sha256", "bytes", "parameters", "bits_per_weight"} <= card["cut"].keys()
    assert card["cut"]["bits_per_weight"] == pytest.approx(8 * 110_000 / 200_000)
    wanted = {"text", "sha256", "tokens", "kl_mean", "kl_p99", "kl_p999", "same_top1"}
    wanted |= {"bits_per_byte_original", "bits_per_byte_cut"}
    assert all(wanted <= entry.keys() for entry in card["fidelity"])
    assert list(card["languages"]) == ["de", "fr"]
    assert wanted <= card["languages"]["de"].keys()
    assert set(SPEED_KEYS) <= card["speed"].keys() and set(SPEED_KEYS) <= card["speed"]["original"].keys()
    assert (card["speed"]["decode_tokens_per_s"], card["speed"]["original"]["decode_tokens_per_s"]) == (60.0, 40.0)
    assert card["energy"]["joules_per_token"] is None and card["energy"]["reason"] == "no counter"
    assert card["cost"] == {"seconds": 400.0, "peak_ram_bytes": 2_000_000_000}
    assert (card["tasks"], card["safety"]) == ({}, {})
    first = card["cut"]["tensors"][1]
    assert (first["layer"], first["role"], first["kind"], first["original_kind"]) == (0, "query", "Q4_0", "Q8_0")


def test_what_was_not_measured_is_null_with_a_reason() -> None:
    card = build_card(model("a", "Q8_0", 9), model("b", "Q4_0", 5), [], speed_reason="no engine")
    assert all(card["speed"][key] is None for key in SPEED_KEYS) and card["speed"]["reason"] == "no engine"
    assert card["energy"]["reason"] and card["cost"]["reason"]


def test_json_and_page_are_written_side_by_side(tmp_path: Path) -> None:
    card = full_card()
    page = write_card(card, tmp_path / "card.json")
    assert page == tmp_path / "card.html"
    assert json.loads((tmp_path / "card.json").read_text("utf-8")) == card
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.html", "card.json"]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="-o"):
        write_card(full_card(), tmp_path / "missing" / "card.json")
    broken = full_card()
    broken["fidelity"][0]["kl_mean"] = float("nan")
    with pytest.raises(ValueError):
        write_card(broken, tmp_path / "card.json")
    assert not list(tmp_path.iterdir())
