"""What a measurement is to do, checked, and what a cut says of the file that it has just written."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smidgen.bounds import MOST_SEED, MOST_THREADS, one_of, several, within
from smidgen.measuring.facts import Making
from smidgen.model.kept import AS_USUAL, KV_TYPES, KVType

if TYPE_CHECKING:
    from torch import Tensor

    from smidgen.shapes import Int

_LEAST_TOKENS = 64


@dataclass(frozen=True)
class MeasureOptions:
    """How to measure a cut.

    languages: codes of languages to measure in too, one or several; where no text has that name, the original writes
        one.  other_languages: the same for languages that the cut was not asked to keep, with fewer tokens of each.
    tokens: to score of each text; None for 8192.  seed: of every random choice.  threads: default the physical cores.
    with_speed: run both in llama.cpp.
    with_answers: let both models answer a few prompts, and show where they differ most (seconds to two minutes).
    tasks: names of tasks to ask both models (`mmlu`, `mbpp`, `xstest`, `crows_pairs`, `bbq`, or any of
        lm-evaluation-harness).  data: a folder with local copies of them.  limit: items of each in all, drawn with
        `seed`, as many of each language.
        unsafe: run what a model writes for `mbpp` without a sandbox.
    kv: how the cut keeps keys and values, q8_0 or q4_0 as llama.cpp rounds them: all that the card says of the cut is
        measured with that, and `kv` there says what it costs. The original keeps its own in float.
    """

    languages: str | Sequence[str] = ()
    other_languages: str | Sequence[str] = ()
    tokens: int | None = None
    seed: int = 0
    threads: int | None = None
    with_speed: bool = True
    with_answers: bool = True
    tasks: str | Sequence[str] = ()
    data: str | os.PathLike[str] | None = None
    limit: int | None = None
    unsafe: bool = False
    kv: KVType = AS_USUAL

    def __post_init__(self) -> None:
        """Raises SmidgenError for options that mean nothing."""
        within("tokens", self.tokens, _LEAST_TOKENS)
        within("seed", self.seed, 0, MOST_SEED)
        within("threads", self.threads, 1, MOST_THREADS)
        within("limit", self.limit, 1)
        one_of("kv", self.kv, KV_TYPES)
        for name in ("languages", "other_languages", "tasks"):
            object.__setattr__(self, name, several(name, getattr(self, name)))


@dataclass(frozen=True)
class JustCut:
    """What a cut says of the file that it has just written.

    making: how it came about.  calibrated_on: windows that it has seen, in the original's tokens; None where that is
    not known.  name: what the card calls it; None for the file's own.
    """

    making: Making = field(default_factory=Making)
    calibrated_on: "Int[Tensor, 'batch position'] | None" = None
    name: str | None = None
