"""KL of a cut on the windows and at the positions that llama-perplexity scores, computed by smidgen.

    python -m benchmarks.kl_windows original.gguf cut.gguf text.txt --windows 16 [--threads 2]

prints it as JSON, for benchmarks that must not load torch themselves. llama-perplexity cuts the tokens of the whole
text, BOS first where the model wants one, into runs of 512 that do not overlap, and writes BOS over the first token of
each. It scores what is predicted after the positions 256 to 510 (counted from 0) of each run: 255 a window. smidgen's
own cards score every position of windows that begin with BOS and 511 tokens of text.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smidgen.engines.torch import TorchEngine
from smidgen.errors import SmidgenError
from smidgen.formats.opening import open_checkpoint
from smidgen.model.tokenizer import Tokenizer
from smidgen.numerics.divergence import NO_TARGET, StreamedDivergence, soft_cap_
from smidgen.numerics.products import product
from smidgen.shapes import Float, Int

LENGTH = 512
_SCORED = slice(LENGTH // 2, LENGTH - 1)
_HEAD_ROWS, _POSITIONS = 4096, 512  # logits at once


def windows_of(ids: Sequence[int], bos: int | None, windows: int) -> Int[Tensor, "window position"]:
    """The first so many windows of a text. ids: of the text alone. bos: None where the model wants none."""
    tokens = list(ids) if bos is None else [bos, *ids]
    if len(tokens) < windows * LENGTH:
        raise SmidgenError(f"The text has {len(tokens)} tokens; {windows} windows need {windows * LENGTH}.")
    rows = torch.tensor(tokens[: windows * LENGTH]).view(windows, LENGTH)
    if bos is not None:
        rows[:, 0] = bos
    return rows


@torch.no_grad()
def divergences(original: TorchEngine, cut: TorchEngine, rows: Int[Tensor, "window position"]) -> Float[Tensor, " kl"]:
    """KL(original ‖ cut) in nats at each position that is scored."""
    states = [model.hidden_states(rows)[:, _SCORED].flatten(0, 1) for model in (original, cut)]
    stream = StreamedDivergence(torch.full((len(states[0]),), NO_TARGET))
    vocabulary = original.config.vocabulary
    for first in range(0, vocabulary, _HEAD_ROWS):
        stop = min(first + _HEAD_ROWS, vocabulary)
        heads = [model.head_rows(first, stop) for model in (original, cut)]
        for at in range(0, len(states[0]), _POSITIONS):
            where = slice(at, at + _POSITIONS)
            logits = [
                soft_cap_(product(hidden[where], head), model.config.logit_cap)
                for hidden, head, model in zip(states, heads, (original, cut), strict=True)
            ]
            stream.add(where, first, *logits)
    return stream.finish().kl


def report(options: argparse.Namespace) -> dict[str, Any]:
    """What is printed."""
    text = options.text.read_text(encoding="utf-8")
    with open_checkpoint(options.original) as before, open_checkpoint(options.cut) as after:
        tokenizer = Tokenizer.from_gguf(before.tokenizer_metadata)
        bos = tokenizer.bos_id if tokenizer.adds_bos else None
        rows = windows_of(tokenizer.encode(text), bos, options.windows)
        kl = divergences(TorchEngine(before, options.threads), TorchEngine(after), rows)
    return {"positions": len(kl), "kl_mean": float(kl.mean()), "kl_median": float(kl.median())}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("original", type=Path)
    parser.add_argument("cut", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--windows", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    print(json.dumps(report(parser.parse_args(arguments))))


if __name__ == "__main__":
    main()
