"""The Pareto front that a policy reaches: what its samples under all preferences come to.

samples = agent.sample_front(4000)
front = pareto_front(samples, agent.reward)
front.materials          # the samples that no other one beats in all objectives
print(front.measures)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from agent.metrics import (
    hypervolume,
    is_non_dominated,
    preference_entropy,
    r2,
    simplex_lattice,
    top_k_diversity,
)
from agent.objective import Objective
from envs import CompositionBatch
from envs.formula import chemical_system
from surrogates.properties import column_of

if TYPE_CHECKING:
    from agent.conditions import Conditions
    from agent.design_agent import DesignAgent

_DIRECTIONS = 100
"""Most directions by which spread and R2 are measured, whatever the preferences of the samples."""
_COMPARED = 100
"""Best materials among which diversity is measured."""


@dataclass(frozen=True)
class FrontMeasures:
    """How far and how wide a front reaches. Utilities lie in [0, 1]; the reference point is 0 in all objectives."""

    n_samples: int
    n_distinct: int
    n_front: int
    """Distinct materials that no other sample dominates."""
    n_systems: int
    """Chemical systems among them."""
    hypervolume: float
    """Share of the unit cube of utilities that the front dominates."""
    r2: float
    """Mean distance to the ideal over evenly spread preferences; 0 is best."""
    preference_entropy: float
    """How evenly the front spreads over directions, 0 to 1."""
    top_diversity: float
    """Mean distance in composition of the hundred samples with the highest hypervolume of their own, 0 to 1."""
    hits: tuple[float, ...]
    """Share of the samples under each preference predicted to meet every objective that has a weight."""

    def __str__(self) -> str:
        hits = f"{min(self.hits):.0%} to {max(self.hits):.0%}" if self.hits else "none"
        return (
            f"Pareto front: {self.n_front} of {self.n_distinct:,} distinct materials, in {self.n_systems} chemical "
            f"systems; hypervolume {self.hypervolume:.3f} of 1, R2 {self.r2:.3f}, spread along the front "
            f"{self.preference_entropy:.2f}; hits {hits}, depending on the preference"
        )


@dataclass(frozen=True)
class Front:
    """A front and how good it is."""

    materials: pd.DataFrame
    """The non-dominated samples, once each, under the preference that makes them likeliest, by the first utility."""
    measures: FrontMeasures


def sample_front(
    agent: DesignAgent, n: int, n_preferences: int, condition: Conditions, generator: torch.Generator
) -> pd.DataFrame:
    """Sample under preferences spread evenly over all trade-offs; see `DesignAgent.sample_front`."""
    conditions = agent.conditions
    if not conditions.answers_preference:
        raise ValueError("preference: the policy answers no preferences (expected one with several objectives)")
    fewest = len(conditions.names)
    if min(n, n_preferences) < fewest:
        raise ValueError(f"n: {min(n, n_preferences)} is too few for a sweep (expected at least {fewest})")
    preferences = simplex_lattice(fewest, min(n, n_preferences))
    parts, shares = [], []
    for number, weights in enumerate(preferences):
        size = n * (number + 1) // len(preferences) - n * number // len(preferences)
        part = agent.sample_under(replace(condition, preference=weights[None]), size, False, generator)
        for name, weight in zip(conditions.names, weights.tolist(), strict=True):
            part[f"preference_{name}"] = weight
        shares.append(part.attrs["effective_sample_size"] / size)
        parts.append(part)
    described = conditions.describe(condition) | {"preference": "sweep"}
    for part in parts:
        part.attrs = {}
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs = {"n_drawn": n, "effective_share": shares, "condition": described}
    return frame


def pareto_front(samples: pd.DataFrame, objectives: Sequence[Objective]) -> Front:
    """Return the front of samples with their preferences, as `DesignAgent.sample_front` gives them."""
    names = [objective.property for objective in objectives]
    likeliest = samples.sort_values("log_prob", ascending=False, kind="stable").drop_duplicates("material")
    distinct = likeliest.sort_index()
    utilities = utilities_of(distinct, names)
    kept = is_non_dominated(utilities)
    front = distinct[kept.numpy()].sort_values(f"utility_{names[0]}", ascending=False, kind="stable")
    formula = "formula" if "formula" in distinct else "material"  # of a crystal, of a composition
    batch = CompositionBatch.from_formulas(distinct[formula].tolist())
    directions = simplex_lattice(len(names), _DIRECTIONS)
    measures = FrontMeasures(
        len(samples),
        len(distinct),
        len(front),
        len(set(map(chemical_system, front[formula]))),
        hypervolume(utilities[kept]),
        r2(utilities, directions),
        preference_entropy(utilities, directions),
        top_k_diversity(batch, utilities.prod(1), _COMPARED),
        tuple(_hits(samples, objectives)),
    )
    return Front(front.reset_index(drop=True), measures)


def utilities_of(samples: pd.DataFrame, names: Sequence[str]) -> Tensor:
    """Return the utility columns of samples, float (n, m)."""
    return torch.tensor(samples[[f"utility_{name}" for name in names]].to_numpy()).clamp(0, 1)


def _hits(samples: pd.DataFrame, objectives: Sequence[Objective]) -> list[float]:
    """Return the share of samples under each preference that meet all objectives of positive weight, by their means."""
    weights = [f"preference_{objective.property}" for objective in objectives]
    return [
        share_of_hits(samples.iloc[rows], objectives, preference if isinstance(preference, tuple) else (preference,))
        for preference, rows in samples.groupby(weights, sort=False).indices.items()
    ]


def share_of_hits(
    samples: pd.DataFrame,
    objectives: Sequence[Objective],
    preference: Sequence[float],
    targets: Mapping[str, float] | None = None,
) -> float:
    """Return the share of samples that meet all objectives of positive weight, by their means.

    Args:
        samples: N, N at least 1, with their predictions.
        objectives: Of the run.
        preference: The weight of each.
        targets: Centres of the windows that were moved, by property.
    """
    hits = torch.ones(len(samples), dtype=torch.bool)
    for objective, weight in zip(objectives, preference, strict=True):
        if weight > 0:
            values = torch.tensor(samples[column_of(objective.property)].to_numpy())
            moved = (targets or {}).get(objective.property)
            hits &= objective.contains(values if moved is None else values - (moved - objective.centre()))
    return float(hits.float().mean())
