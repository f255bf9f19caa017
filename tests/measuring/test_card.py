"""card.json: the contract's keys, nulls with reasons, and files that appear whole or not at all."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import SmidgenError
from smidgen.measuring.card import SPEED_KEYS, build_card, refuse_replacing, write_card
from smidgen.measuring.facts import Fidelity, Making, ModelFacts, TensorFacts
from smidgen.model.families import FAMILIES, Layout
from smidgen.owned import claim, settle
from tests.tiny_models import LLAMA_CONFIG

LAYOUT = FAMILIES["llama"].gguf_layout(LLAMA_CONFIG)  # three layers, a head of its own


def tensors_of(layout: Layout, kind: str) -> tuple[TensorFacts, ...]:
    """The tensors that a file with this layout has, named as there: matrices of `kind`, an embedding of Q8_0."""
    found = []
    for name, shape in layout.shapes.items():
        kinds = ("F32", 32.0) if len(shape) == 1 else (kind, 4.5)
        kinds = ("Q8_0", 8.5) if layout.members[name] == ["embedding.weight"] else kinds
        size = math.prod(shape)
        found.append(TensorFacts(name, *kinds, size, int(size * kinds[1] / 8), tuple(layout.members[name])))
    return tuple(found)


def model(name: str, kind: str, size: int, layers: tuple[int, ...] | None = (0, 1, 2)) -> ModelFacts:
    tensors = (*tensors_of(LAYOUT, kind), TensorFacts("rope_freqs.weight", "F32", 32.0, 8, 32))
    return ModelFacts(name, Path(f"/models/{name}.gguf"), "ab" * 32, size, 200_000, tensors, layers)


def text(name: str, kl: float, language: str | None = None, seen: float | None = None) -> Fidelity:
    figures = {
        "tokens": 8192, "windows": 17, "bytes": 33_000, "kl_mean": kl, "kl_standard_error": 0.002, "kl_p99": kl * 9,
        "kl_p999": kl * 30, "same_top1": 0.873, "bits_per_byte_original": 0.912, "bits_per_byte_cut": 0.931,
    }  # fmt: skip
    return Fidelity(name, "cd" * 32, figures, language, seen)


def speed(rate: float) -> dict[str, Any]:
    return {
        "path": "/models/x.gguf", "prompt_tokens_per_s": 10 * rate, "decode_tokens_per_s": rate,
        "resident_bytes": 280_000_000, "peak_ram_bytes": 300_000_000, "threads": 2, "machine": "a machine",
        "engine": "llama.cpp",
        "energy": {"joules_per_token": None, "reason": "no counter"},
    }  # fmt: skip


STEPS = [
    {
        "step": "quantize", "parameters": {"fit": 110_000, "texts": []},
        "tensors": [
            {"name": tensor.name, "damage": 0.001 * place}
            for place, tensor in enumerate(tensors_of(LAYOUT, "Q4_0"))
            if tensor.kind != "F32"
        ],
    }
]  # fmt: skip


def full_card() -> dict[str, Any]:
    return build_card(
        model("big", "Q8_0", 200_000), model("small", "Q4_0", 110_000),
        [text("prose", 0.06), text("fr", 0.05, "fr"), text("de", 0.09, "de")],
        making=Making(STEPS, cost={"seconds": 400.0, "peak_ram_bytes": 2_000_000_000}),
        speed=[speed(40.0), speed(60.0)],
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
    tensors = {tensor["name"]: tensor for tensor in card["cut"]["tensors"]}
    query = tensors["blk.0.attn_q.weight"]
    assert (query["layer"], query["role"], query["kind"], query["original_kind"]) == (0, "query", "Q4_0", "Q8_0")
    assert (card["original"]["path"], card["cut"]["path"]) == ("big.gguf", "small.gguf")  # no folder of this machine


def test_every_tensor_is_listed_with_its_place_as_far_as_it_is_known() -> None:
    places = {tensor["name"]: (tensor["layer"], tensor["role"]) for tensor in full_card()["cut"]["tensors"]}
    assert places.keys() == {*LAYOUT.shapes, "rope_freqs.weight"}
    assert places["token_embd.weight"] == (None, "embedding") and places["output.weight"] == (None, "head")
    assert places["output_norm.weight"] == (None, "final_norm") and places["rope_freqs.weight"] == (None, None)
    assert places["blk.2.attn_norm.weight"] == (2, "attention_norm") and places["blk.2.ffn_up.weight"] == (2, "up")


def test_stacked_parameters_and_biases_say_all_that_they_are() -> None:
    layer = replace(LLAMA_CONFIG.layers[0], qkv_bias=True, experts=2, experts_used=1)
    phi3 = FAMILIES["phi3"].gguf_layout(LLAMA_CONFIG)
    roles = {tensor.name: tensor.role for tensor in tensors_of(phi3, "Q4_0")}
    assert roles["blk.0.attn_qkv.weight"] == "query+key+value" and roles["blk.0.ffn_up.weight"] == "gate+up"
    mixture = FAMILIES["llama"].gguf_layout(replace(LLAMA_CONFIG, layers=(layer,)))
    roles = {tensor.name: tensor.role for tensor in tensors_of(mixture, "Q4_0")}
    assert roles["blk.0.ffn_down_exps.weight"] == "down" and roles["blk.0.ffn_gate_inp.weight"] == "router"
    assert roles["blk.0.attn_q.bias"] == "query_bias"


def test_where_layers_were_taken_out_each_is_beside_the_one_that_it_was() -> None:
    *before, last = model("big", "Q8_0", 9).tensors
    before = [replace(tensor, kind="F16") if tensor.layer == 2 else tensor for tensor in before]
    original = replace(model("big", "Q8_0", 9), tensors=(*before, last))
    two = FAMILIES["llama"].gguf_layout(replace(LLAMA_CONFIG, layers=LLAMA_CONFIG.layers[:2]))
    for layers, kinds in (((0, 2), {0: "Q8_0", 1: "F16"}), (None, {0: None, 1: None})):
        cut = replace(model("small", "Q4_0", 5), tensors=tensors_of(two, "Q4_0"), layers=layers)
        tensors = build_card(original, cut, [])["cut"]["tensors"]
        assert {entry["layer"]: entry["original_kind"] for entry in tensors if entry["role"] == "up"} == kinds
        assert [entry["original_kind"] for entry in tensors if entry["role"] == "embedding"] == ["Q8_0"]


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


def test_a_card_replaces_a_card_and_nothing_else(tmp_path: Path) -> None:
    card, page = tmp_path / "card.json", tmp_path / "card.html"
    refuse_replacing(card)
    write_card(full_card(), card)
    refuse_replacing(card)
    for file, other in ((card, '{"schema": 1, "name": "Anna"}'), (page, "<title>Report card: Anna</title>")):
        kept = file.read_text("utf-8")
        file.write_text(other)
        with pytest.raises(SmidgenError, match=f"{file.name} is there, and smidgen did not write it"):
            refuse_replacing(card)
        file.write_text(kept, "utf-8")
    claim(tmp_path, [card.name])
    settle(tmp_path)
    card.write_text(card.read_text("utf-8") + " ", "utf-8")
    with pytest.raises(SmidgenError, match="it was changed since smidgen wrote it"):
        refuse_replacing(card)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="there is no folder .*; make it first"):
        write_card(full_card(), tmp_path / "missing" / "card.json")
    broken = full_card()
    broken["fidelity"][0]["kl_mean"] = float("nan")
    with pytest.raises(ValueError):
        write_card(broken, tmp_path / "card.json")
    assert not list(tmp_path.iterdir())
