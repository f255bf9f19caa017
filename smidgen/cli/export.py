"""`smidgen export`: a model in another format, its weights unchanged."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from smidgen.cli import options
from smidgen.errors import Unsupported, printable
from smidgen.shell import path_of

_FORMATS = ("hf", "gguf", "vllm", "mlx", "onnx", "openvino", "litert", "lmstudio")


class Dtype(StrEnum):
    """Of the weights in a folder that are not packed."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Activations(StrEnum):
    """What meets the weights in ONNX Runtime and LiteRT."""

    FLOAT32 = "float32"
    INT16 = "int16"
    INT8 = "int8"


def command(
    model: options.Model,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="hf|gguf|vllm|mlx|onnx|openvino|litert|lmstudio",
            help="Format to write.",
            show_default=False,
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
    activations: Annotated[
        Activations | None,
        typer.Option(
            "--activations",
            help="For onnx and litert: int8 is quicker, and not exact.  [default: onnx float32, litert int16]",
        ),
    ] = None,
    requantize: Annotated[
        bool,
        typer.Option(
            "--requantize",
            help="For mlx, vllm, onnx, openvino, litert: matrices of other types become Q4_0 or Q8_0, compensated as "
            "by cut, instead of 16 bits.",
        ),
    ] = False,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="To compensate on with --requantize, repeatable.  [default: text by the model itself]",
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=512, metavar="N", help="So many of it.  [default: 16384]")
    ] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a model in another format.

    hf is a folder that transformers, vLLM and others load: config.json, safetensors, tokenizer files; quantized weights
    are decoded. Gemma 2 and 3, whose numbers are beyond float16, are then computed in bfloat16. gguf is one file for
    llama.cpp, Ollama and LM Studio, with the weights as they are. vllm, mlx, onnx (for onnxruntime-genai), openvino
    (for OpenVINO GenAI) and litert (for LiteRT-LM and Google's AI Edge Gallery) are folders with quantized weights as
    they are: Q4_0 and Q8_0 (cut with --types portable), and more of the simple types in some; other matrices get 16
    bits, or with --requantize become Q4_0 and Q8_0 as in a cut. lmstudio puts a GGUF file where LM Studio finds it:
    into a folder PUBLISHER/MODEL of its models folder. A file on the same disk gets a second name, and takes no space
    twice.

    \b
    Examples:
      smidgen export gemma-small --to hf -o gemma-small-hf
      smidgen export google/gemma-2-2b-it --to gguf -o gemma-2-2b-it.gguf
      smidgen export gemma-small --to mlx -o gemma-small-mlx
      smidgen export gemma-3-270m --to mlx --requantize -o gemma-mlx
      smidgen export gemma-small --to lmstudio -o ~/.lmstudio/models
    """
    if to == "compressed-tensors":
        raise Unsupported(
            "vLLM reads 2:4 sparse weights no more; --to vllm packs quantized ones in compressed-tensors."
        )
    if to not in _FORMATS:
        raise typer.BadParameter(f"--to {to!r} is no format; choose {', '.join(_FORMATS[:-1])} or lmstudio")
    if to in ("gguf", "lmstudio") and dtype is not None:
        raise typer.BadParameter("--dtype is for folders; a GGUF file keeps the weights as they are")
    if to not in ("onnx", "litert") and activations is not None:
        raise typer.BadParameter("--activations is for onnx and litert; other formats say nothing of them")
    if requantize and to in ("hf", "gguf", "lmstudio"):
        raise typer.BadParameter(f"--requantize is for mlx, vllm, onnx, openvino and litert, not for {to}")
    if not requantize and (text or tokens is not None):
        raise typer.BadParameter("--text and --tokens are for --requantize; without it the weights stay as they are")
    from smidgen.exporting.export import export
    from smidgen.publishing.first_words import can_chat, elsewhere, try_it

    meets = None if activations is None else activations.value
    written = export(
        model, to, output, None if dtype is None else dtype.value, meets,
        requantize=requantize, texts=text or (), tokens=tokens,
    )  # fmt: skip
    if to == "lmstudio":
        advice = f" LM Studio shows it as {printable(written.parent.parent.name)}/{printable(written.parent.name)}."
    elif to in ("onnx", "openvino", "litert"):
        advice = f" {printable(written / 'README.md')} shows how to run it."
    else:
        chats = can_chat(output)
        advice = f" {elsewhere(to, output, chats) if to in ('vllm', 'mlx') else try_it(output, chats)}"
    print(f"{printable(written)}: written.{advice}")
