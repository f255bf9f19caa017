"""A model as the judge of other models' answers: each pair in both orders, and no verdict guessed.

A judge model often prefers whichever answer it reads first (Zheng et al. 2023, "Judging LLM-as-a-judge with MT-Bench
and Chatbot Arena", arXiv:2306.05685, section 3.3). So it reads each pair twice, in both orders: a verdict that changes
with the order counts as a tie, and how often that happens is told. A verdict that is not one of the three that were
asked for is counted, and makes no vote.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Literal

from smidgen.engines.base import Answering, Ids
from smidgen.errors import SmidgenError
from smidgen.progress import Task, track
from smidgen.votes import Vote, Winner

_QUESTION = """Two assistants were given the same request. Decide which answer serves the person better: is it \
correct, complete, clear, and in the language that the person uses? A longer answer is not better for its length, and \
the order of the answers means nothing.

[Request]
{prompt}

[Answer A]
{first}

[Answer B]
{second}

[Your verdict]
Reply with one of these three and nothing else: [[A]] if answer A is better, [[B]] if answer B is better, [[tie]] if \
neither is."""
VERDICT_TOKENS = 256  # a judge that says more first is heard to the end
_VERDICT = re.compile(r"\[\[\s*(a|b|tie)\s*\]\]", re.IGNORECASE)
_BARE = re.compile(r"\W*(a|b|tie)\W*", re.IGNORECASE)
_THOUGHTS = re.compile(r".*</think>", re.DOTALL)
_AT_ONCE = 8  # comparisons between two looks at whether the judge still runs

Verdict = Literal["first", "second", "tie"]
_VERDICTS: dict[str, Verdict] = {"a": "first", "b": "second", "tie": "tie"}


@dataclass(frozen=True)
class Answers:
    """What one model answered to each prompt, in their order; None where the prompt is too long for it."""

    model: str
    texts: Sequence[str | None]


@dataclass
class Judging:
    """What a judge did. comparisons: pairs of answers shown to it.  judged: those with two verdicts.

    changed_with_order: judged pairs whose verdict changed, which makes them ties.  first_both_times: of them, those
    where it was for the answer that it read first.  unparsed: pairs with a verdict that is none of the three.
    identical: pairs of the same answer, ties that were not shown.  too_long: pairs that were not shown since a prompt
    or both answers do not fit.  prompts: how many there were.  reason: why it did not finish; None where it did.
    """

    model: str
    prompts: int
    comparisons: int = 0
    judged: int = 0
    changed_with_order: int = 0
    first_both_times: int = 0
    unparsed: int = 0
    identical: int = 0
    too_long: int = 0
    unparsed_example: str | None = None
    reason: str | None = None
    notes: list[str] = field(default_factory=list)

    def as_object(self) -> dict[str, Any]:
        """For JSON, with shares beside the counts."""
        return asdict(self) | {
            "position_bias": self.changed_with_order / self.judged if self.judged else None,
            "unparsed_share": self.unparsed / self.comparisons if self.comparisons else None,
        }


def answer_all(name: str, model: Answering, prompts: Sequence[str], tokens: int) -> Answers:
    """One model's answers, the likeliest token always, of at most so many tokens.

    Raises SmidgenError for a model without a chat template.
    """
    asked = [model.ask(prompt) for prompt in prompts]
    fitting = [place for place, ids in enumerate(asked) if len(ids) + tokens <= model.context]
    with track(f"Answers of {name}", len(fitting)) as task:
        written = model.write([asked[place] for place in fitting], (), tokens, task)
    texts: list[str | None] = [None] * len(prompts)
    for place, text in zip(fitting, written, strict=True):
        texts[place] = text.strip()
    return Answers(name, texts)


def judge_all(
    name: str, judge: Answering, prompts: Sequence[str], answers: Sequence[Answers], keep: Callable[[Vote], None]
) -> Judging:
    """Compare the answers of each two models to each prompt; `keep` gets every vote as soon as it is there.

    A judge that ends midway leaves its reason in the result, as long as there are votes; else its error is raised.
    """
    judging, shown = Judging(name, len(prompts)), list[_Comparison]()
    for one, other in combinations(answers, 2):
        for prompt, first, second in zip(prompts, one.texts, other.texts, strict=True):
            comparison = _Comparison(judge, prompt, one.model, other.model, first or "", second or "")
            if first is None or second is None or not comparison.fits(judge):
                judging.too_long += 1
            elif first == second:
                judging.identical += 1
                keep(comparison.vote("tie", name))
            else:
                shown.append(comparison)
    with track(f"Verdicts of {name}", 2 * len(shown)) as task:
        for start in range(0, len(shown), _AT_ONCE):
            try:
                _judge_some(judge, shown[start : start + _AT_ONCE], judging, keep, task)
            except SmidgenError as error:
                if not judging.judged:
                    raise
                judging.reason = f"{error} {len(shown) - start} of {len(shown)} pairs were not judged."
                break
    return judging


def verdict_of(text: str) -> Verdict | None:
    """What a judge decided: `[[A]]`, `[[B]]` or `[[tie]]` in its reply, or one of the words alone; None where unclear.

    Thoughts before `</think>` are no verdict.
    """
    said = _THOUGHTS.sub("", text)
    found = {match.lower() for match in _VERDICT.findall(said)}
    if not found and (bare := _BARE.fullmatch(said)):
        found = {bare[1].lower()}
    return _VERDICTS[found.pop()] if len(found) == 1 else None


def combined(forward: Verdict, backward: Verdict) -> tuple[Winner, bool]:
    """The winner from the verdicts in both orders, and whether the verdict changed with the order."""
    turned: dict[Verdict, Verdict] = {"first": "second", "second": "first", "tie": "tie"}
    if forward != turned[backward]:
        return "tie", True
    winners: dict[Verdict, Winner] = {"first": "model_a", "second": "model_b", "tie": "tie"}
    return winners[forward], False


class _Comparison:
    """Two answers to one prompt, as the judge reads them in both orders."""

    def __init__(self, judge: Answering, prompt: str, model_a: str, model_b: str, first: str, second: str) -> None:
        self._prompt, self._models = prompt, (model_a, model_b)
        texts = ((first, second), (second, first))
        self.asked: list[Ids] = [
            judge.ask(_QUESTION.format(prompt=prompt, first=one, second=other)) for one, other in texts
        ]

    def fits(self, judge: Answering) -> bool:
        return max(map(len, self.asked)) + VERDICT_TOKENS <= judge.context

    def vote(self, winner: Winner, judge: str) -> Vote:
        return Vote(*self._models, winner, judge=judge, prompt=self._prompt)


def _judge_some(
    judge: Answering, some: Sequence[_Comparison], judging: Judging, keep: Callable[[Vote], None], task: Task
) -> None:
    asked = [ids for comparison in some for ids in comparison.asked]
    said = judge.write(asked, (), VERDICT_TOKENS, task)
    for comparison, forward, backward in zip(some, said[::2], said[1::2], strict=True):
        judging.comparisons += 1
        one, other = verdict_of(forward), verdict_of(backward)
        if one is None or other is None:
            judging.unparsed += 1
            judging.unparsed_example = judging.unparsed_example or (forward if one is None else backward)[:200]
            continue
        winner, changed = combined(one, other)
        judging.judged += 1
        judging.changed_with_order += changed
        judging.first_both_times += one == other == "first"
        keep(comparison.vote(winner, judging.model))
