"""What a request may ask of llama.cpp. Its parsers of grammars, schemas and lists trust what they are given.

They recurse as deep as a text is nested, and end the process where the stack ends. So the text is measured first. The
bounds are far above what people and programs write by hand, and far below what was seen to end llama.cpp (a grammar of
30,000 parentheses). What they miss ends a process of its own (see engines/llama_cpp/server.py), not this one.
"""

import re

LONGEST_BODY = 16 * 2**20  # bytes
LONGEST_GRAMMAR = 64 * 2**10  # characters, of a grammar or of a JSON schema
DEEPEST_GRAMMAR = 32  # parentheses within each other
MOST_RULES = 1000
MOST_REPEATS = 2000  # of a symbol in a grammar, of an item or a character in a schema
LONGEST_PATTERN = 1000  # characters of a regular expression in a schema
LONGEST_STOP = 1024  # characters
LONGEST_LOOK_BACK = 65_536  # tokens that penalties look back on; llama.cpp takes memory for as many
MOST_ENTRIES = {
    "stop": 64, "logit_bias": 10_000, "samplers": 64, "dry_sequence_breakers": 64, "tools": 256, "messages": 10_000,
    "parts": 10_000, "prompts": 1024, "inputs": 2048, "metadata": 64, "chat_template_kwargs": 64,
}  # fmt: skip

_SKIPPED = re.compile(
    r'"(?:\\.|[^"\\\n])*"|\[(?:\\.|[^\]\\\n])*\]|#[^\n]*', re.DOTALL
)  # of a grammar: text, not structure
_REPEAT = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}")


def excess_of_grammar(grammar: str) -> str | None:
    """What is too much about a grammar (GBNF): its length, its depth, its repetitions. None where nothing."""
    if len(grammar) > LONGEST_GRAMMAR:
        return f"has {len(grammar)} characters; {LONGEST_GRAMMAR} are the most"
    structure = _SKIPPED.sub(" ", grammar)
    if _depth(structure) > DEEPEST_GRAMMAR:
        return f"nests parentheses deeper than {DEEPEST_GRAMMAR} levels"
    if structure.count("::=") > MOST_RULES:
        return f"has more than {MOST_RULES} rules"
    return _bad_repeat(structure)


def excess_of_pattern(pattern: str) -> str | None:
    """The same of a regular expression."""
    if len(pattern) > LONGEST_PATTERN:
        return f"has {len(pattern)} characters; {LONGEST_PATTERN} are the most"
    if _depth(pattern) > DEEPEST_GRAMMAR:
        return f"nests parentheses deeper than {DEEPEST_GRAMMAR} levels"
    return _bad_repeat(pattern)


def _bad_repeat(text: str) -> str | None:
    """Repetitions such as {3}, {2,} and {2,5}: not too many, and not more at least than at most."""
    for least, most in _REPEAT.findall(text):
        if max(_number(least), _number(most)) > MOST_REPEATS:
            return f"repeats a symbol more than {MOST_REPEATS} times"
        if most and _number(least) > _number(most):
            return f"repeats a symbol at least {least} and at most {most} times"
    return None


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
