"""Energies of known phases, from which a convex hull is made: the embedded table, or a user's.

table = read_reference_table()                  # CHGNet energies of elements and decorated prototypes
table = load_reference_table("my_phases.csv")   # formula or cif, and a formation or total energy
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from envs.chemistry import MAX_ATOMIC_NUMBER, SYMBOLS
from envs.formula import CompositionBatch
from surrogates.datasets import open_data_file, read_materials, read_table, read_values
from surrogates.energy_columns import FloatArray, check_magnitudes, read_energies
from surrogates.stoichiometry import integer_amounts, material_keys
from surrogates.structure_checks import structure_problem

SCANNED = "scanned_energy_eV_per_atom"
RELAXED = "relaxed_energy_eV_per_atom"
_SAME_FRACTION = 1e-6
_EMPTY_ENERGY = {SCANNED: [""], RELAXED: [""]}  # and NaN is a formula


class DuplicateFormulasWarning(UserWarning):
    """A table holds several energies of one formula; the lowest is kept."""


@dataclass(frozen=True, eq=False)
class ReferenceTable:
    """N phases, one a reduced formula, with their energies; the pure elements among them are the end members."""

    materials: CompositionBatch
    """N reduced formulas, each once."""

    energies: Tensor
    """Float64 (N,), total energies in eV/atom, or formation energies with the elements at 0."""

    source: str
    """Where the energies come from, to be said wherever a distance to their hull is, e.g. "within the CHGNet prototype
    library, 31,402 entries"."""

    prototypes: Sequence[str]
    """N names of structure prototypes, "" where unknown."""

    relaxed: Tensor
    """Bool (N,), False where the energy is that of an unrelaxed structure and so an upper bound."""

    notes: tuple[str, ...] = ()
    """What was converted, left out or merged while reading, one line each."""

    def __len__(self) -> int:
        return len(self.materials)

    def element_energies(self) -> Tensor:
        """Return the energy of each pure element by atomic number, float64 (104,), eV/atom, NaN where there is none."""
        result = torch.full((MAX_ATOMIC_NUMBER + 1,), torch.nan, dtype=torch.float64)
        present = self.materials.amounts > 0
        pure = present.sum(1) == 1
        result[self.materials.atomic_numbers[pure][present[pure]]] = self.energies[pure]
        return result

    def formation_energies(self) -> Tensor:
        """Return the formation energy of each phase, float64 (N,), eV/atom, NaN where an element has no energy."""
        return self.energies - mixed_element_energies(self.materials, self.element_energies())


def mixed_element_energies(materials: CompositionBatch, element_energies: Tensor) -> Tensor:
    """Return the energy of the elements of each composition apart, float64 (N,), eV/atom.

    Args:
        materials: N compositions.
        element_energies: (104,), by atomic number; NaN where unknown, which makes the result NaN.
    """
    amounts = materials.amounts.double()
    energies = torch.where(amounts > 0, element_energies[materials.atomic_numbers], 0)
    return (amounts * energies).sum(1) / amounts.sum(1)


@lru_cache(maxsize=1)
def read_reference_table() -> ReferenceTable:
    """Return the embedded table: CHGNet energies (MP2020 corrections included) of elements and decorated prototypes.

    The energy of an entry is that of its relaxed structure, or the lowest of its volume scan where it was not relaxed.
    """
    with open_data_file("reference.csv.gz") as file:
        return parse_prototype_entries(pd.read_csv(file, keep_default_na=False, na_values=_EMPTY_ENERGY))


def parse_prototype_entries(table: pd.DataFrame) -> ReferenceTable:
    """Return the lowest entry of each formula in a table of prototypes.

    Args:
        table: One row an entry, with the columns formula, prototype, scanned_energy_eV_per_atom and
            relaxed_energy_eV_per_atom (empty where the entry was not relaxed).
    """
    relaxed = table[RELAXED].notna().to_numpy()
    energies = table[RELAXED].fillna(table[SCANNED]).to_numpy(dtype="float64")
    materials = CompositionBatch.from_formulas(table["formula"])
    source = f"within the CHGNet prototype library, {len(table):,} entries"
    return lowest_of_each_formula(materials, energies, source, prototypes=list(table["prototype"]), relaxed=relaxed)


def lowest_of_each_formula(
    materials: CompositionBatch,
    energies: FloatArray,
    source: str,
    *,
    prototypes: Sequence[str] | None = None,
    relaxed: npt.NDArray[np.bool_] | None = None,
    notes: tuple[str, ...] = (),
) -> ReferenceTable:
    """Return a table with the lowest energy (eV/atom) of each reduced formula of N entries."""
    reduced = reduced_compositions(materials)
    kept = pd.Series(energies).groupby(reduced.formulas, sort=False).idxmin().sort_values().to_numpy()
    index = torch.tensor(kept)
    names = [""] * len(reduced) if prototypes is None else prototypes
    flags = np.ones(len(reduced), dtype=bool) if relaxed is None else relaxed
    return ReferenceTable(
        reduced.rows(index),
        torch.tensor(energies[kept], dtype=torch.float64),
        source,
        [names[row] for row in kept],
        torch.tensor(flags[kept]),
        notes,
    )


def reduced_compositions(materials: CompositionBatch) -> CompositionBatch:
    """Return the compositions in smallest integers; as written where there are none that give the same fractions."""
    integers, exact = integer_amounts(materials)
    share = integers.double() / integers.sum(1, keepdim=True).clamp_min(1)
    fractions = materials.amounts.double() / materials.amounts.double().sum(1, keepdim=True)
    exact &= (share - fractions).abs().amax(1) < _SAME_FRACTION
    amounts = torch.where(exact.unsqueeze(1), integers.to(materials.amounts.dtype), materials.amounts)
    return CompositionBatch(materials.atomic_numbers, amounts)


def composition_keys(materials: CompositionBatch) -> Tensor:
    """Return a 64-bit key per composition, long (N,): `material_keys`, but also for amounts that are no integers."""
    reduced = reduced_compositions(materials)
    return material_keys(CompositionBatch(reduced.atomic_numbers, (reduced.amounts.double() * 1e4).round()))


def load_reference_table(path: str | Path) -> ReferenceTable:
    """Read a user's table of phases: CSV (also .csv.gz) or Parquet.

    It needs a formula column (`surrogates.datasets.FORMULA_COLUMNS`) or, without one, structures in a `cif` column; and
    an energy column, found by its name as `surrogates.energy_columns` tells. Formation energies are preferred to total
    energies, and the elements then have the energy 0. Total energies need a row for each pure element. Of several rows
    with the same reduced formula the lowest energy is kept. A table with the columns of the embedded one is read alike.

    Raises:
        ValueError: The table is unreadable; a column is missing or ambiguous; units are mixed; a formula, structure or
            energy is unusable; pure elements are missing. One line that names the file and, if there is one, the row.

    Warns:
        DuplicateFormulasWarning: Formulas occur several times; the count is in the table's notes too.
    """
    file = Path(path)
    table = read_table(file)
    if {"formula", "prototype", SCANNED, RELAXED} <= set(table.columns):
        return _load_prototype_entries(file, table)
    materials = read_materials(file, table, structure_problem=structure_problem)
    energies = read_energies(file, table)
    notes = list(energies.notes)
    duplicates = len(materials) - len(set(reduced_compositions(materials).formulas))
    if duplicates:
        message = f"{duplicates:,} rows repeat a formula; the lowest energy of each formula was kept"
        notes.append(message)
        warnings.warn(f"{file}: {message}", DuplicateFormulasWarning, stacklevel=2)
    values = energies.energies
    everything = materials
    if energies.quantity == "formation energy":
        everything, values = _with_elements(materials, values)
    source = f"of the table {file.name}, {len(table):,} entries"
    result = lowest_of_each_formula(everything, values, source, notes=tuple(notes))
    check_end_members(file, result)
    if energies.quantity == "total energy":
        formation = energies.energies - mixed_element_energies(materials, result.element_energies()).numpy()
        check_magnitudes(file, formation, f"column {energies.column!r}, ")
    return result


def _load_prototype_entries(file: Path, table: pd.DataFrame) -> ReferenceTable:
    if file.name.lower().removesuffix(".gz").endswith(".csv"):
        table = pd.read_csv(file, keep_default_na=False, na_values=_EMPTY_ENERGY)
    read_materials(file, table, "formula")
    best = pd.DataFrame({RELAXED: table[RELAXED].where(table[RELAXED].notna(), table[SCANNED])})
    read_values(file, best, RELAXED)
    return parse_prototype_entries(table)


def _with_elements(materials: CompositionBatch, values: FloatArray) -> tuple[CompositionBatch, FloatArray]:
    """Return the materials and the elements in them, whose energy is 0."""
    elements = torch.unique(materials.atomic_numbers[materials.amounts > 0])
    numbers = torch.zeros(len(elements), materials.atomic_numbers.shape[1], dtype=torch.long)
    numbers[:, 0] = elements
    amounts = (numbers > 0).to(materials.amounts.dtype)
    joined = CompositionBatch(torch.cat([materials.atomic_numbers, numbers]), torch.cat([materials.amounts, amounts]))
    return joined, np.concatenate([values, np.zeros(len(elements))])


def check_end_members(where: str | Path, table: ReferenceTable) -> None:
    """Check that each element of the table's materials has an energy; `where` starts the message.

    Raises:
        ValueError: Some have none; one line that names them.
    """
    missing = missing_elements(table.materials, table.element_energies())
    if missing:
        names = ", ".join(missing)
        raise ValueError(f"{where}: no hull without end members: there is no energy of the pure elements {names}")


def missing_elements(materials: CompositionBatch, element_energies: Tensor) -> list[str]:
    """Return the symbols of the materials' elements whose energy (104,) is NaN, by atomic number."""
    numbers = torch.unique(materials.atomic_numbers[materials.amounts > 0])
    return [SYMBOLS[int(number) - 1] for number in numbers if bool(torch.isnan(element_energies[number]))]
