"""Finding a table's energy column by its name and turning its values into eV/atom.

    formation_energy_per_atom, formation_energy_eV_per_atom, formation_energy, e_form, ...    formation energies
    energy_per_atom, energy_eV_per_atom, total_energy_per_atom, ...                           total energies

with eV, meV or kJ_per_mol (of atoms) for the unit, eV where none is named; case and punctuation do not matter, so
"Formation energy (meV/atom)" is read as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from surrogates.datasets import read_values

FloatArray = npt.NDArray[np.float64]

Quantity = Literal["formation energy", "total energy"]

KJ_PER_MOL = 96.48533212
"""kJ/mol in 1 eV per particle (CODATA 2018: elementary charge times Avogadro constant)."""

LARGEST_FORMATION_ENERGY = 10.0
"""eV/atom; no compound comes near it, so larger magnitudes mean another unit or a broken calculation."""

EXPECTED = (
    "expected formation_energy_per_atom, formation_energy_eV_per_atom, formation_energy, e_form, energy_per_atom or "
    "energy_eV_per_atom; or the same in meV_per_atom or kJ_per_mol"
)

_AGREEMENT = 0.005  # eV/atom between two columns of the same quantity
_UNIT_COLUMNS = ("unit", "units", "energy_unit", "energy_units", "unit_of_energy")
_FORMATION = re.compile(
    r"(?:formation_energy|formation_energies|energy_of_formation|form_energy|formation_enthalpy|enthalpy_of_formation"
    r"|e_form|e_formation|eform)(?:_(?P<unit>.*))?"
)
_TOTAL = re.compile(r"(?:energy|energies|total_energy|final_energy|corrected_energy|relaxed_energy)(?:_(?P<unit>.*))?")
_FACTORS = {"ev": 1.0, "mev": 1e-3, "kj": 1 / KJ_PER_MOL}
_UNIT_NAMES = {"ev": "eV/atom", "mev": "meV/atom", "kj": "kJ/mol"}


@dataclass(frozen=True, eq=False)
class TableEnergies:
    """One energy a row of a table."""

    quantity: Quantity
    energies: FloatArray
    """float64 (N,), eV/atom."""
    column: str
    """Name of the column that was taken."""
    notes: tuple[str, ...]
    """What a reader should know: conversions and columns that were not used, one line each."""


@dataclass(frozen=True)
class _EnergyColumn:
    name: str
    quantity: Quantity
    unit: str | None
    """Key of `_FACTORS`, None where the name has no unit."""
    per_atom: bool

    @property
    def is_ambiguous(self) -> bool:
        """Whether a total energy may be that of a cell: formation energies are always given per atom."""
        return self.quantity == "total energy" and not self.per_atom


def read_energies(file: Path, table: pd.DataFrame) -> TableEnergies:
    """Return the formation energies of a table, or its total energies when it has no formation energies.

    Args:
        file: Where the table comes from, for messages.
        table: N rows.

    Raises:
        ValueError: There is no energy column; a total energy does not say whether it is per atom; units are mixed; a
            value is not a finite number or is impossible. One line that names the file, the column, the row and the
            value.
    """
    columns = [column for name in table.columns if (column := _parse_name(str(name)))]
    usable = [column for column in columns if not column.is_ambiguous]
    if not usable:
        if columns:
            name = columns[0].name
            raise ValueError(f"{file}: column {name!r} does not say whether it is per atom or per cell ({EXPECTED})")
        raise ValueError(f"{file}: no energy column ({EXPECTED}; there are {', '.join(map(str, table.columns))})")
    quantity: Quantity = (
        "formation energy" if any(column.quantity == "formation energy" for column in usable) else "total energy"
    )
    same = sorted((column for column in usable if column.quantity == quantity), key=lambda column: column.unit != "ev")
    stated = _stated_unit(file, table)
    notes: list[str] = []
    values = [_in_ev_per_atom(file, table, column, stated, notes) for column in same]
    for column, other in zip(same[1:], values[1:], strict=True):
        differing = np.abs(values[0] - other) > _AGREEMENT
        if differing.any():
            row = int(differing.argmax())
            raise ValueError(
                f"{file}: row {row + 1}: columns {same[0].name!r} and {column.name!r} are the same quantity and differ "
                f"({values[0][row]:g} and {other[row]:g} eV/atom); keep one, or one unit"
            )
    unused = [column.name for column in columns if column is not same[0]]
    if unused:
        notes.append(f"energies are those of column {same[0].name!r}, not of {', '.join(map(repr, unused))}")
    if quantity == "formation energy":
        check_magnitudes(file, values[0], f"column {same[0].name!r}, ")
    return TableEnergies(quantity, values[0], same[0].name, tuple(notes))


def check_magnitudes(file: Path, formation_energies: FloatArray, where: str) -> None:
    """Refuse impossible formation energies (N,), eV/atom; `where` names their origin in the message.

    Raises:
        ValueError: One is beyond `LARGEST_FORMATION_ENERGY`; one line with its row and value.
    """
    impossible = np.abs(formation_energies) > LARGEST_FORMATION_ENERGY
    if impossible.any():
        row = int(impossible.argmax())
        raise ValueError(
            f"{file}: {where}row {row + 1}: a formation energy of {formation_energies[row]:g} eV/atom is impossible "
            f"(expected within +-{LARGEST_FORMATION_ENERGY:g}); are all rows in the unit that the name tells?"
        )


def _parse_name(name: str) -> _EnergyColumn | None:
    text = _plain(name)
    for pattern, quantity in ((_FORMATION, "formation energy"), (_TOTAL, "total energy")):
        match = pattern.fullmatch(text)
        unit = _parse_unit(match["unit"] or "") if match else None
        if unit is not None:
            return _EnergyColumn(name, quantity, *unit)  # type: ignore[arg-type] # the literals of the loop
    return None


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _parse_unit(text: str) -> tuple[str | None, bool] | None:
    """Return the unit and whether "per atom" is said; None when the words are something else than a unit."""
    words = [word for word in text.replace("peratom", "per_atom").split("_") if word]
    units = [word for word in words if word in _FACTORS]
    if len(units) > 1 or not set(words) <= {*_FACTORS, "per", "atom", "atoms", "mol", "mole", "of", "1"}:
        return None
    unit = units[0] if units else None
    if (unit == "kj") != bool({"mol", "mole"} & set(words)):
        return None
    return unit, bool({"atom", "atoms"} & set(words))


def _stated_unit(file: Path, table: pd.DataFrame) -> str | None:
    """Return the unit that a column of units gives for all rows, if there is one."""
    name = next((column for column in table.columns if _plain(str(column)) in _UNIT_COLUMNS), None)
    if name is None:
        return None
    texts = [_plain(str(text)) for text in table[name]]
    row = next((row for row, text in enumerate(texts) if text != texts[0]), None)
    if row is not None:
        first, other = table[name].iloc[0], table[name].iloc[row]
        raise ValueError(f"{file}: column {name!r}, row {row + 1}: mixed units, {other!r} after {first!r}")
    unit = _parse_unit(texts[0])
    if unit is None or unit[0] is None:
        raise ValueError(
            f"{file}: column {name!r}, row 1: expected eV/atom, meV/atom or kJ/mol, not {table[name].iloc[0]!r}"
        )
    return unit[0]


def _in_ev_per_atom(
    file: Path, table: pd.DataFrame, column: _EnergyColumn, stated: str | None, notes: list[str]
) -> FloatArray:
    if stated and column.unit and stated != column.unit:
        raise ValueError(
            f"{file}: column {column.name!r}, row 1: mixed units, the name says {_UNIT_NAMES[column.unit]} and "
            f"the column of units {_UNIT_NAMES[stated]}"
        )
    unit = column.unit or stated or "ev"
    values: FloatArray = read_values(file, table, column.name).to_numpy() * _FACTORS[unit]
    if unit == "mev":
        notes.append(f"{column.name}: converted from meV/atom to eV/atom")
    if unit == "kj":
        notes.append(f"{column.name}: converted from kJ per mole of atoms to eV/atom ({KJ_PER_MOL:.3f} kJ/mol = 1 eV)")
    return values
