"""The files of a finished computation: complete, compact, and the same bytes for the same results."""

import gzip
import json
import time
from dataclasses import replace
from io import BytesIO

import numpy as np
import pandas as pd
import pytest

import surrogates.reference_export
from surrogates.reference_build import decode_structure
from surrogates.reference_export import STRUCTURES, TABLE, export_reference, read_reference_structures
from surrogates.reference_store import ReferenceStore, StoredResult
from surrogates.reference_table import load_reference_table, parse_prototype_entries

COLUMNS = [
    "formula",
    "prototype",
    "space_group",
    "scanned_energy_eV_per_atom",
    "relaxed_energy_eV_per_atom",
    "volume_A3_per_atom",
    "converged",
]


def structure(length, *symbols):
    lattice = [[length, 0, 0], [0, length, 0], [0, 0, length]]
    positions = [[round(place / len(symbols), 5)] * 3 for place in range(len(symbols))]
    return json.dumps({"lattice": lattice, "species": symbols, "positions": positions}, separators=(",", ":"))


def scan(formula, prototype, energy, volume=20.0, stage="scan", group=225):
    failure = None if energy is not None else "no minimum"
    return StoredResult(stage, formula, prototype, energy, None if energy is None else volume, 0, failure, None, group)


def relaxation(formula, prototype, energy, text=None, volume=19.0, stage="relaxation", group=225):
    failure = None if energy is not None else "not converged"
    held = None if energy is None else volume
    return StoredResult(stage, formula, prototype, energy, held, 30, failure, text, group)


RESULTS = [
    scan("Na", "bcc", -1.3, 37.0, "element_scan", 229),
    scan("Na", "fcc", -1.29, 37.1, "element_scan"),
    scan("Cl", "Cl2", -1.8, 30.0, "element_scan", 64),
    scan("Cl", "fcc", None, stage="element_scan"),
    relaxation("Na", "bcc", -1.31234567, structure(3.3, "Na"), 36.5, "element_relaxation", 229),
    relaxation("Na", "fcc", -1.30, structure(3.3, "Na"), stage="element_relaxation"),
    relaxation("Cl", "Cl2", -1.84, structure(4.0, "Cl"), 29.0, "element_relaxation", 64),
    scan("NaCl", "zincblende", -3.1, 28.0, group=216),
    scan("NaCl", "rock salt", -3.3, 22.5),
    scan("NaCl", "CsCl", -3.25, 21.0, group=221),
    relaxation("NaCl", "rock salt", -3.38, structure(5.6, "Na", "Cl"), 22.0),
    relaxation("NaCl", "CsCl", None, group=221),
    scan("Na3Cl", "x", None),
    scan("NaN", "rock salt", -3.9, 10.0),
    scan("No", "fcc", -2.0, 30.0, "element_scan"),
    scan("N", "N2", -8.3, 28.0, "element_scan", 205),
    scan("NaCl", "incredible", 0.6),
    relaxation("NaCl3", "incredible", 0.5, structure(3.0, "Na", "Cl", "Cl", "Cl")),
    scan("NaCl3", "incredible", 0.55),
]


def fill(path, results=RESULTS):
    store = ReferenceStore(path, {})
    for result in results:
        store.add([result])
    return store


@pytest.fixture
def store(tmp_path):
    opened = fill(tmp_path / "reference.db")
    yield opened
    opened.close()


def test_columns_and_rows_are_as_documented(store, tmp_path):
    summary = export_reference(store, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / TABLE, keep_default_na=False)
    assert list(table.columns) == COLUMNS
    rows = {(row.formula, row.prototype): tuple(row)[2:] for row in table.itertuples(index=False)}
    assert rows == {
        ("Cl", "Cl2"): (64, -1.8, "-1.8400", 29.0, 1),
        ("N", "N2"): (205, -8.3, "", 28.0, 0),
        ("Na", "bcc"): (229, -1.3, "-1.3123", 36.5, 1),
        ("Na", "fcc"): (225, -1.29, "-1.3000", 19.0, 1),
        ("NaCl", "CsCl"): (221, -3.25, "", 21.0, 0),
        ("NaCl", "rock salt"): (225, -3.3, "-3.3800", 22.0, 1),
        ("NaCl", "zincblende"): (216, -3.1, "", 28.0, 0),
        ("NaN", "rock salt"): (225, -3.9, "", 10.0, 0),
        ("No", "fcc"): (225, -2.0, "", 30.0, 0),
    }
    assert list(rows) == sorted(rows)
    assert (summary.entries, summary.relaxed, summary.formulas, summary.failed) == (9, 4, 6, 5)
    assert str(summary) == "9 entries of 6 compositions, 4 of them relaxed; 5 without a usable energy"


def test_files_are_the_same_bytes_for_the_same_results(store, tmp_path, monkeypatch):
    export_reference(store, tmp_path / "one")
    other = fill(tmp_path / "other.db", list(reversed(RESULTS)))
    monkeypatch.setattr(time, "time", lambda: 2e9)
    export_reference(other, tmp_path / "two")
    export_reference(other, tmp_path / "two")
    other.close()
    for name in (TABLE, STRUCTURES):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted((TABLE, STRUCTURES))


def test_best_relaxed_structure_of_each_formula_is_written(store, tmp_path):
    store.add([scan("NaCl", "better", -3.35), relaxation("NaCl", "better", -3.5, structure(6.0, "Cl", "Na"))])
    store.add([scan("NaCl", "a tie", -3.35), relaxation("NaCl", "a tie", -3.5, structure(7.0, "Cl", "Na"))])
    export_reference(store, tmp_path)
    lines = gzip.decompress((tmp_path / STRUCTURES).read_bytes()).decode().splitlines()
    values = [json.loads(line) for line in lines]
    assert [value["formula"] for value in values] == ["Cl", "Na", "NaCl"]
    assert [value["prototype"] for value in values] == ["Cl2", "bcc", "a tie"]
    assert [decode_structure(line).volume for line in lines] == pytest.approx([4.0**3, 3.3**3, 7.0**3])
    assert decode_structure(lines[2]).composition.reduced_formula == "NaCl"


def test_structures_are_read_back(store, tmp_path, monkeypatch):
    export_reference(store, tmp_path)
    content = gzip.decompress((tmp_path / STRUCTURES).read_bytes())
    monkeypatch.setattr(surrogates.reference_export, "open_data_file", lambda name: BytesIO(content))
    read_reference_structures.cache_clear()
    try:
        found = read_reference_structures()
        assert set(found) == {"Cl", "Na", "NaCl"}
        assert found["NaCl"].prototype == "rock salt"
        np.testing.assert_allclose(found["NaCl"].structure.lattice.abc, 5.6)
        np.testing.assert_allclose(found["NaCl"].structure.frac_coords, [[0, 0, 0], [0.5, 0.5, 0.5]])
        assert [site.specie.symbol for site in found["NaCl"].structure] == ["Na", "Cl"]
    finally:
        read_reference_structures.cache_clear()


def check_table(table):
    assert dict(zip(table.materials, table.energies.tolist(), strict=True)) == {
        "Cl": -1.84,
        "N": -8.3,
        "Na": -1.3123,
        "NaCl": -3.38,
        "NaN": -3.9,
        "No": -2.0,
    }
    assert dict(zip(table.materials, table.prototypes, strict=True))["NaCl"] == "rock salt"
    assert table.source == "within the CHGNet prototype library, 9 entries"


def test_table_is_read_as_the_embedded_one_and_as_a_user_s(store, tmp_path):
    store.add([replace(RESULTS[3], stage="scan", formula="Cl2O", prototype="y")])
    export_reference(store, tmp_path)
    table = load_reference_table(tmp_path / TABLE)
    assert "N" in list(table.materials) and "NaN" in list(table.materials)


def test_table_is_parsed_with_relaxed_energies_first(store, tmp_path):
    export_reference(store, tmp_path)
    empty = {name: [""] for name in COLUMNS[3:5]}
    check_table(parse_prototype_entries(pd.read_csv(tmp_path / TABLE, keep_default_na=False, na_values=empty)))


def test_file_that_cannot_be_written_leaves_the_old_one(store, tmp_path, monkeypatch):
    export_reference(store, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in (TABLE, STRUCTURES)}
    store.add([scan("NaCl3", "x", -2.0)])

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(surrogates.reference_export.gzip, "compress", full)
    with pytest.raises(OSError, match="No space left"):
        export_reference(store, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in (TABLE, STRUCTURES)} == before
    assert not list(tmp_path.glob("*.part-*"))


def test_computation_without_relaxations_has_a_table_and_no_structures(tmp_path):
    store = fill(tmp_path / "reference.db", [scan("Na", "bcc", -1.3, stage="element_scan")])
    summary = export_reference(store, tmp_path)
    store.close()
    assert (summary.entries, summary.relaxed, summary.formulas, summary.failed) == (1, 0, 1, 0)
    assert gzip.decompress((tmp_path / STRUCTURES).read_bytes()) == b""
