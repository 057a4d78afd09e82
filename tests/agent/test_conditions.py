"""`Conditions` and `ConditionSpace`: what is drawn, how it is coded, what a user may ask for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from agent import Objective
from agent.condition_options import ConditionOptions
from agent.conditions import THERMOMETER_STEPS, Conditions, ConditionSpace, default_options

GAP = Objective("band_gap", "window", 1.1, 1.7, weight=2.0, target_range=(0.5, 3.5))
RISK = Objective("supply_risk", "minimize", 1000, 5000)
HULL = Objective("e_above_hull", "window", high=0.1)


def space(*objectives: Objective, beta: float = 8.0, **options: Any) -> ConditionSpace:
    return ConditionSpace(objectives or (GAP, RISK, HULL), beta, ConditionOptions(**options))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# What is drawn


def test_draws_follow_their_distributions() -> None:
    drawn = space(own_share=0.0, corner_share=0.0).draw(4001, generator())[1:]
    assert drawn.preference.sum(1) == pytest.approx(1.0, abs=1e-5)
    for weight in drawn.preference.T:  # one weight of Dirichlet(1, 1, 1) has the density 2 (1 - w)
        assert kstest(weight.numpy(), lambda w: 1 - (1 - w) ** 2).pvalue > 0.001
    assert kstest(drawn.beta.log().numpy() / math.log(32), "uniform").pvalue > 0.001
    assert kstest((drawn.target[:, 0].numpy() - 0.5) / 3, "uniform").pvalue > 0.001


def test_own_conditions_come_first_and_corners_have_their_share() -> None:
    conditions = space(own_share=0.25, corner_share=0.5)
    drawn = conditions.draw(2000, generator())
    own = conditions.own
    assert own.preference.tolist() == [pytest.approx([0.5, 0.25, 0.25])]
    assert own.target.tolist() == [[pytest.approx(1.4)]]
    assert conditions.n_own(2000) == 500
    assert (drawn.preference[:500] == own.preference).all()
    assert (drawn.beta[:500] == 8.0).all()
    corner = drawn.preference[500:].amax(1) == 1
    assert float(corner.float().mean()) == pytest.approx(0.5, abs=0.05)
    assert torch.bincount(drawn.preference[500:][corner].argmax(1)).min() > 180


@pytest.mark.parametrize("n", [1, 2, 8])
def test_there_is_always_one_of_the_own_conditions(n: int) -> None:
    conditions = space(own_share=0.0)
    drawn = conditions.draw(n, generator())
    assert len(drawn) == n
    assert drawn.beta[0] == 8.0


def test_a_seed_repeats() -> None:
    one, other = (space().draw(50, generator(3)) for _ in range(2))
    assert torch.equal(one.preference, other.preference)
    assert torch.equal(one.beta, other.beta)
    assert torch.equal(one.target, other.target)


def test_what_cannot_be_asked_for_stays_as_it_is() -> None:
    conditions = space(RISK, HULL, preference=False)
    drawn = conditions.draw(100, generator())
    assert (drawn.preference == 0.5).all()
    assert drawn.beta.unique().numel() > 50
    fixed = ConditionSpace((GAP,), 3.0, ConditionOptions.fixed())
    assert not fixed.is_fixed  # its target moves
    fixed = ConditionSpace((RISK, HULL), 3.0, ConditionOptions.fixed())
    assert fixed.is_fixed
    assert fixed.encode(fixed.draw(7, generator())).shape == (7, 0)
    assert fixed.n_own(7) == 7
    without = ConditionSpace((), 3.0, ConditionOptions(beta_range=(1, 8)))
    assert without.draw(7, generator()).preference.shape == (7, 0)


# How it is coded


def test_codes_are_thermometers() -> None:
    conditions = space(RISK, HULL)
    asked = Conditions(torch.tensor([[0.25, 0.75]]), torch.tensor([32.0**0.5]), torch.zeros(1, 0))
    codes = conditions.encode(asked)
    assert codes.shape == (1, len(conditions.feature_names))
    assert codes.reshape(3, THERMOMETER_STEPS).sum(1) / THERMOMETER_STEPS == pytest.approx(
        torch.tensor([1 / 3, 1.0, 0.5]), abs=1e-5
    )
    assert conditions.feature_names[0] == "preference:supply_risk:0"
    assert conditions.feature_names[2 * THERMOMETER_STEPS] == "beta:0"


@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda w: sum(w) > 0.01),
    st.floats(1, 32),
    st.floats(0.5, 3.5),
)
def test_codes_tell_the_condition(weights: list[float], beta: float, target: float) -> None:
    conditions = space()
    names = ("band_gap", "supply_risk", "e_above_hull")
    asked = conditions.read(dict(zip(names, weights, strict=True)), beta, {"band_gap": target})
    shares = conditions.encode(asked).reshape(5, THERMOMETER_STEPS).mean(1).double()
    largest = max(weights)
    expected = [w / largest for w in weights] + [math.log(beta) / math.log(32), (target - 0.5) / 3]
    assert shares.tolist() == pytest.approx(expected, abs=1e-4)
    steps = conditions.encode(asked).reshape(5, THERMOMETER_STEPS)
    assert (steps.diff(dim=1) <= 0).all()  # filled from the bottom


# What may be asked for


def test_a_preference_is_normalised_and_what_is_left_out_weighs_nothing() -> None:
    conditions = space()
    assert conditions.read({"band_gap": 7, "e_above_hull": 3}).preference.tolist() == [pytest.approx([0.7, 0, 0.3])]
    assert conditions.read({"band_gap": 1e-300}).preference.tolist() == [[1.0, 0.0, 0.0]]
    assert conditions.read({"band_gap": 1e300, "supply_risk": 1e300}).preference.tolist() == [[0.5, 0.5, 0.0]]
    assert torch.equal(conditions.read().preference, conditions.own.preference)
    described = conditions.describe(conditions.read({"band_gap": 7, "e_above_hull": 3}, 4, {"band_gap": 2}))
    assert described == {
        "preference": {"band_gap": 0.7, "supply_risk": 0.0, "e_above_hull": 0.3},
        "beta": 4.0,
        "target": {"band_gap": 2.0},
    }


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"preference": {"band_gap": -0.1}}, "preference: band_gap=-0.1 is not a weight >= 0"),
        ({"preference": {"band_gap": math.nan}}, "preference: band_gap=nan is not a weight >= 0"),
        ({"preference": {"band_gap": math.inf}}, "preference: band_gap=inf is not a weight >= 0"),
        ({"preference": {"band_gap": 0, "supply_risk": 0}}, "preference: all weights are 0"),
        ({"preference": {}}, "preference: all weights are 0"),
        ({"preference": {"gap": 1}}, "no objective 'gap' .expected band_gap, supply_risk, e_above_hull"),
        ({"beta": 0.5}, "beta: 0.5 is outside the trained range 1 to 32"),
        ({"beta": math.nan}, "beta: nan is outside the trained range 1 to 32"),
        ({"target": {"band_gap": 4.0}}, "target: band_gap=4 is outside the trained range 0.5 to 3.5"),
        ({"target": {"band_gap": math.nan}}, "target: band_gap=nan is outside the trained range 0.5 to 3.5"),
        ({"target": {"supply_risk": 1}}, "for no target of 'supply_risk' .expected band_gap"),
    ],
)
def test_what_the_policy_does_not_answer(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        space().read(**asked)
    assert "\n" not in str(caught.value)


def test_policies_of_fixed_conditions_say_so() -> None:
    conditions = ConditionSpace((GAP, RISK), 8.0, ConditionOptions.fixed())
    assert torch.equal(conditions.read({"band_gap": 4, "supply_risk": 2}, 8.0).preference, conditions.own.preference)
    with pytest.raises(ValueError, match="trained for the objectives' own weights only"):
        conditions.read({"band_gap": 1})
    with pytest.raises(ValueError, match=r"beta: 4 was not trained for \(expected 8, the only one\)"):
        conditions.read(beta=4)
    with pytest.raises(ValueError, match="nothing to weigh"):
        ConditionSpace((GAP,), 8.0, ConditionOptions()).read({"band_gap": 1})
    with pytest.raises(ValueError, match=r"no target of 'supply_risk' .expected none"):
        ConditionSpace((RISK, HULL), 8.0, ConditionOptions()).read(target={"supply_risk": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_range": (0, 4)}, r"beta_range: \[0, 4\]"),
        ({"beta_range": (4, 4)}, r"beta_range: \[4, 4\]"),
        ({"beta_range": (1, math.nan)}, "beta_range"),
        ({"beta_range": (1, 1000)}, "beta_range"),
        ({"own_share": 1.5}, "own_share: 1.5 is not in 0..1"),
        ({"corner_share": -1}, "corner_share: -1 is not in 0..1"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConditionOptions(**options)


def test_the_own_beta_must_lie_in_the_range() -> None:
    with pytest.raises(ValueError, match="beta: 40 is outside beta_range, 1 to 32"):
        space(beta=40.0)


# Prior weights


def dial(low: float = 0.25, high: float = 1.0, own: float = 0.75, **options: Any) -> ConditionSpace:
    settings = ConditionOptions(**{"preference": False, "beta_range": None, **options}, prior_weight_range=(low, high))
    return ConditionSpace((RISK, HULL), 8.0, settings, own)


def test_prior_weights_crowd_at_both_ends_and_the_own_one_has_its_share() -> None:
    conditions = dial(own_share=0.25)
    drawn = conditions.draw(4000, generator())
    assert not conditions.is_fixed
    assert (drawn.prior_weight[:1000] == 0.75).all()
    assert kstest((drawn.prior_weight[1000:].numpy() - 0.25) / 0.75, "arcsine").pvalue > 0.001
    assert (drawn.beta == 8.0).all() and (drawn.preference == 0.5).all()


def test_nothing_is_drawn_for_what_cannot_be_asked_for() -> None:
    """A run without a range of prior weights sees the random numbers that it always saw."""
    without, given = (
        ConditionSpace((RISK, HULL), 8.0, ConditionOptions(prior_weight_range=allowed), 0.75).draw(50, generator())
        for allowed in (None, (0.0, 1.0))
    )
    assert torch.equal(without.beta, given.beta) and torch.equal(without.preference, given.preference)
    assert (without.prior_weight == 0.75).all() and given.prior_weight.unique().numel() > 30


@given(st.floats(0.25, 1))
def test_codes_tell_the_prior_weight(weight: float) -> None:
    conditions = dial()
    codes = conditions.encode(conditions.read(prior_weight=weight))
    assert codes.shape == (1, len(conditions.feature_names)) == (1, THERMOMETER_STEPS)
    assert float(codes.mean()) == pytest.approx((weight - 0.25) / 0.75, abs=1e-5)
    assert (codes.diff(dim=1) <= 0).all()


def test_prior_weights_are_coded_after_all_others() -> None:
    conditions = ConditionSpace((GAP, RISK), 8.0, ConditionOptions(prior_weight_range=(0, 1)))
    names = [name.rsplit(":", 1)[0] for name in conditions.feature_names[::THERMOMETER_STEPS]]
    assert names == ["preference:band_gap", "preference:supply_risk", "beta", "target:band_gap", "prior_weight"]
    asked = conditions.read({"band_gap": 1}, 32, {"band_gap": 3.5}, 0.5)
    shares = conditions.encode(asked).reshape(5, THERMOMETER_STEPS).mean(1)
    assert shares.tolist() == pytest.approx([1, 0, 1, 1, 0.5], abs=1e-5)
    assert conditions.describe(asked)["prior_weight"] == 0.5


def test_tempering_goes_from_the_base_measure_to_the_condition() -> None:
    conditions = dial()
    asked = conditions.read(prior_weight=0.25)
    for share, weight in ((0.0, 1.0), (0.5, 0.625), (1.0, 0.25)):
        tempered = conditions.tempered(asked, share)
        assert (float(tempered.beta), float(tempered.prior_weight)) == (8 * share, weight)
    fixed = ConditionSpace((RISK, HULL), 8.0, ConditionOptions.fixed(), 0.75)
    assert float(fixed.tempered(fixed.own, 0.5).prior_weight) == 0.75  # as long as it is no condition


@pytest.mark.parametrize("weight", [0.2, 1.1, math.nan, math.inf])
def test_a_prior_weight_that_was_not_trained_for(weight: float) -> None:
    with pytest.raises(ValueError, match=f"prior_weight: {weight:g} is outside the trained range 0.25 to 1"):
        dial().read(prior_weight=weight)
    fixed = ConditionSpace((RISK, HULL), 8.0, ConditionOptions(), 0.75)
    assert "prior_weight" not in fixed.describe(fixed.read(prior_weight=0.75))
    with pytest.raises(
        ValueError, match=rf"prior_weight: {weight:g} was not trained for \(expected 0.75, the only one"
    ):
        fixed.read(prior_weight=weight)


@pytest.mark.parametrize("bounds", [(0.5, 0.5), (1, 0), (-0.1, 1), (0, 1.1), (0, math.nan)])
def test_wrong_ranges_of_prior_weights(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"prior_weight_range: .* is not an interval within 0..1"):
        ConditionOptions(prior_weight_range=bounds)


@pytest.mark.parametrize("name", ["beta_range", "prior_weight_range"])
@pytest.mark.parametrize("value", [(0.1, 0.5, 1), ("a", "b"), 0.5], ids=str)
def test_ranges_that_are_not_two_numbers(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name}: .* is not two numbers"):
        ConditionOptions(**{name: value})  # type: ignore[arg-type]


def test_a_beta_with_a_fraction_is_the_runs_own() -> None:
    fixed = ConditionSpace((GAP, RISK), 2.3, ConditionOptions.fixed())
    assert float(fixed.read(beta=2.3).beta) == pytest.approx(2.3)


def test_the_own_prior_weight_must_lie_in_the_range() -> None:
    with pytest.raises(ValueError, match=r"prior_weight: 0.1 is outside prior_weight_range, 0.25 to 1"):
        dial(own=0.1)


def test_settings_without_a_range_are_stored_as_older_versions_did() -> None:
    assert set(ConditionOptions().as_dict()) == {"preference", "beta_range", "own_share", "corner_share"}
    assert ConditionOptions(prior_weight_range=(0, 1)).as_dict()["prior_weight_range"] == (0.0, 1.0)


def test_conditions_without_a_prior_weight_have_its_full_weight() -> None:
    conditions = Conditions(torch.ones(3, 1), torch.ones(3), torch.zeros(3, 0))
    assert conditions.prior_weight.tolist() == [1, 1, 1]
    joined = Conditions.join(
        [conditions[:1], Conditions(torch.ones(1, 1), torch.ones(1), torch.zeros(1, 0), torch.zeros(1))]
    )
    assert joined.prior_weight.tolist() == [1, 0]
    assert joined.each.prior_weight.shape == (2, 1)
    assert joined[1:].repeat(4).prior_weight.tolist() == [0, 0, 0, 0]


def test_what_a_policy_is_trained_for_by_default() -> None:
    assert default_options((GAP, RISK), 8.0, "tb") == ConditionOptions()
    assert default_options((GAP, RISK), 64.0, "tb").beta_range == (1.0, 64.0)
    assert default_options((GAP, RISK), 0.5, "tb").beta_range == (0.5, 32.0)
    assert default_options((GAP, RISK), 8.0, "lpv") == ConditionOptions.fixed()
    assert default_options((GAP,), 8.0, "tb") == default_options((), 8.0, "tb") == ConditionOptions.fixed()
