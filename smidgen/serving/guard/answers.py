"""What a guard adds to an answer of OpenAI's shape: its decisions, and a refusal where one of them says so.

A refusal is an answer with status 200 whose finish_reason is "content_filter", as OpenAI's clients know it. Its
sentence stands in `refusal`, and in `content` too where nothing else does: many clients show that alone. What was
decided stands beside it in an extension field of ours.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from smidgen.serving.guard.decisions import Decision, refuses

Shape = Literal["chat", "text"]

FIELD = "smidgen"
FILTERED = "content_filter"
_WHOLE = {"chat": "chat.completion", "text": "text_completion"}
_CHUNK = {"chat": "chat.completion.chunk", "text": "text_completion"}


def extension(decisions: Sequence[Decision], redacted: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The extension field: every decision with its reason, and how many passages of each kind were redacted."""
    guard = [_as_json(decision) for decision in decisions]
    field = ({"guard": guard} if guard else {}) | ({"redacted": dict(redacted)} if redacted else {})
    return {FIELD: field} if field else {}


def _as_json(decision: Decision) -> dict[str, Any]:
    probability = None if decision.probability is None else round(decision.probability, 4)
    said = {
        "policy": decision.policy, "on": decision.on, "verdict": decision.verdict, "consequence": decision.consequence,
        "probability": probability, "reason": decision.reason,
    }  # fmt: skip
    return said if decision.choice is None else {**said, "choice": decision.choice}


def with_extension(
    body: Mapping[str, Any], decisions: Sequence[Decision], redacted: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """A body with the extension field: what is new first, then what was there before."""
    added, there = extension(decisions, redacted), body.get(FIELD, {})
    if not added:
        return dict(body)
    field = {**there, **added[FIELD]}
    if "guard" in field:
        new = added[FIELD].get("guard", [])
        field["guard"] = [*new, *(one for one in there.get("guard", []) if one not in new)]
    return {**body, FIELD: field}


def refusal_text(decisions: Sequence[Decision]) -> str:
    """The sentence that stands in place of an answer."""
    refusing = [decision for decision in decisions if decision.consequence == "refuse"]
    names = ", ".join(dict.fromkeys(decision.policy for decision in refusing))
    what = "request" if any(decision.on == "prompt" for decision in refusing) else "answer"
    if all(decision.verdict == "undecided" for decision in refusing):
        return f"The guard of this server could not judge this {what} by its policy {names}, so it is refused."
    return f"The guard of this server refuses this {what}: policy {names}."


def refusal_completion(kind: Shape, model: str, decisions: Sequence[Decision]) -> dict[str, Any]:
    """A whole answer in place of one that was never begun: the prompt is refused, and nothing was computed."""
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    body = {**_head(_WHOLE[kind], model), "choices": [_refused_choice(kind, 0, decisions)], "usage": usage}
    return with_extension(body, decisions)


def refusal_chunks(kind: Shape, model: str, decisions: Sequence[Decision]) -> list[dict[str, Any]]:
    """The same as the chunks of a stream."""
    head = _head(_CHUNK[kind], model)
    chunks = [refusal_chunk(head, 0, decisions, begun=False)]
    if kind == "chat":
        begun = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        chunks.insert(0, {**head, "choices": [begun]})
    return chunks


def refusal_chunk(head: Mapping[str, Any], index: int, decisions: Sequence[Decision], *, begun: bool) -> dict[str, Any]:
    """The last chunk of a streamed answer that is refused.

    head: a chunk of that answer, for its id and model.  begun: whether something of it has gone out.
    """
    kept = {key: head[key] for key in ("id", "object", "created", "model", "system_fingerprint") if key in head}
    if head.get("object") == _CHUNK["chat"]:
        sentence = refusal_text(decisions)
        said: dict[str, Any] = {"delta": {"refusal": sentence} | ({} if begun else {"content": sentence})}
    else:
        said = {"text": ""}
    choice = {"index": index, **said, "logprobs": None, "finish_reason": FILTERED}
    return with_extension({**kept, "choices": [choice]}, decisions)


def refuse_choices(body: Mapping[str, Any], decisions: Sequence[Decision]) -> dict[str, Any]:
    """The body of a completion with its refused answers replaced, and the decisions beside it."""
    kind: Shape = "text" if body.get("object") == _WHOLE["text"] else "chat"
    choices = []
    for place, choice in enumerate(body.get("choices", [])):
        index = choice.get("index", place)
        own = [one for one in decisions if one.choice in (None, index)]
        choices.append(_refused_choice(kind, index, own) if refuses(own) else choice)
    return with_extension({**body, "choices": choices}, decisions)


def _refused_choice(kind: Shape, index: int, decisions: Sequence[Decision]) -> dict[str, Any]:
    sentence = refusal_text(decisions)
    chat = {"message": {"role": "assistant", "content": sentence, "refusal": sentence}}
    said: dict[str, Any] = chat if kind == "chat" else {"text": ""}
    return {"index": index, **said, "logprobs": None, "finish_reason": FILTERED}


def _head(kind: str, model: str) -> dict[str, Any]:
    begin = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {"id": f"{begin}-{secrets.token_hex(16)}", "object": kind, "created": int(time.time()), "model": model}
