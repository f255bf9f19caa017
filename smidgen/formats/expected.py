"""Are a file's tensors those that its configuration expects? Torch-free."""

from collections.abc import Mapping, Sequence

from smidgen.errors import BadFile, Unsupported
from smidgen.model.parameters import Shape


def compare_shapes(expected: Mapping[str, Shape], found: Mapping[str, Shape], family: str) -> None:
    """A file's tensors are the configuration's: none missing, none more, shapes equal.

    Raises BadFile for missing and wrongly shaped ones, Unsupported for those that the decoder has no use for.
    """
    if missing := [name for name in expected if name not in found]:
        raise BadFile(f"{_some(missing)} missing; get the complete files of this model")
    for name, shape in expected.items():
        if found[name] != shape:
            raise BadFile(f"{name} is {_size(found[name])} but its metadata says {_size(shape)}; the file is damaged")
    if extra := [name for name in found if name not in expected]:
        raise Unsupported(f"{_some(extra)} not used by smidgen's {family} decoder; use a model without it")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name[:60] for name in names[:3])
    return f"tensor {shown} is" if len(names) == 1 else f"tensors {shown}{' …' if len(names) > 3 else ''} are"


def _size(shape: Shape) -> str:
    return "×".join(str(length) for length in shape)
