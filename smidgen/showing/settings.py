"""What a person sets on the page for the next answer, checked."""

import math
from dataclasses import dataclass, replace

from smidgen.bounds import within
from smidgen.engines.llama_cpp.engine import LARGEST_SEED, Message, Sampling
from smidgen.errors import SmidgenError

TOP_K = 40  # llama.cpp's default, said aloud so that a vote can tell how its answers were drawn


@dataclass(frozen=True)
class Settings:
    """How an answer is written. max_tokens: None for no limit but the context.  seed: None for another draw each time.

    system: the instruction that a chat model sees first, or nothing.
    """

    temperature: float
    top_p: float
    max_tokens: int | None
    seed: int | None
    system: str

    @classmethod
    def of_page(
        cls, temperature: object, top_p: object, max_tokens: object, seed: object, system: object
    ) -> "Settings":
        """From what the fields of the page hold; an empty field is None. Raises SmidgenError for what is no setting."""
        text = "" if system is None else refuse_half_characters(str(system))
        settings = cls(
            _number("temperature", temperature), _number("top-p", top_p), whole_number("longest answer", max_tokens),
            whole_number("seed", seed), text.strip(),
        )  # fmt: skip
        within("longest answer", settings.max_tokens, 1)
        _ = settings.sampling  # which checks the others
        return settings

    @property
    def sampling(self) -> Sampling:
        """For the engine."""
        return Sampling(self.temperature, TOP_K, self.top_p, self.seed)

    def next_try(self, tries: int) -> "Settings":
        """For another answer to the same message: a seed that was given goes on by one each time."""
        return self if self.seed is None else replace(self, seed=(self.seed + tries) % (LARGEST_SEED + 1))

    def conversation(self, messages: list[Message]) -> list[Message]:
        """The messages with the system message in front."""
        return [{"role": "system", "content": self.system}, *messages] if self.system else messages


def refuse_half_characters(text: str) -> str:
    """The text. Raises SmidgenError for what is no text: a browser can send half of a pair of UTF-16."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SmidgenError("the text has half a character in it (a lone surrogate); type it again.") from error
    return text


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SmidgenError(f"the {name} must be a number.")
    return float(value)


def whole_number(name: str, value: object) -> int | None:
    """What a field holds; None where it is empty. Raises SmidgenError for what is no whole number."""
    if value is None or value == "":
        return None
    number = _number(name, value)
    if number != int(number):
        raise SmidgenError(f"the {name} must be a whole number.")
    return int(number)
