"""Continuations in groups score as each alone does."""

from pathlib import Path

import pytest
import torch

from smidgen.engines import continuations
from smidgen.engines.continuations import score_continuations
from smidgen.engines.torch import TorchEngine
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from tests import tiny_models

EXAMPLES = list(range(40, 100))  # what many questions begin with
PAIRS = [
    *[([2, *EXAMPLES, 5, 6, 7], [choice]) for choice in (10, 11, 12, 13)],
    *[([2, *EXAMPLES, 8, 9], [choice, 3, 4]) for choice in (20, 21)],
    *[([2, *EXAMPLES[:30], 200], [50]), ([2], [5, 6]), ([2, 7, 8], [9]), ([2, *EXAMPLES, 5, 6, 7], [10, 44, 45])],
    *[([2, *EXAMPLES, 5, 6, 7], [10])],  # the same once more
]


@pytest.mark.parametrize("write", [tiny_models.write_gemma3, tiny_models.write_llama])
@pytest.mark.parametrize("in_memory", [1 << 16, 70])
def test_as_each_pair_alone(write, in_memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuations, "_TOKENS_IN_MEMORY", in_memory)
    monkeypatch.setattr(continuations, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr(continuations, "_HEAD_ROWS", 64)
    with open_checkpoint(write(tmp_path / "tiny.gguf")) as checkpoint:
        found = score_continuations(TorchEngine(checkpoint), PAIRS)
        decoder = load_decoder(checkpoint)
        for (begin, rest), score in zip(PAIRS, found, strict=True):
            with torch.no_grad():
                logits = decoder(torch.tensor([[*begin, *rest]]))[0, len(begin) - 1 : -1].log_softmax(-1)
            expected = logits.gather(1, torch.tensor(rest)[:, None]).sum()
            assert score.log_probability == pytest.approx(float(expected), abs=2e-4)
            assert score.greedy == bool((logits.argmax(1) == torch.tensor(rest)).all())


def test_what_the_model_says_is_greedy(tmp_path: Path) -> None:
    with open_checkpoint(tiny_models.write_gemma3(tmp_path / "tiny.gguf")) as checkpoint:
        engine = TorchEngine(checkpoint)
        written = engine.sample(torch.tensor([[2, 50, 60]]), 3, temperature=0)[0].tolist()
        assert score_continuations(engine, [([2, 50, 60], written)])[0].greedy
        assert not score_continuations(engine, [([2, 50, 60], [*written[:2], (written[2] + 1) % 300])])[0].greedy


def test_shared_beginnings_are_found() -> None:
    texts = sorted((*begin, *rest[:-1]) for begin, rest in PAIRS)
    groups = continuations._grouped(texts)  # pyright: ignore[reportPrivateUsage]
    assert sorted(member for group in groups for member in group.members) == list(range(len(texts)))
    assert max(group.shared for group in groups if len(group.members) > 1) >= 60


def test_a_group_too_large_for_memory_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part reads the beginning again; no text is lost, and no part is larger than allowed."""
    monkeypatch.setattr(continuations, "_TOKENS_IN_MEMORY", 100)
    texts = [(*EXAMPLES, 1000 + number, *[7] * 9) for number in range(20)]
    batches = list(continuations._batches(continuations._grouped(texts), texts))
    parts = [group for batch in batches for group in batch]
    assert [member for part in parts for member in part.members] == list(range(20))
    assert {part.shared for part in parts} == {len(EXAMPLES)}
    assert all(len(batch) == 1 and len(batch[0].members) == 4 for batch in batches)
