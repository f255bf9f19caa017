"""Prompts of completions as token ids, by the tokenizer that the model was measured with; its words by llama.cpp's
where the file's tokenizer is of a kind that only llama.cpp knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import anyio

from smidgen.model.tokenizer import Tokenizer
from smidgen.serving.answers.events import too_long
from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.answers.upstream_calls import call
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked

# Keys of the ids of fill-in-the-middle tokens, and the tokens by their texts where a file does not say.
_PREFIX, _SUFFIX, _MIDDLE = (
    ("tokenizer.ggml.fim_pre_token_id", ("<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<｜fim▁begin｜>")),
    ("tokenizer.ggml.fim_suf_token_id", ("<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "<｜fim▁hole｜>")),
    ("tokenizer.ggml.fim_mid_token_id", ("<|fim_middle|>", "<fim_middle>", "<fim-middle>", "<｜fim▁end｜>")),
)
_WIDEST_ID = 2**31


@dataclass(frozen=True)
class Prompt:
    """One prompt. ids: as the model reads it.  text: as a person reads it."""

    ids: list[int]
    text: str


async def prompts_of(model: AnsweringModel, asked: Asked) -> list[Prompt]:
    """The prompts of a completion, each with room for an answer in the context.

    Raises Refusal for an empty one, for ids that the model does not have, for one that is too long (it names both
    numbers), and for a suffix where the model cannot fill in.
    """
    suffix = asked.body.get("suffix") or None
    encode = partial(_prompts, model, asked.prompts, suffix)
    prompts = await anyio.to_thread.run_sync(encode, abandon_on_cancel=True)
    if prompts is None:
        prompts = [await _prompt_by_llama_cpp(model, prompt) for prompt in asked.prompts]
    room = 0 if asked.max_tokens == 0 else 1
    for prompt in prompts:
        if len(prompt.ids) + room > model.upstream.context:
            raise too_long(len(prompt.ids), model.upstream.context, "prompt")
    return prompts


def _prompts(model: AnsweringModel, prompts: Sequence[str | list[int]], suffix: str | None) -> list[Prompt] | None:
    """None where llama.cpp must encode."""
    tokenizer = model.facts.tokenizer
    if tokenizer is None:
        if suffix is not None:
            raise _no_suffix()
        return None
    return [_prompt(model, tokenizer, prompt, suffix) for prompt in prompts]


def _prompt(model: AnsweringModel, tokenizer: Tokenizer, prompt: str | list[int], suffix: str | None) -> Prompt:
    if suffix is not None:
        return _filling_in(model, tokenizer, prompt, suffix)
    if not isinstance(prompt, str):
        _refuse_unknown(prompt, len(tokenizer))
        shown = prompt[1:] if tokenizer.adds_bos and prompt[0] == tokenizer.bos_id else prompt
        return Prompt(prompt, tokenizer.decode(shown))
    _refuse_endless(model, tokenizer, prompt)
    ids = tokenizer.encode(prompt, add_bos=tokenizer.adds_bos, parse_special=True)
    if not ids:
        raise Refusal("the prompt is empty; give at least one character.", param="prompt")
    return Prompt(ids, prompt)


def _refuse_endless(model: AnsweringModel, tokenizer: Tokenizer, text: str) -> None:
    """A text with more bytes than the longest tokens could make of a context is not encoded at all."""
    longest = max(map(len, model.tokens_by_bytes), default=1)
    if len(text.encode(errors="replace")) > (model.upstream.context + 1) * max(longest, 1):
        raise too_long(None, model.upstream.context, "prompt")


def _refuse_unknown(ids: Sequence[int], size: int) -> None:
    if not ids:
        raise Refusal("the prompt is empty; give at least one token.", param="prompt")
    if not all(0 <= token < size for token in ids):
        raise Refusal(f"a prompt of token ids needs integers from 0 to {size - 1}.", param="prompt")


def _filling_in(model: AnsweringModel, tokenizer: Tokenizer, prompt: str | list[int], suffix: str) -> Prompt:
    """Before, behind, and then the middle, which the model writes: the order that these models are trained for."""
    if not isinstance(prompt, str):
        raise Refusal("with suffix, prompt must be a text.", param="prompt")
    marks = [_fill_token(model, tokenizer, key, texts) for key, texts in (_PREFIX, _SUFFIX, _MIDDLE)]
    if None in marks:
        raise _no_suffix()
    _refuse_endless(model, tokenizer, prompt + suffix)
    before, behind = tokenizer.encode(prompt), tokenizer.encode(suffix)
    start = [tokenizer.bos_id] if tokenizer.adds_bos else []
    ids = [*start, marks[0], *before, marks[1], *behind, marks[2]]
    return Prompt([token for token in ids if token is not None], prompt)


def _fill_token(model: AnsweringModel, tokenizer: Tokenizer, key: str, texts: Sequence[str]) -> int | None:
    found = model.facts.metadata.get(key)
    if isinstance(found, int) and 0 <= found < len(tokenizer):
        return found
    known = (tokenizer.encode(text, parse_special=True) for text in texts)
    return next((ids[0] for ids in known if len(ids) == 1 and ids[0] in tokenizer.control), None)


def _no_suffix() -> Refusal:
    return Refusal(
        "this model has no tokens to fill in the middle of a text; leave suffix out.", param="suffix"
    )  # fmt: skip


async def _prompt_by_llama_cpp(model: AnsweringModel, prompt: str | list[int]) -> Prompt:
    if not isinstance(prompt, str):
        _refuse_unknown(prompt, _WIDEST_ID)
        text = (await call(model, "/detokenize", {"tokens": prompt}))["content"]
        return Prompt(prompt, text)
    request = {"content": prompt, "add_special": True, "parse_special": True}
    ids: list[int] = (await call(model, "/tokenize", request))["tokens"]
    if not ids:
        raise Refusal("the prompt is empty; give at least one character.", param="prompt")
    return Prompt(ids, prompt)
