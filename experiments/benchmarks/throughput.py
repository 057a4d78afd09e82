"""How fast: uniform rollouts, GFlowNet training, reward; each against a stated baseline in the same run.

One thread, the same space and network throughout. Machines are noisy: read the ratios.

- Uniform rollouts, finished valid compositions a second, against filtering random compositions with SMACT.
- Training, trajectories a second, on-policy trajectory balance: MatSmith's sampler with torchgfn's loss, against a
  minimal tuned loop in pure torch (below) and against torchgfn's own sampler.
- Reward of new compositions, features included, against features and a scikit-learn forest.

    python experiments/benchmarks/throughput.py --json
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from gfn.gflownet import TBGFlowNet
from gfn.samplers import Sampler
from jsonargparse import auto_cli
from smact.screening import smact_validity

from agent import Objective, Policy, PolicyNetwork, Reward
from agent.sampler import DesignGFlowNetEnv, StaticBatchSampler, policy_estimator
from envs import CompositionBatch, CompositionSpace


@dataclass
class Options:
    """Settings of the benchmark."""

    batch_size: int = 256
    rollout_batch_size: int = 4096
    repeats: int = 7
    """Rounds; the contestants take turns and the medians are reported."""
    seed: int = 0
    json: bool = False
    """Print one JSON object last."""


def take_turns(contestants: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Run contestants in turn; return the median number of items a second of each."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()  # warm-up
    for _ in range(repeats):
        for name, run in contestants.items():
            started = time.perf_counter()
            items = run()
            rates[name].append(items / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in rates.items()}


def random_formulas(space: CompositionSpace, n: int, generator: torch.Generator) -> list[str]:
    """Random compositions of 2-5 elements with counts 1-8 and no rules, as a filter would have to sift them."""
    formulas = []
    for size in torch.randint(2, 6, (n,), generator=generator).tolist():
        elements = torch.randperm(len(space.elements), generator=generator)[:size].tolist()
        counts = torch.randint(1, 9, (size,), generator=generator).tolist()
        formulas.append("".join(f"{space.elements[e]}{c}" for e, c in zip(elements, counts, strict=True)))
    return formulas


def pure_torch_step(
    space: CompositionSpace, network: PolicyNetwork, log_z: torch.Tensor, optimizer: torch.optim.Optimizer, n: int
) -> int:
    """The minimal tuned loop: a static batch, the first state once, finished rows dropped, one backward pass."""
    state = space.initial(n)
    log_prob = torch.zeros(n)
    rows = torch.arange(n)
    for step in range(space.max_steps):
        here = state[:1] if step == 0 else state[rows]
        log_policy = network.logits(0, space.features(here)).masked_fill(~space.mask(here), -torch.inf).log_softmax(1)
        with torch.no_grad():
            cumulative = log_policy.exp().cumsum(1).expand(len(rows), -1).contiguous()
            draw = torch.rand(len(rows), 1) * cumulative[:, -1:]
            action = torch.searchsorted(cumulative, draw, right=True).clamp_max(space.n_actions - 1).squeeze(1)
        log_prob = log_prob.index_add(0, rows, log_policy.expand(len(rows), -1).gather(1, action[:, None]).squeeze(1))
        following = space.step(state[rows], action)
        state[rows] = following
        rows = rows[~space.is_finished(following)]
        if not len(rows):
            break
    loss = (log_z + log_prob - toy_log_reward(space, state)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return n


def toy_log_reward(space: CompositionSpace, state: torch.Tensor) -> torch.Tensor:
    """A reward that costs nothing, so that the samplers are compared and not the reward: the fewer atoms the better."""
    return -space.materials(state).amounts.sum(1)


def torchgfn_step(
    environment: DesignGFlowNetEnv, sampler: Sampler, gflownet: TBGFlowNet, optimizer: torch.optim.Optimizer, n: int
) -> int:
    """One step with torchgfn's trajectories and loss; the sampler decides how they are rolled out."""
    trajectories = sampler.sample_trajectories(environment, n, save_logprobs=True)
    log_reward = toy_log_reward(environment.space, trajectories.terminating_states.tensor)
    loss = gflownet.loss(environment, trajectories, recalculate_all_logprobs=False, log_rewards=log_reward)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return n


def training_contestants(space: CompositionSpace, options: Options) -> dict[str, Callable[[], int]]:
    """The same network, loss and optimiser behind three samplers."""
    environment = DesignGFlowNetEnv(space)
    generator = torch.Generator().manual_seed(options.seed)
    contestants: dict[str, Callable[[], int]] = {}
    for name in ("MatSmith", "pure torch", "torchgfn"):
        torch.manual_seed(options.seed)
        network = PolicyNetwork.for_space(space)
        estimator = policy_estimator(space, network)
        gflownet = TBGFlowNet(estimator, None, init_logZ=0.0, constant_pb=True)
        optimizer = torch.optim.Adam(gflownet.parameters(), lr=1e-3)
        if name == "pure torch":
            contestants[name] = lambda network=network, gflownet=gflownet, optimizer=optimizer: pure_torch_step(
                space, network, gflownet.logZ, optimizer, options.batch_size
            )
            continue
        sampler = (
            StaticBatchSampler(Policy(space, network), estimator, generator)
            if name == "MatSmith"
            else Sampler(estimator)
        )
        contestants[name] = lambda sampler=sampler, gflownet=gflownet, optimizer=optimizer: torchgfn_step(
            environment, sampler, gflownet, optimizer, options.batch_size
        )
    return contestants


def reward_contestants(space: CompositionSpace, options: Options) -> dict[str, Callable[[], int]]:
    """The reward of the demo, and what a plain forest would take for its band gap alone."""
    from sklearn.ensemble import ExtraTreesRegressor

    from surrogates.datasets import read_band_gaps
    from surrogates.features import composition_features

    reward = Reward(
        [
            Objective("band_gap", "window", 1.1, 1.6),
            Objective("supply_risk", "minimize", 1000, 5000, weight=0.5),
            Objective("plausibility", "maximize", 0.2, 0.8, weight=0.5),
        ]
    )
    generator = torch.Generator().manual_seed(options.seed)
    gaps = read_band_gaps()
    forest = ExtraTreesRegressor(200, n_jobs=1, random_state=0)
    forest.fit(composition_features(CompositionBatch.from_formulas(gaps["formula"])).numpy(), gaps["band_gap_eV"])

    def new_batch() -> CompositionBatch:
        return space.materials(space.sample_uniform_policy(options.rollout_batch_size, generator))

    batches = [new_batch() for _ in range(options.repeats + 1)] * 2

    def score(function: Callable[[CompositionBatch], object]) -> Callable[[], int]:
        remaining = iter(batches)

        def run() -> int:
            batch = next(remaining)
            function(batch)
            return len(batch)

        return run

    return {
        "reward": score(reward),
        "forest, band gap alone": score(lambda batch: forest.predict(composition_features(batch).numpy())),
    }


def main(options: Options) -> None:
    torch.set_num_threads(1)
    space = CompositionSpace()
    generator = torch.Generator().manual_seed(options.seed)
    random = random_formulas(space, 1000, generator)
    valid_share = statistics.mean(smact_validity(formula, include_alloys=False) for formula in random)

    def uniform() -> int:
        return len(space.sample_uniform_policy(options.rollout_batch_size, generator))

    def filtering() -> int:
        return sum(smact_validity(formula, include_alloys=False) for formula in random)

    rollouts = take_turns({"MatSmith": uniform, "SMACT filter": filtering}, options.repeats)
    training = take_turns(training_contestants(space, options), options.repeats)
    reward = take_turns(reward_contestants(space, options), options.repeats)
    rows = [
        ("uniform rollouts, valid compositions/s", rollouts["MatSmith"], ""),
        ("  SMACT filter on random compositions, valid/s", rollouts["SMACT filter"], f"{valid_share:.1%} pass"),
        ("  ratio", rollouts["MatSmith"] / rollouts["SMACT filter"], ""),
        ("training, trajectories/s", training["MatSmith"], ""),
        ("  pure torch loop, trajectories/s", training["pure torch"], ""),
        ("  ratio (target 0.85)", training["MatSmith"] / training["pure torch"], ""),
        ("  torchgfn's sampler, trajectories/s", training["torchgfn"], ""),
        ("  ratio (target 2.5)", training["MatSmith"] / training["torchgfn"], ""),
        ("reward of new compositions/s (target 10,000)", reward["reward"], ""),
        ("  scikit-learn forest, compositions/s", reward["forest, band gap alone"], ""),
        ("  ratio", reward["reward"] / reward["forest, band gap alone"], ""),
    ]
    for name, value, note in rows:
        print(f"{name:<48} {value:>10,.2f}  {note}")
    if options.json:
        print(json.dumps({"rollouts": rollouts, "training": training, "reward": reward, "valid_share": valid_share}))


if __name__ == "__main__":
    main(auto_cli(Options))
