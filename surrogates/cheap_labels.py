"""What labels of a cheaper oracle are worth: how they go with those of the target, and what to take them for.

A cheap label is taken for an observation of the target with noise: cheap = offset + slope * target + noise (Kennedy and
O'Hagan, Biometrika 87, 1 (2000), read backwards, with a deviation that is independent from material to material). How
large the noise is, is told by the materials that both have labelled, from what neither a line nor the model of the
target's own labels explains. A cheap oracle that tells nothing new has a correlation of 0 there, and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_SHARE = 0.1
"""Squared correlation below which cheap labels are left out."""
_MOST = 0.9999
"""A correlation counts as no larger."""


@dataclass(frozen=True, eq=False)
class CheapLabels:
    """Labels of one cheaper oracle."""

    materials: Sequence[str]
    """N formulas, distinct."""
    values: Tensor
    """Float (N, m), NaN where a property was not labelled."""


@dataclass(frozen=True)
class Agreement:
    """How the labels of a cheaper oracle go with those of the target, for one property."""

    pairs: int
    """Materials with both labels."""
    share: float
    """Squared correlation of what both labels add to what was predicted, shrunk; 0 where it is too small to use."""
    offset: float
    slope: float
    """Of the cheap label against the target's."""
    noise: float
    """Variance of a cheap label as an observation of the target, in the unit of the target squared."""
    share_of_zero: float = 0.0
    """Squared correlation, shrunk, of whether the labels are zero; 0 where zeros are not learned apart."""


NO_AGREEMENT = Agreement(0, 0.0, 0.0, 1.0, math.inf)


def agreement(target: Tensor, cheap: Tensor, predicted: Tensor) -> Agreement:
    """Compare the labels of n materials that both oracles labelled.

    Args:
        target: Labels of the target, float64 (n,).
        cheap: Labels of the cheaper oracle, float64 (n,).
        predicted: What models that knew neither label of the material said of the target, float64 (n,).
    """
    n = len(target)
    slope, offset = _line(target, cheap) if n > 3 else (0.0, 0.0)
    if abs(slope) < 1e-9:
        return NO_AGREEMENT
    new, new_of_cheap = target - predicted, (cheap - offset) / slope - predicted
    share = max(shrunk_correlation(correlation(new, new_of_cheap), n), 0.0) ** 2
    if share < LEAST_SHARE:
        return Agreement(n, 0.0, offset, slope, math.inf)
    low, high = new.quantile(torch.tensor([0.1587, 0.8413], dtype=new.dtype)).tolist()
    return Agreement(n, share, offset, slope, noise_of(share, ((high - low) / 2) ** 2 + 1e-12))


def _line(target: Tensor, cheap: Tensor) -> tuple[float, float]:
    """Return slope and offset of the cheap labels against the target's, by the estimator of Theil and Sen."""
    rows, columns = torch.triu_indices(len(target), len(target), 1)
    run, rise = target[rows] - target[columns], cheap[rows] - cheap[columns]
    if not bool((run != 0).any()):
        return 0.0, 0.0
    slope = float((rise / run)[run != 0].median())
    return slope, float((cheap - slope * target).median())


def noise_of(share: float, variance: float) -> float:
    """Return the variance of noise that makes `share` of the squared correlation with a quantity of this variance."""
    return variance * (1 - share) / share


def correlation(one: Tensor, other: Tensor) -> float:
    """Return the correlation of two normal quantities by the ranks of n pairs (Spearman), 0 where one does not vary.

    A few labels that are far off, as of structures that relax into another type, do not count for more than others.
    """
    if len(one) < 2 or not one.std() > 0 or not other.std() > 0:
        return 0.0
    from scipy.stats import spearmanr

    return 2 * math.sin(math.pi / 6 * float(spearmanr(one.numpy(), other.numpy()).statistic))


def shrunk_correlation(found: float, n: int) -> float:
    """Return a correlation of n pairs one standard error nearer to 0, by Fisher's transformation; 0 for 3 pairs."""
    if n <= 3:
        return 0.0
    size = math.atanh(min(abs(found), _MOST)) - (n - 3) ** -0.5
    return math.copysign(math.tanh(max(size, 0.0)), found)
