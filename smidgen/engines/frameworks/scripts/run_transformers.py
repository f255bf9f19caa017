"""transformers runs a folder that compressed-tensors packed, as vLLM loads it. Weights are unpacked to float32."""

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from wire import serve  # pyright: ignore[reportMissingImports]


class TransformersModel:
    """See `wire.Model`."""

    runtime: tuple[str, ...] = ("transformers", "compressed-tensors", "torch")

    def __init__(self, folder: str) -> None:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32, local_files_only=True, trust_remote_code=False,
            use_safetensors=True, attn_implementation="eager",  # the others leave out caps of attention
        )  # fmt: skip
        self._model, found = loaded
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):  # it would make up what is missing
            if keys := sorted(map(str, found[what])):
                raise ValueError(f"its weights do not fit its config.json: {len(keys)} {what}, the first {keys[0]}")
        self._model.eval()
        self.vocabulary = self._model.get_output_embeddings().weight.shape[0]  # pyright: ignore[reportOptionalMemberAccess]
        self.begin()

    def begin(self) -> None:
        self._cache = None

    @torch.inference_mode()
    def read(self, ids: list[int], wanted: int) -> np.ndarray:
        found = self._model(torch.tensor([ids]), past_key_values=self._cache, use_cache=True)
        self._cache = found.past_key_values
        return found.logits[0, -wanted:].float().numpy()


serve(TransformersModel)
