"""Whether a GGUF file's head can be the embedding stored twice, as far as some rows tell. Torch-free, so quick.

Two roundings of one matrix differ by less than half of it in any type. A head that was trained apart differs by more,
and then nobody needs to look at cells (`stored_twice`), for which torch has to be loaded. Rows are decoded by PyPI's
`gguf`, which agrees with our decoders bit for bit.
"""

from pathlib import Path

import numpy as np

from smidgen.formats.gguf.reader import GGUFFile, TensorInfo

_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_SAMPLE = 64  # rows
_ROUNDING = 0.5  # ‖e‖² / ‖W‖²: more than the coarsest types lose


def head_may_be_embedding(path: Path) -> bool:
    """False where the head is surely another matrix, or there is none; True where that remains to be seen."""
    with GGUFFile.open(path) as file:
        embedding, head = (file.tensors.get(name) for name in (_EMBEDDING, _HEAD))
        if embedding is None or head is None or embedding.shape != head.shape:
            return False
        rows = np.unique(np.linspace(0, head.shape[0] - 1, _SAMPLE).astype(int))
        pair = [_decoded(file, info, rows) for info in (embedding, head)]
    one, other = pair
    if one is None or other is None:
        return True
    return float(np.square(one - other).sum()) <= _ROUNDING * float(np.square(other).sum())


def _decoded(file: GGUFFile, info: TensorInfo, rows: np.ndarray) -> np.ndarray | None:
    """Some rows of a matrix in float64; None for a type that `gguf` does not decode."""
    from gguf import GGMLQuantizationType, quants

    try:
        kind = GGMLQuantizationType(info.kind.ggml_id)
        return quants.dequantize(file.packed(info.name)[rows], kind).astype(np.float64)
    except (NotImplementedError, ValueError):
        return None
