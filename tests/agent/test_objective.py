"""`Objective`: utilities against SciPy, bounds, errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from agent import Objective
from surrogates.distribution import ExactDistribution, GaussianDistribution

MEAN = torch.tensor([-3.0, 0.0, 0.9, 1.0, 1.35, 1.6, 2.0, 40.0], dtype=torch.float64)
STD = torch.tensor([0.1, 1.0, 0.3, 0.01, 0.5, 2.0, 0.2, 5.0], dtype=torch.float64)


@pytest.mark.parametrize(("low", "high"), [(1.1, 1.6), (None, 1.6), (1.1, None)])
def test_the_utility_of_a_window_is_the_probability_of_lying_in_it(low: float | None, high: float | None) -> None:
    utility = Objective("gap", "window", low, high).utility(GaussianDistribution(MEAN, STD))
    normal = norm(MEAN.numpy(), STD.numpy())
    ends = (-math.inf if low is None else low, math.inf if high is None else high)
    assert utility.numpy() == pytest.approx(normal.cdf(ends[1]) - normal.cdf(ends[0]), abs=1e-9)


def test_the_utility_of_an_exact_property_is_in_or_out() -> None:
    utility = Objective("gap", "window", 1.0, 2.0).utility(ExactDistribution(MEAN))
    assert utility.tolist() == [0, 0, 0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("caution", [0.0, 1.0, 2.5])
def test_monotone_utilities_fall_linearly_and_are_clipped(caution: float) -> None:
    predicted = GaussianDistribution(MEAN, STD)
    mean, std = MEAN.numpy(), STD.numpy()
    more = Objective("gap", "maximize", 0.5, 2.0, caution=caution).utility(predicted)
    less = Objective("gap", "minimize", 0.5, 2.0, caution=caution).utility(predicted)
    assert more.numpy() == pytest.approx(np.interp(mean - caution * std, [0.5, 2.0], [0, 1]), abs=1e-9)
    assert less.numpy() == pytest.approx(np.interp(mean + caution * std, [0.5, 2.0], [1, 0]), abs=1e-9)
    for utility in (more, less):
        assert utility.min() == 0 and utility.max() == 1


def test_an_objective_contains_what_lies_within_its_hard_bounds() -> None:
    values = torch.tensor([0.0, 1.0, 1.5, 2.0, 3.0])
    contained = {
        ("window", 1.0, 2.0): [False, True, True, True, False],
        ("window", None, 2.0): [True, True, True, True, False],
        ("window", 1.0, None): [False, True, True, True, True],
        ("maximize", 1.0, 2.0): [False, True, True, True, True],
        ("minimize", 1.0, 2.0): [True, True, True, True, False],
    }
    for (goal, low, high), expected in contained.items():
        assert Objective("gap", goal, low, high).contains(values).tolist() == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"goal": "minimise", "low": 0.0, "high": 1.0}, "unknown goal 'minimise' .expected window, minimize"),
        ({}, "a window needs low, high or both"),
        ({"goal": "maximize", "low": 1.0}, "maximize needs low and high"),
        ({"goal": "minimize", "high": 1.0}, "minimize needs low and high"),
        ({"low": 2.0, "high": 1.0}, "low=2 is not below high=1"),
        ({"low": 1.0, "high": 1.0}, "low=1 is not below high=1"),
        ({"low": math.nan, "high": 1.0}, "low is nan, expected a finite number"),
        ({"low": 0.0, "high": math.inf}, "high is inf, expected a finite number"),
        ({"low": 0.0, "weight": 0.0}, "weight is 0.0, expected a positive number"),
        ({"low": 0.0, "weight": math.nan}, "weight is nan"),
        ({"low": 0.0, "weight": -1.0}, "weight is -1.0"),
        ({"low": 0.0, "caution": -0.5}, "caution is -0.5, expected a number >= 0"),
        ({"low": 0.0, "caution": math.inf}, "caution is inf"),
    ],
)
def test_a_wrong_objective_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^objective 'gap': {message}"):
        Objective("gap", **arguments)


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (Objective("gap", "window", 1.1, 1.6), "gap in 1.1..1.6"),
        (Objective("gap", high=1.6), "gap in -inf..1.6"),
        (Objective("gap", "minimize", 0, 1), "gap minimize between 0 and 1"),
    ],
)
def test_objectives_print_what_they_ask(objective: Objective, text: str) -> None:
    assert str(objective) == text
