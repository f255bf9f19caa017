"""A model as a folder with a file that LiteRT-LM and Google's AI Edge Gallery load.

Matrices keep their codes and scales where XNNPACK can multiply with them; see `matrices`.
"""

from importlib import import_module
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.atomic import making_folder, refuse_full_disk, replacing
from smidgen.errors import SmidgenError
from smidgen.exporting.litert.names import MODEL
from smidgen.exporting.litert.sizes import most_tokens
from smidgen.exporting.packed import counted
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.tokenizer import write_tokenizer
from smidgen.formats.hf.writer import DTYPES, write_tokenizer_files
from smidgen.model.parameters import is_matrix
from smidgen.progress import say
from smidgen.sizes import format_size
from smidgen.version import __version__

if TYPE_CHECKING:
    from smidgen.exporting.litert.matrices import Choices

_HELD = ("float16", "float32")
_SPACE_FOR_NOTES = 2**20  # README.md and licences, which come last


def write_litert(checkpoint: Checkpoint, folder: Path, dtype: str | None = None, int8: bool = False) -> None:
    """Write the whole folder; it must not exist or be empty. If that fails, nothing of it is left.

    dtype: of matrices whose codes LiteRT does not hold: "float16" or "float32"; None for float16, or for float32 where
    they are that.
    int8: whether what meets codes is rounded to 8 bits; else to 16.
    Raises Unsupported for a model that the graphs cannot express, SmidgenError where it cannot be written.
    """
    refuse_litert(checkpoint, dtype)
    from smidgen.exporting.litert import bundle
    from smidgen.exporting.litert.decoder import decoder_graphs
    from smidgen.exporting.litert.matrices import Choices
    from smidgen.exporting.litert.metadata import llm_metadata

    choices = Choices.of(checkpoint, int8, None if dtype is None else DTYPES[dtype])
    graphs = decoder_graphs(checkpoint, choices)
    with making_folder(folder):
        tokenizer = _tokenizer(checkpoint, folder)  # first, since it may be refused
        sections = [
            bundle.metadata(llm_metadata(checkpoint, most_tokens(checkpoint.config))),
            bundle.tokenizer(tokenizer),
            bundle.graphs(lambda file: graphs.write(file, checkpoint)),
        ]
        nbytes = graphs.nbytes + len(tokenizer) + _SPACE_FOR_NOTES
        refuse_full_disk(folder / MODEL, nbytes)
        _say_what_it_costs(checkpoint, choices)
        with replacing(folder / MODEL, nbytes) as file:
            bundle.write_bundle(file, sections, f"smidgen {__version__}")


def refuse_litert(checkpoint: Checkpoint, dtype: str | None = None) -> None:
    """Raises what `write_litert` would say of a model and a dtype, without any work."""
    _need_flatbuffers()
    from smidgen.exporting.litert.decoder import refuse_model

    if dtype is not None and dtype not in _HELD:
        raise SmidgenError(f"{dtype!r} is no dtype for weights in LiteRT. Choose from {', '.join(_HELD)}.")
    refuse_model(checkpoint.config)


def _need_flatbuffers() -> None:
    try:
        import_module("flatbuffers")
    except ImportError as error:
        raise SmidgenError("--to litert needs the package flatbuffers: pip install 'smidgen[export]'.") from error


def _tokenizer(checkpoint: Checkpoint, folder: Path) -> bytes:
    """Its files, beside the model for whoever measures it; and a tokenizer.json, which goes into the model."""
    write_tokenizer_files(checkpoint, folder)
    if not (folder / "tokenizer.json").exists():
        write_tokenizer(folder, checkpoint.tokenizer_metadata)
    return (folder / "tokenizer.json").read_bytes()


def _say_what_it_costs(checkpoint: Checkpoint, choices: "Choices") -> None:
    """A line about texts that are too long now, and one about matrices that lose their codes."""
    most, before = most_tokens(checkpoint.config), checkpoint.config.context_length
    if most < before:
        say(f"Prompt and answer together are at most {most:,} tokens in LiteRT; the model itself reads {before:,}.")
    matrices = [name for name in checkpoint.names() if is_matrix(name)]
    decoded = [name for name in matrices if name not in choices.kept and checkpoint.kind(name).block > 1]
    if not decoded:
        return
    before = sum(checkpoint.packed(name).nbytes for name in decoded)
    dtypes = {name: choices.plain_dtype(checkpoint, name) for name in decoded}
    after = sum(prod(checkpoint.shape(name)) * dtype.itemsize for name, dtype in dtypes.items())
    say(
        f"{counted(checkpoint, decoded)} as {str(dtypes[decoded[0]]).removeprefix('torch.')}: {format_size(after)} "
        f"instead of {format_size(before)}. LiteRT holds Q4_0 and Q8_0 with portable scales as they are: "
        "cut with --types portable for that, or add --requantize."
    )
