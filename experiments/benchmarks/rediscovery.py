"""Are compounds found again that neither the prior nor the band-gap model has ever seen?

Half of the known compounds with a measured gap in the target window (those inside the design space) are left out of
the prior's formulas and of everything that the band-gap model learns from. Probabilities are exact, so the number of
times that they are expected among 20,000 samples is known without counting rare events; the count is given as well.

    python experiments/benchmarks/rediscovery.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jsonargparse import auto_cli

from agent import DesignAgent, Policy, PolicyNetwork, Prior, Reward
from agent.command_parser import read_config
from agent.design_parts import make_reward, make_space
from surrogates import BandGapModel
from surrogates.band_gap_data import computed_classes, measured_gaps
from surrogates.band_gap_training import TrainingOptions
from surrogates.datasets import read_known_formulas


@dataclass
class Options:
    """Settings of the benchmark."""

    config: Path = Path("experiments/configs/solar_absorber.yaml")
    steps: int | None = None
    """In place of the configuration's."""
    samples: int = 20_000
    seed: int = 0
    threads: int = 1
    model_steps: int = 2000
    """Steps of the band-gap model's fit; the embedded weights took 9,000."""
    substitutions: int = 20_000
    """Unlabelled substitutions that it is distilled on; the embedded weights took 120,000."""
    json: bool = False
    """Print one JSON object last."""


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    config = read_config(options.config)
    space = make_space(config.space)
    known = read_known_formulas()["formula"].tolist()
    measured, computed = measured_gaps(), computed_classes()
    window = next(o for o in config.objectives if o.property == "band_gap")
    assert window.low is not None and window.high is not None
    in_window = (measured.labels >= window.low) & (measured.labels <= window.high)
    inside = [
        formula
        for formula, reason in zip(list(measured.materials), space.explain(measured.materials), strict=True)
        if reason is None
    ]
    candidates = sorted(set(measured.materials.rows(in_window)) & set(inside))
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(options.seed))
    left_out = {candidates[i] for i in order[: len(candidates) // 2].tolist()}

    fit = TrainingOptions(steps=options.model_steps, substitutions=options.substitutions)
    model = BandGapModel(fit, seed=options.seed)
    remaining = measured.without(left_out)
    model.fit(remaining.materials, remaining.labels, computed=computed.without(left_out))
    prior = Prior.fit(space, [formula for formula in known if formula not in left_out], seed=options.seed)
    embedded = make_reward(config)
    assert isinstance(embedded, Reward)
    objectives = [replace(o, model=model) if o.property == "band_gap" else o for o in embedded.objectives]
    agent = DesignAgent(space, Reward(objectives), prior, config.prior_weight, config.beta, options.seed)
    agent.train(options.steps or config.steps)

    actions = space.encode(sorted(left_out))
    policies = {
        "trained policy": agent.policy,
        "prior alone": prior.policy(space),
        "uniform masked policy": Policy(space, PolicyNetwork.for_space(space)),
    }
    result: dict[str, dict[str, float]] = {}
    for name, policy in policies.items():
        expected = float(policy.log_prob_in_chunks(actions).double().exp().sum()) * options.samples
        samples = space.decode(policy.sample_many(options.samples, torch.Generator().manual_seed(options.seed)).state)
        result[name] = {
            "expected": expected,
            "counted": sum(formula in left_out for formula in samples),
            "distinct found": len(left_out & set(samples)),
        }
    uniform, base, trained = (result[name]["expected"] for name in reversed(policies))
    print(f"{len(left_out)} compounds left out; times among {options.samples:,} samples")
    for name, values in result.items():
        print(f"  {name:<24}" + "".join(f"{key} {value:>12,.4f}   " for key, value in values.items()))
    print(f"trained / uniform {trained / uniform:,.0f} (target 30), trained / prior {trained / base:.2f} (target > 1)")
    if options.json:
        print(json.dumps({"left out": len(left_out), **result}))


if __name__ == "__main__":
    main(auto_cli(Options))
