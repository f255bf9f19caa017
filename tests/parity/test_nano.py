"""Gemma 3n and Gemma 4 beside transformers and llama.cpp: read, run, and written again."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from smidgen.cutting.cut import cut
from smidgen.cutting.recipe import CutOptions, Pruning
from smidgen.distillation.objectives.matching import Matching
from smidgen.errors import SmidgenError, Unsupported
from smidgen.exporting.export import Format, export
from smidgen.formats.convert import write_as_gguf
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.writer import TensorPlan, write_gguf
from smidgen.formats.hf.writer import write_hf
from smidgen.formats.opening import open_checkpoint
from smidgen.model.decoder import Cache
from smidgen.model.families.family import refuse_misreading
from smidgen.model.parameters import BY_TOKEN
from smidgen.numerics.block_types import F32
from tests.family_models import VOCABULARY
from tests.nano_models import NANO_MODELS, WIDE, save, save_nano
from tests.parity.test_decoder_llama_cpp import LlamaCpp, log_probabilities
from tests.parity.test_families import LENGTHS, LOGIT_BOUND, assert_same_weights, decoder_of
from tests.parity.test_kept_llama_cpp import Quantized
from tests.parity.test_kept_llama_cpp import ours as with_cache

#: Models that can be written as GGUF files.
IN_GGUF = [name for name in NANO_MODELS if name != "gemma3n"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, nn.Module]]:
    """A model's folder as transformers writes it, and the model; made once."""
    made: dict[str, tuple[Path, nn.Module]] = {}

    def get(name: str) -> tuple[Path, nn.Module]:
        if name not in made:
            folder = tmp_path_factory.mktemp("nano")
            made[name] = folder, save_nano(name, folder)
        return made[name]

    return get


@pytest.fixture(params=NANO_MODELS)
def model(request: pytest.FixtureRequest, saved: Callable) -> tuple[Path, nn.Module]:
    return saved(request.param)


def some_ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_hugging_face_in(model: tuple[Path, nn.Module]) -> None:
    """The same logits in float32, shorter and longer than the window."""
    folder, theirs = model
    ids = some_ids(3, max(LENGTHS))
    with open_checkpoint(folder) as checkpoint:
        ours = decoder_of(checkpoint)
    for length in LENGTHS:
        wanted = theirs(input_ids=ids[:, :length]).logits
        assert wanted.std() > 0.3
        assert (ours(ids[:, :length]) - wanted).abs().max() < LOGIT_BOUND, length


@torch.no_grad()
@pytest.mark.parametrize("steps", [[1] * 41, [11, 1, 1, 9, 19]], ids=["one by one", "in pieces"])
def test_cached_equals_uncached(model: tuple[Path, nn.Module], steps: list[int]) -> None:
    """Layers that borrow read their lender's cache."""
    with open_checkpoint(model[0]) as checkpoint:
        decoder = decoder_of(checkpoint)
    ids = some_ids(3, 41)
    cache = Cache(decoder.config, len(ids), 41)
    pieces = [decoder(piece, cache) for piece in ids.split(steps, dim=1)]
    assert (torch.cat(pieces, dim=1) - decoder(ids)).abs().max() < LOGIT_BOUND


def test_gradients_with_checkpointing(model: tuple[Path, nn.Module]) -> None:
    """What later layers read of earlier ones carries gradients, also where blocks are computed again for them."""
    with open_checkpoint(model[0]) as checkpoint:
        decoder = decoder_of(checkpoint)
    ids, found = some_ids(2, 20), []
    for checkpointing in (False, True):
        decoder.checkpointing = checkpointing
        decoder.zero_grad()
        decoder(ids).log_softmax(-1)[..., 0].sum().backward()
        found.append({name: one.grad for name, one in decoder.named_parameters()})
    assert all(one is not None and one.any() for name, one in found[0].items() if ".correct." not in name)
    for name, one in found[0].items():
        assert torch.allclose(one, found[1][name], rtol=1e-3, atol=1e-5), name


@torch.no_grad()
def test_hugging_face_out(model: tuple[Path, nn.Module], tmp_path: Path) -> None:
    """What we write loads in transformers, nothing missing and nothing more, and comes back to us bit for bit."""
    folder, theirs = model
    with open_checkpoint(folder) as before:
        write_hf(before, tmp_path / "again")
        with open_checkpoint(tmp_path / "again") as after:
            assert after.config == before.config
            assert_same_weights(before, after)
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "again", output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    ids = some_ids(2, 50)
    assert (loaded(input_ids=ids).logits - theirs(input_ids=ids).logits).abs().max() < LOGIT_BOUND


def published(bare: Path, folder: Path) -> Path:
    """A bare folder as models are published: inside one that sees and hears, with matrices that nobody reads."""
    folder.mkdir()
    config = json.loads((bare / "config.json").read_text())
    kind = config["model_type"].removesuffix("_text")
    (folder / "config.json").write_text(
        json.dumps({"model_type": kind, "text_config": config, "vision_config": {"hidden_size": 8}})
    )
    weights = load_file(bare / "model.safetensors")
    unread = {}
    for layer in range(
        config["num_hidden_layers"] - config.get("num_kv_shared_layers", 0), config["num_hidden_layers"]
    ):
        names = (f"model.layers.{layer}.self_attn.{part}.weight" for part in ("k_proj", "v_proj", "k_norm"))
        unread |= {name: torch.ones(8, 8) for name in names if name not in weights}
    stored = {name.replace("model.", "model.language_model.", 1): one for name, one in (weights | unread).items()}
    towers = ("model.vision_tower.encoder.weight", "model.audio_tower.weight", "model.embed_vision.weight")
    save_file(stored | {name: torch.ones(8, 8) for name in towers}, folder / "model.safetensors")
    for path in bare.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_published_folders(model: tuple[Path, nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The language model inside a larger one; what is left out is said."""
    folder = published(model[0], tmp_path / "published")
    with open_checkpoint(model[0]) as bare, open_checkpoint(folder) as whole:
        assert whole.config == bare.config
        assert_same_weights(bare, whole)
        shared = sum(layer.borrows is not None for layer in bare.config.layers)
    said = capsys.readouterr().err
    assert "its parts for pictures and sounds are left out" in said
    assert (f"{shared} layers read keys and values of earlier ones" in said) == (shared > 0)


@pytest.mark.parametrize("name", IN_GGUF)
def test_gguf_there_and_back(name: str, saved: Callable, tmp_path: Path) -> None:
    """Folder → GGUF → ours: the same weights, and what is computed of them."""
    with open_checkpoint(saved(name)[0]) as before:
        write_as_gguf(before, tmp_path / "model.gguf")
        with open_checkpoint(tmp_path / "model.gguf") as after:
            assert_same_weights(before, after)
            refuse_misreading(before.config, after.config, "GGUF")


def test_gguf_with_matrices_that_nobody_reads(saved: Callable, tmp_path: Path) -> None:
    """Converted from published folders: keys and values of layers that take those of others. A cut has none of it."""
    with open_checkpoint(saved("gemma4")[0]) as before:
        write_as_gguf(before, tmp_path / "model.gguf")
    with GGUFFile.open(tmp_path / "model.gguf") as file:
        plans = [TensorPlan(one.name, one.shape, one.kind) for one in file.tensors.values()]
        plans += [TensorPlan(f"blk.6.attn_{part}.weight", (64, 64), F32) for part in ("k", "v")]
        zeros = np.zeros((64, 256), np.uint8)
        write_gguf(
            tmp_path / "more.gguf", file.metadata, file.metadata_types, plans,
            lambda name: file.packed(name) if name in file.tensors else zeros,
        )  # fmt: skip
    with open_checkpoint(tmp_path / "model.gguf") as bare, open_checkpoint(tmp_path / "more.gguf") as more:
        assert more.config == bare.config
        assert_same_weights(bare, more)
        assert list(more.file.tensors) == list(bare.file.tensors)


def test_gemma_3n_is_not_written_as_gguf(saved: Callable, tmp_path: Path) -> None:
    """llama.cpp wants matrices there that the model does not have."""
    with open_checkpoint(saved("gemma3n")[0]) as before, pytest.raises(Unsupported, match="no GGUF file can be made"):
        write_as_gguf(before, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", IN_GGUF)
def test_gguf_in_llama_cpp(name: str, saved: Callable, tmp_path: Path, llama_cpp_gelu: None) -> None:
    """llama.cpp loads the GGUF that we write and predicts as our decoder does."""
    with open_checkpoint(saved(name)[0]) as before:
        write_as_gguf(before, tmp_path / "model.gguf")
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(4, 250, (length,), generator=generator).tolist() for length in LENGTHS]
    expected = log_probabilities(tmp_path / "model.gguf", prompts)
    theirs = LlamaCpp(tmp_path / "model.gguf", context=128)
    for ids, ours in zip(prompts, expected, strict=True):
        tokens, scores = theirs.likeliest(ids, VOCABULARY)
        assert scores.std() > 0.3
        assert (ours[tokens] - scores).abs().max() < 2e-3, len(ids)


def test_a_rounded_cache_is_llama_cpps(tmp_path: Path, llama_cpp_gelu: None) -> None:
    """Layers that borrow read what their lender kept, rounded.

    Exact for a token or two. In longer texts a number half-way falls either way now and then, and scores that are not
    scaled make much of it: seen 0.008 to 0.07 nats where not rounding costs 0.06 to 0.4.
    """
    (tmp_path / "model").mkdir()
    save(WIDE, tmp_path / "model")
    with open_checkpoint(tmp_path / "model") as before:
        write_as_gguf(before, tmp_path / "model.gguf")
    theirs, generator = Quantized(tmp_path / "model.gguf", 256, "q8_0"), torch.Generator().manual_seed(3)
    apart, moved = [], []
    for length in (1, 2, 3, 5, 8, 12, 33):
        ids = torch.randint(4, 250, (length,), generator=generator).tolist()
        tokens, scores = theirs.likeliest(ids, VOCABULARY)
        for kv, found in (("q8_0", apart), ("f16", moved)):
            found.append(float((with_cache(tmp_path / "model.gguf", ids, kv)[tokens] - scores).abs().max()))
    assert max(apart[:2]) < 1e-4 < 1e-2 < min(moved)
    assert sum(apart) < 0.25 * sum(moved)


def test_relations_of_layers_without_keys_are_refused(saved: Callable) -> None:
    with open_checkpoint(saved("gemma4")[0]) as checkpoint:
        decoder = decoder_of(checkpoint)
    with pytest.raises(Unsupported, match="--match-relations .* no keys and values of its own there"):
        Matching(decoder.config, decoder, {6: 6}, relations=1.0, heads=2)


@pytest.mark.parametrize("name", ["gemma4", "gemma4 experts"])
def test_cut(name: str, saved: Callable, tmp_path: Path, llama_cpp_gelu: None) -> None:
    """By vocabulary and types, from the folder to a file that llama.cpp runs, and its card."""
    text = tmp_path / "text.txt"
    text.write_text("the rain in the other hostel then treats her on the train " * 200)
    options = CutOptions(280_000, (str(text),), tokens=1024, pruning=Pruning(vocabulary=300))
    result = cut(str(saved(name)[0]), tmp_path / "small", options)
    assert result.path is not None
    assert result.path.stat().st_size <= 280_000
    with open_checkpoint(result.path) as after:
        rows = {tensor: after.shape(tensor)[0] for tensor in BY_TOKEN & set(after.names())}
        assert after.config.vocabulary < VOCABULARY
        assert set(rows.values()) == {after.config.vocabulary}
        vocabulary = after.config.vocabulary
    prompt = [5, 9, 40, 7, 120, 33, 8, 61, 200]
    (ours,) = log_probabilities(result.path, [prompt])
    tokens, scores = LlamaCpp(result.path, context=128).likeliest(prompt, vocabulary)
    assert (ours[tokens] - scores).abs().max() < 0.3  # llama.cpp rounds activations for packed weights
    card = (tmp_path / "small" / "card.html").read_text()
    assert ("Embeddings of the layers" in card) == (name == "gemma4")


@pytest.mark.parametrize("wish", [Pruning(layers=4), Pruning(ffn=48)], ids=["depth", "width"])
def test_what_cannot_be_pruned_is_refused_before_work(wish: Pruning, saved: Callable, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="does not know embeddings per layer"):
        cut(str(saved("gemma4")[0]), tmp_path / "small", CutOptions(280_000, pruning=wish))
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("target", ["mlx", "onnx", "openvino", "litert", "vllm"])
def test_frameworks_refuse_what_their_graphs_lack(target: Format, saved: Callable, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="embeddings per layer|no class for gemma4_text"):
        export(str(saved("gemma4")[0]), target, tmp_path / "out")
    assert not (tmp_path / "out").exists()


BAD = {
    "rows": ({"vocab_size_per_layer_input": 400}, "400 rows for a vocabulary of 320"),
    "lender": ({"num_kv_shared_layers": 6}, "reads the keys and values of an earlier layer"),
    "all shared": ({"num_kv_shared_layers": 9}, "9 of 7 layers share"),
    "sparsity": ({"activation_sparsity_pattern": [0.5]}, "7 shares, one for each layer"),
    "one stream": ({"altup_num_inputs": 1}, "altup_num_inputs is 1"),
    "active stream": ({"altup_active_idx": 3}, "stream 3 of 3"),
    "no scale": ({"altup_correct_scale": False}, "altup_correct_scale is False"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_contradict_each_other(case: str, saved: Callable, tmp_path: Path) -> None:
    changes, message = BAD[case]
    assert_refused(changed_settings(saved("gemma3n")[0], tmp_path / "bad", **changes), message)


def test_two_spellings_of_rotary_settings_at_odds(saved: Callable, tmp_path: Path) -> None:
    folder = changed_settings(saved("gemma4")[0], tmp_path / "bad", rope_scaling={"rope_type": "linear", "factor": 2.0})
    assert_refused(folder, "rope_scaling")


def test_a_tower_without_its_decoder(saved: Callable, tmp_path: Path) -> None:
    folder = published(saved("gemma4")[0], tmp_path / "published")
    weights = load_file(folder / "model.safetensors")
    save_file({name: one for name, one in weights.items() if "language" not in name}, folder / "model.safetensors")
    assert_refused(folder, "missing")


def changed_settings(bare: Path, folder: Path, **changes: object) -> Path:
    shutil.copytree(bare, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def assert_refused(folder: Path, message: str) -> None:
    with pytest.raises(SmidgenError, match=re.escape(message)) as refusal:
        open_checkpoint(folder)
    assert "\n" not in str(refusal.value)
