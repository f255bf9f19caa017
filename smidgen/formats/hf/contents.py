"""Is a folder in Hugging Face layout, which is sound as a folder, sound as a model too? Torch-free.

The counterpart of `formats.gguf.contents` for GGUF files: judged by config.json and the tensors' names and shapes
alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.formats.expected import compare_shapes
from smidgen.formats.hf.folder import HFFolder
from smidgen.model.config import ModelConfig
from smidgen.model.families import Family, HFMap, Layout, family_of_config

#: Where a model that sees pictures too keeps its language model, old and new spelling; the rest of it is left out.
_TEXT_PREFIXES = ("language_model.model.", "model.language_model.")
_OTHER_PARTS = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
_COMPARED_BYTES = 2**24
#: Tensors that hold nothing but what follows from the configuration.
_DERIVED = ("rotary_emb.inv_freq",)


@dataclass(frozen=True)
class FolderContents:
    """What model a folder holds.

    written: the map of its model type.  layout: its tensors.  stored: tensor as the map names it → name in the folder.
    own_head: the settings tie the head to the embedding, but another matrix is stored for it.
    """

    family: Family
    written: HFMap
    config: ModelConfig
    layout: Layout
    stored: Mapping[str, str]
    own_head: bool = False


def describe_folder(folder: HFFolder) -> FolderContents:
    """What model a folder holds, once it is known to hold exactly that model's parameters.

    Raises BadFile for missing or absurd settings and for missing or wrongly shaped tensors, Unsupported for an unknown
    model type, features the decoder lacks, and tensors it has no use for.
    """
    try:
        settings, stored = text_part(folder.config, folder.weights)
        family, written = family_of_config(settings)
        config = family.config_from_hf(settings, written)
        stored = _with_prefix(stored, written.names["embedding.weight"])
        own_head = config.tied_head and not _settle_tied_head(folder, stored, written)
        if own_head:
            config = replace(config, tied_head=False)
        layout = Layout(config, written.names)
        compare_shapes(
            layout.shapes, {name: folder.weights[there].shape for name, there in stored.items()}, family.name
        )
        return FolderContents(family, written, config, layout, stored, own_head)
    except SmidgenError as error:
        raise type(error)(f"{printable(folder.path)}: {error}") from error


def _with_prefix(stored: dict[str, str], embedding: str) -> dict[str, str]:
    """Tensors by the map's names, also where a model was saved without its head: `layers.0…` for `model.layers.0…`.

    embedding: its name in the map.
    """
    prefix, bare = embedding.split(".", 1)
    if embedding in stored or bare not in stored:
        return stored
    return {name if name.startswith("lm_head.") else f"{prefix}.{name}": there for name, there in stored.items()}


def _settle_tied_head(folder: HFFolder, stored: dict[str, str], written: HFMap) -> bool:
    """Whether the head is the embedding, where the settings say so: not if another matrix is stored for it.

    As transformers has it: a saver may have kept the shared matrix twice, or once under the head's name; a head that
    was trained apart is a head of its own, whatever the settings say. Takes what is the same out of `stored`.
    """
    embedding, head = written.names["embedding.weight"], written.names["head.weight"]
    if head not in stored:
        return True
    if embedding not in stored:
        stored[embedding] = stored.pop(head)
        return True
    if not _are_equal(folder, stored[embedding], stored[head]):
        return False
    del stored[head]
    return True


def _are_equal(folder: HFFolder, one: str, other: str) -> bool:
    """Whether two tensors hold the same bytes; read a part at a time, and no further than the first difference."""
    first, second = folder.weights[one], folder.weights[other]
    if (first.shape, first.kind) != (second.shape, second.kind):
        return False
    left, right = folder.packed(one), folder.packed(other)
    rows = max(1, _COMPARED_BYTES // left.shape[1])
    equal = all(
        (left[start : start + rows] == right[start : start + rows]).all() for start in range(0, len(left), rows)
    )
    folder.release()
    return equal


def text_part(config: Mapping[str, Any], names: Iterable[str]) -> tuple[Mapping[str, Any], dict[str, str]]:
    """The settings and tensors of the language model in a folder: name without the part's prefix → name in the folder.

    Models that see pictures too nest them; what is not the language model is left out.
    """
    names = [name for name in names if not name.endswith(_DERIVED)]
    inner = config.get("text_config")
    if not isinstance(inner, Mapping):
        return config, {name: name for name in names}
    settings = {"model_type": f"{config.get('model_type')}_text", **inner}
    kept: dict[str, str] = {}
    for name in names:
        if name.startswith(_OTHER_PARTS):
            continue
        prefix = next((prefix for prefix in _TEXT_PREFIXES if name.startswith(prefix)), None)
        short = f"model.{name.removeprefix(prefix)}" if prefix else name.removeprefix("language_model.")
        if short in kept:
            raise BadFile(f"{printable(name)} and {printable(kept[short])} are the same tensor; the folder is damaged")
        kept[short] = name
    return settings, kept
