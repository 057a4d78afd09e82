"""Does the policy sample in proportion to the reward? Exact, on a space small enough to enumerate.

The distance is the total variation between the policy's exact distribution (`log_prob` of every material) and the
normalised reward; samples alone could not show less than the noise floor printed beside it.

    python experiments/benchmarks/proportionality.py                 # 400,000 trajectories
    python experiments/benchmarks/proportionality.py --steps 10000   # the longer setting
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import torch
from jsonargparse import auto_cli

from agent import DesignAgent, Objective, Reward, TrainingOptions
from envs import CompositionSpace


@dataclass
class Options:
    """Settings of the benchmark."""

    elements: list[str] = field(
        default_factory=lambda: ["Na", "Mg", "Ti", "Fe", "Cu", "Zn", "Ga", "Sn", "P", "S", "Se", "N", "O", "Cl"]
    )
    max_elements: int = 3
    max_count: int = 5
    max_atoms: int = 12
    beta: float = 4.0
    steps: int = 1563
    """Of 256 trajectories each."""
    loss: str = "tb"
    seed: int = 0
    threads: int = 1
    json: bool = False
    """Print one JSON object last."""


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    space = CompositionSpace(
        options.elements, max_elements=options.max_elements, max_count=options.max_count, max_atoms=options.max_atoms
    )
    state = space.enumerate()
    actions = space.actions_of(state)
    reward = Reward([Objective("band_gap", "window", 1.1, 1.6), Objective("supply_risk", "minimize", 1000, 5000)])
    log_target = options.beta * reward(space.materials(state)).log_reward.double()
    log_z = torch.logsumexp(log_target, 0)
    target = (log_target - log_z).exp()
    agent = DesignAgent(space, reward, beta=options.beta, seed=options.seed, options=TrainingOptions(loss=options.loss))

    def distance() -> float:
        return 0.5 * float((agent.policy.log_prob_in_chunks(actions).double().exp() - target).abs().sum())

    start = distance()
    history = agent.train(options.steps)
    generator = torch.Generator().manual_seed(options.seed)
    drawn = torch.multinomial(target, 100_000, replacement=True, generator=generator)
    noise = 0.5 * float((torch.bincount(drawn, minlength=len(target)) / len(drawn) - target).abs().sum())
    coverage = agent.coverage(20_000)
    result = {
        "materials": len(state),
        "trajectories": options.steps * agent.options.batch_size,
        "total variation": distance(),
        "total variation at the start (uniform masked policy)": start,
        "total variation of 100,000 exact samples (noise floor)": noise,
        "log Z exact": float(log_z),
        "log Z error (policy samples)": coverage.log_z_policy - float(log_z),
        "log Z error (training's estimate)": history["log_z"].iloc[-1] - float(log_z),
        "effective sample size, share": coverage.effective_share,
    }
    for name, value in result.items():
        print(f"{name:<56} {value:>12,.4f}" if isinstance(value, float) else f"{name:<56} {value:>12,}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main(auto_cli(Options))
