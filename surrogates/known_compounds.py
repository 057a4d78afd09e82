"""Three compounds with well-known formation energies, to tell whether weights still mean what they did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymatgen.core import Structure

KNOWN_ENERGIES: dict[str, float] = {"NaCl": -2.1, "MgO": -3.0, "Al2O3": -3.4}
"""Formation energies, eV/atom: PBE with the corrections of the Materials Project, rounded."""

TOLERANCE = 0.15
"""eV/atom."""


def known_structures() -> list[Structure]:
    """Return the compounds of `KNOWN_ENERGIES` at their PBE geometries."""
    from pymatgen.core import Lattice, Structure

    rocksalt = [[0, 0, 0], [0.5, 0.5, 0.5]]
    cells = [
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], rocksalt),
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.26), ["Mg", "O"], rocksalt),
        Structure.from_spacegroup(
            "R-3c", Lattice.hexagonal(4.81, 13.12), ["Al", "O"], [[0, 0, 0.3522], [0.3062, 0, 0.25]]
        ),
    ]
    return [cell.get_primitive_structure() for cell in cells]


def energy_mismatch(energies: Sequence[float]) -> str | None:
    """Return how energies of `known_structures` (eV/atom) miss `KNOWN_ENERGIES`; None when they agree."""
    pairs = list(zip(KNOWN_ENERGIES.items(), energies, strict=True))
    if all(abs(energy - known) <= TOLERANCE for (_, known), energy in pairs):
        return None
    figures = ", ".join(f"{formula} {energy:.2f} (known {known:g})" for (formula, known), energy in pairs)
    return f"{figures} eV/atom; expected within {TOLERANCE:g} eV/atom of the known values"
