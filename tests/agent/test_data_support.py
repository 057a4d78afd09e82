"""What the data can tell about objectives, recomputed here by plain counting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import pytest
import torch
from torch import Tensor

from agent import Objective, Reward
from agent.data_support import examine, measured_values
from envs import CompositionSpace
from surrogates import Prediction, evaluate_properties
from surrogates.crystal_energy import CrystalEnergyModel
from surrogates.datasets import read_band_gaps
from tests.agent.crystal_examples import crystal_space
from tests.agent.examples import all_formulas, log_distribution, random_policy, random_prior, space_named

SPACE = space_named()
BASE = random_prior(SPACE).policy(SPACE)


def test_shares_and_counts_are_those_of_the_enumeration() -> None:
    reward = Reward([Objective("band_gap", low=1.0, high=3.0), Objective("supply_risk", "minimize", 1000, 3000)])
    support = examine(SPACE, reward, BASE)
    gap, risk = support.objectives
    measured = read_band_gaps()["band_gap_eV"]
    assert gap.known_measured == len(measured)
    assert gap.known_in_target == int(((measured >= 1) & (measured <= 3)).sum())
    assert (risk.known_measured, risk.known_in_target, risk.error) == (None, None, None)
    assert gap.error is not None
    predicted = evaluate_properties(["band_gap", "supply_risk"], all_formulas(SPACE))
    inside = {
        "band_gap": (predicted["band_gap"].mean >= 1) & (predicted["band_gap"].mean <= 3),
        "supply_risk": predicted["supply_risk"].mean <= 3000,
    }
    uniform = log_distribution(random_prior(SPACE, scale=0.0).policy(SPACE)).exp()
    for entry in support.objectives:
        assert entry.uniform_share == pytest.approx(float(uniform[inside[entry.property]].sum()), abs=0.03)
        exact = float(log_distribution(BASE).exp()[inside[entry.property]].sum())
        assert entry.prior_share == pytest.approx(exact, abs=0.03)
    assert support.warnings == ()
    text = str(support)
    assert "supply_risk minimize between 1000 and 3000: computed exactly" in text
    assert "band_gap in 1..3: computed exactly" not in text
    assert f"{gap.known_in_target:,} of {gap.known_measured:,} known materials" in text


@pytest.mark.parametrize(
    ("objective", "warnings"),
    [
        (Objective("band_gap", low=20.0, high=30.0), ["only 0 of", "no sample of 4,096", "outside the measured range"]),
        (Objective("band_gap", low=11.0, high=30.0), ["only", "no sample of 4,096"]),
        (Objective("toxicity", low=0.5), ["no sample of 4,096"]),
        (Objective("toxicity", high=0.5), []),
    ],
    ids=str,
)
def test_targets_that_the_data_cannot_judge_are_warnings(objective: Objective, warnings: list[str]) -> None:
    found = examine(SPACE, Reward([objective]), BASE).warnings
    assert len(found) == len(warnings)
    for text, expected in zip(found, warnings, strict=True):
        assert str(objective) in text and expected in text


class Length:
    """A model of the user's own."""

    def fit(self, materials: Sequence[str], labels: Tensor) -> Self:
        return self

    def members(self, materials: Sequence[str]) -> Tensor:
        return torch.full((1, len(materials), 1), 2.0)

    def predict(self, materials: Sequence[str]) -> Prediction:
        return Prediction(torch.full((len(materials), 1), 2.0), torch.ones(len(materials), 1))


def test_a_model_of_ones_own_is_named_and_not_compared_with_the_embedded_data() -> None:
    support = examine(SPACE, Reward([Objective("band_gap", low=1.0, high=3.0, model=Length())]), BASE)
    entry = support.objectives[0]
    assert (entry.source, entry.known_measured, entry.uniform_share) == ("Length", None, 1.0)
    assert "a model of your own" in str(support)


def test_only_the_band_gap_is_measured() -> None:
    assert measured_values("supply_risk") is None
    values = measured_values("band_gap")
    assert values is not None and values.min() >= 0


def test_constraints_are_examined_apart() -> None:
    reward = Reward([Objective("band_gap", low=1.0)], constraints=[Objective("toxicity", high=0.1)])
    support = examine(SPACE, reward, BASE)
    assert [entry.property for entry in support.objectives] == ["band_gap"]
    assert [entry.property for entry in support.constraints] == ["toxicity"]
    assert support.constraints[0].prior_share == 1.0  # no poison among Na, K, O, S and Cl
    assert "constraint toxicity in -inf..0.1: computed exactly" in str(support)


def test_distrust_that_leaves_nothing_of_worth_is_a_warning() -> None:
    class Doubtful(Length):
        def predict(self, materials: Sequence[str]) -> Prediction:
            found = super().predict(materials)
            return Prediction(found.mean, found.std + 10)

    def warnings(caution: float, model: Any) -> tuple[str, ...]:
        wanted = Objective("length", "minimize", 0.0, 8.0, caution=caution, model=model)
        return examine(SPACE, Reward([wanted]), BASE).warnings

    (warning,) = warnings(1.0, Doubtful())
    assert "at caution 1 only 0.0% count" in warning and "caution: 0 trusts them" in warning
    assert warnings(0.0, Doubtful()) == () and warnings(1.0, Length()) == ()


def test_energies_of_crystals_are_those_of_their_own_model() -> None:
    space = crystal_space()
    objectives = [Objective("e_above_hull", "minimize", 0, 0.5), Objective("toxicity", "minimize", 0, 1)]
    hull, toxicity = examine(space, Reward(objectives), random_policy(space)).objectives
    found = CrystalEnergyModel.default().validation
    assert found is not None and hull.error is not None
    assert f"{found.new_systems.mae_eV_per_atom:.2f} eV/atom in chemical systems held out" in hull.error
    assert "positions" in hull.source and toxicity.error is None


@pytest.mark.parametrize(
    ("reference", "edits", "warned"),
    [("Sr8Ti8O24", 2, True), ("SrTiO3", 2, False), ("Sr2Ti2O6", 2, False), ("SrTiO3", 0, False)],
)
def test_the_order_of_energies_of_dilute_doping_is_doubted(reference: str, edits: int, warned: bool) -> None:
    space = CompositionSpace(["La"], reference=reference, max_edits=edits)
    objectives = [Objective("e_above_hull", high=0.1), Objective("toxicity", high=0.5)]
    warnings = examine(space, Reward(objectives), random_policy(space)).warnings
    assert [text for text in warnings if "2 edits among 40 atoms" in text and "e_above_hull" in text] == [
        text for text in warnings if "means little" in text
    ]
    assert any("means little" in text for text in warnings) == warned
