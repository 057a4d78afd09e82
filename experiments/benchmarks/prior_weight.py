"""The pull of the prior as a dial: p(x) ~ prior(x)^alpha R(x)^beta, for every alpha from one policy.

exact   A space that can be enumerated. One policy is trained for every alpha, and others for one alpha each; the
        distance is the total variation between exact distribution and exact target, with the prior alone beside it.
demo    The solar absorber of `experiments/configs`. Policies of one alpha, a policy of all of them, one of all alphas
        and betas, the prior alone, and the policy of the reward alone (no prior, started from the uniform one): what
        alpha costs in reward, and what it gives in closeness to known chemistry. Hits are samples predicted to meet
        all objectives; the distance of the elements to those of all known formulas, and to those of the known formulas
        of the space weighted by R^beta, is that of Jensen and Shannon, and the distance to the nearest known formula
        that of `surrogates.known`.

What is finished is written after each policy, and the same command goes on from there.

    python experiments/benchmarks/prior_weight.py --part exact --output exact.json
    python experiments/benchmarks/prior_weight.py --part demo --output demo.json --figure prior_weight.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from jsonargparse import auto_cli
from torch import Tensor

from agent import DesignAgent, Objective, Prior, Reward, TrainingOptions
from agent.command_parser import read_config
from agent.condition_options import ConditionOptions
from agent.design_parts import make_agent, make_space
from agent.evaluation_compositions import jensen_shannon_distance, presence
from agent.prior_weights import measure_samples
from agent.report_prior_weight import hits_against_closeness
from agent.text_file import replace_text
from envs import CompositionBatch, CompositionSpace
from surrogates.datasets import read_known_formulas

Row = dict[str, Any]
ALL = ConditionOptions(preference=False, beta_range=None, prior_weight_range=(0.0, 1.0))


@dataclass
class Options:
    """Settings of the benchmark."""

    part: Literal["exact", "demo"] = "exact"
    output: Path | None = None
    """JSON file of the results, written after each policy; a file that is there is gone on with."""
    figure: Path | None = None
    """HTML file of the picture, of the demo."""
    elements: list[str] = field(
        default_factory=lambda: ["Na", "Mg", "Ti", "Fe", "Cu", "Zn", "Ga", "Sn", "P", "S", "Se", "N", "O", "Cl"]
    )
    """Of the exact part."""
    max_count: int = 3
    max_atoms: int = 8
    steps: int | None = None
    """Training steps; 1500 of the exact part, those of the configuration for the demo, when left out."""
    batch_size: int = 1024
    """Trajectories a step of the exact part."""
    config: Path = Path(__file__).parents[1] / "configs" / "solar_absorber.yaml"
    """Of the demo."""
    samples: int = 10_000
    """Of each policy of the demo."""
    seed: int = 0
    threads: int = 1
    json: bool = False
    """Print one JSON object last."""


class Results:
    """Rows by the name of their policy, in memory and in a file."""

    def __init__(self, options: Options) -> None:
        free = ("output", "figure", "threads", "json", "config")
        self.path = options.output
        self.settings = {name: value for name, value in asdict(options).items() if name not in free}
        self.settings["configuration"] = options.config.read_text(encoding="utf-8")
        self.rows: dict[str, list[Row]] = {}
        if self.path is not None and self.path.exists():
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            for name, value in self.settings.items():
                if stored["settings"].get(name) != value:
                    raise SystemExit(f"{self.path}: {name} was {stored['settings'].get(name)}, not {value}")
            self.rows = stored["policies"]

    def of(self, policy: str, compute: Callable[[], list[Row]]) -> list[Row]:
        """Return the rows of a policy, computing them unless they are there."""
        if policy not in self.rows:
            self.rows[policy] = compute()
            if self.path is not None:
                replace_text(self.path, json.dumps({"settings": self.settings, "policies": self.rows}, indent=1))
        for row in self.rows[policy]:
            values = (f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, float))
            print(f"{policy:<14} {', '.join(values)}", flush=True)
        return self.rows[policy]


# Exact


def exact(options: Options, results: Results) -> dict[str, Any]:
    """Compare every policy with its exact target."""
    space = CompositionSpace(options.elements, max_elements=3, max_count=options.max_count, max_atoms=options.max_atoms)
    state = space.enumerate()
    actions = space.actions_of(state)
    reward = Reward([Objective("band_gap", "window", 1.1, 1.6), Objective("supply_risk", "minimize", 1000, 5000)])
    prior, beta = Prior.default(), 4.0
    log_reward = beta * reward(space.materials(state)).log_reward.double()
    log_base = prior.policy(space).log_prob_in_chunks(actions).double()
    print(f"{len(state):,} materials")

    def judge(log_probability: Tensor, alpha: float) -> Row:
        log_target = alpha * log_base + log_reward
        distance = 0.5 * float((log_probability.double().exp() - log_target.softmax(0)).abs().sum())
        return {"alpha": alpha, "total_variation": distance, "log_z_exact": float(log_target.logsumexp(0))}

    def train(alpha: float, conditions: ConditionOptions, alphas: tuple[float, ...]) -> list[Row]:
        training = TrainingOptions(batch_size=options.batch_size)
        agent = DesignAgent(space, reward, prior, alpha, beta, options.seed, training, conditions)
        agent.train(options.steps or 1500)
        rows = []
        for each in alphas:
            policy = agent.policy_under(agent.conditions.read(prior_weight=each))
            row = judge(policy.log_prob_in_chunks(actions), each)
            error = agent.log_partition(prior_weight=each) - row.pop("log_z_exact")
            share = agent.coverage(prior_weight=each).effective_share
            rows.append(row | {"log_z_error": error, "effective_share": share})
        return rows

    grid = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    alone = results.of("prior alone", lambda: [judge(log_base, alpha) for alpha in grid])
    every = results.of("all alphas", lambda: train(0.5, replace(ALL, own_share=0.05), grid))
    single = [
        results.of(f"alpha {alpha:g}", lambda alpha=alpha: train(alpha, ConditionOptions.fixed(), (alpha,)))[0]
        for alpha in (0.0, 0.25, 0.5, 1.0)
    ]
    return {
        "materials": len(state),
        "total variation of the prior alone, smallest": min(row["total_variation"] for row in alone),
        "total variation of the policy of all alphas, largest": max(row["total_variation"] for row in every),
        "total variation of policies of one alpha, largest": max(row["total_variation"] for row in single),
    }


# Demo


def demo(options: Options, results: Results) -> dict[str, Any]:
    """Measure what alpha costs and gives in the space of the demo."""
    config = read_config(options.config)
    steps = options.steps or config.steps

    def agent_of(alpha: float, conditions: ConditionOptions, prior: str = "default") -> DesignAgent:
        settings = {"prior": prior, "prior_weight": alpha, "conditions": conditions, "seed": options.seed}
        return make_agent(replace(config, **settings), progress=False)

    space = make_space(config.space)
    names = read_known_formulas()["formula"].tolist()
    inside = [name for name, reason in zip(names, space.explain(names), strict=True) if reason is None]
    known = CompositionBatch.from_formulas(inside)
    log_reward_of_known = agent_of(0.0, ConditionOptions.fixed(), "none").reward(known).log_reward.double()

    def distance_to_rewarded(samples: pd.DataFrame, beta: float) -> float:
        """Distance of the elements to those of the known formulas, each weighted by R^beta."""
        wanted = (beta * log_reward_of_known).softmax(0) @ presence(known).double()
        own = presence(CompositionBatch.from_formulas(samples["material"].tolist())).double().sum(0)
        return jensen_shannon_distance(own, wanted)

    def judge(agent: DesignAgent, alpha: float, beta: float = config.beta) -> Row:
        samples = agent.sample(options.samples, prior_weight=alpha, beta=beta, seed=options.seed)
        figures = measure_samples(samples, agent.reward.objectives, agent.conditions.own.preference[0].tolist())
        covered = agent.coverage(seed=options.seed, prior_weight=alpha, beta=beta).covered
        size = samples.attrs["effective_sample_size"]
        return {
            "prior_weight": alpha, "beta": beta, **asdict(figures), "effective_sample_size": size, "covered": covered,
            "rewarded_distance": distance_to_rewarded(samples, beta),
        }  # fmt: skip

    def train(agent: DesignAgent, alphas: tuple[float, ...], betas: tuple[float, ...] = (config.beta,)) -> list[Row]:
        agent.train(steps)
        return [judge(agent, alpha, beta) for beta in betas for alpha in alphas]

    grid, fixed = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0), ConditionOptions.fixed()
    alone = results.of("prior alone", lambda: [judge(agent_of(1.0, fixed), 1.0)])[0]
    pure = results.of("reward alone", lambda: train(agent_of(0.0, fixed, "none"), (0.0,)))[0]
    single = {
        alpha: results.of(f"alpha {alpha:g}", lambda alpha=alpha: train(agent_of(alpha, fixed), (alpha,)))[0]
        for alpha in reversed(grid)
    }
    every = results.of("all alphas", lambda: train(agent_of(config.prior_weight, ALL), grid))
    both = replace(ALL, beta_range=(1.0, 32.0))
    wide = results.of(
        "alphas, betas", lambda: train(agent_of(config.prior_weight, both), (0.0, 0.5, 1.0), (2.0, 3.0, 4.0, 6.0, 8.0))
    )
    if options.figure is not None:
        named = {"prior alone": alone, "reward alone": pure} | {
            f"{alpha:g} alone": row for alpha, row in single.items()
        }
        others = pd.DataFrame([{"name": name, **row} for name, row in named.items()])
        hits_against_closeness(pd.DataFrame(every), others).write_html(options.figure, include_plotlyjs=True)

    def close(rows: Iterable[Row], distance: str) -> list[tuple[float, float]]:
        """Return alpha and beta of what keeps 0.9 of the pure policy's reward at half its distance."""
        return [
            (row["prior_weight"], row["beta"])
            for row in rows
            if row["prior_weight"] > 0
            and row["mean_reward"] >= 0.9 * pure["mean_reward"]
            and row[distance] <= 0.5 * pure[distance]
        ]

    policies = {"one alpha": single.values(), "all alphas": every, "all alphas and betas": wide}
    distances = {
        "of the elements": "element_distance",
        "of the elements to known formulas weighted by their reward": "rewarded_distance",
        "to the nearest known": "nearest_distance",
    }
    return {
        f"0.9 of the reward alone at half its distance {words}, policies of {name}: alpha and beta": close(
            rows, distance
        )
        for words, distance in distances.items()
        for name, rows in policies.items()
    }


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    results = Results(options)
    result = (exact if options.part == "exact" else demo)(options, results)
    for name, value in result.items():
        print(f"{name}: {value:,.4f}" if isinstance(value, float) else f"{name}: {value}")
    if options.json:
        print(json.dumps(result | {"policies": results.rows}))


if __name__ == "__main__":
    main(auto_cli(Options))
