"""Exported models in LiteRT's interpreter, called as LiteRT-LM calls them; tiny families on the portable lattice."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from smidgen.exporting.litert.names import MODEL
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.portable import as_portable
from smidgen.shapes import Float
from tests.exporting.graph_models import dense
from tests.gguf_forms import tensors_of, with_tensors
from tests.mutated_gguf import Parts

if find_spec("ai_edge_litert") is None:
    pytest.skip("ai-edge-litert is not installed", allow_module_level=True)

from ai_edge_litert.interpreter import Interpreter  # noqa: E402  # pyright: ignore[reportMissingImports]

#: Both types that are kept, among matrices that meet the same input.
MIXED = {
    "attn_q.weight": types.Q4_0, "attn_k.weight": types.Q8_0, "attn_v.weight": types.Q8_0,
    "attn_output.weight": types.Q8_0, "ffn_gate.weight": types.Q8_0, "ffn_up.weight": types.Q4_0,
    "ffn_down.weight": types.Q4_0,
}  # fmt: skip
_SECTION_ALIGNMENT = 2**14
_HIDDEN = -1e9  # about what LiteRT-LM's mask has


def graphs_in(path: Path) -> bytes:
    """The TFLite model in a .litertlm file, its last section."""
    data = path.read_bytes()
    places = range(0, len(data), _SECTION_ALIGNMENT)
    return data[next(place for place in places if data[place + 4 : place + 8] == b"TFL3") :]


class Running:
    """An exported model with what it has seen."""

    def __init__(self, folder: Path) -> None:
        self._content = graphs_in(folder / MODEL)
        self._interpreter = Interpreter(model_content=self._content, num_threads=1)
        self._runners = {name: self._interpreter.get_signature_runner(name) for name in self.signatures}
        self.clear()

    @property
    def signatures(self) -> list[str]:
        return list(self._interpreter.get_signature_list())

    def clear(self) -> None:
        """Forget all."""
        self._seen = 0
        given = self._runners["decode"].get_input_details()
        self._places = int(given["mask"]["shape"][3])
        self._cache = {
            name: np.zeros(one["shape"], np.float32) for name, one in given.items() if name.startswith("kv_cache_")
        }

    def __call__(self, ids: Tensor) -> Tensor:
        """Logits [position, vocab] after each of the next tokens [1, position], read one by one."""
        return torch.from_numpy(np.stack([self._run("decode", [token])["logits"][0, 0] for token in ids[0].tolist()]))

    def prefill(self, ids: Tensor, length: int) -> None:
        """Read tokens [1, position], no more than `length`, at once."""
        self._run(f"prefill_{length}", ids[0].tolist(), length)

    def _run(self, name: str, ids: list[int], length: int = 1) -> dict[str, np.ndarray]:
        """Fills up with tokens 0 at place 0, as LiteRT-LM does."""
        count, padding = len(ids), [0] * (length - len(ids))
        queries = np.arange(self._seen, self._seen + count)
        mask = np.full((1, 1, length, self._places), _HIDDEN, np.float32)
        mask[0, 0, :count][np.arange(self._places) <= queries[:, None]] = 0
        given = {
            "tokens": np.array([[*ids, *padding]], np.int32), "input_pos": np.array([*queries, *padding], np.int32),
            "mask": mask,
        }  # fmt: skip
        found = self._runners[name](**given, **self._cache)
        self._cache = {name: found[name] for name in self._cache}
        self._seen += count
        return found


def write_portable(family: str, folder: Path, kinds: dict[str, BlockType]) -> Path:
    """A tiny model of a family as a GGUF file, the tensors whose names end so in these types, with portable scales."""
    path = folder / f"{family}.gguf"
    path.write_bytes(portable(dense(family, folder), kinds).as_bytes())
    return path


def portable(parts: Parts, kinds: dict[str, BlockType]) -> Parts:
    """The matrices of a float32 file whose names end so, rounded to these types."""
    tensors = []
    for name, (_, shape, kind, raw) in tensors_of(parts).items():
        new = next((kinds[ending] for ending in kinds if name.endswith(ending)), None)
        if new is not None:
            weights = torch.from_numpy(np.frombuffer(raw, "<f4").copy().reshape(-1, 32))
            kind, raw = new.ggml_id, _blocks(weights, new).tobytes()
        tensors.append((name, shape, kind, raw))
    return with_tensors(parts, tensors)


def _blocks(weights: Float[Tensor, "groups 32"], kind: BlockType) -> np.ndarray:
    """Rounded to the nearest code, packed as GGUF has them: of Q4_0 the second half of a group in the upper bits."""
    most = 7 if kind == types.Q4_0 else 127
    scale = as_portable(weights.abs().amax(1, keepdim=True) / most)
    codes = (weights / scale.float()).round().clamp(-most - 1 if kind == types.Q4_0 else -most, most).to(torch.int8)
    packed = codes.view(torch.uint8)
    if kind == types.Q4_0:
        unsigned = (codes + 8).to(torch.uint8)
        packed = unsigned[:, :16] | unsigned[:, 16:] << 4
    return torch.cat([scale.half().view(torch.uint8), packed], dim=1).numpy()
