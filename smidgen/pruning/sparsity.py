"""Weight sparsity: single weights of the blocks' matrices set to zero, the shapes left as they are.

The model is thinned matrix by matrix in the order in which data meets them; what decides about each is measured on
inputs that have come through everything that was thinned before (`calibration.sequence`). How a matrix is
thinned is in `pruning.masks`. Embedding, head, norms and routers of experts are left alone.

SparseGPT's H is shrunk half-way to its diagonal: with few tokens it otherwise learns what holds of these alone. Where
it still loses to Wanda on tokens that judge (`calibration.sample`), H is shrunk more; where that loses too, Wanda's
zeros are taken, and nothing is moved.

The zeros are stored like any other weights. They make a model smaller or faster only where something reads them as
zeros: see the README.

Every finished block is on disk before the next begins; resuming repeats exactly the operations that were interrupted,
so the result is the same to the bit.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Literal, get_args

import torch
from torch import Tensor

from smidgen.calibration.moments import linear_of
from smidgen.calibration.sample import DAMPING, SHRINKAGES, Sample
from smidgen.calibration.sequence import Inputs, advance_replacing
from smidgen.calibration.walk import Walk
from smidgen.errors import SmidgenError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Changed, Derived
from smidgen.formats.parts import load_block
from smidgen.formats.workspace import Workspace
from smidgen.model.config import ModelConfig
from smidgen.model.decoder import Block
from smidgen.model.parameters import block_linears, block_shapes
from smidgen.numerics.block_types import F32
from smidgen.numerics.factor import inverse_factor
from smidgen.progress import track
from smidgen.pruning.masks import Pattern, magnitude, sparsegpt, wanda
from smidgen.shapes import Float, Int

Method = Literal["magnitude", "wanda", "sparsegpt"]
METHODS: tuple[Method, ...] = get_args(Method)


def check(config: ModelConfig, pattern: Pattern) -> None:
    """Raises SmidgenError, naming the matrix, where groups of M do not fill the rows."""
    for index, layer in enumerate(config.layers):
        shapes = block_shapes(layer, config.hidden)
        for name in block_linears(layer):
            width = shapes[f"{name}.weight"][1]
            if pattern.group is not None and width % pattern.group:
                raise SmidgenError(
                    f"Sparsity {pattern} needs rows divisible by {pattern.group}; blocks.{index}.{name} has {width} "
                    "columns. Give a share such as 50%, or another pattern."
                )


def sparsify(
    checkpoint: Checkpoint,
    pattern: Pattern,
    method: Method,
    windows: Int[Tensor, "windows position"],
    workspace: Workspace,
) -> Derived:
    """The model with every linear layer of its blocks thinned.

    windows: the calibration text; not looked at by "magnitude".  workspace: keeps each block once it is done.
    Memory: one block (float32), the hidden states of all windows and what enters the last matrix of the block for all
    of them, one second moment, its factor and as much again while it is made.
    Raises SmidgenError where the pattern does not fit a matrix.
    """
    check(checkpoint.config, pattern)
    names = {
        f"blocks.{index}.{name}.weight": f"block-{index}"
        for index, layer in enumerate(checkpoint.config.layers)
        for name in block_linears(layer)
    }
    if method == "magnitude":
        parts = {name: Changed(partial(_by_size, checkpoint, name, pattern)) for name in names}
    else:
        _thin_blocks(checkpoint, pattern, method, windows, workspace)
        parts = {name: Changed(partial(_finished, workspace, part, name)) for name, part in names.items()}
    return Derived(checkpoint.config, parts)


def _by_size(checkpoint: Checkpoint, name: str, pattern: Pattern) -> Float[Tensor, "out in"]:
    return magnitude(checkpoint.tensor(name), pattern)


def _finished(workspace: Workspace, part: str, name: str) -> Float[Tensor, "out in"]:
    return workspace.load_tensor(part, name).float()


def _thin_blocks(
    checkpoint: Checkpoint,
    pattern: Pattern,
    method: Method,
    windows: Int[Tensor, "windows position"],
    workspace: Workspace,
) -> None:
    """Leave every block's matrices in `workspace`."""
    layers = len(checkpoint.config.layers)
    stored = torch.float32 if checkpoint.kind("embedding.weight") is F32 else torch.float16  # as `write_derived` does
    with track(f"Thinning weights to {pattern}", layers) as task:
        done, states = workspace.load_states()
        walk = Walk(checkpoint, windows)
        if states:
            walk.take_up(states)
        task.skip(done)
        for index in range(done, layers):
            block = load_block(checkpoint, index)
            checkpoint.release()
            thinner = _Thinner(block, pattern, method, torch.ones(windows.numel()), stored)
            advance_replacing(block, walk.states, walk.besides(index), thinner.replace)
            thinned = {f"blocks.{index}.{name}.weight": weight for name, weight in thinner.done.items()}
            workspace.save_tensors(f"block-{index}", thinned)
            workspace.save_states(index + 1, walk.kept())
            task.advance()


class _Thinner:
    """Thins a block's matrices as the data comes to them.

    done: name within the block → the matrix as it will be stored.
    """

    def __init__(
        self,
        block: Block,
        pattern: Pattern,
        method: Method,
        token_weights: Float[Tensor, " tokens"],
        stored: torch.dtype,
    ) -> None:
        self._block, self._pattern, self._method = block, pattern, method
        self._token_weights, self._stored = token_weights, stored
        self.done: dict[str, Tensor] = {}

    def replace(self, names: tuple[str, ...], inputs: Inputs) -> None:
        """Thin layers that read the same inputs. Experts that hardly a token chose are thinned by magnitude."""
        weights = {name: linear_of(self._block, name).weight.detach() for name in names}
        thinned = self._thinned(weights, inputs) if inputs.ample else self._by_size(weights)
        for name, weight in thinned.items():
            self.done[name] = weight.to(self._stored)
            weights[name].copy_(self.done[name])

    def _by_size(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: magnitude(weight, self._pattern) for name, weight in weights.items()}

    def _thinned(self, weights: Mapping[str, Tensor], inputs: Inputs) -> dict[str, Tensor]:
        if self._method == "wanda":
            energy = inputs.energy(self._token_weights)
            return {name: wanda(weight, energy, self._pattern) for name, weight in weights.items()}
        sample, energy = inputs.sample(self._token_weights), inputs.energy(self._token_weights)
        factor = lru_cache(maxsize=1)(partial(inverse_factor, sample.moment, DAMPING))
        return {name: self._compensated(weight, sample, energy, factor) for name, weight in weights.items()}

    def _compensated(
        self, weight: Tensor, sample: Sample, energy: Tensor, factor: Callable[[float], Tensor]
    ) -> Float[Tensor, "out in"]:
        """By SparseGPT; by Wanda where compensation loses on the tokens that judge, or none do.

        factor: that of H⁻¹ for a shrinkage.
        """
        plain = wanda(weight, energy, self._pattern)
        for shrinkage in SHRINKAGES if sample.can_judge else ():
            thinned = sparsegpt(weight, factor(shrinkage), self._pattern)
            if _lost(thinned, weight, sample) < _lost(plain, weight, sample):
                return thinned
        return plain


def _lost(thinned: Float[Tensor, "out in"], weight: Float[Tensor, "out in"], sample: Sample) -> float:
    """E[‖ΔW x‖²] of a thinned matrix on the tokens that judge."""
    return float(sample.damage(thinned - weight).double().sum())
