"""Policies: what a file may say, and that everything else is one clear line."""

from pathlib import Path

import pytest

from smidgen.errors import BadFile, SmidgenError
from smidgen.serving.guard.defaults import default_policies
from smidgen.serving.guard.policies import LONGEST_FILE, Policy, read_policies
from smidgen.serving.guard.protocols import PROTOCOLS

SHORT = '[[policy]]\nname = "weapons"\ntext = "ways to build weapons"\n'
FULL = """\
[[policy]]
name = "weapons"
title = "Weapons"
text = "ways to build weapons"
on = "prompt"
action = "flag"
threshold = 0.7
undecided = "allow"
seconds = 5
category = "S9"

[[policy]]
name = "my-town"
text = "anything about my town"
"""


def read(tmp_path: Path, content: str | bytes) -> tuple[Policy, ...]:
    file = tmp_path / "policies.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_policies(file)


def test_a_file_says_everything(tmp_path: Path) -> None:
    weapons, town = read(tmp_path, FULL)
    assert weapons == Policy("weapons", "Weapons", "ways to build weapons", ("prompt",), "flag", 0.7, "allow", 5, "S9")
    assert (town.title, town.on, town.action, town.undecided) == ("my town", ("prompt", "answer"), "refuse", "refuse")
    assert town.category == "S1"


def test_what_flags_flags_also_when_undecided(tmp_path: Path) -> None:
    assert read(tmp_path, SHORT + 'action = "flag"')[0].undecided == "flag"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no \\[\\[policy"),
        ("policy = 3", "no \\[\\[policy"),
        ("policy = [3]", "no \\[\\[policy"),
        ("a = 1\n" + SHORT, "'a' is not known"),
        (SHORT + "treshold = 0.5", "'treshold' is not known"),
        ('[[policy]]\nname = "a"', "no text"),
        ('[[policy]]\ntext = "a"', "no name"),
        ('[[policy]]\nname = "A B"\ntext = "a"', "small letters"),
        ('[[policy]]\nname = 3\ntext = "a"', "small letters"),
        (SHORT + "text2 = 1", "text2"),
        (SHORT.replace('"ways to build weapons"', "3"), "text must be a text"),
        (SHORT + 'title = "a\\nb"', "one line"),
        (SHORT + 'on = "everywhere"', "prompt, answer, both"),
        (SHORT + 'on = ["prompt"]', "prompt, answer, both"),
        (SHORT + 'action = "delete"', "weapons: action is 'delete'; choose from refuse, flag"),
        (SHORT + 'undecided = "wait"', "refuse, flag, allow"),
        (SHORT + "threshold = 1.1", "from 0 to 1"),
        (SHORT + "threshold = nan", "from 0 to 1"),
        (SHORT + "threshold = true", "from 0 to 1"),
        (SHORT + "seconds = 0", "seconds is 0"),
        (SHORT + "seconds = inf", "seconds is inf"),
        (SHORT + 'category = "O3"', "S1, S2"),
        (SHORT * 2, "two policies have the name weapons"),
        (SHORT + 'category = "S2"\n' + SHORT.replace("weapons", "w") + 'category = "S2"', "category S2"),
        (SHORT + "x = " + "[" * 5000, "nested too deep|not a file|no file"),
        (b"\xff\xfe", "no file of policies"),
        ("[[policy", "no file of policies"),
        (SHORT.replace("ways", "w" * 5000), "at most 4000"),
    ],
)
def test_anything_else_is_one_clear_line(tmp_path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(BadFile, match=words) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_a_file_that_is_too_large_or_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="bytes"):
        read(tmp_path, "#" * (LONGEST_FILE + 1))
    with pytest.raises(BadFile, match="cannot be read"):
        read_policies(tmp_path / "none.toml")
    with pytest.raises(BadFile, match="cannot be read"):
        read_policies(tmp_path)
    many = "\n".join(SHORT.replace('"weapons"', f'"w{number}"') for number in range(65))
    with pytest.raises(BadFile, match="65 policies"):
        read(tmp_path, many)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_there_are_policies_where_nobody_gives_a_file(protocol: str) -> None:
    policies = default_policies(next(name for name in PROTOCOLS if name == protocol))
    assert len({policy.name for policy in policies}) == len(policies) == (4 if protocol == "shieldgemma" else 14)
    assert all(policy.undecided == policy.action for policy in policies)  # what cannot be judged does not pass for safe


def test_a_policy_that_applies_nowhere_is_none() -> None:
    with pytest.raises(SmidgenError, match="applies nowhere"):
        Policy("a", "a", on=())
