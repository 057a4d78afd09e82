"""Measures of a round, worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from agent import Objective
from agent.campaign import Campaign
from agent.campaign_round import describe_round, judge_round
from agent.condition_options import ConditionOptions
from agent.labelled_objectives import LabelledObjectives
from agent.store_records import Trial, label_columns
from agent.training_options import TrainingOptions
from surrogates.base import Label
from surrogates.datasets import read_known_formulas
from surrogates.energy import EnergyModel
from surrogates.oracle import FunctionOracle
from tests.agent.examples import space_named

FORMULAS = read_known_formulas()["formula"].to_list()[50:9000:300]


def trial(number: int, round: int, material: str, value: float | None, predicted: tuple[float, float]) -> Trial:
    label = Label(material, {"e_above_hull": value}) if value is not None else Label(material, failure="it broke")
    state = "failed" if value is None else "done"
    return Trial(
        number, round, material, "o", "1", "ehvi", state, 1, {"e_above_hull": predicted}, 0.5, label, 1.0, None, None
    )


@pytest.fixture(scope="module")
def wanted() -> LabelledObjectives:
    result = LabelledObjectives([Objective("e_above_hull", "minimize", 0.0, 0.2)], ["e_above_hull"])
    result.fit(FORMULAS, {"e_above_hull": EnergyModel.default().predict(FORMULAS).mean[:, 1].tolist()})
    return result


TRIALS = [
    trial(1, 0, "NaCl", 0.10, (0.0, 1.0)),
    trial(2, 1, "MgO", 0.05, (0.15, 0.05)),
    trial(3, 1, "ZnO", 0.30, (0.10, 0.30)),
    trial(4, 1, "CaO", None, (0.10, 0.30)),
    trial(5, 2, "BaO", 0.0, (0.10, 0.30)),
]


def test_a_round_is_judged_by_its_own_labels_and_reached_by_all(wanted: LabelledObjectives) -> None:
    metrics = judge_round(TRIALS, 1, wanted)
    assert (metrics["labelled"], metrics["failed"], metrics["calls_total"]) == (2, 1, 4)
    found = metrics["properties"]["e_above_hull"]
    assert found["n"] == 2
    assert found["mae"] == pytest.approx((0.10 + 0.20) / 2)
    assert found["bias"] == pytest.approx((0.10 - 0.20) / 2)
    assert found["within_one_std"] == 0.5
    assert metrics["found"] == pytest.approx((0.75 + 0.0) / 2)
    assert metrics["hypervolume"] == pytest.approx(0.75)  # of one objective: the best utility so far
    assert (metrics["hits"], metrics["hits_total"], metrics["front"]) == (1, 2, 1)


def test_promised_is_the_utility_that_was_predicted(wanted: LabelledObjectives) -> None:
    utilities = wanted.reward(["MgO", "ZnO"]).utilities["e_above_hull"]
    assert judge_round(TRIALS, 1, wanted)["promised"] == pytest.approx(float(utilities.mean()))


def test_a_round_without_labels_has_no_errors(wanted: LabelledObjectives) -> None:
    metrics = judge_round([trial(1, 1, "NaCl", None, (0.0, 1.0))], 1, wanted)
    assert (metrics["labelled"], metrics["failed"], metrics["hypervolume"], metrics["promised"]) == (0, 1, 0.0, None)
    assert math.isnan(metrics["properties"]["e_above_hull"]["mae"])
    assert describe_round(1, metrics).startswith("round 1: 0 labels, 1 failed")


def test_an_alarm_is_raised_when_promises_are_not_kept(wanted: LabelledObjectives) -> None:
    good = [f for f in FORMULAS if float(wanted.reward([f]).utilities["e_above_hull"]) > 0.5]
    assert len(good) >= 5
    kept = [trial(n, 1, formula, 0.0, (0.0, 0.1)) for n, formula in enumerate(good)]
    broken = [trial(n, 1, formula, 0.9, (0.0, 0.1)) for n, formula in enumerate(good)]
    assert judge_round(kept, 1, wanted)["alarm"] == ""
    assert "may exploit errors" in judge_round(broken, 1, wanted)["alarm"]
    assert judge_round(broken[:4], 1, wanted)["alarm"] == ""  # too few to tell


def test_label_columns_have_a_gap_where_a_label_is_missing() -> None:
    columns = label_columns([*TRIALS[:2], TRIALS[3]])
    assert columns["e_above_hull"][:2] == [0.10, 0.05] and math.isnan(columns["e_above_hull"][2])


def test_conditions_that_a_loss_does_not_know_are_refused_before_any_label(tmp_path: Path) -> None:
    asked: list[str] = []

    def label(material: str) -> dict[str, float]:
        asked.append(material)
        return {"band_gap": 1.0}

    objectives = [Objective("band_gap", "maximize", 0.0, 5.0), Objective("toxicity", "minimize", 0.0, 1.0)]
    with pytest.raises(ValueError, match=r"^loss: rtb knows no conditions"):
        Campaign(
            space_named("larger"),
            objectives,
            FunctionOracle(label, "gap"),
            tmp_path / "run",
            training=TrainingOptions(loss="rtb"),
            conditions=ConditionOptions(),
        )
    assert not asked and not (tmp_path / "run").exists()
