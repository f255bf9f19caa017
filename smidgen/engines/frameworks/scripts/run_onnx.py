"""ONNX Runtime GenAI runs a folder with genai_config.json."""

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai as og  # pyright: ignore[reportMissingImports]
from wire import serve  # pyright: ignore[reportMissingImports]

_LONGEST = 4096  # tokens of a text: keys and values may be kept for as many from the beginning on


class OnnxModel:
    """See `wire.Model`."""

    runtime: tuple[str, ...] = ("onnxruntime-genai", "onnxruntime")

    def __init__(self, folder: str) -> None:
        self._model = og.Model(folder)
        settings = json.loads((Path(folder) / "genai_config.json").read_text(encoding="utf-8"))
        self._longest = min(_LONGEST, settings["model"]["context_length"])
        self.begin()
        self.vocabulary = self.read([0], 1).shape[1]

    def begin(self) -> None:
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(max_length=self._longest)
        self._generator = og.Generator(self._model, parameters)

    def read(self, ids: list[int], wanted: int) -> np.ndarray:
        """What is wanted comes one at a time: graphs for generation, ours too, give the logits of the last place."""
        first = len(ids) - wanted + 1
        return np.stack([self._last(ids[:first]), *(self._last([token]) for token in ids[first:])])

    def _last(self, ids: list[int]) -> np.ndarray:
        self._generator.append_tokens(np.array([ids], np.int32))
        return np.array(self._generator.get_output("logits"), np.float32)[0, -1]


serve(OnnxModel)
