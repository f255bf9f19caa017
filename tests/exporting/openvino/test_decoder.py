"""Every family as a graph in OpenVINO: what our own decoder predicts from the same weights.

Windows are shorter than the texts, caps bite, there is more than one group of queries.
"""

from pathlib import Path

import pytest
import torch

from smidgen.exporting.openvino.folder import write_openvino
from smidgen.formats.opening import open_checkpoint
from smidgen.model.decoder import Cache
from smidgen.numerics import block_types as types
from tests.cutting.commands import run
from tests.cutting.test_pruned_cut import TEXT
from tests.exporting.graph_models import MIXED, decoder_of, write_quantized
from tests.exporting.openvino.running import Running
from tests.family_models import FAMILY_MODELS, VOCABULARY, WINDOW, save_folder
from tests.tiny_models import write_gemma3

_BOUND = 5e-5  # of logits of order one, in float32
_FAMILIES = [family for family in FAMILY_MODELS if family != "mixtral"]
_LENGTHS = (1, WINDOW - 1, WINDOW, WINDOW + 1, 50)
_PROMPT = 5


def tokens(count: int, batch: int = 1, vocabulary: int = VOCABULARY) -> torch.Tensor:
    return torch.randint(0, vocabulary, (batch, count), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_the_same(model: Path, folder: Path, bound: float = _BOUND) -> None:
    """Prompts of several lengths at once; and one token at a time beyond the window, and several after them."""
    with open_checkpoint(model) as checkpoint:
        ids = tokens(max(_LENGTHS), vocabulary=checkpoint.config.vocabulary)
        ours, theirs = decoder_of(checkpoint), Running(folder)
    for length in _LENGTHS:
        theirs.clear()
        wanted = ours(ids[:, :length])
        assert wanted.std() > 0.3
        assert (theirs(ids[:, :length]) - wanted).abs().max() < bound, length
    cache = Cache(ours.config, 1, ids.shape[1])
    theirs.clear()
    steps = [_PROMPT] + [1] * (ids.shape[1] - 2 * _PROMPT) + [_PROMPT]
    for part in ids.split(steps, dim=1):
        assert (theirs(part) - ours(part, cache)).abs().max() < bound, cache.length


@pytest.mark.parametrize("family", _FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_folder(family, tmp_path / "model")
    with open_checkpoint(tmp_path / "model") as checkpoint:
        write_openvino(checkpoint, tmp_path / "out")
    assert_the_same(tmp_path / "model", tmp_path / "out")


@pytest.mark.parametrize(
    ("family", "embedding"),
    [("gemma2", types.Q4_0), ("gemma3", types.Q4_1), ("llama3", types.Q8_0), ("qwen2", types.Q4_1)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_quantized(family: str, embedding: types.BlockType, tmp_path: Path) -> None:
    """Tied heads and heads of their own."""
    model = write_quantized(family, tmp_path, MIXED | {"token_embd.weight": embedding, "output.weight": embedding})
    with open_checkpoint(model) as checkpoint:
        write_openvino(checkpoint, tmp_path / "out")
        assert sum(checkpoint.kind(name) == embedding for name in checkpoint.names())
    assert_the_same(model, tmp_path / "out")


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
        write_openvino(checkpoint, tmp_path / "out")
    assert_the_same(tmp_path / "cut/model.gguf", tmp_path / "out")


@torch.no_grad()
@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_rows_of_a_batch(family: str, tmp_path: Path) -> None:
    """Padded on the left, as OpenVINO GenAI does; and rows that go on from others, as beams do."""
    (tmp_path / "model").mkdir()
    save_folder(family, tmp_path / "model")
    with open_checkpoint(tmp_path / "model") as checkpoint:
        write_openvino(checkpoint, tmp_path / "out")
        ours, theirs = decoder_of(checkpoint), Running(tmp_path / "out")
    padding, ids, beams = [0, 8, 3], tokens(12, 3), [1, 1, 0]
    found = theirs(ids, padding)
    for row, count in enumerate(padding):
        assert (found[row, count:] - ours(ids[row : row + 1, count:])[0]).abs().max() < _BOUND
    more = tokens(1, 3)
    found = theirs(more, [padding[beam] for beam in beams], beams)
    for row, beam in enumerate(beams):
        text = torch.cat((ids[beam, padding[beam] :], more[row]))[None]
        assert (found[row, -1] - ours(text)[0, -1]).abs().max() < _BOUND


@torch.no_grad()
def test_what_the_folder_says_is_heard(tmp_path: Path) -> None:
    """Without settings of one's own activations are not rounded, and keys and values are kept in 16 bits."""
    model = write_quantized("qwen3", tmp_path, MIXED | {"token_embd.weight": types.Q8_0})
    with open_checkpoint(model) as checkpoint:
        write_openvino(checkpoint, tmp_path / "out")
        wanted = decoder_of(checkpoint)(tokens(30))
    theirs = Running(tmp_path / "out", {"INFERENCE_PRECISION_HINT": "f32"})
    assert theirs.compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
    assert theirs.compiled.get_property("KV_CACHE_PRECISION").to_string() == "f16"
    assert (theirs(tokens(30)) - wanted).abs().max() < 0.02


def test_codes_stay_codes_in_memory(tmp_path: Path) -> None:
    """Products and look-ups take numbers of 4 and 8 bits, and OpenVINO's own operators stand for our patterns."""
    model = write_quantized("gemma3", tmp_path, MIXED | {"token_embd.weight": types.Q4_0})
    with open_checkpoint(model) as checkpoint:
        write_openvino(checkpoint, tmp_path / "out")
    steps = [step.get_rt_info() for step in Running(tmp_path / "out").compiled.get_runtime_model().get_ordered_ops()]
    kinds = [(step["layerType"].astype(str), step["runtimePrecision"].astype(str)) for step in steps]
    count = {kind: kinds.count(kind) for kind in kinds}
    assert count["FullyConnected", "i4"] == 4 * 2 + 1  # queries, the last of the feed-forward network; the head
    assert count["FullyConnected", "u4"] == 4 * 3
    assert count["FullyConnected", "i8"] == 4 * 2
    assert count["Gather", "i4"] == 1
    assert count["RMS", "f32"] == 4 * 6 + 1 and count["RoPE", "f32"] == 4 * 2
    assert count["ScaledDotProductAttention", "f32"] == 4
