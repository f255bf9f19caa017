"""The table and the picture of KL against bytes say what the results hold."""

import json
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

import pytest

from benchmarks.equal_bytes import HEALED, LLAMA_CPP, OTHER, SMIDGEN, models
from benchmarks.equal_bytes_picture import picture
from benchmarks.equal_bytes_shown import at_home, elsewhere
from benchmarks.tables import PICTURE


def figures(kl: float, nbytes: int, **more: Any) -> dict[str, Any]:
    return {"kl_mean": kl, "kl_interval": [kl / 2, kl * 2], "bytes": nbytes, "same_top1": 0.8, **more}


def write(folder: Path, model: str, ratio: float, healing: dict[str, Any] | None = None) -> None:
    """A result with two sizes of a model of 1,000 weights."""
    sizes = [
        {
            "size": size, "llama_cpp": [figures(kl, size - 1, mixture="IQ4_XS"), figures(9, size, mixture="Q2_K")],
            "smidgen": figures(kl * ratio, size - 2, healing=healing), "ratio": ratio, "ratio_interval": [0.3, 0.7],
            "other": {"novel": {"smidgen": figures(1, 2), "llama_cpp": figures(2, 3), "ratio": 0.5,
                                "ratio_interval": [0.4, 0.6]}},
        }
        for size, kl in ((500, 0.4), (600, 0.1))
    ]  # fmt: skip
    others = [figures(0.2, 550, engine="ik_llama.cpp IQ4_K")]
    found = {"original": {"weights": 1000}, "notes": ["One could not run."], "sizes": sizes, "other_engines": others}
    name = f"equal_bytes_{model}{'' if healing is None else '_healed'}.json"
    (folder / name).write_text(json.dumps(found))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "smollm2-135m", 0.5)
    write(tmp_path, "smollm2-135m", 0.25, healing={"processor_seconds": 1800})
    return tmp_path


def test_a_healed_result_adds_its_files_alone(folder: Path) -> None:
    (found,) = models(folder)
    assert [len(found.of(maker)) for maker in (LLAMA_CPP, SMIDGEN, HEALED, OTHER)] == [2, 2, 2, 1]
    assert found.bits(500) == 4 and found.notes == ["One could not run."]


def test_the_table_has_a_row_for_each_file_and_its_notes(folder: Path) -> None:
    shown = at_home(models(folder))
    assert (
        "| SmolLM2 135M | **smidgen** | 498 | 3.98 | 0.2000 (0.1000 to 0.4000) | 80.0% | 0.50 (0.30 to 0.70) |" in shown
    )
    assert "**smidgen, healed** for 30 processor minutes" in shown
    assert "| other engine: ik_llama.cpp IQ4_K | 550 | 4.40 |" in shown and shown.endswith(": One could not run.")
    assert shown.count("\n| SmolLM2") == 7
    assert elsewhere(models(folder)).count("| novel | 1.0000 | 2.0000 | 0.50 (0.40 to 0.60) |") == 4


def test_without_results_the_page_says_so(tmp_path: Path) -> None:
    assert models(tmp_path) == [] and at_home([]) == elsewhere([]) == "There is no result yet."
    with pytest.raises(ValueError, match="needs a model"):
        picture([])


def test_the_picture_places_less_loss_lower_and_more_bytes_further_right(folder: Path) -> None:
    write(folder, "gemma-3-270m", 0.5)
    drawn = xml.fromstring(picture(models(folder)))
    space = "{http://www.w3.org/2000/svg}"
    panels = drawn.findall(f"{space}g")
    assert len(panels) == 2
    circles = panels[1].findall(f"{space}circle")
    places = {circle.findtext(f"{space}title"): (circle.get("cx"), circle.get("cy")) for circle in circles}
    small, large = places["smidgen : 498 bytes, KL 0.2000"], places["smidgen : 598 bytes, KL 0.0500"]
    healed = places["smidgen, healed : 498 bytes, KL 0.1000"]
    assert float(small[0] or 0) < float(large[0] or 0) and float(small[1] or 0) < float(large[1] or 0)
    assert healed[0] == small[0] and float(healed[1] or 0) > float(small[1] or 0)
    assert [text.text for text in panels[1].findall(f"{space}text") if text.text == "IQ4_K"] == ["IQ4_K"]


def test_the_picture_on_the_page_is_made_from_the_results() -> None:
    found = models()
    assert PICTURE.exists() == bool(found)
    if found:
        assert PICTURE.read_text() == picture(found), "run: python -m benchmarks.tables --write"
