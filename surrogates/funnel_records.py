"""What a validation funnel knows of one structure: the rungs, their results, and a row of the table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from surrogates.structure_checks import structure_problem
from surrogates.structure_files import StructureEntry

if TYPE_CHECKING:
    from pymatgen.core import Structure

RUNGS = ("built", "rules", "surrogate", "relaxed", "hull", "elastic", "phonon")
"""In ascending order: readable and ordered; charges and distances; composition models; relaxation; distance to the
hull; elastic tensor positive definite; no imaginary modes."""

PASSED, FAILED = "passed", "failed"

TEXT_COLUMNS = (
    "name", "file", "formula", "space_group", "relaxed_space_group", "rung", "failed_at", "reason", "note", *RUNGS,
)  # fmt: skip
"""Columns of text, empty where there is nothing to say; all others are numbers, or true and false."""

COLUMNS = (
    "name", "file", "formula", "rung", "failed_at", "reason", "note", *RUNGS,
    "n_atoms", "density_g_per_cm3", "space_group", "space_group_number",
    "relaxed_space_group", "relaxed_space_group_number", "relaxed_density_g_per_cm3",
    "duplicate_of", "relaxed_duplicate_of", "novel_formula", "novel_structure",
    "predicted_band_gap_eV", "predicted_band_gap_std_eV",
    "predicted_formation_energy_eV_per_atom", "predicted_formation_energy_std_eV_per_atom",
    "predicted_e_above_hull_eV_per_atom", "predicted_e_above_hull_std_eV_per_atom",
    "energy_eV_per_atom", "converged", "steps", "volume_change",
    "formation_energy_eV_per_atom", "e_above_hull_eV_per_atom",
    "bulk_modulus_GPa", "shear_modulus_GPa", "smallest_elastic_eigenvalue_GPa",
    "lowest_frequency_THz", "lowest_frequency_q", "highest_frequency_THz", "seconds",
)  # fmt: skip
"""Columns of the table in order; `duplicate_of` is the row, from 1, of the first structure that is the same."""


@dataclass(eq=False)
class Record:
    """One structure on its way through the funnel."""

    name: str
    structure: Structure | None
    """As given, elements alone."""
    columns: dict[str, Any] = field(default_factory=dict)
    """Columns of `COLUMNS` that are known by now."""
    results: dict[str, str] = field(default_factory=dict)
    """`PASSED` or `FAILED` by rung, for the rungs that were tried."""
    reason: str = ""
    relaxed: Structure | None = None
    tight: Structure | None = None
    """The primitive cell of `relaxed`, relaxed to smaller forces."""
    seconds: float = 0.0

    @property
    def given(self) -> Structure:
        """The structure of a record that was built."""
        assert self.structure is not None
        return self.structure

    @property
    def tight_cell(self) -> Structure:
        """`tight` of a record that has one."""
        assert self.tight is not None
        return self.tight

    @property
    def rung(self) -> str:
        """The highest rung that was passed; empty when none was."""
        return next((rung for rung in reversed(RUNGS) if self.results.get(rung) == PASSED), "")

    @property
    def failed_at(self) -> str:
        """The rung that was not passed; empty when all that were tried were."""
        return next((rung for rung, result in self.results.items() if result == FAILED), "")

    @property
    def going_on(self) -> bool:
        """Whether nothing has failed yet."""
        return not self.failed_at

    def take(self, rung: str, problem: str | None, **values: Any) -> None:
        """Note the result of a rung: passed when there is no problem."""
        self.results[rung] = PASSED if problem is None else FAILED
        self.reason = problem or self.reason
        self.columns.update(values)

    def row(self) -> dict[str, Any]:
        """Return the row of the table."""
        texts = {rung: self.results.get(rung, "") for rung in RUNGS}
        return {
            **dict.fromkeys(TEXT_COLUMNS, ""),
            **self.columns,
            **texts,
            "name": self.name,
            "rung": self.rung,
            "failed_at": self.failed_at,
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
        }


def start_record(entry: StructureEntry) -> Record:
    """Return the record of an entry, failed at "built" when there is no sound structure."""
    record = Record(entry.name, None)
    record.columns |= {"file": entry.file, "note": entry.note}
    problem = entry.problem or structure_problem(entry.structure)
    if problem is None and entry.structure is not None:
        record.structure = _elements_alone(entry.structure)
    else:
        record.take("built", problem)
    return record


def _elements_alone(structure: Structure) -> Structure:
    from pymatgen.core import Structure

    return Structure(structure.lattice, [site.specie.symbol for site in structure], structure.frac_coords)


def make_table(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row a record with all of `COLUMNS`."""
    rows = [record.row() for record in records]
    table = pd.DataFrame({name: [row.get(name) for row in rows] for name in COLUMNS}, columns=list(COLUMNS))
    for name in ("space_group_number", "relaxed_space_group_number", "n_atoms", "steps"):
        table[name] = table[name].astype("Int64")
    for name in ("duplicate_of", "relaxed_duplicate_of"):
        table[name] = table[name].astype("Int64")
    for name in ("novel_formula", "novel_structure", "converged"):
        table[name] = table[name].astype("boolean")
    for name in COLUMNS:
        if name.endswith(("_atom", "_eV", "_GPa", "_THz", "_cm3")) or name == "volume_change":
            table[name] = [math.nan if value is None else float(value) for value in table[name]]
    return table


def atoms_by_element(structure: Structure) -> dict[str, int]:
    """Return the number of atoms of each element in the cell of an ordered structure."""
    amounts: dict[str, int] = {}
    for site in structure:
        amounts[site.specie.symbol] = amounts.get(site.specie.symbol, 0) + 1
    return amounts
