"""The graphs compute what our decoder does, for every family and with every feature turned up."""

from pathlib import Path

import pytest
import torch

from smidgen.exporting.litert.folder import write_litert
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from tests.exporting.litert.running import MIXED, Running, decoder_of, write_portable
from tests.family_models import CONTEXT, save_folder

_BOUND = 2e-4  # on logits of about 1, all in float32
_FAMILIES = ["gemma", "gemma2", "gemma3", "llama3", "mistral", "qwen2", "qwen3"]


def tokens(length: int) -> torch.Tensor:
    return torch.randint(0, 250, (1, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def assert_the_same(model: Path, out: Path, length: int = 40) -> None:
    """Token by token, and after prompts that fill a prefill's graph or do not."""
    with open_checkpoint(model) as checkpoint:
        ours, theirs = decoder_of(checkpoint), Running(out)
    ids = tokens(length)
    wanted = ours(ids)[0]
    assert (theirs(ids) - wanted).abs().max() < _BOUND
    theirs.clear()
    theirs.prefill(ids[:, :16], 16)
    theirs.prefill(ids[:, 16:29], 16)
    theirs.prefill(ids[:, 29:35], 128)
    assert (theirs(ids[:, 35:]) - wanted[35:]).abs().max() < _BOUND


@pytest.mark.parametrize("family", _FAMILIES)
def test_plain(family: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_folder(family, tmp_path / "model")
    with open_checkpoint(tmp_path / "model") as checkpoint:
        write_litert(checkpoint, tmp_path / "out", dtype="float32")
    assert_the_same(tmp_path / "model", tmp_path / "out")


@pytest.mark.parametrize("embedding", [types.Q4_0, types.Q8_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("family", ["gemma3", "llama3"])
def test_codes_are_the_weights(family: str, embedding: types.BlockType, tmp_path: Path) -> None:
    model = write_portable(family, tmp_path, MIXED | {"token_embd.weight": embedding, "output.weight": types.Q8_0})
    with open_checkpoint(model) as checkpoint:
        write_litert(checkpoint, tmp_path / "out", exact=True)
    assert_the_same(model, tmp_path / "out")


@torch.no_grad()
@pytest.mark.parametrize("family", ["gemma3", "llama3"])
def test_what_meets_codes_is_rounded(family: str, tmp_path: Path) -> None:
    model = write_portable(family, tmp_path, MIXED | {"token_embd.weight": types.Q8_0, "output.weight": types.Q8_0})
    with open_checkpoint(model) as checkpoint:
        write_litert(checkpoint, tmp_path / "out")
        ours, theirs = decoder_of(checkpoint), Running(tmp_path / "out")
    wanted = ours(tokens(30))[0]
    apart = (theirs(tokens(30)) - wanted).std() / wanted.std()
    print("apart", apart)
    assert _BOUND < apart < 0.1
