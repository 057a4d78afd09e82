"""How many hits does an expensive oracle find in an open space: a campaign against other ways to choose what it labels.

The oracle relaxes with CHGNet; a hit has a distance to the hull (within the prototype library) of at most 0.1 eV/atom
and a band gap in a window, as the embedded model sees it. Every contestant may label the same number of materials, in
batches, from the same space, and only novel ones that the oracle has a structure type for:

- campaign: `agent.Campaign`;
- random: the uniform masked policy, without any model;
- greedy: the best of some thousand uniform samples by models refitted to the labels in every round;
- genetic: the best that NSGA-II finds with as many evaluations of these models (see `pareto_baselines.py`);
- maskable_ppo: the best that PPO with masked actions finds with as many;
- prior, greedy prior: as random and greedy, from the embedded prior over known chemistry.

    pip install -e '.[benchmark]'
    python experiments/benchmarks/open_design.py --results runs/open_design.jsonl

Labels and results are kept line by line; what is there is not computed again.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean

import torch
from jsonargparse import auto_cli
from pareto_baselines import Budget, maskable_ppo, nsga2
from torch import Tensor

from agent import Objective, Policy, Prior
from agent.campaign import Campaign, round_seed
from agent.campaign_batch import allowed, draw_initial
from agent.campaign_options import CampaignOptions
from agent.design_agent import uniform_policy
from agent.labelled_objectives import LabelledObjectives
from agent.reward import scalarize
from envs import CompositionBatch, CompositionSpace
from envs.formula import chemical_system
from surrogates import CHGNetOracle
from surrogates.base import Label

CONTESTANTS = ["campaign", "random", "greedy", "genetic", "maskable_ppo", "prior", "greedy prior"]
OBJECTIVES = [Objective("band_gap", "window", 1.1, 1.6), Objective("e_above_hull", "window", high=0.1)]
FORBIDDEN = [
    "Pb",
    "Cd",
    "Hg",
    "As",
    "Tl",
    "Be",
    "He",
    "Ne",
    "Ar",
    "Kr",
    "Xe",
    "Rn",
    "Tc",
    "Pm",
    "Po",
    "At",
    "Fr",
    "Ra",
    "Ac",
    "Th",
    "Pa",
    "U",
    "Np",
    "Pu",
    "Am",
    "Cm",
    "Bk",
    "Cf",
    "Es",
    "Fm",
    "Md",
    "No",
    "Lr",
]


@dataclass
class Options:
    """Settings of the benchmark."""

    contestants: list[str] = field(default_factory=lambda: list(CONTESTANTS))
    seeds: list[int] = field(default_factory=lambda: [0])
    calls: int = 200
    initial: int = 20
    batch: int = 10
    samples: int = 4000
    """Evaluations of the models in a round by every contestant but the campaign."""
    steps: int = 600
    further_steps: int = 100
    beta: float = 16.0
    max_elements: int = 3
    max_atoms: int = 12
    labels: Path = Path("runs/open_design_labels.jsonl")
    results: Path = Path("runs/open_design.jsonl")
    threads: int = 1


class RecordingOracle:
    """CHGNet, with every label kept in a file, so that no contestant waits for what another has asked."""

    name, cost = "CHGNet", 20.0

    def __init__(self, path: Path) -> None:
        self._oracle = CHGNetOracle(check=False)
        self.version = self._oracle.version
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._known = {entry["material"]: entry for entry in map(json.loads, lines)}

    def refuses(self, materials: Sequence[str]) -> list[str | None]:
        """Ask the oracle."""
        return self._oracle.refuses(materials)

    def label(self, materials: Sequence[str]) -> list[Label]:
        """Return labels, computing those that are not known yet."""
        return [self._label(material) for material in materials]

    def _label(self, material: str) -> Label:
        if material not in self._known:
            label = self._oracle.label([material])[0]
            entry = {"material": material, "values": dict(label.values), "failure": label.failure}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            self._known[material] = entry
        entry = self._known[material]
        return Label(material, entry["values"], entry["failure"])


def run_campaign(space: CompositionSpace, oracle: RecordingOracle, options: Options, seed: int) -> list[str]:
    """Return the materials that a campaign labelled, in order."""
    settings = CampaignOptions(batch=options.batch, initial=options.initial, steps=options.further_steps)
    folder = tempfile.mkdtemp()
    try:
        campaign = Campaign(
            space,
            OBJECTIVES,
            oracle,
            folder,
            prior=Prior.default(),
            prior_weight=0.5,
            beta=options.beta,
            rounds=(options.calls - options.initial) // options.batch,
            steps=options.steps,
            options=settings,
            seed=seed,
            executor="in-process",
        )
        return list(campaign.run(progress=False, say=partial(print, flush=True)).labels["material"])
    finally:
        shutil.rmtree(folder)


def run_other(name: str, space: CompositionSpace, oracle: RecordingOracle, options: Options, seed: int) -> list[str]:
    """Return the materials that another contestant labelled, in order."""
    settings = CampaignOptions(initial=options.initial)
    policy = Prior.default().policy(space) if "prior" in name else uniform_policy(space)
    prior = Prior.default() if "prior" in name else None
    materials = draw_initial(space, prior, oracle, settings, round_seed(seed, 0))
    labels = {material: oracle.label([material])[0] for material in materials}
    wanted = LabelledObjectives(OBJECTIVES, ["e_above_hull"], seed=seed)
    number = 0
    while len(labels) < options.calls:
        number += 1
        good = {m: label for m, label in labels.items() if label.failure is None}
        wanted.fit(
            list(good), {"e_above_hull": [label.values.get("e_above_hull", float("nan")) for label in good.values()]}
        )
        found = propose(name, space, policy, wanted, options, round_seed(seed, number))
        chosen = allowed(found, labels, oracle, settings)[: min(options.batch, options.calls - len(labels))]
        if not chosen:
            print(f"{name}: nothing new in round {number}", flush=True)
            break
        labels |= {material: oracle.label([material])[0] for material in chosen}
    return list(labels)


def propose(
    name: str, space: CompositionSpace, policy: Policy, wanted: LabelledObjectives, options: Options, seed: int
) -> list[str]:
    """Return materials, the most promising first."""
    if name in ("genetic", "maskable_ppo"):
        score = partial(scalarize, method="tchebycheff")
        budget = Budget(space, partial(utilities, wanted), options.samples, scalarize=score, n_objectives=2)
        (nsga2 if name == "genetic" else maskable_ppo)(budget, seed)
        state = budget.archive.states
    else:
        state = policy.sample_many(options.samples, torch.Generator().manual_seed(seed)).state
        if name in ("random", "prior"):
            return space.decode(state)
    materials = space.decode(state)
    log_reward = wanted.reward(CompositionBatch.from_formulas(materials)).log_reward
    return [materials[row] for row in log_reward.sort(descending=True, stable=True).indices.tolist()]


def utilities(wanted: LabelledObjectives, materials: CompositionBatch) -> Tensor:
    """Return the utilities of materials by the models, float (n, 2)."""
    return torch.stack(list(wanted.reward(materials).utilities.values()), 1)


def judge(materials: list[str], oracle: RecordingOracle, options: Options) -> dict[str, object]:
    """Return hits, stable materials, chemical systems of the hits and failures, after 50 and after all calls."""
    labels = oracle.label(materials)
    above = [label.values.get("e_above_hull", float("nan")) for label in labels]
    wanted = LabelledObjectives(OBJECTIVES, ["e_above_hull"])
    wanted.fit(materials, {"e_above_hull": above})
    stable = torch.tensor(above) <= 0.1  # false for NaN: a failure is no hit
    hits = wanted.achieved(materials, {"e_above_hull": above}).hits & stable
    result: dict[str, object] = {"calls": len(materials), "failed": sum(label.failure is not None for label in labels)}
    for n in (50, options.calls):
        found = [material for material, hit in zip(materials[:n], hits[:n].tolist(), strict=True) if hit]
        result |= {f"hits_{n}": len(found), f"stable_{n}": int(stable[:n].sum())}
        result[f"systems_{n}"] = len({chemical_system(material) for material in found})
    return result


def main(options: Options) -> None:
    """Run what the results file does not hold, and print hits per 100 calls."""
    torch.set_num_threads(options.threads)
    space = CompositionSpace(max_elements=options.max_elements, max_atoms=options.max_atoms, forbidden=FORBIDDEN)
    oracle = RecordingOracle(options.labels)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    lines = options.results.read_text(encoding="utf-8").splitlines() if options.results.exists() else []
    results = {(entry["seed"], entry["contestant"]): entry for entry in map(json.loads, lines)}
    for seed in options.seeds:
        for contestant in options.contestants:
            if (seed, contestant) in results:
                continue
            started = time.perf_counter()
            if contestant == "campaign":
                materials = run_campaign(space, oracle, options, seed)
            else:
                materials = run_other(contestant, space, oracle, options, seed)
            entry = {"seed": seed, "contestant": contestant, **judge(materials, oracle, options)}
            entry["seconds"] = round(time.perf_counter() - started, 1)
            results[seed, contestant] = entry
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            print(entry, flush=True)
    print(f"{'':14s}{'hits per 100 calls at 50':>26s}{f'at {options.calls}':>10s}{'systems':>10s}{'failed':>10s}")
    for contestant in options.contestants:
        of_it = [results[s, contestant] for s in options.seeds if (s, contestant) in results]
        early, late = (100 * mean(e[f"hits_{n}"] for e in of_it) / n for n in (50, options.calls))
        systems, failed = mean(e[f"systems_{options.calls}"] for e in of_it), mean(e["failed"] for e in of_it)
        print(f"{contestant:14s}{early:26.1f}{late:10.1f}{systems:10.1f}{failed:10.1f}")


if __name__ == "__main__":
    main(auto_cli(Options, as_positional=False))
