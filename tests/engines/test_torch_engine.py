"""The torch engine: hidden states equal the whole decoder's, samples follow the distribution and the seed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from smidgen.engines import torch as torch_engine
from smidgen.engines.base import Scorer
from smidgen.engines.torch import TorchEngine
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics.sampling import draw
from smidgen.progress import Task
from tests.tiny_models import VOCABULARY, random_decoder, write_gemma3, write_llama


@pytest.fixture(params=["gemma3", "llama"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TorchEngine]:
    write = {"gemma3": write_gemma3, "llama": write_llama}[request.param]
    with open_checkpoint(write(tmp_path / "m.gguf")) as checkpoint:
        yield TorchEngine(checkpoint)


@pytest.fixture
def float32_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_engine, "fast_product_dtype", lambda: torch.float32)


@torch.no_grad()
def test_hidden_states_and_head(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer: Scorer = engine
    decoder = random_decoder(scorer.config)
    windows = torch.randint(0, VOCABULARY, (5, 20))
    monkeypatch.setattr(torch_engine, "tokens_at_once", lambda config: 45)
    hidden = scorer.hidden_states(windows, layers := Task("", len(scorer.config.layers)))
    assert layers.done == layers.total
    assert (hidden - decoder.hidden_states(windows)).abs().max() < 1e-5
    head = decoder.embedding.weight if decoder.head is None else decoder.head.weight
    assert torch.equal(scorer.head_rows(100, 250), head[100:250])


@torch.no_grad()
def test_no_more_of_the_file_than_a_block_stays_resident(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, read = engine.checkpoint, [0]
    packed, most = checkpoint._packed_rows, 0

    def counted(name: str, numbers: np.ndarray, columns: tuple[int, int]) -> np.ndarray:
        nonlocal most
        rows = packed(name, numbers, columns)
        read[0] += rows.nbytes
        most = max(most, read[0])
        return rows

    monkeypatch.setattr(checkpoint, "_packed_rows", counted)
    monkeypatch.setattr(checkpoint, "release", lambda: read.__setitem__(0, 0))
    checkpoint.block(0)
    of_a_block = read[0]
    engine.hidden_states(torch.randint(0, VOCABULARY, (5, 20)))
    for start in range(0, VOCABULARY, 50):
        engine.head_rows(start, min(start + 50, VOCABULARY))
    assert most < 2.5 * of_a_block


@torch.no_grad()
@pytest.mark.usefixtures("float32_head")
def test_greedy_samples_are_the_decoders(engine: TorchEngine) -> None:
    decoder = random_decoder(engine.config)
    prompts = torch.randint(0, VOCABULARY, (3, 4))
    whole = torch.cat((prompts, engine.sample(prompts, 20, temperature=0)), dim=1)
    expected = decoder(whole).argmax(dim=2)
    assert torch.equal(whole[:, 4:], expected[:, 3:-1])


def test_the_seed_decides(engine: TorchEngine) -> None:
    prompts = torch.full((4, 1), 2)
    first, again = engine.sample(prompts, 25, seed=1), engine.sample(prompts, 25, seed=1)
    assert first.shape == (4, 25)
    assert torch.equal(first, again)
    assert not torch.equal(first, engine.sample(prompts, 25, seed=2))
    assert len(first.unique(dim=0)) == 4


def test_banned_ends_and_progress(engine: TorchEngine) -> None:
    prompts, task = torch.full((8, 1), 2), Task("", 320)
    allowed = list(range(10))
    ids = engine.sample(
        prompts, 40, banned=range(10, VOCABULARY), end_ids={4, 5}, bos_id=2, progress=task, temperature=5.0
    )
    assert set(ids.unique().tolist()) <= set(allowed)
    ended = torch.isin(ids[:, :-1], torch.tensor([4, 5]))
    assert ended.any()
    assert (ids[:, 1:][ended] == 2).all()
    assert task.done == 320


def test_draws_follow_the_distribution() -> None:
    """Over several runs of 512 tokens and a ragged last one; expected counts within 5 standard deviations."""
    vocabulary, draws = 1300, 40_000
    logits = torch.full((vocabulary,), -40.0)
    chosen = torch.tensor([0, 3, 511, 512, 700, 1023, 1024, 1299])
    logits[chosen] = torch.tensor([1.0, 0.0, 2.0, 0.5, -1.0, 1.5, 0.0, 1.0])
    drawn = draw(logits.repeat(draws, 1), 0.8, torch.Generator().manual_seed(0))
    share = (logits / 0.8).softmax(dim=0)[chosen]
    counts = torch.bincount(drawn, minlength=vocabulary)
    assert counts[chosen].sum() == draws
    assert ((counts[chosen] - draws * share).abs() < 5 * (draws * share * (1 - share)).sqrt()).all()


def test_draw_limits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.arange(600.0).repeat(500, 1) / 100
    assert draw(logits.clone(), 0.0, generator).unique().tolist() == [599]
    assert draw(logits.clone(), 0.0, generator, banned=[599]).unique().tolist() == [598]
    assert draw(logits.clone(), 1.0, generator, top_k=3).unique().tolist() == [597, 598, 599]
    only = torch.full((500, 600), float("-inf"))
    only[:, 77] = -1e30
    assert draw(only, 1.0, generator).unique().tolist() == [77]
