"""Cards of strangers: one line for each fault, and nothing read that was not checked."""

import json
from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import BadFile, SmidgenError
from smidgen.measuring.frontier.cards import read_card, read_cards
from tests.measuring.frontier.little_cards import card, score, speed, text, three, write


def test_a_card_is_read_from_its_folder_or_by_its_path(tmp_path: Path) -> None:
    made = card("small", 60_000_000, text(0.09, 1.05), speed=speed(60.0), tasks={"mmlu": score(-0.03)})
    (folder,) = write(tmp_path, made)
    for found in (read_card(folder), read_card(folder / "card.json")):
        assert (found.name, found.bytes, found.texts[0].kl, found.scores["mmlu"].difference) == (
            "small", 60_000_000, 0.09, -0.03
        )  # fmt: skip
        assert found.speed is not None and (found.speed.rate, found.speed.original_rate) == (60.0, 40.0)


def test_what_was_not_measured_is_none_with_its_reason(tmp_path: Path) -> None:
    scores = {"mmlu": {"reason": "the engine ended", "original": None, "difference": None}}
    (folder,) = write(tmp_path, card("small", 60_000_000, text(0.09, 1.05), tasks=scores))
    found = read_card(folder)
    assert found.speed is None and found.no_speed == "not asked for" and found.scores == {}


def test_languages_are_texts_each_once(tmp_path: Path) -> None:
    german = text(0.2, 1.2, "de")
    (folder,) = write(
        tmp_path, card("s", 10**7, text(0.1, 1.1), german, languages={"de": german, "ja": text(0.3, 1, "ja")})
    )
    assert [one.name for one in read_card(folder).texts] == ["prose", "de", "ja"]


def without(key: str, of: str) -> dict[str, Any]:
    made = card("s", 10**7, text(0.1, 1.1))
    del made[of][key]
    return made


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"schema": NaN}', "is not valid JSON"),
        (b'{"schema": 1' + b"0" * 5000 + b"}", "is not valid JSON"),
        ([], "is not an object"),
        ({"schema": "1"}, "is not a report card"),
        ({"schema": True}, "is not an object"),
        ({"schema": 2}, "has schema 2, and this smidgen reads 1. Install a newer one."),
        ({"schema": 1}, "cut is not an object"),
        (without("sha256", "cut"), "sha256 is not a sha256"),
        (without("bytes", "original"), "bytes is not a number from 1"),
        ({"schema": 10**4000}, "has schema 1000000000…0000000000, and"),
        (card("s", 0, text(0.1, 1.1)), "bytes is not a number from 1"),
        (card("s", 10**7) | {"fidelity": {}}, "fidelity is not a list"),
        (card("s", 10**7, *[text(0.1, 1.1)] * 513), "fidelity is not a list of at most 512"),
        (card("s", 10**7, text(float("1e300"), 1.1)), "kl_mean is not a number"),
        (card("s", 10**7, text(True, 1.1)), "kl_mean is not a number"),
        (card("s", 10**7, text(0.1, 1.1, same_top1=1.2)), "same_top1 is not a number from 0 to 1"),
        (card("s", 10**7, text(0.1, 1.1, tokens=1.5)), "tokens is not a whole number"),
        (card("s", 10**7, text(0.1, 1.1, text=["x"])), "text is not a text"),
        (card("s", 10**7, tasks={"mmlu": score(0.1, interval=[0.2, 0.1])}), "the smaller first"),
        (card("s", 10**7, tasks={"mmlu": 3}), "mmlu is not an object"),
        (card("s", 10**7, speed=speed(-1.0)), "decode_tokens_per_s is not a number"),
    ],
)
def test_a_damaged_card_is_one_line(content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(BadFile, match=said) as caught:
        read_card(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_folder_without_a_card_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="has no card.json. Make one with: smidgen measure ORIGINAL"):
        read_card(tmp_path)
    with pytest.raises(BadFile, match="cannot be read"):
        read_card(tmp_path / "nowhere")
    (tmp_path / "card.json").mkdir()
    with pytest.raises(BadFile, match="not a regular file"):
        read_card(tmp_path)


def test_a_card_of_another_file_than_the_model_beside_it_is_refused(tmp_path: Path) -> None:
    (folder,) = write(tmp_path, card("s", 5, text(0.1, 1.1)))
    (folder / "model.gguf").write_bytes(b"GGUF.")
    read_card(folder)
    (folder / "model.gguf").write_bytes(b"GGUF, of another cut")
    with pytest.raises(BadFile, match="about a file of 5 bytes, but model.gguf beside it has 20"):
        read_card(folder)


def test_the_same_cut_twice_is_refused_and_the_same_name_is_numbered(tmp_path: Path) -> None:
    one, other, _ = three()
    with pytest.raises(SmidgenError, match="is given twice"):
        read_cards(write(tmp_path, one) * 2)
    (tmp_path / "more").mkdir()
    with pytest.raises(SmidgenError, match="is of the same file as"):
        read_cards([*write(tmp_path / "more", one, one)])
    (tmp_path / "names").mkdir()
    other["cut"]["name"] = "small"
    assert [found.name for found in read_cards(write(tmp_path / "names", other, one))] == ["small (1)", "small (2)"]


def test_names_are_shown_on_one_line(tmp_path: Path) -> None:
    made = card("s", 10**7, text(0.1, 1.1))
    made["cut"]["name"] = "x\n\x1b[2J" + "y" * 500
    name = read_card(*write(tmp_path, made)).name
    assert name.isprintable() and len(name) <= 65
