"""Features of a composition: statistics of element properties and the fractions themselves.

The statistics are those of Magpie (Ward et al., npj Comput. Mater. 2, 16028 (2016)), computed for a whole batch by
gathering rows of a table of 103 elements.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from envs.chemistry import MAX_ATOMIC_NUMBER, SYMBOLS
from envs.formula import CompositionBatch
from surrogates.datasets import read_element_properties

STATISTICS: tuple[str, ...] = ("mean", "deviation", "minimum", "maximum")
"""Mean weighted by atomic fraction, weighted mean absolute deviation from it, smallest and largest value."""


@lru_cache(maxsize=1)
def element_property_names() -> tuple[str, ...]:
    """Return the names of the element properties behind the features."""
    return tuple(read_element_properties().columns)


@lru_cache(maxsize=1)
def element_property_table() -> Tensor:
    """Return the standardised element properties, float (104, P), indexed by atomic number.

    Each property has mean 0 and standard deviation 1 over the elements 1-94; row 0 is padding.
    """
    values = torch.tensor(read_element_properties().to_numpy(dtype="float32"))
    natural = values[:94]
    standardised = (values - natural.mean(0)) / natural.std(0)
    return torch.cat([torch.zeros(1, values.shape[1]), standardised])


@lru_cache(maxsize=1)
def feature_names() -> tuple[str, ...]:
    """Return a name for each column of `composition_features`."""
    statistics = [f"{statistic} {name}" for statistic in STATISTICS for name in element_property_names()]
    norms = ["number of elements", "2-norm of fractions", "3-norm of fractions"]
    return (*statistics, *norms, *(f"fraction {symbol}" for symbol in SYMBOLS))


def composition_features(materials: CompositionBatch) -> Tensor:
    """Return the features of each composition, float32 (N, F), in the order of `feature_names`.

    They depend on the atomic fractions only: neither on the order of the elements nor on the size of the formula unit,
    and padding does not change them.
    """
    numbers, fractions = materials.atomic_numbers, materials.fractions.float()
    present = (fractions > 0).unsqueeze(-1)
    properties = element_property_table()[numbers]  # (N, K, P)
    weights = fractions.unsqueeze(1)  # (N, 1, K)
    mean = weights @ properties  # (N, 1, P)
    deviation = (weights @ (properties - mean).abs()).squeeze(1)
    minimum = torch.where(present, properties, torch.inf).amin(1)
    maximum = torch.where(present, properties, -torch.inf).amax(1)
    square = fractions.square()
    norms = torch.stack([present.sum((1, 2)).float(), square.sum(1).sqrt(), (square * fractions).sum(1).pow(1 / 3)], 1)
    dense = fractions.new_zeros(len(numbers), MAX_ATOMIC_NUMBER + 1).scatter_add_(1, numbers, fractions)[:, 1:]
    return torch.cat([mean.squeeze(1), deviation, minimum, maximum, norms, dense], 1)
