"""What the measuring code asks of an engine, and nothing more, so that no method can grade itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from smidgen.model.config import ModelConfig
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import Task
from smidgen.shapes import Float, Int

Ids = Sequence[int]


class Score(NamedTuple):
    """log_probability: of a whole continuation, in nats.  greedy: whether each of its tokens was the likeliest."""

    log_probability: float
    greedy: bool


class Scorer(Protocol):
    """A model that can be asked what it expects next, in parts small enough for memory.

    The logits of a position are its hidden state times the head's rows, under `config.logit_cap`. They are never all
    there at once: a caller takes head rows and positions in chunks.
    """

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        ...

    def layer_operations(self, length: int) -> list[float]:
        """Floating point operations that each layer takes for a position of a window of so many."""
        ...

    def hidden_states(
        self, windows: Int[Tensor, "batch position"], progress: Task | None = None
    ) -> Float[Tensor, "batch position hidden"]:
        """What the head reads, after the final norm, float32. Windows are independent texts from position 0.

        progress: advanced once for each layer.
        """
        ...

    def head_rows(self, start: int, stop: int) -> Float[Tensor, "rows hidden"]:
        """Rows start … stop-1 of the output head, float32."""
        ...


@dataclass(frozen=True)
class Sizes:
    """What has to be known of a model that is asked for logits only. vocabulary: of each row of logits."""

    vocabulary: int
    context_length: int


@runtime_checkable
class LogitScorer(Protocol):
    """A model that shows nothing but its logits, of some positions at a time: one that another program computes."""

    @property
    def config(self) -> Sizes:
        """The model's shape, as far as it is known."""
        ...

    @property
    def at_once(self) -> int:
        """The most positions whose logits come together."""
        ...

    def logits(self, windows: Sequence[Ids]) -> Iterator[Float[Tensor, "position vocab"]]:
        """Of each window in turn, all its places in order, `at_once` at a time (at its end fewer), float32.

        Windows are independent texts from position 0. A result is not to be used any more once the next is asked for.
        """
        ...


class Answering(Protocol):
    """A model that answers the questions of a task."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own."""
        ...

    @property
    def context(self) -> int:
        """The most tokens that the model is given at once."""
        ...

    def ask(self, question: str) -> Ids:
        """A person's question as the model reads it: in its chat template. Raises SmidgenError where it has none."""
        ...

    def score(self, pairs: Sequence[tuple[Ids, Ids]], progress: Task) -> list[Score]:
        """How likely each continuation is after its beginning; `progress` advances once for each."""
        ...

    def write(self, prompts: Sequence[Ids], stops: Sequence[str], tokens: int, progress: Task) -> list[str]:
        """What follows each prompt, the likeliest token always: up to a stop text, the end, or so many tokens."""
        ...
