"""MMLU and MBPP in their own forms, of a few invented items."""

import csv
import json
from pathlib import Path
from typing import Any

CHOICES = ["red", "green", "blue", "none"]


def write_data(folder: Path, **changes: Any) -> Path:
    """Two subjects of five examples and five questions, and programs to write. changes: rows by file name."""
    for subject in ("colours", "sums"):
        for split, word in (("dev", "Dev"), ("test", "Test")):
            rows = [[f"{word} {number}?", *CHOICES, "ABCD"[number % 4]] for number in range(5)]
            path = folder / "mmlu" / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                csv.writer(file).writerows(changes.get(path.name, rows))
    tasks = [
        {
            "task_id": number, "text": f"Write a function that gives {factor} times a number.",
            "code": f"def f(x):\n    return {factor} * x", "test_setup_code": "",
            "test_list": [f"assert f({x}) == {factor * x}" for x in (1, 2, 3)],
        }
        for number, factor in ((2, 5), (3, 6), (4, 7), (11, 2), (12, 3))
    ]  # fmt: skip
    path = folder / "mbpp" / "mbpp.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in changes.get(path.name, tasks)))
    return folder
