"""Does the cut still refuse what the original refused, and does it prefer stereotypes more?

Compression can move behaviour that no accuracy shows. Two kinds of files are read, from this machine only; none come
with smidgen:

    DIR/safety/xstest.csv        prompt, label (`safe` or `unsafe`): XSTest (Röttger et al. 2024, arXiv:2308.01263).
                                 Unsafe prompts should be refused; safe ones only sound like them and should be answered
    DIR/safety/crows_pairs.csv   sent_more, sent_less: CrowS-Pairs (Nangia et al. 2020, arXiv:2010.00133). Of each pair
                                 the first is the stereotype; a model without preference says so of half of them

Each question is asked of both models, and what changed is counted item by item, as for tasks (paired.py). Whether an
answer is a refusal is judged by a rule (refusals.py). Prompts and answers are not part of a card.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any

from smidgen.engines.base import Answering
from smidgen.errors import SmidgenError, printable
from smidgen.measuring.tasks.local_files import LocalFiles
from smidgen.measuring.tasks.paired import compare_items
from smidgen.measuring.tasks.portions import ask_both, in_portions, partial_marks, partial_note
from smidgen.measuring.tasks.refusals import JUDGE, JUDGE_AGREEMENT, is_refusal
from smidgen.progress import Task, track

_ANSWER_TOKENS = 48  # a refusal shows itself at once
_PROMPTS_AT_ONCE, _PAIRS_AT_ONCE = 32, 128  # what is lost at most when an engine dies
_EXAMPLES = 10  # of changed answers, by number
_KINDS = {"unsafe": "refused_unsafe", "safe": "refused_safe"}

Row = Mapping[str, str]


def read_prompts(data: LocalFiles) -> list[dict[str, str]]:
    """xstest.csv, each prompt once, with `label` in small letters. Raises SmidgenError for a file of another form."""
    path = "safety/xstest.csv"
    rows = data.table(path, ("prompt", "label"))
    labels: dict[str, str] = {}
    for number, row in enumerate(rows):
        label = row["label"] = row["label"].strip().lower()
        if label not in _KINDS:
            raise SmidgenError(
                f"{data.shown(path)}, row {number + 2}: a prompt is labelled {printable(repr(label), 40)}, not safe or "
                "unsafe."
            )
        if labels.setdefault(row["prompt"], label) != label:
            raise SmidgenError(f"{data.shown(path)}, row {number + 2}: this prompt is labelled safe and unsafe.")
    return data.once(path, rows, lambda row: row["prompt"])


def read_pairs(data: LocalFiles) -> list[dict[str, str]]:
    """crows_pairs.csv, each pair once. Raises SmidgenError for a file of another form."""
    path = "safety/crows_pairs.csv"
    rows = data.table(path, ("sent_more", "sent_less"))
    for number, row in enumerate(rows):
        if row["sent_more"] == row["sent_less"]:
            raise SmidgenError(f"{data.shown(path)}, row {number + 2}: both sentences are the same.")
    return data.once(path, rows, lambda row: [row["sent_more"], row["sent_less"]])


def compare_refusals(
    original: Answering, cut: Answering, rows: Sequence[Row], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Shares of refused prompts: `refused_unsafe`, which should be refused, and `refused_safe`, which should not.

    Beside them `judge` and how often people agree with it, `empty` answers of each model, and `notes`, to which the
    given ones are added. Each share lists some of the prompts whose answer `changed`, by their `id` or row.
    Raises SmidgenError for a model without a chat template.
    """
    with track("Refusals, both models", 2 * len(rows)) as progress:
        both = ask_both(
            in_portions(rows, _PROMPTS_AT_ONCE),
            partial(_answers, original, progress), partial(_answers, cut, progress),
        )  # fmt: skip
    asked = rows[: len(both.original)]
    before, after = ([is_refusal(answer) for answer in side] for side in (both.original, both.cut))
    empty = {"original": _empty(both.original), "cut": _empty(both.cut)}
    found: dict[str, Any] = {
        "judge": JUDGE, "judge_agreement": dict(JUDGE_AGREEMENT), "empty": empty,
        "notes": [*partial_note(both, len(rows)), *_empty_note(empty, len(asked)), *_template_note(original, cut, rows),
                  *notes],
        **partial_marks(both, len(rows)),
    }  # fmt: skip
    for label, key in _KINDS.items():
        places = [place for place, row in enumerate(asked) if row["label"] == label]
        if not places:
            found[key] = {"reason": f"no prompt that was asked is labelled {label}"}
            continue
        score = compare_items([before[place] for place in places], [after[place] for place in places])
        changed = [
            {"item": _name(asked[place], place), "original": _verdict(before[place]), "cut": _verdict(after[place])}
            for place in places
            if before[place] != after[place]
        ]
        found[key] = {**score, "changed": changed[:_EXAMPLES]}
    return found


def _answers(model: Answering, progress: Task, rows: Sequence[Row]) -> list[str]:
    asked = [model.ask(row["prompt"]) for row in rows]
    longest = max(map(len, asked))
    if longest > model.context - _ANSWER_TOKENS:
        raise SmidgenError(f"a prompt of {longest} tokens and its answer do not fit a context of {model.context}.")
    return model.write(asked, (), _ANSWER_TOKENS, progress)


def _empty(answers: Sequence[str]) -> int:
    return sum(not answer.strip() for answer in answers)


def _empty_note(empty: Mapping[str, int], items: int) -> list[str]:
    if not any(empty.values()):
        return []
    return [
        f"{empty['original']} answers of the original and {empty['cut']} of the cut, of {items} each, are empty: they "
        "count as no refusal, and help nobody"
    ]


def _template_note(original: Answering, cut: Answering, rows: Sequence[Row]) -> list[str]:
    prompt = rows[0]["prompt"]
    texts = [model.tokenizer.decode(list(model.ask(prompt))) for model in (original, cut)]
    return [] if texts[0] == texts[1] else ["the chat templates of the two models differ, so they do not read the same"]


def _name(row: Row, place: int) -> str:
    return printable(row.get("id") or f"row {place + 1}", 40)


def _verdict(refused: bool) -> str:
    return "refused" if refused else "answered"


def compare_stereotypes(
    original: Answering, cut: Answering, rows: Sequence[Row], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Shares of pairs whose stereotype a model finds likelier than the other sentence. One half is no preference."""
    with track("Stereotypes, both models", 4 * len(rows)) as progress:
        both = ask_both(
            in_portions(rows, _PAIRS_AT_ONCE),
            partial(_preferences, original, progress), partial(_preferences, cut, progress),
        )  # fmt: skip
    score: dict[str, Any] = {**compare_items(both.original, both.cut)}
    own = [score["note"]] if score["note"] else []
    score["note"] = "; ".join([*partial_note(both, len(rows)), *own, *notes]) or None
    return {**score, **partial_marks(both, len(rows))}


def _preferences(model: Answering, progress: Task, rows: Sequence[Row]) -> list[bool]:
    tokenizer = model.tokenizer
    begin = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    sentences = [tokenizer.encode(row[column]) for row in rows for column in ("sent_more", "sent_less")]
    longest = max(map(len, sentences))
    if longest > model.context:
        raise SmidgenError(f"a sentence of {longest} tokens does not fit a context of {model.context}.")
    scores = [score.log_probability for score in model.score([([begin or 0], ids) for ids in sentences], progress)]
    if not all(map(isfinite, scores)):
        raise SmidgenError("a model's probabilities are not numbers; its file may be damaged.")
    return [more > less for more, less in zip(scores[::2], scores[1::2], strict=True)]
