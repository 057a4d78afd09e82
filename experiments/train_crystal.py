"""Train an agent of complete crystal structures, sample from it and write CIFs: everything on one page.

python experiments/train_crystal.py --elements [Ti,Sr,O] --steps 100 --cifs runs/crystals
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import auto_cli
from pymatgen.io.cif import CifWriter

from agent import DesignAgent, Objective, Prior, Reward
from envs import CompositionSpace, CrystalBatch, CrystalSpace


@dataclass
class Options:
    """Settings of the script."""

    elements: list[str] | None = None
    """Elements that may be used; all when left out."""
    max_atoms: int = 12
    """Most atoms in the primitive cell."""
    high: float = 0.3
    """Distance to the hull at which the reward ends, eV/atom."""
    beta: float = 8.0
    """How greedy."""
    prior_weight: float = 1.0
    """Pull of known structures, 0 to 1."""
    steps: int = 100
    samples: int = 500
    seed: int = 0
    cifs: Path | None = None
    """Folder for the best fifteen as CIFs."""
    checkpoint: Path | None = None
    """Where to keep the agent."""
    json: bool = False
    """Print one JSON object last."""


def main(options: Options) -> None:
    composition = CompositionSpace(options.elements, forbidden=["Pb", "Cd", "Hg", "As", "Tl", "Be"], max_elements=3)
    space = CrystalSpace(composition, max_atoms=options.max_atoms)
    # eV/atom, by a model that reads composition, space group and positions, not coordinates
    reward = Reward([Objective("e_above_hull", "minimize", 0.0, options.high)])
    prior = Prior.default_crystals()
    agent = DesignAgent(space, reward, prior, options.prior_weight, beta=options.beta, seed=options.seed)
    agent.train(options.steps)
    samples = agent.sample(options.samples)
    ranked = samples.sort_values("log_reward", ascending=False, kind="stable")
    # one of each composition, space group and set of positions, for the model tells no more apart
    best = ranked.drop_duplicates(["formula", "space_group", "e_above_hull_eV_per_atom"]).head(15)
    print(best.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    coverage = agent.coverage()
    print(coverage)
    if options.cifs is not None:
        options.cifs.mkdir(parents=True, exist_ok=True)
        structures = CrystalBatch.from_texts(best["material"]).structures()
        for rank, (formula, structure) in enumerate(zip(best["formula"], structures, strict=True), start=1):
            (options.cifs / f"{rank:02d}_{formula}.cif").write_text(str(CifWriter(structure)))
    if options.checkpoint is not None:
        agent.save(options.checkpoint)
    if options.json:
        print(json.dumps({"coverage": vars(coverage), "best": best["material"].tolist()}))


if __name__ == "__main__":
    main(auto_cli(Options))
