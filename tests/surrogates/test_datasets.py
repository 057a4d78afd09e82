import re

import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from envs.formula import reduced_formula
from surrogates.band_gap_data import computed_classes, measured_gaps
from surrogates.datasets import (
    load_dataset,
    read_band_gaps,
    read_element_properties,
    read_known_formulas,
    read_metal_classes,
)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_embedded_tables_hold_what_their_readme_says():
    gaps, classes, known = read_band_gaps(), read_metal_classes(), read_known_formulas()
    assert (len(gaps), len(classes), len(known)) == (2470, 4890, 36542)
    assert (known["entries"] > 0).sum() == 34630
    for table in (gaps, classes, known):
        assert table["formula"].is_unique
    assert gaps["band_gap_eV"].between(0.01, 12).all()
    assert set(classes["gapped"]) == {0, 1}
    assert known.loc[known["entries"] > 0, "gapped"].between(0, 1).all()
    assert known["formula"].iloc[::500].map(reduced_formula).equals(known["formula"].iloc[::500])
    assert "NaN" in set(known["formula"]) or known["formula"].notna().all()


def test_element_properties_are_complete():
    table = read_element_properties()
    assert table.shape[0] == 103
    assert not table.isna().to_numpy().any()
    assert table.loc["O", "electronegativity"] == 3.44
    assert table.loc["Fe", "atomic_number"] == 26
    assert table.loc["Ti", "common_cation_charge"] == 4
    assert table.loc["O", "common_anion_charge"] == -2


def test_labels_are_gaps_and_metals():
    measured = measured_gaps()
    label = dict(zip(measured.materials, measured.labels.tolist(), strict=True))
    assert label["GaAs"] == pytest.approx(1.51, abs=0.15)
    assert label["TiFe2Sb"] == 0
    assert sum(value > 0 for value in label.values()) == len(read_band_gaps())
    computed = computed_classes()
    assert len(computed) == 34630
    assert "GaAs" not in set(computed.without({"GaAs"}).materials)


@pytest.mark.parametrize("name", ["data.csv", "data.csv.gz", "data.parquet"])
def test_a_table_is_read_by_its_names(tmp_path, name):
    table = pd.DataFrame({"Pretty_Formula": ["SrTiO3", "Ca(OH)2"], "gap": [3.25, 5], "note": ["a", "b"], "n": [1, 2]})
    path = tmp_path / name
    if name.endswith("parquet"):
        table.to_parquet(path)
    else:
        table.to_csv(path)
    dataset = load_dataset(path)
    assert list(dataset.materials) == ["SrTiO3", "CaH2O2"]
    assert list(dataset.properties.columns) == ["gap", "n"]
    assert load_dataset(path, value_columns=["gap"]).properties["gap"].tolist() == [3.25, 5.0]
    assert list(load_dataset(path, formula_column="Pretty_Formula", value_columns=[]).materials)


def test_formulas_are_read_from_structures(tmp_path):
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0, 0]])
    path = tmp_path / "structures.csv"
    pd.DataFrame({"cif": [structure.to(fmt="cif")], "gap": [8.5]}).to_csv(path, index=False)
    dataset = load_dataset(path)
    assert list(dataset.materials) == ["Na4Cl4"]
    assert dataset.properties["gap"].tolist() == [8.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("formula,gap\n", "the table has no rows"),
        ("name,gap\nNaCl,8.5\n", "no formula column (expected one of formula, composition"),
        ("formula,gap\nNaCl,8.5\nNaXx,1\n", "column 'formula', row 2: formula 'NaXx': 'Xx' is not a chemical element"),
        ("formula,gap\nNaCl,8.5\n,1\n", "column 'formula', row 2: expected a formula, found no value"),
        ("formula,gap\nNaCl,8.5\nMgO,\n", "column 'gap', row 2: expected a finite number, found no value"),
        ("formula,gap\nNaCl,inf\nMgO,1\n", "column 'gap', row 1: expected a finite number, found inf"),
        ("formula,gap\nNaCl,high\nMgO,1\n", "column 'gap', row 1: expected a finite number, found 'high'"),
        ("cif,gap\nnonsense,1\n", "column 'cif', row 1: not a readable CIF: 'nonsense'"),
    ],
)
def test_a_bad_table_is_one_clear_line(tmp_path, text, message):
    path = write(tmp_path / "table.csv", text)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")) as error:
        load_dataset(path, value_columns=["gap"])
    assert "\n" not in str(error.value)


def test_missing_columns_files_and_kinds_are_named(tmp_path):
    path = write(tmp_path / "table.csv", "formula,gap\nNaCl,8.5\n")
    with pytest.raises(ValueError, match=r"no column 'energy' \(there are formula, gap\)"):
        load_dataset(path, value_columns=["energy"])
    with pytest.raises(ValueError, match=r"no column 'name' \(there are formula, gap\)"):
        load_dataset(path, formula_column="name")
    with pytest.raises(ValueError, match="there is no such file"):
        load_dataset(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="expected a table named"):
        load_dataset(write(tmp_path / "table.txt", "formula\nNaCl\n"))
    with pytest.raises(ValueError, match="not a readable parquet table"):
        load_dataset(write(tmp_path / "table.parquet", "formula\nNaCl\n"))
