"""What a campaign labels next: the first materials from the prior, and every batch from samples of the policy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agent.campaign_options import CampaignOptions
from agent.design_agent import DesignAgent, uniform_policy
from agent.fidelities import Fidelity, pays, price
from agent.labelled_objectives import LabelledObjectives
from agent.metrics import simplex_lattice
from agent.prior import Prior
from agent.selection import MemberTable, Selection, select_batch
from agent.store_records import Proposal, Trial, label_columns
from envs import DesignSpace
from envs.formula import CompositionBatch, reduced_formula
from surrogates.base import Oracle
from surrogates.known import distance_between, is_known

_PREFERENCES = 10
"""Preferences of a sweep over listed materials."""
_DRAWS = 50
"""Samples drawn for each first material before fewer are accepted."""


def draw_initial(
    space: DesignSpace,
    prior: Prior | None,
    oracle: Oracle,
    options: CampaignOptions,
    seed: int,
    known: Collection[str] = (),
) -> list[str]:
    """Return distinct materials drawn from the prior, or from the uniform masked policy without one.

    Of an oracle that lists its `materials` they are drawn from the list, each as likely as any other.

    Raises:
        ValueError: There is not a single one that may be labelled.
    """
    generator = torch.Generator().manual_seed(seed)
    listed = getattr(oracle, "materials", None)
    if listed is not None:
        inside = allowed(listed_in(space, listed), known, oracle, options)
        if not inside:
            raise ValueError("campaign.initial: none of the materials that the oracle can label may be labelled")
        order = torch.randperm(len(inside), generator=generator)[: options.initial]
        return [inside[row] for row in order.tolist()]
    policy = uniform_policy(space) if prior is None else prior.policy(space)
    found: dict[str, None] = {}
    for _ in range(_DRAWS):
        rollout = policy.sample_many(max(options.initial, 64), generator)
        found |= dict.fromkeys(allowed(space.decode(rollout.state), {*found, *known}, oracle, options))
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
    cheaper: Sequence[Fidelity] = (),
) -> list[list[Proposal]]:
    """Select a batch from samples of the policy, with what is predicted of it.

    With cheaper oracles, what is selected are pairs of material and oracle whose labels cost no more than a batch of
    the target's: picks by score and at random come first, one at least, and are for the target; the rest of the budget
    goes to the pairs with the highest gain for their cost. Where no cheaper label pays, none is selected.

    Args:
        agent: The trained policy.
        wanted: The objectives, fitted to the labels of all oracles so far.
        labelled: Trials that the target labelled.
        known: Materials with a trial of the target, whatever came of it.
        oracle: The target; may refuse materials before they cost anything.
        options: How many, and how.
        seed: Of sampling and selection.
        cheaper: The cheaper oracles; what they labelled is a candidate for the target.

    Returns:
        The proposals for the target, then those for each of the cheaper oracles.
    """
    generator = torch.Generator().manual_seed(seed)
    told = [material for fidelity in cheaper if fidelity.share for material in sorted(fidelity.labelled)]
    pool = _draw_pool(agent, wanted, labelled, known, oracle, options, seed, generator, told)
    if pool is None:
        return [[] for _ in range(1 + len(cheaper))]
    if not any(pays(fidelity, oracle) for fidelity in cheaper):
        return [_proposals(pool, _select(pool, options, generator), wanted), *([] for _ in cheaper)]
    first = _select_surely(pool, options, generator)
    taken = set(first.rows)
    left = [row for row in range(len(pool.candidates)) if row not in taken]
    prices = price([pool.candidates[row] for row in left], oracle, cheaper)
    budget = (options.batch - len(first.rows)) * oracle.cost
    rows: list[list[int]] = [[], *([] for _ in cheaper)]
    methods: list[list[str]] = [[], *([] for _ in cheaper)]
    n = int(budget / float(prices.cost.min())) if left else 0
    for place in _select_by_gain(pool, left, prices.per_gain, n, first, options) if n else []:
        cost = float(prices.cost[place])
        if cost <= budget * (1 + 1e-9):
            budget -= cost
            rows[1 + prices.choice[place]].append(left[place])
            methods[1 + prices.choice[place]].append(options.method)
    rows[0] += first.rows
    methods[0] += first.picked_by
    target = _proposals(pool, Selection(rows[0], methods[0]), wanted)
    others = [
        [Proposal(pool.candidates[row], options.method, {}, float(pool.distance[row])) for row in of_oracle]
        for of_oracle in rows[1:]
    ]
    return [target, *others]


@dataclass(frozen=True, eq=False)
class _Pool:
    """N candidates, the highest reward first: where nothing improves the front, the reward decides."""

    candidates: list[str]
    score: Tensor
    """What greedy picks maximise, (N,)."""
    distance: Tensor
    """To the nearest labelled material, (N,)."""
    penalty: Tensor | None
    """What gains are divided by, (N,)."""
    table: MemberTable
    observed: Tensor
    """Utilities of labelled, feasible materials, (K, m)."""
    weights: Tensor


def _draw_pool(
    agent: DesignAgent,
    wanted: LabelledObjectives,
    labelled: Sequence[Trial],
    known: Collection[str],
    oracle: Oracle,
    options: CampaignOptions,
    seed: int,
    generator: torch.Generator,
    told: Sequence[str] = (),
) -> _Pool | None:
    """Return the candidates for a batch: samples of the policy, and materials that cheaper oracles have labelled."""
    listed = getattr(oracle, "materials", None)
    if listed is None:
        candidates = allowed([*_sample(agent, options.pool, seed), *told], known, oracle, options)
    else:
        left = allowed(listed_in(agent.space, listed), known, oracle, options)
        inside = set(left)
        drawn = sample_among(agent, left, options.pool, generator)
        candidates = list(dict.fromkeys([*drawn, *(material for material in told if material in inside)]))
    if not candidates:
        return None
    log_reward = wanted.reward(CompositionBatch.from_formulas(candidates)).log_reward
    order = log_reward.sort(descending=True, stable=True).indices
    candidates, log_reward = [candidates[row] for row in order.tolist()], log_reward[order]
    batch = CompositionBatch.from_formulas(candidates)
    formulas = [trial.material for trial in labelled]
    achieved = wanted.achieved(formulas, label_columns(labelled))
    distance = distance_between(batch, CompositionBatch.from_formulas(formulas))
    return _Pool(
        candidates,
        log_reward - options.distance_penalty * distance if options.distance_penalty else log_reward,
        distance,
        (options.distance_penalty * distance).exp() if options.distance_penalty else None,
        wanted.members(candidates),
        achieved.utilities[achieved.feasible],
        agent.conditions.own.preference[0],
    )


def _select(pool: _Pool, options: CampaignOptions, generator: torch.Generator) -> Selection:
    return select_batch(
        pool.table,
        options.batch,
        pool.observed,
        pool.score,
        generator,
        method=options.method,
        greedy_share=options.greedy_share,
        random_picks=options.random_picks,
        weights=pool.weights,
        costs=pool.penalty,
    )


def _select_surely(pool: _Pool, options: CampaignOptions, generator: torch.Generator) -> Selection:
    """Return the picks by score and at random that `_select` would make; at least one."""
    n_greedy = round(options.greedy_share * options.batch)
    n_random = min(options.random_picks, options.batch - n_greedy)
    n_greedy = n_greedy if n_greedy + n_random else 1
    n = n_greedy + n_random
    return select_batch(
        pool.table,
        n,
        pool.observed,
        pool.score,
        generator,
        method=options.method,
        greedy_share=n_greedy / n,
        random_picks=n_random,
        weights=pool.weights,
    )


def _select_by_gain(
    pool: _Pool, left: list[int], per_gain: Tensor, n: int, first: Selection, options: CampaignOptions
) -> list[int]:
    """Return positions in `left`, best first, by the gain that counts the first picks as observed."""
    rows = torch.tensor(left)
    selection = select_batch(
        pool.table.rows(rows),
        n,
        pool.observed,
        pool.score[rows],
        torch.Generator(),
        method=options.method,
        greedy_share=0.0,
        random_picks=0,
        pending=pool.table.rows(torch.tensor(first.rows)),
        weights=pool.weights,
        costs=per_gain if pool.penalty is None else per_gain * pool.penalty[rows],
    )
    return selection.rows


def _proposals(pool: _Pool, selection: Selection, wanted: LabelledObjectives) -> list[Proposal]:
    """Return the selected materials with what is predicted of them."""
    chosen = [pool.candidates[row] for row in selection.rows]
    prediction = wanted.model.predict(chosen)
    proposals = []
    for position, (row, picked_by) in enumerate(zip(selection.rows, selection.picked_by, strict=True)):
        mean, std = prediction.mean[position].tolist(), prediction.std[position].tolist()
        predicted = {name: (mean[k], std[k]) for k, name in enumerate(wanted.labelled)}
        proposals.append(Proposal(chosen[position], picked_by, predicted, float(pool.distance[row])))
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
