"""A small crystal space for tests of `agent`, and an agent over it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from zlib import crc32

import torch

from agent import DesignAgent
from envs import CompositionSpace, CrystalBatch, CrystalSpace
from tests.agent.examples import quick_options
from tests.surrogates.analytic_potentials import Birch

LIMITS: dict[str, Any] = {"elements": ["Na", "K", "Cl", "O"], "max_elements": 2, "max_count": 2}
CRYSTAL: dict[str, Any] = {"max_atoms": 4, "space_groups": [166, 221, 225], "formula_units": [1]}
OPTIONS: dict[str, Any] = {"batch_size": 8, "policy_share": 0.5, "base_share": 0.5, "replay_capacity": 100}


@lru_cache
def crystal_space() -> CrystalSpace:
    return CrystalSpace(CompositionSpace(**LIMITS), **CRYSTAL)


def by_sites(structures: Sequence[Any]) -> list[float]:
    """A reward of 1 to 5 that reads pymatgen structures."""
    return [1.0 + crc32(str(structure.composition).encode()) % 5 for structure in structures]


def crystal_agent(reward: Any = by_sites, **changes: Any) -> DesignAgent:
    settings = {"beta": 1.0, "seed": 2, "options": quick_options(**OPTIONS)} | changes
    return DesignAgent(settings.pop("space", crystal_space()), reward, settings.pop("prior", None), **settings)


def samples_of(space: CrystalSpace, n: int = 200, seed: int = 0) -> CrystalBatch:
    return space.materials(space.sample_uniform_policy(n, torch.Generator().manual_seed(seed)))


class Stiff(Birch):
    """20 A^3/atom for everything, and lower in energy with fewer atoms; in place of CHGNet, whose hull it refers to.

    Of what `refuses` says there is no energy, and `raises` ends the whole call.
    """

    name, version = "CHGNet", "0.3.0"

    def __init__(self, refuses: Any = None, raises: Any = None) -> None:
        super().__init__()
        self.refuses, self.raises = refuses, raises

    def energies(self, structures: Sequence[Any]) -> Any:
        if self.raises is not None and any(map(self.raises, structures)):
            raise RuntimeError("no graph")
        energies = super().energies(structures)
        for row, structure in enumerate(structures):
            if self.refuses is not None and self.refuses(structure):
                energies[row] = float("nan")
        return energies

    def minimum(self, structure: Any) -> float:
        return -3.0 + 0.01 * len(structure)
