"""Replay: a ring of finished materials, from which trajectories are drawn in proportion to the target.

Each entry keeps the log-density of the mixture it was drawn from, so that its importance weight is exact for any
inverse temperature. Trajectories are unique, so the actions are all there is to a material.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """N finished materials."""

    actions: Tensor
    """Long (N, T)."""
    log_base: Tensor
    """Log-probability under the base measure (the prior), float (N,)."""
    log_reward: Tensor
    """Log-reward at inverse temperature 1, float (N,)."""
    log_mixture: Tensor
    """Log-density of the mixture that they were drawn from, float (N,)."""

    def log_target(self, base_weight: float, beta: float) -> Tensor:
        """Return the unnormalised log-target, float (N,)."""
        return base_weight * self.log_base + beta * self.log_reward


def log_mean_exp(values: Tensor) -> float:
    """Return log(mean(exp(values))) of a vector; -inf when it is empty."""
    if not len(values):
        return -float("inf")
    return float(values.double().logsumexp(0) - torch.tensor(float(len(values)), dtype=torch.float64).log())


def effective_share(log_weights: Tensor) -> float:
    """Return the effective sample size of importance weights as a share of their number (Kong 1992)."""
    weights = log_weights.double().softmax(0)
    return float(1.0 / (weights.square().sum() * len(weights)))


class Replay:
    """A ring buffer of finished materials.

    Args:
        capacity: Entries kept; the oldest are overwritten.
        max_steps: Length of the action sequences.
    """

    def __init__(self, capacity: int, max_steps: int) -> None:
        self.capacity = capacity
        self.actions = torch.zeros(capacity, max_steps, dtype=torch.long)
        self.log_base, self.log_reward, self.log_mixture = (torch.zeros(capacity) for _ in range(3))
        self.position = 0
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def add(self, batch: Batch) -> None:
        """Store N materials over the oldest ones."""
        rows = (self.position + torch.arange(len(batch.actions))) % self.capacity
        self.actions[rows] = batch.actions
        self.log_base[rows] = batch.log_base
        self.log_reward[rows] = batch.log_reward
        self.log_mixture[rows] = batch.log_mixture
        self.position = (self.position + len(rows)) % self.capacity
        self.size = min(self.capacity, self.size + len(rows))

    def contents(self) -> Batch:
        """Return all entries."""
        n = self.size
        return Batch(self.actions[:n], self.log_base[:n], self.log_reward[:n], self.log_mixture[:n])

    def log_weights(self, base_weight: float, beta: float) -> Tensor:
        """Return the log importance weight of each entry, float (size,)."""
        entries = self.contents()
        return entries.log_target(base_weight, beta) - entries.log_mixture

    def draw(self, n: int, base_weight: float, beta: float, generator: torch.Generator) -> Batch:
        """Draw n entries, with repetition, in proportion to their importance weights."""
        weights = self.log_weights(base_weight, beta).double().softmax(0)
        cumulative = weights.cumsum(0)
        uniform = torch.rand(n, dtype=torch.float64, generator=generator) * cumulative[-1]
        rows = torch.searchsorted(cumulative, uniform).clamp_max_(self.size - 1)
        return Batch(self.actions[rows], self.log_base[rows], self.log_reward[rows], self.log_mixture[rows])

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a checkpoint needs."""
        return {
            "actions": self.actions[: self.size].to(torch.int32),
            "log_base": self.log_base[: self.size],
            "log_reward": self.log_reward[: self.size],
            "log_mixture": self.log_mixture[: self.size],
            "position": torch.tensor(self.position),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.size = len(state["actions"])
        self.actions[: self.size] = state["actions"].long()
        self.log_base[: self.size] = state["log_base"]
        self.log_reward[: self.size] = state["log_reward"]
        self.log_mixture[: self.size] = state["log_mixture"]
        self.position = int(state["position"])
