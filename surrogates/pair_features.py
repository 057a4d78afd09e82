"""Features of the pairs of unlike atoms in a composition: what bonds between which elements.

Statistics over single atoms cannot tell whether a large and a small electronegativity belong to the same material's
main pair or to a minority. These are means over all pairs of unlike atoms, of the standardised element properties p of
`surrogates.features`: sum_{i<j} x_i x_j g(p_i, p_j) / sum_{i<j} x_i x_j with atomic fractions x.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from envs.chemistry import MAX_ATOMIC_NUMBER
from envs.formula import CompositionBatch
from surrogates.features import element_property_names, element_property_table

PAIR_STATISTICS: tuple[str, ...] = ("half sum", "difference", "product")
"""g(p_i, p_j): (p_i + p_j) / 2, |p_i - p_j|, p_i p_j."""

_ELEMENTS = MAX_ATOMIC_NUMBER + 1


@lru_cache(maxsize=1)
def pair_feature_names() -> tuple[str, ...]:
    """Return a name for each column of `pair_features`."""
    return tuple(f"pair {statistic} {name}" for statistic in PAIR_STATISTICS for name in element_property_names())


def pair_features(materials: CompositionBatch) -> Tensor:
    """Return the features of each composition, float32 (N, F), in the order of `pair_feature_names`; 0 for an element.

    Like `composition_features` they depend on the atomic fractions only.
    """
    codes, weights = element_pairs(materials)
    shares = weights / weights.sum(1, keepdim=True).clamp_min(1e-9)
    return torch.bmm(shares.unsqueeze(1), _pair_table()[codes]).squeeze(1)


def pair_weight(materials: CompositionBatch) -> Tensor:
    """Return the chance that two atoms drawn at random differ, halved: sum_{i<j} x_i x_j, (N,); 0 for an element."""
    return (1 - materials.fractions.float().square().sum(1)).clamp_min(0) / 2


def element_pairs(materials: CompositionBatch) -> tuple[Tensor, Tensor]:
    """Return all P = K (K - 1) / 2 pairs of slots of each composition.

    Returns:
        Code of each pair, long (N, P): 104 Z_i + Z_j, where a padded slot has Z = 0; and its weight x_i x_j,
        float (N, P), 0 where padded.
    """
    first, second = torch.triu_indices(materials.atomic_numbers.shape[1], materials.atomic_numbers.shape[1], 1)
    numbers, fractions = materials.atomic_numbers, materials.fractions.float()
    return numbers[:, first] * _ELEMENTS + numbers[:, second], fractions[:, first] * fractions[:, second]


def seen_pairs(materials: CompositionBatch) -> Tensor:
    """Return which pairs of elements occur together in some material, bool (104 * 104,), by code and symmetric."""
    codes, weights = element_pairs(materials)
    seen = torch.zeros(_ELEMENTS * _ELEMENTS, dtype=torch.bool)
    seen[codes[weights > 0]] = True
    square = seen.view(_ELEMENTS, _ELEMENTS)
    return (square | square.T).flatten()


def unseen_share(materials: CompositionBatch, seen: Tensor) -> Tensor:
    """Return the share of a composition's unlike pairs of atoms whose elements were not seen together, (N,), 0 to 1."""
    codes, weights = element_pairs(materials)
    return (weights * ~seen[codes]).sum(1) / weights.sum(1).clamp_min(1e-9)


@lru_cache(maxsize=1)
def _pair_table() -> Tensor:
    """Return g(p_i, p_j) of all pairs of elements, float (104 * 104, F), by code."""
    table = element_property_table()
    first, second = table.unsqueeze(1), table.unsqueeze(0)
    statistics = torch.cat([(first + second) / 2, (first - second).abs(), first * second], 2)
    return statistics.flatten(0, 1)
