"""What a guard judges by: policies, from a file or those that come with smidgen.

A file is TOML, with one `[[policy]]` for each. It is read strictly: a misspelled name in it would otherwise be a policy
that never applies.
"""

import os
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from smidgen.bounds import one_of, within
from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.shell import path_of

ACTIONS = ("refuse", "flag")
WHEN_UNDECIDED = ("refuse", "flag", "allow")
KINDS = ("prompt", "answer")
_ON = {"prompt": ("prompt",), "answer": ("answer",), "both": KINDS}

LONGEST_FILE = 1 << 20  # bytes
MOST_POLICIES = 64
LONGEST_TEXT = 4000  # characters of a policy
LONGEST_WAIT = 600  # seconds
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")
_CATEGORY = re.compile(r"S[1-9]\d{0,2}")


@dataclass(frozen=True)
class Policy:
    """What must not occur, and what happens where it does.

    name: in answers and metrics: small letters, digits, - and _.
    title: for the guard: what is forbidden, in a few words.
    text: the same at length, as a phrase that ends the sentence "It must not contain …". ShieldGemma needs it; Llama
        Guard knows its own categories by their titles.
    on: of ("prompt", "answer"), where it applies.
    action: "refuse" or "flag" (say it, and let it pass), from a probability of `threshold` on.
    undecided: "refuse", "flag" or "allow" where the guard does not decide within `seconds`.
    category: Llama Guard's: S1, S2 …
    Raises SmidgenError for what means nothing.
    """

    name: str
    title: str
    text: str = ""
    on: tuple[str, ...] = KINDS
    action: str = "refuse"
    threshold: float = 0.5
    undecided: str = "refuse"
    seconds: float = 30.0
    category: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise SmidgenError(
                f"a policy has the name {printable(repr(self.name), 60)}; give it 1 to 64 small letters, digits, - "
                "and _."
            )
        for key, longest in (("title", 100), ("text", LONGEST_TEXT), ("category", 4)):
            text = getattr(self, key)
            if not isinstance(text, str) or len(text) > longest:
                raise self._wrong(f"{key} must be a text of at most {longest} characters")
        if not self.title.strip() or not self.title.isprintable():
            raise self._wrong("title must be one line, and not empty")
        if self.category and not _CATEGORY.fullmatch(self.category):
            raise self._wrong(f"category is {printable(repr(self.category), 20)}; it must be S1, S2 and so on")
        for key, choices in (("action", ACTIONS), ("undecided", WHEN_UNDECIDED)):
            self._checked(one_of, key, getattr(self, key), choices)
        self._checked(within, "threshold", self.threshold, 0, 1, whole=False)
        self._checked(within, "seconds", self.seconds, 0.001, LONGEST_WAIT, whole=False)
        if not self.on or not set(self.on) <= set(KINDS):
            raise self._wrong('it applies nowhere; say on = "prompt", "answer" or "both"')

    def _checked(self, check: Any, key: str, *rest: Any, **more: Any) -> None:
        try:
            check(key, *rest, **more)
        except SmidgenError as error:
            raise self._wrong(str(error).rstrip(".")) from None

    def _wrong(self, what: str) -> SmidgenError:
        return SmidgenError(f"policy {self.name}: {what}.")


def read_policies(path: str | os.PathLike[str]) -> tuple[Policy, ...]:
    """The policies in a TOML file. Raises BadFile, in one line, for anything else."""
    path = path_of(path)
    shown = printable(path)
    try:
        with path.open("rb") as file:
            raw = file.read(LONGEST_FILE + 1)
    except OSError as error:
        raise BadFile(f"The policies {shown} cannot be read: {error.strerror}.") from error
    if len(raw) > LONGEST_FILE:
        raise BadFile(f"The policies {shown} have more than {LONGEST_FILE} bytes; that is no file of policies.")
    try:
        return policies_of(tomllib.loads(raw.decode("utf-8")))
    except RecursionError:
        raise BadFile(f"{shown} is no file of policies: it is nested too deep.") from None
    except (ValueError, SmidgenError) as error:
        raise BadFile(f"{shown} is no file of policies: {printable(str(error).rstrip('.'), 300)}.") from error


def policies_of(given: Mapping[str, Any]) -> tuple[Policy, ...]:
    """The policies of a parsed file. Raises SmidgenError for what is none, and for what is not known."""
    if set(given) - {"policy"}:
        raise SmidgenError(f"{_listed(set(given) - {'policy'})} is not known; a file has [[policy]] and nothing else")
    listed = given.get("policy")
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        raise SmidgenError("there is no [[policy]] in it")
    if len(listed) > MOST_POLICIES:
        raise SmidgenError(f"it has {len(listed)} policies, more than {MOST_POLICIES}")
    policies = [_policy_of(one, place) for place, one in enumerate(listed, 1)]
    for key in ("name", "category"):
        counted = Counter(getattr(one, key) for one in policies)
        twice = [value for value, count in counted.items() if value and count > 1]
        if twice:
            raise SmidgenError(f"two policies have the {key} {twice[0]}")
    return with_categories(policies)


def _policy_of(said: Mapping[str, Any], place: int) -> Policy:
    known = {field.name for field in fields(Policy)}
    if set(said) - known:
        raise SmidgenError(f"policy {place}: {_listed(set(said) - known)} is not known; there are {', '.join(known)}")
    for key in ("name", "text"):
        if key not in said:
            raise SmidgenError(f"policy {place} has no {key}")
    on = said.get("on", "both")
    if not isinstance(on, str) or on not in _ON:
        raise SmidgenError(f"policy {place}: on is {printable(repr(on), 40)}; choose from {', '.join(_ON)}")
    action = said.get("action", "refuse")
    return Policy(**{"title": str(said["name"]).replace("-", " "), "undecided": action, **said, "on": _ON[on]})


def _listed(names: set[str]) -> str:
    return ", ".join(printable(repr(name), 40) for name in sorted(names)[:4])


def with_categories(policies: Sequence[Policy]) -> tuple[Policy, ...]:
    """The policies, each with a category of Llama Guard's: its own, or the first number that is free."""
    taken = {policy.category for policy in policies}
    free = (f"S{number}" for number in range(1, 1000) if f"S{number}" not in taken)
    return tuple(policy if policy.category else replace(policy, category=next(free)) for policy in policies)
