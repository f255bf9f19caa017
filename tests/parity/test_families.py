"""Every family of the README's table: in and out of Hugging Face layout and GGUF, with the same numbers everywhere.

The table in the README is made from the tests of this file and of test_chat_templates.py (`tests/family_table.py`).
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from smidgen.cutting.cut import cut
from smidgen.cutting.recipe import CutOptions
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.convert import write_as_gguf
from smidgen.formats.hf.writer import write_hf
from smidgen.formats.opening import open_checkpoint
from smidgen.model.config import ModelConfig
from smidgen.model.decoder import Decoder
from tests.family_models import FAMILY_MODELS, VOCABULARY, save_folder
from tests.parity.test_decoder_llama_cpp import LlamaCpp, log_probabilities

LOGIT_BOUND = 1e-4
LENGTHS = (1, 6, 7, 8, 20, 40, 97)

pytestmark = pytest.mark.parametrize("family", FAMILY_MODELS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, nn.Module]]:
    """A family's folder as transformers writes it, and its model; made once."""
    made: dict[str, tuple[Path, nn.Module]] = {}

    def get(family: str) -> tuple[Path, nn.Module]:
        if family not in made:
            folder = tmp_path_factory.mktemp(family) / "model"
            folder.mkdir()
            made[family] = folder, save_folder(family, folder)
        return made[family]

    return get


def decoder_of(checkpoint: Checkpoint) -> Decoder:
    decoder = Decoder(checkpoint.config)
    decoder.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()})
    return decoder


def rounded(config: ModelConfig) -> object:
    """Numbers as GGUF keeps them, in float32."""
    return json.loads(json.dumps(dataclasses.asdict(config)), parse_float=lambda text: round(float(text), 5))


def assert_same_weights(one: Checkpoint, other: Checkpoint) -> None:
    assert one.names() == other.names()
    for name in one.names():
        assert torch.equal(one.tensor(name), other.tensor(name)), name


@torch.no_grad()
def test_hugging_face_in(family: str, saved: Callable) -> None:
    """A folder written by transformers: the same logits in float32, shorter and longer than window and context."""
    folder, theirs = saved(family)
    ids = torch.randint(0, VOCABULARY, (3, max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    with open_checkpoint(folder) as checkpoint:
        ours = decoder_of(checkpoint)
    for length in LENGTHS:
        answer = theirs(input_ids=ids[:, :length])
        wanted = answer if isinstance(answer, torch.Tensor) else answer.logits
        assert wanted.std() > 0.3
        assert (ours(ids[:, :length]) - wanted).abs().max() < LOGIT_BOUND, length


@torch.no_grad()
def test_hugging_face_out(family: str, saved: Callable, tmp_path: Path) -> None:
    """What we write loads in transformers, nothing missing and nothing more, and comes back to us bit for bit."""
    folder, theirs = saved(family)
    with open_checkpoint(folder) as before:
        write_hf(before, tmp_path / "again")
        with open_checkpoint(tmp_path / "again") as after:
            assert after.config == before.config
            assert_same_weights(before, after)
    if family == "openelm":  # transformers has no class for it
        return
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "again", output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    ids = torch.randint(0, VOCABULARY, (2, 50), generator=torch.Generator().manual_seed(2))
    assert (loaded(input_ids=ids).logits - theirs(input_ids=ids).logits).abs().max() < LOGIT_BOUND


def test_gguf_there_and_back(family: str, saved: Callable, tmp_path: Path) -> None:
    """Folder → GGUF → ours: the same configuration and, bit for bit, the same weights; and → folder again."""
    with open_checkpoint(saved(family)[0]) as before:
        write_as_gguf(before, tmp_path / "model.gguf")
        with open_checkpoint(tmp_path / "model.gguf") as after:
            assert_same_weights(before, after)
            assert before.family.name == after.family.name
            _, vectors = before.family.to_gguf(before.config)
            if not vectors:
                assert rounded(after.config) == rounded(before.config)
            write_hf(after, tmp_path / "again", "float32")
        with open_checkpoint(tmp_path / "again") as again:
            assert_same_weights(before, again)


def test_gguf_in_llama_cpp(family: str, saved: Callable, tmp_path: Path, llama_cpp_gelu: None) -> None:
    """llama.cpp loads the GGUF that we write and predicts as our decoder does."""
    with open_checkpoint(saved(family)[0]) as before:
        write_as_gguf(before, tmp_path / "model.gguf")
        gelu = before.config.layers[0].activation == "gelu_tanh"
    longest = FAMILY_MODELS[family].longest
    generator = torch.Generator().manual_seed(3)
    lengths = [length for length in LENGTHS if length <= longest]
    prompts = [torch.randint(4, 250, (length,), generator=generator).tolist() for length in lengths]
    expected = log_probabilities(tmp_path / "model.gguf", prompts)
    theirs = LlamaCpp(tmp_path / "model.gguf", context=128)
    for ids, ours in zip(prompts, expected, strict=True):
        tokens, scores = theirs.likeliest(ids, VOCABULARY)
        assert scores.std() > 0.3
        assert (ours[tokens] - scores).abs().max() < (1e-3 if gelu else 1e-4), len(ids)


def test_cut(family: str, saved: Callable, tmp_path: Path) -> None:
    """The whole cut, from the folder to a smaller file that reads back as the same architecture."""
    text = tmp_path / "text.txt"
    text.write_text("the rain in the other hostel then treats her on the train " * 200)
    folder, _ = saved(family)
    with open_checkpoint(folder) as before:
        full = before.folder.nbytes
    budget = full // 3 + 60_000
    result = cut(str(folder), tmp_path / "small", CutOptions(budget, (str(text),), tokens=1024), measured=False)
    assert result.path is not None
    assert result.path.stat().st_size <= budget
    with open_checkpoint(folder) as before, open_checkpoint(result.path) as after:
        assert after.family.name == before.family.name
        assert after.parameters == before.parameters
        logits = decoder_of(after)(torch.arange(40)[None])
        assert torch.isfinite(logits).all()
