"""Supply risk: how concentrated the reserves of the elements are.

Gaultois et al., Chem. Mater. 25, 2911 (2013): the Herfindahl-Hirschman index (HHI) of an element is the sum of the
squared market shares (in per cent) of the countries, up to 10,000 (one country); below 1,500 a market counts as
unconcentrated, above 2,500 as highly concentrated. A material's index is the mean weighted by mass.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from envs.chemistry import SYMBOLS
from envs.formula import CompositionBatch

HIGHEST_INDEX = 10_000.0
"""Index of a monopoly; also given to elements without a tabulated one (H, Ne, Ar, Kr, Xe, Tc and most beyond Bi)."""

Index = Literal["reserves", "production"]


@lru_cache(maxsize=2)
def herfindahl_index(index: Index = "reserves") -> Tensor:
    """Return the index of each element, float (104,), by atomic number; 0 at padding."""
    from smact.data_loader import lookup_element_hhis

    values = [0.0]
    for symbol in SYMBOLS:
        pair = lookup_element_hhis(symbol)  # (production, reserves)
        values.append(HIGHEST_INDEX if pair is None else float(pair[1 if index == "reserves" else 0]))
    return torch.tensor(values)


@lru_cache(maxsize=1)
def atomic_masses() -> Tensor:
    """Return SMACT's relative atomic masses in u, float (104,), by atomic number; 0 at padding."""
    from smact import Element

    return torch.tensor([0.0, *(float(Element(symbol).mass) for symbol in SYMBOLS)])


def supply_risk(materials: CompositionBatch, index: Index = "reserves") -> Tensor:
    """Return the mass-weighted Herfindahl-Hirschman index of each material, (N,), 0 to 10,000."""
    masses = atomic_masses()[materials.atomic_numbers] * materials.amounts
    return (masses * herfindahl_index(index)[materials.atomic_numbers]).sum(1) / masses.sum(1)
