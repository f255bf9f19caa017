"""A cut that is measured anew keeps what its card knew of how it was made, and nothing of another file's card."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from smidgen.measuring.earlier_card import with_its_making
from tests.measuring.whole_card import whole_card

STEPS = [{"step": "quantize", "parameters": {"calibration": ["mine.txt"]}, "summary": "Quantization: 2 matrices."}]
CALIBRATION = [{"text": "mine.txt", "self_written": False, "tokens": 512, "available": 900, "too_short": False}]
COST = {"seconds": 40.0, "peak_ram_bytes": 600_000_000}


WHOLE = whole_card()  # made once: it has its second in it


def anew() -> dict[str, Any]:
    """As measured for the second time: nothing is known of how the cut was made."""
    card = deepcopy(WHOLE) | {"steps": [], "calibration": [], "cost": {"seconds": None, "peak_ram_bytes": None}}
    text = card["fidelity"][0] | {"text": "mine.txt", "seen_in_calibration": None, "self_written": False}
    return card | {"fidelity": [text]}


def earlier(path: Path, **other: Any) -> Path:
    path.write_text(json.dumps(anew() | {"steps": STEPS, "calibration": CALIBRATION, "cost": COST} | other))
    return path


def test_steps_calibration_and_cost_stay_and_the_notes_speak_of_them(tmp_path: Path) -> None:
    card = with_its_making(anew(), earlier(tmp_path / "card.json"))
    assert (card["steps"], card["calibration"], card["cost"]) == (STEPS, CALIBRATION, COST)
    assert any("calibrated on a text named mine.txt" in note and "may flatter" in note for note in card["notes"])


@pytest.mark.parametrize(
    "other",
    [
        {"cut": {**WHOLE["cut"], "sha256": "0" * 64}},
        {"original": {**WHOLE["original"], "sha256": "0" * 64}},
        {"schema": 2},
        {"original": "another"},
        {"steps": [], "calibration": [], "cost": {}},
        {"steps": "none", "calibration": 1, "cost": []},
    ],
)
def test_what_is_not_about_the_same_files_or_no_such_value_is_left_out(tmp_path: Path, other: dict[str, Any]) -> None:
    assert with_its_making(anew(), earlier(tmp_path / "card.json", **other)) == anew()


@pytest.mark.parametrize("steps", [[1], [{"step": "heal", "watched": [[1, "x"]]}], [{"tensors": [{"damage": "x"}]}]])
def test_what_cannot_be_shown_is_left_out_and_said(
    steps: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert with_its_making(anew(), earlier(tmp_path / "card.json", steps=steps)) == anew()
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"[" * 100_000, b"\xff\xfe"])
def test_a_file_that_is_no_card_is_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "card.json").write_bytes(content)
    assert with_its_making(anew(), tmp_path / "card.json") == with_its_making(anew(), tmp_path / "none") == anew()
