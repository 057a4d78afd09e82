"""Labels in the report: what labels.csv and campaign.json say is shown, nothing without them, and no file stops it."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from agent.report import write_report
from agent.report_campaign import BEST_ROWS, CAMPAIGN_FILES
from agent.report_figures import NO_VALUE, formula_html, with_spread
from agent.report_goals import goals_of, judge

PICKS = ("ehvi", "ehvi", "ehvi", "greedy", "random")
REASONS = ("energy not converged", "energy not converged", "time limit of 60 s", "volume grew", "no structure", "cell")
ALARM = "the batch promised a mean utility of 0.80 and has 0.20; the policy may exploit errors of the models"
CONFIG = {
    "objectives": [
        {"property": "band_gap", "goal": "window", "low": 1.0, "high": 2.0, "weight": 1.0, "model": None},
        {"property": "e_above_hull", "goal": "minimize", "low": 0.0, "high": 0.2, "caution": 1.0, "model": None},
    ],
    "constraints": [],
    "reference": None,
}


@pytest.fixture(autouse=True)
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out Plotly's own script, whose five megabytes take most of the time of a report."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a first draw of 8 and two rounds of 20, in which 6 of 48 labels failed."""
    folder = tmp_path / "campaign"
    folder.mkdir()
    pd.DataFrame({"rank": [1], "formula": ["CuInS2"], "band_gap_eV": 1.5, "band_gap_eV_std": 0.2}).to_csv(
        folder / "candidates.csv", index=False
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    labels().to_csv(folder / "labels.csv", index=False)
    write(folder, [first(), batch(1), batch(2)])
    return folder


def labels() -> pd.DataFrame:
    """Band gaps 0.5..2.5, half of them in the window; volumes without predictions."""
    generator = np.random.default_rng(0)
    n = 48
    done, picked = np.arange(n) % 8 != 5, np.arange(n) >= 8
    gaps, hull = np.linspace(0.5, 2.5, n), generator.uniform(-0.05, 0.3, n)
    return pd.DataFrame(
        {
            "material": [f"Cu{i + 2}SnSe3" for i in range(n)],
            "round": [0] * 8 + [1] * 20 + [2] * 20,
            "state": np.where(done, "done", "failed"),
            "picked_by": ["initial"] * 8 + [PICKS[i % 5] for i in range(40)],
            "oracle": "CHGNet",
            "version": "0.3.0",
            "training_distance": 0.5,
            "seconds": 2.0,
            "failure": [None if ok else REASONS[i // 8] for i, ok in enumerate(done)],
            "band_gap_eV": np.where(done, gaps, np.nan),
            "band_gap_eV_predicted": np.where(picked, gaps + 0.2, np.nan),
            "band_gap_eV_predicted_std": np.where(picked, 0.3, np.nan),
            "e_above_hull_eV_per_atom": np.where(done, hull, np.nan),
            "e_above_hull_eV_per_atom_predicted": np.where(picked, hull - 0.01, np.nan),
            "e_above_hull_eV_per_atom_predicted_std": np.where(picked, 0.05, np.nan),
            "volume_A3_per_atom": np.where(done, 21.5, np.nan),
        }
    )


def first() -> dict[str, Any]:
    names = ["band_gap", "e_above_hull", "volume"]
    return {"number": 0, "state": "done", "labelled": 7, "failed": 1, "properties": names}


def batch(number: int, **changes: Any) -> dict[str, Any]:
    def compared(error: float) -> dict[str, float]:
        return {"n": 17, "mae": error / number, "bias": error / 5, "within_one_std": 0.4 + number / 10}

    def model(name: str, error: float) -> dict[str, Any]:
        return {
            "property": name, "kind": "gaussian-process", "labels": 7 + 17 * (number - 1), "mae": error / number,
            "embedded_mae": 0.555, "within_one_std": 0.71, "spread": 1.1,
        }  # fmt: skip

    return {
        "number": number, "state": "done", "labelled": 17, "failed": 3, "calls_total": 8 + 20 * number,
        "properties": {"band_gap": compared(0.35), "e_above_hull": compared(0.06)},
        "models": {"band_gap": model("band_gap", 0.44), "e_above_hull": model("e_above_hull", 0.08)},
        "promised": 0.8, "found": 0.61, "hits": 3 * number, "hits_total": 2 + 3 * number * (number + 1) // 2,
        "hypervolume": 0.31 + number / 10, "front": 2, "alarm": "",
    } | changes  # fmt: skip


def write(run: Path, rounds: Any, events: Any = ()) -> None:
    (run / "campaign.json").write_text(json.dumps({"rounds": rounds, "events": list(events)}))


def page(run: Path) -> str:
    """Return the section on labels, or nothing when there is none."""
    text = write_report(run).read_text(encoding="utf-8")
    found = re.search(r'<section id="labels".*?</section>', text, re.DOTALL)
    return found[0] if found else ""


def plain(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def table(section: str, caption: str) -> list[list[str]]:
    """Return the cells of the body of a table as text."""
    tables = re.findall(r"<table.*?</table>", section, re.DOTALL)
    body = next(text for text in tables if caption in text).partition("<tbody>")[2]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    return [[plain(cell) for cell in re.findall(r"<t[hd][ >].*?</t[hd]>", row, re.DOTALL)] for row in rows]


def drawn(run: Path) -> dict[str, Any]:
    """Return the figures of the section as they were written by `page`, or are written now."""
    path = run / "report.html"
    text = (path if path.is_file() else write_report(run)).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return {name: figure for name, figure in json.loads(found[1]).items() if name.startswith("labels")}


def numbers(coded: Any) -> list[float]:
    """Return an array of a Plotly description, which may be coded in base64."""
    if isinstance(coded, list):
        return coded
    return [float(value) for value in np.frombuffer(base64.b64decode(coded["bdata"]), dtype=coded["dtype"])]


def test_a_run_without_rounds_says_nothing_of_labels(run: Path) -> None:
    for name in CAMPAIGN_FILES:
        (run / name).unlink()
    assert page(run) == ""
    assert drawn(run) == {}
    text = re.sub(r"<(script|style).*?</\1>", "", (run / "report.html").read_text(), flags=re.DOTALL)
    assert not any(name in text for name in CAMPAIGN_FILES)


def test_the_section_stands_before_the_predicted_properties(run: Path) -> None:
    page(run)
    heads = re.findall(r"<h2 id=[^>]*>([^<]+)</h2>", (run / "report.html").read_text())
    assert heads.index("Labels") == heads.index("Predicted properties") - 1


def test_the_sentence_counts_labels_and_the_most_frequent_failures(run: Path) -> None:
    section = page(run)
    assert (
        "CHGNet 0.3.0 labelled 42 materials in 2 rounds after a first draw (round 0); 6 more failed: energy not "
        "converged (2), time limit of 60 s (1), volume grew (1), other reasons (2)." in plain(section)
    )
    assert 'class="alert"' not in section


def test_alarms_stand_once_in_a_box(run: Path) -> None:
    events = [
        {"kind": "alarm", "detail": f"round 2: {ALARM}"},
        {"kind": "short batch", "detail": "round 1: 17 new materials in the pool"},
    ]
    write(run, [first(), batch(1), batch(2, alarm=ALARM)], events)
    section = page(run)
    box = re.search(r'<aside class="alert".*?</aside>', section, re.DOTALL)
    assert box is not None
    assert plain(box[0]) == f"Promised much more than was found Round 2: {ALARM}."
    assert plain(section).count(ALARM) == 1
    assert "Short batch: round 1: 17 new materials in the pool." in plain(section)


def test_the_table_of_rounds_has_the_numbers_of_the_file(run: Path) -> None:
    section = page(run)
    assert table(section, "What each round labelled") == [
        ["0", "7", "1", "2", "2", NO_VALUE, f"{NO_VALUE} / {NO_VALUE}", *[NO_VALUE] * 6],
        ["1", "17", "3", "3", "5", "0.410", "0.800 / 0.610", "0.350", "+0.0700", "50%", "0.0600", "+0.0120", "50%"],
        ["2", "17", "3", "6", "11", "0.510", "0.800 / 0.610", "0.175", "+0.0700", "60%", "0.0300", "+0.0120", "60%"],
    ]
    heads = re.findall(r'<th scope="colgroup"[^>]*>(.*?)</th>', section)
    assert heads == ["Band gap (eV)", "Energy above hull (eV/atom)"]


def test_the_curves_run_over_oracle_calls(run: Path) -> None:
    figures = drawn(run)
    volume, hits = (figures[f"labels-{name}"]["data"][0] for name in ("hypervolume", "hits"))
    assert (numbers(volume["x"]), numbers(volume["y"])) == ([28, 48], [batch(n)["hypervolume"] for n in (1, 2)])
    assert (numbers(hits["x"]), numbers(hits["y"])) == ([8, 28, 48], [2, 5, 11])
    assert volume["hovertext"][0] == "round 1, 28 calls: 0.410"


def test_parity_plots_compare_what_was_predicted_with_the_label(run: Path) -> None:
    figures, frame = drawn(run), labels()
    frame = frame[frame["band_gap_eV"].notna() & frame["band_gap_eV_predicted"].notna()]
    assert sorted(name for name in figures if "parity" in name) == ["labels-parity-0", "labels-parity-1"]
    line, points = figures["labels-parity-0"]["data"]
    assert line["x"] == line["y"] == figures["labels-parity-0"]["layout"]["xaxis"]["range"]
    assert np.allclose(numbers(points["x"]), frame["band_gap_eV"])
    assert np.allclose(numbers(points["y"]), frame["band_gap_eV_predicted"])
    assert np.allclose(numbers(points["error_y"]["array"]), 0.3)
    assert numbers(points["marker"]["color"]) == frame["round"].tolist()
    text = points["hovertext"][0]
    assert text.startswith(f"<b>{formula_html(frame['material'].iloc[0])}</b>")
    assert f"Labelled {with_spread(frame['band_gap_eV'].iloc[0], unit='eV')}" in text
    assert f"Predicted {with_spread(frame['band_gap_eV_predicted'].iloc[0], 0.3, 'eV')}" in text
    assert text.endswith("round 1, picked by ehvi")
    assert {t.rpartition(" ")[2] for t in points["hovertext"]} == set(PICKS)
    (window,) = figures["labels-parity-0"]["layout"]["shapes"]
    assert (window["x0"], window["x1"]) == (1.0, 2.0)
    assert "shapes" not in figures["labels-parity-1"]["layout"]  # a monotone goal has no window


def test_the_models_are_compared_with_the_embedded_one(run: Path) -> None:
    rows = table(page(run), "Models fitted to the labels")
    assert rows[0] == ["1", "Band gap (eV)", "gaussian process", "7", "0.440", "0.555", "71%"]
    assert rows[3] == ["2", "Energy above hull (eV/atom)", "gaussian process", "24", "0.0400", "0.555", "71%"]
    assert len(rows) == 4


def test_the_best_materials_are_hits_and_carry_their_source(run: Path) -> None:
    frame = labels()
    hit = frame["band_gap_eV"].between(1, 2) & (frame["e_above_hull_eV_per_atom"] <= 0.2)
    section = page(run)
    rows = table(section, "The best labelled materials")
    assert len(rows) == BEST_ROWS
    assert "The first 30 of 42; all are in labels.csv ." in plain(section)
    assert [row[1] == "hit" for row in rows] == sorted((row[1] == "hit" for row in rows), reverse=True)
    assert sum(row[1] == "hit" for row in rows) == hit.sum()
    best = frame[hit].sort_values("e_above_hull_eV_per_atom")  # a higher utility is a lower energy here
    top = best[best["e_above_hull_eV_per_atom"] > 0].to_dict("records")[0]
    shown = next(row for row in rows if row[0].replace(" ", "") == top["material"])
    values = [with_spread(top[name]) for name in ("band_gap_eV", "e_above_hull_eV_per_atom", "volume_A3_per_atom")]
    assert shown[1:] == ["hit", *values, str(top["round"]), top["picked_by"], "CHGNet 0.3.0, not DFT"]
    heads = section.rpartition("<thead>")[2].partition("</thead>")[0]
    for title in ("Band gap (eV)", "Energy above hull (eV/atom)", "Volume (Å³/atom)"):
        assert f"{title} labelled" in plain(heads)


def test_only_machine_learned_potentials_are_said_not_to_be_dft(run: Path) -> None:
    labels().assign(oracle="table", version="measured.csv").to_csv(run / "labels.csv", index=False)
    assert {row[-1] for row in table(page(run), "The best labelled materials")} == {"table measured.csv"}


def test_goals_that_are_not_labelled_are_predicted_and_marked(run: Path) -> None:
    plausibility = {"property": "plausibility", "low": 0.9}
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "constraints": [plausibility]}))
    assert "Plausibility predicted" in plain(page(run))
    assert "were not labelled: they are the embedded models' predictions" in plain(page(run))
    own = {**plausibility, "model": {"class_path": "my.Model"}}
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "constraints": [own]}))
    assert "not all known" in plain(page(run))
    assert "Plausibility" not in plain(page(run))


def test_verdicts_agree_with_the_objectives_by_brute_force() -> None:
    goals = goals_of(yaml.safe_dump({**CONFIG, "constraints": [{"property": "density", "high": 5.0}]}))
    generator = np.random.default_rng(1)
    values = {
        "band_gap": generator.uniform(0, 3, 200), "e_above_hull": generator.uniform(-0.1, 0.4, 200),
        "density": generator.uniform(2, 8, 200),
    }  # fmt: skip
    values["density"][:20] = np.nan
    verdict = judge(goals, ["NaCl"] * 200, values)
    for i in range(200):
        gap, hull, density = (values[name][i] for name in ("band_gap", "e_above_hull", "density"))
        met = [1 <= gap <= 2, hull <= 0.2, density <= 5]
        assert verdict.met[i] == sum(met)
        assert verdict.hits[i] is (None if i < 20 else all(met))
    hits = [verdict.hits[i] is True for i in verdict.order]
    assert hits == sorted(hits, reverse=True)
    energies = [values["e_above_hull"][i] for i in verdict.order if verdict.hits[i]]
    assert np.maximum(energies, 0).tolist() == sorted(np.maximum(energies, 0))


def test_an_interrupted_campaign_counts_what_is_there(run: Path) -> None:
    frame = labels()
    frame.loc[frame.index >= 40, ["state", "failure"]] = ["proposed", None]
    frame.loc[frame.index >= 40, ["band_gap_eV", "e_above_hull_eV_per_atom", "volume_A3_per_atom"]] = np.nan
    frame.to_csv(run / "labels.csv", index=False)
    write(run, [first(), batch(1), {"number": 2, "state": "open"}])
    section = page(run)
    rows = table(section, "What each round labelled")
    n_done, n_failed = ((frame["round"] == 2) & (frame["state"] == state) for state in ("done", "failed"))
    assert rows[2] == [
        "2 open",
        f"{n_done.sum()} 8 waiting",
        str(n_failed.sum()),
        *[NO_VALUE] * 3,
        f"{NO_VALUE} / {NO_VALUE}",
        *[NO_VALUE] * 6,
    ]
    assert "8 picked materials wait for a label" in plain(section)
    assert numbers(drawn(run)["labels-hits"]["data"][0]["x"]) == [8, 28]


def test_the_first_draw_alone(run: Path) -> None:
    frame = labels().head(8).dropna(axis=1, how="all").assign(failure=None)
    frame.to_csv(run / "labels.csv", index=False)
    write(run, [first()])
    section = page(run)
    text = plain(section)
    assert "CHGNet 0.3.0 labelled 7 materials in a first draw (round 0); 1 failed" in text.replace("1 more", "1")
    assert "no reason given (1)" in text
    assert table(section, "What each round labelled") == [
        ["0", "7", "1", NO_VALUE, NO_VALUE, NO_VALUE, f"{NO_VALUE} / {NO_VALUE}"]
    ]
    assert drawn(run) == {}
    assert "No labelled material was predicted before: nothing to compare." in text


def test_one_round_has_no_scale_of_rounds(run: Path) -> None:
    labels().query("round < 2").to_csv(run / "labels.csv", index=False)
    write(run, [first(), batch(1)])
    assert "colorbar" not in drawn(run)["labels-parity-0"]["data"][1]["marker"]
    assert "in 1 round after a first draw" in plain(page(run))


def test_all_labels_failed(run: Path) -> None:
    frame = labels().assign(state="failed", failure="no structure")
    values = ["band_gap_eV", "e_above_hull_eV_per_atom", "volume_A3_per_atom"]
    frame.drop(columns=values).to_csv(run / "labels.csv", index=False)
    nothing = {"n": 0, "mae": None, "bias": None, "within_one_std": None}
    missing = {"labelled": 0, "failed": 20, "promised": None, "found": None, "hits": 0, "hits_total": 0}
    properties = dict.fromkeys(("band_gap", "e_above_hull"), nothing)
    write(run, [{**first(), "labelled": 0, "failed": 8}, batch(1, **missing, properties=properties)])
    text = plain(page(run))
    assert "labelled 0 materials in 2 rounds" in text
    assert "48 failed: no structure (48)." in text
    assert "No material has a label yet." in text
    assert not any("parity" in name for name in drawn(run))


def test_a_property_without_predictions_is_a_value_only(run: Path) -> None:
    frame = labels().drop(columns=["band_gap_eV_predicted", "band_gap_eV_predicted_std"])
    frame.to_csv(run / "labels.csv", index=False)
    assert [name for name in drawn(run) if "parity" in name] == ["labels-parity-0"]
    assert "Volume (Å³/atom) labelled" in plain(page(run))


@pytest.mark.parametrize("name", CAMPAIGN_FILES)
def test_one_missing_file_is_named_and_the_rest_is_shown(run: Path, name: str) -> None:
    (run / name).unlink()
    text = plain(page(run))
    assert text.count(f"{name} is missing from the run folder.") == 1
    assert "labelled 4" in text if name == "campaign.json" else "labelled 41" in text
    assert ("gaussian process" in text) == (name == "labels.csv")
    assert ("not DFT" in text) == (name == "campaign.json")


@pytest.mark.parametrize(
    "rounds",
    [
        None, 3, [], [None, 3, "x"], [{}], [{"number": "one"}], [{"number": True}],
        [{"number": 1, "properties": {"band_gap": None}, "models": {"band_gap": 3}, "hits": "many", "alarm": None}],
        [{"number": 1, "properties": 7, "models": [1], "hypervolume": float("nan"), "labelled": None}],
        [{"number": -1, "properties": ["a", 3], "models": {"own": {"kind": None, "mae": None}}}],
    ],
)  # fmt: skip
def test_malformed_measures_never_stop_the_report(run: Path, rounds: Any) -> None:
    (run / "campaign.json").write_text(json.dumps({"rounds": rounds, "events": rounds}))
    assert "labelled 42 materials" in plain(page(run))


@pytest.mark.parametrize("config", [None, "", "[1", "3", "objectives: 3", "objectives: [{property: x, low: a}]"])
def test_goals_that_cannot_be_read_leave_the_order_of_labelling(run: Path, config: str | None) -> None:
    (run / "config.yaml").unlink() if config is None else (run / "config.yaml").write_text(config)
    section = page(run)
    rows = table(section, "The best labelled materials")
    assert [row[0].replace(" ", "") for row in rows] == labels().dropna(subset="band_gap_eV")["material"].tolist()[:30]
    assert "config.yaml tells no goals" in plain(section)


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.head(0),
        lambda frame: frame[["material"]],
        lambda frame: frame.assign(round="x", band_gap_eV="y", picked_by=""),
        lambda frame: frame.assign(state="done"),
    ],
)
def test_partial_tables_are_no_error(run: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(labels()).to_csv(run / "labels.csv", index=False)
    assert "Round by round" in plain(page(run))


def test_values_and_files_inject_nothing(run: Path) -> None:
    attack = "</script><img src=x onerror=alert(2)>\"'Cu2"
    frame = labels().rename(columns={"volume_A3_per_atom": attack})
    frame[f"{attack}_predicted"] = 20.0
    for column in ("material", "oracle", "version", "failure", "picked_by"):
        frame[column] = attack
    frame.to_csv(run / "labels.csv", index=False)
    hostile = batch(1, alarm=attack, state=attack)
    hostile["models"] = {attack: {"kind": attack, "mae": 1.0}}
    write(run, [first(), hostile], [{"kind": attack, "detail": attack}])
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "constraints": [{"property": attack, "low": 1.0}]}))
    text = page(run)
    assert "<img" not in text
    assert html.unescape(text).count("onerror=alert(2)") > 10
    assert len(drawn(run)) == 5
    assert "<img" not in json.dumps(drawn(run))
