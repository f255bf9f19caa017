"""Keys with budgets."""

import hashlib
from pathlib import Path

import pytest

from smidgen.errors import BadFile, SmidgenError
from smidgen.serving import keys as keys_module
from smidgen.serving.keys import Budgets, Key, find_key, read_keys
from smidgen.serving.refusals import Refusal

FILE = f"""
[[key]]
name = "anna"
key = "a long secret"
tokens = 100
per = "day"

[[key]]
name = "ben"
sha256 = "{hashlib.sha256(b"other").hexdigest()}"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    return path


def test_a_key_is_known_by_its_secret_or_by_its_hash(tmp_path: Path) -> None:
    anna, ben = read_keys(write(tmp_path, FILE.replace("a long secret", "a-long-secret")))
    assert (anna.tokens, anna.per, ben.tokens) == (100, "day", None)
    assert find_key([anna, ben], "a-long-secret") is anna and find_key([anna, ben], "other") is ben
    assert find_key([anna, ben], "") is None and find_key([anna, ben], "\udcff") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FILE, "cannot be sent"),  # blanks
        ("", "one or more entries"),
        ("[[key]]\nname='a'", "either key or sha256"),
        ("[[key]]\nname='a'\nkey='b'\nsha256='c'", "either key or sha256"),
        ("[[key]]\nname='a b'\nkey='b'", "needs a name"),
        ("[[key]]\nname='a'\nkey='b'\ntokens=0", "above 0"),
        ("[[key]]\nname='a'\nkey='b'\nper='day'", "goes with tokens"),
        ("[[key]]\nname='a'\nkey='b'\ntokens=1\nper='week'", "hour, day, month"),
        ("[[key]]\nname='a'\nkey='b'\nbudget=1", "and nothing else"),
        ("[[key]]\nname='a'\nkey='b'\n[[key]]\nname='a'\nkey='c'", "of the same name"),
        ("[[key]]\nname='a'\nkey='b'\n[[key]]\nname='c'\nkey='b'", "of the same key"),
        ("[[key]]\nname='a'\nsha256='12'", "64 hexadecimal"),
        ("[key", "no TOML"),
    ],
)
def test_what_is_wrong_with_a_file_of_keys_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises((BadFile, SmidgenError), match=said):
        read_keys(write(tmp_path, text))


def test_a_budget_ends_and_outlives_a_restart_and_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_period", lambda per: "monday")
    key, file = Key.of_secret("s", "anna", 100, "day"), tmp_path / "used" / "budgets.json"
    budgets = Budgets(file)
    budgets.refuse_spent(key)
    budgets.charge(key, 60)
    budgets.charge(key, 60)
    with pytest.raises(Refusal, match="used 120 of its 100 tokens of this day; a new day begins in") as caught:
        budgets.refuse_spent(key)
    assert caught.value.status == 429 and 0 < (caught.value.retry_after or 0) <= 86_400
    budgets.save()
    assert Budgets(file).used(key) == 120
    monkeypatch.setattr(keys_module, "_period", lambda per: "tuesday")
    assert Budgets(file).used(key) == 0
    budgets.refuse_spent(None)
    budgets.refuse_spent(Key.of_secret("t"))


def test_a_damaged_record_of_what_was_used_is_said(tmp_path: Path) -> None:
    file = tmp_path / "budgets.json"
    file.write_text("[1]")
    with pytest.raises(BadFile, match="remove it to begin anew"):
        Budgets(file)
