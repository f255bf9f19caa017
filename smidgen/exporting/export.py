"""The verb `export`: any model as a GGUF file or as a folder in Hugging Face layout, with its licence.

2:4 sparse models can be written in compressed-tensors' sparse format too."""

import os
import shutil
from pathlib import Path
from typing import Literal, get_args

from smidgen.atomic import refuse_unwritable
from smidgen.errors import SmidgenError, printable
from smidgen.exporting.compressed_tensors import write_compressed
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.convert import write_as_gguf
from smidgen.formats.hf.writer import write_hf
from smidgen.formats.hub.catalogue import ModelName, licence_files
from smidgen.formats.opening import open_model
from smidgen.publishing.companions import write_export_notes

Format = Literal["hf", "compressed-tensors", "gguf"]


def export(model: ModelName, to: Format, output: str | os.PathLike[str], dtype: str | None = None) -> None:
    """Write `model` (a name, a path or a loaded `Model`) as `output`: a file for "gguf", a folder for the others.

    Licence and notice files go with it.

    dtype: of the weights in a folder ("float32", "float16", "bfloat16"); None for what they are, or float16 where they
    are quantized.
    Raises Unsupported for what the format cannot hold, SmidgenError where it cannot be written.
    """
    model, output = os.fspath(model), Path(output).expanduser()
    if to not in get_args(Format):
        raise SmidgenError(f"{to!r} is no format to export to; choose from {', '.join(get_args(Format))}.")
    with open_model(model) as checkpoint:
        if to == "gguf":
            _export_gguf(checkpoint, output)
            for notice in licence_files(model):  # beside other files, whose licences may have the same names
                shutil.copyfile(notice, output.with_name(f"{output.stem}.{notice.name}"))
        else:
            write = write_hf if to == "hf" else write_compressed
            write(checkpoint, output, dtype)
            write_export_notes(output, model, checkpoint)


def _export_gguf(checkpoint: Checkpoint, output: Path) -> None:
    if output.exists() and output.resolve() == checkpoint.path.resolve():
        raise SmidgenError(f"{printable(output)} is the model itself. Choose another file with -o.")
    refuse_unwritable(output)
    write_as_gguf(checkpoint, output)
