"""A teacher that reads every row once.

What its head reads at a position, `hidden` numbers of 16 bits, says everything about its distribution there: of a
vocabulary of 262,144 and a hidden width of 640 that is a cache of all probabilities, exact, at 5 bytes for a thousand.
A training that comes back to the same rows, epoch after epoch, then pays for the teacher's blocks only once.
"""

import torch
from torch import Tensor

from smidgen.distillation.teachers.live import LiveTeacher
from smidgen.formats.checkpoint import Checkpoint
from smidgen.shapes import Float, Int

MOST_REMEMBERED = 2**31  # bytes; rows beyond are read again every time


class RememberingTeacher(LiveTeacher):
    """A live teacher that remembers what it made of rows, up to 2 GiB of it. device: as for `LiveTeacher`."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device | None = None) -> None:
        super().__init__(checkpoint, device=device)
        self._known: dict[bytes, Float[Tensor, "position hidden"]] = {}
        self._bytes = 0

    def hidden_states(
        self, ids: Int[Tensor, "rows position"], documents: Int[Tensor, "rows position"] | None = None
    ) -> Float[Tensor, "rows position hidden"]:
        """What the head reads, float32."""
        keys = [
            row.numpy().tobytes() + (b"" if documents is None else documents[place].cpu().numpy().tobytes())
            for place, row in enumerate(ids.cpu())
        ]
        new = [place for place, key in enumerate(keys) if key not in self._known]
        fresh = dict[bytes, Float[Tensor, "position hidden"]]()
        if new:
            read = super().hidden_states(ids[new], None if documents is None else documents[new]).bfloat16()
            fresh = {keys[place]: states for place, states in zip(new, read, strict=True)}
        found = torch.stack([fresh[key] if key in fresh else self._known[key] for key in keys]).float()
        for key, states in fresh.items():
            if self._bytes < MOST_REMEMBERED:
                self._known[key] = states.clone()
                self._bytes += states.nbytes
        return found
