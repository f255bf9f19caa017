"""The main job end to end on the real Gemma 3 270M: one cut, read back, measured and run."""

import json
import pydoc_data.topics
import subprocess
import sys
from pathlib import Path

import pytest

import smidgen
from smidgen.formats.opening import open_checkpoint
from tests.browser import Browser, assert_looks_right, browser_or_skip
from tests.measuring.test_report import whole_page

FIT = 165_000_000
#: The command line, measuring on little text, the speed but once, and few answers.
COMMAND = """
from functools import partial
from smidgen.cli.main import main
from smidgen.engines.llama_cpp import bench
from smidgen.measuring import run, side_by_side
run.DEFAULT_TOKENS, bench.measure_speed = 1000, partial(bench.measure_speed, repeats=1, contexts=(64,))
few = side_by_side.prompts()[:4]
side_by_side.prompts = lambda: few
main()
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, gemma_path: Path) -> Path:
    """A folder that `smidgen cut` wrote, calibrated on Python's own manual, and measured."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "manual.txt").write_text("\n".join(pydoc_data.topics.topics.values()), encoding="utf-8")
    words = ["cut", str(gemma_path), "--fit", "165MB", "-o", "out", "--text", "manual.txt", "--tokens", "2048"]
    done = subprocess.run([sys.executable, "-c", COMMAND, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_file_fits_and_wastes_little(result: Path) -> None:
    size = (result / "model.gguf").stat().st_size
    assert 0.98 * FIT <= size <= FIT
    assert (result / "recipe.toml").exists() and (result / "GEMMA_TERMS.html").exists()


def test_vocabulary_and_shapes_are_the_original_ones(result: Path, gemma_path: Path) -> None:
    with open_checkpoint(gemma_path) as before, open_checkpoint(result / "model.gguf") as after:
        assert after.config == before.config
        assert after.file.metadata["tokenizer.ggml.tokens"] == before.file.metadata["tokenizer.ggml.tokens"]


def test_predictions_stay_close(result: Path) -> None:
    (text,) = json.loads((result / "card.json").read_text())["fidelity"]
    assert 0 < text["kl_mean"] < 0.1 and text["same_top1"] > 0.8
    assert text["bits_per_byte_cut"] < 1.05 * text["bits_per_byte_original"]


def test_the_page_has_all_its_parts(result: Path) -> None:
    inside = whole_page(result).sections["types"]
    for said in ("embedding and head: ", "blk.17.ffn_down.weight layer 17: down ", "109 others: F32"):
        assert said in inside


def test_the_page_is_seen_in_a_browser_on_a_phone_and_on_a_desktop(result: Path) -> None:
    headings = ("Where the bytes went", "How faithful it is", "How the divergence is spread", "Tasks", "Languages")
    headings += ("Safety and fairness", "Side by side", "Speed and memory", "Energy", "What is inside")
    answers = json.loads((result / "card.json").read_text())["answers"]
    with Browser(browser_or_skip()) as browser:
        assert_looks_right(browser, result / "card.html", (*headings, "How it was cut", "Where this card comes from"))
        said = f"{answers['same']} of {answers['prompts']} answers are the same"
        assert said in browser.ask("document.body.innerText")


def test_llama_cpp_runs_it(result: Path) -> None:
    with smidgen.load(result) as model:
        assert "six" in model.generate("One, two, three, four, five,", max_tokens=8, temperature=0)
