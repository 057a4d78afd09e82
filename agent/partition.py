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


class LogPartition(nn.Module):
    """Encoded conditions (n, C) -> log Z (n, 1): smooths estimates over conditions and steps.

    log Z is taken as a constant, its value at beta 0, plus the tempering of the betas times a network's output.

    Args:
        n_inputs: Length of an encoded condition.
        width: Hidden units.
    """

    level: Tensor
    conditions: Tensor
    estimates: Tensor
    temperings: Tensor
    n_observed: Tensor

    def __init__(self, n_inputs: int, width: int = 128) -> None:
        super().__init__()
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
        return values

    def observe(self, conditions: Tensor, estimates: Tensor) -> None:
        """Take in estimates of log Z, float (G,), under encoded conditions, float (G, C), at the present tempering."""
        seen = int(self.n_observed)
        if not seen:
            self.level.copy_(estimates.mean())
        rows = (seen + torch.arange(len(estimates))) % _REMEMBERED
        self.conditions[rows], self.estimates[rows], self.temperings[rows] = conditions, estimates, self.tempering
        self.n_observed += len(estimates)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Return the regression loss on some of the latest estimates."""
        rows = torch.randint(min(int(self.n_observed), _REMEMBERED), (_FITTED,), generator=generator)
        values = self.level + self.temperings[rows] * self.network(self.conditions[rows]).squeeze(1)
        return nn.functional.huber_loss(values, self.estimates[rows], delta=3.0)

    def estimator(self) -> Any:  # torchgfn ships no types
        """Return it as torchgfn takes it."""
        return ConditionalLogZEstimator(self)
