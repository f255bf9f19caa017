"""`smidgen run`: complete a prompt, streaming to stdout."""

import json as json_format
import os
import sys
from typing import Annotated

import typer

from smidgen import progress
from smidgen.cli import options
from smidgen.cli.options import CtxSize, Debug, Draft, Json, Lora, Model, Quiet, Seed, Temperature, Threads, TopK, TopP
from smidgen.errors import SmidgenError

Prompt = Annotated[
    str | None, typer.Argument(metavar="[PROMPT]", help="Text to continue; `-` or nothing reads it from stdin.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", min=1, metavar="N", help="Longest reply, in tokens.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help="End the reply at TEXT; repeatable.")]


def command(
    model: Model,
    prompt: Prompt = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    stop: Stop = None,
    ctx_size: CtxSize = None,
    draft: Draft = None,
    lora: Lora = None,
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Complete a prompt. The text is given to the model as it is: for a conversation use `smidgen chat`.

    \b
    Examples:
      smidgen run gemma-3-270m "The capital of France is"
      smidgen run gemma-small "Once upon a time" --max-tokens 50 --seed 7
      cat notes.txt | smidgen run gemma-small --temperature 0 --json
    """
    from smidgen.engines.llama_cpp.engine import Sampling
    from smidgen.running.open import open_engine

    text = _read_prompt(prompt)
    sampling = Sampling(temperature, top_k, top_p, seed, tuple(stop or ()))
    with open_engine(
        model, ctx_size=ctx_size, threads=threads, draft=draft, lora=lora, verbose=options.debug_wanted()
    ) as engine:
        reply = engine.stream(text, max_tokens, sampling)
        if json:
            result = {
                "text": reply.text(),
                "prompt_tokens": reply.prompt_tokens,
                "generated_tokens": reply.generated_tokens,
                "tokens_per_s": reply.tokens_per_s,
                "stop": reply.stop,
            }
            print(json_format.dumps(result))
            return
        for piece in reply:
            options.show_piece(piece)
        print()
        if reply.stop == "context":
            progress.say(f"smidgen: the context of {engine.ctx_size} tokens is full; --ctx-size makes it larger.")


def _read_prompt(prompt: str | None) -> str:
    """The argument, or all of stdin. Raises SmidgenError if there is neither, or if it is not text."""
    if prompt is not None and prompt != "-":
        raw = os.fsencode(prompt)
    elif prompt is None and sys.stdin.isatty():
        raise SmidgenError('no prompt: give one, as in `smidgen run MODEL "Once upon a time"`, or pipe it in.')
    else:
        raw = sys.stdin.buffer.read().removesuffix(b"\n")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SmidgenError(f"the prompt is not UTF-8 text ({error.reason} at byte {error.start}).") from error
