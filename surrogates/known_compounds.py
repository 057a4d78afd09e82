"""Three compounds with well-known formation energies, to tell whether weights still mean what they did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymatgen.core import Lattice, Structure

KNOWN_ENERGIES: dict[str, float] = {"NaCl": -2.13, "MgO": -3.12, "Al2O3": -3.47}
"""Measured at 298 K, eV/atom (Chase, NIST-JANAF Thermochemical Tables, 4th ed., 1998)."""

TOLERANCE = 0.15
"""eV/atom."""


def known_structures() -> list[Structure]:
    """Return the compounds of `KNOWN_ENERGIES` at their PBE geometries."""
    from pymatgen.core import Lattice, Structure

    rocksalt = [[0, 0, 0], [0.5, 0.5, 0.5]]
    z, x = 0.3522, 0.5562  # Al on 4c and O on 6e of R-3c, rhombohedral axes
    aluminium = [[z] * 3, [0.5 - z] * 3, [-z] * 3, [0.5 + z] * 3]
    oxygen = [[x, 0.5 - x, 0.25], [0.25, x, 0.5 - x], [0.5 - x, 0.25, x]]
    oxygen += [[-a, -b, -c] for a, b, c in oxygen]
    return [
        Structure(_face_centred(5.69), ["Na", "Cl"], rocksalt),
        Structure(_face_centred(4.26), ["Mg", "O"], rocksalt),
        Structure(Lattice.rhombohedral(5.18, 55.32), ["Al"] * 4 + ["O"] * 6, aluminium + oxygen),
    ]


def _face_centred(a: float) -> Lattice:
    from pymatgen.core import Lattice

    return Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])


def energy_mismatch(energies: Sequence[float]) -> str | None:
    """Return how energies of `known_structures` (eV/atom) miss `KNOWN_ENERGIES`; None when they agree."""
    pairs = list(zip(KNOWN_ENERGIES.items(), energies, strict=True))
    if all(abs(energy - known) <= TOLERANCE for (_, known), energy in pairs):
        return None
    figures = ", ".join(f"{formula} {energy:.2f} (measured {known:.2f})" for (formula, known), energy in pairs)
    return f"{figures} eV/atom; expected within {TOLERANCE:g} eV/atom of the measured values"
