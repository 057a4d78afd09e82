"""Figures on a list of crystal structures: validity, distances, symmetry, uniqueness, novelty, distance to the hull."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from agent.evaluation_compositions import Recovery
from envs.chemistry import ATOMIC_NUMBERS
from envs.formula import CompositionBatch, reduced_formula
from surrogates.charge_balance import cdvae_validity
from surrogates.duplicates import first_equals
from surrogates.progress import progress_bar
from surrogates.symmetry_check import AS_BUILT, find_space_group

if TYPE_CHECKING:
    from pymatgen.core import Lattice, Structure

CLOSEST_VALID = 0.5
"""A; CDVAE's smallest distance of two atoms."""
SMALLEST_VALID = 0.1
"""A3; CDVAE's smallest volume of a cell."""
NEAR_HULL = 0.1
"""eV/atom."""
MOST_COMPARED = 200
"""Atoms of a cell above which structures are not compared with others."""
_ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class RelaxedFigures:
    """How structures fare in a relaxation."""

    converged: float
    """Share whose relaxation converged, of all structures."""
    near_hull: float
    """Share within `NEAR_HULL` of the hull once relaxed, of all structures."""
    source: str
    """What relaxed them, and what the hull is."""


@dataclass(frozen=True)
class StructureFigures:
    """Figures on N ordered structures, N at least 1."""

    n: int
    not_measured: int
    """Structures that are partially occupied, not finite or of no known elements, and so not among the N."""
    valid: float
    """Every two sites at least 0.5 A apart and at least 0.1 A3 of volume, CDVAE's test; of all N."""
    valid_with_composition: float
    """Of all N, those that pass CDVAE's tests of structure and of composition."""
    closest_distance: tuple[float, float, float] | None
    """Lowest, median and highest distance of the two nearest atoms, periodic images included, A; of the valid ones."""
    space_groups: Mapping[str, int]
    """How many of the valid ones have a space group, most common first: {"225 Fm-3m": 3}."""
    p1: float | None
    """Of the valid ones with a space group found, those with P1."""
    compared: int
    """Valid structures of at most `MOST_COMPARED` atoms; the others are in neither of the next two."""
    unique: float | None
    """Of the compared ones, how many remain when of equal structures one is kept."""
    novel: float | None
    """Of these, the share that equals no structure of the reference."""
    reference: str
    """What the reference is."""
    recovery: Recovery | None
    """None without structures that were held out."""
    relaxed: RelaxedFigures | None
    """None when nothing was relaxed."""


@dataclass(frozen=True, eq=False)
class ReferenceStructures:
    """What the novelty of structures refers to."""

    structures: Sequence[Structure] | None
    """None: those embedded."""
    description: str

    @classmethod
    def embedded(cls) -> ReferenceStructures:
        """Return the embedded relaxed structures."""
        from surrogates.reference_export import read_reference_structures

        n = len(read_reference_structures())
        return cls(
            None,
            f"the structures embedded in MatSmith: one relaxed structure for each of {n:,} compositions, so another "
            "polymorph of a known compound (diamond Si) counts as novel, as do compounds not among them (pyrite)",
        )


def measure_structures(
    structures: Sequence[Structure],
    reference: ReferenceStructures,
    holdout: Sequence[Structure] | None = None,
    relax: bool = False,
    progress: bool = False,
) -> StructureFigures | None:
    """Return the figures of structures; None when none of them can be measured.

    Equal are structures of one reduced formula that pymatgen's StructureMatcher maps onto each other.

    Args:
        structures: Any pymatgen structures.
        reference: What novelty refers to.
        holdout: Structures that are to be found again.
        relax: Whether to relax all of them with CHGNet and compare with the embedded hull.
        progress: Whether to show bars on standard error.
    """
    plain = [found for found in map(plain_structure, structures) if found is not None]
    if not plain:
        return None
    valid, distances, groups = [], [], []
    with progress_bar(progress, len(plain), "distances and symmetry", "structure") as advance:
        for structure in plain:
            between_sites, closest = closest_distances(structure)
            valid.append(between_sites >= CLOSEST_VALID and abs(structure.volume) >= SMALLEST_VALID)
            if valid[-1]:
                distances.append(closest)
                groups.append(find_space_group(structure, AS_BUILT))
            advance(1)
    compositions = CompositionBatch.from_formulas(_formula(structure) for structure in plain)
    both = [a and b for a, b in zip(valid, cdvae_validity(compositions).tolist(), strict=True)]
    compared = [s for s, is_valid in zip(plain, valid, strict=True) if is_valid and len(s) <= MOST_COMPARED]
    known = _reference_of(reference, compared)
    classes = set(_classes(known, compared, progress, "compared"))
    found_groups = Counter(f"{group.number} {group.symbol}" for group in groups if group is not None)
    return StructureFigures(
        n=len(plain),
        not_measured=len(structures) - len(plain),
        valid=sum(valid) / len(plain),
        valid_with_composition=sum(both) / len(plain),
        closest_distance=(min(distances), median(distances), max(distances)) if distances else None,
        space_groups=dict(sorted(found_groups.items(), key=lambda entry: (-entry[1], int(entry[0].split()[0])))),
        p1=found_groups["1 P1"] / found_groups.total() if found_groups else None,
        compared=len(compared),
        unique=len(classes) / len(compared) if compared else None,
        novel=sum(one >= len(known) for one in classes) / len(classes) if classes else None,
        reference=reference.description,
        recovery=None if holdout is None else _recovery(compared, holdout, progress),
        relaxed=_relax(plain, progress) if relax else None,
    )


def plain_structure(structure: Structure) -> Structure | None:
    """Return an ordered structure of elements alone, deuterium as hydrogen; None when it cannot be that."""
    from pymatgen.core import Structure

    if not len(structure) or not structure.is_ordered:
        return None
    symbols = [str(getattr(site.specie, "symbol", site.specie)) for site in structure]  # of deuterium, H
    finite = np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()
    if not finite or not all(symbol in ATOMIC_NUMBERS for symbol in symbols):
        return None
    return Structure(structure.lattice, symbols, structure.frac_coords)


def closest_distances(structure: Structure) -> tuple[float, float]:
    """Return the smallest distance between two sites, and that between any two atoms, periodic images included, A.

    The first is infinite for a single site. Both are 0 in a cell of less than `SMALLEST_VALID`.
    """
    lattice, positions = structure.lattice, structure.frac_coords
    if abs(lattice.volume) < SMALLEST_VALID:
        return 0.0, 0.0
    closest = np.inf
    for start in range(0, len(positions), _ROWS_AT_ONCE):
        part = lattice.get_all_distances(positions[start : start + _ROWS_AT_ONCE], positions)
        rows = np.arange(len(part))
        part[rows, start + rows] = np.inf
        closest = min(closest, float(part.min()))
    return closest, min(closest, _shortest_vector(lattice))


def _shortest_vector(lattice: Lattice) -> float:
    """Return the length of the shortest lattice vector; up to twice each edge of the reduced lattice are tried."""
    steps = np.array([step for step in product(range(-2, 3), repeat=3) if any(step)])
    return float(np.linalg.norm(steps @ lattice.get_lll_reduced_lattice().matrix, axis=1).min())


def _formula(structure: Structure) -> str:
    return str(structure.composition.formula).replace(" ", "")


def _reduced(structure: Structure) -> str:
    return str(structure.composition.reduced_formula)


def _reference_of(reference: ReferenceStructures, compared: Sequence[Structure]) -> list[Structure]:
    """Return the structures of the reference that have a formula of the compared ones."""
    formulas = {_reduced(structure) for structure in compared}
    if reference.structures is not None:
        plain = [found for found in map(plain_structure, reference.structures) if found is not None]
        return [structure for structure in plain if _reduced(structure) in formulas]
    from surrogates.reference_export import read_reference_structures

    held = read_reference_structures()
    entries = [held.get(reduced_formula(formula)) for formula in sorted(formulas)]
    return [entry.structure for entry in entries if entry is not None]


def _classes(leading: Sequence[Structure], following: Sequence[Structure], progress: bool, what: str) -> list[int]:
    """Return for each following structure the index of its first equal within leading + following, or its own."""
    rows: dict[str, list[int]] = {}
    for row, structure in enumerate(following):
        rows.setdefault(_reduced(structure), []).append(row)
    before: dict[str, list[int]] = {}
    for row, structure in enumerate(leading):
        before.setdefault(_reduced(structure), []).append(row)
    result = [0] * len(following)
    with progress_bar(progress, len(following), what, "structure") as advance:
        for formula, own in rows.items():
            places = before.get(formula, []) + [len(leading) + row for row in own]
            group = [leading[row] for row in before.get(formula, [])] + [following[row] for row in own]
            equals = first_equals(group)[-len(own) :]
            for row, equal in zip(own, equals, strict=True):
                result[row] = len(leading) + row if equal is None else places[equal]
            advance(len(own))
    return result


def _recovery(found: Sequence[Structure], holdout: Sequence[Structure], progress: bool) -> Recovery:
    plain = [one for one in map(plain_structure, holdout) if one is not None and len(one) <= MOST_COMPARED]
    # Held-out structures that are equal count once.
    distinct = sorted(set(_classes([], plain, progress, "held out")))
    classes = _classes(found, [plain[row] for row in distinct], progress, "found again")
    return Recovery(len(distinct), sum(one < len(found) for one in classes))


def _relax(structures: Sequence[Structure], progress: bool) -> RelaxedFigures:
    from surrogates.structure_funnel import FunnelOptions, StructureFunnel

    options = FunnelOptions(charge_rules=False, max_atoms=MOST_COMPARED, max_e_above_hull=NEAR_HULL)
    result = StructureFunnel(options=options).run(structures, progress=progress)
    if result.interrupted:
        raise KeyboardInterrupt
    near = (result.table["e_above_hull_eV_per_atom"] <= NEAR_HULL).sum()
    converged = sum(structure is not None for structure in result.structures)
    return RelaxedFigures(converged / len(structures), int(near) / len(structures), result.source)
