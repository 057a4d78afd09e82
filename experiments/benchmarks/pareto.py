"""How much of a known Pareto front is reached with how many reward evaluations?

The space is enumerated, so the true front of three objectives is known. Each contestant may evaluate the same number of
distinct materials (evaluating one again is free) and is judged by all that it evaluated:

- conditioned: one policy for every preference and beta;
- per preference: one policy for each of a few preferences, which share the budget but not what they evaluated;
- fixed: one policy for equal weights;
- nsga2, reinforce, maskable_ppo: see `pareto_baselines.py`.

    pip install -e '.[benchmark]'
    python experiments/benchmarks/pareto.py --json true
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import mean

import torch
from jsonargparse import auto_cli
from pareto_baselines import Archive, Budget, maskable_ppo, nsga2, reinforce
from torch import Tensor

from agent import DesignAgent, Objective, Prior, Reward, TrainingOptions
from agent.condition_options import ConditionOptions
from agent.metrics import hypervolume, igd_plus, is_non_dominated, r2, simplex_lattice
from agent.reward import scalarize
from agent.trainer import StepReport
from envs import CompositionBatch, CompositionSpace
from envs.formula import chemical_system

CONTESTANTS = ["conditioned", "per preference", "fixed", "nsga2", "reinforce", "maskable_ppo"]
OBJECTIVES = [
    Objective("band_gap", "window", 1.1, 1.6),
    Objective("e_above_hull", "window", high=0.1),
    Objective("supply_risk", "minimize", 1000, 5000),
]


@dataclass
class Options:
    """Settings of the benchmark."""

    elements: list[str] = field(
        default_factory=lambda: ["Na", "Mg", "Ti", "Fe", "Cu", "Zn", "Ga", "Sn", "P", "S", "Se", "N", "O", "Cl"]
    )
    max_elements: int = 4
    max_count: int = 6
    max_atoms: int = 14
    evaluations: int = 20_000
    milestones: list[int] = field(default_factory=lambda: [1000, 2000, 5000, 10_000])
    """Earlier numbers of evaluations at which the hypervolume is reported too."""
    contestants: list[str] = field(default_factory=lambda: list(CONTESTANTS))
    seeds: int = 5
    steps: int = 1200
    """Schedule of a conditioned or fixed policy; it starts anew until the evaluations are used."""
    beta: float = 64.0
    """Of the fixed policies; the conditioned one answers a quarter to four times of it."""
    prior_weight: float = 0.1
    """Exponent of the embedded prior in the targets of our policies; 0: they do without it."""
    policy_share: float = 0.05
    base_share: float = 0.02
    search_share: float = 0.3
    preferences: int = 15
    """Policies of "per preference"."""
    threads: int = 1
    json: bool = False
    """Print one JSON object last."""


class Spent(Exception):  # noqa: N818 it ends a training and is no error
    """All evaluations are used."""


def train_until_spent(agent: DesignAgent, steps: int, evaluations: int) -> Archive:
    """Train until so many materials were evaluated; return them in the order of their evaluation."""

    def stop(report: StepReport) -> None:
        if report.n_evaluated >= evaluations:
            raise Spent

    try:
        for _ in range(20):  # a policy that finds nothing new ends as well
            agent.train(steps, progress=False, callback=stop)
    except Spent:
        pass
    entries = agent.trainer.replay.contents()
    first = {row.numpy().tobytes(): number for number, row in reversed(list(enumerate(entries.actions)))}
    rows = torch.tensor(sorted(first.values()))[:evaluations]
    return Archive(agent.space.replay(entries.actions[rows]), entries.outcomes[rows])


def gflownet(name: str, space: CompositionSpace, options: Options, seed: int) -> Archive:
    """Run one of the contestants that are ours."""

    def agent(objectives: list[Objective], conditions: ConditionOptions) -> DesignAgent:
        settings = TrainingOptions(
            replay_capacity=20 * options.evaluations,
            policy_share=options.policy_share,
            base_share=options.base_share,
            search_share=options.search_share,
        )
        prior = Prior.default() if options.prior_weight else None
        return DesignAgent(
            space, Reward(objectives), prior, options.prior_weight, options.beta, seed, settings, conditions
        )

    if name == "conditioned":
        conditions = ConditionOptions(own_share=0.05, beta_range=(options.beta / 4, 4 * options.beta))
        return train_until_spent(agent(OBJECTIVES, conditions), options.steps, options.evaluations)
    if name == "fixed":
        return train_until_spent(agent(OBJECTIVES, ConditionOptions.fixed()), options.steps, options.evaluations)
    parts = []
    preferences = simplex_lattice(len(OBJECTIVES), options.preferences).clamp_min(1e-3)
    share = options.evaluations // len(preferences)
    for weights in preferences.tolist():
        weighted = [
            Objective(o.property, o.goal, o.low, o.high, weight=w) for o, w in zip(OBJECTIVES, weights, strict=True)
        ]
        steps = options.steps // len(preferences) + 1
        parts.append(train_until_spent(agent(weighted, ConditionOptions.fixed()), steps, share))
    turn = torch.cat([torch.arange(len(part.states)) for part in parts]).argsort(stable=True)  # as if trained in turn
    states, utilities = (torch.cat([getattr(part, name) for part in parts])[turn] for name in ("states", "utilities"))
    return Archive(states, utilities)


BASELINES: dict[str, Callable[[Budget, int], None]] = {
    "nsga2": nsga2,
    "reinforce": reinforce,
    "maskable_ppo": maskable_ppo,
}


def run(name: str, space: CompositionSpace, options: Options, seed: int) -> Archive:
    """Let one contestant spend the evaluations."""
    if name not in BASELINES:
        return gflownet(name, space, options, seed)
    score = partial(scalarize, method="tchebycheff")
    budget = Budget(space, partial(utilities_of, Reward(OBJECTIVES)), options.evaluations, scalarize=score)
    BASELINES[name](budget, seed)
    return budget.archive


def utilities_of(reward: Reward, materials: CompositionBatch) -> Tensor:
    """Return the utilities of materials, float (n, m)."""
    return torch.stack(list(reward(materials).utilities.values()), dim=1)


def judge(archive: Archive, space: CompositionSpace, front: Tensor, options: Options) -> dict[str, float]:
    """Measure an archive against the true front."""
    kept = is_non_dominated(archive.utilities)
    formulas = space.decode(archive.states[kept])
    whole = hypervolume(front)
    utilities = archive.utilities.clamp(0, 1)
    early = {
        f"hypervolume after {n:,}": hypervolume(utilities[:n]) / whole
        for n in options.milestones
        if n < options.evaluations
    }
    distance = torch.cdist(front.double(), utilities[kept].double())
    true = (distance.amin(0) < 1e-6).tolist()
    return {
        **early,
        "hypervolume": hypervolume(utilities) / whole,
        "IGD+": igd_plus(utilities, front),
        "R2": r2(utilities, simplex_lattice(len(OBJECTIVES), 100)),
        "share of the true front": float((distance.amin(1) < 1e-6).float().mean()),
        "systems on its own front": len({chemical_system(formula) for formula in formulas}),
        "systems on the true front": len({chemical_system(f) for f, on in zip(formulas, true, strict=True) if on}),
        "evaluations": len(utilities),
    }


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    space = CompositionSpace(
        options.elements, max_elements=options.max_elements, max_count=options.max_count, max_atoms=options.max_atoms
    )
    state = space.enumerate()
    reward = Reward(OBJECTIVES)
    utilities = torch.cat([utilities_of(reward, space.materials(part)) for part in state.split(8192)]).clamp(0, 1)
    kept = is_non_dominated(utilities)
    front = utilities[kept]
    systems = {chemical_system(formula) for formula in space.decode(state[kept])}
    print(
        f"{len(state):,} materials; true front: {len(front)} materials in {len(systems)} chemical systems, "
        f"hypervolume {hypervolume(front):.4f}"
    )
    results: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for name in options.contestants:
            started = time.process_time()
            measured = judge(run(name, space, options, seed), space, front, options)
            measured["seconds"] = time.process_time() - started
            results.setdefault(name, []).append(measured)
            print(
                f"seed {seed} {name:<15}",
                "  ".join(f"{key} {value:.4g}" for key, value in measured.items()),
                flush=True,
            )
    print(f"\nmeans over {options.seeds} seeds; hypervolumes as shares of the true one")
    names = list(next(iter(results.values()))[0])
    for key in names:
        print(f"{key:<28}", "  ".join(f"{name} {mean(row[key] for row in rows):.4g}" for name, rows in results.items()))
    if "conditioned" in results and "nsga2" in results:
        pairs = zip(results["conditioned"], results["nsga2"], strict=True)
        wins = sum(ours["hypervolume"] > theirs["hypervolume"] for ours, theirs in pairs)
        print(f"conditioned above nsga2 in {wins} of {options.seeds} seeds")
    if options.json:
        print(json.dumps({"front": len(front), "systems": len(systems), "results": results}))


if __name__ == "__main__":
    main(auto_cli(Options))
