"""llama.cpp loads a model of every family without a head of its own, and computes what our decoder does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from smidgen.formats.derived import Derived, write_derived
from smidgen.formats.opening import open_checkpoint
from tests.family_models import VOCABULARY, save_folder
from tests.parity.test_decoder_llama_cpp import LlamaCpp, log_probabilities


@pytest.mark.parametrize("family", ["llama2", "llama3", "mistral", "mixtral", "qwen2", "phi3"])
def test_a_head_that_was_left_out_is_the_embedding(family: str, tmp_path: Path) -> None:
    """The families whose files have a head of their own; a cut may tie it (`cutting.tying`)."""
    save_folder(family, tmp_path)
    path = tmp_path / "tied.gguf"
    with open_checkpoint(tmp_path) as checkpoint:
        assert not checkpoint.config.tied_head
        write_derived(checkpoint, Derived(replace(checkpoint.config, tied_head=True)), path, {"step": "tie"})
    ids = torch.randint(4, 250, (6,), generator=torch.Generator().manual_seed(1)).tolist()
    tokens, scores = LlamaCpp(path, context=64).likeliest(ids, VOCABULARY)
    assert scores.std() > 0.3
    assert (log_probabilities(path, [ids])[0][tokens] - scores).abs().max() < 1e-4
