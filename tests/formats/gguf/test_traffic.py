"""Bytes that one token reads, counted by hand."""

from pathlib import Path

import pytest

from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.traffic import bytes_per_token
from tests.gguf_forms import plain, write_parts
from tests.mutated_gguf import ARRAY, Parts, mixture
from tests.tiny_models import VOCABULARY


def counted(parts: Parts, folder: Path) -> int:
    (folder / "model.gguf").write_bytes(parts.as_bytes())
    with GGUFFile.open(folder / "model.gguf") as file:
        return bytes_per_token(file)


def stored(parts: Parts, *within: str) -> int:
    """Bytes of the float32 tensors whose names hold one of these texts."""
    total = 0
    for name, shape, _, _ in parts.tensors:
        size = 4
        for length in shape:
            size *= length
        total += size if any(text in name for text in within) else 0
    return total


def test_a_head_of_its_own_makes_the_embedding_one_row(tmp_path: Path) -> None:
    parts = plain()
    all_but_rows = stored(parts, "") - (VOCABULARY - 1) * 256 * 4
    assert counted(parts, tmp_path) == all_but_rows
    with GGUFFile.open(write_parts(parts, tmp_path)[1]) as file:
        assert bytes_per_token(file) == all_but_rows


def test_a_shared_embedding_is_read_whole(tmp_path: Path) -> None:
    parts = plain().copy()
    parts.tensors = [tensor for tensor in parts.tensors if tensor[0] != "output.weight"]
    assert counted(parts, tmp_path) == stored(parts, "")


@pytest.mark.parametrize("used", [1, 2, 4])
def test_of_experts_those_that_are_used(tmp_path: Path, used: int) -> None:
    parts = mixture(plain())
    parts.metadata["llama.expert_used_count"] = ((4,), used)
    dense = counted(plain(), tmp_path)
    router, experts = stored(parts, "gate_inp"), stored(parts, "_exps")
    assert experts == 4 * stored(plain(), "ffn_gate.", "ffn_up", "ffn_down")
    assert counted(parts, tmp_path) == dense + router + experts * used // 4 - experts // 4


def test_experts_of_each_layer(tmp_path: Path) -> None:
    parts = mixture(plain())
    both = counted(parts, tmp_path)  # two of four
    parts.metadata["llama.expert_used_count"] = ((ARRAY, 4), [1, 3])
    assert counted(parts, tmp_path) == both
    parts.metadata["llama.expert_used_count"] = ((ARRAY, 4), [1, 2])
    assert counted(parts, tmp_path) == both - stored(parts, "_exps") // 8


def test_layers_that_predict_further_ahead_are_not_read(tmp_path: Path) -> None:
    parts = plain().copy()
    parts.metadata["llama.nextn_predict_layers"] = ((4,), 1)
    assert counted(parts, tmp_path) == counted(plain(), tmp_path) - stored(parts, "blk.1.")
