"""How often the rule that judges refusals says what people say.

    python -m benchmarks.refusal_judge xstest_v2_completions_*.csv

reads answers of models to the prompts of XSTest that people have judged (Röttger et al. 2024, arXiv:2308.01263; the
authors' repository has them in `model_completions`). Columns: completion, final_label (1_full_compliance,
2_full_refusal, 3_partial_refusal). Full and partial refusals both count as refusals. The rule was written with a view
to the files named in `WRITTEN_WITH`: they are shown apart, and the agreement that cards state is with all the others.
Neither prompts nor answers are part of the result.
"""

import argparse
import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import record
from smidgen.errors import SmidgenError
from smidgen.measuring.tasks.refusals import Agreement, is_refusal

WRITTEN_WITH = (
    "xstest_v2_completions_llama2new.csv", "xstest_v2_completions_llama2orig.csv",
    "xstest_v2_completions_mistralguard.csv",
)  # fmt: skip
SOURCE = (
    "answers of GPT-4 and Mistral Instruct to XSTest, judged by people (arXiv:2308.01263); not wholly unseen: totals "
    "of them were looked at while the rule was written"
)
_LABELS = {"1_full_compliance": False, "2_full_refusal": True, "3_partial_refusal": True}


@dataclass(frozen=True)
class Judged:
    """Answers of one file. people, rule: whether each is a refusal."""

    name: str
    sha256: str
    people: list[bool]
    rule: list[bool]


def read(path: Path) -> Judged:
    """Raises SmidgenError for a file that is not of that form."""
    content = path.read_bytes()
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    strange = [row.get("final_label") for row in rows if row.get("final_label") not in _LABELS]
    if not rows or strange or "completion" not in rows[0]:
        raise SmidgenError(f"{path.name} has no columns completion and final_label with known labels.")
    return Judged(
        path.name, hashlib.sha256(content).hexdigest(),
        [_LABELS[row["final_label"]] for row in rows], [is_refusal(row["completion"]) for row in rows],
    )  # fmt: skip


def agreement(people: Sequence[bool], rule: Sequence[bool], source: str) -> Agreement:
    """Cohen's kappa (Cohen 1960): (share − expected) / (1 − expected), expected from how often each says refusal."""
    count = len(people)
    alike = sum(a == b for a, b in zip(people, rule, strict=True)) / count
    yes_people, yes_rule = sum(people) / count, sum(rule) / count
    expected = yes_people * yes_rule + (1 - yes_people) * (1 - yes_rule)
    return Agreement(
        share=round(alike, 4),
        kappa=round((alike - expected) / (1 - expected), 4) if expected < 1 else 1.0,
        answers=count,
        false_refusals=sum(b and not a for a, b in zip(people, rule, strict=True)),
        missed_refusals=sum(a and not b for a, b in zip(people, rule, strict=True)),
        source=source,
    )


def measure(files: Sequence[Judged]) -> dict[str, Any]:
    """The object that is saved."""
    unseen = [file for file in files if file.name not in WRITTEN_WITH]
    if not unseen:
        raise SmidgenError("give files that the rule was not written with, such as those of GPT-4 and Mistral.")
    entries = [
        {
            **agreement(file.people, file.rule, file.name),
            "sha256": file.sha256,
            "refusals": sum(file.people),
            "written_with": file.name in WRITTEN_WITH,
        }
        for file in files
    ]
    people = [one for file in unseen for one in file.people]
    rule = [one for file in unseen for one in file.rule]
    return {**record.facts(), "agreement": agreement(people, rule, SOURCE), "files": entries}


def show(result: dict[str, Any]) -> str:
    """The table that is printed."""
    whole = {**result["agreement"], "source": "all that the rule was not written with", "written_with": False}
    rows = [
        (
            one["source"] + (" (written with)" if one["written_with"] else ""), one["answers"],
            f"{100 * one['share']:.1f}%", f"{one['kappa']:.3f}", one["false_refusals"], one["missed_refusals"],
        )
        for one in [*result["files"], whole]
    ]  # fmt: skip
    return record.table(("answers", "judged", "alike", "kappa", "false refusals", "missed refusals"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.csv")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "refusal_judge.json")
    options = parser.parse_args(arguments)
    result = measure([read(path) for path in options.files])
    record.save(options.output, result)
    print(show(result))


if __name__ == "__main__":
    main()
