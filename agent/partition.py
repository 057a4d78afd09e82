"""The log-partition function under every condition: regressed on importance-sampling estimates, never on the loss.

A log Z learned by the balance loss follows the policy wherever it goes; one that is estimated from weighted samples
tells a policy that leaves out part of the target that it is too likely everywhere else.
"""

from __future__ import annotations

from typing import Any

import torch
from gfn.estimators import ConditionalLogZEstimator
from torch import Tensor, nn

_REMEMBERED = 1024
"""Latest estimates that are fitted."""
_FITTED = 256
"""Estimates fitted in a step."""
_RIDGE = 0.1
"""Weight of the squared coefficients of the linear part."""


class LogPartition(nn.Module):
    """Encoded conditions (n, C) -> log Z (n, 1): smooths estimates over conditions and steps.

    log Z is taken as a constant, its value at beta 0, plus the tempering of the betas times a network's output.

    Args:
        n_inputs: Length of an encoded condition.
        width: Hidden units.
        wide_range: Whether log Z may differ by tens of nats from one condition to another, as it does over prior
            weights: what is linear in the encoded conditions is then solved for, and the network learns the rest.
    """

    level: Tensor
    conditions: Tensor
    estimates: Tensor
    temperings: Tensor
    n_observed: Tensor

    def __init__(self, n_inputs: int, width: int = 128, wide_range: bool = False) -> None:
        super().__init__()
        self.wide_range = wide_range
        self.input_dim = n_inputs  # torchgfn asks for it
        layers = [nn.Linear(n_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)]
        self.network = nn.Sequential(*layers)
        self.tempering = 0.0
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("conditions", torch.zeros(_REMEMBERED, n_inputs))
        self.register_buffer("estimates", torch.zeros(_REMEMBERED))
        self.register_buffer("temperings", torch.zeros(_REMEMBERED))
        self.register_buffer("n_observed", torch.zeros((), dtype=torch.long))

    def forward(self, conditions: Tensor) -> Tensor:
        """Return log Z under each condition, float (n, 1), without gradient: the policy's loss must not move it."""
        with torch.no_grad():
            values: Tensor = self.level + self.tempering * self.network(conditions)
            if self.wide_range:
                values = values + self._linear(conditions, torch.tensor(self.tempering))[:, None]
        return values

    def observe(self, conditions: Tensor, estimates: Tensor) -> None:
        """Take in estimates of log Z, float (G,), under encoded conditions, float (G, C), at the present tempering."""
        seen = int(self.n_observed)
        if not seen and not self.tempering:
            self.level.copy_(estimates.mean())
        rows = (seen + torch.arange(len(estimates))) % _REMEMBERED
        self.conditions[rows], self.estimates[rows], self.temperings[rows] = conditions, estimates, self.tempering
        self.n_observed += len(estimates)

    def forget(self) -> None:
        """Drop the estimates of an earlier reward; the level at beta 0 does not depend on it."""
        self.n_observed.zero_()

    def loss(self, generator: torch.Generator) -> Tensor:
        """Return the regression loss on some of the latest estimates."""
        rows = torch.randint(min(int(self.n_observed), _REMEMBERED), (_FITTED,), generator=generator)
        values = self.level + self.temperings[rows] * self.network(self.conditions[rows]).squeeze(1)
        if self.wide_range:
            values = values + self._linear(self.conditions[rows], self.temperings[rows])
        return nn.functional.huber_loss(values, self.estimates[rows], delta=3.0)

    def _linear(self, conditions: Tensor, temperings: Tensor) -> Tensor:
        """Return the linear part of log Z, fitted to the latest estimates by ridge regression, float (n,)."""

        def features(codes: Tensor, tempering: Tensor) -> Tensor:
            return nn.functional.pad(codes, (1, 0), value=1.0).double() * tempering.double().reshape(-1, 1)

        n = min(int(self.n_observed), _REMEMBERED)
        known = features(self.conditions[:n], self.temperings[:n])
        ridge = _RIDGE * torch.eye(known.shape[1], dtype=torch.float64)
        wanted = known.T @ (self.estimates[:n] - self.level).double()
        values: Tensor = features(conditions, temperings) @ torch.linalg.solve(known.T @ known + ridge, wanted)
        return values.float()

    def estimator(self) -> Any:  # torchgfn ships no types
        """Return it as torchgfn takes it."""
        return ConditionalLogZEstimator(self)
