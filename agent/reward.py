"""The reward: what materials are worth, always handled as a logarithm.

A `Reward` combines objectives. Any callable `(materials) -> array (N,)` of finite values >= 0 does as well:

    def oxygen_share(materials):
        return [Composition(formula).get_atomic_fraction("O") for formula in materials]

    agent = DesignAgent(space, oxygen_share, beta=8)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from agent.conditions import Conditions
from agent.objective import Objective
from agent.plug_in import describe_failure
from envs.crystal_batch import CrystalBatch
from surrogates.distribution import PropertyDistribution, distribution_parameters, from_parameters
from surrogates.properties import column_of, evaluate_properties, property_named

RewardFunction = Callable[[Sequence[str]], Any]
FLOOR = 0.01
"""Added to the score of a `Reward` before the logarithm, so that hopeless materials keep a finite log-reward."""
SMALLEST = 1e-6
"""Smallest value of a user's function that the logarithm still distinguishes."""


@dataclass(frozen=True, eq=False)
class RewardValues:
    """What a reward says about N materials under one preference and one set of targets."""

    log_reward: Tensor
    """Float (N,), at inverse temperature 1."""
    outcomes: Tensor
    """All that the log-reward under any condition depends on, float (N, K); see `log_reward` of the reward."""
    utilities: Mapping[str, Tensor] = field(default_factory=dict)
    """By objective, float (N,) in [0, 1]."""
    properties: Mapping[str, PropertyDistribution] = field(default_factory=dict)
    """Predicted distributions by property name."""
    feasibility: Tensor | None = None
    """Probability that all constraints hold, float (N,); None without constraints."""

    def columns(self) -> dict[str, Tensor]:
        """Return value and spread of each property, utility of each objective, and feasibility, by column, (N,)."""
        columns: dict[str, Tensor] = {}
        for name, predicted in self.properties.items():
            columns |= {column_of(name): predicted.mean, f"{column_of(name)}_std": predicted.std}
        columns |= {f"utility_{name}": utility for name, utility in self.utilities.items()}
        return columns if self.feasibility is None else columns | {"feasibility": self.feasibility}


class Reward:
    """Objectives, scalarised, and constraints: log R = beta log(0.01 + s_w(u)) + log P(feasible).

    Weights w, beta and the centres of windows with a target range are conditions, see `agent.conditions`; the bounds
    of the utilities u are fixed.

    Args:
        objectives: At least one; a property may occur once.
        scalarization: See `scalarize`.
        constraints: Windows that are not traded off: the reward is multiplied by the probability of lying in all.

    Raises:
        ValueError: No objective, a property named twice, one that no one predicts, or a constraint that is no window.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        scalarization: Literal["tchebycheff", "sum", "product"] = "tchebycheff",
        constraints: Sequence[Objective] = (),
    ) -> None:
        if not objectives:
            raise ValueError("objectives: none given (expected at least one)")
        for what, given in (("objectives", objectives), ("constraints", constraints)):
            names = [objective.property for objective in given]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{what}: the property {name!r} occurs more than once")
        for constraint in constraints:
            if constraint.goal != "window" or constraint.target_range is not None:
                raise ValueError(f"constraints: {constraint.property!r} must be a window without target_range")
        if scalarization not in ("tchebycheff", "sum", "product"):
            raise ValueError(f"scalarization: unknown {scalarization!r} (expected tchebycheff, sum or product)")
        self.objectives = tuple(objectives)
        self.constraints = tuple(constraints)
        self.scalarization = scalarization
        wanted = (*objectives, *constraints)
        self._models = {o.property: o.model for o in wanted if o.model is not None}
        for constraint in constraints:
            twin = next((o for o in objectives if o.property == constraint.property), constraint)
            if twin.model is not constraint.model:
                raise ValueError(
                    f"constraints: {constraint.property!r} has another model than the objective of that name"
                )
        for name in {objective.property for objective in wanted} - set(self._models):
            property_named(name, self._models)
        weights = torch.tensor([[objective.weight for objective in objectives]])
        targets = torch.tensor([[o.centre() for o in objectives if o.target_range is not None]]).reshape(1, -1)
        self._own = Conditions(weights / weights.sum(), torch.ones(1), targets)
        self._kinds: dict[str, type[PropertyDistribution]] = {}  # distributions of the objectives with a target range

    def predict(self, materials: Sequence[str]) -> dict[str, PropertyDistribution]:
        """Return the predicted distribution of every property that objectives and constraints ask for."""
        names = dict.fromkeys(o.property for o in (*self.objectives, *self.constraints))
        try:
            return evaluate_properties(list(names), materials, self._models)
        except ValueError:
            raise
        except Exception as error:
            if not self._models:
                raise
            models = ", ".join(f"{type(model).__name__} for {name!r}" for name, model in self._models.items())
            raise ValueError(f"property model ({models}) failed: {describe_failure(error)}") from error

    def __call__(self, materials: Sequence[str], condition: Conditions | None = None) -> RewardValues:
        """Return log-reward, outcomes, utilities and properties of N materials.

        Args:
            materials: Of any number.
            condition: One preference and set of targets; None: the objectives' own. Its beta does not count.
        """
        condition = self._own if condition is None else replace(condition, beta=torch.ones(1))
        properties = self.predict(materials)
        outcomes = self._outcomes(properties)
        utilities = self._utilities(outcomes, condition.target)
        feasibility = self._feasibility(properties)
        return RewardValues(
            self.log_reward(outcomes, condition),
            outcomes,
            dict(zip((o.property for o in self.objectives), utilities, strict=True)),
            properties,
            None if feasibility is None else feasibility.exp(),
        )

    def log_reward(self, outcomes: Tensor, conditions: Conditions) -> Tensor:
        """Return the log-reward of materials under conditions, without predicting anything again.

        Args:
            outcomes: Of `__call__`, float (N, K).
            conditions: N of them, one for all, or M with an axis for the materials (`Conditions.each`).

        Returns:
            Float (N,), or (M, N).
        """
        utilities = torch.stack(
            torch.broadcast_tensors(*self._utilities(outcomes, conditions.target)),  # type: ignore[no-untyped-call]
            dim=-1,
        )
        score = scalarize(utilities, conditions.preference, self.scalarization)
        log_reward = conditions.beta * (FLOOR + score).log()
        return log_reward + outcomes[..., -1] if self.constraints else log_reward

    def _outcomes(self, properties: Mapping[str, PropertyDistribution]) -> Tensor:
        """Return utilities, parameters of the distributions whose target moves, and log P(feasible), float (N, K)."""
        columns = []
        for objective in self.objectives:
            distribution = properties[objective.property]
            if objective.target_range is None:
                columns.append(objective.utility(distribution)[:, None])
                continue
            try:
                columns.append(distribution_parameters(distribution))
            except ValueError as error:
                raise ValueError(f"objective {objective.property!r}: target_range: {error}") from None
            self._kinds[objective.property] = type(distribution)
        feasibility = self._feasibility(properties)
        if feasibility is not None:
            columns.append(feasibility[:, None])
        return torch.cat(columns, dim=1).float()

    def _utilities(self, outcomes: Tensor, targets: Tensor) -> list[Tensor]:
        utilities, column, target = [], 0, 0
        for objective in self.objectives:
            if objective.target_range is None:
                utilities.append(outcomes[..., column])
                column += 1
                continue
            kind = self._kinds[objective.property]
            width = len(fields(kind))  # type: ignore[arg-type]
            distribution = from_parameters(kind, outcomes[..., column : column + width])
            utilities.append(objective.utility(distribution, targets[..., target]))
            column, target = column + width, target + 1
        return utilities

    def _feasibility(self, properties: Mapping[str, PropertyDistribution]) -> Tensor | None:
        """Return log P(feasible), constraints taken as independent, float (N,)."""
        if not self.constraints:
            return None
        each = [constraint.utility(properties[constraint.property]) for constraint in self.constraints]
        return torch.stack(each).clamp_min(SMALLEST).log().sum(0)


class FunctionReward:
    """A user's function as a reward; its values are checked at every call.

    Args:
        function: `(materials) -> array (N,)` of finite values >= 0, where materials are formulas, or pymatgen
            structures where crystals are built.
        name: What error messages call it.
    """

    objectives: tuple[Objective, ...] = ()
    """None: what is wanted is the function's own business."""

    def __init__(self, function: RewardFunction, name: str | None = None) -> None:
        self.function = function
        self.name = name or getattr(function, "__qualname__", type(function).__name__)

    def __call__(self, materials: Sequence[str], condition: Conditions | None = None) -> RewardValues:
        """Return the logarithm of the function's values; what is below a millionth counts as a millionth."""
        log_reward = self.values(materials).clamp_min(SMALLEST).log().float()
        return RewardValues(log_reward, log_reward[:, None])

    def log_reward(self, outcomes: Tensor, conditions: Conditions) -> Tensor:
        """Return beta times the logarithm, as `Reward.log_reward` does."""
        return conditions.beta * outcomes[..., 0]

    def values(self, materials: Sequence[str]) -> Tensor:
        """Return the function's own values, double (N,).

        Raises:
            ValueError: The function fails, or returns something else than N finite values >= 0.
        """
        try:
            found = self.function(materials.structures() if isinstance(materials, CrystalBatch) else list(materials))
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
    """Turn utilities (..., m) into scores (...) in [0, 1] under weights (m,), or (..., m) for weights of their own.

    - tchebycheff: 1 - max_i w_i (1 - u_i) with the weights scaled to a maximum of 1, plus 0.05 of the weighted
      mean, divided by 1.05; reaches every point of a front, concave parts included (Steuer and Choo 1983).
    - sum: weighted mean.
    - product: weighted geometric mean.
    """
    shares = weights / weights.sum(-1, keepdim=True)
    if method == "product":
        return (utilities.clamp_min(1e-6).log() * shares).sum(-1).exp()
    mean = (utilities * shares).sum(-1)
    if method == "sum":
        return mean
    worst = ((1 - utilities) * (weights / weights.amax(-1, keepdim=True))).amax(-1)
    return (1 - worst + 0.05 * mean) / 1.05
