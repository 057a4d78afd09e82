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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from envs.chemistry import ATOMIC_NUMBERS, SYMBOLS
from envs.crystal_batch import CrystalBatch, lattice_vectors
from envs.crystal_normaliser import PARAMETER_DIGITS, canonical_orbits
from envs.crystal_orbits import FloatArray, Orbits, PositionReader, position_readers
from envs.formula import CompositionBatch, reduce_amounts, write_formula
from envs.wyckoff import space_group

if TYPE_CHECKING:
    from pymatgen.core import Structure

SHORTEST_DISTANCE = 0.5
"""Atoms nearer than this (A) overlap."""
_SLACK = 4  # an atom may be so many tolerances from where the others want it: spglib compares pairs of atoms


@dataclass(frozen=True)
class Standardised:
    """What became of structures."""

    crystals: CrystalBatch
    """Those that have a description, in the order given, without oxidation states."""
    reasons: list[str | None]
    """For each structure None, or why it has none, as "kind: detail" with kind disorder, element, overlap or
    symmetry."""


def standardise(structures: Sequence[Structure], tolerance: float = 0.01) -> Standardised:
    """Describe structures in the standard settings of their space groups.

    The description is unique up to the choice of axes, which is spglib's: axes that the group would let exchange
    (orthorhombic), and other monoclinic or triclinic cells of the same lattice, are not compared. Origins, and axes
    that the lattice itself cannot tell apart, are: of all images of the crystal that have the same lattice parameters,
    mirror images included, the one whose occupied letters come first (`SpaceGroup.canonical_letters` with
    `keep_lattice`), then the one with the smallest free parameters, each orbit described by the smallest ones in
    [0, 1) that generate it. Where the group leaves the origin free along an axis, the first orbit has the coordinate
    `envs.crystal_normaliser.POLAR_ORIGIN` there. Orbits stand in the order of their elements (ascending
    electronegativity), positions and parameters.

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
        _batch([orbits for orbits in found if isinstance(orbits, Orbits)]),
        [orbits if isinstance(orbits, str) else None for orbits in found],
    )


def _batch(crystals: Sequence[Orbits]) -> CrystalBatch:
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
        cells[row] = torch.from_numpy(np.concatenate([lengths, np.rad2deg(np.arccos(cosines))]).round(PARAMETER_DIGITS))
        amounts: dict[str, float] = {}
        for z, index in zip(crystal.elements, crystal.positions.tolist(), strict=True):
            multiplicity = space_group(crystal.number).positions[index].multiplicity
            amounts[SYMBOLS[z - 1]] = amounts.get(SYMBOLS[z - 1], 0) + multiplicity
        formulas.append(write_formula(reduce_amounts(amounts)))
    numbers = torch.tensor([crystal.number for crystal in crystals], dtype=torch.long)
    compositions = CompositionBatch.from_formulas(formulas)
    return CrystalBatch(compositions, numbers, element, position, free, lattice_vectors(cells))


def _describe(structure: Structure, tolerance: float) -> Orbits | str:
    """The canonical orbits of a structure, or the reason why there are none."""
    reason = _refusal(structure)
    if reason:
        return reason
    for factor in (1, 0.1, 0.01):
        orbits = _find_orbits(structure, tolerance * factor)
        if isinstance(orbits, Orbits):
            return canonical_orbits(orbits)
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


def _find_orbits(structure: Structure, tolerance: float) -> Orbits | str:
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
            parameters = _fit(position_readers(group.number)[index], atoms, cell, _SLACK * tolerance)
            if parameters is not None:
                break
        else:
            return f"the {SYMBOLS[z - 1]} atoms fit no Wyckoff position of {group.symbol} at {tolerance:g} A"
        elements.append(z)
        positions.append(index)
        free.append(parameters)
    return Orbits(group.number, elements, np.array(positions), np.array(free), metric)


def _fit(position: PositionReader, points: FloatArray, lattice: FloatArray, limit: float) -> FloatArray | None:
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
