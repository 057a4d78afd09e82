"""Structures on disk: read back as they were, whole or not at all, without those of an earlier run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from ase.io import read
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from agent import structure_output
from agent.structure_output import Frame, write_structures
from agent.text_file import replace_text
from tests.surrogates.crystals import perovskite, rocksalt


def frames() -> list[Frame]:
    told = {
        "formula": "NaCl",
        "rung": "hull",
        "energy_eV_per_atom": -3.39,
        "e_above_hull_eV_per_atom": math.nan,
        "steps": 7,
    }
    charged = perovskite("Sr", "Ti", "O", 3.9).add_oxidation_state_by_element({"Sr": 2, "Ti": 4, "O": -2})
    return [Frame("0001_NaCl", rocksalt("Na", "Cl", 5.6), told), Frame("0002_SrTiO3", charged, {"formula": "SrTiO3"})]


def write(folder: Path, given: list[Frame]) -> tuple[Path, ...]:
    return write_structures(given, folder / "cifs", folder / "all.extxyz")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files_hold_the_structures(tmp_path: Path) -> None:
    assert write(tmp_path, frames()) == (tmp_path / "all.extxyz", tmp_path / "cifs")
    assert names(tmp_path) == ["all.extxyz", "cifs/0001_NaCl.cif", "cifs/0002_SrTiO3.cif"]
    images = read(tmp_path / "all.extxyz", index=":")
    assert len(images) == 2
    for frame, atoms in zip(frames(), images, strict=True):
        stored = Structure.from_file(tmp_path / "cifs" / f"{frame.name}.cif")
        assert StructureMatcher(scale=False).fit(stored.remove_oxidation_states(), plain(frame.structure))
        assert atoms.get_volume() == pytest.approx(frame.structure.volume)
        assert atoms.get_atomic_numbers().tolist() == [site.specie.Z for site in frame.structure]
        assert atoms.info["name"] == frame.name and atoms.info["formula"] == frame.told["formula"]
    assert images[0].info["energy_eV_per_atom"] == -3.39 and images[0].info["rung"] == "hull"
    assert "e_above_hull_eV_per_atom" not in images[0].info and "steps" not in images[0].info


def plain(structure: Structure) -> Structure:
    return structure.copy().remove_oxidation_states()


def test_files_of_an_earlier_run_go(tmp_path: Path) -> None:
    write(tmp_path, frames())
    (tmp_path / "cifs" / "notes.txt").write_text("mine")
    write(tmp_path, frames()[1:])
    assert names(tmp_path) == ["all.extxyz", "cifs/0002_SrTiO3.cif", "cifs/notes.txt"]
    assert len(read(tmp_path / "all.extxyz", index=":")) == 1
    assert write(tmp_path, []) == ()
    assert names(tmp_path) == ["cifs/notes.txt"]
    assert write(tmp_path / "nowhere", []) == ()


def test_an_interruption_leaves_whole_files_and_those_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, frames()[:1])
    before = (tmp_path / "cifs" / "0001_NaCl.cif").read_text()

    def interrupt(path: Path, text: str) -> None:
        if "0002" in path.name:
            raise KeyboardInterrupt
        replace_text(path, text)

    monkeypatch.setattr(structure_output, "replace_text", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, frames())
    assert names(tmp_path) == ["all.extxyz", "cifs/0001_NaCl.cif"]
    assert (tmp_path / "cifs" / "0001_NaCl.cif").read_text() == before


def test_a_text_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    replace_text(tmp_path / "a", "first")
    with pytest.raises(UnicodeEncodeError):
        replace_text(tmp_path / "a", "second \ud800")
    assert (tmp_path / "a").read_text() == "first" and names(tmp_path) == ["a"]
