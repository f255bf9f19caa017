"""Prompts of completions as token ids, by the tokenizer that the model was measured with; its words by llama.cpp's
where the file's tokenizer is of a kind that only llama.cpp knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import anyio

from smidgen.model.tokenizer import Tokenizer
from smidgen.serving.answers.events import too_long
from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.answers.rendered import refuse_endless
from smidgen.serving.answers.upstream_calls import call
from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.asked import Asked

_WIDEST_ID = 2**31


@dataclass(frozen=True)
class Prompt:
    """One prompt. ids: as the model reads it.  text: as a person reads it."""

    ids: list[int]
    text: str


async def prompts_of(model: AnsweringModel, asked: Asked) -> list[Prompt]:
    """The prompts of a completion, each with room for an answer in the context.

    Raises Refusal for an empty one, for ids that the model does not have, and for one that is too long (it names both
    numbers).
    """
    encode = partial(_prompts, model, asked.prompts)
    prompts = await anyio.to_thread.run_sync(encode, abandon_on_cancel=True)
    if prompts is None:
        prompts = [await _prompt_by_llama_cpp(model, prompt) for prompt in asked.prompts]
    room = 0 if asked.max_tokens == 0 else 1
    for prompt in prompts:
        if len(prompt.ids) + room > model.upstream.context:
            raise too_long(len(prompt.ids), model.upstream.context, "prompt")
    return prompts


def _prompts(model: AnsweringModel, prompts: Sequence[str | list[int]]) -> list[Prompt] | None:
    """None where llama.cpp must encode."""
    tokenizer = model.facts.tokenizer
    return None if tokenizer is None else [_prompt(model, tokenizer, prompt) for prompt in prompts]


def _prompt(model: AnsweringModel, tokenizer: Tokenizer, prompt: str | list[int]) -> Prompt:
    if not isinstance(prompt, str):
        _refuse_unknown(prompt, len(tokenizer))
        shown = prompt[1:] if tokenizer.adds_bos and prompt[0] == tokenizer.bos_id else prompt
        return Prompt(prompt, tokenizer.decode(shown))
    _refuse_overlong(model, prompt)
    ids = tokenizer.encode(prompt, add_bos=tokenizer.adds_bos, parse_special=True)
    if not ids:
        raise Refusal("the prompt is empty; give at least one character.", param="prompt")
    return Prompt(ids, prompt)


def _refuse_overlong(model: AnsweringModel, text: str) -> None:
    """A text with more bytes than the longest tokens could make of a context is not encoded at all."""
    longest = max(map(len, model.tokens_by_bytes), default=1)
    if len(text.encode(errors="replace")) > (model.upstream.context + 1) * max(longest, 1):
        raise too_long(None, model.upstream.context, "prompt")


def _refuse_unknown(ids: Sequence[int], size: int) -> None:
    if not ids:
        raise Refusal("the prompt is empty; give at least one token.", param="prompt")
    if not all(0 <= token < size for token in ids):
        raise Refusal(f"a prompt of token ids needs integers from 0 to {size - 1}.", param="prompt")


async def _prompt_by_llama_cpp(model: AnsweringModel, prompt: str | list[int]) -> Prompt:
    if not isinstance(prompt, str):
        _refuse_unknown(prompt, _WIDEST_ID)
        text = (await call(model, "/detokenize", {"tokens": prompt}))["content"]
        return Prompt(prompt, text)
    refuse_endless(prompt, "the prompt", "prompt")
    request = {"content": prompt, "add_special": True, "parse_special": True}
    ids: list[int] = (await call(model, "/tokenize", request))["tokens"]
    if not ids:
        raise Refusal("the prompt is empty; give at least one character.", param="prompt")
    return Prompt(ids, prompt)
