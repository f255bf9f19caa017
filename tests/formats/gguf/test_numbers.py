"""Numbers and types at which llama.cpp ends its process are refused, whatever the architecture."""

import math
from typing import Any

import numpy as np
import pytest

from smidgen.errors import BadFile, Unsupported
from smidgen.formats.gguf.numbers import check_numbers, check_tensors, refuse_other_kinds
from smidgen.formats.gguf.reader import TensorInfo
from smidgen.numerics.block_types import BY_ID

SOUND = {
    "block_count": 4, "context_length": 4096, "embedding_length": 64, "attention.head_count": 4,
    "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5, "rope.dimension_count": 16,
}  # fmt: skip


def check(architecture: str = "internlm2", **changes: Any) -> None:
    values = SOUND | {key.replace("__", "."): value for key, value in changes.items()}
    check_numbers({f"{architecture}.{key}": value for key, value in values.items()}, architecture)


FINE: list[dict[str, Any]] = [
    {},
    {"architecture": "came_later", "attention__key_length": 24, "attention__value_length": 16},
    {"architecture": "phi3", "rope__dimension_count": 12},  # not all of a head turns there
    {"architecture": "minimax-m2", "rope__dimension_count": 8},
    {"architecture": "came_later", "rope__dimension_count": 8},
    {"architecture": "glm5-next", "rope__dimension_count": 0},
    {"architecture": "mamba", "attention__head_count": 0, "attention__head_count_kv": 0, "rope__dimension_count": None},
    {"attention__head_count": np.array([4, 0, 4, 4]), "attention__head_count_kv": np.array([2, 0, 1, 4])},
    {"expert_count": 8, "expert_used_count": 2},
    {"expert_count": 8, "expert_used_count": np.array([1, 2, 0, 8])},
    {"expert_count": 8, "expert_used_count": 2, "expert_group_count": 4, "expert_group_used_count": 2},
    {"architecture": "hunyuan-dense", "expert_count": 1, "expert_used_count": 1},
    {"attention__sliding_window": 0, "attention__sliding_window_pattern": 1},
    {"attention__sliding_window": 512, "attention__sliding_window_pattern": 6},
    {"attention__sliding_window": 512, "attention__sliding_window_pattern": np.array([True, False, True, False])},
    {"rope__scaling__type": "yarn"},
    {"nextn_predict_layers": 1},
    {"context_length": 2**31 - 1},
]


@pytest.mark.parametrize("changes", FINE, ids=str)
def test_sound_numbers_pass(changes: dict[str, Any]) -> None:
    check(**{key: value for key, value in changes.items() if value is not None})


ABSURD: list[dict[str, Any]] = [
    {"block_count": 0},
    {"block_count": 513},
    {"context_length": 2**31},
    {"embedding_length": 2**32 - 1},
    {"embedding_length_out": 2**32 - 2},
    {"attention__layer_norm_rms_epsilon": math.nan},
    {"rope__freq_base": math.inf},
    {"rope__scaling__type": "su"},
    {"nextn_predict_layers": 4},
    {"expert_used_count": 2},
    {"expert_count": 4},
    {"expert_count": 4, "expert_used_count": 5},
    {"expert_count": 4, "expert_used_count": np.array([1, 1, 5, 1])},
    {"expert_count": 2000, "expert_used_count": 1},
    {"expert_count": 8, "expert_used_count": 2, "expert_group_count": 3},
    {"expert_count": 8, "expert_used_count": 2, "expert_group_count": 4},
    {"architecture": "glm4moe"},
    {"attention__head_count_kv": 3},
    {"attention__head_count_kv": np.array([2, 2, 3, 2])},
    {"attention__head_count": 65},
    {"attention__value_length": 8},
    {"attention__key_length": 24},
    {"rope__dimension_count": 15},
    {"architecture": "minicpm", "rope__dimension_count": 0},
    {"rope__dimension_count": 18},
    {"rope__dimension_count": 8},
    {"architecture": "gemma3", "rope__dimension_count_swa": 300},
    {"architecture": "gemma3", "rope__dimension_count_swa": 1},
    {"attention__sliding_window": 512, "attention__sliding_window_pattern": 1},
    {"attention__sliding_window": 512, "attention__sliding_window_pattern": np.zeros(4, bool)},
]


@pytest.mark.parametrize("changes", ABSURD, ids=str)
def test_absurd_numbers_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadFile, match="should be") as caught:
        check(**changes)
    assert str(caught.value).isprintable()


def tensor(name: str, kind: str, *shape: int) -> dict[str, TensorInfo]:
    kinds = {kind.name: kind for kind in BY_ID.values()}
    return {name: TensorInfo(name, shape, kinds[kind], 0, 0)}


def test_matrices_of_every_type_that_is_multiplied_pass() -> None:
    for kind in ("F16", "BF16", "Q4_K", "IQ3_S", "IQ1_M", "TQ1_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0"):
        check_tensors(tensor("blk.0.ffn_down.weight", kind, 256, 256))
    check_tensors(tensor("blk.0.ffn_gate_tid2eid.weight", "I32", 6, 64) | tensor("d2t", "I64", 64))


@pytest.mark.parametrize("kind", ["I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"])
def test_matrices_of_others_are_refused(kind: str) -> None:
    with pytest.raises(BadFile, match=f"stored as {kind}, which nothing multiplies with"):
        check_tensors(tensor("blk.0.ffn_down.weight", kind, 256, 256))


@pytest.mark.parametrize("name", ["blk.0.attn_norm.weight", "output_norm.weight", "blk.0.attn_q.bias"])
def test_vectors_are_float32(name: str) -> None:
    check_tensors(tensor(name, "F32", 256))
    with pytest.raises(BadFile, match="stored as F16, but biases, norms and other vectors must be F32"):
        check_tensors(tensor(name, "F16", 256))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"general.type": "adapter", "general.architecture": "llama"}, "is an adapter, not a model"),
        ({"general.type": "mmproj", "general.architecture": "clip"}, "mmproj"),
        ({"general.architecture": "clip"}, "mmproj"),
        ({"general.type": "imatrix"}, "importance matrix"),
        ({"general.architecture": "bert", "bert.attention.causal": False}, "does not write one token after the other"),
        ({"general.architecture": "t5"}, "does not write one token after the other"),
    ],
)
def test_files_that_are_no_language_model_are_named(header: dict[str, Any], message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        refuse_other_kinds(header)
    refuse_other_kinds({"general.type": "model", "general.architecture": "llama"})
