import pandas as pd
import pytest
from pymatgen.core import Composition
from pymatgen.symmetry.groups import SpaceGroup
from scipy.constants import physical_constants

from envs.formula import reduced_formula
from surrogates.datasets import open_data_file
from surrogates.standard_enthalpies import (
    ENTHALPY_SOURCES,
    KJ_PER_MOL_IN_EV,
    enthalpy_per_atom,
    read_standard_enthalpies,
)

TEXTBOOK = {  # kJ/mol, Atkins' Physical Chemistry (data section), not the sources of the table
    "NaCl": -411.15,
    "KCl": -436.75,
    "MgO": -601.70,
    "CaO": -635.09,
    "Al2O3": -1675.7,
    "SiO2": -910.94,
    "TiO2": -944.7,
    "ZnO": -348.28,
    "Fe2O3": -824.2,
    "ZnS": -205.98,
    "KBr": -393.80,
    "AgCl": -127.07,
}
NEEDED = {"TiO2", "Al2O3", "MgO", "NaCl", "ZnO", "SrTiO3"}
BINARY_OXIDES = {"CaTiO3": ("CaO", "TiO2"), "SrTiO3": ("SrO", "TiO2"), "BaTiO3": ("BaO", "TiO2"),
                 "MgTiO3": ("MgO", "TiO2"), "MgAl2O4": ("MgO", "Al2O3"), "Mg2SiO4": ("MgO", "MgO", "SiO2")}  # fmt: skip


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    with open_data_file("standard_enthalpies.csv") as file:
        return pd.read_csv(file, keep_default_na=False)


def test_table_has_the_promised_columns_and_compounds():
    table = read_standard_enthalpies()
    assert list(table) == ["formula", "space_group", "prototype", "formation_energy_eV_per_atom", "source"]
    assert len(table) >= 24
    assert set(table["formula"]) >= NEEDED
    assert table["formula"].is_unique
    assert table["formula"].map(reduced_formula).equals(table["formula"])


def test_values_are_those_of_stable_compounds():
    energies = read_standard_enthalpies()["formation_energy_eV_per_atom"]
    assert energies.between(-4.5, -0.1).all()


def test_every_source_is_described_and_used():
    assert set(read_standard_enthalpies()["source"]) == set(ENTHALPY_SOURCES)


def test_ev_per_atom_follows_from_the_constants():
    faraday = physical_constants["Faraday constant"][0] / 1000
    assert pytest.approx(faraday, rel=1e-8) == KJ_PER_MOL_IN_EV
    assert enthalpy_per_atom("NaCl", -411.12) == pytest.approx(-411.12 / 96.485 / 2, rel=1e-5)
    assert enthalpy_per_atom("Ca(OH)2", -5 * KJ_PER_MOL_IN_EV) == pytest.approx(-1)


def test_conversion_counts_atoms_as_pymatgen_does(raw):
    expected = [
        h / 96.485 / Composition(f).num_atoms for f, h in zip(raw["formula"], raw["enthalpy_kJ_per_mol"], strict=True)
    ]
    assert read_standard_enthalpies()["formation_energy_eV_per_atom"].tolist() == pytest.approx(expected, rel=1e-5)


def test_values_agree_with_a_textbook(raw):
    table = raw.set_index("formula")["enthalpy_kJ_per_mol"]
    for formula, expected in TEXTBOOK.items():
        assert table[formula] == pytest.approx(expected, rel=0.01), formula


@pytest.mark.parametrize(("ternary", "oxides"), BINARY_OXIDES.items())
def test_ternary_oxides_gain_energy_from_their_binary_oxides(raw, ternary, oxides):
    table = raw.set_index("formula")["enthalpy_kJ_per_mol"]
    gain = table[ternary] - sum(table[oxide] for oxide in oxides)
    assert -200 < gain < -10  # kJ/mol; calorimetry gives -24 (MgAl2O4, MgTiO3) to -150 (BaTiO3)


def test_space_groups_fit_the_prototypes(raw):
    symbols = {"rocksalt": "Fm-3m", "fluorite": "Fm-3m", "antifluorite": "Fm-3m", "zincblende": "F-43m",
             "wurtzite": "P6_3mc", "rutile": "P4_2/mnm", "corundum": "R-3c", "spinel": "Fd-3m"}  # fmt: skip
    for prototype, symbol in symbols.items():
        groups = set(raw.loc[raw["prototype"] == prototype, "space_group"])
        assert groups == {SpaceGroup(symbol).int_number}, prototype
    assert raw.groupby("prototype")["space_group"].nunique().max() == 1
    assert raw["space_group"].between(1, 230).all()
