"""What the prior's weight costs and gives: hits against closeness to known chemistry.

frame = agent.sample_prior_weights(1000)     # one row a weight
print(frame)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from agent.evaluation_compositions import ReferenceFormulas, composition_keys, jensen_shannon_distance, presence
from agent.front import share_of_hits
from agent.objective import Objective
from envs import CompositionBatch
from surrogates.known import nearest

if TYPE_CHECKING:
    from agent.conditions import Conditions
    from agent.design_agent import DesignAgent


@dataclass(frozen=True)
class SampleFigures:
    """How good N samples are, and how close to known chemistry."""

    mean_reward: float
    """At beta 1."""
    hits: float | None
    """Share predicted to meet every objective that has a weight; None without objectives."""
    element_distance: float
    """Jensen-Shannon distance of how often each element occurs, to the known formulas, 0 to 1."""
    nearest_distance: float
    """Mean distance to the nearest known formula; see `surrogates.known`."""
    known: float
    """Share whose formula is a known one."""
    distinct: float
    """Distinct materials, as a share."""


def measure_samples(
    samples: pd.DataFrame,
    objectives: Sequence[Objective],
    preference: Sequence[float],
    targets: Mapping[str, float] | None = None,
) -> SampleFigures:
    """Return the figures of samples of `DesignAgent.sample`.

    Args:
        samples: N, N at least 1.
        objectives: Of the run; none for a function.
        preference: The weight of each.
        targets: Centres of the windows that were moved, by property.
    """
    formula = "formula" if "formula" in samples else "material"  # of a crystal, of a composition
    each, place = np.unique(samples[formula].to_numpy(dtype=str), return_inverse=True)
    distinct = CompositionBatch.from_formulas(each.tolist())
    batch, reference = distinct.rows(torch.from_numpy(place)), ReferenceFormulas.embedded()
    return SampleFigures(
        float(torch.tensor(samples["log_reward"].to_numpy()).double().exp().mean()),
        share_of_hits(samples, objectives, preference, targets) if objectives else None,
        jensen_shannon_distance(presence(batch).sum(0), reference.element_counts),
        float(nearest(distinct, k=1).distances[place, 0].double().mean()),
        float(torch.isin(composition_keys(batch), reference.keys).double().mean()),
        samples["material"].nunique() / len(samples),
    )


def sample_prior_weights(
    agent: DesignAgent, n: int, n_weights: int, condition: Conditions, generator: torch.Generator
) -> pd.DataFrame:
    """Sample under prior weights spread evenly over the trained range; see `DesignAgent.sample_prior_weights`.

    Returns:
        One row a weight: prior_weight, the `SampleFigures`, and effective_sample_size of the n samples.
    """
    conditions = agent.conditions
    if conditions.prior_weight_range is None:
        raise ValueError("prior_weight: the policy answers its own only (expected a run with a prior_weight_range)")
    for name, value, fewest in (("n", n, 1), ("n_weights", n_weights, 2)):
        if value < fewest:
            raise ValueError(f"{name}: {value} is too few for a sweep (expected at least {fewest})")
    targets = dict(zip(conditions.target_ranges, condition.target[0].tolist(), strict=True))
    rows = []
    for weight in torch.linspace(*conditions.prior_weight_range, n_weights):
        samples = agent.sample_under(replace(condition, prior_weight=weight[None]), n, False, generator)
        figures = measure_samples(samples, agent.reward.objectives, condition.preference[0].tolist(), targets)
        size = samples.attrs["effective_sample_size"]
        rows.append({"prior_weight": round(float(weight), 6), **asdict(figures), "effective_sample_size": size})
    frame = pd.DataFrame(rows)
    frame.attrs = {"n_drawn": n, "condition": conditions.describe(condition) | {"prior_weight": "sweep"}}
    return frame
