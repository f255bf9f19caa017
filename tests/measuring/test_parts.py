"""Bytes by part: every byte of both files has its place."""

from dataclasses import replace

from smidgen.measuring.parts import PARTS, bytes_by_part, rows
from smidgen.model.families import FAMILIES
from tests.measuring.test_card import model, tensors_of
from tests.tiny_models import LLAMA_CONFIG


def test_all_parts_together_are_the_file() -> None:
    found = bytes_by_part(model("big", "Q8_0", 200_000), model("small", "Q4_0", 110_000))
    assert list(found) == ["embedding", "attention", "feed_forward", "others", "head", "beside_tensors"]
    assert sum(part["original"] for part in found.values()) == 200_000
    assert sum(part["cut"] for part in found.values()) == 110_000
    assert all(part["cut"] >= 0 for part in found.values())


def test_experts_biases_and_stacked_matrices_are_where_they_belong() -> None:
    layer = replace(LLAMA_CONFIG.layers[0], qkv_bias=True, experts=2, experts_used=1)
    mixture = FAMILIES["llama"].gguf_layout(replace(LLAMA_CONFIG, layers=(layer,), tied_head=True))
    facts = replace(model("some", "Q4_0", 10**6), tensors=tensors_of(mixture, "Q4_0"))
    found = bytes_by_part(facts, facts)
    assert found["experts"]["cut"] and found["others"]["cut"] and "feed_forward" not in found and "head" not in found
    stacked = replace(facts, tensors=tensors_of(FAMILIES["phi3"].gguf_layout(LLAMA_CONFIG), "Q4_0"))
    apart = replace(facts, tensors=tensors_of(FAMILIES["llama"].gguf_layout(LLAMA_CONFIG), "Q4_0"))
    assert bytes_by_part(stacked, stacked) == bytes_by_part(apart, apart)


def test_a_folder_of_which_only_the_weights_are_counted_has_nothing_beside_them() -> None:
    facts = model("folder", "Q4_0", 10)
    assert "beside_tensors" not in bytes_by_part(facts, facts)


def test_parts_of_a_later_version_keep_their_key() -> None:
    both = {"original": 2, "cut": 1}
    assert rows({"adapters": both, "embedding": both}) == [("Embedding", 2, 1), ("adapters", 2, 1)]
    assert all(name[0].isupper() for name in PARTS.values())
