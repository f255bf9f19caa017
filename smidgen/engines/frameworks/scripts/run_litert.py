"""LiteRT runs the graphs in model.litertlm, called as LiteRT-LM calls them.

LiteRT-LM's own scoring of texts is not asked: 0.18 leaves out the last token of a prompt there.
"""

import os
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
from wire import serve  # pyright: ignore[reportMissingImports]

_SECTION = 2**14  # where parts of the file begin
_GRAPHS = b"TFL3"  # at the fifth byte of graphs
_HIDDEN = -1e9  # about what LiteRT-LM's mask has


def graphs_in(path: Path) -> bytes:
    """The TFLite model in a .litertlm file."""
    with path.open("rb") as file:
        for place in range(0, path.stat().st_size, _SECTION):
            file.seek(place)
            if file.read(8)[4:] == _GRAPHS:
                file.seek(place)
                return file.read()
    raise ValueError(f"{path.name} has no graphs in it")


class LiteRTModel:
    """See `wire.Model`."""

    runtime: tuple[str, ...] = ("ai-edge-litert",)

    def __init__(self, folder: str) -> None:
        threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
        self._interpreter = Interpreter(model_content=graphs_in(Path(folder) / "model.litertlm"), num_threads=threads)
        names = list(self._interpreter.get_signature_list())
        self._runners = {name: self._interpreter.get_signature_runner(name) for name in names}
        self._lengths = sorted((int(name[8:]) for name in names if name.startswith("prefill_")), reverse=True)
        self._inputs = self._runners["decode"].get_input_details()
        self._places = int(self._inputs["mask"]["shape"][3])
        self.context = self._places - max(self._lengths, default=0)
        self.vocabulary = int(self._runners["decode"].get_output_details()["logits"]["shape"][-1])
        self.begin()

    def begin(self) -> None:
        self._seen = 0
        kept = (name for name in self._inputs if name.startswith("kv_cache_"))
        self._cache = {name: np.zeros(self._inputs[name]["shape"], np.float32) for name in kept}

    def read(self, ids: list[int], wanted: int) -> np.ndarray:
        """Graphs that read many tokens give no logits, so they read only what comes before the wanted ones."""
        ahead = len(ids) - wanted
        place = 0
        for length in self._lengths:
            while ahead - place >= length:
                self._run(f"prefill_{length}", ids[place : place + length])
                place += length
        for token in ids[place:ahead]:
            self._run("decode", [token])
        return np.stack([self._run("decode", [token])["logits"][0, 0] for token in ids[ahead:]])

    def _run(self, name: str, ids: list[int]) -> dict[str, np.ndarray]:
        if self._seen + len(ids) > self.context:
            raise ValueError(f"the model reads {self.context} tokens, and the text has more")
        queries = np.arange(self._seen, self._seen + len(ids), dtype=np.int32)
        mask = np.where(np.arange(self._places) <= queries[:, None], 0, _HIDDEN).astype(np.float32)
        found = self._runners[name](
            tokens=np.array([ids], np.int32), input_pos=queries, mask=mask[None, None], **self._cache
        )
        self._cache = {name: found[name] for name in self._cache}
        self._seen += len(ids)
        return found


serve(LiteRTModel)
