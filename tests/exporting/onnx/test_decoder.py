"""Every family as a graph in ONNX Runtime: what our own decoder predicts from the same weights.

Windows are shorter than the texts, caps bite, there is more than one group of queries.
"""

from pathlib import Path

import pytest
import torch

from smidgen.exporting.onnx.folder import write_onnx
from smidgen.formats.opening import open_checkpoint
from smidgen.model.decoder import Cache
from smidgen.numerics import block_types as types
from tests.cutting.commands import run
from tests.cutting.test_pruned_cut import TEXT
from tests.exporting.graph_models import MIXED, decoder_of, write_quantized
from tests.exporting.onnx.sessions import Running
from tests.family_models import FAMILY_MODELS, VOCABULARY, WINDOW, save_folder
from tests.tiny_models import write_gemma3

_BOUND = 5e-5  # of logits of order one, in float32
_FAMILIES = [family for family in FAMILY_MODELS if family != "mixtral"]
_LENGTHS = (1, WINDOW - 1, WINDOW, WINDOW + 1, 20, 50)
_PROMPT = 5


def tokens(count: int, batch: int = 1, vocabulary: int = VOCABULARY) -> torch.Tensor:
    return torch.randint(0, vocabulary, (batch, count), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_the_same(model: Path, folder: Path, bound: float = _BOUND, capacity: int | None = None) -> None:
    """Prompts of several lengths at once; and one token at a time beyond the window, and several after them."""
    with open_checkpoint(model) as checkpoint:
        ids = tokens(max(_LENGTHS), vocabulary=checkpoint.config.vocabulary)
        ours, theirs = decoder_of(checkpoint), Running(folder, checkpoint.config, capacity=capacity)
    for length in _LENGTHS:
        theirs.clear()
        wanted = ours(ids[:, :length])[:, -1]
        assert wanted.std() > 0.3
        assert (theirs(ids[:, :length]) - wanted).abs().max() < bound, length
    cache = Cache(ours.config, 1, ids.shape[1])
    theirs.clear()
    steps = [_PROMPT] + [1] * (ids.shape[1] - 2 * _PROMPT) + [_PROMPT]
    for part in ids.split(steps, dim=1):
        assert (theirs(part) - ours(part, cache)[:, -1]).abs().max() < bound, cache.length


@pytest.mark.parametrize("family", _FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_folder(family, tmp_path / "model")
    with open_checkpoint(tmp_path / "model") as checkpoint:
        write_onnx(checkpoint, tmp_path / "out")
    assert_the_same(tmp_path / "model", tmp_path / "out")


@pytest.mark.parametrize("embedding", [types.Q4_0, types.Q4_1, types.Q8_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "llama3", "qwen2"])
def test_quantized(family: str, embedding: types.BlockType, tmp_path: Path) -> None:
    """Tied heads and heads of their own; a cache that is written in place."""
    model = write_quantized(family, tmp_path, MIXED | {"token_embd.weight": embedding, "output.weight": types.Q8_0})
    with open_checkpoint(model) as checkpoint:
        write_onnx(checkpoint, tmp_path / "out")
        assert sum(checkpoint.kind(name) == embedding for name in checkpoint.names())
    assert_the_same(model, tmp_path / "out", capacity=60)


def test_a_model_that_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trimmed vocabulary, fewer layers than the pattern of windows has, narrower networks, and types that fit."""
    monkeypatch.chdir(tmp_path)
    write_gemma3(tmp_path / "tiny.gguf")
    (tmp_path / "own.txt").write_text(TEXT)
    options = "--tokens 1024 --threads 1 --vocab 280 --layers 4 --ffn 64 --types Q4_0,Q8_0 --fit 150kB --no-measure"
    done = run(["cut", "tiny.gguf", "-o", "cut", "--text", "own.txt", *options.split()])
    assert done.code == 0, done.err
    with open_checkpoint(tmp_path / "cut/model.gguf") as checkpoint:
        config = checkpoint.config
        assert (config.vocabulary, len(config.layers), config.layers[0].ffn_width) == (280, 4, 64)
        assert {types.Q4_0, types.Q8_0} & {checkpoint.kind(name) for name in checkpoint.names()}
        write_onnx(checkpoint, tmp_path / "out")
    assert_the_same(tmp_path / "cut/model.gguf", tmp_path / "out")


@torch.no_grad()
def test_int8_activations_are_near(tmp_path: Path) -> None:
    model = write_quantized("qwen3", tmp_path, MIXED | {"token_embd.weight": types.Q8_0})
    with open_checkpoint(model) as checkpoint:
        write_onnx(checkpoint, tmp_path / "out", int8=True)
        ours, theirs = decoder_of(checkpoint), Running(tmp_path / "out", checkpoint.config)
    wanted = ours(tokens(30))[:, -1]
    apart = (theirs(tokens(30)) - wanted).std() / wanted.std()
    assert _BOUND < apart < 0.1


@torch.no_grad()
def test_rows_of_a_batch_that_are_shorter(tmp_path: Path) -> None:
    """Padded on the right, as onnxruntime-genai does: each row's logits are those of its own last token."""
    (tmp_path / "model").mkdir()
    save_folder("gemma2", tmp_path / "model")
    with open_checkpoint(tmp_path / "model") as checkpoint:
        write_onnx(checkpoint, tmp_path / "out")
        ours, theirs = decoder_of(checkpoint), Running(tmp_path / "out", checkpoint.config, batch=3)
    lengths, ids = [12, 4, 9], tokens(12, 3)
    found = theirs(ids, lengths)
    for row, length in enumerate(lengths):
        assert (found[row] - ours(ids[row : row + 1, :length])[0, -1]).abs().max() < _BOUND
