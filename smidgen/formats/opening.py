"""Which kind of files a model is, found out in one place: a GGUF file or a folder in Hugging Face layout.

What is opened does not know its siblings. Torch-free: torch is loaded when a checkpoint is opened, to decode weights.
"""

import os
from typing import TYPE_CHECKING

from smidgen.errors import Unsupported, printable
from smidgen.formats.exported import runtime_of
from smidgen.formats.gguf.contents import describe
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.hf.contents import describe_folder
from smidgen.formats.hf.folder import HFFolder, is_hf_folder
from smidgen.formats.hub.catalogue import ModelName, origin_of
from smidgen.model.config import ModelConfig

if TYPE_CHECKING:
    from smidgen.formats.checkpoint import Checkpoint


def open_model(model: ModelName) -> "Checkpoint":
    """Opens a catalogue name, a .gguf file, a folder (Hugging Face layout, or of a cut) or a hub's repository.

    Raises SmidgenError where there is no such model, else as `open_checkpoint`.
    """
    origin = origin_of(model)
    checkpoint = open_checkpoint(origin.path)
    checkpoint.origin = origin
    return checkpoint


def open_checkpoint(path: str | os.PathLike[str]) -> "Checkpoint":
    """Maps a GGUF file, or a folder in Hugging Face layout, and checks every tensor's presence and shape.

    A context manager. Raises BadFile for damaged files or missing or wrongly shaped tensors, Unsupported for an unknown
    architecture, features the decoder lacks, tensors it has no use for, and folders that another framework runs.
    """
    _refuse_exported(path)
    if is_hf_folder(path):
        from smidgen.formats.hf.checkpoint import FolderCheckpoint

        return FolderCheckpoint.open(path)
    from smidgen.formats.gguf.checkpoint import GGUFCheckpoint

    return GGUFCheckpoint.open(path)


def read_config(path: str | os.PathLike[str]) -> ModelConfig:
    """The configuration of a model, from its headers and settings alone. Refuses what `open_checkpoint` refuses."""
    _refuse_exported(path)
    if is_hf_folder(path):
        with HFFolder.open(path) as folder:
            return describe_folder(folder).config
    with GGUFFile.open(path) as file:
        return describe(file)[1]


def _refuse_exported(path: str | os.PathLike[str]) -> None:
    """Raises Unsupported for a folder that our decoder cannot read. (What compressed-tensors packed says so itself.)"""
    runtime = runtime_of(path)
    if runtime in ("mlx", "onnx", "openvino"):
        raise Unsupported(
            f"{printable(path)} was written for another program ({runtime}), which alone runs it: smidgen measure "
            "ORIGINAL FOLDER measures it. For anything else take the model that it was made of."
        )
