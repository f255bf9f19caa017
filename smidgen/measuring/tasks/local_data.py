"""MMLU and MBPP from files on this machine, as tasks of the harness.

The harness's own tasks fetch their data from the hub. With `--data DIR` the same prompts, examples and scoring are used
with local copies:

    DIR/mmlu/dev/<subject>_dev.csv, DIR/mmlu/test/<subject>_test.csv   question, A, B, C, D, answer; no header
    DIR/mbpp/mbpp.jsonl                                                Google's fields: task_id, text, code, test_list

MMLU: Hendrycks et al. 2021, arXiv:2009.03300. MBPP: Austin et al. 2021, arXiv:2108.07732, whose items 2, 3 and 4 are
the examples and 11 to 510 the test. What a model writes for MBPP runs in a sandbox (sandbox.py).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from smidgen.errors import SmidgenError, printable
from smidgen.measuring.tasks.harness import UNPARSED
from smidgen.measuring.tasks.local_files import LocalFiles
from smidgen.measuring.tasks.sandbox import Sandbox

_LETTERS = "ABCD"
_MMLU_EXAMPLES, _MBPP_EXAMPLES = 5, (2, 3, 4)
_MBPP_TEST = range(11, 511)
_NO_PROGRAM = ("SyntaxError", "IndentationError", "TabError")  # as the sandbox's runner names them
LOCAL_TASKS = ("mmlu", "mbpp")


def local_tasks(name: str, data: LocalFiles, sandbox: Callable[[], Sandbox]) -> dict[str, ConfigurableTask]:
    """The harness's tasks behind `mmlu` (one for each subject) or `mbpp`, by their names, on the files in `data`.

    sandbox: where what a model writes is run; made when it is needed.
    Raises SmidgenError for files that are missing, empty, or not of that form.
    """
    return _mmlu(data) if name == "mmlu" else _mbpp(data, "mbpp/mbpp.jsonl", sandbox())


def _mmlu(data: LocalFiles) -> dict[str, ConfigurableTask]:
    tests = data.names("mmlu/test/*_test.csv")
    if not tests:
        raise SmidgenError(f"{data.shown('mmlu/test')} holds no <subject>_test.csv; give the folder above mmlu.")
    tasks = {}
    for test in tests:
        subject = Path(test).name.removesuffix("_test.csv")
        asked = data.once(test, _questions(data, test), lambda one: [one["question"], one["choices"]])
        splits = {"test": asked, "dev": _questions(data, f"mmlu/dev/{subject}_dev.csv")}
        if len(splits["dev"]) < _MMLU_EXAMPLES:
            raise SmidgenError(f"{subject}_dev.csv has {len(splits['dev'])} questions; {_MMLU_EXAMPLES} are needed.")
        shown = subject.replace("_", " ")
        config = published("mmlu/default/_default_template_yaml") | {
            "task": f"mmlu_{subject}",
            "description": f"The following are multiple choice questions (with answers) about {shown}.\n\n",
            "num_fewshot": _MMLU_EXAMPLES,
        }
        tasks[f"mmlu_{subject}"] = task_of(config, splits)
    return tasks


def _questions(data: LocalFiles, path: str) -> list[dict[str, Any]]:
    """Of a file, as the harness's own data has them."""
    found = []
    for number, row in enumerate(data.columns(path)):
        if len(row) != 6 or row[5].strip() not in _LETTERS or not row[5].strip():
            raise SmidgenError(
                f"{data.shown(path)}, row {number + 1}: a question, four choices and one of A, B, C, D are expected, "
                f"found {len(row)} columns ending in {printable(repr(row[-1] if row else ''), 20)}."
            )
        found.append({"question": row[0], "choices": row[1:5], "answer": _LETTERS.index(row[5].strip())})
    return found


def _mbpp(data: LocalFiles, path: str, sandbox: Sandbox) -> dict[str, ConfigurableTask]:
    found = data.once(path, data.objects(path, _lacks), lambda row: row["task_id"])
    rows = {row["task_id"]: _programming_task(row) for row in found}
    missing = [str(number) for number in _MBPP_EXAMPLES if number not in rows]
    tests = [row for number, row in sorted(rows.items()) if number in _MBPP_TEST]
    if missing:
        raise SmidgenError(f"{data.shown(path)} lacks the examples {', '.join(missing)}; get the whole file.")
    if not tests:
        tests = [row for number, row in sorted(rows.items()) if number > _MBPP_TEST.stop]
        data.note("this MBPP file lacks the test items (11 to 510); the items that are for training are used")
    if not tests:
        raise SmidgenError(f"{data.shown(path)} holds no items but examples; get the whole file.")
    examples = [rows[number] | {"is_fewshot": True} for number in _MBPP_EXAMPLES]
    config = published("mbpp/mbpp.yaml") | {
        "fewshot_config": {"sampler": "first_n", "samples": examples},
        "process_results": partial(_passes, sandbox),
        "metric_list": [
            {"metric": "pass_at_1", "aggregation": "mean", "higher_is_better": True},
            {"metric": UNPARSED, "aggregation": "mean", "higher_is_better": False},
        ],
        "unsafe_code": False,  # it runs in our sandbox, not in the harness
    }
    return {"mbpp": task_of(config, {"test": tests})}


def _lacks(row: Mapping[str, Any]) -> str | None:
    tests = row.get("test_list")
    texts = [row.get("text"), row.get("code"), *(tests if isinstance(tests, list) else [None])]
    if type(row.get("task_id")) is not int or len(texts) < 5 or not all(isinstance(text, str) for text in texts):
        return "an object with task_id, text, code and three tests in test_list"
    return None


def _programming_task(row: Mapping[str, Any]) -> dict[str, Any]:
    fields = {key: row[key] for key in ("task_id", "text", "code", "test_list")}
    return fields | {"test_setup_code": str(row.get("test_setup_code") or "")}


def _passes(sandbox: Sandbox, item: Mapping[str, Any], answers: Sequence[str]) -> dict[str, int]:
    """Whether what a model wrote passes the item's tests, run where it can do no harm; and whether it was a program."""
    tests = "\n".join([item["test_setup_code"], *item["test_list"]])
    outcome = sandbox.run(answers[0], tests)
    no_program = not answers[0].strip() or outcome.detail.startswith(_NO_PROGRAM)
    return {"pass_at_1": int(outcome.status == "passed"), UNPARSED: int(no_program)}


def published(name: str) -> dict[str, Any]:
    """The harness's own description of a task, without its data and without running its code."""
    config = load_yaml(Path(str(files("lm_eval") / "tasks" / name)), resolve_func=False)
    return {key: value for key, value in config.items() if key not in ("dataset_path", "dataset_name", "tag")}


def task_of(config: dict[str, Any], splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> ConfigurableTask:
    """A task of the harness on rows of ours, by split."""
    held = {name: datasets.Dataset.from_list([dict(row) for row in rows]) for name, rows in splits.items()}
    return ConfigurableTask(config=config | {"custom_dataset": lambda **settings: held, "metadata": {"version": 1.0}})
