"""Vocabulary trimming of tiny models: kept logits are the original's, rankings are closed, what is lost is exact."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from smidgen.data.languages import languages_of
from smidgen.data.sources import TextSource
from smidgen.engines.torch import TorchEngine
from smidgen.errors import SmidgenError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import write_derived
from smidgen.formats.history import history
from smidgen.formats.opening import open_checkpoint
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.subset import Pieces
from smidgen.progress import Task
from smidgen.pruning import vocabulary
from smidgen.pruning.vocabulary import Ranking, apply, choose_size, plan, rank
from tests.tiny_models import write_gemma3, write_llama

TEXT = "".join(chr(0x4E00 + place * place % 23) for place in range(700)) + " Ende."
OTHER = "".join(chr(0x4E00 + 12 + place * 7 % 27) for place in range(600))


@pytest.fixture(scope="module", params=["gemma3", "llama"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    """Gemma 3's head is tied and capped, Llama's is neither."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    with open_checkpoint(write_gemma3(path) if request.param == "gemma3" else write_llama(path)) as opened:
        yield opened


@pytest.fixture(scope="module")
def ranking(checkpoint: Checkpoint) -> Ranking:
    sources = [TextSource.of("a", TEXT), TextSource.of("b", OTHER)]
    return rank(checkpoint, sources, languages_of(["zh"]), seed=0)


def all_logits(checkpoint: Checkpoint, ids: torch.Tensor) -> torch.Tensor:
    engine = TorchEngine(checkpoint)
    logits = engine.hidden_states(ids) @ engine.head_rows(0, checkpoint.config.vocabulary).T
    cap = checkpoint.config.logit_cap
    return logits if cap is None else cap * torch.tanh(logits / cap)


def test_every_long_enough_beginning_of_the_order_is_closed(checkpoint: Checkpoint, ranking: Ranking) -> None:
    pieces = Pieces(checkpoint.file.metadata)
    assert sorted(ranking.order.tolist()) == list(range(checkpoint.config.vocabulary))
    assert ranking.least == len(pieces.closed([]))
    for size in range(ranking.least, len(ranking.order) + 1):
        beginning = ranking.order[:size].tolist()
        assert pieces.closed(beginning).tolist() == sorted(beginning)


def test_logits_of_kept_tokens_are_the_originals(checkpoint: Checkpoint, ranking: Ranking, tmp_path: Path) -> None:
    chosen = plan(ranking, 285)
    path = tmp_path / "trimmed.gguf"
    write_derived(checkpoint, apply(checkpoint, chosen), path, {"step": "vocabulary", **chosen.report()})
    with open_checkpoint(path) as trimmed:
        assert trimmed.config.vocabulary == 285
        assert history(trimmed.file.metadata)[-1]["tokens"] == 285
        full, fewer = (Tokenizer.from_gguf(opened.tokenizer_metadata) for opened in (checkpoint, trimmed))
        kept = set(chosen.kept.tolist())
        text = "".join(char for char in TEXT[:100] if set(full.encode(char)) <= kept)
        before, after = full.encode(text, add_bos=True), fewer.encode(text, add_bos=True)
        assert len(text) > 40 and chosen.kept[after].tolist() == before
        expected = all_logits(checkpoint, torch.tensor([before]))[..., torch.from_numpy(chosen.kept)]
        torch.testing.assert_close(all_logits(trimmed, torch.tensor([after])), expected, rtol=1e-5, atol=1e-5)
        assert (
            trimmed.packed("embedding.weight").tobytes() == checkpoint.packed("embedding.weight")[chosen.kept].tobytes()
        )


def test_a_trimmed_model_is_trimmed_again(checkpoint: Checkpoint, ranking: Ranking, tmp_path: Path) -> None:
    first = plan(ranking, 285)
    write_derived(checkpoint, apply(checkpoint, first), tmp_path / "a.gguf", {"step": "vocabulary"})
    with open_checkpoint(tmp_path / "a.gguf") as trimmed:
        again = rank(trimmed, [TextSource.of("a", TEXT)], [], seed=0)
        second = plan(again, 270)
        write_derived(trimmed, apply(trimmed, second), tmp_path / "b.gguf", {"step": "vocabulary"})
    with open_checkpoint(tmp_path / "b.gguf") as twice:
        tokenizer = Tokenizer.from_gguf(twice.tokenizer_metadata)
        assert len(tokenizer) == 270 and len(history(twice.file.metadata)) == 2
        assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_what_is_lost_is_the_mass_of_what_is_dropped(checkpoint: Checkpoint, ranking: Ranking) -> None:
    """Against all logits at once; and it falls from one size to the next, to nothing."""
    tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
    ids = torch.tensor([tokenizer.encode(TEXT[:400], add_bos=True)])
    log_p = all_logits(checkpoint, ids)[0, 1:].log_softmax(-1)
    hidden = TorchEngine(checkpoint).hidden_states(ids)[0, 1:]
    found = vocabulary._lost(checkpoint, [hidden], ranking.order, ranking.sizes, Task("", 0))[0]
    for size, lost in zip(ranking.sizes.tolist(), found.tolist(), strict=True):
        expected = -log_p[:, torch.from_numpy(ranking.order[:size])].logsumexp(-1).mean()
        assert lost == pytest.approx(float(expected), abs=0.01 * float(expected) + 1e-5)
    damages = [ranking.damage(size) for size in range(ranking.least, len(ranking.order) + 1)]
    assert damages == sorted(damages, reverse=True) and damages[-1] == 0
    outside = [ranking.outside_share(size, "a") for size in range(ranking.least, len(ranking.order) + 1)]
    assert outside == sorted(outside, reverse=True) and outside[-1] == 0


def test_tokens_of_the_text_come_first_and_each_text_has_its_say(checkpoint: Checkpoint, ranking: Ranking) -> None:
    tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
    needed = set(tokenizer.encode(TEXT + OTHER))
    assert needed <= set(ranking.order[: ranking.least + len(needed) + 4].tolist())


def test_sizes(ranking: Ranking) -> None:
    assert ranking.damage(280) == pytest.approx(vocabulary.RESPELLED * ranking.outside_share(280))
    size = choose_size(ranking, tolerance=0.5)
    assert size == len(ranking.order) or size % vocabulary.MULTIPLE == 0
    assert choose_size(ranking, tolerance=0.0) == len(ranking.order)
    report = plan(ranking, 10**9).report()
    assert report["tokens"] == report["tokens_original"] == len(ranking.order)
    assert report["dropped_nats"] == {"a": 0, "b": 0}
    with pytest.raises(SmidgenError, match=f"smallest possible is {ranking.least}"):
        plan(ranking, ranking.least - 1)


def test_no_text(checkpoint: Checkpoint) -> None:
    with pytest.raises(SmidgenError, match="--langs"):
        rank(checkpoint, [], languages_of(["en"]), seed=0)
