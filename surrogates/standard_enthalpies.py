"""Experimental standard enthalpies of formation of well-known compounds: what computed formation energies are held to.

The table lists kJ/mol per formula unit at 298.15 K and 1 bar, as the sources do; readers get eV/atom. A computed
formation energy is one of 0 K without vibrations; the difference between the two is a few hundredths of an eV/atom
and part of any deviation from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import pandas as pd

from envs.formula import parse_formula
from surrogates.datasets import open_data_file

KJ_PER_MOL_IN_EV = 96.48533212
"""kJ/mol in one eV per particle: the Faraday constant in kC/mol (CODATA 2018)."""

ENTHALPY_SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "CODATA": "Cox, Wagman and Medvedev, CODATA Key Values for Thermodynamics, 1989",
        "CRC": "CRC Handbook of Chemistry and Physics, Standard Thermodynamic Properties of Chemical Substances",
        "Debski": "Debski et al., Enthalpy of formation of intermetallic phases from Al-Ni and Al-Ni-Ti systems",
        "JANAF": "Chase, NIST-JANAF Thermochemical Tables, 4th ed., 1998",
        "NBS": "Wagman et al., J. Phys. Chem. Ref. Data 11, Suppl. 2 (1982)",
        "Robie": "Robie and Hemingway, U.S. Geological Survey Bulletin 2131 (1995)",
    }
)
"""What the keys in the column `source` stand for."""


@lru_cache(maxsize=1)
def read_standard_enthalpies() -> pd.DataFrame:
    """Return the compounds, one row a reduced formula.

    Columns: formula; space_group (number of the measured polymorph) and prototype (its structure type);
    formation_energy_eV_per_atom (standard enthalpy of formation at 298.15 K); source (key of `ENTHALPY_SOURCES`).
    """
    with open_data_file("standard_enthalpies.csv") as file:
        table = pd.read_csv(file, keep_default_na=False)
    return pd.DataFrame(
        {
            "formula": table["formula"],
            "space_group": table["space_group"],
            "prototype": table["prototype"],
            "formation_energy_eV_per_atom": [
                enthalpy_per_atom(formula, enthalpy)
                for formula, enthalpy in zip(table["formula"], table["enthalpy_kJ_per_mol"], strict=True)
            ],
            "source": table["source"],
        }
    )


def enthalpy_per_atom(formula: str, enthalpy: float) -> float:
    """Return eV/atom for an enthalpy in kJ/mol per formula unit."""
    return enthalpy / KJ_PER_MOL_IN_EV / sum(parse_formula(formula).values())
