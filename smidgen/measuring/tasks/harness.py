"""lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness) asks, our engines answer.

The harness owns prompts, examples and scoring; published figures come from it, so it is not written again here. What
is ours is the model behind it: texts are encoded by the model's own tokenizer with exactly one BOS, where the model
expects one (without it Gemma's scores collapse), questions that begin alike share their computation, and both models
of a comparison answer the very same items.

This module is imported only when tasks are asked for: the harness is an extra (`pip install smidgen[eval]`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from threading import Lock
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate

from smidgen.engines.base import Answering
from smidgen.errors import SmidgenError, printable
from smidgen.progress import Task, track

UNPARSED = "unparsed"  # the metric of a task of ours that says so itself
_NO_MATCH = "[invalid]"  # what the harness's filters give where an answer holds nothing of their pattern
_LENIENT = "flexible-extract"  # of several filters the one that published results go by: the last number anywhere
_LONGEST_ANSWER = 256  # tokens, where a task names none; as of the harness's own `hf`
_RIGHT = ("acc", "exact_match", "pass_at_1", "em")  # metrics that say right or wrong of each item, the first one counts


@dataclass(frozen=True)
class Item:
    """One answered item. key: the task's name and the number of the item in it.  right: whether the answer was.

    answer: what the model said, for people to read.  unparsed: it said nothing that can be right or wrong; it is wrong.
    """

    key: tuple[str, int]
    right: bool
    answer: str
    unparsed: bool


class _InItems(Task):
    """Progress in items of a task, where the engine counts its own requests, in several threads."""

    def __init__(self, outer: Task, items: int, requests: int) -> None:
        super().__init__(outer.label, requests)
        self._outer, self._items, self._told = outer, items, 0
        self._counting = Lock()

    def leave_out(self, seconds: float) -> None:
        self._outer.leave_out(seconds)

    def skip(self, steps: int) -> None:
        self._count(steps, self._outer.skip)

    def advance(self, steps: int = 1) -> None:
        self._count(steps, self._outer.advance)

    def _count(self, steps: int, tell: Callable[[int], None]) -> None:
        with self._counting:
            super().advance(steps)
            finished = min(self._items, self.done * self._items // max(1, self.total))
            if finished > self._told:
                tell(finished - self._told)
                self._told = finished


class EngineLM(TemplateLM):
    """The harness's view of one model.

    label: of its own bar.  progress: a bar to advance instead, a step for each item.
    cut_off: beginnings so far that were longer than the model's context and lost their first tokens.
    """

    def __init__(self, model: Answering, label: str, progress: Task | None = None) -> None:
        super().__init__()
        self._model, self._label, self._progress = model, label, progress
        self._items = 0
        self.cut_off = 0

    def expect(self, items: int) -> None:
        """How many items the next requests are of."""
        self._items = items

    @contextmanager
    def _track(self, requests: int) -> Iterator[Task]:
        if self._progress is not None:
            yield _InItems(self._progress, self._items, requests)
            return
        with track(f"Tasks, {self._label}", requests) as task:
            yield task

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text, or begins one where there is no other."""
        found = self._model.tokenizer.eos_id
        return self._model.tokenizer.bos_id or 0 if found is None else found

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a beginning."""
        found = self._model.tokenizer.bos_id
        return self.eot_token_id if found is None else found

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text, with one BOS where the model expects it and this is not the inside of a text."""
        add_bos = self._model.tokenizer.adds_bos and add_special_tokens is not False
        return self._model.tokenizer.encode(string, add_bos=add_bos, parse_special=True)

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """The log probability of each continuation, and whether it is what the model would say."""
        return super().loglikelihood(list(requests), disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [self._fitted(begin, rest) for _, begin, rest in requests]
        with self._track(len(pairs)) as task:
            return [(score.log_probability, score.greedy) for score in self._model.score(pairs, task)]

    def _fitted(self, begin: list[int], rest: list[int]) -> tuple[list[int], list[int]]:
        """The end of a beginning that is too long for the context; the model must still read all but the last token."""
        room = self._model.context - (len(rest) - 1)
        if room < 1:
            raise SmidgenError(f"an answer of {len(rest)} tokens does not fit a context of {self._model.context}.")
        self.cut_off += len(begin) > room
        return begin[-room:], rest

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[float]:
        """The log probability of whole texts, each token seen with at most a context before it."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        pairs, owners = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self._model.context, 1)
            for window in map(make_disjoint_window, windows):
                pairs.append((list(window[0]), list(window[1])))
                owners.append(number)
        totals = [0.0] * len(requests)
        with self._track(len(pairs)) as task:
            for owner, score in zip(owners, self._model.score(pairs, task), strict=True):
                totals[owner] += score.log_probability
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[str]:
        """What the model writes, greedily, up to a stop text of the task."""
        found: list[str] = []
        with self._track(len(requests)) as task:
            for stops, tokens, prompts in self._alike(requests):
                found += self._model.write(prompts, stops, tokens, task)
        return found

    def _alike(self, requests: Sequence[Instance]) -> list[tuple[tuple[str, ...], int, list[list[int]]]]:
        """Runs of requests with the same stops and length, in their order."""
        runs: list[tuple[tuple[str, ...], int, list[list[int]]]] = []
        for request in requests:
            context, settings = cast("tuple[str, dict[str, Any]]", request.args)
            _refuse_sampling(settings)
            until = settings.get("until") or ()
            stops = (until,) if isinstance(until, str) else tuple(until)
            tokens = int(settings.get("max_gen_toks", settings.get("max_tokens", _LONGEST_ANSWER)))
            room = self._model.context - tokens
            if room < 1:
                raise SmidgenError(f"answers of {tokens} tokens do not fit a context of {self._model.context}.")
            ids = self.tok_encode(context)
            self.cut_off += len(ids) > room
            if not runs or runs[-1][:2] != (stops, tokens):
                runs.append((stops, tokens, []))
            runs[-1][2].append(ids[-room:])
        return runs


def _refuse_sampling(settings: Mapping[str, Any]) -> None:
    if settings.get("do_sample") or float(settings.get("temperature", 0) or 0) > 0:
        raise SmidgenError("this task draws its answers at random, so two models cannot be compared item by item.")


def answer_items(lm: EngineLM, tasks: Mapping[str, Any], chosen: Mapping[str, Sequence[int]]) -> list[Item]:
    """The chosen items of these tasks, answered by one model.

    chosen: numbers of items, by the task's name.
    Raises SmidgenError for a task whose items are not right or wrong.
    """
    tasks = {name: task for name, task in tasks.items() if chosen.get(name)}
    if isinstance(lm, EngineLM):
        lm.expect(sum(len(chosen[name]) for name in tasks))
    results = evaluate(
        lm, {"tasks": tasks, "groups": {}, "group_map": {}}, samples={name: list(chosen[name]) for name in tasks},
        bootstrap_iters=0, log_samples=True, confirm_run_unsafe_code=True,
    )  # fmt: skip
    assert results is not None
    items = []
    for name in tasks:
        samples = cast("dict[str, Any]", results)["samples"][name]
        kept = filter_of([sample["filter"] for sample in samples])
        for sample in samples:
            if sample["filter"] == kept:  # the harness gives each item once for each of its filters
                unparsed = _is_unparsed(sample)
                right = not unparsed and _is_right(name, sample)
                items.append(Item((name, sample["doc_id"]), right, _said(sample), unparsed))
    return items


def filter_of(names: Sequence[str]) -> str:
    """Which of a task's filters decides what an answer says: the lenient one where there is one, else the first."""
    return _LENIENT if _LENIENT in names else names[0]


def _is_unparsed(sample: Mapping[str, Any]) -> bool:
    """Whether there is no answer: of choices one that is no number, of texts one that is empty or matches nothing."""
    if UNPARSED in sample["metrics"]:
        return bool(sample[UNPARSED])
    answers = sample["filtered_resps"]
    if isinstance(answers[0], tuple | list):
        return not all(isfinite(answer[0]) for answer in answers)
    return str(answers[0]).strip() in ("", _NO_MATCH)


def _is_right(name: str, sample: Mapping[str, Any]) -> bool:
    metric = next((one for one in _RIGHT if one in sample["metrics"]), None)
    if metric is None or sample[metric] not in (0, 1):
        raise SmidgenError(
            f"the items of {printable(name, 60)} are not right or wrong (it has {', '.join(sample['metrics'])}), so "
            "they cannot be compared one by one."
        )
    return bool(sample[metric])


def _said(sample: Mapping[str, Any]) -> str:
    """The choice that a model took, or what it wrote."""
    answers = sample["filtered_resps"]
    if isinstance(answers[0], tuple | list):
        likeliest = max(range(len(answers)), key=lambda place: answers[place][0])
        return str(sample["arguments"][likeliest][1]).strip()
    return str(answers[0])
