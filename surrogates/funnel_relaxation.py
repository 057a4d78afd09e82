"""The rungs "relaxed" and "hull" of the validation funnel: relaxation, formation energy, distance to the hull."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from envs.formula import CompositionBatch
from surrogates.funnel_records import Record, atoms_by_element
from surrogates.hull import ReferenceHull
from surrogates.potential import Potential
from surrogates.progress import progress_bar
from surrogates.relaxation import Relaxation, RelaxationOptions, relax
from surrogates.symmetry_check import AS_RELAXED, find_space_group


class FunnelRelaxation:
    """Relaxes structures and places each on the hull as soon as it is relaxed.

    Args:
        potential: What relaxes.
        hull: What distances refer to.
        own_scale: Whether the hull holds energies of this very potential; otherwise the pure elements are relaxed with
            it, so that formation energies are consistent, if not the hull.
        options: How structures are relaxed.
        max_e_above_hull: Largest distance that passes, eV/atom; any when None.
    """

    def __init__(
        self,
        potential: Potential,
        hull: ReferenceHull,
        own_scale: bool,
        options: RelaxationOptions,
        max_e_above_hull: float | None,
    ) -> None:
        self._potential = potential
        self._hull = hull
        self._own_scale = own_scale
        self._options = options
        self._limit = max_e_above_hull
        self._element_energies: dict[str, float | str] = {}

    def relax(self, records: Sequence[Record], progress: bool) -> None:
        """Take each record, which has a structure, through both rungs."""
        if not records:
            return
        if not self._own_scale:
            self._relax_elements({symbol for record in records for symbol in atoms_by_element(record.given)})
        began = time.monotonic()
        with progress_bar(progress, len(records), "relaxation", "structure") as advance:

            def take(row: int, relaxation: Relaxation) -> None:
                self._take(records[row], relaxation)
                advance(1)

            try:
                relax([record.given for record in records], self._potential, self._options, take)
            finally:  # those of a batch share its time
                done = [record for record in records if "steps" in record.columns]
                work = [(record.columns["steps"] + 1) * len(record.given) for record in done]
                for record, share in zip(done, work, strict=True):
                    record.seconds += (time.monotonic() - began) * share / sum(work)

    def _take(self, record: Record, relaxation: Relaxation) -> None:
        record.take("relaxed", relaxation.failure, converged=relaxation.converged, steps=relaxation.steps)
        structure = relaxation.structure
        if relaxation.failure is not None or structure is None:
            return
        record.relaxed = structure
        group = find_space_group(structure, AS_RELAXED)
        record.columns |= {
            "energy_eV_per_atom": relaxation.energy,
            "relaxed_density_g_per_cm3": float(structure.density),
            "relaxed_space_group": group.symbol if group else "",
            "relaxed_space_group_number": group.number if group else None,
            "volume_change": structure.volume / record.given.volume - 1,
        }
        formation = self._formation_energy(record, relaxation.energy)
        if isinstance(formation, str):
            record.take("hull", formation)
        else:
            self._place(record, formation)

    def _formation_energy(self, record: Record, energy: float) -> float | str:
        """Return eV/atom, or why there is none."""
        if self._own_scale:
            energies = torch.tensor([energy], dtype=torch.float64)
            return float(self._hull.formation_energy([record.columns["formula"]], energies, missing="nan")[0])
        amounts = atoms_by_element(record.given)
        for symbol, amount in amounts.items():
            reference = self._element_energies[symbol]
            if isinstance(reference, str):
                return reference
            energy -= reference * amount / sum(amounts.values())
        return energy

    def _place(self, record: Record, formation: float) -> None:
        batch = CompositionBatch.from_formulas([record.columns["formula"]])
        energies = torch.tensor([formation], dtype=torch.float64)
        above = float(self._hull.e_above_hull(batch, energies, missing="nan")[0])
        problem = None
        if math.isnan(above):
            problem = f"no hull: a pure element is missing {self._hull.source}"
        elif self._limit is not None and above > self._limit:
            problem = f"{above:.3f} eV/atom above the hull, more than {self._limit:g}"
        record.take("hull", problem, formation_energy_eV_per_atom=formation, e_above_hull_eV_per_atom=above)

    def _relax_elements(self, symbols: set[str]) -> None:
        """Find the energies of pure elements, once each."""
        from surrogates.reference_export import read_reference_structures

        held = read_reference_structures()
        wanted = sorted(symbols - self._element_energies.keys())
        starts = [symbol for symbol in wanted if symbol in held]
        found = relax([held[symbol].structure for symbol in starts], self._potential, self._options)
        self._element_energies |= {symbol: f"no reference structure of the element {symbol}" for symbol in wanted}
        for symbol, relaxation in zip(starts, found, strict=True):
            failure = relaxation.failure and f"the element {symbol} could not be relaxed: {relaxation.failure}"
            self._element_energies[symbol] = failure or relaxation.energy
