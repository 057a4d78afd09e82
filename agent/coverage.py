"""The certificate: how much of the target do a policy's samples cover?

Every material has one trajectory, so the policy, the base measure and the target are known exactly up to the
partition function Z. Importance sampling from the policy estimates log Z of the part that the policy reaches;
importance sampling from a defensive mixture of policy and base measure estimates all of it. Their ratio is the share
covered. The effective sample size (Kong 1992) says how many exact samples the policy's are worth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from agent.replay import effective_share, log_mean_exp


@dataclass(frozen=True)
class Coverage:
    """What a policy's samples say about the target."""

    log_z_policy: float
    """log Z by importance sampling from the policy."""
    log_z_base: float
    """log Z by importance sampling from the base measure."""
    log_z_mixture: float
    """log Z by importance sampling from the equal mixture of both."""
    covered: float
    """exp(log_z_policy - log_z_mixture), at most 1 up to sampling noise."""
    effective_share: float
    """Effective sample size of the policy's samples, as a share of their number."""
    base_effective_share: float
    """The same for samples of the base measure."""
    distinct_share: float
    """Distinct materials among the policy's samples, as a share."""
    n_samples: int
    """Samples from each."""

    def __str__(self) -> str:
        return (
            f"{self.covered:.0%} of the target covered (log Z {self.log_z_policy:.2f} by the policy, "
            f"{self.log_z_base:.2f} by the base measure, {self.log_z_mixture:.2f} by both); effective sample size "
            f"{self.effective_share:.1%} of {self.n_samples:,} samples (base measure {self.base_effective_share:.1%}); "
            f"{self.distinct_share:.1%} distinct"
        )


@dataclass(frozen=True)
class Scored:
    """N samples of one distribution with all three log-densities."""

    log_policy: Tensor
    """Float (N,)."""
    log_base: Tensor
    """Float (N,)."""
    log_target: Tensor
    """Unnormalised, float (N,)."""


def measure_coverage(from_policy: Scored, from_base: Scored, distinct_share: float) -> Coverage:
    """Combine equally many samples of the policy and of the base measure.

    Raises:
        ValueError: Different numbers of samples.
    """
    n = len(from_policy.log_target)
    if len(from_base.log_target) != n:
        raise ValueError(f"coverage needs equally many samples of both, not {n} and {len(from_base.log_target)}")
    weights = from_policy.log_target - from_policy.log_policy
    base_weights = from_base.log_target - from_base.log_base
    pooled = [torch.cat([getattr(from_policy, name), getattr(from_base, name)]) for name in Scored.__annotations__]
    log_policy, log_base, log_target = pooled
    log_mixture = torch.logaddexp(log_policy, log_base) - math.log(2)
    log_z_policy, log_z_mixture = log_mean_exp(weights), log_mean_exp(log_target - log_mixture)
    return Coverage(
        log_z_policy,
        log_mean_exp(base_weights),
        log_z_mixture,
        math.exp(log_z_policy - log_z_mixture),
        effective_share(weights),
        effective_share(base_weights),
        distinct_share,
        n,
    )
