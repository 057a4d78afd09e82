"""One action a row: masked log-probabilities, the exploring policy, and drawing.

Rows of logits, masks and weights are either one a trajectory or a single one that serves all trajectories.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the log-probabilities of the allowed actions, float (n, A); -inf for the others."""
    return logits.masked_fill(~mask, -torch.inf).log_softmax(dim=1)


def exploring(log_policy: Tensor, mask: Tensor, temperature: float, epsilon: float) -> Tensor:
    """Return the probabilities of actions while exploring, float (n, A)."""
    weights = log_policy.exp() if temperature == 1.0 else (log_policy / temperature).softmax(dim=1)
    if epsilon:
        weights = (1 - epsilon) * weights + epsilon * mask / mask.sum(dim=1, keepdim=True)
    return weights


def of_chosen(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the value of the action chosen in each row, (n,)."""
    return values[0, chosen] if len(values) == 1 else values.gather(1, chosen[:, None]).squeeze(1)


def draw_actions(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw one action a row by inverse cumulative distribution.

    Args:
        weights: Not negative, float (n, A) or (1, A).
        uniform: One number in [0, 1) a row, float (n,).

    Returns:
        The actions, long (n,).
    """
    cumulative = weights.cumsum(dim=1)
    if len(cumulative) == 1:
        return _first_above(cumulative[0], uniform * cumulative[0, -1], weights)
    return _first_above(cumulative, (uniform * cumulative[:, -1])[:, None], weights).squeeze(1)


def _first_above(cumulative: Tensor, threshold: Tensor, weights: Tensor) -> Tensor:
    """First action whose cumulative weight exceeds the threshold; the likeliest one where rounding leaves none."""
    chosen = torch.searchsorted(cumulative, threshold, right=True)
    beyond = chosen >= weights.shape[1]
    if beyond.any():
        likeliest = weights.argmax(dim=1).reshape(chosen.shape if len(weights) > 1 else (1,))
        chosen = torch.where(beyond, likeliest, chosen)
    return chosen
