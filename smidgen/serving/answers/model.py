"""The model that answers, with all that an answer needs of it."""

from dataclasses import dataclass
from functools import cached_property

from smidgen.engines.llama_cpp.engine import Facts
from smidgen.serving.answers.scorer import PromptScorer
from smidgen.serving.upstream import Upstream
from smidgen.version import __version__

FINGERPRINT = f"smidgen-{__version__}"  # `system_fingerprint` of all answers


@dataclass(frozen=True)
class AnsweringModel:
    """One model behind the server.

    name: what answers call it.  template: the text of its chat template, None for a base model.
    scorer: None where the log-probabilities of prompts are not to be had, as for a model with an adapter, or one that
    runs elsewhere.
    """

    name: str
    facts: Facts
    upstream: Upstream
    scorer: PromptScorer | None = None
    template: str | None = None

    @cached_property
    def tokens_by_bytes(self) -> dict[bytes, int]:
        """The token that stands for some bytes; of several the one with the lowest id."""
        tokenizer = self.facts.tokenizer
        size = 0 if tokenizer is None else len(tokenizer)
        return {} if tokenizer is None else {tokenizer.piece(token): token for token in reversed(range(size))}

    def piece(self, token: int, unknown: bytes = b"") -> bytes:
        """The bytes of a token; `unknown` where the tokenizer is of a kind that only llama.cpp knows."""
        tokenizer = self.facts.tokenizer
        return unknown if tokenizer is None or not 0 <= token < len(tokenizer) else tokenizer.piece(token)
