"""The graphs compute what our decoder does, for every family and with every feature turned up."""

from pathlib import Path

import pytest
import torch

from smidgen.exporting.litert.folder import write_litert
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from tests.exporting.graph_models import decoder_of
from tests.exporting.litert.running import MIXED, Running, write_portable
from tests.family_models import save_folder

_FLOAT32, _INT16 = 2e-4, 1e-2  # the largest difference of logits of about 1
_FAMILIES = ["gemma", "gemma2", "gemma3", "llama3", "mistral", "qwen2", "qwen3"]


def tokens(length: int) -> torch.Tensor:
    return torch.randint(0, 250, (1, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def assert_the_same(model: Path, out: Path, bound: float, length: int = 40) -> None:
    """Token by token, and after prompts that fill a graph for prompts or do not."""
    with open_checkpoint(model) as checkpoint:
        ours, theirs = decoder_of(checkpoint), Running(out)
    ids = tokens(length)
    wanted = ours(ids)[0]
    assert (theirs(ids) - wanted).abs().max() < bound
    theirs.clear()
    theirs.prefill(ids[:, :16], 16)
    theirs.prefill(ids[:, 16:29], 16)
    theirs.prefill(ids[:, 29:35], 128)
    assert (theirs(ids[:, 35:]) - wanted[35:]).abs().max() < bound


@pytest.mark.parametrize("family", _FAMILIES)
def test_plain(family: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_folder(family, tmp_path / "model")
    with open_checkpoint(tmp_path / "model") as checkpoint:
        write_litert(checkpoint, tmp_path / "out", dtype="float32")
    assert_the_same(tmp_path / "model", tmp_path / "out", _FLOAT32)


@pytest.mark.parametrize("embedding", [types.Q4_0, types.Q8_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "llama3", "qwen2"])
def test_codes(family: str, embedding: types.BlockType, tmp_path: Path) -> None:
    """Tied heads and heads of their own, in both types that are kept."""
    model = write_portable(family, tmp_path, MIXED | {"token_embd.weight": embedding, "output.weight": types.Q8_0})
    with open_checkpoint(model) as checkpoint:
        write_litert(checkpoint, tmp_path / "out")
    assert_the_same(model, tmp_path / "out", _INT16)


@torch.no_grad()
def test_eight_bits_are_near_and_sixteen_nearer(tmp_path: Path) -> None:
    """By the standard deviation, as part of that of the logits."""
    model = write_portable("llama3", tmp_path, MIXED | {"token_embd.weight": types.Q8_0, "output.weight": types.Q8_0})
    apart = {}
    with open_checkpoint(model) as checkpoint:
        wanted = decoder_of(checkpoint)(tokens(30))[0]
        for int8 in (True, False):
            write_litert(checkpoint, tmp_path / f"{int8}", int8=int8)
            apart[int8] = (Running(tmp_path / f"{int8}")(tokens(30)) - wanted).std() / wanted.std()
    assert 50 * apart[False] < apart[True] < 0.1
