"""Which labelled materials meet the goals of a run, as the report judges them from the run's files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import yaml

from agent.objective import Objective
from agent.report_figures import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

    from surrogates.distribution import PropertyDistribution


@dataclass(frozen=True)
class Goals:
    """What config.yaml asks for; nothing where it is missing or cannot be read."""

    objectives: list[Objective] = field(default_factory=list)
    """Without models of their own."""
    constraints: list[Objective] = field(default_factory=list)
    not_embedded: frozenset[str] = frozenset()
    """Properties that the run predicts by something else than the embedded models."""

    @property
    def all(self) -> list[Objective]:
        """Objectives and constraints."""
        return [*self.objectives, *self.constraints]

    def window(self, name: str) -> tuple[float, float] | None:
        """Return the window of a property, open ends infinite; None when it has none."""
        return next((_bounds(goal) for goal in self.all if goal.property == name and goal.goal == "window"), None)


@dataclass(frozen=True)
class Verdict:
    """How far K labelled materials meet the goals."""

    hits: list[bool | None]
    """Whether all goals are met; None where a value is not known, or there are no goals."""
    met: list[int]
    """Goals that are met."""
    order: list[int]
    """The materials, best first: hits, then by mean utility, then by how far values lie outside the bounds."""
    predicted: dict[str, tuple[FloatArray, FloatArray]]
    """Embedded prediction of the goals that are not labelled: means and standard deviations, (K,) each."""


def goals_of(config: str) -> Goals:
    """Return the goals in the text of a config.yaml; none when it is not what a run leaves."""
    from surrogates.energy import ENERGY_PROPERTIES

    try:
        described = yaml.safe_load(config)
        parts = [described.get(part) or [] for part in ("objectives", "constraints")]
        made = [[_goal(entry) for entry in part] for part in parts]
        own = {str(entry["property"]) for part in parts for entry in part if entry.get("model") is not None}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError):
        return Goals()
    if described.get("reference") is not None:
        own |= set(ENERGY_PROPERTIES)
    return Goals(made[0], made[1], frozenset(own))


def _goal(entry: Mapping[str, object]) -> Objective:
    wanted = {name: entry[name] for name in ("property", "goal", "low", "high") if name in entry}
    return Objective(**wanted)  # type: ignore[arg-type]  # it checks what it is given


def judge(goals: Goals, formulas: Sequence[str], labels: Mapping[str, FloatArray]) -> Verdict:
    """Return how far K labelled materials meet the goals.

    Args:
        goals: What is wanted.
        formulas: K formulas.
        labels: Labelled values by property, (K,) each; NaN where there is none.
    """
    import torch

    from surrogates.distribution import ExactDistribution

    labelled = {name: values for name, values in labels.items() if np.isfinite(values).any()}
    others = [g.property for g in goals.all if g.property not in labelled and g.property not in goals.not_embedded]
    distributions: dict[str, PropertyDistribution] = dict(_predict(others, formulas))
    predicted = {name: (_array(entry.mean), _array(entry.std)) for name, entry in distributions.items()}
    distributions |= {name: ExactDistribution(torch.as_tensor(values)) for name, values in labelled.items()}
    n = len(formulas)
    met, known = np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool)
    utility, outside = np.zeros(n), np.zeros(n)
    for goal in goals.all:
        distribution = distributions.get(goal.property)
        if distribution is None:
            known[:] = False
            continue
        values = _array(distribution.mean)
        known &= np.isfinite(values)
        met += goal.contains(distribution.mean).numpy()
        low, high = _bounds(goal)
        excess = np.maximum(low - values, 0) + np.maximum(values - high, 0)
        outside += np.nan_to_num(excess / (np.nanstd(values) or 1.0), nan=1.0)
        if goal in goals.objectives:
            utility += np.nan_to_num(_array(goal.utility(distribution)))
    hits = [bool(m == len(goals.all)) if k and goals.all else None for m, k in zip(met, known, strict=True)]
    keys = [(hits[i] is not True, -utility[i], outside[i]) for i in range(n)]
    return Verdict(hits, met.tolist(), sorted(range(n), key=keys.__getitem__), predicted)


def _predict(names: Sequence[str], formulas: Sequence[str]) -> Mapping[str, PropertyDistribution]:
    """Return embedded predictions; nothing of a property that is not embedded, or of texts that are no formulas."""
    from surrogates.properties import PROPERTIES, evaluate_properties

    embedded = [name for name in dict.fromkeys(names) if name in PROPERTIES]
    if not embedded or not formulas:
        return {}
    try:
        return evaluate_properties(embedded, formulas)
    except ValueError:
        return {}


def _array(values: Tensor) -> FloatArray:
    return values.detach().numpy().astype(np.float64)


def _bounds(goal: Objective) -> tuple[float, float]:
    """Return the bounds that a value must lie within; see `Objective.contains`."""
    low = -math.inf if goal.low is None or goal.goal == "minimize" else goal.low
    high = math.inf if goal.high is None or goal.goal == "maximize" else goal.high
    return low, high
