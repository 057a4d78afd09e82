"""Prior weights in the report: what the file says is drawn and listed, nothing without it, a broken one is named."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from agent.report import write_report
from agent.report_prior_weight import FIGURE, PRIOR_WEIGHTS_FILE, hits_against_closeness

SWEPT = pd.DataFrame(
    {
        "prior_weight": [0.0, 0.5, 1.0],
        "mean_reward": [0.71, 0.64, 0.2],
        "hits": [0.8, 0.6, 0.05],
        "element_distance": [0.62, 0.31, 0.2],
        "nearest_distance": [0.41, 0.3, 0.12],
        "known": [0.0, 0.04, 0.25],
        "distinct": [1.0, 0.97, 0.6],
        "effective_sample_size": [12.3, 210.0, 804.6],
    }
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "solar"
    folder.mkdir()
    pd.DataFrame({"rank": [1], "formula": ["CuInS2"]}).to_csv(folder / "candidates.csv", index=False)
    SWEPT.to_csv(folder / PRIOR_WEIGHTS_FILE, index=False)
    return folder


def section(run: Path) -> str:
    """Return the words of the section, or nothing when there is none."""
    text = write_report(run).read_text(encoding="utf-8")
    found = re.search(r'<section id="prior-weight".*?</section>', text, re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found[0])).split()) if found else ""


def drawn(run: Path) -> dict[str, Any]:
    text = write_report(run).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    figures: dict[str, Any] = json.loads(found[1])
    return figures


def test_a_run_without_a_range_says_nothing_of_it(run: Path) -> None:
    (run / PRIOR_WEIGHTS_FILE).unlink()
    assert section(run) == ""
    assert FIGURE not in drawn(run)


def test_every_weight_is_a_labelled_point_and_a_row(run: Path) -> None:
    (points,) = drawn(run)[FIGURE]["data"]
    assert points["text"] == ["0", "0.5", "1"]
    assert "hits 60.0%" in points["hovertext"][1] and "known 4.0%" in points["hovertext"][1]
    text = section(run)
    for row in (
        "0 80% 0.710 0.620 0.410 0% 100% 12",
        "0.5 60% 0.640 0.310 0.300 4% 97% 210",
        "1 5% 0.200 0.200 0.120 25% 60% 805",
    ):
        assert row in text
    assert "matsmith sample RUN --prior-weight 0.3" in text


def test_coordinates_are_distance_and_hits() -> None:
    (points,) = hits_against_closeness(SWEPT).data
    assert points.x.tolist() == SWEPT["nearest_distance"].tolist()
    assert points.y.tolist() == SWEPT["hits"].tolist()


def test_without_hits_the_mean_reward_is_drawn(run: Path) -> None:
    SWEPT.drop(columns="hits").to_csv(run / PRIOR_WEIGHTS_FILE, index=False)
    assert drawn(run)[FIGURE]["layout"]["yaxis"]["title"]["text"] == "mean reward"
    assert "Hits 80%" not in section(run)
    (points,) = hits_against_closeness(SWEPT.assign(hits=None)).data
    assert points.y.tolist() == SWEPT["mean_reward"].tolist()


def test_other_policies_are_drawn_with_their_names() -> None:
    others = SWEPT.head(1).assign(name="reward alone")
    figure = hits_against_closeness(SWEPT, others)
    assert list(figure.data[1].text) == ["reward alone"]
    assert figure.layout.showlegend


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "prior_weights.csv cannot be read"),
        ("weight\n1\n", "prior_weights.csv cannot be read"),
        ("prior_weight,hits\nx,y\n", "prior_weights.csv holds no figures"),
        ("prior_weight\n", "prior_weights.csv holds no figures"),
    ],
    ids=["empty", "other columns", "no numbers", "no rows"],
)
def test_a_broken_file_is_named(run: Path, content: str, words: str) -> None:
    (run / PRIOR_WEIGHTS_FILE).write_text(content)
    assert words in section(run)
    assert FIGURE not in drawn(run)


def test_markup_in_the_file_stays_text(run: Path) -> None:
    (run / PRIOR_WEIGHTS_FILE).write_text("prior_weight,hits,nearest_distance\n<script>alert(1)</script>,0.5,0.5\n")
    assert "alert(1)" not in write_report(run).read_text(encoding="utf-8")
