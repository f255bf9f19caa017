"""A model that another framework runs, as measuring asks for it: logits, and what follows a prompt."""

from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch import Tensor

from smidgen.closing import Closing
from smidgen.engines.base import Ids, Sizes
from smidgen.engines.frameworks.environment import python_with
from smidgen.engines.frameworks.known import FRAMEWORKS
from smidgen.engines.frameworks.process import FrameworkProcess
from smidgen.errors import BadFile, printable
from smidgen.formats.exported import Exported
from smidgen.shapes import Float

_LOGIT_BYTES = 2**27  # of the positions that come together; the framework's process holds about twice that

_CONTEXT = 4096  # where neither the folder nor its framework says how much it reads


class FrameworkEngine(Closing):
    """Satisfies `engines.base.LogitScorer`. Close it, best with a `with` statement."""

    def __init__(self, process: FrameworkProcess, exported: Exported) -> None:
        if exported.vocabulary not in (None, process.vocabulary):
            raise BadFile(
                f"{printable(exported.path)} says that it has {exported.vocabulary} tokens, but gives "
                f"{process.vocabulary} logits for each position; export it anew."
            )
        self._process = process
        self.config = Sizes(process.vocabulary, exported.context or process.context or _CONTEXT)
        self.at_once = max(1, _LOGIT_BYTES // (4 * process.vocabulary))

    @classmethod
    def open(cls, exported: Exported, threads: int | None = None) -> Self:
        """Start the framework with a folder; an environment for it is made where there is none.

        Raises SmidgenError where that cannot be, or the framework refuses the folder.
        """
        framework = FRAMEWORKS[exported.runtime]
        process = FrameworkProcess(framework, python_with(framework), exported.path, threads)
        try:
            return cls(process, exported)
        except BaseException:
            process.close()
            raise

    @property
    def runtime(self) -> dict[str, str]:
        """The packages that compute it, with their versions."""
        return self._process.runtime

    def logits(self, windows: Sequence[Ids]) -> Iterator[Float[Tensor, "position vocab"]]:
        """See `LogitScorer`. A window is read a piece at a time, with the framework's own cache of what came before."""
        for window in windows:
            for start in range(0, len(window), self.at_once):
                piece = window[start : start + self.at_once]
                yield torch.from_numpy(self._process.read(piece, len(piece), afresh=start == 0))

    def next_logits(self, ids: Ids, *, afresh: bool) -> Float[Tensor, " vocab"]:
        """Of the token after these, of which there are some.  afresh: they begin a text; else they go on with it."""
        *before, last = [ids[start : start + self.at_once] for start in range(0, len(ids), self.at_once)]
        for piece in before:
            self._process.read(piece, 1, afresh=afresh)
            afresh = False
        return torch.from_numpy(self._process.read(last, 1, afresh=afresh))[0]

    def close(self) -> None:
        """End the framework's process."""
        self._process.close()
