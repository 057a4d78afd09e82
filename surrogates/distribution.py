"""Predictive distributions of a property over a batch of materials: what utilities and reports are computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class PropertyDistribution(Protocol):
    """Independent distributions of one property for N materials."""

    @property
    def mean(self) -> Tensor:
        """(N,), in the property's unit."""
        ...

    @property
    def std(self) -> Tensor:
        """(N,), standard deviation in the property's unit; 0 for an exact property."""
        ...

    def probability_between(self, low: float | Tensor, high: float | Tensor) -> Tensor:
        """Return the probability that the property lies in [low, high], (N,); either end may be infinite.

        The ends of embedded distributions may be tensors too, which are broadcast against N.
        """
        ...

    def quantile(self, level: float) -> Tensor:
        """Return the value below which the property lies with probability `level`, (N,)."""
        ...


def lower_confidence_bound(distribution: PropertyDistribution, k: float = 1.0) -> Tensor:
    """Return mean - k * std, (N,); a negative k gives the upper bound."""
    return distribution.mean - k * distribution.std


def check_window(low: float | Tensor, high: float | Tensor) -> None:
    """Raise a ValueError unless low <= high and neither is NaN, everywhere."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        if not bool((torch.as_tensor(low) <= torch.as_tensor(high)).all()):
            raise ValueError("window: low must not exceed high, but does so somewhere in the batch")
    elif not low <= high:
        raise ValueError(f"window: low must not exceed high, not [{low:g}, {high:g}]")


def distribution_parameters(distribution: PropertyDistribution) -> Tensor:
    """Return all that a distribution consists of, (N, p), from which `from_parameters` makes it again.

    Raises:
        ValueError: It is not a dataclass of tensors (N,), as the embedded ones are.
    """
    values: list[object] = (
        [getattr(distribution, f.name) for f in fields(distribution)] if is_dataclass(distribution) else []
    )
    if not values or not all(isinstance(value, Tensor) and value.ndim == 1 for value in values):
        raise ValueError(f"{type(distribution).__name__} is not a dataclass of tensors (N,), as is needed here")
    return torch.stack([value for value in values if isinstance(value, Tensor)], dim=1)


def from_parameters(kind: type[PropertyDistribution], parameters: Tensor) -> PropertyDistribution:
    """Return the distribution of a kind with given parameters, (N, p)."""
    return kind(*parameters.unbind(-1))


def check_level(level: float) -> None:
    """Raise a ValueError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"quantile: level must lie between 0 and 1, not {level:g}")


@dataclass(frozen=True, eq=False)
class ExactDistribution:
    """A property that is computed without error."""

    mean: Tensor
    """(N,)."""

    @property
    def std(self) -> Tensor:
        """Zeros, (N,)."""
        return torch.zeros_like(self.mean)

    def probability_between(self, low: float | Tensor, high: float | Tensor) -> Tensor:
        """Return 1 where low <= value <= high, else 0, (N,)."""
        check_window(low, high)
        return ((self.mean >= low) & (self.mean <= high)).to(self.mean.dtype)

    def quantile(self, level: float) -> Tensor:
        """Return the value itself, (N,)."""
        check_level(level)
        return self.mean


@dataclass(frozen=True, eq=False)
class GaussianDistribution:
    """Independent normal distributions; a std of 0 is an exact value."""

    mean: Tensor
    """(N,)."""

    std: Tensor
    """(N,), not negative."""

    def probability_between(self, low: float | Tensor, high: float | Tensor) -> Tensor:
        """Return the probability of [low, high], (N,)."""
        check_window(low, high)
        return normal_probability(self.mean, self.std, low, high)

    def quantile(self, level: float) -> Tensor:
        """Return the quantile at `level`, (N,)."""
        check_level(level)
        quantile: Tensor = self.mean + self.std * torch.special.ndtri(self.mean.new_tensor(level))
        return quantile


@dataclass(frozen=True, eq=False)
class BandGapDistribution:
    """A metal (gap 0) with probability 1 - p, else a normal distribution of the gap; mass below zero counts as zero."""

    p_gapped: Tensor
    """(N,), probability that the material has a gap."""

    gap_mean: Tensor
    """(N,), eV, gap expected of a material that has one."""

    gap_std: Tensor
    """(N,), eV, standard deviation of that gap, positive."""

    @property
    def mean(self) -> Tensor:
        """(N,), eV: p * gap_mean."""
        return self.p_gapped * self.gap_mean

    @property
    def std(self) -> Tensor:
        """(N,), eV: standard deviation of the mixture, sqrt(p * gap_std^2 + p * (1 - p) * gap_mean^2)."""
        p = self.p_gapped
        return (p * self.gap_std.square() + p * (1 - p) * self.gap_mean.square()).sqrt()

    def probability_between(self, low: float | Tensor, high: float | Tensor) -> Tensor:
        """Return the probability that low <= gap <= high, (N,); metals count when low <= 0 <= high."""
        check_window(low, high)
        low, high = (torch.as_tensor(end, dtype=self.gap_mean.dtype) for end in (low, high))
        includes_metals = low <= 0
        from_below = torch.where(includes_metals, -math.inf, low)
        gapped = self.p_gapped * normal_probability(self.gap_mean, self.gap_std, from_below, high)
        return torch.where(high < 0, 0.0, torch.where(includes_metals, gapped + (1 - self.p_gapped), gapped))

    def quantile(self, level: float) -> Tensor:
        """Return the quantile at `level`, eV, (N,); 0 where the metal is at least that probable."""
        check_level(level)
        share = (level - (1 - self.p_gapped)) / self.p_gapped.clamp_min(1e-12)
        inside = share.clamp(1e-7, 1 - 1e-7)
        gap = self.gap_mean + self.gap_std * torch.special.ndtri(inside)
        return torch.where(share > 0, gap.clamp_min(0.0), torch.zeros_like(gap))


def normal_probability(mean: Tensor, std: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Return P(low <= x <= high) of normal distributions, (N,); accurate in the tails and for std 0."""
    scale = std.clamp_min(1e-12)
    # Reflect so that both ends lie in the lower tail, where ndtr keeps its relative accuracy.
    below, above = (low - mean) / scale, (high - mean) / scale
    flip = below > 0
    first, second = torch.where(flip, -above, below), torch.where(flip, -below, above)
    probability = torch.special.ndtr(second) - torch.special.ndtr(first)
    exact = ((mean >= low) & (mean <= high)).to(mean.dtype)
    return torch.where(std > 0, probability, exact)
