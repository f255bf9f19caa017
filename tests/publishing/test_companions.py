"""The README.md beside a model: about a model of a stranger, who may have named it with malice."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smidgen.errors import SmidgenError
from smidgen.formats.hub.origin import Origin
from smidgen.publishing import companions

HEADINGS = {
    "## How to run it", "## How it was cut", "## What it cost", "### Tasks", "### Safety",
    "### Speed, memory and energy", "## Responsible use", "## Licence",
}  # fmt: skip
EVIL = (
    "x\n---\n# Heading <script>alert(1)</script> [x](javascript:alert(1)) `rm -rf ~`\n```\nsh evil\n```\n\u202e\x1b[2J"
)

NO_CURVE = companions.LossCurve([], None, "text", chosen=False)


def stranger(tmp_path: Path, **more: str) -> Any:
    """A checkpoint whose every text is hostile."""
    path = tmp_path / "secret-folder" / "model.gguf"
    path.parent.mkdir()
    path.touch()
    metadata = {
        "general.name": EVIL, "general.license": EVIL, "general.license.name": EVIL, "general.author": EVIL,
        "general.license.link": "javascript:alert(1)", "general.tags": [EVIL], "general.base_model.0.repo_url": EVIL,
    } | more  # fmt: skip
    return SimpleNamespace(
        config=SimpleNamespace(family="llama"), file=SimpleNamespace(metadata=metadata, size=99),
        origin=Origin.of_path(path), path=path,
    )  # fmt: skip


def evil_card() -> dict[str, Any]:
    """A report card whose every text is hostile."""
    fidelity = {"kl_mean": 0.0, "same_top1": 1.0, "bits_per_byte_original": 1.0, "bits_per_byte_cut": 1.0}
    fidelity |= {"text": EVIL, "sha256": "ab" * 32, "tokens": 9}
    score = {"original": 0.5, "cut": 0.4, "difference": -0.1, "interval": [-0.2, 0.0], "items": 9, "note": EVIL}
    return {
        "original": {"name": EVIL, "bytes": 9}, "cut": {"name": EVIL}, "fidelity": [fidelity],
        "languages": {EVIL: {**fidelity, "sha256": "cd" * 32}}, "tasks": {EVIL: score, "mmlu": {"reason": EVIL}},
        "safety": {"refusals": {"judge": EVIL, "refused_unsafe": score}}, "notes": [EVIL],
        "verdict": {"sentence": EVIL}, "energy": {"joules_per_token": None, "reason": EVIL},
        "speed": {"decode_tokens_per_s": 2.0, "engine": EVIL, "threads": 1, "machine": EVIL},
    }  # fmt: skip


def readmes(tmp_path: Path, checkpoint: Any) -> dict[str, str]:
    """What each verb writes about it."""
    output = tmp_path / "out"
    output.mkdir()
    (output / "model.gguf").write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 0))
    recipe = {"model": "x", "versions": {}, "steps": []}
    card = evil_card()
    writers = {
        "cut": lambda: companions.write_companions(output, checkpoint, recipe, [{"summary": EVIL}], card),
        "export": lambda: companions.write_export_notes(output, checkpoint),
        "tune": lambda: companions.write_tuning_notes(
            output, checkpoint, ["adapter.gguf", "model.gguf"], [EVIL], NO_CURVE
        ),
        "distill": lambda: companions.write_distilling_notes(output, [checkpoint, checkpoint], [EVIL], NO_CURVE),
    }
    texts = {}
    for verb, write in writers.items():
        write()
        texts[verb] = (output / "README.md").read_text(encoding="utf-8")
    return texts


def test_a_name_cannot_put_markup_or_commands_into_a_readme(tmp_path: Path) -> None:
    for verb, text in readmes(tmp_path, stranger(tmp_path)).items():
        lines = text.splitlines()
        assert all(line.isprintable() for line in lines), verb
        front, body = lines[1 : lines.index("---", 1)], lines[lines.index("---", 1) + 1 :]
        assert {line.partition(":")[0] for line in front} <= {
            "license", "license_name", "tags", "quantized_by", "library_name", "pipeline_tag", "model-index"
        }, verb  # fmt: skip
        assert all(json.loads(line.partition(": ")[2]) for line in front)
        headings = [line for line in body if line.startswith("#")]
        assert headings[0].startswith("# ") and set(headings[1:]) <= HEADINGS, verb
        assert len(headings) == len(set(headings))
        assert sum(line.startswith("```") for line in body) in (0, 2), verb
        assert "x\n---" not in text and text.count("<!--") == (2 if verb == "cut" else 0)
        assert not any(evil in text for evil in ("<script", "](javascript", "`rm", "`sh"))
        assert "secret-folder/" not in text and str(tmp_path) not in text


def test_base_model_is_a_repository_or_absent(tmp_path: Path) -> None:
    url = "https://huggingface.co/org/name"
    checkpoint = stranger(tmp_path, **{"general.base_model.0.repo_url": url})
    for verb, text in readmes(tmp_path, checkpoint).items():
        assert 'base_model: "org/name"\n' in text, verb


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.touch()
    with pytest.raises(SmidgenError, match="is not UTF-8") as caught:
        companions.refuse_output(tmp_path / "o\udcffut", Origin.of_path(model))
    assert str(caught.value).isprintable()
