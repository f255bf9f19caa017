"""A conversation with a loaded model: the messages so far, and what may be done with them."""

from collections.abc import Sequence
from dataclasses import replace

from smidgen.engines.llama_cpp.engine import LARGEST_SEED, LlamaCppEngine, Message, Sampling
from smidgen.engines.llama_cpp.reply import Reply
from smidgen.errors import SmidgenError


class Conversation:
    """The messages so far. Ask, show the reply, then say with `answered` what of it was written.

    engine: loaded, with a chat template.  max_tokens: of each answer; None for no limit but the context.
    system: the instruction that the model sees first; it may be changed between two answers.
    template: the name of one of the model's chat templates, where it has several.
    """

    def __init__(
        self, engine: LlamaCppEngine, sampling: Sampling, max_tokens: int | None = None, system: str | None = None,
        template: str | None = None,
    ) -> None:  # fmt: skip
        self.system = system
        self._engine, self._sampling, self._max_tokens, self._template = engine, sampling, max_tokens, template
        self._said: list[Message] = []
        self._asked: list[Message] = []
        self._tries = 0  # of the last question

    @property
    def messages(self) -> list[Message]:
        """All of them, the system message first."""
        return self._with_system(self._said)

    @property
    def context(self) -> int:
        """Tokens that a question with all before it and its answer may have."""
        return self._engine.ctx_size

    @property
    def has_system_role(self) -> bool:
        """Whether the model's template has a place for a system message; else it is part of the first message."""
        return self._engine.takes_system_role(self._template)

    def used(self) -> int:
        """Tokens of the context that the conversation takes so far."""
        return len(self._engine.chat_prompt(self.messages, self._template)) if self._said else 0

    def ask(self, text: str) -> Reply:
        """The reply to a message. Raises SmidgenError where the conversation does not fit the context with it."""
        self._tries = 0
        return self._reply_to([*self._said, {"role": "user", "content": text}])

    def ask_again(self) -> Reply:
        """Another reply to the last message, in place of the one it got. Raises SmidgenError where there is none.

        With a seed, each try has the next one; without a draw (temperature 0) the answer is the same.
        """
        if not self._said:
            raise SmidgenError("there is no answer yet that could be written again.")
        self._tries += 1
        return self._reply_to(self._said[:-1])

    def answered(self, text: str) -> None:
        """Keep an answer, whole or as far as it came. Of one that is empty nothing stays, the question neither."""
        if text:
            self._said = [*self._asked, {"role": "assistant", "content": text}]

    def clear(self) -> None:
        """Forget all messages but the system message."""
        self._said = []

    def replace_messages(self, messages: Sequence[Message]) -> None:
        """Go on from other messages: a system message or none, then questions and answers in turn."""
        system = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
        self.system = system
        self._said = list(messages[1:] if system is not None else messages)

    def _reply_to(self, asked: list[Message]) -> Reply:
        seed = self._sampling.seed
        if seed is not None:
            seed = (seed + self._tries) % (LARGEST_SEED + 1)
        drawn = replace(self._sampling, seed=seed)
        reply = self._engine.chat(self._with_system(asked), self._max_tokens, drawn, self._template)
        self._asked = asked
        return reply

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        return [*([{"role": "system", "content": self.system}] if self.system else []), *messages]
