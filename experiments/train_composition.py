"""Train a composition agent and sample from it: everything on one page.

python experiments/train_composition.py --steps 300 --low 2.0 --high 2.6
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import auto_cli

from agent import DesignAgent, Objective, Prior, Reward
from envs import CompositionSpace


@dataclass
class Options:
    """Settings of the script."""

    low: float = 1.1
    """Lowest band gap, eV."""
    high: float = 1.6
    """Highest band gap, eV."""
    beta: float = 8.0
    """How greedy."""
    prior_weight: float = 1.0
    """Pull of known chemistry, 0 to 1."""
    steps: int = 300
    samples: int = 1000
    seed: int = 0
    checkpoint: Path | None = None
    """Where to keep the agent."""
    json: bool = False
    """Print one JSON object last."""


def main(options: Options) -> None:
    space = CompositionSpace(max_elements=4, forbidden=["Pb", "Cd", "Hg", "As", "Tl", "Be"])
    reward = Reward(
        [
            Objective("band_gap", "window", options.low, options.high),
            Objective("plausibility", "maximize", 0.2, 0.8, weight=0.5),
        ]
    )
    agent = DesignAgent(space, reward, Prior.default(), options.prior_weight, beta=options.beta, seed=options.seed)
    agent.train(options.steps)
    samples = agent.sample(options.samples)
    best = samples.drop_duplicates("material").sort_values("log_reward", ascending=False).head(15)
    print(best.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    coverage = agent.coverage()
    print(coverage)
    if options.checkpoint is not None:
        agent.save(options.checkpoint)
    if options.json:
        print(json.dumps({"coverage": vars(coverage), "best": best["material"].tolist()}))


if __name__ == "__main__":
    main(auto_cli(Options))
