"""What Ollama does with a Modelfile, as far as ours go: reads its instructions, and renders a template over messages.

Written from its reference (https://docs.ollama.com/modelfile) and that of Go's templates (https://pkg.go.dev/text/template).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ACTION = re.compile(r'\{\{(-?)((?:"(?:[^"\\]|\\.)*"|[^"])*?)(-?)\}\}', re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')
INSTRUCTIONS = {"from", "parameter", "template", "license"}


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions and their values: `("parameter", 'stop "x"')`. Lines between them are empty or comments.

    A value begins on the line of its instruction, and goes on to the closing quotes where it begins with three.
    """
    rest = text
    while rest := rest.lstrip():
        if rest.startswith("#"):
            rest = rest.partition("\n")[2]
            continue
        word, _, rest = rest.partition(" ")
        assert word.lower() in INSTRUCTIONS, word
        if not rest.startswith('"""'):
            value, _, rest = rest.partition("\n")
            yield word.lower(), value
            continue
        closed = re.compile(r'"""(?=\s|$)').search(rest, 3)
        assert closed, f"{word} does not end"
        yield word.lower(), rest[3 : closed.start()]
        rest = rest[closed.end() :]


@dataclass
class _Block:
    """What stands between two actions that belong together: pieces to write, and where to go if a condition fails."""

    condition: str
    pieces: list[Any] = field(default_factory=list)
    otherwise: "_Block | None" = None


def render(template: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """A template over messages, each with a role and content."""
    top = _Block("")
    stack: list[list[_Block]] = [[top]]  # of each nesting, the branch that is being read is the last
    position, trim = 0, False
    for action in _ACTION.finditer(template):
        text = template[position : action.start()]
        text = text.lstrip() if trim else text
        stack[-1][-1].pieces.append(("text", text.rstrip() if action[1] else text))
        position, trim = action.end(), bool(action[3])
        words = action[2].strip()
        if words.startswith(("if ", "range ")):
            block = _Block(words)
            stack[-1][-1].pieces.append(("block", block))
            stack.append([block])
        elif words.startswith("else"):
            stack[-1][-1].otherwise = block = _Block(words.removeprefix("else").strip())
            stack[-1].append(block)
        elif words == "end":
            stack.pop()
        else:
            stack[-1][-1].pieces.append(("do", words))
    rest = template[position:]
    top.pieces.append(("text", rest.lstrip() if trim else rest))
    assert len(stack) == 1
    written: list[str] = []
    _write(top, {"messages": messages}, written)
    return "".join(written)


def _write(block: _Block, known: dict[str, Any], written: list[str]) -> None:
    for kind, piece in block.pieces:
        if kind == "text":
            written.append(piece)
        elif kind == "do":
            _do(piece, known, written)
        elif piece.condition.startswith("range "):
            assert piece.condition == "range .Messages"
            for message in known["messages"]:
                known["."] = message
                _write(piece, known, written)
        else:
            chosen: _Block | None = piece
            while chosen is not None and not _holds(chosen.condition, known):
                chosen = chosen.otherwise
            if chosen is not None:
                _write(chosen, known, written)


def _do(words: str, known: dict[str, Any], written: list[str]) -> None:
    name, sign, value = (*words.split(maxsplit=2), "", "")[:3]
    if sign in (":=", "="):
        known[name] = _value(value, known)
    else:
        written.append(_value(words, known))


def _holds(condition: str, known: dict[str, Any]) -> bool:
    if not condition:
        return True  # else
    word, compared, *values = _WORD.findall(condition)
    assert word == "if" and compared in ("eq", "ne") and len(values) == 2, condition
    first, second = (_value(value, known) for value in values)
    return (first == second) == (compared == "eq")


def _value(word: str, known: dict[str, Any]) -> Any:
    if word.startswith('"'):
        return json.loads(re.sub(r"\\U([0-9a-f]{8})", lambda found: json.dumps(chr(int(found[1], 16)))[1:-1], word))
    return known[word] if word.startswith("$") else known["."][word.removeprefix(".").lower()]
