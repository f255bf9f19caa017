"""Where the bytes of a file are, part by part of the model, before and after."""

from collections.abc import Mapping, Sequence
from typing import Protocol

BESIDE = "beside_tensors"
#: Key in card.json → what people call it, in the order in which text passes through; vocabulary and metadata last.
PARTS = {
    "embedding": "Embedding",
    "layer_embedding": "Embeddings of the layers",
    "attention": "Attention",
    "feed_forward": "Feed-forward",
    "experts": "Experts",
    "others": "Norms and others",
    "head": "Head",
    BESIDE: "Vocabulary and header",
}
_ATTENTION = {"query", "key", "value", "output"}
_FEED_FORWARD = {"gate", "up", "down"}


class Tensor(Protocol):
    """What has to be known of a tensor: see `card.TensorFacts`."""

    @property
    def bytes(self) -> int: ...
    @property
    def members(self) -> Sequence[str]: ...
    @property
    def role(self) -> str | None: ...


def part_of(tensor: Tensor) -> str:
    """The part that a tensor belongs to. A tied head has no bytes of its own: it is the embedding."""
    if any(".experts." in member for member in tensor.members):
        return "experts"
    roles = set((tensor.role or "").split("+"))
    if roles & {"embedding", "head"}:
        return "embedding" if "embedding" in roles else "head"
    if "layer_embedding" in roles:
        return "layer_embedding"
    if any(".layer_input." in member for member in tensor.members):
        return "others"
    if roles & _ATTENTION:
        return "attention"
    return "feed_forward" if roles & _FEED_FORWARD else "others"


class File(Protocol):
    """What has to be known of a model's file: see `card.ModelFacts`. bytes: of all of it."""

    @property
    def bytes(self) -> int: ...
    @property
    def tensors(self) -> Sequence[Tensor]: ...


def bytes_by_part(original: File, cut: File) -> dict[str, dict[str, int]]:
    """Part → bytes in the original's file and in the cut's; parts of neither are left out."""
    before, after = _by_part(original), _by_part(cut)
    return {part: {"original": before[part], "cut": after[part]} for part in PARTS if before[part] or after[part]}


def _by_part(file: File) -> dict[str, int]:
    found = dict.fromkeys(PARTS, 0)
    for tensor in file.tensors:
        found[part_of(tensor)] += tensor.bytes
    found[BESIDE] = max(0, file.bytes - sum(found.values()))  # of a folder only the weights are counted
    return found


def rows(parts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, int, int]]:
    """Name, bytes before and after of each part on a card; one that is not known here keeps its key as its name."""
    named = [key for key in PARTS if key in parts] + [key for key in parts if key not in PARTS]
    return [(PARTS.get(key, key), int(parts[key]["original"]), int(parts[key]["cut"])) for key in named]
