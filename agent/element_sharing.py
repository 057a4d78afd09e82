"""What elements have in common, shared by the weights that belong to them while a prior is fitted.

Each weight that belongs to an element ("has Sr" among the inputs, "Sr2" among the outputs) is the sum of one of its own
and of what its group, period, oxidation states and other properties contribute, so that a rare element learns from its
neighbours in the periodic table. Afterwards the sums are folded into plain weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from agent.part_network import PartNetwork
from surrogates.features import element_property_table

_FEATURE = re.compile(r"(has|count|last) ([A-Z][a-z]?)")
_ACTION = re.compile(r"([A-Z][a-z]?)(\d+)")
_FEATURE_ROLES = ("has", "count", "last")
_MOST_COUNTED = 8
_OXIDATION_STATES = range(-4, 8)


class _Shared(nn.Module):
    """A weight, rows or columns of which share what their descriptors, float (n, D), contribute."""

    def __init__(self, descriptors: Tensor, width: int, by_column: bool) -> None:
        super().__init__()
        self.descriptors, self.by_column = descriptors, by_column
        self.shared = nn.Parameter(torch.zeros(descriptors.shape[1], width))

    def forward(self, own: Tensor) -> Tensor:
        contribution = self.descriptors @ self.shared
        return own + (contribution.T if self.by_column else contribution)


def share(part: PartNetwork) -> None:
    """Let the weights of elements share their properties; the network computes the same as before."""
    layers = [(getattr(part, name), _describe_features(part.input_names(name)), True) for name in part.input_layers]
    layers.append((part.output, _describe_actions(part.action_names), False))
    for layer, descriptors, by_column in layers:
        if descriptors.any():
            parametrize.register_parametrization(layer, "weight", _Shared(descriptors, part.width, by_column))


def fold(part: PartNetwork) -> None:
    """Fold what is shared into plain weights; the network computes the same as before."""
    for layer in [*(getattr(part, name) for name in part.input_layers), part.output]:
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight")


def _describe_features(names: Sequence[str]) -> Tensor:
    """Properties of the element of each feature, in columns by the role that the element plays, float (F, 3 D)."""
    _, properties = _element_properties()
    described = torch.zeros(len(names), len(_FEATURE_ROLES), properties.shape[1])
    for row, name in enumerate(names):
        match = _FEATURE.fullmatch(name)
        if match is not None:
            described[row, _FEATURE_ROLES.index(match[1])] = _of_element(match[2])
    return described.flatten(1)


def _describe_actions(names: Sequence[str]) -> Tensor:
    """Element, its properties and the count of each action, float (A, E + D + counts)."""
    symbols, properties = _element_properties()
    described = torch.zeros(len(names), len(symbols) + properties.shape[1] + _MOST_COUNTED)
    for row, name in enumerate(names):
        match = _ACTION.fullmatch(name)
        if match is not None and match[1] in symbols:
            described[row, symbols[match[1]]] = 1
            described[row, len(symbols) : -_MOST_COUNTED] = _of_element(match[1])
            described[row, -_MOST_COUNTED + min(int(match[2]), _MOST_COUNTED) - 1] = 1
    return described


def _of_element(symbol: str) -> Tensor:
    symbols, properties = _element_properties()
    return properties[symbols[symbol]]


@cache
def _element_properties() -> tuple[dict[str, int], Tensor]:
    """Rows by symbol, and the properties, float (E, D), of mean 0 and standard deviation 1 each."""
    from pymatgen.core import Element

    table = element_property_table()
    elements = [Element.from_Z(number) for number in range(1, len(table))]
    rows = [
        [
            *(element.group == group for group in range(1, 19)),
            *(element.row == period for period in range(1, 8)),
            element.is_lanthanoid,
            element.is_actinoid,
            *(state in element.common_oxidation_states for state in _OXIDATION_STATES),
        ]
        for element in elements
    ]
    properties = torch.cat([torch.tensor(rows).float(), table[1:]], dim=1)
    properties = (properties - properties.mean(0)) / properties.std(0).clamp_min(1e-6)
    return {element.symbol: row for row, element in enumerate(elements)}, properties
