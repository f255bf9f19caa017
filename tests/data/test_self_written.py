"""Text that the model writes itself: seeded, kept apart by purpose, cached, and never read half-written."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smidgen.data.languages import LANGUAGES, languages_of
from smidgen.data.self_written import Purpose, self_written, self_written_in
from smidgen.data.sources import TextSource
from smidgen.errors import SmidgenError
from smidgen.progress import Task
from tests.data.test_text import ByteTokenizer

MODEL = "ab" * 32


@dataclass
class Knows:
    """What a model says about itself."""

    context_length: int


class LetterSampler:
    """Writes random letters; ends a document every `length` tokens, as TorchEngine.sample does."""

    def __init__(self, length: int = 200, context: int = 4096) -> None:
        self.length, self.calls, self.prompts = length, 0, []
        self.config = Knows(context)
        self.written_by = "letters"

    def prepare(self, rows: int, length: int) -> None:
        pass

    def sample(
        self, prompts: Tensor, tokens: int, temperature: float, seed: int, *,
        end_ids: Collection[int], bos_id: int | None, progress: Task | None,
    ) -> Tensor:  # fmt: skip
        self.calls += 1
        self.prompts.append(prompts)
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(ord("a") + 2, ord("z") + 3, (len(prompts), tokens), generator=generator)
        ids[:, :: self.length] = min(end_ids)
        return ids


def test_same_arguments_same_text_and_the_cache_spares_the_sampling(tmp_path: Path) -> None:
    sampler = LetterSampler()
    first = self_written(sampler, ByteTokenizer(), MODEL, 1000, 7, "calibration", tmp_path)
    calls = sampler.calls
    again = self_written(sampler, ByteTokenizer(), MODEL, 1000, 7, "calibration", tmp_path)
    assert first == again and sampler.calls == calls
    assert 1000 <= len(first.text) < 1300
    elsewhere = self_written(LetterSampler(), ByteTokenizer(), MODEL, 1000, 7, "calibration", tmp_path / "other")
    assert elsewhere.text == first.text
    assert len(list(tmp_path.glob("*.json"))) == 1 and not list(tmp_path.glob("*.part"))


def test_a_sample_is_never_longer_than_what_the_model_knows(tmp_path: Path) -> None:
    sampler, lengths = LetterSampler(context=64), []
    plain = sampler.sample

    def sample(prompts: Tensor, tokens: int, *arguments: Any, **more: Any) -> Tensor:
        lengths.append(prompts.shape[1] + tokens)
        return plain(prompts, tokens, *arguments, **more)

    sampler.sample = sample  # type: ignore[method-assign]
    text = self_written(sampler, ByteTokenizer(True), MODEL, 1000, 0, "calibration", tmp_path)
    assert text.self_written and len(text.text) >= 1000
    hindi = languages_of(["hi"])  # its beginnings have more than 64 bytes
    self_written_in(sampler, ByteTokenizer(True), MODEL, hindi, 300, 0, "calibration", tmp_path)
    assert max(lengths) == 64


def test_purposes_and_seeds_do_not_share_text(tmp_path: Path) -> None:
    cases: list[tuple[int, Purpose]] = [(0, "calibration"), (0, "evaluation"), (1, "calibration")]
    texts = {
        self_written(LetterSampler(), ByteTokenizer(), MODEL, 300, seed, purpose, tmp_path).text
        for seed, purpose in cases
    }
    assert len(texts) == 3
    assert len(list(tmp_path.glob("*.json"))) == 3


@pytest.mark.parametrize("damage", ["truncated", "other text", "other model", "not an object"])
def test_a_damaged_cache_is_written_anew(tmp_path: Path, damage: str) -> None:
    good = self_written(LetterSampler(), ByteTokenizer(), MODEL, 300, 0, "evaluation", tmp_path)
    assert good.path is not None
    stored = good.path.read_text()
    record = json.loads(stored)
    damaged = {
        "truncated": stored[:-5],
        "other text": json.dumps(record | {"text": "something else"}),
        "other model": json.dumps(record | {"model_sha256": "cd" * 32}),
        "not an object": "[1]",
    }[damage]
    good.path.write_text(damaged)
    sampler = LetterSampler()
    assert self_written(sampler, ByteTokenizer(), MODEL, 300, 0, "evaluation", tmp_path) == good
    assert sampler.calls > 0 and json.loads(good.path.read_text()) == record


def test_documents_start_from_bos_or_from_different_plain_tokens(tmp_path: Path) -> None:
    with_bos, without = LetterSampler(), LetterSampler()
    self_written(with_bos, ByteTokenizer(adds_bos=True), MODEL, 6000, 0, "calibration", tmp_path / "a")
    text = self_written(without, ByteTokenizer(adds_bos=False), MODEL, 6000, 0, "calibration", tmp_path / "b").text
    assert with_bos.prompts[0].unique().tolist() == [0]
    starts = [chr(token - 2) for token in without.prompts[0].flatten().tolist()]
    assert len(set(starts)) > 5 and all(start.isalpha() for start in starts)
    assert all(start in text.split("\n\n") for start in starts)  # the sampler ends each document there at once


def test_a_model_that_never_writes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="--text FILE"):
        self_written(LetterSampler(length=1), ByteTokenizer(), MODEL, 300, 0, "calibration", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(SmidgenError, match="SMIDGEN_HOME"):
        self_written(LetterSampler(), ByteTokenizer(), MODEL, 300, 0, "calibration", blocked)


class EchoSampler(LetterSampler):
    """As LetterSampler, but shows in the text which prompt it went on from: its rows begin with the prompt's last."""

    def sample(self, prompts: Tensor, tokens: int, temperature: float, seed: int, **others: Any) -> Tensor:
        ids = super().sample(prompts, tokens, temperature, seed, **others)
        ids[:, 0] = prompts[:, -1]
        return ids


def in_languages(sampler: LetterSampler, codes: str, cache: Path, purpose: Purpose = "calibration") -> list[TextSource]:
    languages = languages_of(codes.split(","))
    return self_written_in(sampler, ByteTokenizer(adds_bos=True), MODEL, languages, 700, 3, purpose, cache)


def test_texts_in_languages_begin_as_texts_in_these(tmp_path: Path) -> None:
    sampler = EchoSampler()
    german, english = in_languages(sampler, "de,en", tmp_path)
    assert (german.language, english.language) == ("de", "en")
    assert german.name == "de (self-written)" and len(german.text) >= 700
    for source in (german, english):
        for document in source.text.split("\n\n"):
            begins = [opening[:30] for opening in LANGUAGES[source.language or ""].openings[::2]]
            assert any(document.startswith(opening) for opening in begins)
    assert len({len(prompts) for prompts in sampler.prompts[:1]}) == 1  # both languages in one batch
    assert len(sampler.prompts[0]) == 4


def test_texts_in_languages_are_cached_and_depend_on_nothing_else(tmp_path: Path) -> None:
    sampler = EchoSampler()
    first = in_languages(sampler, "de,en", tmp_path / "a")
    calls = sampler.calls
    assert in_languages(sampler, "en,de", tmp_path / "a") == first[::-1] and sampler.calls == calls
    in_languages(EchoSampler(), "de", tmp_path / "b")
    again = in_languages(EchoSampler(), "en,de", tmp_path / "b")
    assert {source.text for source in again} == {source.text for source in first}
    others = in_languages(EchoSampler(), "de,en", tmp_path / "a", "evaluation")
    assert not {source.text[:20] for source in others} & {source.text[:20] for source in first}


def test_languages_without_openings_are_refused_before_any_work(tmp_path: Path) -> None:
    sampler = EchoSampler()
    with pytest.raises(SmidgenError, match="--text sw=FILE"):
        in_languages(sampler, "en,sw", tmp_path)
    assert sampler.calls == 0
