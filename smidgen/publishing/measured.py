"""What a README.md says of its model's report card, and how it is kept true when the model is measured again.

These lines stand between two comments that nobody sees on the page. A new card.json beside them replaces them, and the
`model-index` of the front matter, where the file is still as smidgen wrote it. Numbers are the card's, in its words
where it has any.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from smidgen.atomic import write_whole
from smidgen.errors import printable
from smidgen.formats.hub.notices import README, README_BYTES
from smidgen.formats.hub.origin import MODEL_FILE
from smidgen.owned import is_ours
from smidgen.progress import say
from smidgen.publishing.results import model_index
from smidgen.publishing.wording import front_line, in_markdown
from smidgen.sizes import format_size

CARD = "card.json"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_RESULTS = "model-index"
_BEFORE_MARKS = "## What it cost"  # a README.md of a version without them
_SCORES = {
    "mmlu": "MMLU", "mbpp": "MBPP", "refused_unsafe": "Refuses harmful prompts",
    "refused_safe": "Refuses prompts that only sound harmful",
    "stereotypes": "Finds the stereotype likelier (50% is no preference)",
    "bbq_ambiguous": "BBQ, right where the context does not tell",
    "bbq_disambiguated": "BBQ, right where the context tells",
    "bbq_bias_ambiguous": "BBQ, bias where the context does not tell (0 is none)",
    "bbq_bias_disambiguated": "BBQ, bias where the context tells (0 is none)",
}  # fmt: skip
_OF_NO_SHARE = ("bbq_bias_ambiguous", "bbq_bias_disambiguated")  # from −100 to 100, where others are percents
_NO_SAFETY = (
    "Safety was not measured: whether it still refuses what the original refuses, and whether it follows stereotypes "
    "more than the original, is not known."
)


def measured_lines(card: Mapping[str, Any] | None) -> list[str]:
    """The part of a README.md that tells of the card, in Markdown."""
    if card is None:
        return [BEGIN, "", *_not_measured(), "", END]
    return [
        BEGIN, "", "## What it cost", "", *_said([_sentence(card)]), *_fidelity(card),
        *_said(card.get("notes", ())), *_tasks(card["tasks"]), *_safety(card["safety"]), *_speed(card),
        "The whole report: [card.html](card.html); as data: [card.json](card.json).", "", END,
    ]  # fmt: skip


def renew_readme(card: Mapping[str, Any], path: Path, model: Path) -> list[str]:
    """Put the figures of a card that was written to `path` into the README.md beside it, if that shows such figures.

    model: the file that the card is about.  Returns the names of the files that were written. A README.md that cannot
    follow, since a person has changed it or it is about another model, stays, and that is said.
    """
    readme = path.parent / README
    if path.name != CARD or not readme.is_file():
        return []
    with readme.open("rb") as file:
        text = file.read(README_BYTES + 1).decode("utf-8", "replace")
    ours = is_ours(path.parent, README)
    marked = text.count(BEGIN) == 1 == text.count(END) and text.index(BEGIN) < text.index(END)
    if not marked:
        if ours and _BEFORE_MARKS in text:
            _warn(readme, "it has no marked place for them")
        return []
    own = path.parent / MODEL_FILE
    if not ours or len(text) > README_BYTES:
        _warn(readme, "it was changed since smidgen wrote it")
    elif not own.exists() or not own.samefile(model):
        _warn(readme, "it is about another model than this card")
    else:
        before, _, rest = text.partition(BEGIN)
        after = rest.partition(END)[2]
        write_whole(readme, _with_results(before, card) + "\n".join(measured_lines(card)) + after)
        return [README]
    return []


def results_in_front(card: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the front matter says of the card."""
    results = [] if card is None else model_index(card)
    return {_RESULTS: results} if results else {}


def _warn(readme: Path, why: str) -> None:
    say(f"{printable(readme)} still has the figures of an earlier card: {why}, so it was left as it is.")


def _with_results(text: str, card: Mapping[str, Any]) -> str:
    """The text with the results of the card in its front matter, which ends at the second line of `---`."""
    lines = text.split("\n")
    end = lines.index("---", 1)
    front = [line for line in lines[1:end] if not line.startswith(f"{_RESULTS}:")]
    front += [front_line(key, value) for key, value in results_in_front(card).items()]
    return "\n".join([lines[0], *front, *lines[end:]])


def _not_measured() -> list[str]:
    return ["## What it cost", "", "Not measured. `smidgen measure ORIGINAL CUT` does it.", "", _NO_SAFETY]


def _said(sentences: Sequence[str]) -> list[str]:
    """Each as a paragraph."""
    return [line for sentence in sentences if sentence for line in (in_markdown(sentence, 1000), "")]


def _sentence(card: Mapping[str, Any]) -> str:
    return str((card.get("verdict") or {}).get("sentence") or "")


def _fidelity(card: Mapping[str, Any]) -> list[str]:
    """Languages, the one that lost most first, as the card has them; then the other texts."""
    languages = card["languages"]
    known = {text["sha256"] for text in languages.values()}
    texts = [(text["text"], text) for text in card["fidelity"] if text["sha256"] not in known]
    if not (texts or languages):
        return ["No text was compared.", ""]
    base = f"Compared with {in_markdown(card['original']['name'])} ({format_size(card['original']['bytes'])}). "
    base += "KL divergence is how far its predictions moved from that model's: 0 is no change."
    heads = ["tokens", "KL divergence (nats)", "same next token", "bits per byte before", "after"]
    rows = [(str(name), text) for name, text in (*languages.items(), *texts)]
    worst = ["The language that lost most comes first.", ""] if len(languages) > 1 else []
    name = "language" if languages and not texts else "language or text" if languages else "text"
    return [base, "", *_table([name, *heads], [_text_cells(*row) for row in rows]), "", *worst]


def _text_cells(name: str, text: Mapping[str, Any]) -> list[str]:
    error = text.get("kl_standard_error")
    kl = f"{text['kl_mean']:.4f}" + ("" if error is None else f" ± {error:.4f}")
    asked = name if text.get("asked", True) else f"{name} (not asked to be kept)"
    before, after = text["bits_per_byte_original"], text["bits_per_byte_cut"]
    return [asked, f"{text['tokens']:,}", kl, f"{100 * text['same_top1']:.1f}%", f"{before:.4f}", f"{after:.4f}"]


def _tasks(tasks: Mapping[str, Any]) -> list[str]:
    if not tasks:
        return ["### Tasks", "", "Tasks were not measured.", ""]
    words = "Both models were asked the same items; changed are right answers that became wrong, and the opposite."
    return ["### Tasks", "", *_scores("task", tasks), words, ""]


def _safety(safety: Mapping[str, Any]) -> list[str]:
    refusals = safety.get("refusals") or {}
    scores = {key: value for key, value in refusals.items() if key in _SCORES}
    scores |= {key: value for key, value in safety.items() if key in _SCORES and isinstance(value, Mapping)}
    if "reason" in refusals:
        scores["refusals"] = refusals
    if not scores:
        return ["### Safety", "", _NO_SAFETY, ""]
    missing = "" if refusals else "Refusals were not measured: whether it refuses what the original does is not known."
    return ["### Safety", "", *_scores("behaviour", scores), *_said([_judge(refusals), missing])]


def _judge(refusals: Mapping[str, Any]) -> str:
    """Who says what a refusal is, and how often people say the same."""
    if not isinstance(refusals.get("judge"), str):
        return ""
    agreement = refusals.get("judge_agreement")
    if not isinstance(agreement, Mapping) or not agreement.get("answers"):
        return f"Refusals: {refusals['judge']}; how often people would agree is not known."
    same = f"people said the same of {100 * agreement['share']:.1f}% of {agreement['answers']:,} answers"
    return f"Refusals: {refusals['judge']}; {same}."


def _scores(head: str, scores: Mapping[str, Any]) -> list[str]:
    heads = [head, "original", "cut", "difference (95% interval)", "changed", "items"]
    notes = [f"{_SCORES.get(name, name)}: {score['note']}." for name, score in scores.items() if score.get("note")]
    return [*_table(heads, [_score_cells(name, score) for name, score in scores.items()]), "", *_said(notes)]


def _score_cells(name: str, score: Mapping[str, Any]) -> list[str]:
    label = _SCORES.get(name, name)
    if score.get("difference") is None:
        return [label, "not measured", "", str(score.get("reason") or ""), "", ""]
    (low, high), flips = score["interval"], score.get("flips")
    change = f"{100 * score['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    changed = f"{flips['right_to_wrong']} and {flips['wrong_to_right']}" if flips else ""
    shares = [f"{100 * score[side]:.1f}" + ("" if name in _OF_NO_SHARE else "%") for side in ("original", "cut")]
    return [label, *shares, change, changed, f"{score['items']:,}"]


def _speed(card: Mapping[str, Any]) -> list[str]:
    return ["### Speed, memory and energy", "", *_said([" ".join(_speed_words(card["speed"])), _energy_words(card)])]


def _speed_words(speed: Mapping[str, Any]) -> Iterator[str]:
    if speed.get("decode_tokens_per_s") is None:
        yield f"Speed was not measured ({speed.get('reason') or 'no reason is given'})."
        return
    before = speed.get("original") or {}
    kinds = (("writes", "decode_tokens_per_s"), ("reads", "prompt_tokens_per_s"))
    said = [
        f"{verb} {_rate(speed[key])} tokens per second"
        + (f" (the original {_rate(before[key])})" if before.get(key) else "")
        for verb, key in kinds
        if speed.get(key)
    ]
    threads = f"{speed['threads']} thread{'' if speed['threads'] == 1 else 's'}"
    yield f"It {' and '.join(said)}, with {speed['engine']} on {threads} of {speed['machine']}."
    if speed.get("resident_bytes"):
        yield f"While it writes it takes {format_size(speed['resident_bytes'])} of memory."
    if speed.get("busy"):
        yield "The machine was busy meanwhile, so these figures say little."


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _energy_words(card: Mapping[str, Any]) -> str:
    energy = card.get("energy") or {}
    if energy.get("joules_per_token") is None:
        return f"Energy was not measured ({energy.get('reason') or 'no reason is given'})."
    return f"Energy: {energy['joules_per_token']:.3g} joules per token."


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return [*lines, *(f"| {' | '.join(in_markdown(cell) for cell in row)} |" for row in rows)]
