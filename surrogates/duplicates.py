"""Which structures are the same crystal, by pymatgen's StructureMatcher, among themselves and among the reference ones.

Two structures are the same when their atoms can be mapped onto each other after both were scaled to the same volume,
with the matcher's own tolerances (0.2 in lengths, 0.3 of the free length per atom in positions, 5 degrees): small
distortions, as between cubic and tetragonal BaTiO3, do not count as different.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymatgen.core import Structure


def same_structure(first: Structure, second: Structure) -> bool:
    """Return whether two ordered structures are the same crystal; charges on the sites do not count."""
    return _same_reduced(_reduced(first), _reduced(second))


def first_equals(structures: Sequence[Structure | None]) -> list[int | None]:
    """Return for each structure the index of the first one that is the same, None where there is none before it.

    Args:
        structures: N structures; None is equal to nothing.
    """
    firsts: dict[tuple[str, int], list[tuple[int, Structure]]] = {}
    result: list[int | None] = []
    for row, structure in enumerate(structures):
        if structure is None:
            result.append(None)
            continue
        reduced = _reduced(structure)
        known = firsts.setdefault((_formula(structure), len(reduced)), [])
        equal = next((index for index, other in known if _same_reduced(reduced, other)), None)
        if equal is None:
            known.append((row, reduced))
        result.append(equal)
    return result


def _reduced(structure: Structure) -> Structure:
    """Return the Niggli-reduced primitive cell, as the matcher makes it for each comparison otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen's remarks on cells that it reduces
        try:
            return structure.get_primitive_structure().get_reduced_structure("niggli")
        except (ValueError, ArithmeticError):  # a very skewed cell
            return structure.get_reduced_structure("LLL")


def _same_reduced(first: Structure, second: Structure) -> bool:
    from pymatgen.analysis.structure_matcher import ElementComparator, StructureMatcher

    if len(first) != len(second):
        return False
    matcher = StructureMatcher(comparator=ElementComparator())
    return bool(matcher.fit(first, second, skip_structure_reduction=True))


def in_reference(structure: Structure) -> bool:
    """Return whether the structure is that of its composition among the embedded relaxed structures.

    Those are one a composition, the lowest in energy of the prototype library.
    """
    from envs.formula import reduced_formula
    from surrogates.reference_export import read_reference_structures

    held = read_reference_structures().get(reduced_formula(_formula(structure)))
    return held is not None and same_structure(structure, held.structure)


def _formula(structure: Structure) -> str:
    return str(structure.composition.element_composition.reduced_formula)
