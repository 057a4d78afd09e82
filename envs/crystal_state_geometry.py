"""What a state of `CrystalSpace` says about distances: the room that is left for a coordinate, and the least volume."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from envs.composition import CompositionSpace
from envs.crystal_batch import position_tables
from envs.crystal_geometry import (
    Candidates,
    PlacedAtoms,
    cell_volumes,
    clearances,
    is_judged,
    least_volumes,
    limits_of_pairs,
    pair_limits,
    place_atoms,
)
from envs.crystal_grid import N_COORDINATES, VOLUME_RATIOS, axis_values, coordinates, volumes_of_elements
from envs.crystal_state import CrystalColumns
from envs.formula import CompositionBatch
from envs.lattice_shapes import shape_lattices
from envs.wyckoff import CRYSTAL_SYSTEMS

APART = 1.0001
"""Factor on the least volume, so that rounding in single precision never brings a pair of atoms below its limit."""
UNCONSTRAINED = 10.0
"""Clearance where a coordinate alone settles no atom."""
_SYSTEM_ENDS = torch.tensor([last for last, _ in CRYSTAL_SYSTEMS])
_TRIGONAL, _HEXAGONAL = 4, 5
_Answer = TypeVar("_Answer")


def crystal_system(group: Tensor) -> Tensor:
    """Return the crystal system of space groups 1-230, long: 0 triclinic ... 6 cubic."""
    return torch.searchsorted(_SYSTEM_ENDS, group.contiguous())


class StateGeometry:
    """Geometry of states.

    Args:
        columns: Where things stand in a state.
        composition: The space of the compositions.
        min_distance: Least distance of two atoms in units of the sum of their radii.
    """

    def __init__(self, columns: CrystalColumns, composition: CompositionSpace, min_distance: float) -> None:
        self.columns, self.composition, self.min_distance = columns, composition, min_distance
        self._clearance = _Latest(self._compute_clearance)
        self._least_ratio = _Latest(self._compute_least_ratio)
        self._compositions = _Latest(self._read_compositions)

    def clearance(self, state: Tensor) -> Tensor:
        """Return the room that each value of the next coordinate leaves, float (n, N_COORDINATES).

        In units of the least distances, at the largest volume ratio; below 1 the cell would have to be larger still.
        `UNCONSTRAINED` where further coordinates of the same position are open.
        """
        return self._clearance(state)

    def least_ratio(self, state: Tensor) -> Tensor:
        """Return the least volume of crystals of settled shape, in units of their elements' volumes, float64 (n,)."""
        return self._least_ratio(state)

    def stretched_ratio(self, state: Tensor) -> Tensor:
        """Return the volume of the last bin, in units of the elements' volumes, float64 (n,)."""
        return torch.clamp_min(self.least_ratio(state) * APART, float(VOLUME_RATIOS[-1]))

    def compositions(self, state: Tensor) -> CompositionBatch:
        """Return the compositions, reduced."""
        return self._compositions(state)

    def _read_compositions(self, state: Tensor) -> CompositionBatch:
        return self.composition.materials(state[:, self.columns.composition])

    def element_volume(self, state: Tensor) -> Tensor:
        """Return the sum of the elements' volumes in the primitive cell, float64 (n,), A3."""
        batch = self.compositions(state)
        return volumes_of_elements(batch.atomic_numbers, batch.amounts) * state[:, self.columns.units]

    def unit_lattice(self, state: Tensor) -> Tensor:
        """Return conventional cells with a = 1, float64 (n, 3, 3)."""
        system = crystal_system(state[:, self.columns.group])
        hexagonal = (system == _TRIGONAL) | (system == _HEXAGONAL)
        return shape_lattices(state[:, self.columns.lattice], hexagonal)

    def primitive_lattice(self, state: Tensor) -> Tensor:
        """Return primitive cells with a = 1 of the conventional one, float64 (n, 3, 3)."""
        return position_tables().primitive_basis[state[:, self.columns.group] - 1] @ self.unit_lattice(state)

    def limits(self, state: Tensor) -> Tensor:
        """Return the least distances between elements, float (n, K, K), A."""
        numbers = self.compositions(state).atomic_numbers
        return pair_limits(numbers, self._closed_shell(state, numbers), self.min_distance)

    def _closed_shell(self, state: Tensor, numbers: Tensor) -> Tensor:
        """Whether each element can only be a closed-shell anion, bool (n, K)."""
        bits = state[:, self.columns.closed_shell, None] >> torch.arange(numbers.shape[1])
        return bits & 1 == 1

    def flat_position(self, state: Tensor) -> Tensor:
        """Return each occupied position's number in `position_tables`, long (n, S), -1 where there is none."""
        return state[:, self.columns.flat] - 1

    def free_bins(self, state: Tensor) -> Tensor:
        """Return the bins of the coordinates, long (n, S, 3)."""
        return state[:, self.columns.free].reshape(len(state), self.columns.n_orbits, 3)

    def placed_atoms(self, state: Tensor) -> PlacedAtoms:
        """Return the atoms as far as they are settled."""
        flat, bins = self.flat_position(state), self.free_bins(state)
        needed = position_tables().free_axes[flat.clamp_min(0)]
        settled = (flat >= 0) & ((bins >= 0) | ~needed).all(2)
        transform = state[:, self.columns.transform].reshape(-1, 3, 3)
        return place_atoms(flat, coordinates(bins), settled, transform, self.columns.n_orbits)

    def _reduced(self, state: Tensor) -> Tensor:
        transform = state[:, self.columns.transform].reshape(-1, 3, 3).double()
        return transform @ self.primitive_lattice(state)

    def _compute_least_ratio(self, state: Tensor) -> Tensor:
        slot = state[:, self.columns.slot]
        volume = least_volumes(self.placed_atoms(state), self._reduced(state), self.limits(state), slot)
        return volume / self.element_volume(state)

    def _compute_clearance(self, state: Tensor) -> Tensor:
        columns = self.columns
        orbit, axis = state[:, columns.orbit], state[:, columns.axis]
        flat = self.flat_position(state).gather(1, orbit[:, None]).squeeze(1)
        judged = is_judged(flat, axis)
        if judged.all():
            return self._judge(state, orbit, axis, flat)
        result = torch.full((len(state), N_COORDINATES), UNCONSTRAINED)
        rows = judged.nonzero().squeeze(1)
        if len(rows):
            result[rows] = self._judge(state.index_select(0, rows), orbit[rows], axis[rows], flat[rows])
        return result

    def _judge(self, state: Tensor, orbit: Tensor, axis: Tensor, flat: Tensor) -> Tensor:
        """Clearances where there is something to judge, by occupied position, axis and number of the position."""
        columns, here = self.columns, orbit[:, None]
        atoms = self.placed_atoms(state)
        bins = self.free_bins(state).gather(1, here[..., None].expand(-1, -1, 3)).squeeze(1)
        candidates = Candidates(flat, coordinates(bins).float(), axis, _AXIS_VALUES[axis])
        lattice = self._reduced(state)
        largest = self.element_volume(state) * VOLUME_RATIOS[-1]
        lattice = (lattice * (largest / cell_volumes(lattice)).pow(1 / 3)[:, None, None]).float()
        slot = state[:, columns.slot]
        numbers = self.compositions(state).atomic_numbers
        closed = self._closed_shell(state, numbers)
        own = slot.gather(1, here)
        to_elements = limits_of_pairs(
            numbers.gather(1, own), closed.gather(1, own), numbers, closed, self.min_distance
        )  # (n, K)
        to_atoms = to_elements.gather(1, torch.cat([slot.gather(1, atoms.orbit), own], dim=1))
        transform = state[:, columns.transform].reshape(-1, 3, 3)
        return clearances(atoms, candidates, lattice, to_atoms, transform).clamp_max_(UNCONSTRAINED)


_AXIS_VALUES = axis_values(torch.arange(3)).float()


class _Latest(Generic[_Answer]):
    """A function of a state that remembers its latest answer: masks and features ask for the same."""

    def __init__(self, function: Callable[[Tensor], _Answer]) -> None:
        self.function = function
        self._known: tuple[weakref.ref[Tensor], int, _Answer] | None = None

    def __call__(self, state: Tensor) -> _Answer:
        if state.is_inference():  # such tensors do not tell when they change
            return self.function(state)
        if self._known is not None:
            known, version, answer = self._known
            if known() is state and version == state._version:
                return answer
        answer = self.function(state)
        self._known = (weakref.ref(state), state._version, answer)
        return answer
