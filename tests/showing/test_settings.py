"""Settings from a page: what is no setting is refused, and an empty field is none."""

import pytest

from smidgen.engines.llama_cpp.engine import LARGEST_SEED, Message
from smidgen.errors import SmidgenError
from smidgen.showing.settings import Settings, refuse_half_characters


def test_empty_fields_are_no_limits() -> None:
    settings = Settings.of_page(0, 1, None, "", None)
    assert (settings.temperature, settings.top_p, settings.max_tokens, settings.seed, settings.system) == (
        0.0, 1.0, None, None, "",
    )  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        (None, 0.9, 10, None, ""), (-1, 0.9, 10, None, ""), (float("nan"), 0.9, 10, None, ""),
        ("hot", 0.9, 10, None, ""), (True, 0.9, 10, None, ""), (1, 1.5, 10, None, ""), (1, 0.9, 0, None, ""),
        (1, 0.9, 2.5, None, ""),
        (1, 0.9, 10, -1, ""), (1, 0.9, 10, 2**32, ""), (1, 0.9, [], None, ""), (1, 0.9, 10, None, "\ud800"),
    ],
)  # fmt: skip
def test_what_is_no_setting_is_refused_in_one_line(values: tuple[object, ...]) -> None:
    with pytest.raises(SmidgenError) as refused:
        Settings.of_page(*values)
    assert "\n" not in str(refused.value)


def test_each_try_has_the_next_seed() -> None:
    settings = Settings.of_page(1, 0.9, 10, LARGEST_SEED, "")
    assert settings.next_try(0).seed == LARGEST_SEED
    assert settings.next_try(1).seed == 0
    assert Settings.of_page(1, 0.9, 10, None, "").next_try(3).seed is None


def test_the_system_message_comes_first() -> None:
    said: list[Message] = [{"role": "user", "content": "Hello"}]
    assert Settings.of_page(1, 1, 1, 1, " Be brief. ").conversation(said)[0] == {
        "role": "system",
        "content": "Be brief.",
    }
    assert Settings.of_page(1, 1, 1, 1, " ").conversation(said) == said


def test_half_a_character_is_no_text() -> None:
    assert refuse_half_characters("𝄞") == "𝄞"
    with pytest.raises(SmidgenError, match="half a character"):
        refuse_half_characters("a\ud834")
