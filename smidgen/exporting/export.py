"""The verb `export`: any model as a GGUF file or as a folder in Hugging Face layout, with its licence.

Folders for vLLM, MLX, ONNX Runtime, OpenVINO and LiteRT hold quantized weights as the model's file has them. LM Studio
gets a GGUF file in its place.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from typing import Literal, get_args

from smidgen.atomic import refuse_unwritable
from smidgen.errors import SmidgenError, printable
from smidgen.exporting import hf, lm_studio
from smidgen.exporting.litert import names as litert_names
from smidgen.exporting.litert import use as litert_use
from smidgen.exporting.litert.folder import write_litert
from smidgen.exporting.mlx import write_mlx
from smidgen.exporting.onnx import names as onnx_names
from smidgen.exporting.onnx import use as onnx_use
from smidgen.exporting.onnx.folder import write_onnx
from smidgen.exporting.openvino import names as openvino_names
from smidgen.exporting.openvino import use as openvino_use
from smidgen.exporting.openvino.folder import write_openvino
from smidgen.exporting.vllm import write_vllm
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.convert import WRITTEN_BY, write_as_gguf
from smidgen.formats.gguf.contents import refuse_damaged
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.history import HISTORY
from smidgen.formats.hub.catalogue import ModelName
from smidgen.formats.opening import open_model
from smidgen.model.tokenizers.splitting import llama_cpp_splits_otherwise
from smidgen.progress import say
from smidgen.publishing.companions import run_by, write_export_notes
from smidgen.shell import path_of

Format = Literal["hf", "vllm", "mlx", "onnx", "openvino", "litert", "gguf", "lmstudio"]
Activations = Literal["float32", "int16", "int8"]
_ACTIVATIONS: dict[Format, tuple[Activations, ...]] = {"onnx": ("float32", "int8"), "litert": ("int16", "int8")}


@dataclass(frozen=True)
class _Folder:
    """A format that is a folder of one model, and what its README.md says.

    write: with the dtype of weights that are not packed.  layout: what it is, after "The weights of …".
    use: a section on how to run it.  made: the file with the weights.
    """

    write: Callable[..., None]
    layout: str
    use: Callable[[Checkpoint], list[str]]
    made: str = "model.safetensors"


def _by_command(install: str, command: str) -> Callable[[Checkpoint], list[str]]:
    return lambda _: run_by(install, command)


_FOLDERS = {
    "hf": _Folder(hf.write_plain, "in Hugging Face layout", hf.how_to_run),
    "mlx": _Folder(
        write_mlx, "for MLX",
        _by_command("pip install mlx-lm", 'mlx_lm.generate --model . --prompt "Once upon a time"'),
    ),
    "vllm": _Folder(write_vllm, "for vLLM", _by_command("pip install vllm", "vllm serve .")),
    "onnx": _Folder(write_onnx, "for ONNX Runtime", onnx_use.how_to_run, onnx_names.NUMBERS),
    "openvino": _Folder(write_openvino, "for OpenVINO", openvino_use.how_to_run, openvino_names.NUMBERS),
    "litert": _Folder(write_litert, "for LiteRT-LM", litert_use.how_to_run, litert_names.MODEL),
}  # fmt: skip
#: What holds some quantized types as they are, and not the others.
_PACKING = tuple(name for name in _FOLDERS if name != "hf")


def export(
    model: ModelName,
    to: Format,
    output: str | os.PathLike[str],
    dtype: str | None = None,
    activations: Activations | None = None,
    *,
    requantize: bool = False,
    texts: Sequence[str | os.PathLike[str]] = (),
    tokens: int | None = None,
) -> Path:
    """Write `model` (a name, a path or a loaded `Model`) as `output`: a file for "gguf", a folder for the others; for
    "lmstudio" the folder of all its models.

    Licence and notice files go with it. Returns the path of what was written.

    dtype: of the weights in a folder that are not packed ("float32", "float16", "bfloat16"); None for what they are, or
    float16 where they are quantized. Where that is too narrow to compute in, config.json asks for bfloat16.
    activations: to what quantized weights are multiplied with: "float32" or "int8" for "onnx", "int16" or "int8" for
    "litert"; None for the first of them. "int8" is quicker, and not exact.
    requantize: for "vllm", "mlx", "onnx", "openvino" and "litert": matrices that the format cannot hold as they are get
    types that it holds, with errors compensated, instead of 16 bits.  texts, tokens: to compensate on, as `cut` has
    them: none for text by the model itself.
    Raises Unsupported for what the format cannot hold, SmidgenError where it cannot be written.
    """
    output = path_of(output)
    if to not in get_args(Format):
        raise SmidgenError(f"{to!r} is no format to export to; choose from {', '.join(get_args(Format))}.")
    chosen = _activations(to, activations)
    if requantize and to not in _PACKING:
        raise SmidgenError(f"requantize is for {', '.join(_PACKING)}, not for {to}.")
    if not requantize and (texts or tokens is not None):
        raise SmidgenError("texts and tokens are for requantize; without it the weights stay as they are.")
    with open_model(model) as original, _as_it_fits(original, to, dtype, output, requantize, texts, tokens) as fitting:
        checkpoint, done = fitting
        if to == "gguf":
            notices = {output.with_name(f"{output.stem}.{notice.name}"): notice for notice in checkpoint.origin.notices}
            _write_gguf(checkpoint, output, notices, write_as_gguf)
        elif to == "lmstudio":
            output = lm_studio.place(output, checkpoint.origin)
            output.parent.mkdir(parents=True, exist_ok=True)
            notices = {output.with_name(notice.name): notice for notice in checkpoint.origin.notices}
            if not _is_same(output, checkpoint.path):
                _write_gguf(checkpoint, output, notices, lm_studio.write_or_link)
        else:
            folder, more = _FOLDERS[to], {"int8": chosen == "int8"} if chosen else {}
            folder.write(checkpoint, output, dtype, **more)
            write_export_notes(output, checkpoint, folder.layout, folder.made, folder.use(checkpoint), done)
    return output


def _as_it_fits(
    original: Checkpoint, to: Format, dtype: str | None, output: Path,
    requantize: bool, texts: Sequence[str | os.PathLike[str]], tokens: int | None,
) -> AbstractContextManager[tuple[Checkpoint, list[str]]]:  # fmt: skip
    """The model to write, and what was done to its weights: nothing, if not asked to."""
    if not requantize:
        return nullcontext((original, []))
    from smidgen.exporting.requantized import requantized  # which brings the whole cutter

    return requantized(original, to, dtype, output, texts, tokens)


def _activations(to: Format, wished: Activations | None) -> Activations | None:
    """What is wished, or a format's own. Raises SmidgenError for what it does not have."""
    there = _ACTIVATIONS.get(to, ())
    if wished is None:
        return there[0] if there else None
    if wished not in get_args(Activations):
        raise SmidgenError(f"{wished!r} are no activations; choose from {', '.join(get_args(Activations))}.")
    if not there:
        raise SmidgenError(f"activations are for {' and '.join(_ACTIVATIONS)}; {to} says nothing of them.")
    if wished not in there:
        raise SmidgenError(f"{to} has no activations of {wished}; choose from {', '.join(there)}.")
    return wished


def _write_gguf(
    checkpoint: Checkpoint, output: Path, notices: Mapping[Path, Path], write: Callable[[Checkpoint, Path], None]
) -> None:
    """The file, and licence and notice files beside it.

    notices: copy → original. In a folder with other models the names of copies say whose they are.
    """
    if output.exists() and output.resolve() == checkpoint.path.resolve():
        raise SmidgenError(f"{printable(output)} is the model itself. Choose another file with -o.")
    if isinstance(checkpoint.file, GGUFFile):
        refuse_damaged(checkpoint.file)  # what llama.cpp cannot run would be copied as it is
    refuse_unwritable(output)
    _refuse_others(output, notices)
    write(checkpoint, output)
    if llama_cpp_splits_otherwise(checkpoint.tokenizer_metadata):
        say(
            "llama.cpp has only an approximation of how this tokenizer splits text, and cuts some words otherwise (at "
            "combining marks and capitals that are not English). smidgen goes by what its makers published."
        )
    for copy, notice in notices.items():
        shutil.copyfile(notice, copy)


def _refuse_others(output: Path, notices: Mapping[Path, Path]) -> None:
    """Raises SmidgenError where a file that smidgen did not write would be replaced.

    A GGUF file of ours says so in its metadata; a licence is replaced by the same text alone.
    notices: copy → original.
    """
    others = [copy for copy, notice in notices.items() if _is_there(copy) and not _same_text(copy, notice)]
    if _is_there(output) and not _is_ours(output):
        others.insert(0, output)
    if others:
        raise SmidgenError(
            f"{printable(others[0])} is there, and smidgen did not write it: it would be replaced. Move it, or choose "
            f"another file with -o."
        )


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _is_same(output: Path, model: Path) -> bool:
    """Whether a file is the model already, by another name or as a copy."""
    if not (output.is_file() and model.is_file()):
        return False
    return output.samefile(model) or cmp(output, model, shallow=False)


def _same_text(copy: Path, notice: Path) -> bool:
    return copy.is_file() and not copy.is_symlink() and cmp(copy, notice, shallow=False)


def _is_ours(path: Path) -> bool:
    """Whether a file is a GGUF file that smidgen wrote."""
    if not path.is_file():
        return False
    try:
        with GGUFFile.open(path) as file:
            return WRITTEN_BY in file.metadata or HISTORY in file.metadata
    except SmidgenError:
        return False
