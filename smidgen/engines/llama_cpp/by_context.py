"""How quick models are with short and long prompts, and after them.

A prompt of some length is read, then some tokens are written after it: attention looks back at all of it for every
token, so both get slower the longer it is. The engines have a larger context here than where memory is measured.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from statistics import median
from typing import TypedDict

from smidgen import progress
from smidgen.engines import time_limit
from smidgen.engines.busy import Effort, disturbed
from smidgen.engines.llama_cpp.timed import TimedModel, Timing
from smidgen.engines.time_limit import TimeLimit

CONTEXTS = (128, 512, 2048)
_WRITTEN = 32
_REPEATS = 2  # a long prompt is a long measurement, and less noisy
_REPEATS_UNSURE = 3  # where these differ by more than they should
_MARGIN = 1.3  # long prompts are read more slowly than the estimate from short ones


class ContextSpeed(TypedDict):
    """Medians of `repeats` rounds, and in `…_range` the least and the most.

    prompt_tokens_per_s: reading a prompt of `context` tokens.  decode_tokens_per_s: writing after it.
    time_to_first_token_s: from the request until the first token of the answer is there.
    note: what to know beside them, None where there is nothing: a few rounds hide a disturbance in their median.
    """

    context: int
    prompt_tokens_per_s: float
    prompt_tokens_per_s_range: list[float]
    decode_tokens_per_s: float
    decode_tokens_per_s_range: list[float]
    time_to_first_token_s: float
    time_to_first_token_s_range: list[float]
    repeats: int
    note: str | None


@dataclass
class ContextRounds:
    """What was measured of one model, by the length of the prompt."""

    timings: dict[int, list[Timing]] = field(default_factory=dict)

    def figures(self) -> list[ContextSpeed]:
        """Shortest prompt first."""
        return [
            _speed(context, timings, self.is_disturbed(context)) for context, timings in sorted(self.timings.items())
        ]

    def is_disturbed(self, context: int) -> bool:
        """Whether the rounds with this length differ by more than they should."""
        timings = self.timings.get(context, ())
        rates = [timing.prompt_rate for timing in timings], [timing.decode_rate for timing in timings]
        return any(map(disturbed, rates))

    def efforts(self) -> list[Effort]:
        """Of all single measurements."""
        return [timing.effort for timings in self.timings.values() for timing in timings]


@dataclass(frozen=True)
class Known:
    """What is known of a model beforehand.  context: tokens it was made for; None if not known.

    prompt_rate, decode_rate: tokens a second, short prompts.  load_s: seconds to start it.
    """

    context: int | None
    prompt_rate: float
    decode_rate: float
    load_s: float

    def seconds(self, context: int) -> float:
        """About how long one measurement takes."""
        return _MARGIN * (context / self.prompt_rate + _WRITTEN / self.decode_rate)


def measure_contexts(
    start: Callable[[int], AbstractContextManager[Sequence[TimedModel]]],
    known: Sequence[Known],
    contexts: Sequence[int],
    repeats: int,
    limit: TimeLimit,
) -> tuple[list[ContextRounds], list[str]]:
    """Measure all models in turns, as long as the time lasts; and in words what was left out.

    start: starts all models with a context of so many tokens.
    """
    contexts, left_out = _that_fit(contexts, known, limit)
    found = [ContextRounds() for _ in known]
    if not contexts:
        return found, left_out
    with start(contexts[-1] + _WRITTEN + 1) as models:
        for model in models:
            model.time(1, 1)  # the first request after loading reads the weights into memory
        took = dict.fromkeys(contexts, 0.0)
        repeats = min(repeats, _REPEATS_UNSURE)
        with progress.track("Measuring speed by length", _costs(known, contexts, repeats)) as task:
            for turn in range(repeats):
                for context in contexts:
                    unsure = any(rounds.is_disturbed(context) for rounds in found)
                    if (turn < _REPEATS or unsure) and limit.left > took[context]:
                        began = time_limit.now()
                        for model, rounds in zip(models, found, strict=True):
                            rounds.timings.setdefault(context, []).append(model.time(context, _WRITTEN))
                        took[context] = time_limit.now() - began
                        task.advance()
                    else:
                        task.skip(1)
    missing = [context for context in contexts if context not in found[0].timings]
    return found, left_out + _no_time(missing, limit)


def _costs(known: Sequence[Known], contexts: Sequence[int], repeats: int) -> list[float]:
    """About how many seconds each measurement takes; nothing where there will hardly be one."""
    seconds = [sum(model.seconds(context) for model in known) for context in contexts]
    return [each * (turn < _REPEATS) for turn in range(repeats) for each in seconds]


def _that_fit(contexts: Sequence[int], known: Sequence[Known], limit: TimeLimit) -> tuple[list[int], list[str]]:
    """The lengths that all models were made for and that there is time for, shortest first."""
    fit, too_long, no_time = list[int](), list[int](), list[int]()
    spare = limit.left - sum(model.load_s for model in known)
    for context in sorted(set(contexts)):
        if any(model.context is not None and context + _WRITTEN + 1 > model.context for model in known):
            too_long.append(context)
            continue
        spare -= sum(model.seconds(context) for model in known)
        (fit if spare > 0 else no_time).append(context)
    return fit, (
        [f"{_tokens(too_long)} were left out: they are longer than the model's context."] if too_long else []
    ) + _no_time(no_time, limit)


def _no_time(contexts: Sequence[int], limit: TimeLimit) -> list[str]:
    if not contexts:
        return []
    return [f"{_tokens(contexts)} were left out: they do not fit into the {limit.seconds:.0f} s that this may take."]


def _tokens(contexts: Sequence[int]) -> str:
    return f"Prompts of {', '.join(map(str, contexts))} tokens"


def _speed(context: int, timings: Sequence[Timing], disturbed: bool) -> ContextSpeed:
    read = [timing.prompt_rate for timing in timings]
    written = [timing.decode_rate for timing in timings]
    first = [timing.first_token_s for timing in timings]
    return ContextSpeed(
        context=context,
        prompt_tokens_per_s=median(read),
        prompt_tokens_per_s_range=[min(read), max(read)],
        decode_tokens_per_s=median(written),
        decode_tokens_per_s_range=[min(written), max(written)],
        time_to_first_token_s=median(first),
        time_to_first_token_s_range=[min(first), max(first)],
        repeats=len(timings),
        note=f"Prompts of {context} tokens: the rounds differ, something disturbed them." if disturbed else None,
    )
