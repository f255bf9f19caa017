"""Models in several GGUF files: `name-00001-of-00003.gguf` and its siblings, as `llama-gguf-split` writes them.

The first part has the metadata; every part says which one it is (`split.no`, from 0), of how many (`split.count`), and
how many tensors all of them have together (`split.tensors.count`).
https://github.com/ggml-org/llama.cpp/blob/master/tools/gguf-split/gguf-split.cpp

llama.cpp finds the other parts by the name of the first, so names must say what headers say. Torch-free.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smidgen.errors import BadFile, printable

_NAMED = re.compile(r"-[0-9]{5}-of-[0-9]{5}\.gguf$")
MAX_PARTS = 1000  # the largest models of today come in fewer than 200
_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"
_TYPES = {_COUNT: ((2,), "16-bit unsigned"), _NUMBER: ((2,), "16-bit unsigned"), _TENSORS: ((5,), "32-bit signed")}
_TOGETHER = "get all parts of one split into one folder"


@dataclass(frozen=True)
class Split:
    """What a part says of itself.  number: from 0.  count: of parts.  tensors: of all parts together."""

    number: int
    count: int
    tensors: int


def split_of(metadata: Mapping[str, object], types: Mapping[str, tuple[int, ...]]) -> Split | None:
    """What a header says of the parts; None for a model in one file. Raises BadFile where it makes no sense."""
    if _COUNT in metadata and types[_COUNT] != _TYPES[_COUNT][0]:
        raise _mistyped(_COUNT)
    count = metadata.get(_COUNT, 0)
    if not isinstance(count, int) or count < 2:  # joined files keep a count of 0
        return None
    if count > MAX_PARTS:
        raise BadFile(f"{_COUNT} is {count}, more parts than any real model has; the file is damaged")
    for key in (_NUMBER, _TENSORS):
        if key not in metadata:
            raise BadFile(f"is a part of a split model, but has no {key}; get the part again")
        if types[key] != _TYPES[key][0]:
            raise _mistyped(key)
    number, tensors = metadata[_NUMBER], metadata[_TENSORS]
    assert isinstance(number, int) and isinstance(tensors, int)
    if number >= count:
        raise BadFile(f"{_NUMBER} is {number}, but there are {count} parts and the first is 0; get the part again")
    return Split(number, count, tensors)


def _mistyped(key: str) -> BadFile:
    return BadFile(f"{key} must be a {_TYPES[key][1]} number; get the part again, or split the model again")


def may_be_part(path: Path) -> bool:
    """Whether a file is named as a part; only its header tells for certain."""
    return bool(_NAMED.search(path.name))


def part_paths(path: Path, split: Split) -> list[Path]:
    """All parts of a split, the first one first, from the name of one of them.

    Raises BadFile where the name does not say what the header says, and for a missing part.
    """
    ending = _ending(split.number, split.count)
    if not path.name.endswith(ending):
        raise BadFile(
            f"is part {split.number + 1} of {split.count}, so its name must end in {ending}, and the other parts must "
            "lie beside it; rename it"
        )
    stem = path.name.removesuffix(ending)
    paths = [path.with_name(stem + _ending(number, split.count)) for number in range(split.count)]
    if missing := [one.name for one in paths if not one.is_file()]:
        named = printable(missing[0], 80) + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        raise BadFile(f"is part {split.number + 1} of {split.count}, but {named} is not beside it; {_TOGETHER}")
    return paths


def refuse_other_split(
    said: Split, paths: Sequence[Path], splits: Sequence[Split | None], tensors: Sequence[Sequence[str]]
) -> None:
    """Raises BadFile unless these parts say that they belong together, and their tensors do.

    said: by one of them.  splits, tensors: what each says of itself, and its tensors' names, in the order of `paths`.
    """
    for number, (path, split) in enumerate(zip(paths, splits, strict=True)):
        if split != Split(number, said.count, said.tensors):
            found = "a whole model" if split is None else _in_words(split)
            wanted = _in_words(Split(number, said.count, said.tensors))
            raise BadFile(f"{printable(path.name, 80)} should be {wanted}, but is {found}; {_TOGETHER}")
    names = Counter(name for part in tensors for name in part)
    if twice := [name for name, times in names.items() if times > 1]:
        raise BadFile(f"tensor {printable(twice[0])} is in two of its parts; {_TOGETHER}")
    if len(names) != said.tensors:
        raise BadFile(f"its parts have {len(names)} tensors, but should have {said.tensors}; {_TOGETHER}")


def _in_words(split: Split) -> str:
    return f"part {split.number + 1} of {split.count} with {split.tensors} tensors in all"


def _ending(number: int, count: int) -> str:
    return f"-{number + 1:05d}-of-{count:05d}.gguf"
