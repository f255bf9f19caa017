"""A model as a folder that onnxruntime-genai loads: the graph, its numbers, genai_config.json, the tokenizer's files.

Quantized matrices keep their codes and scales wherever ONNX Runtime's operators can hold them; see `matrices`. What
needs onnx-ir is imported where it is needed, since that is an extra.
"""

import json
from importlib import import_module
from math import prod
from pathlib import Path

import torch

from smidgen.atomic import making_folder, refuse_full_disk, replacing, write_whole
from smidgen.errors import SmidgenError
from smidgen.exporting.onnx.names import GENAI_CONFIG, MODEL
from smidgen.exporting.onnx.settings import genai_settings
from smidgen.exporting.packed import counted
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.writer import DTYPES, token_ids, write_tokenizer_files
from smidgen.model.parameters import is_matrix
from smidgen.numerics import block_types as types
from smidgen.progress import say
from smidgen.sizes import format_size
from smidgen.version import __version__

_TOKENIZER_CONFIG, _WITHOUT_WORDS = "tokenizer_config.json", "GemmaTokenizer"
_SPACE_FOR_NOTES = 2**20  # README.md and licences, which come last


def write_onnx(checkpoint: Checkpoint, folder: Path, dtype: str | None = None, int8: bool = False) -> None:
    """Write the whole folder; it must not exist or be empty. If that fails, nothing of it is left.

    dtype: of matrices whose type ONNX Runtime does not hold, and of those that are not quantized, a key of `DTYPES`;
    None for float16, and for what they are where they are not quantized.
    int8: whether ONNX Runtime rounds what meets a quantized matrix to 8 bits, which is quicker, and no longer what the
    weights say.
    Raises Unsupported for a model that the graph cannot express, SmidgenError where it cannot be written.
    """
    refuse_onnx(checkpoint, dtype)
    from smidgen.exporting.onnx.decoder import decoder_graph

    settings = genai_settings(checkpoint.config, token_ids(checkpoint))
    graph = decoder_graph(checkpoint, int8, None if dtype is None else DTYPES[dtype])
    serialized = graph.serialized("smidgen", __version__)
    with making_folder(folder):
        write_tokenizer_files(checkpoint, folder)  # first, since it may be refused
        _name_tokenizer(checkpoint, folder)
        refuse_full_disk(folder / MODEL, graph.nbytes + len(serialized) + _SPACE_FOR_NOTES)
        _say_what_it_costs(checkpoint, DTYPES[dtype or "float16"])
        graph.write_numbers(folder, checkpoint)
        with replacing(folder / MODEL, len(serialized)) as file:
            file.write(serialized)
        write_whole(folder / GENAI_CONFIG, json.dumps(settings, indent=2) + "\n")  # last: with it, it is a model


def _name_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """As a class of which onnxruntime-genai knows that it does not split texts into words as GPT-2 does. With other
    names SentencePiece's tokens beyond a word's letters are never found: those of most Indic scripts, for example.
    """
    path = folder / _TOKENIZER_CONFIG
    if checkpoint.tokenizer_metadata["tokenizer.ggml.model"] == "llama" and path.exists():
        settings = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": _WITHOUT_WORDS}
        write_whole(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def refuse_onnx(checkpoint: Checkpoint, dtype: str | None = None) -> None:
    """Raises what `write_onnx` would say of a model and a dtype, without any work."""
    _need_onnx_ir()
    from smidgen.exporting.onnx.decoder import refuse_model

    if dtype is not None and dtype not in DTYPES:
        raise SmidgenError(f"{dtype!r} is no dtype for weights. Choose from {', '.join(DTYPES)}.")
    refuse_model(checkpoint.config)


def _need_onnx_ir() -> None:
    try:
        import_module("onnx_ir")
    except ImportError as error:
        raise SmidgenError("--to onnx needs the package onnx-ir: pip install 'smidgen[export]'.") from error


def _say_what_it_costs(checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    """A line about matrices that lose their types, one about those whose codes get more bits than they have."""
    from smidgen.exporting.onnx.matrices import is_kept

    matrices = [name for name in checkpoint.names() if is_matrix(name)]
    if decoded := [name for name in matrices if not is_kept(checkpoint.kind(name))]:
        before = sum(checkpoint.packed(name).nbytes for name in decoded)
        after = sum(prod(checkpoint.shape(name)) for name in decoded) * dtype.itemsize
        say(
            f"{counted(checkpoint, decoded)} as {str(dtype).removeprefix('torch.')}: {format_size(after)} instead of "
            f"{format_size(before)}. ONNX Runtime holds Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 as they are; --requantize "
            "makes Q4_0 and Q8_0 of others."
        )
    if raised := [name for name in matrices if checkpoint.kind(name) in (types.Q5_0, types.Q5_1)]:
        say(f"{counted(checkpoint, raised)} in more bits than they need, the same numbers: ONNX Runtime has no 5.")
