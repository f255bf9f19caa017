"""The table of languages: codes, scripts and openings fit together."""

import pytest

from smidgen.data.languages import LANGUAGES, languages_of, scripts_of
from smidgen.errors import SmidgenError


def test_codes_of_two_and_three_letters() -> None:
    found = languages_of(["de", "deu", "CMN", " ja"])
    assert [language.code for language in found] == ["de", "zh", "ja"]
    assert len(LANGUAGES) >= 40 and all(code == language.code for code, language in LANGUAGES.items())


@pytest.mark.parametrize("code", ["xx", "", "english", "d\ne"])
def test_unknown_codes(code: str) -> None:
    with pytest.raises(SmidgenError, match="known are en, de") as caught:
        languages_of(["en", code])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", LANGUAGES)
def test_openings_are_in_the_scripts_of_the_language(code: str) -> None:
    language = LANGUAGES[code]
    for opening in language.openings:
        assert scripts_of(opening).keys() <= set(language.scripts)
        assert len(opening) >= 10
    assert len(set(language.openings)) == len(language.openings) != 1


def test_scripts_of_text() -> None:
    assert scripts_of("Ab é 12!😀 дом 字かカ ｶ") == {"Latin": 3, "Cyrillic": 3, "Han": 1, "Hiragana": 1, "Katakana": 2}
    assert scripts_of("हिन्दी") == {"Devanagari": 6}
    assert scripts_of("e\u0301 ª\u200d\n") == {"Latin": 1}
