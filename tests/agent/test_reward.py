"""`Reward`, `FunctionReward` and `scalarize`, against hand values; plug-ins that misbehave."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from agent import Objective, Reward
from agent.checks import check_reward
from agent.condition_options import ConditionOptions
from agent.conditions import Conditions, ConditionSpace
from agent.reward import FunctionReward, as_reward, scalarize
from surrogates import Prediction
from tests.agent.examples import space_named

MATERIALS = ["NaCl", "K2O", "NaKS"]

# Scalarization

UTILITIES = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.6, 0.2], [0.2, 0.6], [0.0, 1.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([2.0, 1.0], dtype=torch.float64)


def test_the_augmented_tchebycheff_by_hand() -> None:
    # weights scaled to a maximum of one: 1, 0.5; means with weights 2/3, 1/3
    worst = [0.0, 1.0, max(0.4, 0.4), max(0.8, 0.2), max(1.0, 0.0)]
    mean = [1.0, 0.0, (1.2 + 0.2) / 3, (0.4 + 0.6) / 3, 1 / 3]
    expected = [(1 - w + 0.05 * m) / 1.05 for w, m in zip(worst, mean, strict=True)]
    assert scalarize(UTILITIES, WEIGHTS, "tchebycheff").tolist() == pytest.approx(expected)


def test_sum_and_product_by_hand() -> None:
    mean = [1.0, 0.0, 1.4 / 3, 1.0 / 3, 1.0 / 3]
    assert scalarize(UTILITIES, WEIGHTS, "sum").tolist() == pytest.approx(mean)
    product = [1.0, 1e-6, (0.6**2 * 0.2) ** (1 / 3), (0.2**2 * 0.6) ** (1 / 3), (1e-6**2) ** (1 / 3)]
    assert scalarize(UTILITIES, WEIGHTS, "product").tolist() == pytest.approx(product, rel=1e-6)


@pytest.mark.parametrize("method", ["tchebycheff", "sum", "product"])
def test_scores_are_monotone_shares(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    utilities = torch.rand(500, 3, generator=generator)
    weights = torch.tensor([0.2, 3.0, 1.0])
    score = scalarize(utilities, weights, method)
    assert ((score >= 0) & (score <= 1 + 1e-6)).all()
    for column in range(3):
        better = utilities.clone()
        better[:, column] = (better[:, column] + 0.1).clamp_max(1)
        assert (scalarize(better, weights, method) >= score - 1e-6).all()
    assert torch.allclose(scalarize(utilities, 10 * weights, method), score, atol=1e-6)


def test_one_objective_scores_its_utility() -> None:
    utility = torch.linspace(0, 1, 11)[:, None]
    for method in ("tchebycheff", "sum", "product"):
        assert torch.allclose(scalarize(utility, torch.tensor([0.3]), method), utility[:, 0], atol=2e-6)


# Objectives


class Model:
    """A property model: the number of letters of a formula, known to one."""

    def fit(self, materials: Sequence[str], labels: Tensor) -> Self:
        return self

    def members(self, materials: Sequence[str]) -> Tensor:
        return torch.zeros(1, len(materials), 1)

    def predict(self, materials: Sequence[str]) -> Prediction:
        letters = torch.tensor([[float(len(material))] for material in materials])
        return Prediction(letters, torch.ones_like(letters))


def test_a_reward_is_the_logarithm_of_floor_plus_score() -> None:
    reward = Reward(
        [Objective("letters", "maximize", 0, 10, model=Model()), Objective("toxicity", "minimize", 0, 1, weight=2)],
        "sum",
    )
    values = reward(MATERIALS)
    letters = np.array([0.3, 0.2, 0.3])  # one standard deviation below 4, 3 and 4
    assert values.utilities["letters"].tolist() == pytest.approx(letters)
    assert values.utilities["toxicity"].tolist() == [1.0, 1.0, 1.0]
    assert values.log_reward.tolist() == pytest.approx(np.log(0.01 + (letters + 2) / 3), abs=1e-6)
    columns = values.columns()
    assert columns["letters"].tolist() == [4.0, 3.0, 4.0]
    assert columns["letters_std"].tolist() == [1.0, 1.0, 1.0]
    assert {"toxicity_fraction", "utility_letters", "utility_toxicity"} <= set(columns)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reward([]), "objectives: none given"),
        (lambda: Reward([Objective("toxicity", high=1.0)] * 2), "the property 'toxicity' occurs more than once"),
        (lambda: Reward([Objective("bandgap", high=1.0)]), "unknown property 'bandgap'.*did you mean band_gap"),
        (lambda: Reward([Objective("toxicity", high=1.0)], "max"), "unknown 'max'"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_reward_is_named(make: Callable[[], Reward], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class Broken(Model):
    def predict(self, materials: Sequence[str]) -> Prediction:
        raise KeyError(materials[0])


class Forgetful(Model):
    def predict(self, materials: Sequence[str]) -> Any:
        return [1.0] * len(materials)


class Unsure(Model):
    def predict(self, materials: Sequence[str]) -> Prediction:
        return Prediction(torch.zeros(len(materials), 1), torch.full((len(materials), 1), math.nan))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Broken(), r"Broken for 'letters'\) failed: KeyError: 'NaCl' \(test_reward.py, line \d+\)"),
        (Forgetful(), r"Forgetful for 'letters'\) failed: AttributeError"),
        (Unsure(), "Unsure.predict: std of letters must be finite"),
    ],
)
def test_a_property_model_that_fails_is_named(model: Model, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reward([Objective("letters", "maximize", 0, 10, model=model)])(MATERIALS)


# Functions


@pytest.mark.parametrize(
    "values",
    [
        [1, 0, 2.5],
        (1.0, 0.0, 2.5),
        np.array([1.0, 0.0, 2.5], dtype=np.float32),
        torch.tensor([1.0, 0.0, 2.5], requires_grad=True),
        torch.tensor([1.0, 0.0, 2.5], dtype=torch.float64),
        pd.Series([1.0, 0.0, 2.5], index=["a", "b", "c"]),
        [Decimal(1), Decimal(0), Decimal("2.5")],
        [np.float64(1), torch.tensor(0.0), 2.5],
    ],
)
def test_any_array_of_numbers_will_do(values: Any) -> None:
    reward = FunctionReward(lambda materials: values)
    assert reward(MATERIALS).log_reward.tolist() == pytest.approx([0.0, math.log(1e-6), math.log(2.5)], abs=1e-6)
    assert reward(MATERIALS).log_reward.dtype == torch.float32


def test_booleans_count_as_zero_and_one() -> None:
    reward = FunctionReward(lambda materials: [True, False, True])
    assert reward(MATERIALS).log_reward.tolist() == pytest.approx([0.0, math.log(1e-6), 0.0])


def test_large_values_keep_a_finite_logarithm() -> None:
    reward = FunctionReward(lambda materials: [1e300, 1.0, 1e-300])
    assert reward(MATERIALS).log_reward.tolist() == pytest.approx([300 * math.log(10), 0.0, math.log(1e-6)], rel=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], r"returned an array of shape \(2,\), expected \(3,\)"),
        ([[1.0], [2.0], [3.0]], r"shape \(3, 1\)"),
        (1.0, r"shape \(\), expected"),
        ([1.0, math.nan, 3.0], "returned nan for K2O, expected a finite value >= 0"),
        ([1.0, 2.0, math.inf], "returned inf for NaKS"),
        ([1.0, -2.0, -3.0], r"returned -2 for K2O.*\(2 of 3 values are not\)"),
        (["1", "2", "3"], "returned list of str, expected 3 numbers"),
        ([1.0, "2", 3.0], "returned list of float, expected 3 numbers"),
        ([1.0, None, 3.0], "expected"),
        (None, "returned NoneType, expected 3 numbers"),
        ({"NaCl": 1.0}, "returned dict, expected 3 numbers"),
        ([1j, 2j, 3j], "returned list of complex, expected 3 numbers"),
        ([[1.0], [1.0, 2.0], 3.0], "returned list of list, expected 3 numbers"),
        ((value for value in (1.0, 2.0, 3.0)), "returned generator, expected 3 numbers"),
        (np.array(["2020-01-01"] * 3, dtype="datetime64[D]"), "returned ndarray, expected 3 numbers"),
    ],
)
def test_values_that_are_no_reward_are_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^reward 'mine': .*{message}"):
        FunctionReward(lambda materials: values, "mine")(MATERIALS)


@pytest.mark.parametrize(
    "error", [KeyError("NaCl"), ZeroDivisionError("two\nlines"), ValueError("x"), OSError(2, "no")]
)
def test_a_function_that_raises_is_named_with_the_place(error: Exception) -> None:
    def mine(materials: Sequence[str]) -> list[float]:
        raise error

    for evaluate in (lambda: as_reward(mine)(MATERIALS), lambda: check_reward(as_reward(mine), space_named())):
        with pytest.raises(ValueError, match=r"^reward '.*mine' failed: .*\(test_reward.py, line \d+\)$") as caught:
            evaluate()
        assert type(error).__name__ in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_function_of_the_wrong_signature_is_named() -> None:
    with pytest.raises(ValueError, match=r"^reward 'none' failed: TypeError: .*argument"):
        check_reward(FunctionReward(lambda: [1.0], "none"), space_named())


def test_a_reward_too_small_to_tell_values_apart_is_refused_at_the_check() -> None:
    with pytest.raises(ValueError, match=r"^reward 'tiny': the largest of 64 values is 3e-09, .* scale it up"):
        check_reward(FunctionReward(lambda materials: [3e-9] * len(materials), "tiny"), space_named())
    check_reward(FunctionReward(lambda materials: [0.0] * len(materials)), space_named())  # rare, but possible


def test_a_reward_is_wrapped_once() -> None:
    wrapped = as_reward(lambda materials: [1.0] * len(materials))
    assert as_reward(wrapped) is wrapped


# Conditions


def conditioned_reward() -> Reward:
    return Reward(
        [
            Objective("band_gap", "window", 1.0, 2.0, target_range=(0.5, 3.0)),
            Objective("supply_risk", "minimize", 1000, 5000),
            Objective("formation_energy", "window", -2.0, -1.0, target_range=(-3.0, 0.0)),
        ],
        constraints=[Objective("electronegativity_difference", low=1.0), Objective("band_gap", low=0.1)],
    )


def some_conditions(n: int, k: int = 2) -> Conditions:
    generator = torch.Generator().manual_seed(1)
    preference = torch.rand(n, 3, generator=generator)
    target = torch.tensor([0.5, -3.0]) + torch.tensor([2.5, 3.0]) * torch.rand(n, 2, generator=generator)
    preference = preference / preference.sum(1, keepdim=True)
    return Conditions(preference, 1 + 20 * torch.rand(n, generator=generator), target[:, :k])


def test_outcomes_give_the_reward_under_any_condition() -> None:
    """Against rewards made for each condition: windows moved by hand, weights given, constraints multiplied."""
    reward, conditions = conditioned_reward(), some_conditions(6)
    materials = ["ZnS", "Na2S", "TiO2", "GaN", "Cu2O", "FeS2"]
    outcomes = reward(materials).outcomes
    pairs = reward.log_reward(outcomes, conditions.each)
    assert pairs.shape == (6, 6)
    assert torch.allclose(reward.log_reward(outcomes, conditions), pairs.diagonal(), atol=1e-5)
    assert torch.allclose(reward.log_reward(outcomes, conditions[2:3]), pairs[2], atol=1e-5)
    for row in range(6):
        weights, (gap, energy) = conditions.preference[row].tolist(), conditions.target[row].tolist()
        by_hand = Reward(
            [
                Objective("band_gap", "window", gap - 0.5, gap + 0.5, weight=weights[0]),
                Objective("supply_risk", "minimize", 1000, 5000, weight=weights[1]),
                Objective("formation_energy", "window", energy - 0.5, energy + 0.5, weight=weights[2]),
            ]
        )
        predicted = reward.predict(materials)
        feasible = predicted["electronegativity_difference"].probability_between(1.0, math.inf).clamp_min(1e-6)
        feasible = feasible * predicted["band_gap"].probability_between(0.1, math.inf)
        expected = conditions.beta[row] * by_hand(materials).log_reward + feasible.log()
        assert torch.allclose(pairs[row], expected, atol=1e-4)
        values = reward(materials, conditions[row : row + 1])
        assert torch.allclose(values.log_reward, by_hand(materials).log_reward + feasible.log(), atol=1e-4)
        for name, utility in by_hand(materials).utilities.items():
            assert torch.allclose(values.utilities[name], utility, atol=1e-5)
        assert values.feasibility is not None and torch.allclose(values.feasibility, feasible, atol=1e-5)


def test_the_own_condition_is_the_objectives_weights_and_windows() -> None:
    reward = conditioned_reward()
    own = ConditionSpace(reward.objectives, 1.0, ConditionOptions()).own
    values = reward(MATERIALS)
    assert torch.allclose(values.log_reward, reward.log_reward(values.outcomes, own), atol=1e-6)


def test_a_function_knows_beta_only() -> None:
    reward = as_reward(lambda materials: [2.0] * len(materials))
    asked = Conditions(torch.zeros(2, 0), torch.tensor([3.0, 5.0]), torch.zeros(2, 0))
    outcomes = reward(MATERIALS).outcomes
    assert reward.log_reward(outcomes, asked.each).tolist() == [
        pytest.approx([3 * math.log(2)] * 3),
        pytest.approx([5 * math.log(2)] * 3),
    ]


def test_a_constraint_holds_whatever_the_preference() -> None:
    free = Reward([Objective("supply_risk", "minimize", 1000, 5000)])
    bound = Reward(list(free.objectives), constraints=[Objective("toxicity", high=0.1)])
    materials = ["NaCl", "PbO"]
    difference = bound(materials).log_reward - free(materials).log_reward
    assert difference.tolist() == [0.0, pytest.approx(math.log(1e-6), rel=1e-5)]
    assert free(materials).feasibility is None


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ([Objective("toxicity", "minimize", 0, 1)], "constraints: 'toxicity' must be a window without target_range"),
        ([Objective("band_gap", low=1, high=2, target_range=(1, 2))], "must be a window without target_range"),
        ([Objective("toxicity", high=1.0)] * 2, "constraints: the property 'toxicity' occurs more than once"),
        ([Objective("band_gap", low=1, model=Model())], "'band_gap' has another model than the objective"),
        ([Objective("bandgap", low=1)], "unknown property 'bandgap'"),
    ],
)
def test_a_wrong_constraint_is_named(constraints: list[Objective], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reward([Objective("band_gap", low=1.0)], constraints=constraints)


def test_a_distribution_that_cannot_be_taken_apart_has_no_target_range() -> None:
    class Opaque:
        mean = std = torch.ones(3)

        def probability_between(self, low: float, high: float) -> Tensor:
            return torch.ones(3)

    class WithDistribution(Model):
        def distribution(self, materials: Sequence[str]) -> Opaque:
            return Opaque()

    reward = Reward([Objective("letters", "window", 1, 2, target_range=(0, 9), model=WithDistribution())])
    with pytest.raises(ValueError, match="objective 'letters': target_range: Opaque is not a dataclass of tensors"):
        reward(MATERIALS)
    assert (
        Reward([Objective("letters", "window", 1, 2, model=WithDistribution())])(MATERIALS).utilities["letters"].sum()
        == 3
    )


def test_columns_have_the_feasibility_where_there_are_constraints() -> None:
    objective, constraint = Objective("supply_risk", "minimize", 1000, 5000), Objective("toxicity", high=0.1)
    assert "feasibility" not in Reward([objective])(MATERIALS).columns()
    columns = Reward([objective], constraints=[constraint])(["NaCl", "PbO"]).columns()
    assert columns["feasibility"].tolist() == [1.0, pytest.approx(1e-6)]
