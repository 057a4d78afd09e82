"""Structures from files: every format, several blocks, and one line for each kind of damage."""

import gzip

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from surrogates.structure_files import read_structures
from tests.surrogates.crystals import rocksalt

NACL, MGO = rocksalt("Na", "Cl", 5.69), rocksalt("Mg", "O", 4.26)
CIF = str(CifWriter(NACL))
EXTENDED_XYZ = """2
Lattice="0 2.845 2.845 2.845 0 2.845 2.845 2.845 0" Properties=species:S:1:pos:R:3 pbc="T T T"
Na 0 0 0
Cl 2.845 2.845 2.845
"""


@pytest.mark.parametrize(
    "name", ["a.cif", "a.CIF", "a.cif.gz", "POSCAR", "POSCAR_2.gz", "a.vasp", "a.extxyz", "a.xyz.gz"]
)
def test_every_format_gives_the_same_crystal(tmp_path, name):
    kind = name.lower()
    text = CIF if "cif" in kind else EXTENDED_XYZ if "xyz" in kind else NACL.to(fmt="poscar")
    file = tmp_path / name
    file.write_bytes(gzip.compress(text.encode()) if kind.endswith(".gz") else text.encode())
    (entry,) = read_structures([file])
    assert entry.problem is None and entry.file == str(file)
    assert entry.structure.matches(NACL, scale=False)
    assert not {"/", " "} & set(entry.name) and not entry.name.endswith(("cif", "gz", "xyz", "vasp"))


def test_each_block_of_a_cif_is_a_structure(tmp_path):
    file = tmp_path / "two.cif"
    text = "data_global\n_journal_name 'X'\n_comment\n;\ndata_inside a text field\n;\n"
    file.write_text(text + CIF + "data_broken\n_cell_length_a 4.0\n" + str(CifWriter(MGO)) + CIF)
    entries = read_structures([file])
    assert [entry.name for entry in entries] == ["two_NaCl_1", "two_broken", "two_MgO", "two_NaCl_2"]
    assert [entry.file.removeprefix(f"{file}#") for entry in entries] == ["NaCl", "broken", "MgO", "NaCl"]
    assert [entry.structure is None for entry in entries] == [False, True, False, False]
    assert entries[2].structure.matches(MGO)
    assert "not a readable CIF" in entries[1].problem


def test_each_frame_of_an_extended_xyz_file_is_a_structure(tmp_path):
    (tmp_path / "many.extxyz").write_text(EXTENDED_XYZ * 2 + "1\nno lattice\nNa 0 0 0\n" + "5\n\nNa 0 0 0\n")
    entries = read_structures([tmp_path / "many.extxyz"])
    assert [entry.name for entry in entries] == ["many_1", "many_2", "many_3", "many_4"]
    assert [entry.structure is None for entry in entries] == [False, False, True, True]
    assert "not periodic" in entries[2].problem and "not a readable extended XYZ" in entries[3].problem


def test_a_folder_gives_the_files_in_it(tmp_path):
    for name, text in (("b.cif", CIF), ("a.cif", CIF), ("notes.txt", "x"), ("POSCAR", NACL.to(fmt="poscar"))):
        (tmp_path / name).write_text(text)
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "c.cif").write_text(CIF)
    assert [entry.name for entry in read_structures([tmp_path])] == ["POSCAR", "a", "b"]


def test_names_are_unique_whatever_their_case(tmp_path):
    files = [tmp_path / folder / name for folder, name in (("1", "a.cif"), ("2", "A.cif"), ("3", "a_1.cif"))]
    for file in files:
        file.parent.mkdir()
        file.write_text(CIF)
    assert [entry.name for entry in read_structures(files)] == ["a_2", "A_3", "a_1"]


DAMAGED = {
    "zero.cif": (b"", "the file is empty"),
    "blank.cif": (b" \n\n", "the file is empty"),
    "rubbish.cif": (bytes(range(256)) * 8, "not a text file"),
    "wide.cif": (CIF.encode("utf-16"), "not a text file (expected UTF-8, found UTF-16)"),
    "number.cif": (CIF.replace("_cell_length_a   ", "_cell_length_a   x").encode(), " is not a number)"),
    "uneven.cif": (f"{CIF.rstrip()} 7\n".encode(), "the 15 values of a loop do not fill its columns"),
    "words.cif": (b"hello\nworld\n", "not a CIF: no data block"),
    "paper.cif": (b"data_x\n_journal_name 'X'\n", "no data block holds a crystal structure"),
    "cell.cif": (b"data_x\n_cell_length_a 3\n", "_atom_site_label is missing"),
    "cut.cif.gz": (gzip.compress(CIF.encode(), mtime=0)[:-40], "not a gzip file, or a damaged one"),
    "plain.cif.gz": (CIF.encode(), "not a gzip file, or a damaged one"),
    "rubbish.vasp": (b"\xff\xfe" * 40, "not a readable POSCAR"),
    "words.vasp": (b"hello world\n" * 9, "not a readable POSCAR"),
    "old.vasp": (b"x\n1\n3 0 0\n0 3 0\n0 0 3\n1\ndirect\n0 0 0\n", "the elements are not named"),
    "words.xyz": (b"hello world\n" * 9, "not a readable extended XYZ"),
    "molecule.xyz": (b"1\n\nNa 0 0 0\n", "not periodic in three directions"),
    "symbol.xyz": (EXTENDED_XYZ.replace("Na", "Qq").encode(), "'Qq' is not a chemical element"),
    "unknown.xyz": (EXTENDED_XYZ.replace("Na", "X").encode(), "no chemical element"),
    "table.csv": (b"a,b\n", "the name tells no known format"),
    "twice.cif": (CIF.replace("  1\n", "  1.5\n").encode(), "an occupancy is above 1"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_line(tmp_path, name):
    content, part = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    (entry,) = read_structures([tmp_path / name])
    assert entry.structure is None
    assert part in entry.problem and "\n" not in entry.problem and len(entry.problem) < 300


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.cif", "data_x\n_cell_length_a 3\nloop_\nNa Na 0 0 0\n", "not a readable CIF"),
        ("a.vasp", "x\n1\n3 0 0\n", "not a readable POSCAR"),
        ("b.xyz", EXTENDED_XYZ[:-20], "not a readable extended XYZ file"),
    ],
)
def test_what_only_speaks_of_the_code_is_not_passed_on(tmp_path, name, content, problem):
    (tmp_path / name).write_text(content)
    (entry,) = read_structures([tmp_path / name])
    assert entry.problem == problem


def test_missing_files_and_empty_folders_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    missing, empty = read_structures([tmp_path / "no.cif", tmp_path / "empty"])
    assert missing.problem == "there is no such file"
    assert "the folder holds no structure files" in empty.problem


def test_disorder_is_read_as_it_is(tmp_path):
    disordered = Structure(Lattice.cubic(3), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    (tmp_path / "half.cif").write_text(str(CifWriter(disordered)))
    (entry,) = read_structures([tmp_path / "half.cif"])
    assert not entry.structure.is_ordered


def test_atoms_that_do_not_add_up_are_noted(tmp_path):
    (tmp_path / "odd.cif").write_text(
        CIF.replace("_chemical_formula_sum   'Na1 Cl1'", "_chemical_formula_sum   'Na1 Cl3'")
    )
    (entry,) = read_structures([tmp_path / "odd.cif"])
    assert entry.structure is not None
    assert "do not add up to the formula" in entry.note
