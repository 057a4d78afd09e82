"""Objectives whose properties are labelled, against what can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from agent import Objective
from agent.labelled_objectives import LabelledObjectives
from envs import CompositionBatch
from surrogates.datasets import read_known_formulas
from surrogates.energy import EnergyModel
from surrogates.supply import supply_risk

OBJECTIVES = [
    Objective("e_above_hull", "minimize", 0.0, 0.2),
    Objective("supply_risk", "minimize", 1000, 5000),
]
STABLE = Objective("formation_energy", "window", high=-1.0)
FORMULAS = read_known_formulas()["formula"].to_list()[100:9000:150]


def labels_of(formulas: list[str]) -> dict[str, list[float]]:
    energies = EnergyModel.default().predict(formulas).mean + 0.05
    return {"formation_energy": energies[:, 0].tolist(), "e_above_hull": energies[:, 1].tolist()}


@pytest.fixture(scope="module")
def wanted() -> LabelledObjectives:
    result = LabelledObjectives(OBJECTIVES, ["e_above_hull", "formation_energy", "volume"], [STABLE])
    result.fit(FORMULAS, labels_of(FORMULAS))
    return result


def test_only_what_is_asked_for_is_modelled(wanted: LabelledObjectives) -> None:
    assert wanted.labelled == ("e_above_hull", "formation_energy")
    assert wanted.others == ("supply_risk",)


def test_members_are_utilities_of_the_drawn_values(wanted: LabelledObjectives) -> None:
    table = wanted.members(FORMULAS[:9])
    drawn = wanted.model.members(FORMULAS[:9])
    expected = ((0.2 - drawn[:, :, 0]) / 0.2).clamp(0, 1)
    assert torch.allclose(table.utilities[:, :, 0].float(), expected, atol=1e-5)
    risk = supply_risk(CompositionBatch.from_formulas(FORMULAS[:9]))
    assert torch.allclose(
        table.utilities[:, :, 1].float(), ((5000 - risk) / 4000).clamp(0, 1).expand(len(drawn), -1), atol=1e-5
    )
    assert table.feasible is not None
    assert torch.equal(table.feasible, drawn[:, :, 1] <= -1.0)


def test_achieved_is_told_by_the_labels(wanted: LabelledObjectives) -> None:
    labels = {"e_above_hull": [0.0, 0.1, 0.3], "formation_energy": [-2.0, -0.5, -2.0]}
    achieved = wanted.achieved(["NaCl", "MgO", "ZnO"], labels)
    assert achieved.utilities[:, 0].tolist() == pytest.approx([1.0, 0.5, 0.0], abs=1e-6)
    assert achieved.feasible.tolist() == [True, False, True]
    risks = supply_risk(CompositionBatch.from_formulas(["NaCl", "MgO", "ZnO"]))
    expected = [a <= 0.2 and f <= -1 and r <= 5000 for a, f, r in zip(*labels.values(), risks.tolist(), strict=True)]
    assert achieved.hits.tolist() == expected


def test_a_missing_label_is_stood_in_for_by_the_model(wanted: LabelledObjectives) -> None:
    predicted = wanted.model.predict(["NaCl"]).mean[0]
    achieved = wanted.achieved(["NaCl"], {"e_above_hull": [math.nan]})
    assert float(achieved.utilities[0, 0]) == pytest.approx(float(((0.2 - predicted[0]) / 0.2).clamp(0, 1)), abs=1e-5)
    assert bool(achieved.feasible[0]) == bool(predicted[1] <= -1)


def test_the_reward_uses_the_fitted_models(wanted: LabelledObjectives) -> None:
    values = wanted.reward(["NaCl", "SrTiO3"])
    predicted = wanted.model.predict(["NaCl", "SrTiO3"])
    assert torch.allclose(values.properties["e_above_hull"].mean, predicted.mean[:, 0], atol=1e-5)
    cautious = ((0.2 - predicted.mean[:, 0] - predicted.std[:, 0]) / 0.2).clamp(0, 1)
    assert torch.allclose(values.utilities["e_above_hull"], cautious, atol=1e-5)


def test_an_unlabelled_window_counts_as_likely_as_it_is() -> None:
    objectives = [OBJECTIVES[0], Objective("band_gap", "window", 1.0, 3.0)]
    wanted = LabelledObjectives(objectives, ["e_above_hull"], [Objective("band_gap", "window", 0.5, 9.0)])
    wanted.fit(FORMULAS, labels_of(FORMULAS))
    table = wanted.members(FORMULAS[:6])
    properties = wanted.reward.predict(FORMULAS[:6])
    assert torch.allclose(
        table.utilities[0, :, 1].float(), properties["band_gap"].probability_between(1.0, 3.0), atol=1e-5
    )
    assert table.feasible is not None
    share = table.feasible.float().mean(0)
    assert (share - properties["band_gap"].probability_between(0.5, 9.0)).abs().max() < 1 / len(table.feasible)


def test_an_oracle_that_labels_nothing_wanted_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"oracle: it labels volume, and none of the objectives \(e_above_hull, supply_risk\)"
    ):
        LabelledObjectives(OBJECTIVES, ["volume"])


def test_asking_before_fitting_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="not fitted"):
        _ = LabelledObjectives(OBJECTIVES, ["e_above_hull"]).reward
