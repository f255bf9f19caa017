"""A program in place of a framework's: it computes with our decoder what `original.txt` in the folder names.

What it is to do otherwise stands in the environment: PRETEND=refuse, end, nonsense, narrow or noise.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[2] / "smidgen/engines/frameworks/scripts")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from wire import HEADER, serve  # noqa: E402

from smidgen.engines.torch import TorchEngine  # noqa: E402
from smidgen.formats.opening import open_checkpoint  # noqa: E402

WISH = os.environ.get("PRETEND", "")


class Pretended:
    runtime = ("numpy", "no-such-package")

    def __init__(self, folder: str) -> None:
        print("a library prints this")
        if WISH == "refuse":
            raise ValueError("weights of 3 bits\nand more")
        if WISH == "nonsense":
            os.write(1, HEADER.pack(b"what", 1, 2, 3))
        self._engine = TorchEngine(open_checkpoint((Path(folder) / "original.txt").read_text()))
        config = self._engine.config
        self.vocabulary = config.vocabulary - (WISH == "narrow")
        self._cap = config.logit_cap
        self._ids: list[int] = []

    def begin(self) -> None:
        self._ids = []

    def read(self, ids: list[int], wanted: int) -> np.ndarray:
        if WISH == "end":
            print("Killed by a bug", file=sys.stderr)
            os._exit(9)
        self._ids += ids
        hidden = self._engine.hidden_states(torch.tensor([self._ids]))[0, -wanted:]
        logits = hidden @ self._engine.head_rows(0, self.vocabulary).T
        if self._cap is not None:
            logits = self._cap * torch.tanh(logits / self._cap)
        return (logits + 0.3 * torch.sin(logits * 40) * (WISH == "noise")).numpy()


if WISH == "nonsense":
    os.write(1, b"text before the answer")
serve(Pretended)
