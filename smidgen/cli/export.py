"""`smidgen export`: a model in another format, its weights unchanged."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from smidgen.cli import options
from smidgen.errors import Unsupported, printable
from smidgen.shell import path_of

_FORMATS = ("hf", "gguf", "compressed-tensors", "lmstudio", "openvino")
_LATER = ("vllm", "onnx")


class Dtype(StrEnum):
    """Of the weights in a folder."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


def command(
    model: options.Model,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="hf|gguf|compressed-tensors|lmstudio|openvino", help="Format to write.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            parser=path_of,
            show_default=False,
            help="File for gguf, else a folder; for lmstudio that of all its models.",
        ),
    ],  # fmt: skip
    dtype: Annotated[
        Dtype | None,
        typer.Option("--dtype", help="Of a folder's weights.  [default: as they are; float16 if quantized]"),
    ] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a model in another format.

    hf is a folder that transformers, vLLM and others load: config.json, safetensors, tokenizer files; quantized weights
    are decoded. gguf is one file for llama.cpp, Ollama and LM Studio, with the weights as they are. compressed-tensors
    is a folder with the weights of a 2:4 sparse model at 9/16 of their size, for vLLM 0.8 to 0.18 on Hopper GPUs.
    lmstudio puts a GGUF file where LM Studio finds it: into a folder PUBLISHER/MODEL of its models folder. A file on
    the same disk gets a second name, and takes no space twice. openvino is a folder for OpenVINO GenAI: Q4_0, Q4_1 and
    Q8_0 keep their numbers, other types are decoded.

    \b
    Examples:
      smidgen export gemma-small --to hf -o gemma-small-hf
      smidgen export google/gemma-2-2b-it --to gguf -o gemma-2-2b-it.gguf
      smidgen export gemma-small --to lmstudio -o ~/.lmstudio/models
    """
    if to in _LATER:
        raise Unsupported(f"--to {to} is not there yet; smidgen writes {', '.join(_FORMATS)}.")
    if to not in _FORMATS:
        raise typer.BadParameter(f"--to {to!r} is no format; choose hf, gguf, compressed-tensors, lmstudio or openvino")
    if to in ("gguf", "lmstudio") and dtype is not None:
        raise typer.BadParameter("--dtype is for folders; a GGUF file keeps the weights as they are")
    from smidgen.exporting.export import export
    from smidgen.publishing.first_words import can_chat, try_it

    written = export(model, to, output, None if dtype is None else dtype.value)
    if to == "lmstudio":
        advice = f" LM Studio shows it as {printable(written.parent.parent.name)}/{printable(written.parent.name)}."
    elif to == "openvino":
        advice = f" {printable(written / 'README.md')} shows how to run it with OpenVINO GenAI."
    else:
        advice = "" if to == "compressed-tensors" else f" {try_it(output, can_chat(output))}"
    print(f"{printable(written)}: written.{advice}")
