"""Structures brought to the standard setting: one description for one crystal, as far as that is cheap.

    standardised = standardise([structure])       # a pymatgen Structure, in any cell
    standardised.reasons                          # [None], or why it has no description
    standardised.crystals[0]                      # "TiO2 | 136 | Ti a | O f 0.305 | 4.594 4.594 2.959 90 90 90"

The space group is spglib's (Togo et al., Sci. Technol. Adv. Mater. Methods 4, 2384822 (2024)), in the setting of
`envs.wyckoff`; each orbit is then fitted by a Wyckoff position of our own table, which makes the crystal exactly
symmetric. Of the equivalent descriptions, by the Euclidean normaliser of the group, the first is taken.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from envs.chemistry import ATOMIC_NUMBERS, SYMBOLS, formula_order
from envs.crystal_batch import CrystalBatch, lattice_vectors
from envs.formula import CompositionBatch, reduce_amounts, write_formula
from envs.wyckoff import TRANSLATION_GRID, SpaceGroup, WyckoffPosition, space_group

if TYPE_CHECKING:
    from pymatgen.core import Structure

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SHORTEST_DISTANCE = 0.5
"""Atoms nearer than this (A) overlap."""
POLAR_ORIGIN = 0.5 / TRANSLATION_GRID
"""Coordinate of the first orbit along the directions in which the group leaves the origin free."""
_STEPS = 10_000  # coordinates are compared to 1e-4
_LAST = np.int64(_STEPS) ** 3  # greater than the key of any point
_SLACK = 4  # an atom may be so many tolerances from where the others want it: spglib compares pairs of atoms
_SNAP = 5e-6  # half of the last digit of a text
_DIGITS = 10  # decimals of free and cell parameters, without the noise of floating point


@dataclass(frozen=True)
class Standardised:
    """What became of structures."""

    crystals: CrystalBatch
    """Those that have a description, in the order given, without oxidation states."""
    reasons: list[str | None]
    """For each structure None, or why it has none, as "kind: detail" with kind disorder, element, overlap or
    symmetry."""


@dataclass(frozen=True)
class _Orbits:
    """A crystal: orbits with their elements and positions, and the metric of its conventional cell."""

    number: int
    elements: list[int]
    positions: IntArray  # (S,)
    free: FloatArray  # (S, 3)
    metric: FloatArray  # (3, 3)


def standardise(structures: Sequence[Structure], tolerance: float = 0.01) -> Standardised:
    """Describe structures in the standard settings of their space groups.

    The description is unique up to the choice of axes, which is spglib's: axes that the group would let exchange
    (orthorhombic), and other monoclinic or triclinic cells of the same lattice, are not compared. Origins, and axes
    that the lattice itself cannot tell apart, are: of all images of the crystal that have the same lattice parameters,
    mirror images included, the one whose occupied letters come first (`SpaceGroup.canonical_letters` with
    `keep_lattice`), then the one with the smallest free parameters, each orbit described by the smallest ones in
    [0, 1) that generate it. Where the group leaves the origin free along an axis, the first orbit has the coordinate
    `POLAR_ORIGIN` there. Orbits stand in the order of their elements (ascending electronegativity), positions and
    parameters.

    Args:
        structures: Ordered ones, in any cell; oxidation states are dropped.
        tolerance: How far atoms may be from their symmetric places, A. When no consistent description is found at this
            tolerance, a tenth and a hundredth of it are tried.

    Raises:
        ValueError: The tolerance is not a positive number.
    """
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance: {tolerance!r} is not a positive length (expected one in A, such as 0.01)")
    found = [_describe(structure, tolerance) for structure in structures]
    return Standardised(
        _batch([orbits for orbits in found if isinstance(orbits, _Orbits)]),
        [orbits if isinstance(orbits, str) else None for orbits in found],
    )


def _batch(crystals: Sequence[_Orbits]) -> CrystalBatch:
    width = max((len(crystal.elements) for crystal in crystals), default=1)
    element, position = torch.zeros(2, len(crystals), width, dtype=torch.long)
    free = torch.zeros(len(crystals), width, 3, dtype=torch.float64)
    cells = torch.zeros(len(crystals), 6, dtype=torch.float64)
    formulas = []
    for row, crystal in enumerate(crystals):
        n_orbits = len(crystal.elements)
        element[row, :n_orbits] = torch.tensor(crystal.elements)
        position[row, :n_orbits] = torch.from_numpy(crystal.positions)
        free[row, :n_orbits] = torch.from_numpy(crystal.free)
        lengths = np.sqrt(np.diag(crystal.metric))
        cosines = (crystal.metric / np.outer(lengths, lengths))[[1, 0, 0], [2, 2, 1]]
        cells[row] = torch.from_numpy(np.concatenate([lengths, np.rad2deg(np.arccos(cosines))]).round(_DIGITS))
        amounts: dict[str, float] = {}
        for z, index in zip(crystal.elements, crystal.positions.tolist(), strict=True):
            multiplicity = space_group(crystal.number).positions[index].multiplicity
            amounts[SYMBOLS[z - 1]] = amounts.get(SYMBOLS[z - 1], 0) + multiplicity
        formulas.append(write_formula(reduce_amounts(amounts)))
    numbers = torch.tensor([crystal.number for crystal in crystals], dtype=torch.long)
    compositions = CompositionBatch.from_formulas(formulas)
    return CrystalBatch(compositions, numbers, element, position, free, lattice_vectors(cells))


def _describe(structure: Structure, tolerance: float) -> _Orbits | str:
    """The canonical orbits of a structure, or the reason why there are none."""
    reason = _refusal(structure)
    if reason:
        return reason
    for factor in (1, 0.1, 0.01):
        orbits = _find_orbits(structure, tolerance * factor)
        if isinstance(orbits, _Orbits):
            return _canonical(orbits)
        reason = reason or orbits
    return f"symmetry: {reason}"


def _refusal(structure: Structure) -> str | None:
    if not len(structure):
        return "element: the structure has no atoms"
    if not structure.is_ordered:
        site = next(site for site in structure if not site.is_ordered)
        return f"disorder: a site is occupied by {site.species_string}"
    for specie in dict.fromkeys(structure.species):
        symbol = getattr(getattr(specie, "element", specie), "name", specie.symbol)  # deuterium's symbol is H
        if symbol not in ATOMIC_NUMBERS:
            return f"element: {symbol} is not one of the elements up to {SYMBOLS[-1]}"
    lattice, points = structure.lattice.matrix, structure.frac_coords
    if not (np.isfinite(lattice).all() and np.isfinite(points).all() and abs(np.linalg.det(lattice)) > 1e-3):
        return "overlap: the cell has no volume, or a coordinate is not a number"
    first, second, _, distances = structure.get_neighbor_list(SHORTEST_DISTANCE)
    if len(distances):
        near = int(distances.argmin())
        names = f"{structure[first[near]].specie} and {structure[second[near]].specie}"
        return f"overlap: {names} are {distances[near]:.2f} A apart"
    return None


def _dataset(structure: Structure, tolerance: float) -> Any:
    """What spglib finds, in the setting of our table; None when it finds nothing."""
    import spglib

    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # spglib's own deprecations
        try:
            found = spglib.get_symmetry_dataset(cell, symprec=tolerance)
            if found is not None and found.hall_number != space_group(found.number).hall_number:
                hall_number = space_group(found.number).hall_number
                found = spglib.get_symmetry_dataset(cell, symprec=tolerance, hall_number=hall_number)
        except spglib.SpglibError:  # instead of None in later releases
            return None
    return found


def _find_orbits(structure: Structure, tolerance: float) -> _Orbits | str:
    """The orbits of a structure by Wyckoff positions, or why it does not work at this tolerance."""
    found = _dataset(structure, tolerance)
    if found is None:
        return f"spglib finds no space group at {tolerance:g} A"
    group = space_group(found.number)
    rotations = group.operations[:, :, :3].numpy()
    to_standard = np.rint(found.transformation_matrix * 6) / 6  # columns are lattice points, perhaps centring
    if np.abs(to_standard - found.transformation_matrix).max() > 0.01:
        return f"the lattice is not that of {group.symbol} at {tolerance:g} A"
    lattice = np.linalg.solve(to_standard.T, structure.lattice.matrix)  # rows, not yet exactly symmetric
    metric = np.mean(rotations.transpose(0, 2, 1) @ (lattice @ lattice.T) @ rotations, axis=0)
    points = structure.frac_coords @ to_standard.T + found.origin_shift
    n_cells = abs(float(np.linalg.det(to_standard)))  # conventional cells in the given one
    cell = np.linalg.cholesky(metric)
    elements, positions, free = [], [], []
    for first in dict.fromkeys(found.crystallographic_orbits.tolist()):
        atoms = points[found.crystallographic_orbits == first]
        z = int(structure[first].specie.Z)
        for index in sorted(range(len(group.positions)), key=lambda i: group.letters[i] != found.wyckoffs[first]):
            if round(group.positions[index].multiplicity * n_cells) != len(atoms):
                continue
            parameters = _fit(_positions(group.number)[index], atoms, cell, _SLACK * tolerance)
            if parameters is not None:
                break
        else:
            return f"the {SYMBOLS[z - 1]} atoms fit no Wyckoff position of {group.symbol} at {tolerance:g} A"
        elements.append(z)
        positions.append(index)
        free.append(parameters)
    return _Orbits(group.number, elements, np.array(positions), np.array(free), metric)


def _fit(position: _Position, points: FloatArray, lattice: FloatArray, limit: float) -> FloatArray | None:
    """Free parameters (3,) whose orbit is nearest to points (n, 3) by least squares; None beyond a distance in A."""
    values, off = position.read((points + position.centring[:, None]).reshape(-1, 3))
    guess = values[np.linalg.norm(off @ lattice, axis=1).argmin()]
    images = position.maps[:, :, :3] @ guess + position.maps[:, :, 3]
    differences = points[:, None] - images
    differences = (differences - np.rint(differences)) @ lattice  # (n, multiplicity, 3), A
    nearest = np.square(differences).sum(-1).argmin(1)
    n_different = len(images) // len(position.centring)  # the others follow by centring, and need not be in the cell
    if len(set(np.bincount(nearest % n_different, minlength=n_different).tolist())) > 1:
        return None
    remaining = differences[np.arange(len(points)), nearest]
    slopes = (lattice.T @ position.maps[nearest, :, :3])[..., position.axes]  # (n, 3, parameters), A
    change = np.zeros(3)
    if slopes.shape[-1]:
        change[position.axes] = np.linalg.lstsq(slopes.reshape(remaining.size, -1), remaining.ravel(), rcond=None)[0]
        remaining = remaining - slopes @ change[position.axes]
    return guess + change if np.linalg.norm(remaining, axis=1).max() <= limit else None


@dataclass(frozen=True, eq=False)
class _Position:
    """A Wyckoff position, made to recognise points of its orbits."""

    maps: FloatArray  # (multiplicity, 3, 4)
    axes: list[int]  # those of its free parameters
    centring: FloatArray  # (c, 3): lattice points of the conventional cell
    reader: FloatArray  # (3, 3): parameters are reader @ (coordinates - translation) of the representative

    def read(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Parameters in [0, 1) that put the representative on points (..., 3), and how far it is off; both (..., 3)."""
        rotation, translation = self.maps[0, :, :3], self.maps[0, :, 3]
        values = (points - translation) @ self.reader.T % 1.0
        off = points - values @ rotation.T - translation
        return values, off - np.rint(off)

    def first_parameters(self, points: FloatArray) -> tuple[FloatArray, IntArray]:
        """The first parameters (K, 3) that generate orbits given as points (K, m, 3), and their keys (K,)."""
        values, keys = self.parameters(points)
        chosen = keys.argmin(1)
        rows = np.arange(len(points))
        return values[rows, chosen], keys[rows, chosen]

    def parameters(self, points: FloatArray) -> tuple[FloatArray, IntArray]:
        """Parameters (..., 3) of points (..., 3) and their keys, `_LAST` for a point that is no representative."""
        values, off = self.read(points)
        return values, np.where(np.abs(off).max(-1) < 1e-6, _keys(values), _LAST)


def _keys(values: FloatArray) -> IntArray:
    """Integers (...) in the order of parameters (..., 3), the same for such that differ by less than the comparison."""
    # The offset keeps fractions such as 1/32 away from the borders between the steps.
    steps = np.floor(values * _STEPS + 0.318).astype(np.int64) % _STEPS
    keys: IntArray = (steps[..., 0] * _STEPS + steps[..., 1]) * _STEPS + steps[..., 2]
    return keys


@lru_cache(maxsize=256)
def _positions(number: int) -> tuple[_Position, ...]:
    group = space_group(number)
    return tuple(_position(position, group.centring_translations.numpy()) for position in group.positions)


def _position(position: WyckoffPosition, centring: FloatArray) -> _Position:
    rotation = position.rotation.numpy()
    reader = np.zeros((3, 3))
    axes = [axis for axis in range(3) if position.free_axes[axis]]
    for axis in axes:  # each parameter is a coordinate of the representative by itself, perhaps with a minus sign
        alone = (np.abs(rotation[:, axis]) == 1) & (np.abs(rotation).sum(1) == 1)
        coordinate = int(alone.argmax())
        reader[axis, coordinate] = rotation[coordinate, axis]
    return _Position(position.maps.numpy(), axes, centring, reader)


# Images of a crystal under the Euclidean normaliser


@dataclass(frozen=True, eq=False)
class _Images:
    """Changes of origin and axes that keep space group and lattice parameters, one for each coset of the group."""

    rotations: FloatArray  # (K, 3, 3)
    translations: FloatArray  # (K, 3)
    permutations: IntArray  # (K, P): position i goes to position permutations[k, i]
    polar: list[int]  # axes along which any shift may be added


def _canonical(crystal: _Orbits) -> _Orbits:
    """The same crystal in the first of its descriptions, as `standardise` defines it."""
    images, positions = _images(crystal.number), _positions(crystal.number)
    ranks = {z: i for i, z in enumerate(sorted(set(crystal.elements), key=lambda z: formula_order(SYMBOLS[z - 1])))}
    rank = np.array([ranks[z] for z in crystal.elements])
    classes = rank * len(positions) + images.permutations[:, crystal.positions]  # (K, S)
    in_order = np.sort(classes, axis=1)
    chosen = np.flatnonzero((in_order == min(in_order.tolist())).all(1))
    points = []  # for each orbit (images, multiplicity, 3)
    for index, free in zip(crystal.positions, crystal.free, strict=True):
        orbit = positions[index].maps[:, :, :3] @ free + positions[index].maps[:, :, 3]
        points.append(orbit @ images.rotations[chosen].transpose(0, 2, 1) + images.translations[chosen, None])
    classes = classes[chosen]
    if images.polar:
        origins = [_polar_origins(k, classes, points, crystal.number, images.polar) for k in range(len(chosen))]
        rows = np.repeat(np.arange(len(chosen)), [len(shifts) for shifts in origins])
        shifts = np.concatenate(origins)
        classes, points = classes[rows], [orbit[rows] + shifts[:, None] for orbit in points]
    free, keys = np.zeros((*classes.shape, 3)), np.zeros_like(classes)
    places = classes % len(positions)
    for column, orbit in enumerate(points):
        for index in set(places[:, column].tolist()):
            rows = np.flatnonzero(places[:, column] == index)
            free[rows, column], keys[rows, column] = positions[index].first_parameters(orbit[rows])
    keys = keys + classes * (_LAST + 1)
    order = keys.argsort(axis=1, kind="stable")
    keys = np.take_along_axis(keys, order, 1)
    ranked = [*keys.T[::-1]]
    if images.polar:  # first of all, the orbit that set the origin shall be the first
        leading = free[np.arange(len(free)), order[:, 0]][:, images.polar]
        ranked.append((np.abs(leading - POLAR_ORIGIN) > _SNAP).any(1))
    best = int(np.lexsort(ranked)[0])
    order = order[best]
    parameters = free[best, order].round(_DIGITS)
    parameters[(parameters < _SNAP) | (parameters > 1 - _SNAP)] = 0
    elements = [crystal.elements[column] for column in order]
    return _Orbits(crystal.number, elements, places[best, order], parameters, crystal.metric)


def _polar_origins(
    k: int, classes: IntArray, points: Sequence[FloatArray], number: int, polar: Sequence[int]
) -> FloatArray:
    """Shifts (n, 3) that put a point of a first orbit of image k to `POLAR_ORIGIN` along the polar axes."""
    positions = _positions(number)
    places = []
    for column in np.flatnonzero(classes[k] == classes[k].min()):
        values, keys = positions[classes[k, column] % len(positions)].parameters(points[column][k])
        places.append(values[keys < _LAST])
    shifts = np.zeros((sum(map(len, places)), 3))
    shifts[:, polar] = POLAR_ORIGIN - np.concatenate(places)[:, polar]
    _, different = np.unique(np.rint(shifts * _STEPS) % _STEPS, axis=0, return_index=True)
    return shifts[different]


@lru_cache(maxsize=256)
def _images(number: int) -> _Images:
    """All images, not only generators as in `SpaceGroup.normaliser`: many keep the positions and move the atoms."""
    group = space_group(number)
    rotations = group.operations[:, :, :3].numpy()
    polar = [axis for axis in range(3) if (rotations[:, :, axis] == np.eye(3)[axis]).all()]
    steps = [np.arange(1 if axis in polar else TRANSLATION_GRID) / TRANSLATION_GRID for axis in range(3)]
    grid = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    shifts = {_modulo_lattice(shift, group, polar): shift for shift in _origins(np.eye(3), grid, group)}
    images, seen = [], set[bytes]()
    for change in _lattice_symmetries(group):
        if change.tobytes() in seen:
            continue
        seen |= {(rotation @ change + 0.0).tobytes() for rotation in rotations}  # + 0: there is no -0
        origins = _origins(change, grid, group)
        if len(origins):
            images += [(change, origins[0] + shift) for shift in shifts.values()]
    changes, translations = (np.array(part) for part in zip(*images, strict=True))
    return _Images(changes, translations, _permutations(number, changes, translations), polar)


def _lattice_symmetries(group: SpaceGroup) -> list[FloatArray]:
    """Changes of axes (3, 3) that keep any lattice of the group, the identity first."""
    rotations = group.operations[:, :, :3].numpy()
    generic = np.array([[1.0, 0.13, 0.17], [0.13, 1.7, 0.29], [0.17, 0.29, 2.9]])
    metric = np.mean(rotations.transpose(0, 2, 1) @ generic @ rotations, axis=0)
    changes = _unimodular()
    kept = np.abs(changes.transpose(0, 2, 1) @ metric @ changes - metric).max((1, 2)) < 1e-9
    centring = group.centring_translations.numpy()
    found = [change for change in changes[kept] if _on_lattice(centring @ change.T, group).all()]
    return sorted(found, key=lambda change: not (change == np.eye(3)).all())


@lru_cache(maxsize=1)
def _unimodular() -> FloatArray:
    """All matrices (n, 3, 3) of 1, 0 and -1 with determinant +-1."""
    matrices = np.array(list(product((1.0, 0.0, -1.0), repeat=9))).reshape(-1, 3, 3)
    chosen: FloatArray = matrices[np.abs(np.linalg.det(matrices)).round() == 1]
    return chosen


def _origins(change: FloatArray, grid: FloatArray, group: SpaceGroup) -> FloatArray:
    """Translations of a grid (n, 3) that together with a change of axes map the group onto itself."""
    operations = group.operations.numpy()
    for operation in operations[1:]:  # the first is the identity
        rotation = change @ operation[:, :3] @ np.linalg.inv(change)
        same = np.abs(operations[:, :, :3] - rotation).max((1, 2)) < 1e-9
        if not same.any():
            return grid[:0]
        wanted = operations[same.argmax(), :, 3] - change @ operation[:, 3]
        grid = grid[_on_lattice(grid - grid @ rotation.T - wanted, group)]
    return grid


def _on_lattice(points: FloatArray, group: SpaceGroup) -> npt.NDArray[np.bool_]:
    off = points[..., None, :] - group.centring_translations.numpy()
    return np.asarray((np.abs(off - np.rint(off)).max(-1) < 1e-6).any(-1))


def _modulo_lattice(shift: FloatArray, group: SpaceGroup, polar: Sequence[int]) -> tuple[int, ...]:
    steps = np.rint((shift + group.centring_translations.numpy()) * TRANSLATION_GRID).astype(int) % TRANSLATION_GRID
    steps[:, polar] = 0
    return tuple(min(steps.tolist()))


def _permutations(number: int, changes: FloatArray, translations: FloatArray) -> IntArray:
    """Where images (K) take the positions (P) of a group, (K, P)."""
    positions = _positions(number)
    result = np.full((len(changes), len(positions)), -1)
    for i, position in enumerate(positions):
        orbit = position.maps[:, :, :3] @ np.sqrt([0.0171, 0.0513, 0.1137]) + position.maps[:, :, 3]
        points = orbit @ changes.transpose(0, 2, 1) + translations[:, None]
        for j, other in enumerate(positions):
            if len(other.maps) == len(position.maps) and len(other.axes) == len(position.axes):
                result[other.first_parameters(points)[1] < _LAST, i] = j
    return result
