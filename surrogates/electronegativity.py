"""Mean electronegativity difference between unlike atoms of a material."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from envs.chemistry import ELECTRONEGATIVITY, SYMBOLS
from envs.formula import CompositionBatch
from surrogates.datasets import read_element_properties


@lru_cache(maxsize=1)
def electronegativities() -> Tensor:
    """Return Pauling electronegativities, float (104,), by atomic number; 0 at padding.

    SMACT's values; for He, Ne, Ar, Pm, Rn and Lr, which have none there, those of the element table (partly imputed).
    """
    table = read_element_properties()["electronegativity"]
    return torch.tensor([0.0, *(float(ELECTRONEGATIVITY[s] or table[s]) for s in SYMBOLS)])


def electronegativity_difference(materials: CompositionBatch) -> Tensor:
    """Return the mean Pauling electronegativity difference over all pairs of unlike atoms, (N,).

    That is sum_{i<j} f_i f_j |x_i - x_j| / sum_{i<j} f_i f_j with atomic fractions f: the plain difference for any
    binary; 0 for an element.
    """
    values = electronegativities()[materials.atomic_numbers]
    fractions = materials.fractions
    pairs = fractions.unsqueeze(2) * fractions.unsqueeze(1)
    differences = (values.unsqueeze(2) - values.unsqueeze(1)).abs()
    unlike = pairs.sum((1, 2)) - fractions.square().sum(1)
    return (pairs * differences).sum((1, 2)) / unlike.clamp_min(1e-6)
