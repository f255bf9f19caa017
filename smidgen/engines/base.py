"""What the measuring code asks of an engine, and nothing more, so that no method can grade itself."""

from typing import Protocol

from torch import Tensor

from smidgen.model.config import ModelConfig
from smidgen.shapes import Float, Int


class Scorer(Protocol):
    """A model that can be asked what it expects next, in parts small enough for memory.

    The logits of a position are its hidden state times the head's rows, under `config.logit_cap`. They are never all
    there at once: a caller takes head rows and positions in chunks.
    """

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        ...

    def hidden_states(self, windows: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position hidden"]:
        """What the head reads, after the final norm, float32. Windows are independent texts from position 0."""
        ...

    def head_rows(self, start: int, stop: int) -> Float[Tensor, "rows hidden"]:
        """Rows start … stop-1 of the output head, float32."""
        ...
