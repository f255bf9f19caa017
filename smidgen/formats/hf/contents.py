"""Is a folder in Hugging Face layout, which is sound as a folder, sound as a model too? Torch-free.

The counterpart of `formats.gguf.contents` for GGUF files: judged by config.json and the tensors' names and shapes
alone.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from smidgen.errors import BadFile, SmidgenError, Unsupported, printable
from smidgen.formats.expected import compare_shapes
from smidgen.formats.hf.folder import HFFolder
from smidgen.formats.hf.safetensors_reader import refuse_unread
from smidgen.model.config import ModelConfig
from smidgen.model.families import Family, HFMap, Layout, family_of_config, unread_tensors
from smidgen.progress import say_once

_BLOCK = re.compile(r".*?\.\d+\.")  # the name of a tensor up to the number of its layer, "model.layers.3."
#: Where a model that sees pictures too keeps its language model, old and new spelling; the rest of it is left out.
_TEXT_PREFIXES = ("language_model.model.", "model.language_model.")
_OTHER_PARTS = tuple(
    f"{outer}{part}."
    for outer in ("", "model.")
    for part in (
        "vision_tower",
        "multi_modal_projector",
        "audio_tower",
        "embed_vision",
        "embed_audio",
        "vision_embedder",
    )
)
_COMPARED_BYTES = 2**24
_LOOKED_FOR = 16  # parameters under another prefix: in layers that an adapter changes some have other names altogether
_OF_PEFT = "base_model.model."
#: Tensors that hold nothing but what follows from the configuration: tables of positions, and masks of what a position
#: sees, which savers kept until 2023.
_DERIVED = (
    "rotary_emb.inv_freq", "rotary_emb.original_inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached",
    "attn.bias", "attn.masked_bias", "position_ids",
)  # fmt: skip


@dataclass(frozen=True)
class FolderContents:
    """What model a folder holds.

    written: the map of its model type.  layout: its tensors.  stored: tensor as the map names it → name in the folder.
    notes: what was passed over or read in another way than the files say, a line each.
    """

    family: Family
    written: HFMap
    config: ModelConfig
    layout: Layout
    stored: Mapping[str, str]
    notes: tuple[str, ...] = ()


def describe_folder(folder: HFFolder) -> FolderContents:
    """What model a folder holds, once it is known to hold exactly that model's parameters.

    Raises BadFile for missing or absurd settings and for missing or wrongly shaped tensors, Unsupported for an unknown
    model type, features the decoder lacks, and tensors that belong to a feature which the settings do not name. What is
    passed over is said, once for each model.
    """
    try:
        settings, stored = text_part(folder.config, folder.weights)
        family, written = family_of_config(settings)
        config = family.config_from_hf(settings, written)
        stored = _with_prefix(stored, written.names["embedding.weight"])
        notes = list(folder.notes)
        if config.tied_head and not _settle_tied_head(folder, stored, written):
            config = replace(config, tied_head=False)
            notes.append("the settings tie the head to the embedding, but another head is stored, and used")
        layout = Layout(config, written.names)
        if any(name.startswith(_OTHER_PARTS) for name in folder.weights):
            notes.append("its parts for pictures and sounds are left out, the language model alone is read")
        _refuse_wrapped(stored, layout, written)
        if unread := _take_unread(stored, config, written):
            notes.append(f"{len(unread)} layers read keys and values of earlier ones; their own are passed over")
        if unused := _take_unused(stored, layout, written):
            more = f" (and {len(unused) - 1} more)" if len(unused) > 1 else ""
            notes.append(f"the model has no use for {printable(unused[0], 80)}{more}; passed over")
        compare_shapes(
            layout.shapes, {name: folder.weights[there].shape for name, there in stored.items()}, family.name
        )
        for there in stored.values():
            refuse_unread("its weights", folder.weights[there])
        contents = FolderContents(family, written, config, layout, stored, tuple(notes))
    except SmidgenError as error:
        raise type(error)(f"{printable(folder.path)}: {error}") from error
    for note in contents.notes:
        say_once(f"{printable(folder.path.name)}: {note}.", about=folder.path)
    return contents


def _refuse_wrapped(stored: Mapping[str, str], layout: Layout, written: HFMap) -> None:
    """Raises Unsupported where the layers are there, but under names that begin with what a trainer wrapped the model
    in. transformers finds none of them then, and draws the weights at random."""
    ends = (written.names["embedding.weight"], written.names["head.weight"])
    inner = [name for name in layout.shapes if name not in ends]
    if any(name in stored for name in inner):
        return
    for name in inner[:_LOOKED_FOR]:
        bare = name.split(".", 1)[1]
        there = next((there for there in stored if there.endswith(f".{bare}")), None)
        if there is None:
            continue
        found = there.removesuffix(bare)
        first = "merge the adapter (PEFT's merge_and_unload) and " if found.startswith(_OF_PEFT) else ""
        raise Unsupported(
            f"the names of its tensors begin with {printable(found, 60)!r} instead of {name.removesuffix(bare)!r}: "
            f"the model was saved inside a wrapper; {first}save the model alone, or rename its tensors"
        )


def _take_unread(stored: dict[str, str], config: ModelConfig, written: HFMap) -> list[int]:
    """Takes the matrices and norms of keys and values out of `stored` in layers that read those of earlier ones:
    published files have them, and nothing reads them. Returns which layers had some.
    """
    unread = unread_tensors(config, written.names)
    return [layer for layer, names in unread.items() if any([stored.pop(name, None) for name in names])]


def _take_unused(stored: dict[str, str], layout: Layout, written: HFMap) -> list[str]:
    """Takes the tensors out of `stored` for which the model has no place at all, as transformers does: heads for
    other tasks, layers beyond the last one, predictors of later tokens.

    What belongs to a layer or module in use stays, and is refused: a bias, a norm or an adapter there would change what
    the model computes, so that these settings are not the whole truth about these weights.
    """
    modules = {name.rpartition(".")[0] for name in (*layout.shapes, written.names["head.weight"])}
    blocks = {match[0] for name in layout.shapes if (match := _BLOCK.match(name))}
    unused = []
    for name in [name for name in stored if name not in layout.shapes]:
        block = _BLOCK.match(name)
        if name.rpartition(".")[0] not in modules and (block is None or block[0] not in blocks):
            unused.append(stored.pop(name))
    return unused


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
