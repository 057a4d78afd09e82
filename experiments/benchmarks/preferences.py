"""Does one policy sample in proportion to the reward under any preference? Exact, on a space that can be enumerated.

One conditioned policy is trained; for preferences and betas that it was not trained on, its exact distribution is
compared with the normalised reward (total variation), and its log Z with the exact one. Beside it stands the time a
step of training costs, against the same agent for one fixed preference: both take turns in the same run.

    python experiments/benchmarks/preferences.py
    python experiments/benchmarks/preferences.py --max_count 5 --max_atoms 12     # 22,443 materials
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from statistics import mean, median

import torch
from jsonargparse import auto_cli
from torch import Tensor

from agent import DesignAgent, Objective, Reward, TrainingOptions
from agent.condition_options import ConditionOptions
from agent.conditions import Conditions
from envs import CompositionSpace


@dataclass
class Options:
    """Settings of the benchmark."""

    elements: list[str] = field(
        default_factory=lambda: ["Na", "Mg", "Ti", "Fe", "Cu", "Zn", "Ga", "Sn", "P", "S", "Se", "N", "O", "Cl"]
    )
    max_elements: int = 3
    max_count: int = 3
    max_atoms: int = 8
    steps: int = 2500
    batch_size: int = 2048
    """Trajectories a step; the more, the less the conditions drown each other."""
    preferences: int = 15
    """Drawn uniformly on the simplex; none is a corner or the agent's own."""
    betas: list[float] = field(default_factory=lambda: [1.0, 4.0, 16.0])
    cost_steps: int = 300
    """Steps over which the cost of conditioning is taken; 0: not measured."""
    seed: int = 0
    threads: int = 1
    json: bool = False
    """Print one JSON object last."""


OBJECTIVES = [
    Objective("band_gap", "window", 1.1, 1.6),
    Objective("e_above_hull", "window", high=0.1),
    Objective("supply_risk", "minimize", 1000, 5000),
]


def held_out(n: int, m: int, seed: int) -> Tensor:
    """Return n preferences uniform on the simplex, float (n, m)."""
    exponential = -torch.rand(n, m, generator=torch.Generator().manual_seed(1000 + seed)).log()
    return exponential / exponential.sum(1, keepdim=True)


def judge(agent: DesignAgent, actions: Tensor, outcomes: Tensor, condition: Conditions) -> tuple[float, float]:
    """Return total variation and error of log Z under one condition."""
    log_target = agent.reward.log_reward(outcomes, condition).double()
    log_z = torch.logsumexp(log_target, 0)
    probability = agent.policy_under(condition).log_prob_in_chunks(actions).double().exp()
    assert agent.trainer.log_partition is not None
    estimate = agent.trainer.log_partition(agent.conditions.encode(condition))
    distance = 0.5 * (probability - (log_target - log_z).exp()).abs().sum()
    return float(distance), float(estimate) - float(log_z)


def cost_ratio(space: CompositionSpace, reward: Reward, steps: int, seed: int) -> float:
    """Return processor time a step with conditions over that without, medians over rounds in turn."""
    agents = [DesignAgent(space, reward, beta=4.0, seed=seed, conditions=c) for c in (None, ConditionOptions.fixed())]
    times: list[list[float]] = [[], []]
    for agent in agents:
        agent.train(steps // 4, progress=False)
    for _ in range(10):
        for agent, spent in zip(agents, times, strict=True):
            started = time.process_time()
            agent.train(max(steps // 10, 1), progress=False)
            spent.append(time.process_time() - started)
    return median(times[0]) / median(times[1])


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    space = CompositionSpace(
        options.elements, max_elements=options.max_elements, max_count=options.max_count, max_atoms=options.max_atoms
    )
    state = space.enumerate()
    actions, reward = space.actions_of(state), Reward(OBJECTIVES)
    outcomes = reward(space.materials(state)).outcomes
    result: dict[str, float] = {"materials": len(state), "trajectories": options.steps * options.batch_size}
    if options.cost_steps:
        result["time a step, conditioned / one fixed preference"] = cost_ratio(
            space, reward, options.cost_steps, options.seed
        )
    agent = DesignAgent(
        space,
        reward,
        beta=4.0,
        seed=options.seed,
        options=TrainingOptions(batch_size=options.batch_size),
        conditions=ConditionOptions(own_share=0.05),
    )
    preferences = held_out(options.preferences, len(OBJECTIVES), options.seed)

    def over_preferences(beta: float) -> tuple[list[float], list[float]]:
        pairs = [
            judge(agent, actions, outcomes, Conditions(w[None], torch.tensor([beta]), torch.zeros(1, 0)))
            for w in preferences
        ]
        return [pair[0] for pair in pairs], [abs(pair[1]) for pair in pairs]

    result["total variation at the start"] = mean(over_preferences(4.0)[0])
    history = agent.train(options.steps)
    distances, errors = [], []
    for beta in options.betas:
        distance, error = over_preferences(beta)
        result[f"total variation at beta {beta:g}, mean"] = mean(distance)
        result[f"total variation at beta {beta:g}, largest"] = max(distance)
        result[f"error of log Z at beta {beta:g}, mean"] = mean(error)
        result[f"error of log Z at beta {beta:g}, largest"] = max(error)
        distances += distance
        errors += error
    result["total variation, mean over all"] = mean(distances)
    result["error of log Z, mean over all"] = mean(errors)
    result["rewards computed"] = int(history["n_evaluated"].iloc[-1])
    result["rewards known already, share"] = float(history["hit_rate"].iloc[-1])
    for name, value in result.items():
        print(f"{name:<56} {value:>12,.4f}" if isinstance(value, float) else f"{name:<56} {value:>12,}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main(auto_cli(Options))
