"""What is dropped, by which rule."""

import pytest

from smidgen.data.corpus.filters import Filter, Rules
from smidgen.errors import SmidgenError
from tests.data.corpus.texts import essay

GERMAN = (
    "Die Stadt liegt am nördlichen Ufer des Flusses und war lange Zeit ein wichtiger Ort des Handels. Im Winter friert "
    "der Hafen zu, und die Fischer bleiben zu Hause, wo sie ihre Netze flicken. Wer im Frühjahr kommt, sieht zuerst "
    "den alten Turm, dessen Glocke seit dem großen Brand nicht mehr geläutet hat, und dahinter die Dächer der Speicher."
)
CHINESE = (
    "这座城市位于河流的北岸，长期以来一直是重要的贸易中心。冬天港口结冰，渔民们留在家里修补渔网。春天来的人首先看到那座古老的塔楼，"
    "它的钟自大火以来再也没有敲响过，后面是仓库的屋顶。市场上的商人卖丝绸、茶叶和纸张。"
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" \n ", "empty"),
        ("short but good text of the town", "too_few_words"),
        (essay(0), None),
        (GERMAN, None),
        (CHINESE, None),
        ("# " * 40 + essay(0), "symbols"),
        ("1234 345 6789 ,,, " * 40, "words_without_letters"),
        ("\n".join(["the same line of the text that comes back again and again"] * 9 + [essay(1)]), "repeated_lines"),
        ("a b c d " * 30, "words_too_short"),
        ("of the river " * 40, "repeated_words"),
        ("\n".join(f"- {line}" for line in essay(2, 240).splitlines()), "bullets"),
    ],
)
def test_quality(text: str, reason: str | None) -> None:
    assert Filter(Rules()).reason(text) == reason


def test_language_comes_first_and_english_needs_stop_words() -> None:
    english = Filter(Rules(("en",)))
    assert english.reason(GERMAN) == "language"
    assert Filter(Rules(("de", "zh"))).reason(GERMAN) is None
    assert Filter(Rules(("zho",), quality=False)).reason(CHINESE) is None
    bare = " ".join(word for word in essay(3, 300).split() if word not in ("the", "of", "and", "to", "that"))
    assert english.reason(bare.replace("with", "as").replace("have", "as").replace(" be ", " as ")) in (
        "too_few_stop_words", "language",
    )  # fmt: skip


def test_words_without_rules_only_need_to_be_there() -> None:
    assert Filter(Rules(quality=False)).reason("x") is None


def test_languages_that_cannot_be_told() -> None:
    with pytest.raises(SmidgenError, match="leave it out of --langs"):
        Rules(("en", "code"))
    with pytest.raises(SmidgenError, match="not known here"):
        Rules(("xx",))
