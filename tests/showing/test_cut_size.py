"""The size that the page proposes can be made, and the refusal of another says what to put in the field."""

from pathlib import Path

import pytest

from smidgen.cutting.plan import refuse_impossible
from smidgen.errors import BudgetError
from smidgen.formats.opening import open_checkpoint
from smidgen.showing.cut_size import proposed_size, said_on_page, size_of_at_least
from smidgen.sizes import parse_size
from tests.tiny_models import write_llama


def test_what_is_proposed_can_be_made(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.gguf")
    size = parse_size(proposed_size(path))
    assert size <= path.stat().st_size + 100  # rounded up
    with open_checkpoint(path) as checkpoint:
        refuse_impossible(checkpoint, size)


def test_a_refusal_names_a_size_for_the_field_which_is_accepted(tmp_path: Path) -> None:
    with open_checkpoint(write_llama(tmp_path / "tiny.gguf")) as checkpoint:
        with pytest.raises(BudgetError) as refused:
            refuse_impossible(checkpoint, 1000)
        said = said_on_page(str(refused.value))
        assert "--" not in said and "Choose a size of at least " in said
        least = said.partition("at least ")[2]
        refuse_impossible(checkpoint, parse_size(" ".join(least.split()[:2]).removesuffix(".")))


def test_a_refusal_by_vocabulary_too() -> None:
    said = said_on_page(
        "it is too much: the smallest possible file is about 47510 bytes (47.5 kB). Ask for more with --fit."
    )
    assert said == "it is too much: the smallest possible file is about 47510 bytes. Choose a size of at least 47.6 kB."
    assert said_on_page("no space left.") == "no space left."


@pytest.mark.parametrize("count", [1, 999, 77_571_296, 99_960_001, 1_234_567_890])
def test_sizes_are_rounded_up(count: int) -> None:
    assert count <= parse_size(size_of_at_least(count)) <= count * 1.01 + 1
