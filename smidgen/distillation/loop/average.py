"""A running average of what is trained. Batches pull each state to and fro; the mean of many is nearer to the middle.

Averaging of stochastic approximation (Polyak and Juditsky 1992, https://doi.org/10.1137/0330046), here exponential: for
the first `span` steps the plain mean of all states, from then on

    mean ← mean + (state − mean) / span

It is what is evaluated and kept; the training itself goes on from where it is.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Average:
    """Of some tensors. span: steps that it looks back over."""

    def __init__(self, tensors: Mapping[str, Tensor], span: int) -> None:
        self._tensors, self._span = tensors, span
        self._means: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Take in the tensors as they are after a step, the first of which is number 1."""
        share = 1 / min(step, self._span)
        for name, tensor in self._tensors.items():
            if name in self._means:
                self._means[name].lerp_(tensor.float(), share)
            else:
                self._means[name] = tensor.detach().float().clone()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While this is open the tensors have their means, if there are any yet."""
        aside = {name: self._tensors[name].detach().clone() for name in self._means}
        self._put(self._means)
        try:
            yield
        finally:
            self._put(aside)

    @torch.no_grad()
    def take_their_place(self) -> None:
        """From here on the tensors are their means."""
        self._put(self._means)

    def state(self) -> dict[str, Tensor]:
        """The means."""
        return self._means

    def load(self, means: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        self._means = {name: mean.to(self._tensors[name].device) for name, mean in means.items()}

    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._tensors[name].detach().copy_(value)
