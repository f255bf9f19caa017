"""What a cut reads: never more than the model knows at once, as much of each text as there is, and the card says it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smidgen.cutting.recipe import read_recipe
from smidgen.formats.opening import open_checkpoint
from smidgen.model.attention import Attention
from tests.cutting.commands import kill_once_there, run
from tests.cutting.test_pruned_cut import TEXT, arguments, tiny
from tests.measuring.test_report import whole_page
from tests.tiny_models import GEMMA3_CONFIG, GEMMA3_KEYS, gguf_tensors, random_decoder, write_gemma3, write_model

__all__ = ["tiny"]  # a fixture


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The last position at which any model has read a token, and one."""
    plain, seen = Attention.heads, [0]

    def heads(self: Attention, x: Any, start: int = 0, *more: Any, **named: Any) -> Any:
        seen.append(start + x.shape[1])
        return plain(self, x, start, *more, **named)

    monkeypatch.setattr(Attention, "heads", heads)
    return lambda: max(seen)


def short_context(folder: Path) -> Path:
    keys = GEMMA3_KEYS | {"context_length": 64}
    return write_model(folder / "short.gguf", "gemma3", keys, gguf_tensors(random_decoder(GEMMA3_CONFIG)))


@pytest.mark.parametrize(
    "options",
    [
        ["--fit", "140KB"],
        ["--langs", "hi", "--vocab", "285", "--tokens", "512"],
        ["--vocab", "270", "--layers", "4", "--ffn", "64", "--fit", "140KB", "--heal", "2000"],
    ],
)
def test_no_window_is_longer_than_the_context(options: list[str], longest: Callable[[], int], tiny: Path) -> None:
    """In calibration, survey, refit, healing, self-written text and measuring."""
    model = short_context(tiny)
    words = ["cut", str(model), "-o", "out", "--threads", "1", *options]
    done = run(words if "hi" in options else [*words, "--text", "own.txt", "--tokens", "1024"])
    assert done.code == 0, done.err
    assert longest() == 64
    assert json.loads((tiny / "out/card.json").read_text())["made"]["tokens_per_window"] == 64


def test_a_text_too_short_gives_all_it_has_and_everything_says_so(tiny: Path) -> None:
    model = write_gemma3(tiny / "tiny.gguf")
    (tiny / "short.txt").write_text(TEXT[:150])
    done = run(arguments(model, "out", "--fit", "140KB", "--tokens", "4096", "--text", "de=short.txt"))
    assert done.code == 0, done.err
    card = json.loads((tiny / "out/card.json").read_text())
    long, short = card["calibration"]
    assert (long["text"], short["text"]) == ("own.txt", "de")
    assert 100 < short["tokens"] == short["available"] < 512 and short["too_short"] and not long["too_short"]
    assert 3500 < long["tokens"] + short["tokens"] <= 4096
    assert "de" in card["languages"]
    said = f"{short['tokens']:,} tokens of de (too short for its share of 2,048)"
    assert said in done.out and "The other texts gave the rest" in done.out
    page = whole_page(tiny / "out")
    assert f"own.txt: {long['tokens']:,} of {long['available']:,} tokens" in page.sections["steps"]
    assert any("too short to calibrate on" in note for note in card["notes"])
    assert "too short to calibrate on" in page.sections["fidelity"]
    recipe = (tiny / "out/recipe.toml").read_text()
    assert f'{{ text = "de", tokens = {short["tokens"]} }}' in recipe.replace('"text"', "text")
    assert read_recipe(tiny / "out/recipe.toml").tokens == 4096


def test_vocabulary_and_bits_are_planned_together_where_it_is_healed_too(tiny: Path) -> None:
    model = write_gemma3(tiny / "tiny.gguf")
    sizes = {}
    for name, options in (("plain", ["--fit", "129904"]), ("healed", ["--fit", "130000", "--heal", "2000"])):
        chosen = ["--steps", f"vocabulary,quantize{',heal' * (name == 'healed')}", "--no-measure"]
        done = run(arguments(model, name, *options, *chosen))
        assert done.code == 0, done.err
        assert "nats per token with the same bytes" in done.err
        with open_checkpoint(tiny / name / "model.gguf") as cut:
            sizes[name] = cut.config.vocabulary
            assert cut.file.size <= 130_000
    assert sizes["plain"] == sizes["healed"]


def test_an_impossible_size_is_refused_before_any_work_where_it_is_healed_too(tiny: Path) -> None:
    model = write_gemma3(tiny / "tiny.gguf")
    refused = run(["cut", str(model), "-o", "out", "--fit", "20KB", "--heal", "1000"])
    assert refused.code == 2 and "the smallest possible file is" in refused.err
    assert "Writing" not in refused.err and not (tiny / "out").exists()


def test_what_a_resumed_cut_took_is_what_all_its_processes_took(tiny: Path) -> None:
    model = write_gemma3(tiny / "tiny.gguf")
    words = arguments(model, "out", "--fit", "140KB")
    kill_once_there(tiny, words, tiny / "out/work/survey.json")
    earlier = {"seconds": 5000.0, "processor_seconds": 1.0, "peak_ram_bytes": 10**15}
    (tiny / "out/work/effort.json").write_text(json.dumps(earlier))
    resumed = run([*words, "--resume"])
    assert resumed.code == 0, resumed.err
    cost = json.loads((tiny / "out/card.json").read_text())["cost"]
    assert 5000 < cost["seconds"] < 6000 and cost["peak_ram_bytes"] == 10**15
    assert f", in {cost['seconds']:.0f} s" in resumed.out


def test_the_card_says_that_the_model_measured_itself_on_its_own_text(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smidgen.measuring.run.DEFAULT_TOKENS", 512)
    model = write_gemma3(tiny / "tiny.gguf")
    done = run(["cut", str(model), "-o", "out", "--fit", "140KB", "--tokens", "512", "--threads", "1"])
    assert done.code == 0, done.err
    assert done.err.count("llama.cpp writes with an 8-bit copy of the model, 2 documents at a time.") == 2
    card = json.loads((tiny / "out/card.json").read_text())
    assert card["fidelity"][0]["self_written"] and card["calibration"][0]["self_written"]
    (note,) = [note for note in card["notes"] if "two texts of one author" in note]
    assert note.endswith("A text of another kind may lose more.")
    assert note in whole_page(tiny / "out").sections["fidelity"]


def test_choosing_a_vocabulary_reads_all_of_the_text_and_says_so(tiny: Path) -> None:
    """And the recipe of that cut, elsewhere, is told where its text is."""
    model = write_gemma3(tiny / "tiny.gguf")
    done = run(arguments(model, "out", "--vocab", "280", "--no-measure"))
    assert done.code == 0, done.err
    assert "The vocabulary was chosen by all text that is not kept for measuring: " in done.out
    assert "tokens of own.txt" in done.out and "Calibrated on" not in done.out
    (tiny / "away").mkdir()
    (tiny / "own.txt").rename(tiny / "away/own.txt")
    words = ["cut", str(model), "--recipe", "out/recipe.toml", "-o", "again", "--no-measure"]
    assert "say with --text where it is" in run(words).err
    assert "--recipe already says what --seed would" in run([*words, "--seed", "1"]).err
    done = run([*words, "--text", "away/own.txt"])
    assert done.code == 0, done.err
    assert (tiny / "again/model.gguf").read_bytes() == (tiny / "out/model.gguf").read_bytes()
