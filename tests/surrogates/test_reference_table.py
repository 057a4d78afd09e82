import re
import warnings
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import DummySpecies, Lattice, Structure

import surrogates.reference_table
from envs.formula import CompositionBatch
from surrogates.reference_table import (
    DuplicateFormulasWarning,
    load_reference_table,
    lowest_of_each_formula,
    mixed_element_energies,
    read_reference_table,
)

ENTRIES = """\
formula,prototype,space_group,scanned_energy_eV_per_atom,relaxed_energy_eV_per_atom,volume_A3_per_atom,converged
Na,bcc,229,-1.30,-1.31,37.0,1
Na,fcc,225,-1.29,,37.1,0
Cl,Cl2,64,-1.80,-1.84,30.0,1
NaCl,CsCl,221,-3.20,-3.28,21.0,1
NaCl,NaCl,225,-3.30,-3.38,22.0,1
Na2Cl2,zincblende,216,-3.10,,28.0,0
NaN,NaCl,225,-3.90,,10.0,0
N,N2,205,-8.30,-8.33,28.0,1
"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def by_formula(table):
    return dict(zip(table.materials, table.energies.tolist(), strict=True))


def check_embedded(table):
    assert list(table.materials) == ["Na", "Cl", "NaCl", "NaN", "N"]
    assert table.energies.tolist() == [-1.31, -1.84, -3.38, -3.90, -8.33]
    assert table.energies.dtype == torch.float64
    assert list(table.prototypes) == ["bcc", "Cl2", "NaCl", "NaCl", "N2"]
    assert table.relaxed.tolist() == [True, True, True, False, True]
    assert table.source == "within the CHGNet prototype library, 8 entries"
    assert len(table) == 5
    formation = table.formation_energies()
    assert formation.tolist() == pytest.approx([0, 0, -3.38 + (1.31 + 1.84) / 2, -3.90 + (1.31 + 8.33) / 2, 0])


def test_embedded_table_keeps_the_lowest_relaxed_or_scanned_energy(monkeypatch):
    monkeypatch.setattr(surrogates.reference_table, "open_data_file", lambda name: BytesIO(ENTRIES.encode()))
    read_reference_table.cache_clear()
    try:
        table = read_reference_table()
        check_embedded(table)
        assert read_reference_table() is table
    finally:
        read_reference_table.cache_clear()


def test_table_of_the_embedded_kind_is_read_alike(tmp_path):
    check_embedded(load_reference_table(write(tmp_path / "own.csv", ENTRIES)))
    path = write(tmp_path / "bad.csv", ENTRIES.replace("-1.80,-1.84", ","))
    with pytest.raises(
        ValueError, match=r"bad.csv: column 'relaxed_\w+', row 3: expected a finite number, found no value"
    ):
        load_reference_table(path)
    path = write(tmp_path / "bad.csv", ENTRIES.replace("\nCl,", "\n,"))
    with pytest.raises(ValueError, match=r"bad.csv: column 'formula', row 3: "):
        load_reference_table(path)


@pytest.mark.parametrize("name", ["phases.csv", "phases.csv.gz", "phases.parquet"])
@pytest.mark.parametrize(
    ("column", "factor", "note"),
    [
        ("formation_energy_per_atom", 1, None),
        ("formation_energy_eV_per_atom", 1, None),
        ("formation_energy", 1, None),
        ("e_form", 1, None),
        ("E_form_per_atom", 1, None),
        ("Formation energy (eV/atom)", 1, None),
        ("formation_energy_meV_per_atom", 1000, "converted from meV/atom to eV/atom"),
        ("formation_energy_kJ_per_mol", 96.48533, "converted from kJ per mole of atoms to eV/atom (96.485 kJ/mol"),
        ("Formation enthalpy [kJ/mol]", 96.48533, "converted from kJ per mole of atoms"),
    ],
)
def test_formation_energies_are_found_and_converted(tmp_path, name, column, factor, note):
    frame = pd.DataFrame({"formula": ["SrO", "TiO2", "Sr2Ti2O6"], column: np.array([-3.0, -3.3, -3.5]) * factor})
    path = tmp_path / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
    table = load_reference_table(path)
    expected = {"SrO": -3.0, "TiO2": -3.3, "SrTiO3": -3.5, "O": 0, "Ti": 0, "Sr": 0}
    assert by_formula(table) == pytest.approx(expected, rel=1e-6)
    assert table.source == f"of the table {name}, 3 entries"
    assert bool(table.relaxed.all())
    assert len(table.notes) == (note is not None)
    assert note is None or note in table.notes[0]


@pytest.mark.parametrize(
    ("column", "factor"),
    [
        ("energy_per_atom", 1),
        ("energy_eV_per_atom", 1),
        ("Total energy (eV/atom)", 1),
        ("energy_meV_per_atom", 1000),
        ("energy_kJ_per_mol_atoms", 96.48533),
    ],
)
def test_total_energies_are_measured_from_the_elements(tmp_path, column, factor):
    frame = pd.DataFrame({"composition": ["Na", "Cl2", "NaCl"], column: np.array([-1.3, -1.8, -3.4]) * factor})
    path = tmp_path / "totals.csv"
    frame.to_csv(path, index=False)
    table = load_reference_table(path)
    assert by_formula(table) == pytest.approx({"Na": -1.3, "Cl": -1.8, "NaCl": -3.4}, rel=1e-6)
    assert table.formation_energies().tolist() == pytest.approx([0, 0, -3.4 + 1.55], rel=1e-5)


def test_formation_energies_are_preferred(tmp_path):
    text = "formula,energy,energy_per_atom,formation_energy_per_atom,energy_above_hull\nNaCl,-6.8,-3.4,-2.1,0\n"
    table = load_reference_table(write(tmp_path / "both.csv", text))
    assert by_formula(table) == {"NaCl": -2.1, "Na": 0, "Cl": 0}
    assert table.notes == (
        "energies are those of column 'formation_energy_per_atom', not of 'energy', 'energy_per_atom'",
    )


def test_two_columns_that_agree_are_one(tmp_path):
    text = "formula,formation_energy_meV_per_atom,e_form\nNaCl,-2100,-2.1\n"
    table = load_reference_table(write(tmp_path / "both.csv", text))
    assert by_formula(table)["NaCl"] == -2.1


def test_lowest_of_duplicates_is_kept_and_counted(tmp_path):
    text = "formula,e_form\nNaCl,-1.9\nNa2Cl2,-2.1\nClNa,-2.0\nNa0.5Cl0.5,-2.05\nMgO,-3\nLa0.123Sr0.877,-1\n"
    path = write(tmp_path / "twice.csv", text)
    with pytest.warns(DuplicateFormulasWarning, match="twice.csv: 3 rows repeat a formula; the lowest energy") as seen:
        table = load_reference_table(path)
    assert len(seen) == 1 and "\n" not in str(seen[0].message)
    assert any("3 rows repeat a formula" in note for note in table.notes)
    found = by_formula(table)
    assert found["NaCl"] == -2.1 and found["MgO"] == -3
    assert len(found) == len(table) == 9
    assert set(found) == {"NaCl", "MgO", "Sr0.877La0.123", "Na", "Cl", "Mg", "O", "La", "Sr"}


def test_elements_of_formation_energies_are_at_zero_or_below(tmp_path):
    text = "formula,e_form\nNaCl,-2.1\nNa,0.2\nCl,-0.01\n"
    assert by_formula(load_reference_table(write(tmp_path / "t.csv", text))) == {"NaCl": -2.1, "Na": 0, "Cl": -0.01}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("formula,gap\nNaCl,8\n", "no energy column (expected formation_energy_per_atom,"),
        ("formula,energy\nNaCl,-6.8\n", "column 'energy' does not say whether it is per atom or per cell (expected"),
        ("formula,total_energy_eV\nNaCl,-6.8\n", "column 'total_energy_eV' does not say whether it is per atom"),
        ("formula,e_form\nNaCl,-2.1\nMgO,\n", "column 'e_form', row 2: expected a finite number, found no value"),
        ("formula,e_form\nNaCl,-2.1\nMgO,x\n", "column 'e_form', row 2: expected a finite number, found 'x'"),
        ("formula,e_form\nNaCl,-2.1\nNaXx,-1\n", "column 'formula', row 2: formula 'NaXx': 'Xx' is not a chemical"),
        (
            "formula,e_form\nNaCl,-2.1\nMgO,-3060\n",
            "column 'e_form', row 2: a formation energy of -3060 eV/atom is impossible (expected within +-10)",
        ),
        (
            "formula,e_form_eV_per_atom,e_form_meV_per_atom\nNaCl,-2.1,-2100\nMgO,-3.1,-2100\n",
            "row 2: columns 'e_form_eV_per_atom' and 'e_form_meV_per_atom' are the same quantity and differ (-3.1",
        ),
        (
            "formula,e_form,unit\nNaCl,-2.1,eV/atom\nMgO,-3060,meV/atom\n",
            "column 'unit', row 2: mixed units, 'meV/atom' after 'eV/atom'",
        ),
        (
            "formula,e_form_eV_per_atom,unit\nNaCl,-2.1,meV/atom\n",
            "column 'e_form_eV_per_atom', row 1: mixed units, the name says eV/atom and the column of units meV/atom",
        ),
        (
            "formula,e_form,unit\nNaCl,-2.1,kcal/mol\n",
            "column 'unit', row 1: expected eV/atom, meV/atom or kJ/mol, not",
        ),
        (
            "formula,energy_per_atom\nNaCl,-3.4\nNa,-1.3\n",
            "no hull without end members: there is no energy of the pure elements Cl",
        ),
        (
            "formula,energy_per_atom\nNaCl,-3.4\nMgO,-6\nNa,-1.3\n",
            "no hull without end members: there is no energy of the pure elements O, Mg, Cl",
        ),
        (
            "formula,energy_per_atom\nNa,-1.3\nCl,-1.8\nNaCl,-3400\n",
            "column 'energy_per_atom', row 3: a formation energy of -3398.45 eV/atom is impossible",
        ),
    ],
)
def test_bad_table_is_one_clear_line(tmp_path, text, message):
    path = write(tmp_path / "table.csv", text)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")) as error:
        load_reference_table(path)
    assert "\n" not in str(error.value)


def test_unit_column_gives_the_unit(tmp_path):
    text = "formula,formation_energy,unit\nNaCl,-2100,meV/atom\nMgO,-3000,meV/atom\n"
    table = load_reference_table(write(tmp_path / "t.csv", text))
    assert by_formula(table)["MgO"] == -3.0
    assert table.notes == ("formation_energy: converted from meV/atom to eV/atom",)


def cif(species=("Na", "Cl"), second=(0.5, 0.5, 0.5), a=3.5):
    return Structure(Lattice.cubic(a), list(species), [[0, 0, 0], second]).to(fmt="cif")


def test_formulas_come_from_structures_when_there_is_no_formula_column(tmp_path):
    path = tmp_path / "cifs.csv"
    pd.DataFrame({"cif": [cif(), cif(("Mg", "O"))], "e_form": [-2.0, -3.0]}).to_csv(path, index=False)
    assert by_formula(load_reference_table(path)) == {"NaCl": -2, "MgO": -3, "Na": 0, "Cl": 0, "Mg": 0, "O": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (cif(({"Mg": 0.5}, "O")), "Mg0.5O1?: site 1 is partially occupied"),
        (cif((DummySpecies("X"), "O")), r"X.*O.*: X.* is not a chemical element"),
        (cif(("Mg", "O"), (0.01, 0, 0)), r"MgO: Mg and O .* apart; expected at least 0.5 Å"),
        (cif(("Mg", "O"), (0, 0, 0)), r"Mg1O1: not a readable CIF \(atoms overlap"),
        (
            cif(("Mg", "O")).replace("_cell_length_a   3.5", "_cell_length_a   0.0"),
            r"MgO|Mg1O1: not a readable CIF \(the",
        ),
        (cif(("Mg", "O"), a=0.2), r"MgO: the cell has a volume of 0.008 Å3"),
        ("nonsense", "not a readable CIF: 'nonsense'"),
    ],
)
def test_bad_structure_is_one_line_with_its_row(tmp_path, text, message):
    path = tmp_path / "cifs.csv"
    pd.DataFrame({"cif": [cif(), text], "e_form": [-2.0, -3.0]}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=rf"cifs.csv: column 'cif', row 2: {message}") as error:
        load_reference_table(path)
    assert "\n" not in str(error.value)


def test_reading_does_not_warn_without_duplicates(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_reference_table(write(tmp_path / "t.csv", "formula,e_form\nNaCl,-2\nMgO,-3\n"))


def test_mixed_element_energies_weigh_by_atoms():
    energies = torch.full((104,), torch.nan, dtype=torch.float64)
    energies[11], energies[17] = -1.0, -2.0
    batch = CompositionBatch.from_formulas(["NaCl3", "Na2Cl6", "Na", "NaF"])
    found = mixed_element_energies(batch, energies)
    assert found[:3].tolist() == pytest.approx([-1.75, -1.75, -1.0])
    assert bool(torch.isnan(found[3]))


def test_lowest_entry_keeps_its_prototype():
    batch = CompositionBatch.from_formulas(["NaCl", "Na2Cl2", "MgO"])
    table = lowest_of_each_formula(
        batch, np.array([-1.0, -2.0, -3.0]), "here", prototypes=["a", "b", "c"], relaxed=np.array([True, False, True])
    )
    assert list(table.prototypes) == ["b", "c"] and table.relaxed.tolist() == [False, True]
