"""How much room each element takes in a crystal; made by `experiments/data/make_element_sizes.py`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import torch
from torch import Tensor

from envs.chemistry import ATOMIC_NUMBERS, MAX_ATOMIC_NUMBER


@dataclass(frozen=True, eq=False)
class ElementSizes:
    """Float (104,) each, by atomic number; entry 0 is 0."""

    volume: Tensor
    """Volume in compounds, A3 an atom; additive to about 10 %."""
    covalent_radius: Tensor
    """A (Cordero et al. 2008)."""
    anion_radius: Tensor
    """Radius of the closed-shell anion, A (Shannon 1976); 0 where there is none."""


@lru_cache(maxsize=1)
def element_sizes() -> ElementSizes:
    """Return the table."""
    volume, covalent, anion = torch.zeros(3, MAX_ATOMIC_NUMBER + 1)
    with (resources.files("envs.data") / "element_sizes.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            z = ATOMIC_NUMBERS[row["element"]]
            volume[z], covalent[z] = float(row["volume_A3"]), float(row["covalent_radius_A"])
            anion[z] = float(row["anion_radius_A"] or 0)
    return ElementSizes(volume, covalent, anion)
