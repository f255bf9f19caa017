"""MGSM, Belebele and Global-MMLU from files on this machine, as tasks of the harness, one for each language.

    DIR/belebele/<language>.jsonl            Bandarkar et al. 2024, arXiv:2308.16884. Fields as the authors have them:
                                             flores_passage, question, mc_answer1 … mc_answer4, correct_answer_num
    DIR/mgsm/mgsm_<language>.tsv             Shi et al. 2023, arXiv:2210.03057. Question, tab, number; no header
    DIR/global_mmlu/<language>/test.jsonl    Singh et al. 2025, arXiv:2412.03304. question, option_a … option_d,
      (or test.csv with a header)            answer (A … D)

Languages are named as the harness and the authors name them: `deu_Latn` for Belebele, `de` for the others. Prompts and
scoring are the harness's own, which asks these tasks without examples.
"""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from lm_eval.api.task import ConfigurableTask

from smidgen.errors import SmidgenError, printable
from smidgen.measuring.tasks.by_language import language_of
from smidgen.measuring.tasks.local_data import published, task_of
from smidgen.measuring.tasks.local_files import LocalFiles

_LETTERS = "ABCD"
_MGSM = {"mgsm_direct": "direct", "mgsm_native_cot": "native_cot", "mgsm_en_cot": "en_cot"}
_PASSAGE = ("flores_passage", "question", "mc_answer1", "mc_answer2", "mc_answer3", "mc_answer4")
_NUMBER = "correct_answer_num"
_CHOICES = ("question", "option_a", "option_b", "option_c", "option_d")
_FOLDERS = {"belebele": "belebele", **dict.fromkeys(_MGSM, "mgsm")}
_FOLDERS |= {"global_mmlu_full": "global_mmlu", "global_mmlu": "global_mmlu"}


def is_local(name: str, data: LocalFiles) -> bool:
    """Whether there is a folder for this task."""
    family, _ = _parted(name)
    return family is not None and (data.folder / _FOLDERS[family]).is_dir()


def files_of(name: str) -> str | None:
    """Where a local copy would be, in words; None for tasks that are not read from files here."""
    family, _ = _parted(name)
    layouts = {"belebele": "<language>.jsonl", "mgsm": "mgsm_<language>.tsv", "global_mmlu": "<language>/test.jsonl"}
    return None if family is None else f"DIR/{_FOLDERS[family]}/{layouts[_FOLDERS[family]]}"


def language_tasks(name: str, data: LocalFiles) -> dict[str, ConfigurableTask]:
    """The harness's tasks behind a name, by their names: one language (`belebele_deu_Latn`), or all that are there.

    Raises SmidgenError for files that are missing, empty, or not of the form, and for unknown languages.
    """
    family, language = _parted(name)
    assert family is not None
    files = {one: path for one, path in _files(family, data).items() if language in (None, one)}
    if not files:
        wanted = "language" if language is None else f"language {printable(language, 20)}"
        raise SmidgenError(f"{data.shown(_FOLDERS[family])} has no {wanted}: {files_of(name)} is expected.")
    return {f"{family}_{one}": _task(family, one, path, data) for one, path in files.items()}


def _parted(name: str) -> tuple[str | None, str | None]:
    """`mgsm_direct_de` → mgsm_direct and de; None for tasks of other kinds."""
    for family in sorted(_FOLDERS, key=len, reverse=True):
        if name == family:
            return family, None
        if name.startswith(f"{family}_"):
            return family, name.removeprefix(f"{family}_")
    return None, None


def _files(family: str, data: LocalFiles) -> dict[str, str]:
    """Paths by language."""
    if family == "belebele":
        found = {PurePath(path).stem: path for path in data.names("belebele/*.jsonl")}
    elif family in _MGSM:
        found = {PurePath(path).stem.removeprefix("mgsm_"): path for path in data.names("mgsm/mgsm_*.tsv")}
    else:
        paths = [*data.names("global_mmlu/*/test.csv"), *data.names("global_mmlu/*/test.jsonl")]
        found = {PurePath(path).parent.name: path for path in paths}
    for language, path in found.items():
        if language_of(f"{family}_{language}") != language:
            raise SmidgenError(
                f"{data.shown(path)}: {printable(repr(language), 30)} is no language such as de or deu_Latn."
            )
    return found


def _task(family: str, language: str, path: str, data: LocalFiles) -> ConfigurableTask:
    if family == "belebele":
        config, rows = published("belebele/_default_template_yaml"), _passages(data, path)
    elif family in _MGSM:
        config, rows = _sums_config(_MGSM[family], language, data.shown(path)), _sums(data, path)
    else:
        config, rows = published("global_mmlu/full/en/_en_template_yaml"), _choices(data, path)
    config = {key: value for key, value in config.items() if key not in ("training_split", "fewshot_split")}
    return task_of(config | {"task": f"{family}_{language}", "test_split": "test"}, {"test": rows})


def _sums_config(kind: str, language: str, shown: str) -> dict[str, Any]:
    """MGSM's words differ by language."""
    try:
        return published(f"mgsm/{kind}/mgsm_{kind}_{language}.yaml")
    except OSError as error:
        raise SmidgenError(f"{shown}: the harness has no MGSM in the language {printable(language, 20)}.") from error


def _passages(data: LocalFiles, path: str) -> list[dict[str, Any]]:
    rows = data.once(path, data.objects(path, _lacks_passage), lambda row: [row[key] for key in _PASSAGE])
    return [{key: row[key] for key in _PASSAGE} | {_NUMBER: str(row[_NUMBER])} for row in rows]


def _lacks_passage(row: Mapping[str, Any]) -> str | None:
    missing = [key for key in _PASSAGE if not isinstance(row.get(key), str) or not row[key].strip()]
    if missing:
        return f"text in {', '.join(missing)}"
    return None if str(row.get(_NUMBER)) in ("1", "2", "3", "4") else f"1, 2, 3 or 4 in {_NUMBER}"


def _choices(data: LocalFiles, path: str) -> list[dict[str, Any]]:
    if path.endswith(".csv"):
        rows: list[Any] = data.table(path, (*_CHOICES, "answer"))
        for number, row in enumerate(rows):
            if (missing := _lacks_choice(row)) is not None:
                raise SmidgenError(f"{data.shown(path)}, row {number + 2}: {missing} is expected.")
    else:
        rows = data.objects(path, _lacks_choice)
    rows = data.once(path, rows, lambda row: [row[key] for key in _CHOICES])
    return [{key: str(row[key]) for key in _CHOICES} | {"answer": row["answer"].strip()} for row in rows]


def _lacks_choice(row: Mapping[str, Any]) -> str | None:
    missing = [key for key in _CHOICES if not isinstance(row.get(key), str) or not row[key].strip()]
    if missing:
        return f"text in {', '.join(missing)}"
    answer = row.get("answer")
    return None if isinstance(answer, str) and answer.strip() in tuple(_LETTERS) else "A, B, C or D in answer"


def _sums(data: LocalFiles, path: str) -> list[dict[str, Any]]:
    found = []
    for number, row in enumerate(data.columns(path, "\t")):
        if len(row) != 2 or not row[0].strip() or (value := _whole_number(row[1])) is None:
            raise SmidgenError(
                f"{data.shown(path)}, row {number + 1}: a question, a tab and a whole number are expected, found "
                f"{len(row)} columns ending in {printable(repr(row[-1]), 20)}."
            )
        # The harness knows by an empty answer that a question is no example.
        found.append({"question": row[0].strip(), "answer": None, "answer_number": value})
    return data.once(path, found, lambda row: row["question"])


def _whole_number(text: str) -> int | None:
    """`1,250` → 1250."""
    number = text.strip().replace(",", "")
    return int(number) if re.fullmatch("-?[0-9]{1,15}", number) else None
