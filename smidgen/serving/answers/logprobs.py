"""Log-probabilities of tokens: an entry for each token with its own bytes, and the shapes of both endpoints.

llama.cpp gives an entry where a character is whole. The tokens that are only a part of it (of most emoji, of Bengali
with many tokenizers) come without one, and the entry of the last part has the bytes of all. Here each gets an entry of
its own. Their log-probability is asked for afterwards where the answer is not streamed (filling.py), and is null in a
stream. Where the token limit comes within a character, llama.cpp does not tell which tokens it began with: their
entries are empty.
"""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.serving.answers.model import AnsweringModel

_MOST_PARTS = 8  # tokens of one character


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood here. bytes: its own.  logprob: in nats."""

    bytes: bytes
    logprob: float


@dataclass(frozen=True)
class TokenEntry:
    """A token of a text.

    id: None where it is not known.
    bytes: its own, half a character for some; of a token that ends a text, its name; none where they are not known.
    logprob: in nats; None where it is not known, as of the first token of a prompt.
    top: the likeliest tokens at this place, the likeliest first; None where they are not known.
    shown: whether its bytes are in the text.
    """

    id: int | None
    bytes: bytes
    logprob: float | None
    top: tuple[Alternative, ...] | None
    shown: bool = True


UNKNOWN = TokenEntry(None, b"", None, None)


def entries_of(
    model: AnsweringModel, found: Sequence[dict[str, Any]], written: int | None, alternatives: int
) -> list[TokenEntry]:
    """An entry for each of `written` tokens (None: as many as llama.cpp tells of), from llama.cpp's entries."""
    missing = 0 if written is None else written - len(found)
    entries: list[TokenEntry] = []
    for one in found:
        whole = bytes(one["bytes"])
        own = model.piece(one["id"], whole)
        before = whole[: len(whole) - len(own)] if whole.endswith(own) else b""
        parts = _spelled(model, before, missing) if before and missing > 0 else []
        missing -= len(parts)
        entries += [TokenEntry(model.tokens_by_bytes.get(part), part, None, None) for part in parts]
        top = alternatives_of(model, one, alternatives)
        entries.append(TokenEntry(one["id"], own, one["logprob"], top))
    return entries


def alternatives_of(model: AnsweringModel, found: dict[str, Any], most: int) -> tuple[Alternative, ...]:
    """The likeliest tokens of one of llama.cpp's entries, each with its own bytes."""
    return tuple(
        Alternative(model.piece(one["id"], bytes(one["bytes"])), one["logprob"]) for one in found["top_logprobs"][:most]
    )


def _spelled(model: AnsweringModel, text: bytes, most: int) -> list[bytes]:
    """These bytes as at most so many tokens, the longest first as tokenizers do; as one where no tokens spell them."""
    known = model.tokens_by_bytes

    def parts(rest: bytes, left: int) -> list[bytes] | None:
        if not rest:
            return []
        for size in range(len(rest), 0, -1) if left else ():
            if rest[:size] in known and (behind := parts(rest[size:], left - 1)) is not None:
                return [rest[:size], *behind]
        return None

    # With the most tokens that are missing it is surest: nearly always all of them are of this character.
    return parts(text, min(most, _MOST_PARTS)) or [text]


def chat_shape(entries: Sequence[TokenEntry]) -> dict[str, Any]:
    """As chat completions have them."""
    content = [
        {
            "token": spelled(entry.bytes),
            "bytes": list(entry.bytes) or None,
            "logprob": entry.logprob,
            "top_logprobs": [
                {"token": spelled(one.bytes), "bytes": list(one.bytes), "logprob": one.logprob}
                for one in entry.top or ()
            ],
        }
        for entry in entries
    ]
    return {"content": content, "refusal": None}


class CompletionShape:
    """As completions have them, piece by piece of one text: `text_offset` counts from the beginning of it."""

    def __init__(self, alternatives: int) -> None:
        self._alternatives = alternatives
        self._characters = 0
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def of(self, entries: Sequence[TokenEntry], left_out: int = 0) -> dict[str, Any]:
        """The next tokens. left_out: characters at their beginning that the text does not have."""
        offsets = []
        for entry in entries:
            offsets.append(self._characters)
            if entry.shown:
                came = len(self._decoder.decode(entry.bytes))
                left_out, came = max(0, left_out - came), max(0, came - left_out)
                self._characters += came
        top = None
        if self._alternatives:
            top = [None if entry.top is None else _as_mapping(entry.top) for entry in entries]
        return {
            "tokens": [spelled(entry.bytes) for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": top,
            "text_offset": offsets,
        }


def _as_mapping(top: Sequence[Alternative]) -> dict[str, float]:
    """By their texts, the likeliest first; of two tokens with the same text the likelier one counts."""
    found: dict[str, float] = {}
    for one in top:
        found.setdefault(spelled(one.bytes), one.logprob)
    return found


def spelled(piece: bytes) -> str:
    """A token as text; `bytes:\\xe0\\xa6` where it is no text, as OpenAI writes it."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
