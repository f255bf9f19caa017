"""Gemma 3n and Gemma 4 in our engine: block by block and in groups they predict as the whole model does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from smidgen.engines import continuations
from smidgen.engines import torch as torch_engine
from smidgen.engines.continuations import score_continuations
from smidgen.engines.torch import TorchEngine
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from tests.engines.test_continuations import PAIRS
from tests.family_models import VOCABULARY
from tests.nano_models import NANO_MODELS, save_nano

WINDOWS = torch.randint(0, VOCABULARY, (5, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=NANO_MODELS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Checkpoint]:
    save_nano(request.param, tmp_path)
    with open_checkpoint(tmp_path) as found:
        yield found


@torch.no_grad()
def test_hidden_states_are_those_of_the_whole_model(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts of two windows."""
    monkeypatch.setattr(torch_engine, "tokens_at_once", lambda _: 40)
    found = TorchEngine(checkpoint).hidden_states(WINDOWS)
    assert (found - load_decoder(checkpoint).hidden_states(WINDOWS)).abs().max() < 1e-3


@torch.no_grad()
def test_what_it_writes_is_the_likeliest_of_the_whole_model(checkpoint: Checkpoint) -> None:
    decoder, prompts = load_decoder(checkpoint), WINDOWS[:2, :9]
    written = TorchEngine(checkpoint).sample(prompts, 4, temperature=0)
    logits = decoder(torch.cat([prompts, written], dim=1))[:, 8:-1]
    assert (logits.max(-1).values - logits.gather(2, written[..., None])[..., 0]).max() < 0.05  # bfloat16 heads


def test_continuations_score_as_each_alone(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that begin alike, in small parts, so that what is lent is of shared beginnings and of rests."""
    monkeypatch.setattr(continuations, "tokens_at_once", lambda _: 20)
    found, decoder = score_continuations(TorchEngine(checkpoint), PAIRS), load_decoder(checkpoint)
    for (begin, rest), score in zip(PAIRS, found, strict=True):
        with torch.no_grad():
            logits = decoder(torch.tensor([[*begin, *rest]]))[0, len(begin) - 1 : -1].log_softmax(-1)
        expected = logits.gather(1, torch.tensor(rest)[:, None]).sum()
        assert score.log_probability == pytest.approx(float(expected), abs=1e-3)
