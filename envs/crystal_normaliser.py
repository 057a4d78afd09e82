"""Images of a crystal under the Euclidean normaliser of its space group, and the first of them.

The normaliser holds the changes of origin and axes that map the group and the lattice onto themselves: the same
crystal, seen from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from envs.chemistry import SYMBOLS, formula_order
from envs.crystal_orbits import KEY_STEPS, LAST_KEY, FloatArray, IntArray, Orbits, position_readers
from envs.wyckoff import TRANSLATION_GRID, SpaceGroup, space_group

POLAR_ORIGIN = 0.5 / TRANSLATION_GRID
"""Coordinate of the first orbit along the directions in which the group leaves the origin free."""
PARAMETER_DIGITS = 10
"""Decimals of free parameters, without the noise of floating point."""
_SNAP = 5e-6  # half of the last digit of a text


@dataclass(frozen=True, eq=False)
class _Images:
    """Changes of origin and axes that keep space group and lattice parameters, one for each coset of the group."""

    rotations: FloatArray  # (K, 3, 3)
    translations: FloatArray  # (K, 3)
    permutations: IntArray  # (K, P): position i goes to position permutations[k, i]
    polar: list[int]  # axes along which any shift may be added


def canonical_orbits(crystal: Orbits) -> Orbits:
    """Return the same crystal in the first of its descriptions, as `envs.crystal_standard.standardise` defines it."""
    images, positions = _images(crystal.number), position_readers(crystal.number)
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
    keys = keys + classes * (LAST_KEY + 1)
    order = keys.argsort(axis=1, kind="stable")
    keys = np.take_along_axis(keys, order, 1)
    ranked = [*keys.T[::-1]]
    if images.polar:  # first of all, the orbit that set the origin shall be the first
        leading = free[np.arange(len(free)), order[:, 0]][:, images.polar]
        ranked.append((np.abs(leading - POLAR_ORIGIN) > _SNAP).any(1))
    best = int(np.lexsort(ranked)[0])
    order = order[best]
    parameters = free[best, order].round(PARAMETER_DIGITS)
    parameters[(parameters < _SNAP) | (parameters > 1 - _SNAP)] = 0
    elements = [crystal.elements[column] for column in order]
    return Orbits(crystal.number, elements, places[best, order], parameters, crystal.metric)


def _polar_origins(
    k: int, classes: IntArray, points: Sequence[FloatArray], number: int, polar: Sequence[int]
) -> FloatArray:
    """Shifts (n, 3) that put a point of a first orbit of image k to `POLAR_ORIGIN` along the polar axes."""
    positions = position_readers(number)
    places = []
    for column in np.flatnonzero(classes[k] == classes[k].min()):
        values, keys = positions[classes[k, column] % len(positions)].parameters(points[column][k])
        places.append(values[keys < LAST_KEY])
    shifts = np.zeros((sum(map(len, places)), 3))
    shifts[:, polar] = POLAR_ORIGIN - np.concatenate(places)[:, polar]
    _, different = np.unique(np.rint(shifts * KEY_STEPS) % KEY_STEPS, axis=0, return_index=True)
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
    positions = position_readers(number)
    result = np.full((len(changes), len(positions)), -1)
    for i, position in enumerate(positions):
        orbit = position.maps[:, :, :3] @ np.sqrt([0.0171, 0.0513, 0.1137]) + position.maps[:, :, 3]
        points = orbit @ changes.transpose(0, 2, 1) + translations[:, None]
        for j, other in enumerate(positions):
            if len(other.maps) == len(position.maps) and len(other.axes) == len(position.axes):
                result[other.first_parameters(points)[1] < LAST_KEY, i] = j
    return result
