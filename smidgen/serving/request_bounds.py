"""What a request may ask of llama.cpp. Its parsers of grammars, schemas and lists trust what they are given.

They recurse as deep as a text is nested, and end the process where the stack ends. So the text is measured first. The
bounds are far above what people and programs write by hand, and far below what was seen to end llama.cpp (a grammar of
30,000 parentheses). What they miss ends a process of its own (see engines/llama_cpp/server.py), not this one.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from smidgen.errors import SmidgenError

LONGEST_BODY = 16 * 2**20  # bytes
DEEPEST_BODY = 64  # levels of JSON
LONGEST_GRAMMAR = 64 * 2**10  # characters, of a grammar or of a JSON schema
DEEPEST_GRAMMAR = 32  # parentheses within each other
MOST_RULES = 1000
MOST_REPEATS = 2000  # of a symbol in a grammar, of an item or a character in a schema
LONGEST_PATTERN = 1000  # characters of a regular expression in a schema
MOST_ENTRIES = {
    "stop": 64, "logit_bias": 10_000, "samplers": 64, "dry_sequence_breakers": 64, "tools": 256,
    "lora": 16, "messages": 10_000, "functions": 256,
}  # fmt: skip
LONGEST_LOOK_BACK = 65_536  # tokens that penalties look back on; llama.cpp takes memory for as many
_LOOKING_BACK = ("repeat_last_n", "dry_penalty_last_n")
_THE_SERVERS_OWN = ("grammar_lazy", "grammar_triggers", "preserved_tokens")
LONGEST_STOP = 1024  # characters
MOST_ALTERNATIVES = 100  # tokens whose probabilities are reported at each place

_SKIPPED = re.compile(
    r'"(?:\\.|[^"\\\n])*"|\[(?:\\.|[^\]\\\n])*\]|#[^\n]*', re.DOTALL
)  # of a grammar: text, not structure
_REPEAT = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}")
_SIZES = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def refuse_excess(body: Mapping[str, Any]) -> None:
    """Raises SmidgenError, which names the field and the bound, for a request that asks too much of llama.cpp."""
    for key, most in MOST_ENTRIES.items():
        entries = body.get(key)
        if isinstance(entries, list | dict) and len(entries) > most:
            raise SmidgenError(f"{key} has {len(entries)} entries; {most} are the most.")
    _refuse_wide_numbers(body)
    for key in _THE_SERVERS_OWN:
        if body.get(key):
            raise SmidgenError(f"{key} is set by the server itself; leave it out.")
    for key in _LOOKING_BACK:
        count = body.get(key)
        if isinstance(count, int | float) and count > LONGEST_LOOK_BACK:
            raise SmidgenError(f"{key} is {count}; {LONGEST_LOOK_BACK} is the most.")
    _refuse_bad_stop(body.get("stop"))
    for key in ("n_probs", "top_logprobs", "logprobs"):
        count = body.get(key)
        if isinstance(count, int) and count > MOST_ALTERNATIVES:
            raise SmidgenError(f"{key} is {count}; {MOST_ALTERNATIVES} is the most.")
    grammar = body.get("grammar")
    if grammar is not None and not isinstance(grammar, str):
        raise SmidgenError("grammar must be a text in GBNF.")
    if grammar:
        refuse_deep_grammar(grammar)
    for name, schema in _schemas(body):
        refuse_deep_schema(schema, name)


def _refuse_wide_numbers(body: Mapping[str, Any]) -> None:
    """llama.cpp counts in 32 bits, and takes a wider number for another one."""
    for key, value in body.items():
        most = 2**32 - 1 if key == "seed" else 2**31 - 1
        if isinstance(value, int) and not isinstance(value, bool) and not -(2**31) <= value <= most:
            raise SmidgenError(f"{key[:60]!r} is {str(value)[:30]}, which is beyond 32 bits.")


def _refuse_bad_stop(stop: Any) -> None:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise SmidgenError("stop must be a text or a list of texts.")
    longest = max(map(len, stops), default=0)
    if longest > LONGEST_STOP:
        raise SmidgenError(f"a stop text has {longest} characters; {LONGEST_STOP} are the most.")


def refuse_deep_grammar(grammar: str) -> None:
    """Raises SmidgenError for a grammar (GBNF) that is too long, nested too deep, or repeats too often."""
    if len(grammar) > LONGEST_GRAMMAR:
        raise SmidgenError(f"the grammar has {len(grammar)} characters; {LONGEST_GRAMMAR} are the most.")
    structure = _SKIPPED.sub(" ", grammar)
    if _depth(structure) > DEEPEST_GRAMMAR:
        raise SmidgenError(f"the grammar nests parentheses deeper than {DEEPEST_GRAMMAR} levels.")
    if structure.count("::=") > MOST_RULES:
        raise SmidgenError(f"the grammar has more than {MOST_RULES} rules.")
    _refuse_bad_repeats(structure, "the grammar")


def refuse_deep_schema(schema: Any, name: str) -> None:
    """Raises SmidgenError for a JSON schema that is too long, or whose patterns or sizes are; `name` is its field.

    Its depth is that of the body, which is bounded when it is read.
    """
    size = len(json.dumps(schema))
    if size > LONGEST_GRAMMAR:
        raise SmidgenError(f"the schema in {name} has {size} characters; {LONGEST_GRAMMAR} are the most.")
    for part in _objects(schema):
        for key in _SIZES:
            count = part.get(key)
            if isinstance(count, int | float) and count > MOST_REPEATS:
                raise SmidgenError(f"the schema in {name} has {key} {count}; {MOST_REPEATS} is the most.")
        pattern = part.get("pattern")
        if isinstance(pattern, str):
            _refuse_deep_pattern(pattern, name)
        reference = part.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise SmidgenError(
                f"the schema in {name} refers to {reference[:60]!r}; only references within it are read."
            )


def _refuse_deep_pattern(pattern: str, name: str) -> None:
    if len(pattern) > LONGEST_PATTERN:
        raise SmidgenError(f"a pattern in {name} has {len(pattern)} characters; {LONGEST_PATTERN} are the most.")
    if _depth(pattern) > DEEPEST_GRAMMAR:
        raise SmidgenError(f"a pattern in {name} nests parentheses deeper than {DEEPEST_GRAMMAR} levels.")
    _refuse_bad_repeats(pattern, f"a pattern in {name}")


def _refuse_bad_repeats(text: str, what: str) -> None:
    """Repetitions such as {3}, {2,} and {2,5}: not too many, and not more at least than at most."""
    for least, most in _REPEAT.findall(text):
        if max(_number(least), _number(most)) > MOST_REPEATS:
            raise SmidgenError(f"{what} repeats a symbol more than {MOST_REPEATS} times.")
        if most and _number(least) > _number(most):
            raise SmidgenError(f"{what} repeats a symbol at least {least} and at most {most} times.")


def _schemas(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each JSON schema of a request, with the field that it is in."""
    if body.get("json_schema") is not None:
        yield "json_schema", body["json_schema"]
    for key in ("response_format", "text", "tools", "functions"):
        if isinstance(body.get(key), dict | list):
            yield key, body[key]


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in a value, itself included."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def _depth(text: str) -> int:
    """How deep parentheses stand within each other."""
    depth = deepest = 0
    for character in text:
        if character == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif character == ")":
            depth -= 1
    return deepest


def _number(digits: str) -> int:
    """0 for nothing, and for more digits than any bound has a number that is above it."""
    return int(digits[:10] or 0)
