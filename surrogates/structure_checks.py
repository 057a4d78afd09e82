"""What makes a crystal structure unfit for a model or an oracle, said in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from envs.chemistry import ATOMIC_NUMBERS

if TYPE_CHECKING:
    from pymatgen.core import Lattice, Structure

CLOSEST_APPROACH = 0.5
"""Å; atoms nearer than this, periodic images included, overlap."""


def structure_problem(structure: Structure) -> str | None:
    """Return why an energy of this structure would mean nothing, in a few words; None when it looks sound.

    Found are: something else than a pymatgen structure, no atoms, a lattice or a position that is not finite, zero
    volume, species that are no element (1-103), partial occupancy, and atoms within `CLOSEST_APPROACH` of each other or
    of their own periodic images.
    """
    from pymatgen.core.structure import IStructure

    if not isinstance(structure, IStructure):
        return f"expected a pymatgen Structure, not {type(structure).__name__}"
    if not len(structure):
        return "the structure has no atoms"
    if not np.isfinite(structure.lattice.matrix).all():
        return "the lattice is not finite"
    if not np.isfinite(structure.frac_coords).all():
        site = int((~np.isfinite(structure.frac_coords)).any(1).argmax())
        return f"the position of site {site + 1} is not finite"
    return _occupancy_problem(structure) or _lattice_problem(structure.lattice) or _distance_problem(structure)


def _occupancy_problem(structure: Structure) -> str | None:
    for number, site in enumerate(structure, start=1):
        if not site.is_ordered:
            return f"site {number} is partially occupied ({site.species_string})"
        if _symbol(site.specie) not in ATOMIC_NUMBERS:
            return f"{site.species_string} on site {number} is not a chemical element"
    return None


def _symbol(species: object) -> str:
    return str(getattr(species, "symbol", species))


def _lattice_problem(lattice: Lattice) -> str | None:
    """Also keeps the neighbour search small: no plane spacing of the reduced lattice is below ~0.1 Å afterwards."""
    volume = abs(float(lattice.volume))
    # By Minkowski's bound some lattice vector is shorter than (√2 V)^(1/3).
    if not 2**0.5 * volume > CLOSEST_APPROACH**3:
        return f"the cell has a volume of {volume:.3g} Å3"
    shortest = min(lattice.get_lll_reduced_lattice().abc)
    if shortest < CLOSEST_APPROACH:
        return f"atoms are {shortest:.2f} Å from their own periodic images; expected at least {CLOSEST_APPROACH:g} Å"
    return None


def _distance_problem(structure: Structure) -> str | None:
    from pymatgen.core import Structure

    reduced = structure.lattice.get_lll_reduced_lattice()
    same = Structure(
        reduced, structure.species, structure.cart_coords, coords_are_cartesian=True, to_unit_cell=True
    )  # the search in a skewed cell would visit very many images
    centres, neighbours, _, distances = same.get_neighbor_list(CLOSEST_APPROACH)
    if not len(distances):
        return None
    closest = int(distances.argmin())
    first, second = sorted((int(centres[closest]), int(neighbours[closest])))
    names = f"{_symbol(structure[first].specie)} and {_symbol(structure[second].specie)}"
    return (
        f"{names} (sites {first + 1} and {second + 1}) are {distances[closest]:.2f} Å apart; "
        f"expected at least {CLOSEST_APPROACH:g} Å"
    )
