"""The original writes text with llama.cpp: what the seed decides and nothing else, and our decoder where it must."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from smidgen.engines import author as authors
from smidgen.engines.author import Author
from smidgen.engines.llama_cpp import author as llama_cpp_author
from smidgen.engines.llama_cpp.author import LlamaCppAuthor
from smidgen.engines.llama_cpp.author_child import draw
from smidgen.engines.llama_cpp.eight_bits import has_wide_matrices, write_eight_bits
from smidgen.engines.torch import TorchEngine
from smidgen.errors import EngineEnded, SmidgenError
from smidgen.formats.convert import conversions_folder
from smidgen.formats.opening import open_checkpoint
from smidgen.progress import Task
from tests.tiny_models import VOCABULARY, random_decoder, write_gemma3, write_llama

ENDS = set(range(20, 60))


@pytest.fixture(params=["gemma3", "llama"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return {"gemma3": write_gemma3, "llama": write_llama}[request.param](tmp_path / "m.gguf")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TorchEngine]:
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    with open_checkpoint(write_gemma3(tmp_path / "m.gguf")) as checkpoint:
        yield TorchEngine(checkpoint)


def sample(
    author: Author | LlamaCppAuthor, prompts: Tensor, tokens: int = 24, temperature: float = 1.0, seed: int = 5,
    task: Task | None = None,
) -> Tensor:  # fmt: skip
    return author.sample(prompts, tokens, temperature, seed, end_ids=ENDS, bos_id=2, progress=task)


@torch.no_grad()
def test_greedy_rows_are_the_decoders(model: Path) -> None:
    """In llama.cpp, side by side, longer than the window of attention. In 8 bits a near tie may end otherwise."""
    with open_checkpoint(model) as checkpoint:
        config = checkpoint.config
    prompts = torch.randint(60, VOCABULARY, (5, 4), generator=torch.Generator().manual_seed(0))
    with LlamaCppAuthor(model, config, 5, 28, threads=1) as author:
        ids = author.sample(prompts, 24, 0.0, 0, end_ids=(), bos_id=None, progress=None)
    whole = torch.cat([prompts, ids], dim=1)
    scores = random_decoder(config)(whole)[:, 3:-1]
    missed = scores.amax(dim=2) - scores.gather(2, ids[:, :, None])[:, :, 0]
    assert missed.max() < 0.05 and (missed > 0).float().mean() < 0.05


def test_the_seed_decides_and_not_the_threads(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that do not fit beside each other are written after each other; a document that ended is followed by BOS."""
    prompts, task = torch.full((5, 1), 2), Task("", 5 * 24)
    monkeypatch.setattr(llama_cpp_author, "_KEYS_AND_VALUES", 2 * 2 * 2 * 2 * 16 * 5 * 256)
    found = []
    for threads, seed in ((1, 5), (2, 5), (1, 6)):
        with Author(engine, threads) as author:
            found.append(sample(author, prompts, seed=seed, task=task if threads == 2 else None))
            assert author._quick is not None and author._quick.rows == 2
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert found[0].shape == (5, 24) and len(found[0].unique(dim=0)) == 5
    assert task.done == task.total
    ended = torch.isin(found[0][:, :-1], torch.tensor(sorted(ENDS)))
    assert ended.any() and (found[0][:, 1:][ended] == 2).all()


def test_it_writes_with_a_copy_that_is_gone_again(engine: TorchEngine, capsys: pytest.CaptureFixture[str]) -> None:
    with Author(engine, 1) as author:
        author.prepare(3, 64)
        assert not list(conversions_folder().iterdir())
        assert sample(author, torch.full((3, 1), 2), 4).shape == (3, 4)
        author.prepare(40, 64)  # what is loaded already does for more rows, too
    assert "llama.cpp writes with an 8-bit copy of the model, 3 documents at a time." in capsys.readouterr().err


@torch.no_grad()
def test_the_copy_has_matrices_in_eight_bits_and_the_rest_as_it_was(engine: TorchEngine, tmp_path: Path) -> None:
    original = engine.checkpoint
    write_eight_bits(original, tmp_path / "copy.gguf")
    with open_checkpoint(tmp_path / "copy.gguf") as copy:
        assert copy.config == original.config and not has_wide_matrices(copy)
        for name in original.names():
            before, after = original.tensor(name), copy.tensor(name)
            if before.dim() == 1:
                assert torch.equal(before, after)
            else:
                step = before.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True) / 127
                assert copy.kind(name).name == "Q8_0"
                assert ((before - after).unflatten(-1, (-1, 32)).abs() <= 0.56 * step).all()


def test_our_decoder_writes_what_llama_cpp_refuses(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise SmidgenError("llama.cpp could not start with tiny.")

    monkeypatch.setattr(authors, "LlamaCppAuthor", refuse)
    prompts = torch.full((4, 1), 2)
    with Author(engine) as author:
        ids = [sample(author, prompts) for _ in range(2)]
    assert torch.equal(ids[0], engine.sample(prompts, 24, 1.0, 5, end_ids=ENDS, bos_id=2))
    assert torch.equal(ids[0], ids[1])
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "llama.cpp" in line] == [
        "llama.cpp could not start with tiny. So smidgen's own decoder writes, slower and with the whole model in 32 "
        "bits in memory."
    ]


def test_a_wheel_that_is_built_otherwise_is_not_called(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llama_cpp_author, "_CHILD", "tests.engines.llama_cpp.other_wheel")
    monkeypatch.chdir(Path(__file__).parent.parent.parent)
    monkeypatch.syspath_prepend(os.getcwd())
    with Author(engine, 1) as author:
        assert sample(author, torch.full((2, 1), 2), 3).shape == (2, 3)
    assert "is not built as smidgen knows it" in capsys.readouterr().err


class Interrupted(Task):
    """Ctrl-C after the first step, or a kill of llama.cpp's process."""

    def __init__(self, kill: int | None = None) -> None:
        super().__init__("", 100)
        self._kill = kill

    def advance(self, steps: int = 1) -> None:
        if self._kill is None:
            raise KeyboardInterrupt
        os.kill(self._kill, signal.SIGKILL)


def test_ctrl_c_ends_llama_cpp(engine: TorchEngine) -> None:
    with pytest.raises(KeyboardInterrupt), Author(engine, 1) as author:
        author.prepare(2, 128)
        assert author._quick is not None
        process = author._quick._process
        sample(author, torch.full((2, 1), 2), 100, task=Interrupted())
    assert not process.runs


def test_an_end_of_llama_cpp_in_between_is_one_error(engine: TorchEngine) -> None:
    with Author(engine, 1) as author:
        author.prepare(2, 256)
        assert author._quick is not None
        task = Interrupted(author._quick._process._process.pid)
        with pytest.raises(EngineEnded, match="llama.cpp ended while m wrote: it was killed"):
            sample(author, torch.full((2, 1), 2), 250, task=task)


def test_draws_follow_the_distribution() -> None:
    """Over several runs of 512 tokens and a ragged last one; expected counts within 5 standard deviations."""
    vocabulary, draws = 1300, 5000
    logits = np.full(vocabulary, -40.0, np.float32)
    chosen = [0, 3, 511, 512, 700, 1023, 1024, 1299]
    logits[chosen] = [1.0, 0.0, 2.0, 0.5, -1.0, 1.5, 0.0, 1.0]
    numbers = (np.arange(draws) + np.random.default_rng(0).random(draws)) / draws
    counts = np.bincount([draw(logits, 0.8, number) for number in numbers], minlength=vocabulary)[chosen]
    share = torch.tensor(logits / 0.8).softmax(dim=0)[chosen].numpy()
    assert counts.sum() == draws
    assert (abs(counts - draws * share) < 5 * np.sqrt(draws * share * (1 - share))).all()
    assert draw(logits, 0.0, 0.9) == 511


def test_numbers_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(SmidgenError, match="not finite"):
        draw(np.full(10, np.nan, np.float32), 1.0, 0.5)


@torch.no_grad()
def test_a_real_models_text_is_as_likely_as_its_entropy_says(smollm_path: Path) -> None:
    """log p of each drawn token is minus the entropy there, on average, whoever computes both: within 4 deviations."""
    with open_checkpoint(smollm_path) as checkpoint, Author(TorchEngine(checkpoint)) as author:
        prompts = torch.tensor([[1000], [2000], [3000], [4000]])
        ids = author.sample(prompts, 24, 1.0, 3, end_ids=(), bos_id=None, progress=None)
        whole, engine = torch.cat([prompts, ids], dim=1), TorchEngine(checkpoint)
        head = engine.head_rows(0, engine.config.vocabulary)
        log = (engine.hidden_states(whole[:, :-1]) @ head.T).double().log_softmax(dim=-1)
    entropy = -(log.exp() * log).sum(-1)
    spread = (log.exp() * log.square()).sum(-1) - entropy.square()
    drawn = log.gather(2, ids[:, :, None])[:, :, 0]
    assert abs((drawn + entropy).sum() / spread.sum().sqrt()) < 4
