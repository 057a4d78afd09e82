"""The validation funnel: how far crystal structures from anywhere get, from readable to vibrationally stable.

    result = StructureFunnel(options=FunnelOptions(elastic=True, phonon=True)).run(structures, progress=True)
    result.table[["name", "formula", "rung", "reason", "e_above_hull_eV_per_atom"]]
    result.structures                               # the relaxed ones

A structure climbs the rungs of `funnel_records.RUNGS` until one fails, each cheaper than the next. Energies are those
of the potential (CHGNet, not DFT); distances refer to the hull within the prototype library, and so are lower bounds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from envs.formula import CompositionBatch, reduced_formula, write_formula
from surrogates.duplicates import first_equals, in_reference
from surrogates.elasticity import ElasticityOptions, check_matcalc
from surrogates.funnel_records import Record, atoms_by_element, make_table, start_record
from surrogates.funnel_relaxation import FunnelRelaxation
from surrogates.funnel_stability import check_elasticity, check_phonons
from surrogates.hull import ReferenceHull
from surrogates.phonons import PhononOptions, check_phonopy
from surrogates.potential import CHGNetPotential, Potential
from surrogates.progress import progress_bar
from surrogates.relaxation import RelaxationOptions
from surrogates.structure_files import StructureEntry
from surrogates.structure_rules import charge_problem, closest_pair_problem
from surrogates.symmetry_check import AS_BUILT, find_space_group

if TYPE_CHECKING:
    from pymatgen.core import Structure

_PREDICTED = {
    "band_gap": ("predicted_band_gap", "eV"),
    "formation_energy": ("predicted_formation_energy", "eV_per_atom"),
    "e_above_hull": ("predicted_e_above_hull", "eV_per_atom"),
}
_EMBEDDED_HULL_OF = ("CHGNet", "0.3.0")


@dataclass(frozen=True)
class FunnelOptions:
    """Which rungs are tried, and what passes them."""

    charge_rules: bool = True
    """Whether the rung "rules" asks for balanced charges; alloys and intermetallics have none."""
    closest_ratio: float = 0.6
    """Smallest distance of two atoms as a share of the sum of their covalent radii, for the rung "rules"."""
    relax: bool = True
    """Whether structures are relaxed; without, the funnel ends at the rung "surrogate"."""
    relaxation: RelaxationOptions = field(default_factory=lambda: RelaxationOptions(max_steps=300))
    """How structures are relaxed."""
    max_atoms: int = 200
    """Most atoms of a cell that is relaxed; larger ones are not compared for duplicates either."""
    max_e_above_hull: float | None = 0.1
    """Largest distance to the hull that passes the rung "hull", eV/atom; any when None."""
    elastic: bool = False
    """Whether elastic tensors are computed."""
    phonon: bool = False
    """Whether vibrations are computed."""
    top: int | None = None
    """For how many structures, those nearest to the hull; all that pass the hull when None."""
    skip_duplicates: bool = False
    """Whether a structure that is the same as an earlier one ends at the rung "built"."""
    elasticity: ElasticityOptions = field(default_factory=ElasticityOptions)
    """How elastic tensors are measured."""
    phonons: PhononOptions = field(default_factory=PhononOptions)
    """How vibrations are computed and judged."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: A setting is out of range, or elastic and phonon are asked for without relaxation.
        """
        if not 0 <= self.closest_ratio <= 2:
            raise ValueError(f"closest_ratio: {self.closest_ratio:g} is not in 0..2")
        if self.max_atoms < 1:
            raise ValueError(f"max_atoms: {self.max_atoms} is not at least 1")
        if self.max_e_above_hull is not None and not self.max_e_above_hull >= 0:
            raise ValueError(f"max_e_above_hull: {self.max_e_above_hull:g} is not at least 0")
        if self.top is not None and self.top < 1:
            raise ValueError(f"top: {self.top} is not at least 1")
        asked = "elastic" if self.elastic else "phonon" if self.phonon else ""
        if asked and not self.relax:
            raise ValueError(f"{asked}: only relaxed structures can be judged, but relax is false")


@dataclass(frozen=True, eq=False)
class FunnelResult:
    """How far each structure got."""

    table: pd.DataFrame
    """One row a structure, in order; columns as in `funnel_records.COLUMNS`."""
    structures: list[Structure | None]
    """The relaxed structures, None where the relaxation did not converge or was not tried."""
    source: str
    """Where energies and distances come from, e.g. "CHGNet 0.3.0, not DFT; within the CHGNet prototype library"."""
    interrupted: bool = False
    """Whether Ctrl-C came before all was done; the table holds what was finished."""


class StructureFunnel:
    """Takes structures up the rungs.

    Args:
        hull: What distances refer to; the embedded hull when None.
        potential: What relaxes; CHGNet when None, loaded when it is needed.
        options: Which rungs are tried, and what passes them.

    Raises:
        ValueError: A rung needs a package that is not installed.
    """

    def __init__(
        self,
        hull: ReferenceHull | None = None,
        potential: Potential | None = None,
        options: FunnelOptions | None = None,
    ) -> None:
        self.options = options or FunnelOptions()
        self._hull = hull
        self._potential = potential
        if self.options.elastic:
            check_matcalc()
        if self.options.phonon:
            check_phonopy()

    @cached_property
    def hull(self) -> ReferenceHull:
        """What distances refer to."""
        return self._hull or ReferenceHull.default()

    @cached_property
    def potential(self) -> Potential:
        """What relaxes."""
        return self._potential or CHGNetPotential()

    @cached_property
    def _relaxer(self) -> FunnelRelaxation:
        own = self._hull is None and (self.potential.name, self.potential.version) == _EMBEDDED_HULL_OF
        return FunnelRelaxation(self.potential, self.hull, own, self.options.relaxation, self.options.max_e_above_hull)

    @property
    def source(self) -> str:
        """Where energies and distances come from."""
        known = self._potential
        name = "CHGNet 0.3.0" if known is None else f"{known.name} {known.version}"
        return f"{name}, not DFT; hull {self.hull.source}" if self.options.relax else f"hull {self.hull.source}"

    def run(
        self, structures: Sequence[Structure], names: Sequence[str] | None = None, progress: bool = False
    ) -> FunnelResult:
        """Return how far each structure gets.

        Args:
            structures: N structures; charges on the sites are left out.
            names: N names; the numbers from 1 when None.
            progress: Whether to show a bar with a time estimate for each slow rung, on standard error.

        Raises:
            ValueError: There is not one name for each structure.
        """
        chosen = [str(n) for n in range(1, len(structures) + 1)] if names is None else list(names)
        if len(chosen) != len(structures):
            raise ValueError(f"names: {len(chosen)} for {len(structures)} structures, expected one for each")
        entries = [StructureEntry(n, "", s, None) for n, s in zip(chosen, structures, strict=True)]
        return self.run_entries(entries, progress)

    def run_entries(self, entries: Sequence[StructureEntry], progress: bool = False) -> FunnelResult:
        """Do as `run` for structures as `read_structures` returns them; those without a structure fail at "built"."""
        records = [start_record(entry) for entry in entries]
        interrupted = False
        try:
            self._build(records, progress)
            self._apply_rules(records)
            self._predict(records)
            if self.options.relax:
                self._check_sizes(records)
                self._relaxer.relax(_going_on(records), progress)
                self._compare_relaxed(records)
                chosen = self._nearest_to_hull(records)
                if self.options.elastic:
                    check_elasticity(chosen, self.potential, self.options.elasticity, progress)
                if self.options.phonon:
                    check_phonons(chosen, self.potential, self.options.phonons, progress)
        except KeyboardInterrupt:
            interrupted = True
        return FunnelResult(make_table(records), [record.relaxed for record in records], self.source, interrupted)

    def _build(self, records: Sequence[Record], progress: bool) -> None:
        with progress_bar(progress, len(records), "structures", "structure") as advance:
            for record in records:
                if record.going_on:
                    began = time.monotonic()
                    self._describe(record)
                    record.seconds += time.monotonic() - began
                advance(1)
        limit = self.options.max_atoms
        small = [record.structure if len(record.structure or ()) <= limit else None for record in records]
        for row, equal in enumerate(first_equals(small)):
            if equal is not None:
                records[row].columns["duplicate_of"] = equal + 1
                if self.options.skip_duplicates:
                    records[row].take("rules", f"the same structure as {records[equal].name}")

    def _describe(self, record: Record) -> None:
        structure = record.given
        group = find_space_group(structure, AS_BUILT)
        if len(structure) <= self.options.max_atoms:
            record.columns["novel_structure"] = not in_reference(structure)
        record.take(
            "built",
            None,
            formula=_formula(structure),
            n_atoms=len(structure),
            density_g_per_cm3=float(structure.density),
            space_group=group.symbol if group else "",
            space_group_number=group.number if group else None,
        )

    def _apply_rules(self, records: Sequence[Record]) -> None:
        for record in _going_on(records):
            problem = closest_pair_problem(record.given, self.options.closest_ratio)
            if problem is None and self.options.charge_rules:
                problem = charge_problem(atoms_by_element(record.given))
            record.take("rules", problem)

    def _predict(self, records: Sequence[Record]) -> None:
        from surrogates.energy import EnergyModel
        from surrogates.known import is_known
        from surrogates.properties import evaluate_properties

        built = [record for record in records if record.columns.get("formula")]
        batch = CompositionBatch.from_formulas(record.columns["formula"] for record in built)
        if built:
            for record, known in zip(built, is_known(batch).tolist(), strict=True):
                record.columns["novel_formula"] = not known
        chosen = _going_on(built)
        if not chosen:
            return
        batch = CompositionBatch.from_formulas(record.columns["formula"] for record in chosen)
        found = evaluate_properties(["band_gap"], batch)
        model = EnergyModel.default(self._hull)
        found |= {"formation_energy": model.formation_energy(batch), "e_above_hull": model.e_above_hull(batch)}
        for row, record in enumerate(chosen):
            values = {}
            for name, (column, unit) in _PREDICTED.items():
                values[f"{column}_{unit}"] = float(found[name].mean[row])
                values[f"{column}_std_{unit}"] = float(found[name].std[row])
            record.take("surrogate", None, **values)

    def _check_sizes(self, records: Sequence[Record]) -> None:
        for record in _going_on(records):
            atoms = len(record.given)
            if atoms > self.options.max_atoms:
                limit = f"more than max_atoms, {self.options.max_atoms}"
                record.take("relaxed", f"{atoms} atoms in the cell are {limit}; a primitive cell may be smaller")

    def _compare_relaxed(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.relaxed is not None:
                record.columns["novel_structure"] = not in_reference(record.relaxed)
        for record, equal in zip(records, first_equals([record.relaxed for record in records]), strict=True):
            if equal is not None:
                record.columns["relaxed_duplicate_of"] = equal + 1

    def _nearest_to_hull(self, records: Sequence[Record]) -> list[Record]:
        chosen = _going_on(records)
        chosen.sort(key=lambda record: record.columns["e_above_hull_eV_per_atom"])
        return chosen[: self.options.top]


def _going_on(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.going_on]


def _formula(structure: Structure) -> str:
    return reduced_formula(write_formula({k: float(v) for k, v in atoms_by_element(structure).items()}))
