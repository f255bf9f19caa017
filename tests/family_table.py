"""The table of families in docs/families.md, made from the tests that exist: `python -m tests.family_table --write`.

A check mark stands for a test that pytest collects for that family; the list below the table names it. What no test
backs is a dash with a note. Nothing here is typed in but the notes.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.marked import write
from tests.family_models import FAMILY_MODELS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "families.md"
NAME = "families"  # of the markers around the table
FAMILIES, CHATS = "tests/parity/test_families.py", "tests/parity/test_chat_templates.py"

#: Family → the chat templates of `test_chat_templates.py` that its models come with.
CHAT_TEMPLATES = {
    "gemma": "Gemma 2",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3",
    "llama2": "Llama 2",
    "llama3": "Llama 3",
    "smollm2": "SmolLM 2",
    "smollm3": "SmolLM 3",
    "mistral": "Mistral v0.3",
    "mixtral": "Mistral",
    "qwen2": "Qwen 2",
    "qwen3": "Qwen 3",
    "phi3": "Phi-3",
    "phi4": "Phi-4",
    "openelm": "OpenELM",
}


@dataclass(frozen=True)
class Column:
    """title: its heading.  file, test: what backs its check marks."""

    title: str
    file: str
    test: str


COLUMNS = (
    Column("HF in", FAMILIES, "test_hugging_face_in"),
    Column("HF out", FAMILIES, "test_hugging_face_out"),
    Column("GGUF in", FAMILIES, "test_gguf_there_and_back"),
    Column("GGUF out", FAMILIES, "test_gguf_there_and_back"),
    Column("logits = transformers", FAMILIES, "test_hugging_face_in"),
    Column("= llama.cpp", FAMILIES, "test_gguf_in_llama_cpp"),
    Column("chat template", CHATS, "test_text_and_ids"),
    Column("cut", FAMILIES, "test_cut"),
)
NOTES = {
    "reference": "transformers has no class for OpenELM: logits equal those of an independent implementation "
    "(`tests/openelm_reference.py`).",
    "window": "llama.cpp leaves this family's window out: compared on texts within it.",
    "missing": "no test for it.",
}
_MARKS = "¹²³⁴⁵⁶⁷⁸⁹"


def collected() -> set[str]:
    """Ids of the tests that pytest finds in the two files, such as `tests/…/test_families.py::test_cut[gemma]`."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=", "--import-mode=importlib"]
    done = subprocess.run([*command, FAMILIES, CHATS], cwd=ROOT, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"pytest could not collect the tests of the table:\n{done.stdout[-2000:]}")
    return {line for line in done.stdout.splitlines() if "::" in line}


def is_backed(column: Column, family: str, tests: set[str]) -> bool:
    """Whether there is such a test for a family, alone or with other parameters beside it."""
    parameter = CHAT_TEMPLATES[family] if column.file == CHATS else family
    pattern = re.compile(rf"{re.escape(column.file)}::{column.test}\[(.*-)?{re.escape(parameter)}(-.*)?\]")
    return any(pattern.fullmatch(test) for test in tests)


def note_for(column: Column, family: str, backed: bool) -> str | None:
    """The key of the note to a cell, or None."""
    if not backed:
        return "missing"
    if column.title == "logits = transformers" and family == "openelm":
        return "reference"
    longest = max(model.longest for model in FAMILY_MODELS.values())
    if column.title == "= llama.cpp" and FAMILY_MODELS[family].longest < longest:
        return "window"
    return None


def table(tests: set[str]) -> str:
    """The table, the notes that it needs, and the tests behind its check marks, as Markdown."""
    used: list[str] = []

    def cell(column: Column, family: str) -> str:
        backed = is_backed(column, family, tests)
        note = note_for(column, family, backed)
        if note is not None and note not in used:
            used.append(note)
        mark = _MARKS[used.index(note)] if note is not None else ""
        return ("✓" if backed and note != "reference" else "–") + mark

    lines = [
        "| | " + " | ".join(column.title for column in COLUMNS) + " |",
        "|---|" + ":-:|" * len(COLUMNS),
    ]
    for family, model in FAMILY_MODELS.items():
        lines.append(f"| {model.label} | " + " | ".join(cell(column, family) for column in COLUMNS) + " |")
    notes = [f"{_MARKS[place]} {NOTES[note]}" for place, note in enumerate(used)]
    backing: dict[str, list[str]] = {}
    for column in COLUMNS:
        backing.setdefault(f"`{column.test}` in `{column.file}`", []).append(column.title)
    tests_behind = [f"- {', '.join(titles)}: {test}" for test, titles in backing.items()]
    return "\n".join([*lines, "", "<br>".join(notes), "", "The tests:", "", *tests_behind])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or write it into its page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it between the markers in docs/families.md")
    made = table(collected())
    if not parser.parse_args(arguments).write:
        print(made)
        return 0
    return write(PAGE, {NAME: made})


if __name__ == "__main__":
    sys.exit(main())
