"""Conditions of a policy: a preference over the objectives, an inverse temperature, target values, a prior weight.

conditions = ConditionSpace(reward, beta=8.0, options=ConditionOptions())
batch = conditions.draw(256, generator)                       # one condition a trajectory
network_input = conditions.encode(batch)                      # thermometer codes, float (256, C)
one = conditions.read({"band_gap": 0.7, "supply_risk": 0.3}, beta=16)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from agent.condition_options import ConditionOptions
from agent.training_options import LossName

if TYPE_CHECKING:
    from agent.objective import Objective

THERMOMETER_STEPS = 16
"""Inputs by which each number is coded."""


@dataclass(frozen=True)
class Conditions:
    """N conditions; with an axis added (`each`), each of them is meant for many materials."""

    preference: Tensor
    """Weights over the m objectives, float (N, m); rows add up to 1."""
    beta: Tensor
    """Inverse temperature, float (N,)."""
    target: Tensor
    """Centres of the windows with a target range, in the unit of the property, float (N, k)."""
    prior_weight: Tensor = field(default_factory=lambda: torch.zeros(0))
    """Exponent of the base measure in the target, float (N,); 1 when left out. Rewards do not depend on it."""

    def __post_init__(self) -> None:
        if not self.prior_weight.numel():
            object.__setattr__(self, "prior_weight", torch.ones_like(self.beta))

    def __len__(self) -> int:
        return len(self.beta)

    def __getitem__(self, rows: Tensor | slice) -> Conditions:
        return Conditions(self.preference[rows], self.beta[rows], self.target[rows], self.prior_weight[rows])

    def repeat(self, n: int) -> Conditions:
        """Return one condition n times."""
        wide = self.preference.expand(n, -1), self.target.expand(n, -1)
        return Conditions(wide[0], self.beta.expand(n), wide[1], self.prior_weight.expand(n))

    @property
    def each(self) -> Conditions:
        """The conditions with an axis for materials: what they are applied to gets the shape (N, materials)."""
        return Conditions(*(getattr(self, field.name)[:, None] for field in fields(self)))

    @classmethod
    def join(cls, parts: Sequence[Conditions]) -> Conditions:
        """Return all conditions of several batches."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class ConditionSpace:
    """The conditions that a policy answers.

    Args:
        objectives: Of the reward; none for a function.
        beta: The run's own inverse temperature.
        options: What can be asked for.
        prior_weight: The run's own exponent of the base measure.

    Raises:
        ValueError: beta or prior_weight lies outside the range that can be asked for.
    """

    def __init__(
        self, objectives: Sequence[Objective], beta: float, options: ConditionOptions, prior_weight: float = 1.0
    ) -> None:
        self.options = options
        self.names = tuple(objective.property for objective in objectives)
        self.answers_preference = options.preference and len(objectives) > 1
        self.beta_range = options.beta_range
        if self.beta_range is not None and not self.beta_range[0] <= beta <= self.beta_range[1]:
            raise ValueError(f"beta: {beta:g} is outside beta_range, {_interval(self.beta_range)}")
        self.prior_weight_range = allowed = options.prior_weight_range
        if allowed is not None and not allowed[0] <= prior_weight <= allowed[1]:
            raise ValueError(f"prior_weight: {prior_weight:g} is outside prior_weight_range, {_interval(allowed)}")
        self.target_ranges = {o.property: o.target_range for o in objectives if o.target_range is not None}
        weights = torch.tensor([[objective.weight for objective in objectives]])
        self.own = Conditions(
            weights.reshape(1, -1) / weights.sum(),
            torch.tensor([float(beta)]),
            torch.tensor([[o.centre() for o in objectives if o.target_range is not None]]).reshape(1, -1),
            torch.tensor([float(prior_weight)]),
        )
        self._lows = torch.tensor([low for low, _ in self.target_ranges.values()])
        self._spans = torch.tensor([high - low for low, high in self.target_ranges.values()])

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One name a column of `encode`."""
        coded = [f"preference:{name}" for name in self.names] if self.answers_preference else []
        coded += ["beta"] if self.beta_range is not None else []
        coded += [f"target:{name}" for name in self.target_ranges]
        coded += ["prior_weight"] if self.prior_weight_range is not None else []
        return tuple(f"{name}:{step}" for name in coded for step in range(THERMOMETER_STEPS))

    @property
    def is_fixed(self) -> bool:
        """Whether the run's own condition is the only one."""
        return not self.feature_names

    def draw(self, n: int, generator: torch.Generator) -> Conditions:
        """Draw n: the run's own ones, then others.

        These are Dirichlet(1) preferences and corners, log-uniform beta, uniform targets, and prior weights of the
        arcsine distribution, denser towards both ends of the range, where a weight has neighbours on one side only.
        """
        own = self.own.repeat(n)
        if self.is_fixed:
            return own
        preference, beta, target, prior_weight = own.preference, own.beta, own.target, own.prior_weight
        if self.answers_preference:
            m = len(self.names)
            exponential = -torch.rand(n, m, generator=generator).clamp_min(1e-12).log()
            preference = exponential / exponential.sum(1, keepdim=True)
            corners = torch.eye(m)[torch.randint(m, (n,), generator=generator)]
            at_corner = torch.rand(n, generator=generator) < self.options.corner_share
            preference = torch.where(at_corner[:, None], corners, preference)
        if self.beta_range is not None:
            low, high = (math.log(bound) for bound in self.beta_range)
            beta = (low + (high - low) * torch.rand(n, generator=generator)).exp()
        if self.target_ranges:
            target = self._lows + self._spans * torch.rand(n, len(self._lows), generator=generator)
        if self.prior_weight_range is not None:
            low, high = self.prior_weight_range
            prior_weight = low + (high - low) * (0.5 * math.pi * torch.rand(n, generator=generator)).sin() ** 2
        kept = torch.arange(n) < self.n_own(n)
        return Conditions(
            torch.where(kept[:, None], own.preference, preference),
            torch.where(kept, own.beta, beta),
            torch.where(kept[:, None], own.target, target),
            torch.where(kept, own.prior_weight, prior_weight),
        )

    def n_own(self, n: int) -> int:
        """Return how many of n drawn conditions are the run's own; they come first."""
        return n if self.is_fixed else max(1, round(self.options.own_share * n))

    def tempered(self, conditions: Conditions, share: float) -> Conditions:
        """Return conditions on the way from the base measure, share 0, to themselves, share 1.

        Beta rises from 0. Where prior weights can be asked for, they come down from 1: at first the target is the base
        measure under every condition, and so is the policy.
        """
        beta = conditions.beta * share
        if self.prior_weight_range is None:
            return replace(conditions, beta=beta)
        return replace(conditions, beta=beta, prior_weight=1 - share * (1 - conditions.prior_weight))

    def encode(self, conditions: Conditions) -> Tensor:
        """Return thermometer codes, float (n, C) in [0, 1]; C is 0 when the condition is fixed."""
        shares = []
        if self.answers_preference:
            shares.append(conditions.preference / conditions.preference.amax(1, keepdim=True))
        if self.beta_range is not None:
            low, high = (math.log(bound) for bound in self.beta_range)
            shares.append(((conditions.beta.log() - low) / (high - low))[:, None])
        if self.target_ranges:
            shares.append((conditions.target - self._lows) / self._spans)
        if self.prior_weight_range is not None:
            low, high = self.prior_weight_range
            shares.append(((conditions.prior_weight - low) / (high - low))[:, None])
        if not shares:
            return torch.zeros(len(conditions), 0)
        steps = torch.arange(THERMOMETER_STEPS)
        return (torch.cat(shares, dim=1)[..., None] * THERMOMETER_STEPS - steps).clamp(0, 1).flatten(1)

    def read(
        self,
        preference: Mapping[str, float] | None = None,
        beta: float | None = None,
        target: Mapping[str, float] | None = None,
        prior_weight: float | None = None,
    ) -> Conditions:
        """Return one condition; what is left out is the run's own.

        Args:
            preference: Weights by objective, >= 0, of any sum; objectives left out weigh nothing.
            beta: Inverse temperature.
            target: Centre of the window by property, in its unit.
            prior_weight: Exponent of the base measure.

        Raises:
            ValueError: A name, a weight or a value that the policy does not answer; the message says what it does.
        """
        row = self.own
        if preference is not None:
            row = replace(row, preference=self._read_preference(preference))
        if beta is not None:
            row = replace(row, beta=self._read_beta(beta))
        if target is not None:
            row = replace(row, target=self._read_target(target))
        if prior_weight is not None:
            row = replace(row, prior_weight=self._read_prior_weight(prior_weight))
        return row

    def _read_preference(self, preference: Mapping[str, float]) -> Tensor:
        if len(self.names) < 2:
            raise ValueError("preference: there is nothing to weigh (expected a policy with several objectives)")
        for name, weight in preference.items():
            if name not in self.names:
                raise ValueError(f"preference: no objective {name!r} (expected {', '.join(self.names)})")
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"preference: {name}={weight:g} is not a weight >= 0")
        weights = torch.tensor([[float(preference.get(name, 0.0)) for name in self.names]], dtype=torch.float64)
        if not weights.sum() > 0:
            raise ValueError("preference: all weights are 0 (expected at least one above)")
        weights = (weights / weights.amax()).float()
        weights = weights / weights.sum()
        if not self.answers_preference and not torch.allclose(weights, self.own.preference, atol=1e-6):
            raise ValueError("preference: the policy was trained for the objectives' own weights only")
        return weights

    def _read_beta(self, beta: float) -> Tensor:
        own = float(self.own.beta)
        if self.beta_range is None and not math.isclose(beta, own, rel_tol=1e-6):
            raise ValueError(f"beta: {beta:g} was not trained for (expected {own:g}, the only one)")
        if self.beta_range is not None and not self.beta_range[0] <= beta <= self.beta_range[1]:
            raise ValueError(f"beta: {beta:g} is outside the trained range {_interval(self.beta_range)}")
        return torch.tensor([float(beta)])

    def _read_target(self, target: Mapping[str, float]) -> Tensor:
        values = self.own.target.clone()
        for name, value in target.items():
            if name not in self.target_ranges:
                known = ", ".join(self.target_ranges) or "none: no objective has a target_range"
                raise ValueError(f"target: the policy was trained for no target of {name!r} (expected {known})")
            low, high = self.target_ranges[name]
            if not low <= value <= high:
                raise ValueError(f"target: {name}={value:g} is outside the trained range {_interval((low, high))}")
            values[0, list(self.target_ranges).index(name)] = value
        return values

    def _read_prior_weight(self, weight: float) -> Tensor:
        own, allowed = float(self.own.prior_weight), self.prior_weight_range
        if allowed is None and not math.isclose(weight, own, abs_tol=1e-6):
            raise ValueError(f"prior_weight: {weight:g} was not trained for (expected {own:g}, the only one)")
        if allowed is not None and not allowed[0] <= weight <= allowed[1]:
            raise ValueError(f"prior_weight: {weight:g} is outside the trained range {_interval(allowed)}")
        return torch.tensor([float(weight)])

    def describe(self, condition: Conditions) -> dict[str, object]:
        """Return one condition by name, as JSON-compatible values; the prior weight where it can be asked for."""
        asked = {} if self.prior_weight_range is None else {"prior_weight": round(float(condition.prior_weight), 6)}
        return {
            "preference": {
                name: round(weight, 6)
                for name, weight in zip(self.names, condition.preference[0].tolist(), strict=True)
            },
            "beta": round(float(condition.beta), 6),
            "target": {
                name: round(value, 6)
                for name, value in zip(self.target_ranges, condition.target[0].tolist(), strict=True)
            },
            **asked,
        }


def default_options(objectives: Sequence[Objective], beta: float, loss: LossName) -> ConditionOptions:
    """Return what a policy is trained for where nothing is said.

    With several objectives that is every preference at beta 1 to 32, or a wider range that holds the run's own beta;
    with one or none, or a loss that knows no conditions, the run's own condition alone.
    """
    if len(objectives) < 2 or loss != "tb":
        return ConditionOptions.fixed()
    return ConditionOptions(beta_range=(min(1.0, beta), max(32.0, beta)))


def _interval(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g} to {bounds[1]:g}"
