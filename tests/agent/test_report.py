"""The report of a run: complete, honest about what is missing, self-contained, and closed to injected markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agent import report_figures
from agent.report import TABLE_ROWS, write_report
from agent.report_figures import element_cells, formula_html, with_spread

FORMULAS = re.findall(
    r"\S+",
    "CuInS2 CuInSe2 CuGaSe2 Cu2ZnSnS4 Cu2ZnSnSe4 Cu2SnS3 SnS Sb2S3 Sb2Se3 ZnSnP2 ZnSiAs2 AgInS2 AgGaTe2 Bi2S3 CuSbS2 "
    "CuSbSe2 BaZrS3 CaZrSe3 SrZrS3 Zn3P2 FeS2 Cu2O CuBiS2 NaBiS2 Ag2S Ag2ZnSnS4 Cu3BiS3 Cu3SbS4 SnSe GeS GeSe In2S3 "
    "MoS2 WSe2 ZrS2 HfSe2 Cu2GeS3 Li2SnS3 NaSbS2 KBiS2 BaCu2SnS4 La2CuS4",
)
WARNING = "band_gap: only 12 of 4,917 measured materials lie in the window"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 42 candidates, as `matsmith design` leaves it."""
    folder = tmp_path / "solar"
    folder.mkdir()
    candidates().to_csv(folder / "candidates.csv", index=False)
    support = {
        "objectives": [
            objective("band_gap", "band_gap in 1.1..1.6", "eV", "BandGapModel, fitted to experimental gaps"),
            objective("supply_risk", "supply_risk minimize between 0.1 and 0.5", "", "element tables (USGS)"),
            objective("plausibility", "plausibility in 0.5..inf", "", "ICSD counts of oxidation states"),
        ],
        "warnings": [WARNING],
    }
    coverage = {
        "log_z_policy": -4.21, "log_z_base": -4.3, "log_z_mixture": -4.15, "covered": 0.942, "effective_share": 0.173,
        "base_effective_share": 0.004, "n_samples": 4000, "distinct_share": 0.71,
    }  # fmt: skip
    environment = {
        "matsmith": "0.1.0", "python": "3.11.2", "packages": {"torch": "2.13.0", "torchgfn": "2.4.0"}, "seed": 7,
        "commit": "dc7dce8", "platform": "Linux-6.1-x86_64", "started": "2026-01-05T10:00:00+00:00", "seconds": 161.4,
    }  # fmt: skip
    for name, content in (("support", support), ("coverage", coverage), ("environment", environment)):
        write_json(folder / f"{name}.json", content)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics()))
    (folder / "config.yaml").write_text("seed: 7\nobjectives:\n  - property: band_gap\n    low: 1.1\n    high: 1.6\n")
    return folder


def candidates() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    n = len(FORMULAS)
    return pd.DataFrame(
        {
            "rank": np.arange(1, n + 1),
            "formula": FORMULAS,
            "reward": np.sort(generator.uniform(0.2, 0.97, n))[::-1],
            "log_prob": generator.normal(-12, 2, n),
            "log_prior": generator.normal(-15, 2, n),
            "band_gap_eV": generator.normal(1.35, 0.2, n),
            "band_gap_eV_std": generator.uniform(0.2, 0.5, n),
            "supply_risk": generator.uniform(0.1, 0.4, n),
            "supply_risk_std": 0.0,
            "plausibility": generator.uniform(0.4, 1.0, n),
            "formation_energy_eV_per_atom": generator.normal(-0.6, 0.3, n),
            "formation_energy_eV_per_atom_std": 0.08,
            "utility_band_gap": generator.uniform(0, 1, n),
            "utility_supply_risk": generator.uniform(0, 1, n),
            "utility_plausibility": generator.uniform(0, 1, n),
            "oxidation_states": "Cu+ In3+ S2-",
            "novel": np.arange(n) % 3 > 0,
            "nearest_known": "CuInSe2 (1.01 eV measured); CuGaSe2",
            "nearest_distance": generator.uniform(0, 3, n),
            "training_distance": generator.uniform(0, 2, n),
            "rung": "surrogate",
        }
    )


def objective(name: str, text: str, unit: str, source: str) -> dict[str, Any]:
    return {
        "objective": text, "property": name, "unit": unit, "source": source, "error": "grouped five-fold MAE 0.41",
        "known_in_target": 512, "known_measured": 4917, "uniform_share": 0.0123, "prior_share": 0.087,
    }  # fmt: skip


def metrics() -> list[dict[str, float]]:
    shares = 1 - np.exp(-np.arange(60) / 15)
    return [
        {"step": 25 * i, "beta": min(8.0, 1.0 + i // 6), "loss": 9.0 / (1 + i), "mean_reward": 0.1 + 0.7 * share,
         "log_z": -4.2, "effective_share": 0.25 - 0.1 * share, "covered": 0.6 + 0.35 * share, "n_evaluated": 400 * i,
         "seconds": 2.6 * i}
        for i, share in enumerate(shares.tolist())
    ]  # fmt: skip


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def page(run: Path) -> str:
    """Return the report without Plotly's own script."""
    text = write_report(run).read_text(encoding="utf-8")
    return re.sub(r"<script>\s*/\*\*\s*\* plotly\.js v.*?</script>", "", text, count=1, flags=re.DOTALL)


def words(run: Path) -> str:
    """Return what a reader sees, without figures."""
    text = re.sub(r"<(script|style).*?</\1>", "", page(run), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


def drawn(run: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page(run), re.DOTALL)
    assert found is not None
    figures: dict[str, Any] = json.loads(found[1])
    return figures


def test_every_candidate_is_in_the_table_and_in_the_scatter(run: Path) -> None:
    rows = re.findall(r'<tr data-formula="([^"]+)"', page(run))
    assert rows == FORMULAS
    hover = " ".join(text for trace in drawn(run)["scatter"]["data"] for text in trace["hovertext"])
    assert all(f"<b>{formula_html(formula)}</b>" in hover for formula in FORMULAS)


def test_headline_numbers_are_those_of_the_files(run: Path) -> None:
    facts = re.findall(r"<dd>([^<]+)</dd></div>", page(run))
    share_novel = sum(i % 3 > 0 for i in range(42)) / 42
    assert facts == ["42", f"{100 * share_novel:.0f}%", "94%", f"{0.173 * 4000:.0f}"]


def test_objectives_read_as_words(run: Path) -> None:
    text = words(run)
    assert "Band gap between 1.1 and 1.6 eV" in text
    assert "Supply risk as low as possible (fully met at 0.1, worthless at 0.5)" in text
    assert "Plausibility at least 0.5" in text


def test_values_carry_spread_unit_and_charges(run: Path) -> None:
    frame, text = candidates(), page(run)
    value, spread = frame["band_gap_eV"][0], frame["band_gap_eV_std"][0]
    assert f"{value:.2f} ± {spread:.2f}" in text
    assert "Formation energy (eV/atom)" in text
    assert "Cu<sub>2</sub>ZnSnS<sub>4</sub>" in text
    assert "In<sup>3+</sup> S<sup>2\N{MINUS SIGN}</sup>" in text
    assert "CuInSe<sub>2</sub> (1.01 eV measured); CuGaSe<sub>2</sub>" in text


def test_scatter_shows_first_two_objectives_and_their_windows(run: Path) -> None:
    figure = drawn(run)["scatter"]
    assert figure["layout"]["xaxis"]["title"]["text"] == "Band gap (eV)"
    assert figure["layout"]["yaxis"]["title"]["text"] == "Supply risk, lower is better"
    (shape,) = figure["layout"]["shapes"]
    assert (shape["x0"], shape["x1"]) == (1.1, 1.6)
    low, high = figure["layout"]["xaxis"]["range"]
    frame = candidates()
    bars = frame["band_gap_eV_std"].where(frame.index < report_figures.MOST_ERROR_BARS, 0.0)
    assert low < (frame["band_gap_eV"] - bars).min() < 1.1 and 1.6 < (frame["band_gap_eV"] + bars).max() < high
    assert [trace["name"] for trace in figure["data"]] == ["known formulas", "new formulas"]
    assert [len(trace["hovertext"]) for trace in figure["data"]] == [14, 28]


def test_an_open_target_is_shaded_to_the_ends_of_the_axes() -> None:
    values = np.array([1.0, 2.0, 50.0])
    open_below = report_figures.Quantity(
        "e_above_hull", "eV/atom", values, np.array([0.1, 3.0, np.inf]), window=(-np.inf, 1.5)
    )
    open_above = report_figures.Quantity("band_gap", "eV", values, np.full(3, np.nan), window=(1.5, np.inf))
    figure = report_figures.scatter(open_below, open_above, report_figures.novelty_groups(None, 3), ["a", "b", "c"])
    across, up = figure["layout"]["shapes"]
    ends = [figure["layout"][axis]["range"] for axis in ("xaxis", "yaxis")]
    assert (across["x0"], across["x1"], up["y0"], up["y1"]) == (ends[0][0], 1.5, 1.5, ends[1][1])
    assert ends[0][0] < -1.0 and ends[0][1] > 50 and ends[1][0] < 1.0 and ends[1][1] > 50
    (shape,) = report_figures.histogram(open_below, report_figures.novelty_groups(None, 3))["layout"]["shapes"]
    assert shape["x0"] < 1.0 and shape["x1"] == 1.5


@pytest.mark.parametrize(
    ("shown", "window", "extent"),
    [
        ([], None, [0.0, 1.0]),
        ([np.nan, 2.0], None, [1.9, 2.1]),
        ([0.0], None, [-1.0, 1.0]),
        ([1.0], (0.0, np.inf), [-0.05, 1.05]),
    ],
)
def test_ends_of_an_axis(shown: list[float], window: tuple[float, float] | None, extent: list[float]) -> None:
    assert report_figures.axis_extent(shown, window) == pytest.approx(extent)


def test_every_property_has_a_distribution(run: Path) -> None:
    figures = drawn(run)
    titles = [figures[f"histogram-{i}"]["layout"]["xaxis"]["title"]["text"] for i in range(4)]
    assert titles == [
        "Band gap (eV)", "Supply risk, lower is better", "Plausibility", "Formation energy (eV/atom)",
    ]  # fmt: skip
    assert "histogram-4" not in figures


def test_warnings_of_the_data_and_of_the_certificate_stand_out(run: Path) -> None:
    assert WARNING in words(run)
    assert "cover only" not in words(run)
    coverage = json.loads((run / "coverage.json").read_text())
    write_json(run / "coverage.json", coverage | {"covered": 0.55, "effective_share": 0.004})
    alerts = " ".join(re.findall(r'class="alert".*?</(?:aside|div)>', page(run), re.DOTALL))
    assert "cover only 55% of the target" in alerts
    assert "effective sample size is only 0.4% of the samples" in alerts
    assert "Coverage is low." in alerts


def test_plotly_is_embedded_once_and_nothing_is_loaded(run: Path) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    assert len(re.findall(r"\* plotly\.js v\d", text)) == 1
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", page(run), re.IGNORECASE)
    assert not re.findall(r"@import|url\(|<link|<iframe|<img", page(run))
    assert text.count("<!DOCTYPE html>") == 1


def test_only_the_two_own_scripts_may_run_and_nothing_may_be_sent(run: Path) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    ]
    assert len(digests) == 2
    assert re.findall(r"'sha256-([^']+)'", policy[1]) == digests
    assert "default-src 'none'" in policy[1]
    assert "form-action 'none'" in policy[1]
    assert 'modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]]' in text  # no upload to Plotly's cloud


def test_hostile_files_inject_nothing(run: Path) -> None:
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'Cu2"
    frame = candidates().astype({"nearest_known": object})
    for column in ("formula", "nearest_known", "oxidation_states", "rung"):
        frame.loc[0, column] = attack
    frame[f"{attack}_eV"], frame[f"{attack}_eV_std"] = 1.0, 0.1
    frame.to_csv(run / "candidates.csv", index=False)
    support = {"objectives": [objective(attack, attack, attack, attack)], "warnings": [attack]}
    write_json(run / "support.json", support)
    write_json(run / "environment.json", dict.fromkeys(("matsmith", "commit", "seed", "started", "seconds"), attack))
    write_json(run / "coverage.json", {"covered": attack, "effective_share": attack, "n_samples": attack})
    (run / "config.yaml").write_text(attack)
    text = page(run)
    assert text.count("<script") == 2  # the description of the figures and the page's own script
    assert "<img" not in text
    assert "onerror=alert(2)" in html.unescape(text)
    figures = json.dumps(drawn(run))
    assert "<script" not in figures
    assert "<img" not in figures


def test_formulas_that_look_like_missing_values_stay(run: Path) -> None:
    frame = candidates()
    frame.loc[0, "formula"] = "NaN"
    frame.to_csv(run / "candidates.csv", index=False)
    assert 'data-formula="NaN"' in page(run)


@pytest.mark.parametrize(
    "name", ["config.yaml", "environment.json", "metrics.jsonl", "support.json", "coverage.json"]
)  # fmt: skip
def test_a_missing_file_is_named_and_the_rest_is_shown(run: Path, name: str) -> None:
    (run / name).unlink()
    text = words(run)
    assert f"{name} is missing from the run folder." in text
    assert "Cu2ZnSnS4" in text


@pytest.mark.parametrize("content", ["{", "[1, 2]", "null", '{"covered": null, "objectives": 3, "warnings": 4}', "{}"])
def test_malformed_json_never_stops_the_report(run: Path, content: str) -> None:
    for name in ("support.json", "coverage.json", "environment.json"):
        (run / name).write_text(content)
    assert "Cu2ZnSnS4" in words(run)


def test_a_metrics_file_cut_short_keeps_its_whole_lines(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text(path.read_text()[:-30])
    assert "1 unreadable line" in words(run)
    curve = drawn(run)["mean_reward"]["data"][0]
    assert len(curve["x"]) == 59


def test_bare_candidates_and_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "candidates.csv").write_text("rank,formula\n1,Cu2O\n")
    assert "Cu2O" in words(tmp_path)
    (tmp_path / "candidates.csv").write_text("rank,formula,band_gap_eV,band_gap_eV_std,novel\n")
    assert "candidates.csv holds no candidates." in words(tmp_path)


def test_values_that_are_no_numbers_are_dashes(run: Path) -> None:
    frame = candidates().astype({"band_gap_eV": object, "reward": object})
    frame.loc[0, ["band_gap_eV", "reward"]] = "inf", ""
    frame.to_csv(run / "candidates.csv", index=False)
    first = re.search(r"<tr data-formula=.*?</tr>", page(run), re.DOTALL)
    assert first is not None
    assert first[0].count(">\N{EN DASH}<") == 2


def test_a_long_list_is_cut_in_the_table_and_says_so(run: Path) -> None:
    frame = pd.concat([candidates()] * 6, ignore_index=True)
    frame.to_csv(run / "candidates.csv", index=False)
    assert page(run).count("<tr data-formula=") == TABLE_ROWS
    assert "The first 200 of 252" in words(run)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("", "not a readable CSV"), ("a,b\n1,2\n", "no column 'formula'")],
)
def test_unusable_candidates_are_one_clear_line(run: Path, content: str | None, message: str) -> None:
    path = run / "candidates.csv"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        write_report(run)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such folder \(expected the folder of a run"):
        write_report(tmp_path / "nowhere")


def test_writing_again_replaces_the_report_and_leaves_nothing_else(run: Path) -> None:
    before = {path.name for path in run.iterdir()}
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert {path.name for path in run.iterdir()} - before == {"report.html"}


def test_element_frequencies_count_candidates_not_atoms() -> None:
    cells = {cell.symbol: cell for cell in element_cells(["Cu2O", "CuO", "LaCuO3", "C"])}
    assert (cells["Cu"].count, cells["O"].count, cells["C"].count, cells["Co"].count) == (3, 3, 1, 0)
    assert len(cells) == 118
    assert len({(cell.row, cell.column) for cell in cells.values()}) == 118
    assert (cells["He"].column, cells["Zn"].column, cells["La"].row, cells["Hf"].column) == (18, 12, 9, 4)


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (1.3249, 0.214, "1.32 ± 0.21"),
        (-0.5, 0.08, "\N{MINUS SIGN}0.500 ± 0.080"),
        (130.4, 25.0, "130 ± 25"),
        (0.25, 0.0, "0.250"),
    ],
)
def test_spread_decides_the_digits(value: float, spread: float, text: str) -> None:
    assert with_spread(value, spread) == text


def test_constraints_stand_under_the_goals(run: Path) -> None:
    assert "in any case" not in words(run)
    support = json.loads((run / "support.json").read_text())
    support["constraints"] = [{"property": "toxicity", "objective": "toxicity in -inf..0.1", "unit": ""}]
    write_json(run / "support.json", support)
    assert "in any case: Toxicity at most 0.1" in words(run)
