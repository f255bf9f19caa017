"""A plain folder in Hugging Face layout, in which dtype its readers are asked to compute, and how it is run.

Weights that were quantized are written in float16, which holds 11 significant bits of each; bfloat16 would hold 8. But
models with norms after attention and feed-forward (Gemma 2 and 3) compute numbers beyond float16: the real Gemma 3
gives NaN there. Readers compute in what config.json names, so it names bfloat16 for these where the file has float16.
"""

from pathlib import Path
from typing import Any

from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.writer import default_dtype, write_hf
from smidgen.model.chat import chat_templates
from smidgen.progress import say


def write_plain(checkpoint: Checkpoint, folder: Path, dtype: str | None = None) -> None:
    """As `hf.writer.write_hf`, and never a model that computes in float16 what float16 cannot hold."""
    stored = dtype or default_dtype(checkpoint)
    asked = asked_dtype(checkpoint, stored, "The weights in the file have more digits, which are")
    write_hf(checkpoint, folder, stored, more_settings=asked)


def asked_dtype(checkpoint: Checkpoint, stored: str | None, rounded: str) -> dict[str, Any]:
    """What config.json says where a model stored in float16 must not be computed in it, said aloud; else nothing.

    rounded: what of the file is rounded when it is loaded so, as the beginning of a sentence up to its verb.
    """
    if stored != "float16" or not any(layer.post_norms for layer in checkpoint.config.layers):
        return {}
    say(
        "config.json asks for bfloat16, since what such a model computes is beyond float16. "
        f"{rounded} rounded when it is loaded so; transformers loads them exactly with dtype=float32."
    )
    return {"torch_dtype": "bfloat16"}


def how_to_run(checkpoint: Checkpoint) -> list[str]:
    """A section of Markdown, in lines, for the README.md beside it."""
    given, answer = '"Once upon a time"', ""
    if chat_templates(checkpoint.tokenizer_metadata):
        given = '[{"role": "user", "content": "Why is the sky blue?"}]'
        answer = '[-1]["content"]'
    program = [
        "from transformers import pipeline", "",
        'write = pipeline("text-generation", model=".")  # this folder',
        f'print(write({given}, max_new_tokens=50)[0]["generated_text"]{answer})',
    ]  # fmt: skip
    return [
        "## Run it", "", "`pip install transformers torch`, then in this folder:", "", "```python", *program, "```", "",
    ]  # fmt: skip
