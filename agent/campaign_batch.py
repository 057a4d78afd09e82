"""What a campaign labels next: the first materials from the prior, and every batch from samples of the policy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from agent.campaign_options import CampaignOptions
from agent.design_agent import DesignAgent, uniform_policy
from agent.labelled_objectives import LabelledObjectives
from agent.metrics import simplex_lattice
from agent.prior import Prior
from agent.selection import select_batch
from agent.store import Proposal, Trial
from envs import DesignSpace
from envs.formula import CompositionBatch, reduced_formula
from surrogates.base import Oracle
from surrogates.known import distance_between, is_known

_PREFERENCES = 10
"""Preferences of a sweep over listed materials."""
_DRAWS = 50
"""Samples drawn for each first material before fewer are accepted."""


def draw_initial(
    space: DesignSpace, prior: Prior | None, oracle: Oracle, options: CampaignOptions, seed: int
) -> list[str]:
    """Return distinct materials drawn from the prior, or from the uniform masked policy without one.

    Of an oracle that lists its `materials` they are drawn from the list, each as likely as any other.

    Raises:
        ValueError: There is not a single one that may be labelled.
    """
    generator = torch.Generator().manual_seed(seed)
    listed = getattr(oracle, "materials", None)
    if listed is not None:
        inside = allowed(listed_in(space, listed), (), oracle, options)
        if not inside:
            raise ValueError("campaign.initial: none of the materials that the oracle can label may be labelled")
        order = torch.randperm(len(inside), generator=generator)[: options.initial]
        return [inside[row] for row in order.tolist()]
    policy = uniform_policy(space) if prior is None else prior.policy(space)
    found: dict[str, None] = {}
    for _ in range(_DRAWS):
        rollout = policy.sample_many(max(options.initial, 64), generator)
        found |= dict.fromkeys(allowed(space.decode(rollout.state), found, oracle, options))
        if len(found) >= options.initial:
            return list(found)[: options.initial]
    if not found:
        raise ValueError("campaign.initial: the oracle takes none of the materials of this space")
    return list(found)


def propose_batch(
    agent: DesignAgent,
    wanted: LabelledObjectives,
    labelled: Sequence[Trial],
    known: Collection[str],
    oracle: Oracle,
    options: CampaignOptions,
    seed: int,
) -> list[Proposal]:
    """Select a batch from samples of the policy, with what is predicted of it.

    Args:
        agent: The trained policy.
        wanted: The objectives, fitted to the labels so far.
        labelled: Trials that the oracle labelled.
        known: Materials with a trial, whatever came of it.
        oracle: May refuse materials before they cost anything.
        options: How many, and how.
        seed: Of sampling and selection.
    """
    generator = torch.Generator().manual_seed(seed)
    listed = getattr(oracle, "materials", None)
    if listed is None:
        candidates = allowed(_sample(agent, options.pool, seed), known, oracle, options)
    else:
        left = allowed(listed_in(agent.space, listed), known, oracle, options)
        candidates = sample_among(agent, left, options.pool, generator)
    if not candidates:
        return []
    log_reward = wanted.reward(CompositionBatch.from_formulas(candidates)).log_reward
    order = log_reward.sort(
        descending=True, stable=True
    ).indices  # where nothing improves the front, the reward decides
    candidates, log_reward = [candidates[row] for row in order.tolist()], log_reward[order]
    batch = CompositionBatch.from_formulas(candidates)
    values = {name: [_value(trial, name) for trial in labelled] for name in wanted.labelled}
    formulas = [trial.material for trial in labelled]
    achieved = wanted.achieved(formulas, values)
    distance = distance_between(batch, CompositionBatch.from_formulas(formulas))
    costs = (options.distance_penalty * distance).exp() if options.distance_penalty else None
    selection = select_batch(
        wanted.members(candidates),
        options.batch,
        achieved.utilities[achieved.feasible],
        log_reward - options.distance_penalty * distance if options.distance_penalty else log_reward,
        generator,
        method=options.method,
        greedy_share=options.greedy_share,
        random_picks=options.random_picks,
        weights=agent.conditions.own.preference[0],
        costs=costs,
    )
    chosen = [candidates[row] for row in selection.rows]
    prediction = wanted.model.predict(chosen)
    proposals = []
    for position, (row, picked_by) in enumerate(zip(selection.rows, selection.picked_by, strict=True)):
        mean, std = prediction.mean[position].tolist(), prediction.std[position].tolist()
        predicted = {name: (mean[k], std[k]) for k, name in enumerate(wanted.labelled)}
        proposals.append(Proposal(chosen[position], picked_by, predicted, float(distance[row])))
    return proposals


def allowed(materials: Sequence[str], known: Collection[str], oracle: Oracle, options: CampaignOptions) -> list[str]:
    """Return the distinct materials, reduced, without a trial, novel if asked for, and that the oracle takes.

    An oracle may have a method `refuses(materials)` that tells for each, at no cost, why it cannot be labelled (one
    line), or None.
    """
    distinct = [m for m in dict.fromkeys(reduced_formula(material) for material in materials) if m not in known]
    if distinct and not options.label_known:
        flags = is_known(CompositionBatch.from_formulas(distinct)).tolist()
        distinct = [material for material, flag in zip(distinct, flags, strict=True) if not flag]
    refuses = getattr(oracle, "refuses", None)
    if distinct and refuses is not None:
        distinct = [m for m, reason in zip(distinct, refuses(distinct), strict=True) if reason is None]
    return distinct


def _sample(agent: DesignAgent, n: int, seed: int) -> list[str]:
    """Return samples under the run's own condition and, where the policy answers preferences, as many over all."""
    if not agent.conditions.answers_preference or n < 2 * len(agent.conditions.names):
        return list(agent.sample(n, seed=seed)["material"])
    swept = agent.sample_front(n // 2, seed=seed + 1)
    return [*agent.sample(n - n // 2, seed=seed)["material"], *swept["material"]]


def listed_in(space: DesignSpace, materials: Sequence[str]) -> list[str]:
    """Return the materials that lie in a space."""
    return [m for m, reason in zip(materials, space.explain(materials), strict=True) if reason is None]


def sample_among(agent: DesignAgent, materials: list[str], n: int, generator: torch.Generator) -> list[str]:
    """Draw up to n distinct ones of the given materials, in proportion to the policy's probabilities of them.

    Half of them under the run's own condition and, where the policy answers preferences, half over all preferences.
    """
    if len(materials) <= n:
        return materials
    actions = agent.space.encode(materials)
    conditions = [agent.conditions.own]
    if agent.conditions.answers_preference:
        lattice = simplex_lattice(len(agent.conditions.names), _PREFERENCES)
        swept = [replace(agent.conditions.own, preference=row[None]) for row in lattice]
        conditions = [*[agent.conditions.own] * len(swept), *swept]
    left = torch.ones(len(materials), dtype=torch.bool)
    log_probs: dict[int, Tensor] = {}
    for number, condition in enumerate(conditions):
        if id(condition) not in log_probs:
            log_probs[id(condition)] = agent.policy_under(condition).log_prob_in_chunks(actions)
        size = n * (number + 1) // len(conditions) - n * number // len(conditions)
        noise = -(-torch.rand(len(materials), generator=generator).clamp_min(1e-12).log()).log()  # Gumbel
        score = torch.where(left, log_probs[id(condition)] + noise, -torch.inf)
        left[score.topk(size).indices] = False
    return [materials[row] for row in (~left).nonzero().flatten().tolist()]


def _value(trial: Trial, name: str) -> float:
    return float("nan") if trial.label is None else float(trial.label.values.get(name, float("nan")))
