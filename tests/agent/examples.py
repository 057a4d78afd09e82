"""What the tests of `agent` share: enumerated spaces, small networks, rewards that cost nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from agent import DesignAgent, Policy, PolicyNetwork, Prior, TrainingOptions
from agent.policy import Architecture
from agent.prior import PriorReport
from envs import CompositionSpace, DesignSpace
from tests.envs.mixed_spaces import ColouredNumbers

SMALL = {"elements": ["Na", "K", "O", "S", "Cl"], "max_elements": 3, "max_count": 3}
"""122 materials."""
LARGER = {"elements": ["Na", "K", "Mg", "O", "S", "Cl"], "max_elements": 3, "max_count": 3}
"""280 materials or so."""
INTERMETALLIC = {"elements": ["Ni", "Al", "Fe"], "max_elements": 3, "max_count": 2, "charge_neutral": False}
TIED = {"elements": ["K", "Rb", "C", "Se", "O"], "max_elements": 3, "max_count": 3}
SPACES: dict[str, dict[str, Any]] = {"small": SMALL, "intermetallic": INTERMETALLIC, "tied": TIED}
SPACE_NAMES = (*SPACES, "coloured")
"""Those with one kind of action, and one with several."""


@lru_cache
def space_named(name: str = "small") -> Any:
    return ColouredNumbers() if name == "coloured" else CompositionSpace(**{**SPACES, "larger": LARGER}[name])


@lru_cache
def all_actions(space: DesignSpace) -> Tensor:
    """The action sequences of all materials, long (M, T)."""
    return space.actions_of(space.enumerate())


@lru_cache
def all_formulas(space: DesignSpace) -> list[str]:
    return space.decode(space.enumerate())


def random_network(
    space: DesignSpace, seed: int = 0, width: int = 24, scale: float = 0.5, architecture: Architecture = "mlp"
) -> PolicyNetwork:
    """A network whose policy is far from uniform, or the uniform one when scale is 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PolicyNetwork.for_space(
            space, width, depth=2 if architecture == "transformer" else 1, architecture=architecture
        )
        for part in network.parts:
            torch.nn.init.normal_(part.output.weight, std=scale)
            torch.nn.init.normal_(part.output.bias, std=scale)
    return network.requires_grad_(False)


def random_policy(space: DesignSpace, seed: int = 0, scale: float = 0.5) -> Policy:
    return Policy(space, random_network(space, seed, scale=scale))


def random_prior(space: DesignSpace, seed: int = 0, width: int = 24, scale: float = 0.5) -> Prior:
    return Prior(random_network(space, seed, width, scale), PriorReport(100, {"charge": 3}, 5.0, 6.0, 4))


def crc_reward(materials: Sequence[str]) -> list[float]:
    """A reward of 1 to 17 without rhyme or reason."""
    return [1.0 + crc32(material.encode()) % 17 for material in materials]


RECIPE: dict[str, Any] = {
    "batch_size": 16,
    "policy_share": 0.5,
    "base_share": 0.125,
    "learning_rate": 1e-3,
    "likelihood_weight": 0.1,
    "epsilon": 0.0,
    "temperature": 1.0,
    "annealing": 0.4,
    "least_effective_share": 0.2,
    "replay_capacity": 500,
    "average_decay": 0.99,
}
"""A small recipe, whatever the defaults are."""


def quick_options(**changes: Any) -> TrainingOptions:
    return TrainingOptions(**(RECIPE | changes))


def small_agent(name: str = "small", **changes: Any) -> DesignAgent:
    """An agent with a narrow network; `scale=0` starts at the uniform policy."""
    space = space_named(name)
    prior = random_prior(space, scale=changes.pop("scale", 0.5), width=changes.pop("width", 24))
    options = quick_options(**changes.pop("options", {}))
    return DesignAgent(space, changes.pop("reward", crc_reward), prior, options=options, **changes)


def log_distribution(policy: Policy) -> Tensor:
    """Log-probability of every material of a policy's space, float (M,)."""
    return policy.log_prob_in_chunks(all_actions(policy.space))


def exact_log_target(agent: DesignAgent) -> tuple[Tensor, float]:
    """Normalised log-target of every material, computed without the agent's own arithmetic, and log Z."""
    rewards = torch.tensor(crc_reward(all_formulas(agent.space)), dtype=torch.float64)
    log_target = agent.beta * rewards.log()
    if agent.prior is not None:
        log_target = log_target + agent.prior_weight * log_distribution(agent.base).double()
    log_z = float(log_target.logsumexp(0))
    return log_target - log_z, log_z


def total_variation(log_p: Tensor, log_q: Tensor) -> float:
    return 0.5 * float((log_p.double().exp() - log_q.double().exp()).abs().sum())


def frequencies(space: DesignSpace, materials: Sequence[str]) -> Tensor:
    """How often each material of the enumerated space occurs, double (M,)."""
    at = {formula: row for row, formula in enumerate(all_formulas(space))}
    counts = torch.zeros(len(at), dtype=torch.float64)
    for material in materials:
        counts[at[material]] += 1
    return counts


def chi_square_p(counts: Tensor, log_p: Tensor, fewest: float = 5.0) -> float:
    """p-value of counts under a distribution; materials expected less than `fewest` times are thrown together."""
    from scipy.stats import chisquare

    probability = log_p.double().exp()
    assert math.isclose(float(probability.sum()), 1.0, abs_tol=1e-4)
    expected = probability / probability.sum() * counts.sum()
    often = expected >= fewest
    observed = torch.cat([counts[often], counts[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    kept = expected > 0
    return float(chisquare(observed[kept].numpy(), expected[kept].numpy()).pvalue)
