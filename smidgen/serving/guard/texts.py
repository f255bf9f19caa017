"""The texts in messages and answers of OpenAI's shape: every one that a person or a model could have written.

Which fields there are changes from one version of the API to the next, and a text in one that is not known here must
not get past the guard. So all strings are taken, but for those that say what something is.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

_KINDS = frozenset({"role", "type"})
_MADE_HERE = _KINDS | {"id", "index", "finish_reason", "stop_reason"}  # in what our own engine answers
_REPEATED = ("logprobs",)  # the same text once more, token by token
_DEEPEST = 32

Place = tuple[str | int, ...]


def strings_of(value: Any, fixed: Collection[str] = _KINDS, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Every string that is not empty, with where it stands: a delta has the next part of what stands there.

    fixed: keys whose strings are no texts.
    """
    if isinstance(value, str):
        if value:
            yield place, value
    elif len(place) > _DEEPEST:
        yield place, str(value)
    elif isinstance(value, Mapping):
        number = value.get("index")  # of a tool call in a delta
        here = (*place, number) if isinstance(number, int) else place
        for key, inner in value.items():
            if key not in fixed or not isinstance(inner, str):
                yield from strings_of(inner, fixed, (*here, str(key)))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            known = isinstance(inner, Mapping) and isinstance(inner.get("index"), int)
            yield from strings_of(inner, fixed, place if known else (*place, number))


def message_text(message: Mapping[str, Any]) -> str:
    """All that is said in a message of a request: content, what was thought before it, calls, also ids of calls: chat
    templates write those too."""
    return "\n".join(text for _, text in strings_of(message))


def choice_texts(body: Mapping[str, Any]) -> dict[int, str]:
    """What is said in each answer of a completion, by its index: a chat's, or a text's."""
    choices = body.get("choices")
    found = {}
    for place, choice in enumerate(choices if isinstance(choices, list) else []):
        index = choice.get("index", place)
        found[index] = "\n".join(text for _, text in strings_of(_said(choice), _MADE_HERE))
    return found


def _said(choice: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in choice.items() if key not in (*_REPEATED, "index")}


class Transcript:
    """What one streamed answer has said so far."""

    def __init__(self) -> None:
        self.text = ""
        self._place: Place | None = None

    def add(self, choice: Mapping[str, Any]) -> None:
        """Take in one choice of a chunk."""
        for place, text in strings_of(_said(choice), _MADE_HERE):
            if self.text and place != self._place:
                self.text += "\n"
            self.text += text
            self._place = place
