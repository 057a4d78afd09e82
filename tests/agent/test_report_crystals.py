"""Crystals in the report: counts, table, pictures and figures are those of the files, and no file stops it."""

from __future__ import annotations

import html
import json
import re
import shutil
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import spglib
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.groups import SpaceGroup

from agent.report import write_report
from agent.report_crystal_structures import MOST_ATOMS, DrawnCell, find_structures
from agent.report_crystals import MOST_PICTURES, crystals_in
from agent.report_figures import NO_VALUE
from agent.report_properties import quantities_in
from agent.report_space_groups import MOST_GROUPS, compare_groups, group_html, group_number
from agent.structure_output import Frame, write_structures
from envs import CrystalBatch
from envs.wyckoff import all_space_groups

TEXTS = [
    "NaCl | 225 | Na a | Cl b | 5.6 5.6 5.6 90 90 90",
    "KCl | 225 | K a | Cl b | 6.3 6.3 6.3 90 90 90",
    "TiO2 | 136 | Ti a | O f 0.305 | 4.594 4.594 2.959 90 90 90",
    "SrTiO3 | 99 | Sr a 0 | Ti b 0.5 | O b 0 | O c 0.5 | 3.9 3.9 3.95 90 90 90",
    "CsCl | 221 | Cs a | Cl b | 4.1 4.1 4.1 90 90 90",
    "ZnS | 216 | Zn a | S c | 5.4 5.4 5.4 90 90 90",
    "NaCl | 221 | Na a | Cl b | 3.4 3.4 3.4 90 90 90",
    "KCl | 221 | K a | Cl b | 3.7 3.7 3.7 90 90 90",
]
HULL = [0.02, 0.08, -0.01, 0.2, None, None, 0.04, None]
REASONS = [
    "", "dynamically unstable: an imaginary mode of -0.80 THz at q = 0.5 0 0", "",
    "0.200 eV/atom above the hull, more than 0.1", "not converged after 300 steps (0.52 eV/A left)",
    "not converged after 300 steps (0.11 eV/A left)", "", "",
]  # fmt: skip
RELAXED_GROUPS = ["Fm-3m", "Fm-3m", "P4_2/mnm", "Pm-3m", "", "", "P4/mmm", ""]


@pytest.fixture(autouse=True)
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out Plotly's own script, whose five megabytes take most of the time of a report."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 crystals: 5 relaxed, 2 failed, 1 that was not chosen."""
    folder = tmp_path_factory.mktemp("crystals")
    table = candidates()
    table.to_csv(folder / "candidates.csv", index=False)
    names = [f"{rank:04d}_{formula}" for rank, formula in zip(table["rank"], table["formula"], strict=True)]
    structures = CrystalBatch.from_texts(TEXTS).structures()
    frames = [Frame(name, structure, {}) for name, structure in zip(names, structures, strict=True)]
    write_structures(frames, folder / "cifs", folder / "candidates.extxyz")
    return folder


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(written, tmp_path / "crystals"))


@lru_cache(maxsize=1)
def candidates() -> pd.DataFrame:
    batch = CrystalBatch.from_texts(TEXTS)
    symbols = [SpaceGroup.from_int_number(number).symbol for number in batch.space_group.tolist()]
    n = len(TEXTS)
    relaxed = [value is not None for value in HULL]
    return pd.DataFrame(
        {
            "rank": range(1, n + 1),
            "formula": [text.partition(" | ")[0] for text in TEXTS],
            "space_group": [f"{s} ({i})" for s, i in zip(symbols, batch.space_group.tolist(), strict=True)],
            "crystal": TEXTS,
            "reward": np.linspace(0.9, 0.2, n),
            "e_above_hull_eV_per_atom": np.linspace(-0.1, 0.1, n),
            "e_above_hull_eV_per_atom_std": 0.05,
            "utility_e_above_hull": 0.8,
            "n_atoms": batch.n_atoms.tolist(),
            "oxidation_states": "Na1+ Cl1-",
            "novel": [i % 2 == 0 for i in range(n)],
            "nearest_known": "NaCl; KCl",
            "rung": ["phonon", "elastic", "hull", "relaxed", "surrogate", "surrogate", "hull", "surrogate"],
            "relaxed_space_group": RELAXED_GROUPS,
            "converged": [True, True, True, True, False, False, True, None],
            "duplicate_of": ["", "", "", "", "", "", "0001_NaCl", ""],
            "novel_structure": [False, True, True, True, True, True, False, None],
            "relaxed_energy_eV_per_atom": [-3.0 if ok else np.nan for ok in relaxed],
            "relaxed_formation_energy_eV_per_atom": [-1.5 if ok else np.nan for ok in relaxed],
            "relaxed_e_above_hull_eV_per_atom": [np.nan if value is None else value for value in HULL],
            "bulk_modulus_GPa": [24.56, 18.2, *[np.nan] * 6],
            "shear_modulus_GPa": [14.71, 9.1, *[np.nan] * 6],
            "lowest_frequency_THz": [0.02, -0.8, *[np.nan] * 6],
            "reason": REASONS,
        }
    )


def page(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def section(run: Path) -> str:
    """Return the section on crystals, or nothing when there is none."""
    found = re.search(r'<section id="crystals".*?</section>', page(run), re.DOTALL)
    return found[0] if found else ""


def plain(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).split())


def table(markup: str, caption: str) -> list[list[str]]:
    body = markup.partition(caption)[2].partition("<tbody>")[2].partition("</tbody>")[0]
    rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    return [[plain(cell) for cell in re.findall(r"<t[dh].*?</t[dh]>", row, re.DOTALL)] for row in rows]


def drawn(run: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page(run), re.DOTALL)
    assert found is not None
    figures: dict[str, Any] = json.loads(found[1])
    return figures


def numbers(values: Any) -> list[float]:
    """Plotly stores arrays in binary."""
    if isinstance(values, dict):
        import base64

        return np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"]).tolist()
    return list(values)


def change(run: Path, **columns: Any) -> None:
    pd.read_csv(run / "candidates.csv", keep_default_na=False, dtype=str).assign(**columns).to_csv(
        run / "candidates.csv", index=False
    )


def test_without_crystals_there_is_no_section(run: Path) -> None:
    candidates().drop(columns=["crystal", "space_group"]).to_csv(run / "candidates.csv", index=False)
    assert section(run) == ""
    assert "Space group" not in page(run)
    assert not [name for name in drawn(run) if name.startswith("crystal")]


def test_the_words_count_what_the_table_has(run: Path) -> None:
    text = plain(section(run))
    assert "The 8 candidates are complete crystals of 6 formulas in 5 space groups" in text
    assert "7 were chosen to be relaxed; 5 succeeded, and 2 failed: not converged after 300 steps (2)." in text
    assert "Of the 7, failures counted as unstable, 4 (57%) lie within 0.1 eV/atom of the hull" in text
    assert "and 3 (43%) lie within 0.05 eV/atom of the hull; 1 of them even below it" in text
    assert "no further: dynamically unstable (1), more than 0.1 eV/atom above the hull (1)." in text
    assert "1 relaxed structure is the same as that of another candidate." in text
    assert "3 kept their space group, 1 raised it to one with more operations and 1 fell to one with fewer." in text
    assert "Energies are CHGNet, not DFT; distances to the hull are within the prototype library." in text


def test_the_table_is_in_the_order_of_the_relaxed_distance(run: Path) -> None:
    rows = table(section(run), "Relaxed crystals by distance to the hull")
    assert [row[0] for row in rows] == ["3", "1", "7", "2", "4", "5", "6"]
    assert rows[1] == [
        "1", "NaCl", "Fm-3m (225)kept", "\N{MINUS SIGN}0.100 ± 0.050", "0.020", "\N{MINUS SIGN}1.500",
        "24.6shear 14.7", "0.02", "new", "known", "phonon",
    ]  # fmt: skip
    assert rows[2][2] == "Pm-3m (221) → P4/mmmlowered"
    assert rows[2][-2:] == ["knownsame as rank 1", "hull"]
    assert rows[3][-1] == f"elastic{REASONS[1]}"
    assert rows[4][2] == "P4mm (99) → Pm-3mraised"
    assert rows[5][4:8] == [NO_VALUE] * 4
    assert rows[5][-1] == f"surrogate{REASONS[4]}"
    keys = re.findall(r'<td data-value="([^"]*)">', section(run).partition("<tbody>")[2])
    assert keys[2] == "-0.01"  # what the buttons sort by


def test_columns_of_checks_that_were_not_made_are_left_out(run: Path) -> None:
    change(run, bulk_modulus_GPa="", shear_modulus_GPa="", lowest_frequency_THz="")
    markup = section(run)
    assert "Bulk modulus" not in markup
    assert "Lowest frequency" not in markup
    assert {len(row) for row in table(markup, "Relaxed crystals by distance")} == {9}


def test_none_relaxed(run: Path) -> None:
    kept = [name for name in candidates() if not name.startswith(("relaxed", "bulk", "shear", "lowest"))]
    frame = candidates()[kept].drop(columns=["converged", "reason", "duplicate_of", "novel_structure"])
    frame.to_csv(run / "candidates.csv", index=False)
    markup = section(run)
    assert "None was relaxed." in plain(markup)
    assert "<table" not in markup
    assert sorted(name for name in drawn(run) if name.startswith("crystal")) == ["crystal-groups", "crystal-systems"]


def test_all_relaxations_failed(run: Path) -> None:
    change(
        run, relaxed_energy_eV_per_atom="", relaxed_e_above_hull_eV_per_atom="", relaxed_space_group="",
        reason="time-out after 60 s and 31 steps",
    )  # fmt: skip
    text = plain(section(run))
    assert "8 were chosen to be relaxed; none succeeded, and 8 failed: time-out (8)." in text
    assert "crystal-parity" not in drawn(run)


def test_no_candidates(run: Path) -> None:
    candidates().head(0).to_csv(run / "candidates.csv", index=False)
    assert "candidates.csv holds no candidates." in plain(section(run))


# Space groups


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # of spglib, on its own default
def test_symbols_of_relaxed_structures_are_found_as_spglib_writes_them() -> None:
    for group in all_space_groups():
        found = spglib.get_spacegroup_type(group.hall_number)
        assert found is not None
        assert compare_groups(group.number, found.international_short) == "kept"


@pytest.mark.parametrize(
    ("built", "relaxed", "verdict"),
    [(99, "Pm-3m", "raised"), (221, "P4mm", "lowered"), (129, "P4/mmm", "changed"), (1, "nonsense", ""), (1, "", "")],
)
def test_groups_are_compared_by_their_operations(built: int, relaxed: str, verdict: str) -> None:
    assert compare_groups(built, relaxed) == verdict


def test_a_group_with_bars_reads_as_its_symbol() -> None:
    for group in all_space_groups():
        text = f"{group.symbol} ({group.number})"
        assert plain(group_html(text)) == text
        assert group_number(text) == group.number
    assert [group_number(text) for text in ("P1 (231)", "P1 (0)", "P1", "", "(2)", "P1 (2) x")] == [None] * 6


def test_the_candidates_are_told_apart_by_their_groups(run: Path) -> None:
    rows = table(page(run), "Candidates by rank")
    assert [row[2] for row in rows][:2] == ["Fm-3m (225)2 atoms", "Fm-3m (225)2 atoms"]
    assert rows[2][2] == "P4_2/mnm (136)6 atoms"
    keys = re.findall(r'<td class="text" data-value="(\d*)">', page(run).partition("Candidates by rank")[2])
    assert keys[:3] == ["225", "225", "136"]
    hover = [text for trace in drawn(run)["scatter"]["data"] for text in trace["hovertext"]]
    assert sorted(text.partition("<br>")[0] for text in hover)[-2:] == [
        "<b>TiO<sub>2</sub></b> P4<sub>2</sub>/mnm (136)",
        "<b>ZnS</b> F-43m (216)",
    ]


def test_groups_are_read_from_the_crystals_where_there_is_no_column(run: Path) -> None:
    before = section(run)
    candidates().drop(columns="space_group").to_csv(run / "candidates.csv", index=False)
    assert section(run) == before


def test_bars_count_every_candidate(run: Path) -> None:
    figures = drawn(run)
    (systems,) = figures["crystal-systems"]["data"]
    assert dict(zip(systems["x"], numbers(systems["y"]), strict=True)) == {"tetragonal": 2, "cubic": 6}
    (groups,) = figures["crystal-groups"]["data"]
    counts = dict(zip(groups["y"], numbers(groups["x"]), strict=True))
    assert list(counts.items())[-2:] == [("Fm-3m (225)", 2), ("Pm-3m (221)", 3)]  # the uppermost bar comes last
    assert sum(counts.values()) == 8
    many = pd.concat([candidates().head(1)] * 40, ignore_index=True)
    many["space_group"] = [f"{group.symbol} ({group.number})" for group in all_space_groups()[:40]]
    many.to_csv(run / "candidates.csv", index=False)
    (groups,) = drawn(run)["crystal-groups"]["data"]
    assert groups["y"][0] == f"{40 - MOST_GROUPS} others"
    assert sum(numbers(groups["x"])) == 40


def test_materials_on_the_front_are_no_long_texts(run: Path) -> None:
    pd.DataFrame({"material": TEXTS[:2], "formula": ["NaCl", "KCl"], "space_group": [225, 225]}).to_csv(
        run / "front.csv", index=False
    )
    assert [row[0] for row in table(page(run), "Materials on the Pareto front")] == [
        "NaCl (space group 225)",
        "KCl (space group 225)",
    ]


# Figures


def test_pictures_show_the_conventional_cell(run: Path) -> None:
    figures = drawn(run)
    assert sorted(name for name in figures if re.fullmatch(r"crystal-\d", name)) == [f"crystal-{i}" for i in range(5)]
    edges, *elements = figures["crystal-1"]["data"]  # rock salt, the second nearest to the hull
    points = np.array([numbers(edges[axis]) for axis in "xyz"], dtype=float).T.reshape(12, 3, 3)
    assert np.isnan(points[:, 2]).all()  # a gap after each edge
    assert np.allclose(np.linalg.norm(points[:, 1] - points[:, 0], axis=1), 5.6)
    counts = {trace["name"]: len(numbers(trace["x"])) for trace in elements}
    assert counts == {"Na": 14, "Cl": 13}  # of the textbook's drawing: corners and faces, edges and the centre
    places = np.concatenate([np.array([numbers(trace[axis]) for axis in "xyz"]).T for trace in elements])
    distances = np.linalg.norm(places[:14, None] - places[None, 14:], axis=-1)
    assert np.isclose(distances.min(), 2.8, atol=1e-3)
    for trace, number in zip(elements, (11, 17), strict=True):
        assert trace["marker"]["color"] == f"rgb{tuple(round(255 * part) for part in jmol_colors[number].tolist())}"
    sizes = [trace["marker"]["size"] for trace in elements]
    assert np.isclose(sizes[0] / sizes[1], covalent_radii[11] / covalent_radii[17])


def test_pictures_are_described_and_never_more_than_a_few(run: Path) -> None:
    markup = section(run)
    described = "Unit cell of NaCl, space group Fm-3m, after relaxation: 4 Na, 4 Cl; edges 5.60, 5.60 and 5.60 Å"
    assert f'id="crystal-1" role="img" aria-label="{described}"' in markup
    assert "Rank 1; 0.020 eV/atom from the hull" in plain(markup)
    pd.concat([candidates().head(1)] * 20).to_csv(run / "candidates.csv", index=False)
    assert len([name for name in drawn(run) if re.fullmatch(r"crystal-\d+", name)]) == MOST_PICTURES


def test_every_figure_has_a_place_with_a_text(run: Path) -> None:
    text = page(run)
    places = dict(re.findall(r'<div class="plot[^"]*" id="([^"]+)" role="img" aria-label="([^"]+)"', text))
    assert {name for name in drawn(run) if name.startswith("crystal")} <= set(places)
    assert places["crystal-systems"].endswith(": tetragonal (2), cubic (6)")


def test_cifs_stand_in_for_a_file_that_is_missing_or_broken(run: Path) -> None:
    before = section(run)
    whole = (run / "candidates.extxyz").read_text()
    (run / "candidates.extxyz").write_text(whole[: len(whole) // 3])
    assert section(run) == before
    (run / "candidates.extxyz").write_text(whole.replace("name=0001_NaCl", "name=0001_NaCl Lattice="))
    assert section(run) == before
    (run / "candidates.extxyz").write_bytes(b"\xff\xfe\x00")
    assert section(run) == before
    (run / "candidates.extxyz").unlink()
    assert section(run) == before
    assert "No picture" not in before


def test_structures_that_are_missing_are_named_in_their_place(run: Path) -> None:
    (run / "candidates.extxyz").unlink()
    (run / "cifs" / "0001_NaCl.cif").unlink()
    (run / "cifs" / "0003_TiO2.cif").write_text("data_\n_cell_length_a what\n")
    text = plain(section(run))
    missing = "No picture: candidates.extxyz is missing from the run folder; "
    assert f"{missing}cifs/0001_NaCl.cif is missing from the run folder." in text
    assert f"{missing}cifs/0003_TiO2.cif cannot be read." in text
    assert {name for name in drawn(run) if re.fullmatch(r"crystal-\d", name)} == {f"crystal-{i}" for i in (2, 3, 4)}


def test_structures_that_cannot_be_drawn_say_why(tmp_path: Path) -> None:
    (tmp_path / "cifs").mkdir()
    large = Structure(Lattice.cubic(30), ["H"] * (MOST_ATOMS + 1), np.random.default_rng(0).random((MOST_ATOMS + 1, 3)))
    large.to(str(tmp_path / "cifs" / "large.cif"))
    frames = {
        "flat": '1\nLattice="1 0 0 0 1 0 0 0 0" Properties=species:S:1:pos:R:3 name=flat\nH 0 0 0\n',
        "nan": '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 name=nan\nH nan 0 0\n',
        "dummy": '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 name=dummy\nX 0 0 0\n',
        "none": '0\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 name=none\n',
        "good": '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 name=good\nPo 0 0 0\n',
    }
    (tmp_path / "candidates.extxyz").write_text("".join(frames.values()))
    found = dict(
        zip([*frames, "large", "../large"], find_structures(tmp_path, [*frames, "large", "../large"]), strict=True)
    )
    assert "too many to draw" in str(found["large"])
    assert "no name of a file" in str(found["../large"])
    for name in ("flat", "nan", "dummy", "none"):
        assert isinstance(found[name], str)
    good = found["good"]
    assert isinstance(good, DrawnCell)
    assert good.symbols == ["Po"] * 8


def test_predictions_are_compared_with_what_relaxation_gave(run: Path) -> None:
    line, *groups = drawn(run)["crystal-parity"]["data"]
    layout = drawn(run)["crystal-parity"]["layout"]
    assert line["x"] == line["y"] == layout["xaxis"]["range"] == layout["yaxis"]["range"]
    shown = {
        (round(x, 4), round(y, 4))
        for trace in groups
        for x, y in zip(numbers(trace["x"]), numbers(trace["y"]), strict=True)
    }
    frame = candidates().dropna(subset="relaxed_e_above_hull_eV_per_atom")
    columns = ("e_above_hull_eV_per_atom", "relaxed_e_above_hull_eV_per_atom")
    assert shown == set(zip(*(frame[name].round(4).tolist() for name in columns), strict=True))
    new = next(trace for trace in groups if trace["name"] == "new formulas")
    assert len(new["hovertext"]) == int(frame["novel"].sum())
    assert new["hovertext"][0].startswith("<b>TiO<sub>2</sub></b> P4<sub>2</sub>/mnm (136)<br>predicted")
    low, high = line["x"]
    assert all(low < value < high for pair in shown for value in pair)


# Bad input


@pytest.mark.parametrize("value", ["", "what", "nan", "-inf", "1e400", "<b>x</b>", "-3", "99999999999999999999"])
def test_nonsense_in_any_column_stops_nothing(run: Path, value: str) -> None:
    texts = pd.read_csv(run / "candidates.csv", keep_default_na=False, dtype=str)
    for name in texts.columns:
        frame = texts.assign(**{name: value})
        shown = crystals_in(frame, quantities_in(frame, []), run / "nowhere")
        assert shown is not None
        assert shown.n_candidates == 8
    texts.assign(**dict.fromkeys(texts.columns, value)).to_csv(run / "candidates.csv", index=False)
    assert "The 8 candidates are complete crystals" in plain(section(run))


def test_markup_in_the_files_stays_text(run: Path) -> None:
    attack = '<img src=x onerror="alert(1)">'
    columns = dict.fromkeys(
        ("space_group", "relaxed_space_group", "duplicate_of", "rung", "reason", "crystal", "formula"), attack
    )
    change(run, **columns)
    found: list[str] = []

    class Images(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append(tag)

    Images().feed(page(run))
    assert "img" not in found
    figures = json.dumps({name: figure for name, figure in drawn(run).items() if name != "scatter"})
    assert "<img" not in figures


def test_only_the_candidates_are_needed(run: Path) -> None:
    for path in [*run.glob("cifs/*"), run / "candidates.extxyz"]:
        path.unlink()
    (run / "cifs").rmdir()
    assert plain(section(run)).count("No picture: candidates.extxyz is missing from the run folder") == 5
