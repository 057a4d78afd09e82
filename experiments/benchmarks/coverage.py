"""Do the samples cover the target? On the demo's own space and objectives.

Trains the agent of a configuration, then measures the share of the target covered, the effective sample size of the
policy's raw samples, how many are distinct, and how many effective samples a second they are worth against importance
resampling from the prior (training not counted; its time stands beside).

    python experiments/benchmarks/coverage.py
    python experiments/benchmarks/coverage.py --steps 2000
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import auto_cli

from agent import DesignAgent, Policy
from agent.command_parser import read_config
from agent.design_parts import make_agent
from agent.replay import effective_share


@dataclass
class Options:
    """Settings of the benchmark."""

    config: Path = Path("experiments/configs/solar_absorber.yaml")
    steps: int | None = None
    """In place of the configuration's."""
    samples: int = 20_000
    """Samples from the policy and from the prior."""
    seed: int = 0
    json: bool = False
    """Print one JSON object last."""


def effective_samples_a_second(agent: DesignAgent, policy: Policy, n: int, seed: int) -> tuple[float, float]:
    """Draw and weigh n samples; return the effective sample size as a share, and a second."""
    generator = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    rollout = policy.sample_many(n, generator)
    log_base = rollout.log_prob if policy is agent.base else agent.base.log_prob_in_chunks(rollout.actions)
    log_reward = agent.evaluate(rollout).log_reward
    share = effective_share(agent.prior_weight * log_base + agent.beta * log_reward - rollout.log_prob)
    return share, share * n / (time.perf_counter() - started)


def main(options: Options) -> None:
    config = read_config(options.config)
    torch.set_num_threads(config.threads)
    agent = make_agent(config, progress=True)
    started = time.perf_counter()
    agent.train(options.steps or config.steps)
    seconds = time.perf_counter() - started
    coverage = agent.coverage(options.samples, seed=options.seed)
    four_thousand = agent.sample(4000, seed=options.seed)
    _, rate = effective_samples_a_second(agent, agent.policy, options.samples, options.seed)
    _, base_rate = effective_samples_a_second(agent, agent.base, options.samples, options.seed)
    result = {
        "training, s": seconds,
        "share of the target covered (target 0.9)": coverage.covered,
        "effective sample size, share (target 0.10)": coverage.effective_share,
        "the same for the prior": coverage.base_effective_share,
        "distinct among 4,000 (target 0.60)": four_thousand["material"].nunique() / 4000,
        "effective samples/s, policy": rate,
        "effective samples/s, prior resampled": base_rate,
        "ratio (target 5)": rate / base_rate,
    }
    for name, value in result.items():
        print(f"{name:<48} {value:>10,.4f}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main(auto_cli(Options))
