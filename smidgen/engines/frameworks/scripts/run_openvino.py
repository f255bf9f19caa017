"""OpenVINO runs openvino_model.xml on the CPU, in float32, with keys and values in the types that the file names."""

import sys
from pathlib import Path
from typing import Any

modules: dict[str, Any] = sys.modules
modules["openvino_telemetry"] = None  # else it tells Google Analytics that OpenVINO was imported

import numpy as np  # noqa: E402
import openvino  # noqa: E402  # pyright: ignore[reportMissingImports]
from wire import serve  # noqa: E402  # pyright: ignore[reportMissingImports]


class OpenVinoModel:
    """See `wire.Model`. The graph keeps keys and values itself."""

    runtime: tuple[str, ...] = ("openvino",)

    def __init__(self, folder: str) -> None:
        exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else processors that have bfloat16 multiply in that
        compiled = openvino.Core().compile_model(Path(folder) / "openvino_model.xml", "CPU", exact)
        self._names = {name for one in compiled.inputs for name in one.get_names()}
        self._request = compiled.create_infer_request()
        self.begin()
        self.vocabulary = self.read([0], 1).shape[1]

    def begin(self) -> None:
        self._request.reset_state()
        self._length = 0

    def read(self, ids: list[int], wanted: int) -> np.ndarray:
        whole = self._length + len(ids)
        given = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, whole), np.int64),
            "position_ids": np.arange(self._length, whole, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self._request.infer({name: value for name, value in given.items() if name in self._names})
        self._length = whole
        return np.array(self._request.get_tensor("logits").data[0, -wanted:], np.float32)


serve(OpenVinoModel)
