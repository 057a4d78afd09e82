"""What the tests of crystals share: spaces, and the independent truth (pymatgen, ASE, spglib's database)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import spglib
import torch
from ase.data import atomic_numbers, covalent_radii
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray
from pymatgen.core import Element, Lattice, Structure
from torch import Tensor

from envs.chemistry import oxidation_states
from envs.composition import CompositionSpace
from envs.crystal import CrystalSpace
from envs.element_sizes import element_sizes
from envs.formula import parse_formula
from envs.wyckoff import space_group

FloatArray = NDArray[np.float64]

SHORTEST = 0.7
HYDRIDE_RADIUS = 1.40
CURIUM = 96
"""The last element whose covalent radius Cordero et al. give."""


@lru_cache
def default_crystal_space() -> CrystalSpace:
    return CrystalSpace()


@lru_cache
def free_crystal_space() -> CrystalSpace:
    """No rules of charge, three elements: any counts, so that crowded cells and all groups are common."""
    composition = CompositionSpace(
        ["Na", "O", "Cl"], min_elements=1, max_elements=3, max_count=20, charge_neutral=False
    )
    return CrystalSpace(composition)


def rollout(space: CrystalSpace, state: Tensor, seed: int) -> Tensor:
    """Finish states by the uniform policy, one full mask a step; fails when a mask strands a row."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(space.max_steps):
        if bool(space.is_finished(state).all()):
            break
        mask = space.mask(state)
        assert bool(mask.any(1).all()), f"stuck at {space.columns.stage}"
        state = space.step(state, torch.multinomial(mask.float(), 1, generator=generator).squeeze(1))
    assert bool(space.is_finished(state).all())
    return state


def prefixes(space: CrystalSpace, actions: Tensor) -> list[Tensor]:
    """The states after 0, 1, 2, ... actions."""
    states = [space.initial(len(actions))]
    for column in actions.T:
        states.append(space.step(states[-1], column))
    return states


# Charges


@lru_cache(maxsize=100_000)
def neutral_choices(formula: str, states_of: str = "icsd24") -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """All choices (n, elements) of one oxidation state an element that make a formula neutral, by trying every one."""
    amounts, states = parse_formula(formula), oxidation_states(states_of)
    symbols = tuple(amounts)
    grid = np.meshgrid(*[np.array(states[symbol]) for symbol in symbols], indexing="ij")
    every = np.stack([axis.ravel() for axis in grid], axis=1)
    return symbols, every[every @ np.array([int(amounts[symbol]) for symbol in symbols]) == 0]


def closed_shell_anions(formula: str) -> frozenset[str]:
    """Elements with the radius of an anion that take their lowest, negative state in every neutral choice."""
    symbols, choices = neutral_choices(formula)
    states = oxidation_states()
    return frozenset(
        symbol
        for column, symbol in enumerate(symbols)
        if min(states[symbol]) < 0 and (choices[:, column] == min(states[symbol])).all() and anion_radius(symbol)
    )


# Distances


def anion_radius(symbol: str) -> float:
    """Shannon's ionic radius of the closed-shell anion: pymatgen's crystal radius + 0.14 A (Shannon 1976)."""
    if symbol == "H":
        return HYDRIDE_RADIUS
    group, row = Element(symbol).group, Element(symbol).row
    if group not in (15, 16, 17) or (group == 15 and row > 2) or symbol in ("Po", "At", "Ts", "Lv"):
        return 0.0
    return float(Element(symbol).ionic_radii[group - 18]) + 0.14


def covalent_radius(symbol: str) -> float:
    """Cordero's radius from ASE; beyond curium, where there is none, what the space's table says."""
    z = atomic_numbers[symbol]
    return float(covalent_radii[z] if z <= CURIUM else element_sizes().covalent_radius[z])


def pair_limit(first: str, second: str, closed: frozenset[str], fraction: float = 0.75) -> float:
    """The least distance that the space states, from radii of ASE and pymatgen."""
    if first in closed and second in closed:
        radii = anion_radius(first) + anion_radius(second)
    else:
        radii = covalent_radius(first) + covalent_radius(second)
    return max(SHORTEST, fraction * radii)


def least_ratio_to_limit(structure: Structure, limits: Mapping[tuple[str, str], float]) -> float:
    """The least distance over its limit, over all pairs of atoms and all images, those of an atom itself among them."""
    symbols = [str(getattr(specie, "element", specie)) for specie in structure.species]
    table = np.array([[limits[a, b] for b in symbols] for a in symbols])
    if structure.volume > 20_000:  # lists of neighbours would take minutes
        distances = structure.distance_matrix + np.diag(np.full(len(structure), np.inf))
        shortest = np.linalg.norm(minkowski_reduce(structure.lattice.matrix)[0], axis=1).min()
        return float(min((distances / table).min(), (shortest / np.diag(table)).min()))
    radius = table.max() * 1.05
    while True:  # until no other pair can be the one
        first, second, _, distances = structure.get_neighbor_list(radius, exclude_self=True)
        if len(distances):
            ratio = float((distances / table[first, second]).min())
            if ratio * table.max() <= radius:
                return ratio
        radius *= 1.6


def ratio_to_stated_limits(structure: Structure, closed: frozenset[str], fraction: float = 0.75) -> float:
    symbols = sorted({str(getattr(specie, "element", specie)) for specie in structure.species})
    limits = {(a, b): pair_limit(a, b, closed, fraction) for a in symbols for b in symbols}
    return least_ratio_to_limit(structure, limits)


# Symmetry


@contextmanager
def without_warnings_of_spglib() -> Iterator[None]:
    """Its old way of reporting errors warns of the new one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@lru_cache
def database_operations(number: int) -> tuple[NDArray[np.int64], FloatArray]:
    """Rotations and translations of a space group's standard setting, from spglib's database."""
    with without_warnings_of_spglib():
        found = spglib.get_symmetry_from_database(space_group(number).hall_number)
    return found["rotations"], found["translations"]


def has_operations(structure: Structure, number: int, tolerance: float = 1e-4) -> bool:
    """Whether every operation of a space group maps a conventional cell onto itself, lattice and atoms (A)."""
    lattice, points = structure.lattice.matrix, structure.frac_coords
    metric = lattice @ lattice.T
    numbers = np.array(structure.atomic_numbers)
    for rotation, translation in zip(*database_operations(number), strict=True):
        if not np.allclose(rotation.T @ metric @ rotation, metric, rtol=1e-8, atol=1e-6 * metric.max()):
            return False
        difference = (points @ rotation.T + translation)[:, None] - points[None]
        distance = np.linalg.norm((difference - np.rint(difference)) @ lattice, axis=-1)
        alike = numbers[:, None] == numbers[None]
        if not ((distance < tolerance) & alike).any(1).all():
            return False
    return True


def found_group(structure: Structure, tolerance: float = 0.01) -> int:
    """Number of the space group that spglib finds."""
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    with without_warnings_of_spglib():
        found = spglib.get_spacegroup(cell, symprec=tolerance)
    return int(found.split("(")[1].rstrip(")"))


def found_operations(structure: Structure, tolerance: float = 0.01) -> int:
    """Number of the operations that spglib finds, for each lattice point of the given cell."""
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    with without_warnings_of_spglib():
        return len(spglib.get_symmetry_dataset(cell, symprec=tolerance).rotations)


def occupied_letters(structure: Structure, tolerance: float = 0.01) -> dict[str, str]:
    """Letters that each element occupies, one for each orbit, in the canonical choice of origin and axes."""
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    with without_warnings_of_spglib():
        found = spglib.get_symmetry_dataset(cell, symprec=tolerance)
    symbols = [str(getattr(specie, "element", specie)) for specie in structure.species]
    orbits: dict[str, str] = {}
    for first in dict.fromkeys(found.crystallographic_orbits.tolist()):
        orbits[symbols[first]] = orbits.get(symbols[first], "") + found.wyckoffs[first]
    order = sorted(orbits)
    canonical = space_group(found.number).canonical_letters(["".join(sorted(orbits[s])) for s in order])
    return dict(zip(order, canonical, strict=True))


# Known crystals


@lru_cache
def known_structures() -> dict[str, Structure]:
    """Textbook crystals, conventional cells; pymatgen's settings are those of origin choice 1."""

    def build(number: int, lattice: Lattice, species: Sequence[str], points: Sequence[Sequence[float]]) -> Structure:
        return Structure.from_spacegroup(space_group(number).symbol, lattice, species, points)

    return {
        "rutile": build(136, Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
        "anatase": build(141, Lattice.tetragonal(3.785, 9.514), ["Ti", "O"], [[0, 0, 0], [0, 0, 0.2081]]),
        "perovskite": build(221, Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]),
        "rocksalt": build(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        "fluorite": build(225, Lattice.cubic(5.463), ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
        "spinel": build(
            227,
            Lattice.cubic(8.083),
            ["Mg", "Al", "O"],
            [[0, 0, 0], [0.625, 0.625, 0.625], [0.3874, 0.3874, 0.3874]],
        ),
        "wurtzite": build(186, Lattice.hexagonal(3.82, 6.26), ["Zn", "S"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.3748]]),
        "corundum": build(167, Lattice.hexagonal(4.759, 12.991), ["Al", "O"], [[0, 0, 0.3522], [0.3063, 0, 0.25]]),
    }
