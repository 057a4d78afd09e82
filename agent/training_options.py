"""Settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LossName = Literal["tb", "subtb", "lpv", "rtb"]


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of a training run; the defaults are those that covered the target of the demo.

    Raises:
        ValueError: A value out of range; the message names it.
    """

    loss: LossName = "tb"
    """Trajectory balance, sub-trajectory balance, log-partition variance, or relative trajectory balance."""
    batch_size: int = 256
    """Trajectories a step, all sources together."""
    policy_share: float = 0.6
    """Share of the batch sampled from the policy."""
    base_share: float = 0.1
    """Share of the batch sampled from the base measure; the rest is replayed."""
    search_share: float = 0.0
    """Share of the batch taken from the best materials found so far, half of them edited: a genetic search that guides
    the policy to rare but good materials."""
    learning_rate: float = 2e-3
    """Highest learning rate of Adam; it falls to a twentieth along a cosine."""
    likelihood_weight: float = 0.5
    """Weight of the negative log-likelihood of replayed materials beside the balance loss."""
    epsilon: float = 0.0
    """Share of uniformly random actions while exploring."""
    temperature: float = 1.1
    """Sampling temperature while exploring."""
    annealing: float = 0.3
    """Share of the steps by which beta has reached its final value."""
    least_effective_share: float = 0.2
    """beta rises earlier as long as the effective sample size stays above this share."""
    replay_capacity: int = 100_000
    """Materials kept for replay."""
    average_decay: float = 0.998
    """Decay a step of the moving average of the weights."""
    residual_scale: float = 3.0
    """Balance residuals beyond this, in nats, count linearly instead of quadratically."""

    def __post_init__(self) -> None:
        if self.loss not in ("tb", "subtb", "lpv", "rtb"):
            raise ValueError(f"loss: unknown {self.loss!r} (expected tb, subtb, lpv or rtb)")
        if not 8 <= self.batch_size <= 100_000:
            raise ValueError(f"batch_size: {self.batch_size} is not in 8..100,000")
        if not self.batch_size <= self.replay_capacity <= 10_000_000:
            raise ValueError(
                f"replay_capacity: {self.replay_capacity} is not between batch_size={self.batch_size} and 10,000,000"
            )
        shares = {name: getattr(self, name) for name in ("policy_share", "base_share", "search_share")}
        if not (self.policy_share > 0 and min(shares.values()) >= 0 and sum(shares.values()) <= 1 + 1e-9):
            given = ", ".join(f"{name}={value:g}" for name, value in shares.items())
            raise ValueError(f"{given}: must be shares, the first above 0, that add up to at most 1")
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"epsilon: {self.epsilon:g} is not in 0..1")
        for name in ("temperature", "learning_rate", "residual_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name):g} is not a positive number")
        if not 0 <= self.likelihood_weight < math.inf:
            raise ValueError(f"likelihood_weight: {self.likelihood_weight:g} is not a number >= 0")
        for name in ("annealing", "least_effective_share", "average_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name):g} is not in 0..1")
