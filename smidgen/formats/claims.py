"""What a header says of the file that it was read from, and what does not hold of a file that smidgen makes of it.

Whoever quantizes a model leaves a mark: llama.cpp `quantize.imatrix.*`, others `general.quantized_by`, the address of
their repository, or keys of a namespace of their own (`mradermacher.quantized_at`). In a file with other weights, or
in another place, that would be a false claim. Who made the model itself, its licence and its base model stay.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Torch-free.
"""

import re
from collections.abc import Mapping, Sequence

from smidgen.formats.gguf.reader import MetadataValue
from smidgen.formats.gguf.writer import TensorPlan

FILE_TYPE = "general.file_type"
_UINT32 = 4
_BY_A_QUANTIZER = re.compile(r"(.*\.)?quantize(r|d)?([._].*)?")
_OF_THAT_FILE = re.compile(r"general\.(file_type|url|repo_url|doi|uuid)|split\..*|smidgen\.version")
_OURS = "smidgen "

# `general.file_type`, which llama.cpp only shows: the number of its nearest mixture (llama.h, llama_ftype).
_FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15,
    "Q5_K": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32,
}  # fmt: skip


def is_claim(key: str, value: MetadataValue) -> bool:
    """Whether a metadata entry is about the file that it stands in, or about who quantized it; ours is none."""
    if _OF_THAT_FILE.fullmatch(key):
        return True
    return bool(_BY_A_QUANTIZER.fullmatch(key)) and not (isinstance(value, str) and value.startswith(_OURS))


def as_ours(
    metadata: Mapping[str, MetadataValue], types: Mapping[str, tuple[int, ...]], tensors: Sequence[TensorPlan]
) -> tuple[dict[str, MetadataValue], dict[str, tuple[int, ...]]]:
    """A header for a file with these tensors: without another file's claims, and with the file type of its own."""
    kept = {key: value for key, value in metadata.items() if not is_claim(key, value)}
    kept_types = {key: types[key] for key in kept}
    weight: dict[str, int] = {}
    for tensor in tensors:
        weight[tensor.kind.name] = weight.get(tensor.kind.name, 0) + tensor.nbytes
    number = _FILE_TYPES.get(max(weight, key=lambda kind: weight[kind], default=""))
    if number is not None:
        kept[FILE_TYPE], kept_types[FILE_TYPE] = number, (_UINT32,)
    return kept, kept_types
