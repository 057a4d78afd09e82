"""`matsmith validate`: files in, table and relaxed structures out, and one line for every mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ase.io import read
from pymatgen.core import Structure
from pymatgen.io.cif import CifWriter

import surrogates.structure_funnel
from agent.cli import main
from tests.agent.test_cli import assert_refused, run
from tests.surrogates.analytic_potentials import Compounds
from tests.surrogates.crystals import rocksalt


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with structure files; CHGNet is replaced by a table of formation energies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(surrogates.structure_funnel, "CHGNetPotential", Compounds)
    Path("NaCl.cif").write_text(str(CifWriter(rocksalt("Na", "Cl", 5.4))))
    Path("two.cif").write_text(str(CifWriter(rocksalt("Mg", "O", 5.4))) + str(CifWriter(rocksalt("Ni", "Al", 4.5))))
    Path("empty.cif").touch()
    yield tmp_path


def test_files_become_a_table_and_relaxed_structures(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "NaCl.cif", "two.cif", "empty.cif", "missing.cif", "--output", "out"]) == 0
    out = capsys.readouterr().out
    table = pd.read_csv("out/validation.csv", keep_default_na=False)
    assert table["name"].tolist() == ["NaCl", "two_MgO", "two_AlNi", "empty", "missing"]
    assert table["rung"].tolist() == ["hull", "hull", "built", "", ""]
    assert table["reason"].tolist()[3:] == ["the file is empty", "there is no such file"]
    assert table["file"].tolist()[1:3] == ["two.cif#MgO", "two.cif#AlNi"]
    assert sorted(path.name for path in Path("out").iterdir()) == ["relaxed", "relaxed.extxyz", "validation.csv"]
    assert sorted(path.name for path in Path("out/relaxed").iterdir()) == ["NaCl.cif", "two_MgO.cif"]
    structure = Structure.from_file("out/relaxed/NaCl.cif")
    assert structure.volume / 2 == pytest.approx(20, rel=0.01)
    frames = read("out/relaxed.extxyz", index=":")
    assert [atoms.info["name"] for atoms in frames] == ["NaCl", "two_MgO"]
    energies = pd.to_numeric(table["formation_energy_eV_per_atom"])
    assert frames[0].info["formation_energy_eV_per_atom"] == pytest.approx(energies[0], abs=1e-4)
    assert "5 structures, passed: built 3, rules 2, surrogate 2, relaxed 2, hull 2" in out
    assert "2 of them unfit or not readable, the first: empty.cif: the file is empty" in out
    assert "not DFT" in out and "prototype library" in out and "out/validation.csv" in out


def test_json_is_one_object_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "NaCl.cif", "empty.cif", "--relax", "false", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert out.count("\n") == 1 and err == ""
    assert found["structures"] == 2 and found["unreadable"] == 1 and not found["interrupted"]
    assert found["passed"] == {"built": 1, "rules": 1, "surrogate": 1}
    assert found["files"] == ["runs/validate/validation.csv"]
    assert found["results"][0]["energy_eV_per_atom"] is None and found["results"][0]["space_group_number"] == 225


def test_a_folder_and_a_configuration_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text("relax: false\ncharge_rules: false\noutput: other\n")
    assert run(["validate", "--config", "config.yaml", "."]) == 0
    table = pd.read_csv("other/validation.csv", keep_default_na=False)
    assert table["rung"].tolist() == ["surrogate", "", "surrogate", "surrogate"]


def test_results_are_replaced_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "NaCl.cif", "two.cif", "--output", "out"]) == 0
    assert_refused(["validate", "NaCl.cif", "--output", "out"], capsys, "output: out holds another validation")
    again = ["validate", "--overwrite", "true", "--output", "out"]
    assert_refused([*again, "out/relaxed/NaCl.cif"], capsys, "overwriting out would delete out/relaxed/NaCl.cif")
    assert run([*again, "two.cif"]) == 0
    assert [path.name for path in Path("out/relaxed").iterdir()] == ["two_MgO.cif"]
    assert run(["validate", "two.cif", "--output", "out", "--relax", "false", "--overwrite"]) == 0
    assert not list(Path("out/relaxed").iterdir()) and not Path("out/relaxed.extxyz").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "files"),
        (["empty.cif", "missing.cif"], "no structure could be read: empty.cif: the file is empty (and 1 more)"),
        (["missing.cif"], "files: no structure could be read: missing.cif: there is no such file"),
        (["NaCl.cif", "--output", "NaCl.cif"], "output: NaCl.cif is a file"),
        (["NaCl.cif", "--output", "NaCl.cif/x"], "output: cannot make NaCl.cif/x"),
        (["NaCl.cif", "--output", "."], "holds other files"),
        (["NaCl.cif", "--phonon", "--relax", "false"], "phonon: only relaxed structures can be judged"),
        (["NaCl.cif", "--top", "0"], "top: 0 is not at least 1"),
        (["NaCl.cif", "--max_atoms", "many"], "max_atoms: expected int"),
        (["NaCl.cif", "--max_e_above_hull", "-1"], "max_e_above_hull: -1 is not at least 0"),
        (["NaCl.cif", "--fmax", "0"], "fmax: 0 is not above 0"),
        (["NaCl.cif", "--max_steps", "0"], "max_steps: 0 is not at least 1"),
        (["NaCl.cif", "--relaxx", "true"], "relaxx"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(["validate", *arguments], capsys, part)


def test_missing_packages_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.util

    found = importlib.util.find_spec
    missing = ("matcalc", "phonopy")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in missing else found(name, *rest)
    )
    for option, package in (("--elastic", "matcalc"), ("--phonon", "phonopy")):
        expected = f'{package} is not installed; pip install "matsmith[validate]"'
        assert_refused(["validate", "NaCl.cif", option], capsys, expected)


def test_ctrl_c_writes_what_was_finished(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(Compounds):  # type: ignore[misc]
        def evaluate(self, structures: Any) -> Any:
            if any(structure.composition.reduced_formula == "MgO" for structure in structures):
                raise KeyboardInterrupt
            return super().evaluate(structures)

    monkeypatch.setattr(surrogates.structure_funnel, "CHGNetPotential", Interrupted)
    assert run(["validate", "NaCl.cif", "two.cif", "--output", "out"]) == 130
    err = capsys.readouterr().err
    assert err.rstrip().splitlines()[-1] == "matsmith: interrupted; what was finished is written"
    table = pd.read_csv("out/validation.csv", keep_default_na=False)
    assert table["rung"].tolist() == ["surrogate", "surrogate", "built"]


def test_main_is_what_the_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["validate", "NaCl.cif", "--relax", "false", "--output", "out"])
    assert "NaCl" in capsys.readouterr().out
