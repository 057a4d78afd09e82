"""Trade-offs in the report: what the files of a front say is shown, nothing without them, and broken ones are named."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agent.report import write_report
from agent.report_figures import formula_html, with_spread
from agent.report_front import FRONT_FILES, FRONT_ROWS, MOST_POINTS, MOST_SMALL_PAIRS, MOST_SMALL_POINTS

NAMES = ("band_gap", "e_above_hull", "supply_risk")
COLUMNS = ("band_gap_eV", "e_above_hull_eV_per_atom", "supply_risk_hhi")
TEXTS = ("band_gap in 1.1..1.6", "e_above_hull in -inf..0.1", "supply_risk minimize between 1000 and 5000")
MEASURES = {
    "n_samples": 4000, "n_distinct": 3120, "n_front": 60, "n_systems": 57, "hypervolume": 0.4291, "r2": 0.1197,
    "preference_entropy": 0.5335, "top_diversity": 0.86, "hits": [0.8333, 0.25, 0.0333],
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a front of 60 materials over three objectives, and 100 known materials."""
    folder = tmp_path / "solar"
    folder.mkdir()
    pd.DataFrame({"rank": [1], "formula": ["CuInS2"]}).to_csv(folder / "candidates.csv", index=False)
    units = ("eV", "eV/atom", "")
    objectives = [
        {"objective": text, "property": name, "unit": unit}
        for name, text, unit in zip(NAMES, TEXTS, units, strict=True)
    ]
    (folder / "support.json").write_text(json.dumps({"objectives": objectives, "warnings": []}))
    front(60).to_csv(folder / "front.csv", index=False)
    predictions(100, "formula", "Zn{}S").to_csv(folder / "known.csv", index=False)
    (folder / "front.json").write_text(json.dumps(MEASURES))
    return folder


def predictions(n: int, column: str, formula: str, names: tuple[str, ...] = NAMES) -> pd.DataFrame:
    generator = np.random.default_rng(n)
    values: dict[str, Any] = {column: [formula.format(i + 2) for i in range(n)]}
    for name, title in zip(names, COLUMNS if names == NAMES else names, strict=True):
        values[title] = generator.uniform(0, 3, n)
        values[f"{title}_std"] = generator.uniform(0.1, 0.5, n)
        values[f"utility_{name}"] = generator.uniform(0, 1, n)
    return pd.DataFrame(values)


def front(n: int, names: tuple[str, ...] = NAMES) -> pd.DataFrame:
    frame = predictions(n, "material", "Cu{}SnSe3", names)
    for i, name in enumerate(names):
        frame[f"preference_{name}"] = [(2 / 3, 1 / 3, 0)[(row + i) % 3] if i < 3 else 0 for row in range(n)]
    return frame


def page(run: Path) -> str:
    """Return the section on trade-offs, or nothing when there is none."""
    text = write_report(run).read_text(encoding="utf-8")
    found = re.search(r'<section id="front".*?</section>', text, re.DOTALL)
    return found[0] if found else ""


def words(run: Path) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page(run))).split())


def drawn(run: Path) -> dict[str, Any]:
    text = write_report(run).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return {name: figure for name, figure in json.loads(found[1]).items() if name.startswith("front")}


def test_a_run_without_a_front_says_nothing_of_it(run: Path) -> None:
    for name in FRONT_FILES:
        (run / name).unlink()
    text = write_report(run).read_text(encoding="utf-8")
    shown = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    assert "Trade-offs" not in shown
    assert not any(name in shown for name in FRONT_FILES)
    assert drawn(run) == {}


def test_the_section_follows_the_candidates_over_their_targets(run: Path) -> None:
    heads = re.findall(r"<h2 [^>]*>([^<]+)</h2>", write_report(run).read_text(encoding="utf-8"))
    assert heads.index("Trade-offs") == heads.index("Candidates and targets") + 1


def test_the_front_lies_before_known_materials_and_has_the_colour_of_the_first_weight(run: Path) -> None:
    figure, frame = drawn(run)["front-0"], front(60)
    known, points = figure["data"]
    assert (known["name"], len(known["hovertext"]), len(points["hovertext"])) == ("known materials", 100, 60)
    assert known["marker"]["size"] < points["marker"]["size"]
    assert np.allclose(numbers(points["marker"]["color"]), frame["preference_band_gap"])
    assert np.allclose(numbers(points["x"]), frame["band_gap_eV"])
    assert np.allclose(numbers(points["y"]), frame["e_above_hull_eV_per_atom"])
    assert (points["marker"]["cmin"], points["marker"]["cmax"]) == (0, 1)
    assert points["marker"]["colorbar"]["title"]["text"] == "weight of band gap"


def numbers(coded: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return an array of a Plotly description, which may be coded in base64."""
    if isinstance(coded, list):
        return np.array(coded, dtype=np.float64)
    return np.frombuffer(base64.b64decode(coded["bdata"]), dtype=coded["dtype"]).astype(np.float64)


def test_hover_texts_have_formula_predictions_with_spread_and_preference(run: Path) -> None:
    frame = front(60)
    text = drawn(run)["front-0"]["data"][1]["hovertext"][0]
    assert text.startswith(f"<b>{formula_html('Cu2SnSe3')}</b>")
    assert f"Band gap {with_spread(frame['band_gap_eV'][0], frame['band_gap_eV_std'][0], 'eV')}" in text
    assert "Supply risk " in text
    assert text.endswith("sampled under band gap 0.67, energy above hull 0.33")


def test_windows_are_shaded_and_an_open_one_reaches_the_end_of_the_axis(run: Path) -> None:
    layout = drawn(run)["front-0"]["layout"]
    gap, hull = layout["shapes"]
    assert (gap["x0"], gap["x1"]) == (1.1, 1.6)
    assert (hull["y0"], hull["y1"]) == (layout["yaxis"]["range"][0], 0.1)


def test_axes_hold_the_whole_front_but_not_far_known_materials(run: Path) -> None:
    known = predictions(100, "formula", "Zn{}S")
    known.loc[0, "band_gap_eV"] = 1e4
    known.to_csv(run / "known.csv", index=False)
    low, high = drawn(run)["front-0"]["layout"]["xaxis"]["range"]
    gaps = front(60)["band_gap_eV"]
    assert low < gaps.min()
    assert gaps.max() < high < 10


def test_other_pairs_get_small_figures_coloured_by_their_own_weight(run: Path) -> None:
    figures = drawn(run)
    titles = [[figure["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")] for figure in figures.values()]
    gap, hull, risk = "Band gap (eV)", "Energy above hull (eV/atom)", "Supply risk (hhi)"
    assert titles == [[gap, hull], [gap, risk], [hull, risk]]
    assert np.allclose(numbers(figures["front-2"]["data"][1]["marker"]["color"]), front(60)["preference_e_above_hull"])
    assert not figures["front-2"]["data"][1]["marker"]["showscale"]
    assert "Energy above hull and supply risk (lower is better); colour: weight of energy above hull." in words(run)


def test_many_objectives_get_a_few_pairs_and_the_text_says_so(run: Path) -> None:
    front(20, tuple("abcde")).to_csv(run / "front.csv", index=False)
    assert len(drawn(run)) == 1 + MOST_SMALL_PAIRS
    assert f"The first {MOST_SMALL_PAIRS} of 9." in words(run)


def test_two_objectives_get_one_figure(run: Path) -> None:
    front(20, ("a", "b")).to_csv(run / "front.csv", index=False)
    assert list(drawn(run)) == ["front-0"]
    assert "Other pairs" not in words(run)


def test_a_large_front_is_thinned_in_the_figures(run: Path) -> None:
    front(MOST_POINTS + 500).to_csv(run / "front.csv", index=False)
    figures = drawn(run)
    assert len(figures["front-0"]["data"][1]["hovertext"]) == MOST_POINTS
    assert len(figures["front-1"]["data"][1]["hovertext"]) == MOST_SMALL_POINTS
    assert f"Drawn are {MOST_POINTS:,} of {MOST_POINTS + 500:,} materials on the front" in words(run)


def test_the_measures_read_as_a_sentence(run: Path) -> None:
    text = words(run)
    assert (
        "60 materials in 57 chemical systems are on the front of 4,000 samples, 3,120 of them distinct, drawn under 3 "
        "preferences." in text
    )
    assert "dominate 43% of the space between the reference point, utility 0 in every goal, and the ideal" in text
    assert "Depending on the preference, 3.3% to 83% of the samples are predicted to meet every goal" in text
    assert "predictions of surrogates" in text


def test_the_command_names_the_objectives_of_the_run(run: Path) -> None:
    code = re.search(r"<code>(.*?)</code>", page(run))
    assert code is not None
    assert code[1] == "matsmith sample RUN --preference band_gap=0.7,e_above_hull=0.3"


def test_the_table_has_the_first_materials_with_spread_and_weights(run: Path) -> None:
    rows = re.findall(r"<tr>\s*<th scope=\"row\">.*?</tr>", page(run), re.DOTALL)
    frame = front(60)
    assert len(rows) == FRONT_ROWS
    assert f"The first {FRONT_ROWS} of 60" in words(run)
    for row, formula in zip(rows, frame["material"], strict=False):
        assert f">{formula_html(formula)}<" in row
    assert with_spread(frame["band_gap_eV"][1], frame["band_gap_eV_std"][1]) in rows[1]
    assert "band gap 0.33, supply risk 0.67" in rows[1]


def test_properties_of_constraints_are_left_out(run: Path) -> None:
    frame = front(60)
    frame["density_g_per_cm3"], frame["density_g_per_cm3_std"] = 5.0, 0.1
    frame.to_csv(run / "front.csv", index=False)
    assert "Density" not in words(run)
    assert len(drawn(run)) == 3


def test_the_section_is_labelled_for_those_who_do_not_see_it(run: Path) -> None:
    text = page(run)
    plots = re.findall(r'<div class="plot[^"]*" id="front-\d" role="img" aria-label="([^"]+)"', text)
    assert len(plots) == 3
    assert plots[0] == "Scatter plot of the Pareto front over Band gap (eV) and Energy above hull (eV/atom)"
    assert 'role="region" aria-label="Table of materials on the front" tabindex="0"' in text
    assert "<caption" in text
    assert text.count("<figure>") == text.count("<figcaption>") == 3


@pytest.mark.parametrize("name", FRONT_FILES)
def test_one_missing_file_is_named_and_the_rest_is_shown(run: Path, name: str) -> None:
    (run / name).unlink()
    text = words(run)
    assert text.count(f"{name} is missing from the run folder.") == 1
    assert ("Cu2SnSe3" in text) == (name != "front.csv")
    assert ("hypervolume" in text) == (name != "front.json")


@pytest.mark.parametrize("name", ["front.csv", "known.csv"])
@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", '"', "\x00\n1,2,3\n"])
def test_broken_tables_are_named_in_one_line(run: Path, name: str, content: str) -> None:
    (run / name).write_text(content)
    notes = re.findall(r'<p class="missing">(.*?)</p>', page(run))
    assert len(notes) == 1
    assert notes[0].startswith(f"{name} cannot be read (")
    assert "43%" in words(run)


def test_a_table_cut_short_keeps_what_is_there(run: Path) -> None:
    text = (run / "front.csv").read_text()
    (run / "front.csv").write_text(text[: len(text) // 2])
    shown = page(run)
    assert "Cu<sub>2</sub>SnSe<sub>3</sub>" in shown
    assert 'class="missing"' not in shown


@pytest.mark.parametrize(
    "content", ["{", "[1]", "null", "{}", '{"hits": 3}', '{"hits": ["x", null], "n_front": "many", "hypervolume": NaN}']
)
def test_malformed_measures_never_stop_the_report(run: Path, content: str) -> None:
    (run / "front.json").write_text(content)
    assert "Cu2SnSe3" in words(run)
    assert "depending on the preference" not in words(run).lower()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.head(0), "front.csv holds no materials."),
        (lambda frame: frame[["material"]], "front.csv holds values of fewer than two goals"),
        (lambda frame: frame.assign(**dict.fromkeys(COLUMNS, "x")), "front.csv holds values of fewer than two goals"),
        (lambda frame: frame.drop(columns=[f"preference_{name}" for name in NAMES]), "Each large point is a material"),
    ],
)
def test_partial_columns_are_no_error(run: Path, change: Any, message: str) -> None:
    change(front(60)).to_csv(run / "front.csv", index=False)
    text = words(run)
    assert message in text
    assert ("its colour" in text) == ("colour" in message)


def test_values_and_files_inject_nothing(run: Path) -> None:
    attack = "</script><img src=x onerror=alert(2)>\"'Cu2"
    names = (attack, "b")
    frame = front(3, names)
    frame.loc[0, "material"] = attack
    frame.to_csv(run / "front.csv", index=False)
    predictions(3, "formula", attack.replace("Cu2", "Cu{}"), names).to_csv(run / "known.csv", index=False)
    (run / "front.json").write_text(json.dumps(MEASURES | {"n_front": attack, "r2": attack}))
    (run / "support.json").unlink()
    text = page(run)
    assert "<img" not in text
    assert "onerror=alert(2)" in html.unescape(text)
    assert drawn(run)
    assert "<img" not in json.dumps(drawn(run))


def test_the_front_does_not_depend_on_the_support_file(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(run, bare)
    (bare / "support.json").unlink()
    assert [figure["layout"]["xaxis"]["title"]["text"] for figure in drawn(bare).values()] == [
        figure["layout"]["xaxis"]["title"]["text"] for figure in drawn(run).values()
    ]
