"""How the benchmark of guards counts."""

from pathlib import Path

import pytest

from benchmarks.guard import Item, counted, is_held_out, read
from smidgen.errors import SmidgenError
from smidgen.serving.guard.decisions import Decision


def decided(probability: float | None) -> Decision:
    return Decision("a", "prompt", "allowed", "allow", probability, "", 0.5)


def test_right_wrong_and_undecided_are_counted_apart() -> None:
    items = [Item("a", True), Item("b", True), Item("c", False), Item("d", False), Item("e", False)]
    found = counted(items, [decided(p) for p in (0.9, 0.2, 0.1, 0.6, None)])
    assert (found["right"], found["refused_harmless"], found["passed_harmful"], found["undecided"]) == (2, 1, 1, 1)
    assert found["area_under_curve"] == 0.75
    assert counted(items, [decided(None)] * 5)["area_under_curve"] is None


def test_prompts_are_read_with_their_labels(tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text('prompt,label\n"a\nb",safe\nc,unsafe\n')
    assert read(file) == [Item("a\nb", False), Item("c", True)]
    file.write_text("prompt,label\na,perhaps\n")
    with pytest.raises(SmidgenError, match="safe and unsafe"):
        read(file)


def test_a_third_is_held_out_always_the_same() -> None:
    held_out = [number for number in range(3000) if is_held_out(Item(str(number), False))]
    assert 900 < len(held_out) < 1100
