import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surrogates.distribution import (
    BandGapDistribution,
    ExactDistribution,
    GaussianDistribution,
    PropertyDistribution,
    lower_confidence_bound,
)

finite = st.floats(-10, 10)
positive = st.floats(0.05, 5)
shares = st.floats(0, 1)


def gap(p: float, mean: float, std: float) -> BandGapDistribution:
    return BandGapDistribution(*(torch.tensor([value], dtype=torch.float64) for value in (p, mean, std)))


def gap_cdf(x: float, p: float, mean: float, std: float) -> float:
    """Closed form: an atom of metals at zero, and the normal tail below zero counted there."""
    return (1 - p) + p * NormalDist(mean, std).cdf(x) if x >= 0 else 0.0


@given(finite, positive, finite, st.floats(0, 5))
def test_gaussian_window_is_a_difference_of_two_cdfs(mean, std, low, width):
    distribution = GaussianDistribution(
        torch.tensor([mean], dtype=torch.float64), torch.tensor([std], dtype=torch.float64)
    )
    normal = NormalDist(mean, std)
    expected = normal.cdf(low + width) - normal.cdf(low)
    assert distribution.probability_between(low, low + width).item() == pytest.approx(expected, abs=1e-9)


def test_gaussian_tails_keep_their_relative_accuracy():
    distribution = GaussianDistribution(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    upper, lower = distribution.probability_between(9, math.inf), distribution.probability_between(-math.inf, -9)
    assert upper[0].item() == pytest.approx(math.erfc(9 / math.sqrt(2)) / 2, rel=1e-6)
    assert torch.equal(upper, lower)


@given(shares, st.floats(0, 8), positive, st.floats(0, 8), st.floats(0, 4))
def test_gap_window_follows_from_its_distribution_function(p, mean, std, low, width):
    distribution = gap(p, mean, std)
    below = gap_cdf(low, p, mean, std) if low > 0 else 0.0
    expected = gap_cdf(low + width, p, mean, std) - below
    assert distribution.probability_between(low, low + width).item() == pytest.approx(expected, abs=1e-9)


@given(shares, st.floats(0, 8), positive, st.floats(0.01, 0.99))
def test_gap_quantile_inverts_the_distribution_function(p, mean, std, level):
    value = gap(p, mean, std).quantile(level).item()
    assert value >= 0
    if value == 0:
        assert gap_cdf(0.0, p, mean, std) >= level - 1e-6
    else:
        assert gap_cdf(value, p, mean, std) == pytest.approx(level, abs=1e-6)


@given(shares, st.floats(0, 8), positive)
def test_gap_mean_and_std_are_those_of_the_mixture(p, mean, std):
    distribution = gap(p, mean, std)
    second_moment = p * (std**2 + mean**2)
    assert distribution.mean.item() == pytest.approx(p * mean)
    assert distribution.std.item() == pytest.approx(math.sqrt(max(second_moment - (p * mean) ** 2, 0)), abs=1e-6)


def test_metals_count_in_windows_that_hold_zero():
    metal = gap(0.0, 1.5, 0.4)
    assert metal.probability_between(0.0, 0.5).item() == 1
    assert metal.probability_between(0.1, 9.0).item() == 0
    assert gap(0.3, 1.0, 0.4).probability_between(-math.inf, math.inf).item() == pytest.approx(1)
    assert gap(0.3, 1.0, 0.4).probability_between(-2.0, -1.0).item() == 0


def test_exact_values_are_in_a_window_or_not():
    distribution = ExactDistribution(torch.tensor([0.9, 1.0, 2.0, 2.1]))
    assert distribution.probability_between(1.0, 2.0).tolist() == [0, 1, 1, 0]
    assert distribution.std.tolist() == [0, 0, 0, 0]
    assert torch.equal(distribution.quantile(0.1), distribution.mean)
    same = GaussianDistribution(distribution.mean, torch.zeros(4))
    assert same.probability_between(1.0, 2.0).tolist() == [0, 1, 1, 0]


def test_confidence_bound_and_protocol():
    distribution = GaussianDistribution(torch.tensor([2.0]), torch.tensor([0.5]))
    assert lower_confidence_bound(distribution, 2).item() == 1
    assert lower_confidence_bound(distribution, -2).item() == 3
    for each in (distribution, ExactDistribution(torch.ones(1)), gap(0.5, 1.0, 1.0)):
        assert isinstance(each, PropertyDistribution)


@pytest.mark.parametrize("window", [(2.0, 1.0), (math.nan, 1.0)])
def test_a_reversed_window_is_refused(window):
    for each in (ExactDistribution(torch.ones(1)), gap(0.5, 1.0, 1.0)):
        with pytest.raises(ValueError, match="low must not exceed high"):
            each.probability_between(*window)


def test_a_level_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        gap(0.5, 1.0, 1.0).quantile(1.0)
