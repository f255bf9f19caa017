"""MMLU and MBPP from files on this machine, as tasks of the harness.

The harness's own tasks fetch their data from the hub. With `--data DIR` the same prompts, examples and scoring are used
with local copies:

    DIR/mmlu/dev/<subject>_dev.csv, DIR/mmlu/test/<subject>_test.csv   question, A, B, C, D, answer; no header
    DIR/mbpp/mbpp.jsonl                                                Google's fields: task_id, text, code, test_list

MMLU: Hendrycks et al. 2021, arXiv:2009.03300. MBPP: Austin et al. 2021, arXiv:2108.07732, whose items 2, 3 and 4 are
the examples and 11 to 510 the test. What a model writes for MBPP runs in a sandbox (sandbox.py).
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from smidgen.errors import SmidgenError, printable
from smidgen.measuring.tasks.sandbox import Sandbox
from smidgen.progress import say

_LARGEST_FILE = 64 << 20
_LETTERS = "ABCD"
_MMLU_EXAMPLES, _MBPP_EXAMPLES = 5, (2, 3, 4)
_MBPP_TEST = range(11, 511)
LOCAL_TASKS = ("mmlu", "mbpp")
CHANCE: Mapping[str, float | None] = {"mmlu": 1 / len(_LETTERS), "mbpp": None}


def local_tasks(name: str, data: Path, sandbox: Callable[[], Sandbox]) -> dict[str, ConfigurableTask]:
    """The harness's tasks behind `mmlu` (one for each subject) or `mbpp`, by their names, on the files in `data`.

    sandbox: where what a model writes is run; made when it is needed.
    Raises SmidgenError for files that are missing, empty, or not of that form.
    """
    return _mmlu(data / "mmlu") if name == "mmlu" else _mbpp(data / "mbpp" / "mbpp.jsonl", sandbox())


def _mmlu(folder: Path) -> dict[str, ConfigurableTask]:
    tests = sorted((folder / "test").glob("*_test.csv"))
    if not tests:
        raise SmidgenError(f"{printable(folder / 'test')} holds no <subject>_test.csv; give the folder above mmlu.")
    tasks = {}
    for test in tests:
        subject = test.name.removesuffix("_test.csv")
        splits = {"test": _questions(test), "dev": _questions(folder / "dev" / f"{subject}_dev.csv")}
        if len(splits["dev"]) < _MMLU_EXAMPLES:
            raise SmidgenError(f"{subject}_dev.csv has {len(splits['dev'])} questions; {_MMLU_EXAMPLES} are needed.")
        shown = subject.replace("_", " ")
        config = _published("mmlu/default/_default_template_yaml") | {
            "task": f"mmlu_{subject}",
            "description": f"The following are multiple choice questions (with answers) about {shown}.\n\n",
            "num_fewshot": _MMLU_EXAMPLES,
        }
        tasks[f"mmlu_{subject}"] = _task(config, splits)
    return tasks


def _questions(path: Path) -> list[dict[str, Any]]:
    """Of a file, as the harness's own data has them."""
    found = []
    for number, row in enumerate(csv.reader(io.StringIO(_read(path)))):
        if len(row) != 6 or row[5].strip() not in _LETTERS or not row[5].strip():
            raise SmidgenError(
                f"{printable(path)}, row {number + 1}: a question, four choices and one of A, B, C, D are expected, "
                f"found {len(row)} columns ending in {printable(repr(row[-1] if row else ''), 20)}."
            )
        found.append({"question": row[0], "choices": row[1:5], "answer": _LETTERS.index(row[5].strip())})
    if not found:
        raise SmidgenError(f"{printable(path)} is empty.")
    return found


def _mbpp(path: Path, sandbox: Sandbox) -> dict[str, ConfigurableTask]:
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(_read(path).splitlines()):
        if line.strip():
            row = _programming_task(path, number + 1, line)
            rows[row["task_id"]] = row
    missing = [str(number) for number in _MBPP_EXAMPLES if number not in rows]
    tests = [row for number, row in sorted(rows.items()) if number in _MBPP_TEST]
    if missing:
        raise SmidgenError(f"{printable(path)} lacks the examples {', '.join(missing)}; get the whole file.")
    if not tests:
        tests = [row for number, row in sorted(rows.items()) if number > _MBPP_TEST.stop]
        say("This MBPP file lacks the test items (11 to 510); the items that are for training are used.")
    if not tests:
        raise SmidgenError(f"{printable(path)} holds no items but examples; get the whole file.")
    examples = [rows[number] | {"is_fewshot": True} for number in _MBPP_EXAMPLES]
    config = _published("mbpp/mbpp.yaml") | {
        "fewshot_config": {"sampler": "first_n", "samples": examples},
        "process_results": partial(_passes, sandbox),
        "metric_list": [{"metric": "pass_at_1", "aggregation": "mean", "higher_is_better": True}],
        "unsafe_code": False,  # it runs in our sandbox, not in the harness
    }
    return {"mbpp": _task(config, {"test": tests})}


def _programming_task(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    row = row if isinstance(row, dict) else {}
    tests = row.get("test_list")
    texts = [row.get("text"), row.get("code"), *(tests if isinstance(tests, list) else [None])]
    if type(row.get("task_id")) is not int or len(texts) < 5 or not all(isinstance(text, str) for text in texts):
        raise SmidgenError(f"{printable(path)}, line {number}: task_id, text, code and three tests are expected.")
    fields = {key: row[key] for key in ("task_id", "text", "code", "test_list")}
    return fields | {"test_setup_code": str(row.get("test_setup_code") or "")}


def _passes(sandbox: Sandbox, item: Mapping[str, Any], answers: Sequence[str]) -> dict[str, int]:
    """Whether what a model wrote passes the item's tests, run where it can do no harm."""
    tests = "\n".join([item["test_setup_code"], *item["test_list"]])
    return {"pass_at_1": int(sandbox.run(answers[0], tests).status == "passed")}


def _published(name: str) -> dict[str, Any]:
    """The harness's own description of a task, without its data and without running its code."""
    config = load_yaml(Path(str(files("lm_eval") / "tasks" / name)), resolve_func=False)
    return {key: value for key, value in config.items() if key not in ("dataset_path", "dataset_name", "tag")}


def _task(config: dict[str, Any], splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> ConfigurableTask:
    held = {name: datasets.Dataset.from_list([dict(row) for row in rows]) for name, rows in splits.items()}
    return ConfigurableTask(config=config | {"custom_dataset": lambda **settings: held, "metadata": {"version": 1.0}})


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise SmidgenError(f"{printable(path)} is larger than {_LARGEST_FILE >> 20} MB.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SmidgenError(f"{printable(path)} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SmidgenError(f"{printable(path)} is not UTF-8 text.") from error
