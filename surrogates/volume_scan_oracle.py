"""A cheaper oracle than relaxation: the best energy against volume of the structure types, nothing relaxed.

    VolumeScanOracle().label(["SrTiO3"])                # formation_energy, e_above_hull, energy (eV/atom)

Its energies lie above those of relaxed structures, by little where symmetry leaves little but the volume to relax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from surrogates.base import Label
from surrogates.hull import ReferenceHull
from surrogates.oracle import RelaxationOracle, _names
from surrogates.potential import CHGNetPotential, Potential
from surrogates.relaxation import Relaxation, RelaxationOptions
from surrogates.volume_scan import scan_volumes

if TYPE_CHECKING:
    from pymatgen.core import Structure


class VolumeScanOracle(RelaxationOracle):
    """CHGNet's energy against volume in the structure types of a formula; the elements are relaxed.

    Labels hold formation_energy, e_above_hull and energy (eV/atom) and volume (A^3/atom), and the unrelaxed structure.
    A structure that is given is scanned as it is.

    Args:
        weights: Version of the weights: 0.3.0, 0.2.0 or r2scan.
        options: How the elements are relaxed.
        hull: What e_above_hull refers to; the embedded hull when None.
        check: Whether to compare NaCl, MgO and Al2O3, relaxed, with experiment first (seconds).
        potential: Another one than CHGNet.

    Raises:
        ValueError: No such weights, or they miss a known compound.
    """

    cost = 3.0
    """0.15 times that of relaxation (measured: 0.12 over formulas drawn from the prior, 0.33 over known ones, which
    have simpler and more structure types)."""

    def __init__(
        self,
        weights: str = "0.3.0",
        options: RelaxationOptions | None = None,
        hull: ReferenceHull | None = None,
        check: bool = True,
        potential: Potential | None = None,
    ) -> None:
        super().__init__(potential or CHGNetPotential(weights), options, hull, relaxed_per_formula=1, check=check)
        self.name = f"{self.potential.name} volume scan"

    def label(self, materials: Sequence[Any]) -> list[Label]:
        """Return one label per material, in order.

        Args:
            materials: Formulas, or pymatgen structures whose volume is scanned.
        """
        named = zip(_names(materials), materials, strict=True)
        return [self._scanned(name, self._starting_structures(material)) for name, material in named]

    def _starting_structures(self, material: Any) -> list[tuple[str, Structure]] | str:
        """Return the structure type with the lowest energy, at its best volume, or why there is none."""
        found = super()._starting_structures(material)
        if isinstance(found, str) or isinstance(material, str):
            return found
        prototype, structure = found[0]
        scan = scan_volumes([structure], self.potential)[0]
        if scan.failure is not None:
            return scan.failure
        structure.scale_lattice(scan.volume * len(structure))
        return [(prototype, structure)]

    def _scanned(self, name: str, found: list[tuple[str, Structure]] | str) -> Label:
        if isinstance(found, str):
            return Label(name, failure=found)
        prototype, structure = found[0]
        energy = float(self.potential.energies([structure])[0])
        label = self._label(name, [(prototype, Relaxation(structure, energy, 0, False, None))])
        return replace(label, steps=None, converged=None)
