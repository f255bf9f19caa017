"""Scales and codes of rows that are encoded, fitted once more now that all of them are known.

Compensation (`quantization.compensate`) settles group after group, each before it can know what comes behind it. Here
everything is known, and each part is asked in turn whether another stored value would make the loss of its row smaller,

    loss = E H Eᵀ,   E = w − ŵ,   and its slope along a change D of ŵ:  −2 R Dᵀ with R = E H

- the scale (and shift) of a group, its codes held: with levels x of the group, the best change is R xᵀ / x H xᵀ, with a
  shift a system of two. This is stage 2 of Kim et al., "Two-Stage Grid Optimization for Group-wise Quantization of
  LLMs", 2026 (arXiv:2602.02126, coordinate descent over groups). Where we differ: each solution is set to what the
  block can store before the next is found, so the next makes up for that, too; and float16 units of blocks of 256 are
  solved for with the groups' integers held;
- the code of each weight, its scale held: the best change is Rᵢ / Hᵢᵢ, and the nearest level is taken. Coordinate
  descent over codes from a compensated start is in Nair & Suggala, "CDQuant", 2024 (arXiv:2406.17542); where we differ:
  columns in order, all rows at once, and in places (`numerics.grid`): what column i moves takes the place that column j
  should have with it, by Hᵢⱼ / Hⱼⱼ.

A part moves only where the loss falls, so that each sweep makes it smaller; a row of which rounding says otherwise in
the end stays as it was. H is shrunk and damped as in `numerics.factor.inverse_factor`: without that, what is won here
would be learned by heart.

Cost: a sweep takes rows · columns² multiply-adds in matrix products, and about what compensation with one candidate
takes inside groups. Memory: of some rows the levels and R, float32.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from torch import Tensor

from smidgen.numerics.block_types import BlockType
from smidgen.numerics.cores import on_all_cores
from smidgen.numerics.grid import as_float16, inverse_scale
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.lattice import Lattice
from smidgen.numerics.products import product
from smidgen.numerics.super_grids import OffsetSuperGrid, SignedSuperGrid
from smidgen.quantization.in_order import Pushes, octets
from smidgen.shapes import Float, UInt8

_SWEEPS = 2  # a third one wins half a percent more (LOG.md)
_CHUNK = 256  # columns whose changes reach the others by one product; a multiple of every block
# Rows by one core, at most and at least: so many that each operation is worth its call. Fewer make two parts.
_ROWS, _FEWEST = 2048, 512
_SINGULAR = 1e-6  # determinant over the product of the diagonal


def refit(
    rows: Float[Tensor, "rows in"],
    packed: UInt8[Tensor, "rows bytes"],
    kind: BlockType,
    moment: Float[Tensor, "in in"],
    *,
    damping: float,
    shrinkage: float,
) -> UInt8[Tensor, "rows bytes"]:
    """The same rows with scales and codes that lose less under H; `packed` itself for types that are no `Grid`.

    rows: what they should be; with feedback across rows, what this made of it (`quantization.two_sided`).
    moment, damping, shrinkage: as in `numerics.factor.inverse_factor`.
    """
    if kind not in GRIDS:
        return packed
    metric = _Metric(moment, damping, shrinkage)
    part = min(_ROWS, max(_FEWEST, math.ceil(len(rows) / 2)))
    parts = zip(rows.split(part), packed.split(part), strict=True)
    return torch.cat(on_all_cores(lambda part: _refit_some(*part, kind, metric), list(parts)))


class _Metric:
    """H with its off-diagonal made smaller and λ added, without a copy of it."""

    def __init__(self, moment: Float[Tensor, "in in"], damping: float, shrinkage: float) -> None:
        diagonal = moment.diagonal()
        self._moment, self._share = moment, 1 - shrinkage
        self._added = shrinkage * diagonal + damping * diagonal.mean().clamp_min(1e-30)
        self._pushes: dict[int, tuple[Pushes, Tensor]] = {}  # by the first column

    def times(self, error: Float[Tensor, "rows in"]) -> Float[Tensor, "rows in"]:
        """E H."""
        return product(error, self._moment).mul_(self._share).addcmul_(error, self._added)

    def corner(self, columns: slice) -> Float[Tensor, "chunk chunk"]:
        """H of some columns."""
        corner = self._share * self._moment[columns, columns]
        corner.diagonal().add_(self._added[columns])
        return corner

    def pushes(self, columns: slice) -> "tuple[Pushes, Float[Tensor, 'group 1']]":
        """What is moved in one column of a group takes those behind it, and the diagonal of H there."""
        if columns.start not in self._pushes:
            H = self.corner(columns)
            own = H.diagonal().clone()
            self._pushes[columns.start] = Pushes.of(H / own), own[:, None]
        return self._pushes[columns.start]

    def push(self, change: Float[Tensor, "chunk rows"], columns: slice, R: Float[Tensor, "in rows"]) -> None:
        """What a change of some columns does to R of all others."""
        for others in (slice(0, columns.start), slice(columns.stop, len(R))):
            if others.start < others.stop:
                R[others].sub_(product(self._moment[others, columns], change.T).mul_(self._share))


def _refit_some(
    rows: Float[Tensor, "rows in"], packed: UInt8[Tensor, "rows bytes"], kind: BlockType, metric: _Metric
) -> UInt8[Tensor, "rows bytes"]:
    before = Lattice.of(packed, kind)
    error = rows - before.weights()
    R = metric.times(error)
    loss = (error * R).sum(1)
    descent = _Descent(before, R.T.contiguous(), metric)
    for _ in range(_SWEEPS):
        descent.sweep()
    after = descent.lattice()
    error = rows - after.weights()
    better = (error * metric.times(error)).sum(1) < loss
    return torch.where(better[:, None], after.pack(), packed)


@dataclass
class _Unit:
    """A float16 number that each row stores.  rounded: to the nearest that can be stored."""

    stored: Float[Tensor, " rows"]
    rounded: Callable[[Tensor], Tensor]

    def value(self) -> Float[Tensor, " rows"]:
        """As it is."""
        return self.stored.clone()

    def nearest(self, value: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """The nearest that can be stored."""
        return self.rounded(value).float()

    def put(self, value: Float[Tensor, " rows"]) -> None:
        """Store what can be stored."""
        self.stored.copy_(self.nearest(value))


@dataclass
class _Factor:
    """A small integer that each row stores, times a unit that stays. least, most: of the integer."""

    unit: Float[Tensor, " rows"]
    stored: Float[Tensor, " rows"]
    least: int
    most: int

    def value(self) -> Float[Tensor, " rows"]:
        """As it is."""
        return self.unit * self.stored

    def nearest(self, value: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """The nearest that can be stored."""
        return self.unit * self._integer(value)

    def put(self, value: Float[Tensor, " rows"]) -> None:
        """Store what can be stored."""
        self.stored.copy_(self._integer(value))

    def _integer(self, value: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        return (value * inverse_scale(self.unit)).round_().clamp_(self.least, self.most)


@dataclass
class _Stored:
    """Scales, or shifts, of all groups of some rows: unit · factor.

    unit: of blocks, what float16 holds, shifts with their sign.  factors: of groups; None where a group is a block.
    least, most: of a factor.  rounded: units to the nearest that can be stored.
    """

    unit: Float[Tensor, "blocks rows"]
    factors: Float[Tensor, "groups rows"] | None
    least: int
    most: int
    rounded: Callable[[Tensor], Tensor]

    @classmethod
    def of(
        cls, unit: Tensor, factors: Tensor | None, kind: BlockType, rounded: Callable[[Tensor], Tensor]
    ) -> "_Stored":
        """unit, factors: of a `Lattice`."""
        grid, least, most = GRIDS[kind], 0, 0
        if isinstance(grid, SignedSuperGrid):
            least, most = grid.least, -grid.least - 1
        elif isinstance(grid, OffsetSuperGrid):
            most = grid.most
        by_group = None if factors is None else factors.T.float().contiguous()
        return cls(unit.T.float().contiguous(), by_group, least, most, rounded)

    def unit_of(self, block: int) -> _Unit:
        """What one block has of its own."""
        return _Unit(self.unit[block], self.rounded)

    def pick(self, group: int) -> _Unit | _Factor:
        """What one group has of its own."""
        if self.factors is None:
            return self.unit_of(group)
        unit = self.unit[group * len(self.unit) // len(self.factors)]
        return _Factor(unit, self.factors[group], self.least, self.most)

    def factors_of(self, block: int, group: int) -> Float[Tensor, "cols rows"]:
        """Those of a block's groups, of so many columns each, at every column."""
        assert self.factors is not None
        each = len(self.factors) // len(self.unit)
        return self.factors[block * each : (block + 1) * each].repeat_interleave(group, 0)

    def back(self, unit: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As the lattice had them; unit, factors: those, for their types."""
        stored = None if self.factors is None or factors is None else self.factors.T.to(factors.dtype)
        return self.unit.T.to(unit.dtype), stored


def _fit(
    scale: _Unit | _Factor,
    x: Float[Tensor, "cols rows"],
    shift: _Unit | _Factor | None,
    z: Float[Tensor, "cols rows"] | None,
    H: Float[Tensor, "cols cols"],
    R: Float[Tensor, "cols rows"],
) -> Float[Tensor, "cols rows"]:
    """Store what loses least where ŵ is scale · x + shift · z, of rows where it loses less than what is there.

    Returns what that changes.
    """
    Hx, now = H @ x, scale.value()
    xx, xR = (x * Hx).sum(0), (x * R).sum(0)
    alone = torch.where(xx > 0, xR / xx, 0)
    if shift is None or z is None:
        step = scale.nearest(now + alone) - now
        step = torch.where(step * (2 * xR - step * xx) > 0, step, 0)
        scale.put(now + step)
        return x * step
    xz, zz, zR, then = (z * Hx).sum(0), (z * (H @ z)).sum(0), (z * R).sum(0), shift.value()
    determinant = xx * zz - xz * xz
    together = torch.where(determinant > _SINGULAR * xx * zz, (xR * zz - zR * xz) / determinant, alone)
    best, first, second = (torch.zeros_like(now) for _ in range(3))
    for start in (together, 0):  # both, or the shift alone
        step = scale.nearest(now + start) - now
        rest = torch.where(zz > 0, (zR - xz * step) / zz, 0)
        other = shift.nearest(then + rest) - then
        gain = step * (2 * xR - step * xx - 2 * other * xz) + other * (2 * zR - other * zz)
        better = gain > best
        best, first = torch.where(better, gain, best), torch.where(better, step, first)
        second = torch.where(better, other, second)
    scale.put(now + first)
    shift.put(then + second)
    return x * first + z * second


class _Descent:
    """Stored values of some rows on their way down; R = E H goes with them."""

    def __init__(self, lattice: Lattice, R: Float[Tensor, "in rows"], metric: _Metric) -> None:
        self._before, self._R, self._metric = lattice, R, metric
        self._kind, self._grid = lattice.kind, GRIDS[lattice.kind]
        self._levels = lattice.levels().T.contiguous()
        self._space = _Space(self._grid.group, self._levels.shape[1])
        self._scale = _Stored.of(lattice.unit, lattice.factors, self._kind, self._grid.as_stored)
        shift = lattice.shift_unit
        self._shift = None
        if shift is not None:
            self._shift = _Stored.of(shift * lattice.sign, lattice.shift_factors, self._kind, as_float16)

    def lattice(self) -> Lattice:
        """The rows as they are now."""
        before, codes = self._before, self._grid.codes(self._levels.T.contiguous())
        unit, factors = self._scale.back(before.unit, before.factors)
        if self._shift is None or before.shift_unit is None:
            return replace(before, codes=codes, unit=unit, factors=factors)
        shift, of_shift = self._shift.back(before.shift_unit, before.shift_factors)
        shift *= before.sign
        return replace(before, codes=codes, unit=unit, factors=factors, shift_unit=shift, shift_factors=of_shift)

    def sweep(self) -> None:
        """Ask every unit, group and code once."""
        for start in range(0, len(self._levels), _CHUNK):
            columns = slice(start, min(start + _CHUNK, len(self._levels)))
            H, R = self._metric.corner(columns), self._R[columns]
            changed = torch.zeros_like(R)
            for run, fit in self._runs(columns):
                here = slice(run.start - start, run.stop - start)
                changes = fit(run, H[here, here], R[here].clone())
                changed[here] += changes
                R.addmm_(H[:, here], changes, alpha=-1)
            self._metric.push(changed, columns, self._R)

    def _runs(self, columns: slice) -> Iterator[tuple[slice, Callable[[slice, Tensor, Tensor], Tensor]]]:
        """Runs of columns, and what is fitted there."""
        size, group = self._kind.block, self._grid.group
        for block in range(columns.start, columns.stop, size):
            if self._scale.factors is not None:
                yield slice(block, block + size), self._fit_units
            for start in range(block, block + size, group):
                yield slice(start, start + group), self._fit_group

    def _fit_units(self, block: slice, H: Tensor, R: Float[Tensor, "block rows"]) -> Float[Tensor, "block rows"]:
        """The float16 numbers of one block, its integers and codes held."""
        group, number = self._grid.group, block.start // self._kind.block
        x, unit = self._levels[block] * self._scale.factors_of(number, group), self._scale.unit_of(number)
        if self._shift is None:
            return _fit(unit, x, None, None, H, R)
        return _fit(unit, x, self._shift.unit_of(number), self._shift.factors_of(number, group), H, R)

    def _fit_group(self, columns: slice, H: Tensor, R: Float[Tensor, "group rows"]) -> Float[Tensor, "group rows"]:
        """Scale and shift of one group, its codes held; then its codes."""
        number, levels = columns.start // self._grid.group, self._levels[columns]
        shift = None if self._shift is None else self._shift.pick(number)
        scale = self._scale.pick(number)
        changes = _fit(scale, levels, shift, None if shift is None else torch.ones_like(levels), H, R)
        R.addmm_(H, changes, alpha=-1)
        return changes.add_(self._fit_codes(levels, scale.value()[None], R, *self._metric.pushes(columns)))

    def _fit_codes(
        self,
        levels: Float[Tensor, "group rows"],
        scale: Float[Tensor, "1 rows"],
        R: Float[Tensor, "group rows"],
        pushes: Pushes,
        own: Float[Tensor, "group 1"],
    ) -> Float[Tensor, "group rows"]:
        """The codes of one group, one column after the other. `levels` become the new ones."""
        grid, space, before = self._grid, self._space, self._grid.places_of(levels)
        # Where the scale is 0 the steps are, too, and nothing moves: no code makes a difference there.
        # R over its H first: that is as large as a weight, while a step over a small H may be beyond float32.
        torch.addcmul(before, R / own, grid.steps(scale), out=space.wanted)
        for number, columns in enumerate(space.columns):
            then = before[space.octets[number]].unbind()
            for (wanted, place, moved), was, behind, push in zip_longest(
                columns, then, space.behind[number], pushes.near[number]
            ):
                torch.sub(grid.round_(wanted, place), was, out=moved)
                if push is not None:
                    behind.addcmul_(moved, push[:, 0], value=-1)
            if number < len(pushes.far):
                octet = space.octets[number]
                space.wanted[octet.stop :].addmm_(pushes.far[number], space.moved[octet], alpha=-1)
        changes = space.moved * (scale / grid.spacing)
        levels.copy_(grid.level_of_(space.places))
        return changes


class _Space:
    """What the groups of some rows are fitted in, one after the other; all [group, rows].

    wanted: the place that would be best for each weight, were there one.  places: those nearest to these.  moved: how
    far they are from where the weights were.
    columns: of each octet of columns, each with its wanted place, its place and its move.  behind: what is wanted
    behind each of them in its octet.
    """

    def __init__(self, group: int, rows: int) -> None:
        self.wanted, self.places, self.moved = (torch.empty(group, rows) for _ in range(3))
        self.octets = octets(group)
        each = list(zip(self.wanted.unbind(), self.places.unbind(), self.moved.unbind(), strict=True))
        self.columns = [each[octet] for octet in self.octets]
        self.behind = [
            [self.wanted[i + 1 : octet.stop] for i in range(octet.start, octet.stop - 1)] for octet in self.octets
        ]
