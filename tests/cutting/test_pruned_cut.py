"""Cuts that leave parts out, on tiny models, through the command line: every step, chains, resuming, history."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from smidgen.formats.history import history
from smidgen.formats.opening import open_checkpoint
from smidgen.measuring.measure import measure
from tests.cutting.commands import kill_once_there, run, sha256
from tests.family_models import save_folder
from tests.measuring.test_report import whole_page
from tests.tiny_models import VOCABULARY, write_gemma3, write_llama

_LETTERS = random.Random(1)
#: Characters that are tokens of the tiny models, the first of them far more often than the others; some that are not.
TEXT = "".join(
    chr(0x4E00 + min(int(_LETTERS.expovariate(0.2)), VOCABULARY - 262)) + _LETTERS.choice(["", "", " ", "é"])
    for _ in range(6000)
)


@pytest.fixture
def tiny(own_folder: Path) -> Path:
    (own_folder / "own.txt").write_text(TEXT)
    return own_folder


def arguments(model: Path | str, output: str, *more: object) -> list[str]:
    return ["cut", str(model), "-o", output, "--text", "own.txt", "--tokens", "1024", "--threads", "1", *map(str, more)]


def card_of(original: Path, cut: Path) -> dict[str, Any]:
    return measure(original, cut, ["own.txt"], tokens=512, with_speed=False, with_answers=False)


def steps_of(path: Path) -> list[str]:
    with open_checkpoint(path) as checkpoint:
        return [step["step"] for step in history(checkpoint.file.metadata)]


@pytest.mark.parametrize("write", [write_gemma3, write_llama])
def test_vocabulary_alone_keeps_the_types(write, tiny: Path) -> None:
    model = write(tiny / "tiny.gguf")
    done = run(arguments(model, "out", "--vocab", 280, "--no-measure"))
    assert done.code == 0, done.err
    with open_checkpoint(model) as before, open_checkpoint(tiny / "out/model.gguf") as after:
        assert after.config.vocabulary == 280
        assert after.file.size < before.file.size
        for tensor in after.file.tensors.values():
            assert tensor.kind is before.file.tensors[tensor.name].kind


@pytest.mark.parametrize(
    "step, options, changed",
    [
        ("depth", ["--layers", "3"], {"layers": 3}),
        ("width", ["--ffn", "64"], {"ffn_width": 64}),
        ("weights", ["--sparsity", "2:4"], {}),
        ("weights", ["--sparsity", "50%", "--sparsity-method", "wanda"], {}),
    ],
)
def test_each_step_makes_a_model_that_others_take(step: str, options: list[str], changed: dict, tiny: Path) -> None:
    model = write_gemma3(tiny / "tiny.gguf")
    done = run(arguments(model, "out", *options))
    assert done.code == 0, done.err
    assert "Without --heal nothing is trained afterwards" in done.err
    page = whole_page(tiny / "out")
    assert "Damage by layer: not measured" in page.sections["types"]  # no type was chosen
    assert "Without --heal" not in page.sections["steps"]  # what it cost is on the same page
    with open_checkpoint(tiny / "out/model.gguf") as after:
        assert len(after.config.layers) == changed.get("layers", 5)
        assert all(layer.ffn_width == changed.get("ffn_width", 96) for layer in after.config.layers)
    assert steps_of(tiny / "out/model.gguf") == [step]
    again = run(arguments("out", "again", "--vocab", 290, "--no-measure"))
    assert again.code == 0, again.err
    assert steps_of(tiny / "again/model.gguf") == [step, "vocabulary"]


def test_a_chain_resumes_to_the_same_file(tiny: Path) -> None:
    model = write_gemma3(tiny / "tiny.gguf")
    chain = ["--vocab", "280", "--layers", "3", "--ffn", "64", "--fit", "120KB", "--no-measure"]
    assert run(arguments(model, "whole", *chain)).code == 0
    kill_once_there(tiny, arguments(model, "out", *chain), tiny / "out/work/2-width.gguf")
    resumed = run([*arguments(model, "out", *chain), "--resume"])
    assert resumed.code == 0, resumed.err
    assert sha256(tiny / "out/model.gguf") == sha256(tiny / "whole/model.gguf")
    assert not (tiny / "out/work").exists()
    assert steps_of(tiny / "out/model.gguf") == ["vocabulary", "depth", "width", "quantize"]
    again = run(["cut", model, "--recipe", "out/recipe.toml", "-o", "again", "--no-measure"])
    assert again.code == 0, again.err
    assert sha256(tiny / "again/model.gguf") == sha256(tiny / "whole/model.gguf")


def test_the_planner_weighs_tokens_against_bits_and_the_card_tells_all(tiny: Path) -> None:
    model = write_gemma3(tiny / "tiny.gguf")
    done = run(arguments(model, "out", "--steps", "vocabulary,quantize", "--fit", "135KB", "--json"))
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert "nats per token with the same bytes" in done.err
    assert [step["step"] for step in result["steps"]] == ["vocabulary", "quantize"]
    assert (tiny / "out/model.gguf").stat().st_size <= 135_000
    card = json.loads((tiny / "out/card.json").read_text())
    assert [step["step"] for step in card["history"]] == ["vocabulary", "quantize"]
    assert card["fidelity"][0]["tokens_dropped"] >= 0 and card["fidelity"][0]["dropped_mass"] >= 0
    assert "tokens stay" in (tiny / "out/README.md").read_text()
    whole_page(tiny / "out")


def test_the_card_of_a_cut_of_a_cut_tells_both_and_whose_layers_are_left(tiny: Path) -> None:
    model = write_gemma3(tiny / "tiny.gguf")
    assert run(arguments(model, "out", "--layers", 3, "--no-measure")).code == 0
    done = run(arguments("out", "again", "--fit", "120KB"))
    assert done.code == 0, done.err
    steps = whole_page(tiny / "again").sections["steps"]
    assert steps.index("Depth: 3 of 5 layers stay") < steps.index("Quantization: ")
    cards = [json.loads((tiny / "again/card.json").read_text()), card_of(model, tiny / "again")]
    (depth,) = (step["parameters"] for step in cards[0]["history"] if step["step"] == "depth")
    gone = {layer for run in depth["removed"] for layer in run}
    kept = [layer for layer in range(5) if layer not in gone]
    for card, numbers in zip(cards, ([0, 1, 2], kept), strict=True):  # against the first cut, against the model
        moved = {tensor["layer"]: tensor["original_layer"] for tensor in card["cut"]["tensors"]}
        assert [moved[layer] for layer in range(3)] == numbers


def test_languages_are_written_by_the_model_itself(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.measuring.run.DEFAULT_TOKENS", 128)  # writing more takes half a minute
    model = write_gemma3(tiny / "tiny.gguf")
    done = run(
        [
            "cut",
            str(model),
            "-o",
            "out",
            "--langs",
            "de,en",
            "--vocab",
            "290",
            "--tokens",
            "512",
            "--threads",
            "1",
            "--json",
        ]
    )
    assert done.code == 0, done.err
    languages, page = json.loads(done.out)["card"]["languages"], whole_page(tiny / "out")
    assert {code for code, entry in languages.items() if entry["asked"]} == {"de", "en"}
    assert any(not entry["asked"] for entry in languages.values())
    assert page.pictures["trimmed"] == 2
    assert "de asked for" in page.sections["trimmed"] and "ja not asked" in page.sections["trimmed"]


def test_experts(tiny: Path) -> None:
    (tiny / "mixture").mkdir()
    save_folder("mixtral", tiny / "mixture")
    (tiny / "own.txt").write_text("the rain in the other hostel then treats her on the train " * 200)
    for name, options in (("dropped", ["--no-measure"]), ("merged", ["--merge-experts", "--fit", "600KB"])):
        done = run(arguments("mixture", name, "--experts", 2, *options))
        assert done.code == 0, done.err
        with open_checkpoint(tiny / name / "model.gguf") as after:
            assert {layer.experts for layer in after.config.layers} == {2}
    page = whole_page(tiny / "merged")
    assert "blk.0.ffn_gate_inp.weight layer 0: router" in page.sections["types"]


def test_matrices_that_are_stacked_in_one_tensor_are_all_on_the_card(tiny: Path) -> None:
    (tiny / "stacked").mkdir()
    save_folder("phi3", tiny / "stacked")
    (tiny / "own.txt").write_text("the rain in the other hostel then treats her on the train " * 200)
    done = run(arguments("stacked", "out", "--fit", "300KB"))
    assert done.code == 0, done.err
    page = whole_page(tiny / "out")
    assert "blk.3.attn_qkv.weight layer 3: query, key, value" in page.sections["types"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--vocab", "100"], "smallest possible is"),
        (["--langs", "xx"], "xx"),
        (["--langs", "sw"], "--text sw=FILE"),
        (["--layers", "9"], "9"),
        (["--ffn", "50"], "50"),
        (["--kv-heads", "5"], "5"),
        (["--sparsity", "7:3"], "7:3"),
        (["--experts", "2"], "experts"),
        (["--steps", "depth"], "--layers"),
        (["--merge-experts", "--fit", "1MB"], "goes with --experts"),
        (["--vocab", "280", "--fit", "20KB"], "the smallest possible file is"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(options: list[str], message: str, tiny: Path) -> None:
    model = write_gemma3(tiny / "tiny.gguf")
    text = [] if "sw" in options else ["--text", "own.txt"]
    refused = run(["cut", str(model), "-o", "out", *text, "--tokens", "1024", *options])
    assert refused.code == 2, refused.err
    last = refused.err.strip().splitlines()[-1]
    assert last.startswith("smidgen: error: ") and message in last
    assert not (tiny / "out/model.gguf").exists()
