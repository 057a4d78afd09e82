"""The reward: what materials are worth, always handled as a logarithm.

A `Reward` combines objectives. Any callable `(materials) -> array (N,)` of finite values >= 0 does as well:

    def oxygen_share(materials):
        return [Composition(formula).get_atomic_fraction("O") for formula in materials]

    agent = DesignAgent(space, oxygen_share, beta=8)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from agent.objective import Objective
from agent.plug_in import describe_failure
from surrogates.distribution import PropertyDistribution
from surrogates.properties import evaluate_properties, property_named

RewardFunction = Callable[[Sequence[str]], Any]
FLOOR = 0.01
"""Added to the score of a `Reward` before the logarithm, so that hopeless materials keep a finite log-reward."""
SMALLEST = 1e-6
"""Smallest value of a user's function that the logarithm still distinguishes."""


@dataclass(frozen=True, eq=False)
class RewardValues:
    """What a reward says about N materials."""

    log_reward: Tensor
    """Float (N,), at inverse temperature 1."""
    utilities: Mapping[str, Tensor] = field(default_factory=dict)
    """By objective, float (N,) in [0, 1]."""
    properties: Mapping[str, PropertyDistribution] = field(default_factory=dict)
    """Predicted distributions by property name."""


class Reward:
    """Objectives, scalarised: log R = log(0.01 + s(u)).

    Args:
        objectives: At least one; a property may occur once.
        scalarization: See `scalarize`.

    Raises:
        ValueError: No objective, a property named twice, or a property that no one predicts.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        scalarization: Literal["tchebycheff", "sum", "product"] = "tchebycheff",
    ) -> None:
        if not objectives:
            raise ValueError("objectives: none given (expected at least one)")
        names = [objective.property for objective in objectives]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"objectives: the property {name!r} occurs more than once")
        if scalarization not in ("tchebycheff", "sum", "product"):
            raise ValueError(f"scalarization: unknown {scalarization!r} (expected tchebycheff, sum or product)")
        self.objectives = tuple(objectives)
        self.scalarization = scalarization
        self._weights = torch.tensor([objective.weight for objective in objectives])
        self._models = {o.property: o.model for o in objectives if o.model is not None}
        for name in names:
            if name not in self._models:
                property_named(name, self._models)

    def predict(self, materials: Sequence[str]) -> dict[str, PropertyDistribution]:
        """Return the predicted distribution of every property that the objectives ask for."""
        try:
            return evaluate_properties([o.property for o in self.objectives], materials, self._models)
        except ValueError:
            raise
        except Exception as error:
            if not self._models:
                raise
            names = ", ".join(f"{type(model).__name__} for {name!r}" for name, model in self._models.items())
            raise ValueError(f"property model ({names}) failed: {describe_failure(error)}") from error

    def __call__(self, materials: Sequence[str]) -> RewardValues:
        """Return log-reward, utilities and properties of N materials."""
        properties = self.predict(materials)
        utilities = {o.property: o.utility(properties[o.property]) for o in self.objectives}
        score = scalarize(torch.stack(list(utilities.values()), dim=1), self._weights, self.scalarization)
        return RewardValues((FLOOR + score).log(), utilities, properties)


class FunctionReward:
    """A user's function as a reward; its values are checked at every call.

    Args:
        function: `(materials) -> array (N,)` of finite values >= 0, where materials are formulas.
        name: What error messages call it.
    """

    def __init__(self, function: RewardFunction, name: str | None = None) -> None:
        self.function = function
        self.name = name or getattr(function, "__qualname__", type(function).__name__)

    def __call__(self, materials: Sequence[str]) -> RewardValues:
        """Return the logarithm of the function's values; what is below a millionth counts as a millionth."""
        return RewardValues(self.values(materials).clamp_min(SMALLEST).log().float())

    def values(self, materials: Sequence[str]) -> Tensor:
        """Return the function's own values, double (N,).

        Raises:
            ValueError: The function fails, or returns something else than N finite values >= 0.
        """
        try:
            found = self.function(list(materials))
        except Exception as error:
            raise ValueError(f"reward {self.name!r} failed: {describe_failure(error)}") from error
        return checked_values(found, len(materials), f"reward {self.name!r}", materials)


def as_reward(reward: Reward | FunctionReward | RewardFunction) -> Reward | FunctionReward:
    """Return a reward, wrapping a plain function."""
    return reward if isinstance(reward, Reward | FunctionReward) else FunctionReward(reward)


def checked_values(values: object, n: int, name: str, materials: Sequence[str]) -> Tensor:
    """Return a plug-in's values as double (n,).

    Raises:
        ValueError: Wrong shape, not numbers, NaN, infinite or negative; the message names the plug-in and a material.
    """
    try:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        if array.dtype.kind == "O" and (not array.ndim or any(isinstance(value, str) for value in array.flat)):
            raise TypeError
        if array.dtype.kind not in "biufO":
            raise TypeError
        result = torch.from_numpy(array.astype(np.float64))
    except Exception:  # an array-like object may raise anything
        raise ValueError(f"{name}: returned {_describe(values)}, expected {n} numbers") from None
    if result.shape != (n,):
        raise ValueError(f"{name}: returned an array of shape {tuple(result.shape)}, expected ({n},)")
    bad = ~torch.isfinite(result) | (result < 0)
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"{name}: returned {result[row].item():g} for {materials[row]}, expected a finite value >= 0 "
            f"({int(bad.sum())} of {n} values are not)"
        )
    return result


def _describe(values: object) -> str:
    first = f" of {type(values[0]).__name__}" if isinstance(values, list | tuple) and values else ""
    return f"{type(values).__name__}{first}"


def scalarize(utilities: Tensor, weights: Tensor, method: str) -> Tensor:
    """Turn utilities (N, m) into one score (N,) in [0, 1] under weights (m,).

    - tchebycheff: 1 - max_i w_i (1 - u_i) with the weights scaled to a maximum of 1, plus 0.05 of the weighted
      mean, divided by 1.05; reaches every point of a front, concave parts included (Steuer and Choo 1983).
    - sum: weighted mean.
    - product: weighted geometric mean.
    """
    mean = utilities @ (weights / weights.sum())
    if method == "sum":
        return mean
    if method == "product":
        return torch.exp(utilities.clamp_min(1e-6).log() @ (weights / weights.sum()))
    worst = ((1 - utilities) * (weights / weights.max())).amax(dim=1)
    return (1 - worst + 0.05 * mean) / 1.05
