"""A model as a folder that OpenVINO GenAI loads: the graph with its numbers, the tokenizer as graphs too, and settings.

Quantized matrices keep their codes and scales wherever OpenVINO's constants can hold them; see `matrices`.
"""

import json
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.atomic import making_folder, refuse_full_disk, write_whole
from smidgen.errors import SmidgenError, printable
from smidgen.exporting.openvino.extra import prepare_openvino
from smidgen.exporting.openvino.names import MODEL, NUMBERS
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.folder import GENERATION_CONFIG
from smidgen.formats.hf.writer import DTYPES, token_ids
from smidgen.model.parameters import is_matrix
from smidgen.progress import say
from smidgen.sizes import format_size

if TYPE_CHECKING:
    import torch

_GRAPH_SPACE = 4 * 2**20  # for the graph itself, vectors and settings


def write_openvino(checkpoint: Checkpoint, folder: Path, dtype: str | None = None) -> None:
    """Write the whole folder; it must not exist or be empty. If that fails, nothing of it is left.

    All weights are in memory at once, packed as they are written.
    dtype: of matrices whose type OpenVINO does not hold, a key of `DTYPES`; None for float16, or for what they are
    where they are not quantized.
    Raises Unsupported for a model that the graph cannot express, SmidgenError where it cannot be written.
    """
    refuse_openvino(checkpoint, dtype)
    from smidgen.exporting.openvino.matrices import stored_bytes
    from smidgen.exporting.openvino.tokenizer import write_tokenizers

    wished = None if dtype is None else DTYPES[dtype]
    settings = {key: value for key, value in token_ids(checkpoint).items() if value is not None}
    with making_folder(folder):
        write_tokenizers(checkpoint, folder)  # first, since it may be refused
        nbytes = sum(stored_bytes(checkpoint, name, wished) for name in checkpoint.names() if is_matrix(name))
        refuse_full_disk(folder / NUMBERS, nbytes + _GRAPH_SPACE)
        _say_what_is_decoded(checkpoint, wished)
        if not (folder / GENERATION_CONFIG).exists():
            write_whole(folder / GENERATION_CONFIG, json.dumps(settings, indent=2) + "\n")
        _write_model(checkpoint, folder, wished)


def refuse_openvino(checkpoint: Checkpoint, dtype: str | None = None) -> None:
    """Raises what `write_openvino` would say of a model and a dtype, without any work."""
    prepare_openvino()
    from smidgen.exporting.openvino.decoder import refuse_model

    if dtype is not None and dtype not in DTYPES:
        raise SmidgenError(f"{dtype!r} is no dtype for weights. Choose from {', '.join(DTYPES)}.")
    refuse_model(checkpoint.config)


def _write_model(checkpoint: Checkpoint, folder: Path, dtype: "torch.dtype | None") -> None:
    """The numbers, and then the graph: with it, the folder is a model."""
    import openvino as ov

    from smidgen.exporting.openvino.decoder import decoder_graph
    from smidgen.exporting.openvino.graph import Graph

    graph = Graph()
    model = decoder_graph(checkpoint, graph, dtype)
    unfinished = folder / f".{MODEL}"
    try:
        ov.serialize(model, unfinished, folder / NUMBERS)
    except RuntimeError as error:
        message = f"{printable(folder / NUMBERS)} cannot be written; check the folder and the space on its disk"
        raise SmidgenError(message) from error
    unfinished.rename(folder / MODEL)


def _say_what_is_decoded(checkpoint: Checkpoint, dtype: "torch.dtype | None") -> None:
    """How many matrices lose their types, and what that costs."""
    from smidgen.exporting.openvino.matrices import is_kept, plain_dtype

    matrices = [name for name in checkpoint.names() if is_matrix(name)]
    decoded = [name for name in matrices if not is_kept(checkpoint.kind(name))]
    if not decoded:
        return
    before = sum(checkpoint.packed(name).nbytes for name in decoded)
    written = plain_dtype(checkpoint.kind(decoded[0]), dtype)
    after = sum(prod(checkpoint.shape(name)) for name in decoded) * written.itemsize
    kinds = ", ".join(sorted({checkpoint.kind(name).name for name in decoded}))
    say(
        f"{len(decoded)} of {len(matrices)} matrices ({kinds}) are written as {str(written).removeprefix('torch.')}: "
        f"{format_size(after)} in place of {format_size(before)}. OpenVINO holds Q4_0, Q4_1 and Q8_0 as they are; "
        "cut with --types Q4_0,Q8_0 for that, or add --requantize."
    )
