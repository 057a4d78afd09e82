"""`matsmith evaluate`: files in, table, JSON and page out, and one line for every mistake."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

import agent.evaluation
import agent.report_evaluation
from agent.cli import main
from surrogates.datasets import read_known_formulas
from tests.agent.test_cli import COMMAND, ROOT, assert_refused, run
from tests.surrogates.crystals import rocksalt
from tests.surrogates.test_charge_balance import random_formulas


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with lists of materials."""
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_text("name,formula\na,NaCl\nb,Na2Cl2\nc,Fe3+\nd,SrTiO3\n<b>,<script>alert(1)</script>\nf,\n")
    Path("holdout.txt").write_text("NaCl\nKCl\n")
    Path("cifs").mkdir()
    Path("cifs/salt.cif").write_text(str(CifWriter(rocksalt("Na", "Cl", 5.6))))
    Path("cifs/magnesia.cif").write_text(str(CifWriter(rocksalt("Mg", "O", 4.2))))
    Path("cifs/bad.cif").write_text("data_x\n")
    Path("empty.csv").touch()
    Path("wide.csv").write_text("formula\nNaCl\n", encoding="utf-16")
    yield tmp_path


def test_a_table_with_definitions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "list.csv", "--holdout", "holdout.txt"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for part in (
        "materials read 3 of 6",
        "icsd24 100.0 % 100.0 % 100.0 %",
        "unique 66.7 % distinct reduced formulas (2)",
        "novel 0 % of the distinct formulas, those not among",
        f"{len(read_known_formulas()):,} known formulas embedded in MatSmith",
        "recovered 50.0 % of the hold-out's distinct formulas, those found again: 1 of 2",
        "3 could not be read: list.csv, row 3: 'Fe3+' is not a chemical formula (charges are not understood)",
        "list.csv, row 6: no value",
        "6 materials in",
    ):
        assert part in out
    assert sorted(path.name for path in Path().iterdir()) == [
        "cifs", "empty.csv", "holdout.txt", "list.csv", "wide.csv",
    ]  # fmt: skip


def test_json_is_one_object_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "cifs", "list.csv", "--reference", "holdout.txt", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert out.count("\n") == 1 and err == ""
    assert found["files"] == ["cifs", "list.csv"] and found["report"] is None
    assert found["given"] == 9 and found["compositions"]["n"] == 5
    assert found["compositions"]["reference"] == "the 2 formulas of holdout.txt"
    assert found["compositions"]["novel"] == pytest.approx(2 / 3) and found["compositions"]["recovery"] is None
    assert found["structures"]["n"] == 2 and found["structures"]["space_groups"] == {"225 Fm-3m": 2}
    assert found["refused"]["count"] == 4 and found["refused"]["first"][0]["where"] == "cifs/bad.cif"


def test_the_page_stands_alone_and_is_closed_to_injected_markup(capsys: pytest.CaptureFixture[str]) -> None:
    overlapping = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.05, 0, 0]])
    Path("cifs/overlap.cif").write_text(str(CifWriter(overlapping)))
    Path("old.html").write_text("old")
    assert run(["evaluate", "cifs", "list.csv", "--output", "old.html"]) == 0
    assert "report: old.html" in capsys.readouterr().out
    page = Path("old.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None and "default-src 'none'" in policy[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    allowed = set(re.findall(r"'sha256-([^']*)'", policy[1]))
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts} == allowed
    described = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert described is not None
    figures = json.loads(described[1])
    assert set(figures) == {"element-shares", "arities", "space-groups"}
    assert all(f'id="{name}"' in page for name in figures)
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    visible = page.partition("<body>")[2].partition('<script type="application/json"')[0]
    assert not re.search(r"""(?:src|href)=["']?https?:|\b(?:None|nan|inf)\b""", visible)
    for part in ("valid structures (CDVAE)", "66.7 %", "pymatgen&#39;s structure predictor", "Not novelty in the"):
        assert part in visible
    assert not list(Path().glob("*.part-*"))


def test_what_cannot_be_read_of_the_other_lists_is_told_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    Path("hold.csv").write_text("formula\nTi2O4\nSrTiO₃\nKCl\nhello\nTiO2\nworld\n")
    Path("known.csv").write_text("formula\nNaCl\nCuSO4.5H2O\n")
    arguments = ["evaluate", "holdout.txt", "--holdout", "hold.csv", "--reference", "known.csv"]
    assert run([*arguments, "--output", "page.html"]) == 0
    lines = capsys.readouterr().out.splitlines()
    page = html.unescape(Path("page.html").read_text(encoding="utf-8"))
    for line in (
        "2 of the hold-out could not be read, the first: hold.csv, row 4: 'hello' is not a chemical formula",
        "1 of the reference could not be read, the first: known.csv, row 2: 'CuSO4.5H2O' can be read in two ways "
        "(expected CuSO4(H2O)5)",
    ):
        assert line in lines and f"<p>{line}</p>" in page
    assert page.count('id="h-refused"') == 1 and "materials are in no figure" not in page
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["refused"] == {"count": 0, "first": []} and found["reference_refused"]["count"] == 1
    assert found["holdout_refused"]["count"] == 2 and found["holdout_refused"]["first"][1]["what"] == "world"
    assert found["compositions"]["recovery"]["held_out"] == 3  # TiO2, SrTiO3, KCl


def test_json_and_page_list_the_same_refused_materials(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("many.csv").write_text("formula\nNaCl\n" + "".join(f"bad{row}\n" for row in range(27)))
    for most in (200, 12):
        monkeypatch.setattr(agent.evaluation, "MOST_REFUSED", most)
        monkeypatch.setattr(agent.report_evaluation, "MOST_REFUSED", most)
        assert run(["evaluate", "many.csv", "--output", "page.html", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["refused"]
        listed = re.findall(r"<code>(bad\d+)</code>", Path("page.html").read_text(encoding="utf-8"))
        assert found["count"] == 27 and len(listed) == min(27, most)
        assert [entry["what"] for entry in found["first"]] == listed


def test_subscripts_are_read_from_tables(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pasted.txt").write_text("SrTiO₃\nAl₂O₃\n", encoding="utf-8")
    Path("plain.txt").write_text("Al2O3\nSrTiO3\n")
    assert run(["evaluate", "pasted.txt", "--holdout", "plain.txt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["given"] == 2 and found["compositions"]["recovery"]["share"] == 1


def test_a_folder_that_goes_while_the_page_is_made_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("pages").mkdir()
    monkeypatch.setattr(agent.report_evaluation, "evaluation_page", lambda _: str(Path("pages").rmdir()))
    assert run(["evaluate", "list.csv", "--output", "pages/out.html"]) == 2
    assert "output: pages/out.html cannot be written (No such file or directory)" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["list.csv", "--json"], ["list.csv"]])
def test_a_reader_that_has_gone_ends_the_command_quietly(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
        done = subprocess.run(
            [*COMMAND, "evaluate", *arguments], stdout=writing, stderr=subprocess.PIPE, env=environment, check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_page_of_formulas_has_no_part_on_structures() -> None:
    assert run(["evaluate", "list.csv", "--output", "page.html"]) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert 'id="h-structures"' not in page and 'id="h-refused"' in page


def test_a_configuration_file_and_a_column_of_choice(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text("column: parent\nholdout: holdout.txt\n")
    Path("two.csv.gz").write_bytes(gzip.compress(b"formula,parent\nx,KCl\ny,KCl\n"))
    assert run(["evaluate", "--config", "config.yaml", "two.csv.gz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["compositions"]["recovery"]["found"] == 1 and found["compositions"]["distinct"] == 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "files"),
        (["missing.csv"], "files: missing.csv: there is no such file or folder"),
        (["empty.csv"], "files: empty.csv: the file is empty"),
        (["cifs/bad.cif"], "files: nothing could be read: cifs/bad.cif: no data block holds a crystal structure"),
        (["list.csv", "--column", "name"], "files: nothing could be read: list.csv, row 1: 'a' is not a chemical"),
        (["list.csv", "--column", "x"], "files: list.csv: no column 'x' (there are name, formula)"),
        (["list.csv", "--holdout", "empty.csv"], "holdout: empty.csv: the file is empty"),
        (["list.csv", "--reference", "no"], "reference: no: there is no such file or folder"),
        (["list.csv", "--relax"], "relax: there is no structure among the materials"),
        (["list.csv", "--output", "out.csv"], "output: out.csv is not named *.html"),
        (["list.csv", "--output", "no/out.html"], "/no to write out.html into"),
        (["wide.csv"], "files: wide.csv: not a text file (expected UTF-8, found UTF-16)"),
        (["list.csv", "--hold_out", "x"], "unrecognized arguments: --hold_out"),
        (["list.csv", "--relax", "perhaps"], "relax"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(["evaluate", *arguments], capsys, part)


def test_the_page_never_replaces_what_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.html").mkdir()
    assert_refused(["evaluate", "list.csv", "--output", "list.html"], capsys, "output: list.html is a folder")


def test_main_is_what_the_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "holdout.txt"])
    assert "materials read" in capsys.readouterr().out


@pytest.mark.slow
def test_a_hundred_thousand_formulas_take_less_than_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    Path("large.csv").write_text("formula\n" + "\n".join(random_formulas(100_000, 6)) + "\n")
    began = time.process_time()
    assert run(["evaluate", "large.csv", "--holdout", "large.csv", "--output", "large.html", "--json"]) == 0
    assert time.process_time() - began < 60
    found = json.loads(capsys.readouterr().out)
    assert found["compositions"]["n"] == 100_000 and found["compositions"]["recovery"]["share"] == 1
