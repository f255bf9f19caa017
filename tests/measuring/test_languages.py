"""Which texts are measured on: those that are given, and for the languages without one, texts by the original."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from smidgen.data import self_written
from smidgen.data.languages import Language
from smidgen.data.sources import TextSource
from smidgen.errors import SmidgenError
from smidgen.measuring.measure import measure
from tests import tiny_models as tiny
from tests.measuring.test_command import run


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[list[str], int]]:
    """Languages and tokens that the original was asked to write in; it writes the same in each."""
    calls: list[tuple[list[str], int]] = []

    def write(
        sampler: Any, tokenizer: Any, sha256: str, languages: Sequence[Language], tokens: int, *rest: Any
    ) -> list[TextSource]:
        calls.append(([language.code for language in languages], tokens))
        return [TextSource.of(f"{one.code} (self-written)", "一丁 丂七 " * 900, None, one.code) for one in languages]

    monkeypatch.setattr(self_written, "self_written_in", write)
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    return calls


def test_languages_without_a_text_are_written_in(asked_for: list[tuple[list[str], int]], tmp_path: Path) -> None:
    model = tiny.write_gemma3(tmp_path / "model.gguf")
    given = TextSource.of("deu", "一丁 " * 90, None, "deu")
    card = measure(
        model,
        model,
        [given],
        languages=["de", "fr"],
        other_languages=["fr", "deu", "sv"],
        tokens=2000,
        with_speed=False,
        with_answers=False,
    )
    assert asked_for == [(["fr"], 2000), (["sv"], 1024)]
    assert [text["text"] for text in card["fidelity"]] == ["deu", "fr (self-written)"]
    assert {code: entry["asked"] for code, entry in card["languages"].items()} == {"deu": True, "fr": True, "sv": False}
    assert card["languages"]["sv"]["tokens"] < 1600 < card["languages"]["fr"]["tokens"]


def test_the_command_takes_languages(
    asked_for: list[tuple[list[str], int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.write_gemma3(tmp_path / "model.gguf")
    assert run(model, model, "--langs", "fr, de", "--tokens", 64, "--no-speed", "--quiet") == 0
    assert asked_for == [(["fr", "de"], 64)]
    assert "fr (self-written)" in capsys.readouterr().out


def test_an_unknown_language_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "no.gguf", tmp_path / "no.gguf", "--langs", "en,klingon") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "klingon" in error
    with pytest.raises(SmidgenError, match="klingon"):
        model = tiny.write_gemma3(tmp_path / "model.gguf")
        measure(model, model, languages=["klingon"], with_speed=False)
