"""What llama.cpp writes, as text that comes piece by piece, with nothing lost at its end.

llama.cpp holds back text that may be the beginning of a stop text, or of a character whose bytes are not all there.
Where the answer then ends for another reason, a stream never gets it. So texts that end a reply are looked for here,
and what was held back for its bytes is asked for once more, in an answer that is not streamed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from smidgen.errors import EngineEnded, printable

StopReason = Literal["end", "max_tokens", "context", "stop_text", "closed"]
_STOP_REASONS: dict[str, StopReason] = {"eos": "end", "none": "end", "word": "stop_text"}  # llama.cpp's words for ours

Written = list[int] | str  # tokens, or the text of those whose ids llama.cpp did not tell
HeldBack = Callable[[Sequence[Written], int], str]  # what was written before → the text of the so many last tokens


class StopTexts:
    """Looks for the texts that end a reply in pieces of it. found: whether one has come."""

    def __init__(self, texts: Sequence[str]) -> None:
        """texts: none of them empty."""
        self.found = False
        self._texts = texts
        self._held = ""

    def pass_on(self, piece: str) -> str:
        """What may be shown now: all before a stop text, or before the beginning of what may become one."""
        self._held += piece
        places = [place for text in self._texts if (place := self._held.find(text)) >= 0]
        if places:
            self.found = True
            shown, self._held = self._held[: min(places)], ""
            return shown
        kept = max((_overlap(self._held, text) for text in self._texts), default=0)
        end = len(self._held) - kept
        shown, self._held = self._held[:end], self._held[end:]
        return shown

    def rest(self) -> str:
        """What was held back, now that the reply has ended for another reason."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that are the beginning of `stop`, but not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


class Reply(Iterator[str]):
    """A reply as it is written: iterate for the pieces of text; the counts are final when it has ended.

    prompt_tokens, generated_tokens; tokens_per_s: while generating, None for fewer than two tokens.
    stop: why it ended, None before.
    """

    def __init__(
        self,
        events: Iterator[dict[str, Any]],
        prompt_tokens: int,
        limit: StopReason,
        end_ids: frozenset[int] = frozenset(),
        stop: Sequence[str] = (),
        held_back: HeldBack | None = None,
    ) -> None:
        """end_ids: tokens that end a reply; llama.cpp knows the first few of them itself.  stop: texts that do.

        held_back: asks for the last tokens of a reply where no event told of them; None leaves them out.
        """
        self.prompt_tokens = prompt_tokens
        self.generated_tokens = 0
        self.tokens_per_s: float | None = None
        self.stop: StopReason | None = None
        self._events = events
        self._limit: StopReason = limit
        self._end_ids = end_ids
        self._stop_texts = StopTexts(stop)
        self._held_back = held_back
        self._written: list[Written] = []

    def __next__(self) -> str:
        while self.stop is None:
            event = next(self._events, None)
            if event is None:
                break
            piece = self._read(event)
            if piece:
                return piece
        raise StopIteration

    def text(self) -> str:
        """The rest of the reply as one text."""
        return "".join(self)

    def close(self) -> None:
        """Stop early: llama.cpp ends the computation, and `stop` is "closed"."""
        close = getattr(self._events, "close", None)
        if close is not None:
            close()
        self.stop = self.stop or "closed"

    def _read(self, event: dict[str, Any]) -> str:
        """The text to show after one event of llama.cpp's."""
        before, self.generated_tokens = self.generated_tokens, event.get("tokens_predicted", self.generated_tokens)
        if "timings" in event:
            self.tokens_per_s = decode_rate(event["timings"])
        content, tokens = event.get("content"), event.get("tokens") or []
        reasons: dict[str, StopReason] = {**_STOP_REASONS, "limit": self._limit}
        if not isinstance(content, str) or (event.get("stop") and event.get("stop_type") not in reasons):
            self.close()
            raise EngineEnded(f"llama.cpp sent what smidgen does not understand: {printable(event, 120)}.")
        if event.get("stop"):
            self.stop = reasons[event["stop_type"]]
            held = self.generated_tokens - before
            if held > 0 and self._held_back is not None:
                self.close()  # the next request waits for this one
                content += self._held_back(self._written, held)
        elif not self._end_ids.isdisjoint(tokens):
            self.stop, content = "end", ""
            self.close()
        self._written.append(tokens if len(tokens) == self.generated_tokens - before else content)
        shown = self._stop_texts.pass_on(content)
        if self._stop_texts.found:
            self.stop = "stop_text"
            self.close()
        elif self.stop is not None:
            shown += self._stop_texts.rest()
        return shown


def decode_rate(timings: dict[str, float]) -> float | None:
    """Tokens a second while decoding: llama.cpp's clock starts when the first token is there, so it is not counted."""
    steps = timings["predicted_n"] - 1
    return 1000 * steps / timings["predicted_ms"] if steps > 0 and timings["predicted_ms"] > 0 else None
