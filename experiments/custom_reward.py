"""A reward of your own: any function from formulas to numbers >= 0.

From Python:

    python experiments/custom_reward.py

From the command line, with `experiments/configs/custom_reward.yaml` (run in this folder, or have it on PYTHONPATH):

    cd experiments && matsmith design --config configs/custom_reward.yaml
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from jsonargparse import auto_cli
from pymatgen.core import Composition

from agent import DesignAgent, Prior
from envs import CompositionSpace


class LightHydride:
    """Hydrogen by weight, in percent: what a storage material wants."""

    def __init__(self, power: float = 1.0) -> None:
        self.power = power

    def __call__(self, materials: Sequence[str]) -> list[float]:
        """Return one value >= 0 a formula."""
        return [100 * Composition(formula).get_wt_fraction("H") ** self.power for formula in materials]


@dataclass
class Options:
    """Settings of the script."""

    steps: int = 200
    seed: int = 0
    json: bool = False
    """Print one JSON object last."""


def main(options: Options) -> None:
    space = CompositionSpace(required=["H"], max_elements=4)
    agent = DesignAgent(space, LightHydride(), Prior.default(), beta=2.0, seed=options.seed)
    agent.train(options.steps)
    samples = agent.sample(500).drop_duplicates("material").sort_values("log_reward", ascending=False)
    samples["hydrogen_weight_percent"] = LightHydride()(samples["material"])
    print(samples[["material", "hydrogen_weight_percent", "log_prob"]].head(15).to_string(index=False))
    if options.json:
        print(json.dumps({"best": samples["material"].head(15).tolist()}))


if __name__ == "__main__":
    main(auto_cli(Options))
