"""Space groups: Wyckoff positions, their orbits, and which of them are equivalent.

    group = space_group(225)                                   # Fm-3m
    group["a"].orbit(torch.zeros(3), primitive=True)           # (1, 3): primitive fractional coordinates
    group.canonical_letters(["b", "a"])                        # ("a", "b"): the same crystal by a shift of origin

The setting is the standard one of the International Tables A: unique axis b (cell choice 1), hexagonal axes for R
groups, origin choice 2. The table is made by `experiments/data/make_wyckoff_table.py`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float64]

N_SPACE_GROUPS = 230
TRANSLATION_GRID = 24
"""Every translation of the table is a multiple of 1/24."""

CENTRING_TRANSLATIONS: Mapping[str, tuple[tuple[float, float, float], ...]] = {
    "P": ((0, 0, 0),),
    "A": ((0, 0, 0), (0, 1 / 2, 1 / 2)),
    "C": ((0, 0, 0), (1 / 2, 1 / 2, 0)),
    "I": ((0, 0, 0), (1 / 2, 1 / 2, 1 / 2)),
    "F": ((0, 0, 0), (0, 1 / 2, 1 / 2), (1 / 2, 0, 1 / 2), (1 / 2, 1 / 2, 0)),
    "R": ((0, 0, 0), (2 / 3, 1 / 3, 1 / 3), (1 / 3, 2 / 3, 2 / 3)),
}
"""Lattice points in the conventional cell; R is obverse, on hexagonal axes."""

PRIMITIVE_BASES: Mapping[str, tuple[tuple[float, float, float], ...]] = {
    "P": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "A": ((1, 0, 0), (0, 1 / 2, 1 / 2), (0, -1 / 2, 1 / 2)),
    "C": ((1 / 2, -1 / 2, 0), (1 / 2, 1 / 2, 0), (0, 0, 1)),
    "I": ((-1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (1 / 2, 1 / 2, -1 / 2)),
    "F": ((0, 1 / 2, 1 / 2), (1 / 2, 0, 1 / 2), (1 / 2, 1 / 2, 0)),
    "R": ((2 / 3, 1 / 3, 1 / 3), (-1 / 3, 1 / 3, 1 / 3), (-1 / 3, -2 / 3, 1 / 3)),
}
"""Rows are primitive lattice vectors in units of the conventional ones, the same choice as spglib's."""

CRYSTAL_SYSTEMS: tuple[tuple[int, str], ...] = (
    (2, "triclinic"),
    (15, "monoclinic"),
    (74, "orthorhombic"),
    (142, "tetragonal"),
    (167, "trigonal"),
    (194, "hexagonal"),
    (230, "cubic"),
)
"""The last space group number of each crystal system, and its name."""


@dataclass(frozen=True, eq=False)
class WyckoffPosition:
    """A set of points that the group maps onto each other, with up to three free parameters x, y, z."""

    letter: str
    """a, b, c, ..., and A for the 27th position of Pmmm."""
    multiplicity: int
    """Points in the conventional cell."""
    primitive_multiplicity: int
    """Points in the primitive cell."""
    degrees_of_freedom: int
    """Number of free parameters, 0-3."""
    site_symmetry: str
    """Oriented symbol of the site symmetry group, such as 4m.m."""
    representative: str
    """Coordinates of the first point, such as x,2x,1/4."""
    maps: Tensor
    """Float64 (multiplicity, 3, 4): each point as rotation and translation of (x, y, z). The first is the
    representative, and the first `primitive_multiplicity` are those that no centring translation relates."""
    to_primitive: Tensor
    """Float64 (3, 3): conventional fractional coordinates times this are primitive ones."""

    @property
    def rotation(self) -> Tensor:
        """Linear part (3, 3) of the representative; a column of zeros for a parameter that it lacks."""
        return self.maps[0, :, :3]

    @property
    def translation(self) -> Tensor:
        """Constant part (3,) of the representative."""
        return self.maps[0, :, 3]

    @property
    def free_axes(self) -> tuple[bool, bool, bool]:
        """Whether x, y and z occur in the representative."""
        return ("x" in self.representative, "y" in self.representative, "z" in self.representative)

    def orbit(self, free: Tensor, primitive: bool = False) -> Tensor:
        """Return the fractional coordinates of all points of the position; not wrapped into the cell.

        Args:
            free: (..., 3): x, y, z; those that the position lacks are ignored. Computed in float64.
            primitive: Return the points of the primitive cell, in its basis `SpaceGroup.primitive_basis`, as
                (..., primitive_multiplicity, 3), instead of those of the conventional cell (..., multiplicity, 3).
        """
        maps = self.maps[: self.primitive_multiplicity] if primitive else self.maps
        maps = maps.to(free.device)
        points = (maps[..., :3] @ free.double()[..., None, :, None]).squeeze(-1) + maps[..., 3]
        return points @ self.to_primitive.to(free.device) if primitive else points


@dataclass(frozen=True, eq=False)
class NormaliserMap:
    """A change of axes and origin, x -> rotation x + translation, that maps a space group onto itself."""

    rotation: Tensor
    """Float64 (3, 3)."""
    translation: Tensor
    """Float64 (3,)."""
    permutation: tuple[int, ...]
    """Position i goes to position `permutation[i]`."""
    keeps_lattice: bool
    """Whether it keeps the lattice parameters of every lattice of the crystal system: a shift of origin, say.
    The others exchange axes of different length or choose another cell."""


@dataclass(frozen=True, eq=False)
class SpaceGroup:
    """One of the 230 space group types in its standard setting."""

    number: int
    symbol: str
    """Short Hermann-Mauguin symbol, such as P2_1/c."""
    hall_number: int
    """Number of the setting in spglib's list of Hall symbols, 1-530."""
    crystal_system: str
    positions: tuple[WyckoffPosition, ...]
    """In order a, b, c, ...; the general position is the last."""
    operations: Tensor
    """Float64 (point_group_order, 3, 4): rotation and translation, one for each coset of the lattice translations."""
    normaliser: tuple[NormaliserMap, ...]
    """Maps of the affine normaliser whose permutations generate all permutations of the positions; those that keep
    the lattice stand first and generate all that do."""

    @property
    def centring(self) -> str:
        """Letter of the lattice: P, A, C, I, F or R."""
        return self.symbol[0]

    @property
    def n_centring(self) -> int:
        """Primitive cells in the conventional cell."""
        return len(CENTRING_TRANSLATIONS[self.centring])

    @property
    def point_group_order(self) -> int:
        """Operations of the point group."""
        return len(self.operations)

    @property
    def centring_translations(self) -> Tensor:
        """Lattice points in the conventional cell, float64 (n_centring, 3), the origin first."""
        return torch.tensor(CENTRING_TRANSLATIONS[self.centring], dtype=torch.float64)

    @property
    def primitive_basis(self) -> Tensor:
        """Rows are primitive vectors in units of conventional ones, float64 (3, 3).

        With lattice vectors and coordinates as rows: primitive lattice = basis @ lattice, and
        primitive coordinates = coordinates @ inverse(basis).
        """
        return torch.tensor(PRIMITIVE_BASES[self.centring], dtype=torch.float64)

    @property
    def letters(self) -> str:
        """The letters of all positions in order."""
        return "".join(position.letter for position in self.positions)

    def __getitem__(self, letter: str) -> WyckoffPosition:
        """Return the position with this letter; KeyError names the group's letters when there is none."""
        return self.positions[self._index(letter)]

    @cached_property
    def equivalent_sets(self) -> tuple[tuple[int, ...], ...]:
        """All permutations of the positions under the affine normaliser, ascending, the identity first.

        Position i goes to `permutation[i]`: the same crystal, seen from another origin or with other axes (lattice
        parameters exchanged or another cell chosen, mirror images included).
        """
        return _closure([found.permutation for found in self.normaliser], len(self.positions))

    @cached_property
    def equivalent_sets_of_lattice(self) -> tuple[tuple[int, ...], ...]:
        """The permutations in `equivalent_sets` that leave the lattice parameters as they are."""
        generators = [found.permutation for found in self.normaliser if found.keeps_lattice]
        return _closure(generators, len(self.positions))

    def canonical_letters(self, letters: Sequence[str], keep_lattice: bool = False) -> tuple[str, ...]:
        """Return the first of the equivalent sets of occupied positions, in the order a, b, c, ...

        Args:
            letters: For each element the letters that it occupies, such as ["ab", "ee"]; a letter may be repeated.
            keep_lattice: Count as equivalent only what has the same lattice parameters.

        Raises:
            KeyError: The group has no position with this letter.
        """
        if isinstance(letters, str):
            raise TypeError(
                f"letters: {letters!r} is one text (expected one text for each element, such as ['ab', 'e'])"
            )
        return _canonical_letters(self.number, tuple(letters), keep_lattice)

    def _index(self, letter: str) -> int:
        if letter not in self._index_of:
            raise KeyError(f"{self.symbol} has no Wyckoff position {letter!r} (expected one of {self.letters})")
        return self._index_of[letter]

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {position.letter: i for i, position in enumerate(self.positions)}


@lru_cache(maxsize=N_SPACE_GROUPS)
def space_group(number: int) -> SpaceGroup:
    """Return the space group with this number, 1-230."""
    if number not in range(1, N_SPACE_GROUPS + 1):
        raise ValueError(f"space group: {number!r} is not a number from 1 to {N_SPACE_GROUPS}")
    entry = _table()[number - 1]
    centring = np.array(CENTRING_TRANSLATIONS[entry["symbol"][0]])
    operations = np.array([_affine(text) for text in entry["operations"]])
    to_primitive = torch.from_numpy(np.linalg.inv(np.array(PRIMITIVE_BASES[entry["symbol"][0]])))
    positions = []
    for letter, symmetry, text, cosets in zip(
        entry["letters"], entry["site_symmetry"], entry["representatives"], entry["cosets"], strict=True
    ):
        maps = _orbit_maps(operations[cosets], _affine(text), centring)
        n_free = sum(axis in text for axis in "xyz")
        positions.append(
            WyckoffPosition(
                letter, len(maps), len(cosets), n_free, symmetry, text, torch.from_numpy(maps), to_primitive
            )
        )
    normaliser = []
    for found in entry["normaliser"]:
        affine = torch.from_numpy(_affine(found["map"]))
        permutation = tuple(entry["letters"].index(letter) for letter in found["letters"])
        normaliser.append(NormaliserMap(affine[:, :3], affine[:, 3], permutation, found["keeps_lattice"]))
    system = next(name for last, name in CRYSTAL_SYSTEMS if number <= last)
    return SpaceGroup(
        number,
        _short_symbol(entry["symbol"], number),
        entry["hall_number"],
        system,
        tuple(positions),
        torch.from_numpy(operations),
        tuple(normaliser),
    )


def _short_symbol(symbol: str, number: int) -> str:
    """Leave out the axes without symmetry of a monoclinic group: P2_1/c for P12_1/c1."""
    return symbol[0] + symbol[2:].removesuffix("1") if 3 <= number <= 15 else symbol


def all_space_groups() -> tuple[SpaceGroup, ...]:
    """Return the 230 space groups in order of their numbers."""
    return tuple(space_group(number) for number in range(1, N_SPACE_GROUPS + 1))


@lru_cache(maxsize=1)
def _table() -> list[dict[str, Any]]:
    content = (resources.files("envs") / "data" / "wyckoff.json.gz").read_bytes()
    table: list[dict[str, Any]] = json.loads(gzip.decompress(content))
    return table


def _affine(text: str) -> FloatArray:
    """Read Jones-faithful notation such as x,2x,1/4 as (3, 4)."""
    return np.array([_row(part) for part in text.split(",")])


@lru_cache(maxsize=1024)
def _row(text: str) -> tuple[float, float, float, float]:
    factors = {"x": 0.0, "y": 0.0, "z": 0.0, "": 0.0}
    for term in text.replace("-", "+-").split("+"):
        axis = term[-1:] if term[-1:] in "xyz" else ""
        number = term.removesuffix(axis)
        if axis and number in ("", "-"):
            number += "1"
        numerator, _, denominator = (number or "0").partition("/")
        factors[axis] += int(numerator) / int(denominator or 1)
    return (factors["x"], factors["y"], factors["z"], factors[""])


def _orbit_maps(operations: FloatArray, representative: FloatArray, centring: FloatArray) -> FloatArray:
    """Apply operations (p, 3, 4) and then centring translations (c, 3) to a representative (3, 4): (c p, 3, 4)."""
    maps = operations[:, :, :3] @ representative
    maps[:, :, 3] += operations[:, :, 3]
    every = np.repeat(maps[None], len(centring), axis=0)  # (c, p, 3, 4)
    shifts = every[..., 3] + centring[:, None]
    every[..., 3] = np.rint(shifts * TRANSLATION_GRID) % TRANSLATION_GRID / TRANSLATION_GRID
    return every.reshape(-1, 3, 4)


def _closure(generators: Sequence[tuple[int, ...]], n: int) -> tuple[tuple[int, ...], ...]:
    """All products of permutations of n things, ascending."""
    found = new = {tuple(range(n))}
    while new:
        new = {tuple(g[i] for i in known) for g in generators for known in new} - found
        found = found | new
    return tuple(sorted(found))


@lru_cache(maxsize=100_000)
def _canonical_letters(number: int, letters: tuple[str, ...], keep_lattice: bool) -> tuple[str, ...]:
    group = space_group(number)
    occupied = [[group._index(letter) for letter in of_element] for of_element in letters]
    permutations = group.equivalent_sets_of_lattice if keep_lattice else group.equivalent_sets
    smallest = min(tuple(tuple(sorted(image[i] for i in sites)) for sites in occupied) for image in permutations)
    return tuple("".join(group.letters[i] for i in sites) for sites in smallest)
