"""Orbits of atoms by Wyckoff positions in NumPy: which free parameters generate the points of an orbit.

Parameters are compared through keys, integers in their order that are the same where they differ by less than 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from envs.wyckoff import WyckoffPosition, space_group

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

KEY_STEPS = 10_000
"""Coordinates are compared to 1e-4."""
LAST_KEY = np.int64(KEY_STEPS) ** 3
"""Greater than the key of any point."""


@dataclass(frozen=True)
class Orbits:
    """A crystal: S orbits with their elements and positions, and the metric of its conventional cell."""

    number: int
    """Space group."""
    elements: list[int]
    """Atomic numbers."""
    positions: IntArray
    """(S,): indices of Wyckoff positions."""
    free: FloatArray
    """(S, 3): free parameters."""
    metric: FloatArray
    """(3, 3), A2."""


@dataclass(frozen=True, eq=False)
class PositionReader:
    """A Wyckoff position, made to recognise points of its orbits."""

    maps: FloatArray
    """(multiplicity, 3, 4): its points as rotation and translation of the free parameters."""
    axes: list[int]
    """Those of its free parameters."""
    centring: FloatArray
    """(c, 3): lattice points of the conventional cell."""
    reader: FloatArray
    """(3, 3): parameters are reader @ (coordinates - translation) of the representative."""

    def read(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return parameters in [0, 1) that put the representative on points, and how far it is off, all (..., 3)."""
        rotation, translation = self.maps[0, :, :3], self.maps[0, :, 3]
        values = (points - translation) @ self.reader.T % 1.0
        off = points - values @ rotation.T - translation
        return values, off - np.rint(off)

    def first_parameters(self, points: FloatArray) -> tuple[FloatArray, IntArray]:
        """Return the first parameters (K, 3) that generate orbits given as points (K, m, 3), and their keys (K,)."""
        values, keys = self.parameters(points)
        chosen = keys.argmin(1)
        rows = np.arange(len(points))
        return values[rows, chosen], keys[rows, chosen]

    def parameters(self, points: FloatArray) -> tuple[FloatArray, IntArray]:
        """Return parameters of points, both (..., 3), and their keys, `LAST_KEY` for what is no representative."""
        values, off = self.read(points)
        return values, np.where(np.abs(off).max(-1) < 1e-6, _keys(values), LAST_KEY)


def _keys(values: FloatArray) -> IntArray:
    """Integers (...) in the order of parameters (..., 3), the same for such that differ by less than the comparison."""
    # The offset keeps fractions such as 1/32 away from the borders between the steps.
    steps = np.floor(values * KEY_STEPS + 0.318).astype(np.int64) % KEY_STEPS
    keys: IntArray = (steps[..., 0] * KEY_STEPS + steps[..., 1]) * KEY_STEPS + steps[..., 2]
    return keys


@lru_cache(maxsize=256)
def position_readers(number: int) -> tuple[PositionReader, ...]:
    """Return the positions of a space group."""
    group = space_group(number)
    return tuple(_reader(position, group.centring_translations.numpy()) for position in group.positions)


def _reader(position: WyckoffPosition, centring: FloatArray) -> PositionReader:
    rotation = position.rotation.numpy()
    reader = np.zeros((3, 3))
    axes = [axis for axis in range(3) if position.free_axes[axis]]
    for axis in axes:  # each parameter is a coordinate of the representative by itself, perhaps with a minus sign
        alone = (np.abs(rotation[:, axis]) == 1) & (np.abs(rotation).sum(1) == 1)
        coordinate = int(alone.argmax())
        reader[axis, coordinate] = rotation[coordinate, axis]
    return PositionReader(position.maps.numpy(), axes, centring, reader)
