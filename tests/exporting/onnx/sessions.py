"""Exported models in plain ONNX Runtime, and tiny families in the types that it holds."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from smidgen.exporting.onnx.names import MODEL
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.convert import write_as_gguf
from smidgen.formats.opening import open_checkpoint
from smidgen.model.config import ModelConfig
from smidgen.model.decoder import Decoder
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from tests.family_models import save_folder
from tests.gguf_forms import of_types
from tests.mutated_gguf import take_apart

#: Every type that is kept, among layers that meet the same input and among those that do not.
MIXED = {
    "attn_q.weight": types.Q4_0, "attn_k.weight": types.Q4_1, "attn_v.weight": types.Q8_0,
    "attn_output.weight": types.Q4_1, "ffn_gate.weight": types.Q8_0, "ffn_up.weight": types.Q4_1,
    "ffn_down.weight": types.Q4_0,
}  # fmt: skip


def open_session(model: str | Path | bytes) -> onnxruntime.InferenceSession:
    """On one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model, options)


class Running:
    """An exported model with what it has seen.

    capacity: positions of a cache that is made once and written in place, as onnxruntime-genai does; None for one that
    grows.
    """

    def __init__(self, folder: Path, config: ModelConfig, batch: int = 1, capacity: int | None = None) -> None:
        self._session, self._config, self._batch = open_session(folder / MODEL), config, batch
        self._capacity = capacity
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._seen = 0
        self._cache = {
            f"{layer}.{part}": np.zeros((self._batch, at.kv_heads, self._capacity or 0, at.head_dim), np.float32)
            for layer, at in enumerate(self._config.layers)
            for part in ("key", "value")
        }

    def __call__(self, ids: Tensor, lengths: list[int] | None = None) -> Tensor:
        """Logits [batch, vocab] after the next tokens. lengths: of rows that are padded on the right."""
        start, self._seen = self._seen, self._seen + ids.shape[1]
        mask = np.ones((self._batch, self._seen), np.int64)
        for row, length in enumerate(lengths or []):
            mask[row, length:] = 0
        given = {
            "input_ids": ids.numpy(), "attention_mask": mask,
            "position_ids": np.tile(np.arange(start, self._seen), (self._batch, 1)),
        }  # fmt: skip
        given |= {f"past_key_values.{name}": numbers for name, numbers in self._cache.items()}
        names = [output.name for output in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(None, given), strict=True))
        self._cache = {name: found[f"present.{name}"] for name in self._cache}
        assert found["logits"].shape == (self._batch, 1, self._config.vocabulary)
        return torch.from_numpy(found["logits"][:, 0])


def decoder_of(checkpoint: Checkpoint) -> Decoder:
    """Our own, on the same weights."""
    decoder = Decoder(checkpoint.config)
    decoder.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()})
    return decoder


def write_quantized(family: str, folder: Path, kinds: dict[str, BlockType]) -> Path:
    """A tiny model of a family as a GGUF file, the tensors whose names end so in these types."""
    (folder / "plain").mkdir()
    save_folder(family, folder / "plain")
    with open_checkpoint(folder / "plain") as checkpoint:
        write_as_gguf(checkpoint, folder / "plain.gguf")
    path = folder / f"{family}.gguf"
    path.write_bytes(of_types(take_apart(folder / "plain.gguf"), kinds).as_bytes())
    return path
