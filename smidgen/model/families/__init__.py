"""Model families: maps only (metadata keys, tensor names, row orders), no maths. One module for each family."""

from smidgen.errors import Unsupported
from smidgen.model.families.family import Family, Transform
from smidgen.model.families.gemma3 import GEMMA3
from smidgen.model.families.llama import LLAMA

__all__ = ["FAMILIES", "Family", "Transform", "family_of_gguf"]

FAMILIES = {family.name: family for family in (GEMMA3, LLAMA)}


def family_of_gguf(architecture: str) -> Family:
    """The family of a GGUF file's `general.architecture`. Raises Unsupported, naming those that exist."""
    for family in FAMILIES.values():
        if family.gguf_architecture == architecture:
            return family
    known = ", ".join(sorted(family.gguf_architecture for family in FAMILIES.values()))
    raise Unsupported(f"architecture {architecture[:40]!r} is not supported; smidgen knows {known}")
