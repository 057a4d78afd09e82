"""Lists of materials: every kind of file, what cannot be read with its row, and mistakes in one line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.io.cif import CifWriter

import surrogates.formula_tables
from envs.crystal_batch import CrystalBatch
from envs.formula import CompositionBatch, plain_digits
from surrogates.material_lists import MaterialList, collect_materials, read_materials_of_files
from surrogates.symmetry_check import find_space_group
from tests.surrogates.crystals import rocksalt

CIF = str(CifWriter(rocksalt("Na", "Cl", 5.6)))


def read(path: Path, column: str | None = None) -> MaterialList:
    return read_materials_of_files([path], column)


def reasons(found: MaterialList) -> list[tuple[str, str]]:
    return [(entry.where, entry.reason) for entry in found.refused]


def test_odd_formulas_are_read_as_pymatgen_does_or_refused_with_their_row(tmp_path: Path) -> None:
    readable = ["NaN", "D2O", "Ca(OH)2", "[Co(NH3)6]Cl3", "(Na0.5K0.5)NbO3", "Fe2 O3", "TiD2", "Li0.5CoO2", "Dy2O3"]
    refused = ["Fe3+", "Fe2O3-", "nan", "X2O", "Fe-3O4", "fe2o3", "SO4(2-)", "C1000000000", "Na0O", "Fe" * 400]
    readable += ["Sr₂TiO₄", "D₂O"]
    refused += ["CuSO4.5H2O", "NaCl·2D₂O"]
    file = tmp_path / "odd.csv"
    file.write_text("id,formula\n" + "".join(f"7,{text}\n" for text in [*readable, *refused, ""]))
    found = read(file)
    for formula, text in zip(found.compositions, readable, strict=True):
        assert Composition(formula).almost_equals(Composition(Composition(plain_digits(text)).get_el_amt_dict()))
    assert found.heavy_hydrogen == 3 and found.given == 24
    assert [entry.where for entry in found.refused] == [f"{file}, row {row}" for row in range(12, 25)]
    given = dict(zip([*refused, ""], (entry.reason for entry in found.refused), strict=True))
    assert given["Fe3+"] == "'Fe3+' is not a chemical formula (charges are not understood)"
    assert "charges" in given["SO4(2-)"] and "charges" not in given["fe2o3"]
    assert given["X2O"] == "'X2O': 'X' is not a chemical element"
    assert "atoms, expected at most 100,000" in given["C1000000000"]
    assert given["Fe" * 400] == "800 characters, expected a formula of at most 500"
    assert given["CuSO4.5H2O"] == "'CuSO4.5H2O' can be read in two ways (expected CuSO4(H2O)5)"
    assert given["NaCl·2D₂O"] == "'NaCl·2D₂O' is not a chemical formula (expected NaCl(D2O)2)"
    assert given[""] == "no value"
    assert all(len(entry.what) <= 40 and "\n" not in entry.reason for entry in found.refused)


def test_brackets_removed_do_not_make_a_hydrate() -> None:
    found = collect_materials(["Cl2.6(H2)O", Composition({"Cl": 2.6, "H": 2, "O": 1})])
    assert found.refused == () and len(set(found.compositions)) == 1
    assert Composition(found.compositions[0]).almost_equals(Composition({"Cl": 2.6, "H": 2, "O": 1}))


def test_a_refused_hydrate_is_not_taken_for_a_header(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("CuSO4.5H2O\nNaCl\n")
    assert [where for where, _ in reasons(read(file))] == [f"{file}, row 1"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "formula\nNaCl\nMgO\n"),
        ("a.csv", "Composition,x\r\nNaCl,1\r\nMgO,2\r\n"),
        ("a.csv", "\ufeffmaterial;x\nNaCl;1\nMgO;2\n"),
        ("a.csv", "my own name\nNaCl\n\nMgO\n\n"),
        ("a.csv", "NaCl\nMgO\n"),
        ("a.csv", "x,pretty_formula,y\n,NaCl\n,MgO,3,4,5\n"),
        ("a.tsv", "x\tformula\n1\tNaCl\n2\tMgO\n"),
        ("a.txt", "NaCl\n\nMgO"),
        ("a.txt", "formula\nNaCl\nMgO\n"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_tables_of_formulas(tmp_path: Path, name: str, content: str, compressed: bool) -> None:
    file = tmp_path / (f"{name}.gz" if compressed else name)
    file.write_bytes(gzip.compress(content.encode()) if compressed else content.encode())
    found = read(file)
    assert list(found.compositions) == ["NaCl", "MgO"] and found.refused == ()
    assert found.structures == (None, None)


def test_the_same_materials_in_parquet_and_in_a_column_of_choice(tmp_path: Path) -> None:
    frame = pd.DataFrame({"formula": ["NaCl", None], "parent": ["MgO", "CaO"], "cif": [CIF, "no CIF"]})
    for file, write in ((tmp_path / "a.parquet", frame.to_parquet), (tmp_path / "a.csv", frame.to_csv)):
        write(file)
        found = read(file)
        assert list(found.compositions) == ["NaCl"]
        assert reasons(found) == [(f"{file}, row 2", "no value")]
        assert list(read(file, "parent").compositions) == list(read(file, "Parent").compositions) == ["MgO", "CaO"]
        found = read(file, "cif")
        assert list(found.compositions) == ["Na4Cl4"] or list(found.compositions) == ["NaCl"]
        assert isinstance(found.structures[0], Structure)
        assert reasons(found) == [(f"{file}, row 2", "not a readable CIF")]


def test_folders_and_structure_files(tmp_path: Path) -> None:
    (tmp_path / "cifs").mkdir()
    (tmp_path / "cifs" / "salt.cif").write_text(CIF)
    (tmp_path / "cifs" / "empty.cif").touch()
    (tmp_path / "cifs" / "notes.md").write_text("NaCl")
    frames = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"\nMg 0 0 0\nO 2 2 2\n'
    (tmp_path / "two.extxyz").write_text(frames * 2)
    found = read_materials_of_files([tmp_path / "cifs", tmp_path / "two.extxyz"])
    assert [Composition(formula).reduced_formula for formula in found.compositions] == ["NaCl", "MgO", "MgO"]
    assert all(isinstance(structure, Structure) for structure in found.structures)
    assert reasons(found) == [(str(tmp_path / "cifs" / "empty.cif"), "the file is empty")]


def test_materials_from_python() -> None:
    structure = Structure(Lattice.cubic(4), ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    heavy = Structure(Lattice.cubic(4), ["D", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    found = collect_materials(["NaCl", structure, Composition({"Fe3+": 2, "O2-": 3}), heavy, 7, None, "Xx"])
    assert list(found.compositions) == ["NaCl", "NaCl", "Fe2O3", "HO"]
    assert [one is not None for one in found.structures] == [False, True, False, True]
    assert found.heavy_hydrogen == 1
    assert reasons(found) == [
        ("material 5", "expected a formula or a structure, found int"),
        ("material 6", "expected a formula or a structure, found NoneType"),
        ("material 7", "'Xx': 'Xx' is not a chemical element"),
    ]
    batch = CompositionBatch.from_formulas(["SrTiO3", "Li0.5CoO2"])
    assert list(collect_materials(batch).compositions) == list(batch)
    crystals = CrystalBatch.from_texts(["NaCl | 225 | Na a | Cl b | 5.6 5.6 5.6 90 90 90"])
    (structure,) = collect_materials(crystals).structures
    group = find_space_group(structure) if structure is not None else None
    assert group is not None and group.number == 225
    assert collect_materials([]).given == 0
    dummy = Structure(Lattice.cubic(4), ["X", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert reasons(collect_materials([dummy])) == [("material 1", "'X' is not a chemical element")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b" \n\n", "the file is empty"),
        ("a.csv", b"formula\n", "the table has no rows"),
        ("a.csv", b"a,b\n1,2\n", r"no formula column \(expected one of formula, .*there are a, b\)"),
        ("a.csv", b'formula\n"NaCl\n', "not a readable csv table"),
        ("a.csv", b"\0\0", r"not a text file \(expected UTF-8\)"),
        ("a.csv", "formula\nNaCl\n".encode("utf-16"), r"not a text file \(expected UTF-8, found UTF-16\)"),
        ("a.csv.gz", b"formula\nNaCl\n", "not a gzip file, or a damaged one"),
        ("a.txt.gz", gzip.compress(b"NaCl\n" * 9999, mtime=0)[:60], "not a gzip file, or a damaged one"),
        ("a.parquet", b"formula", "not a readable parquet table"),
        ("a.txt", None, "there is no such file"),
    ],
)
def test_files_that_are_no_lists(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_too_large_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surrogates.formula_tables, "LARGEST_FILE", 1_000_000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"NaCl\n" * 400_000))
    with pytest.raises(ValueError, match="larger than 1 MB; split it"):
        read(tmp_path / "a.csv.gz")


def test_no_such_column_and_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("formula\nNaCl\n")
    with pytest.raises(ValueError, match=r"no column 'x' \(there are formula\)"):
        read(tmp_path / "a.csv", "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="the folder holds no structure files"):
        read(tmp_path / "empty")
    (tmp_path / "a.docx").write_text("NaCl")
    assert "known format" in read(tmp_path / "a.docx").refused[0].reason
