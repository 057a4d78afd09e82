"""How a crystal under construction is written down: the columns of a state of `CrystalSpace`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import torch
from torch import Tensor


class Stage(IntEnum):
    """What is chosen next; also the numbers of the kinds of actions."""

    COMPOSITION = 0
    FORMULA_UNITS = 1
    SPACE_GROUP = 2
    POSITION = 3
    LATTICE = 4
    COORDINATE = 5
    VOLUME = 6
    STOP = 7
    FINISHED = 8


@dataclass(frozen=True)
class CrystalColumns:
    """Where things stand in a state, long (n, size). K elements, S occupied positions at most."""

    n_elements: int
    """K."""
    n_orbits: int
    """S, which is also the most atoms."""
    composition_size: int
    """Columns of the composition's own state, which come last."""

    stage = 0
    units = 1
    """Formula units, 0 before they are chosen."""
    group = 2
    """Space group, 0 before it is chosen."""
    occupied = 3
    """Bit i is set when position i, without free parameters, is taken."""
    last = 4
    """Index of the last position chosen for the current element."""
    placed = 5
    """Occupied positions so far."""
    element = 6
    """Current element, 0 .. K - 1; K when all are placed."""
    entry = 7
    """Lattice entry to choose next, 0-4."""
    orbit = 8
    """Occupied position whose coordinate is chosen next."""
    axis = 9
    """Axis of that coordinate, 0-2."""
    volume = 10
    """Volume bin + 1, 0 before it is chosen."""
    closed_shell = 11
    """Bit i is set when element i can only be a closed-shell anion."""

    @cached_property
    def remaining(self) -> slice:
        """Atoms of each element still to be placed, (n, K)."""
        return slice(12, 12 + self.n_elements)

    @cached_property
    def flat(self) -> slice:
        """Each occupied position's number in `position_tables` + 1, 0 where there is none, (n, S)."""
        return slice(self.remaining.stop, self.remaining.stop + self.n_orbits)

    @cached_property
    def slot(self) -> slice:
        """The element of each occupied position, 0 .. K - 1, (n, S)."""
        return slice(self.flat.stop, self.flat.stop + self.n_orbits)

    @cached_property
    def lattice(self) -> slice:
        """Bin of each lattice entry, -1 where not chosen or fixed, (n, 5)."""
        return slice(self.slot.stop, self.slot.stop + 5)

    @cached_property
    def free(self) -> slice:
        """Bin of each coordinate, -1 where not chosen or absent, (n, 3 S)."""
        return slice(self.lattice.stop, self.lattice.stop + 3 * self.n_orbits)

    @cached_property
    def transform(self) -> slice:
        """Reduced basis = transform @ primitive basis, row by row, (n, 9)."""
        return slice(self.free.stop, self.free.stop + 9)

    @cached_property
    def composition(self) -> slice:
        """State of the composition, (n, composition_size)."""
        return slice(self.transform.stop, self.transform.stop + self.composition_size)

    @cached_property
    def size(self) -> int:
        """Columns in all."""
        end: int = self.composition.stop
        return end

    @cached_property
    def _identity(self) -> Tensor:
        return torch.eye(3, dtype=torch.long).flatten()

    def start(self, composition: Tensor) -> Tensor:
        """Return the state (size,) of an empty crystal from that of an empty composition."""
        state = torch.zeros(self.size, dtype=torch.long)
        state[self.lattice] = -1
        state[self.free] = -1
        state[self.transform] = self._identity
        state[self.composition] = composition
        return state
