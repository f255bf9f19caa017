"""One window's conversation: what was said, and going back in it.

It is held by this process (Gradio's session state), not by the browser: so what the model reads is what was written, to
the letter, and two windows never mix. Nothing of it is stored.
"""

from dataclasses import dataclass, field

from smidgen.engines.llama_cpp.engine import Message
from smidgen.errors import SmidgenError
from smidgen.showing.settings import refuse_half_characters
from smidgen.showing.writing import Writing


@dataclass
class Talk:
    """One window's conversation. tries: answers that the last message got before.  writing: what is under way."""

    messages: list[Message] = field(default_factory=list)
    tries: int = 0
    writing: Writing | None = None

    def ask(self, text: object) -> None:
        """Add a person's message. Raises SmidgenError for an empty one, and while an answer is written."""
        said = refuse_half_characters(str(text or ""))
        if not said.strip():
            raise SmidgenError("write a message first.")
        self._refuse_while_writing()
        self.messages.append({"role": "user", "content": said})
        self.tries = 0

    def back_to(self, index: object) -> str:
        """Forget everything from the last message of the person at or before `index` on; returns that message."""
        self._refuse_while_writing()
        place = index if isinstance(index, int) and 0 <= index < len(self.messages) else len(self.messages) - 1
        while place >= 0 and self.messages[place]["role"] != "user":
            place -= 1
        if place < 0:
            raise SmidgenError("there is no message to go back to.")
        text = str(self.messages[place]["content"])
        del self.messages[place:]
        return text

    def ask_again(self, index: object) -> None:
        """Go back to a message and ask it anew."""
        tries, last = self.tries, len(self.messages)
        text = self.back_to(index)
        again = last - len(self.messages) <= 2
        self.ask(text)
        self.tries = tries + 1 if again else 0

    def edit(self, index: object, text: object) -> None:
        """Put another text in the place of a message, and forget what followed. Raises SmidgenError as `ask`."""
        said = refuse_half_characters(str(text or ""))
        if not said.strip():
            raise SmidgenError("write a message first.")
        self.back_to(index)
        self.ask(said)

    def answered(self, text: str) -> str | None:
        """Keep an answer as far as it came; of an empty one nothing stays, and the message comes back."""
        self.writing = None
        if text:
            self.messages.append({"role": "assistant", "content": text})
            return None
        return str(self.messages.pop()["content"])

    def clear(self) -> None:
        """Start over."""
        if self.writing is not None:
            self.writing.stop()
        self.messages, self.tries, self.writing = [], 0, None

    def _refuse_while_writing(self) -> None:
        if self.writing is not None and not self.writing.ended:
            raise SmidgenError("an answer is being written; stop it first.")
