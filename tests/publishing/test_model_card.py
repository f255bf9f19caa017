"""The README.md of a cut, as the Hugging Face hub reads it: front matter, results, and what it says of use."""

import struct
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from smidgen.formats.hub.notices import Licence
from smidgen.formats.hub.origin import Origin
from smidgen.publishing import companions
from smidgen.publishing.licence import Licensed
from smidgen.publishing.results import model_index
from smidgen.publishing.wording import front_line
from tests.measuring.test_card import full_card
from tests.publishing.test_companions import EVIL, evil_card

QUANTIZED = [{"step": "quantize", "summary": "Quantization: 3 of 4 matrices encoded anew."}]


def score(**more: Any) -> dict[str, Any]:
    flips = {"right_to_wrong": 12, "wrong_to_right": 8}
    found = {"original": 0.561, "cut": 0.541, "difference": -0.02, "interval": [-0.06, 0.02], "items": 200}
    return found | {"flips": flips, "seed": 0, "note": None} | more


def asked_card() -> dict[str, Any]:
    card = full_card()
    card["tasks"] = {"mmlu": score(), "arc_easy": score(seed=None), "mbpp": {"reason": "the engine ended", "cut": None}}
    card["safety"] = {"refusals": {"judge": "judged by a rule", "refused_unsafe": score()}}
    return card


def write(
    folder: Path, card: dict[str, Any] | None, steps: list[dict[str, Any]] = QUANTIZED, family: str = "llama",
    languages: tuple[str, ...] = (), metadata: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """README.md of a cut of a model with this header."""
    source, output = folder / "source" / "model.gguf", folder / "out"
    source.parent.mkdir()
    source.touch()
    output.mkdir()
    (output / "model.gguf").write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 0))
    checkpoint: Any = SimpleNamespace(
        config=SimpleNamespace(family=family), file=SimpleNamespace(metadata=metadata or {}, size=99),
        origin=Origin.of_path(source),
    )  # fmt: skip
    recipe = {"model": "x", "languages": list(languages), "versions": {}, "steps": []}
    companions.write_companions(output, checkpoint, recipe, steps, card)
    return output / "README.md"


KNOWN = {"general.base_model.0.repo_url": "https://huggingface.co/org/name", "general.license": "apache-2.0"}


def test_the_hub_reads_every_result_back(tmp_path: Path) -> None:
    readme = write(tmp_path, asked_card(), languages=("de", "en"), metadata=KNOWN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data: Any = ModelCard.load(readme).data
    assert (data.base_model, data.license, data.language) == ("org/name", "apache-2.0", ["de", "en"])
    assert data.pipeline_tag == "text-generation" and data.tags == ["gguf", "smidgen"] and data.model_name == "small"
    assert data["base_model_relation"] == "quantized"
    assert data.eval_results is not None
    found = {(one.dataset_name, one.metric_type): one.metric_value for one in data.eval_results}
    assert found[("MMLU (200 items, seed 0)", "accuracy")] == 0.541
    assert found[("arc_easy (200 items)", "score")] == 0.541
    text = "prose (8,192 tokens, sha256 cdcdcdcdcdcd)"
    assert found[(text, "kl_divergence")] == 0.06 and found[(text, "bits_per_byte")] == 0.931
    assert all(one.verified is False and one.task_type == "text-generation" for one in data.eval_results)
    assert not any("mbpp" in name.lower() for name, _ in found)


def test_hostile_names_come_back_as_they_are_shown(tmp_path: Path) -> None:
    readme = write(tmp_path, evil_card())
    loaded = metadata_load(readme)
    assert loaded is not None and set(loaded) == {"license", "pipeline_tag", "tags", "quantized_by", "model-index"}
    names = [result["dataset"]["name"] for result in loaded["model-index"][0]["results"]]
    assert len(names) == 3 and all(name.isprintable() for name in names)


@pytest.mark.parametrize(
    ("value", "yaml"), [(1e-05, "k: 0.00001"), (0.5, "k: 0.5"), (3.0, "k: 3"), (0.0, "k: 0"), (12.25, "k: 12.25")]
)
def test_numbers_are_numbers_in_yaml(value: float, yaml: str) -> None:
    assert front_line("k", value) == yaml


def test_without_a_card_nothing_is_claimed(tmp_path: Path) -> None:
    text = write(tmp_path, None).read_text()
    assert "model-index" not in text and "Not measured." in text and "Safety was not measured" in text


def test_only_a_quantized_model_is_called_so(tmp_path: Path) -> None:
    pruned = [{"step": "vocabulary", "summary": "Fewer tokens."}, *QUANTIZED]
    assert "base_model_relation" not in write(tmp_path, full_card(), pruned, metadata=KNOWN).read_text()


def test_languages_of_the_original_are_codes_or_left_out(tmp_path: Path) -> None:
    text = write(tmp_path, None, metadata={"general.languages": ["en", EVIL, "zxx", "../"]}).read_text()
    assert 'language: ["en", "zxx"]\n' in text


def test_the_body_says_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    text = write(tmp_path, asked_card()).read_text()
    assert "| MMLU | 56.1% | 54.1% | -2.0 points (-6.0 to +2.0) | 12 and 8 | 200 |" in text
    assert "| MBPP | not measured |  | the engine ended |  |  |" in text
    assert "| Refuses harmful prompts | 56.1% | 54.1% |" in text and "Safety was not measured" not in text
    assert text.index("| de |") < text.index("| fr |")  # the language that lost most
    assert "It writes 60 tokens per second (the original 40)" in text and "on 2 threads of a machine." in text
    assert "[card.html](card.html)" in text and "ollama create" in text and "llama-cli -m model.gguf" in text
    assert str(tmp_path) not in text
    bare = full_card()
    (tmp_path / "bare").mkdir()
    text = write(tmp_path / "bare", bare).read_text()
    assert "Tasks were not measured." in text and "Safety was not measured: whether it still refuses" in text


def test_notes_on_use_follow_the_licence(tmp_path: Path) -> None:
    gemma = write(tmp_path, None, family="gemma3").read_text()
    assert "<https://ai.google.dev/gemma/prohibited_use_policy>" in gemma
    assert 'license_link: "https://ai.google.dev/gemma/terms"' in gemma

    def on_use(identifier: str | None) -> str:
        return Licensed(Licence(identifier), None, ()).on_use()

    assert "forbids no particular uses" in on_use("Apache-2.0") and "does not allow commercial use" in on_use(
        "cc-by-nc-4.0"
    )
    assert "lists uses that it forbids" in on_use("bigscience-openrail-m")
    assert "not known to smidgen" in on_use(None) and "not known to smidgen" in on_use("qwen")


def test_llamas_policy_is_linked(tmp_path: Path) -> None:
    text = write(tmp_path, None, metadata={"general.license": "llama3.1"}).read_text()
    assert "<https://www.llama.com/llama3_1/use-policy/>" in text and "known dangers" in text


def test_no_result_no_index() -> None:
    card = full_card() | {"fidelity": [], "languages": {}}
    assert model_index(card) == []
