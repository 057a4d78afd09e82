"""The space group that a structure has, found by spglib, and its primitive cell."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure

AS_BUILT = 0.01
"""A; positions of structures in files are rounded."""
AS_RELAXED = 0.1
"""A; a relaxation stops while atoms are still a little off their places."""


@dataclass(frozen=True)
class FoundSpaceGroup:
    """A space group as spglib tells it."""

    number: int
    """1-230."""
    symbol: str
    """Short Hermann-Mauguin symbol, e.g. "Fm-3m"."""


def find_space_group(structure: Structure, tolerance: float = AS_BUILT) -> FoundSpaceGroup | None:
    """Return the space group of an ordered structure; None when spglib finds none.

    Args:
        structure: Charges and other properties of its sites do not count, elements do.
        tolerance: How far atoms may be off their places, A.
    """
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # spglib's own deprecations
        try:
            found = spglib.get_symmetry_dataset(_cell(structure), symprec=tolerance)
        except Exception:  # spglib's errors are of its own, changing types
            return None
    return None if found is None else FoundSpaceGroup(int(found.number), str(found.international))


def primitive_cell(structure: Structure, tolerance: float = AS_BUILT) -> Structure:
    """Return the primitive cell of an ordered structure with short, Niggli-reduced edges, elements alone.

    Nothing is moved onto ideal places. Where spglib finds no smaller cell it is the structure itself.
    """
    import spglib
    from pymatgen.core import Element, Structure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = spglib.standardize_cell(_cell(structure), to_primitive=True, no_idealize=True, symprec=tolerance)
        except Exception:  # as above
            found = None
    lattice, positions, numbers = _cell(structure) if found is None else found
    primitive = Structure(lattice, [Element.from_Z(int(number)) for number in numbers], positions)
    try:
        return primitive.get_reduced_structure("niggli")
    except ValueError:  # pymatgen gives up on some very skewed cells
        return primitive.get_reduced_structure("LLL")


def _cell(structure: Structure) -> tuple[Any, Any, list[int]]:
    numbers = [int(site.specie.Z) for site in structure]
    return np.asarray(structure.lattice.matrix), np.asarray(structure.frac_coords), numbers
