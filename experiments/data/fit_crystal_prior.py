"""Fit the embedded prior over crystals and write `agent/data/crystal_prior.safetensors`.

The part that decides compositions is the embedded prior over known formulas, sharpened; the part that decides
structures is fitted to `low_energy_crystals`. A tenth of the crystals, by chemical system, is held out altogether for
the figures printed.

    python experiments/data/fit_crystal_prior.py

After `fit_prior.py`, the structures can be kept as they are:

    python experiments/data/fit_crystal_prior.py --structures agent/data/crystal_prior.safetensors
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from crystal_prior_structures import low_energy_crystals
from jsonargparse import auto_cli

from agent.policy import Policy, PolicyNetwork
from agent.prior import CRYSTAL_SHARPENING, Prior
from envs import CompositionSpace, CrystalBatch, CrystalSpace
from envs.formula import chemical_system


@dataclass
class Options:
    """Settings of the script."""

    output: Path = Path("agent/data/crystal_prior.safetensors")
    crystals: Path | None = None
    """Where the texts of the crystals are kept between runs."""
    structures: Path | None = None
    """A prior over crystals whose structure part is kept as it is: only the one over compositions is replaced."""
    leave_out: Path | None = None
    """A text file of formulas whose chemical systems are left out, for benchmarks."""
    seed: int = 0
    width: int = 192
    depth: int = 2
    dropout: float = 0.1
    max_epochs: int = 16
    temperature: float = 1.0
    samples: int = 2000
    threads: int = 1


def with_compositions(crystals: Prior, compositions: Prior, space: CrystalSpace, held_out: list[str]) -> Prior:
    """Return a prior over crystals with another one in place of its part over compositions."""
    first, *others = crystals.network.parts
    part = compositions.network.parts[0].transfer(first.feature_names, first.action_names)
    prior = Prior(PolicyNetwork([part, *others], crystals.network.kinds), crystals.report)
    actions = space.encode(held_out)
    uniform = Policy(space, PolicyNetwork.for_space(space))
    nats, uniform_nats = (
        -float(policy.log_prob_in_chunks(actions).mean()) for policy in (prior.policy(space), uniform)
    )
    return replace(prior, report=replace(crystals.report, held_out_nats=nats, uniform_nats=uniform_nats))


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    space = CrystalSpace()
    if options.crystals is not None and options.crystals.exists():
        texts = json.loads(options.crystals.read_text())
    else:
        texts, outside = low_energy_crystals(space)
        print(f"{len(texts)} crystals inside the space; outside: {dict(outside)}")
        if options.crystals is not None:
            options.crystals.write_text(json.dumps(texts))
    if options.leave_out is not None:
        without = {chemical_system(formula) for formula in options.leave_out.read_text().split()}
        texts = [text for text in texts if chemical_system(text.split(" | ")[0]) not in without]
    systems = sorted({chemical_system(text.split(" | ")[0]) for text in texts})
    order = torch.randperm(len(systems), generator=torch.Generator().manual_seed(options.seed)).tolist()
    chosen = {systems[k] for k in order[: len(systems) // 10]}
    held_out = [text for text in texts if chemical_system(text.split(" | ")[0]) in chosen]
    training = [text for text in texts if chemical_system(text.split(" | ")[0]) not in chosen]
    embedded = Prior.default().sharpened(CRYSTAL_SHARPENING)
    if options.structures is not None:
        prior = with_compositions(Prior.load(options.structures), embedded, space, held_out)
    else:
        prior = Prior.fit(
            space,
            training,
            seed=options.seed,
            width=options.width,
            depth=options.depth,
            dropout=options.dropout,
            max_epochs=options.max_epochs,
            temperature=options.temperature,
            kept=embedded,
        )
    prior.save(options.output)
    prior = Prior.load(options.output)
    policy, uniform = prior.policy(space), Policy(space, PolicyNetwork.for_space(space))
    actions = space.encode(held_out)
    compositions = CompositionSpace()
    of_composition = embedded.log_prob(
        compositions, compositions.encode(CrystalBatch.from_texts(held_out).compositions)
    )
    rollout = policy.sample_many(options.samples, torch.Generator().manual_seed(options.seed))
    batch = space.materials(rollout.state)
    groups = Counter(batch.space_group.tolist())
    result = {
        "fitted on": len(training),
        "held out": len(held_out),
        "held-out nats, structure given the composition": float(
            (of_composition - policy.log_prob_in_chunks(actions)).mean()
        ),
        "held-out nats a crystal": -float(policy.log_prob_in_chunks(actions).mean()),
        "uniform masked policy, nats": -float(uniform.log_prob_in_chunks(actions).mean()),
        "samples": options.samples,
        "distinct": len(set(batch)) / len(batch),
        "among those fitted": len(set(batch) & set(training)) / len(set(batch)),
        "P1": groups[1] / options.samples,
        "space groups": len(groups),
        "stretched": float((space.geometry.least_ratio(rollout.state) > 1.9).double().mean()),
        "examples": batch.texts[:12],
        "size MB": options.output.stat().st_size / 1e6,
    }
    print(prior.report)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(auto_cli(Options))
