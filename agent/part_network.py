"""The network of one feature set: a trunk, and one output for each action that is decided by these features.

Two trunks are there: `MultilayerPerceptron` here, and `agent.transformer.Transformer`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

_CONDITION_WIDTH = 64
"""Hidden units between a condition and its modulation."""
_UNKNOWN_ACTION_BIAS = -8.0
"""Start of the logit of an action that a transferred network has never seen: rare, but never impossible."""


class PartNetwork(nn.Module, ABC):
    """Features (n, F) -> logits (n, A).

    Conditions shift and scale the hidden units (feature-wise linear modulation, Perez et al. 2018), by nothing at
    first: a conditioned copy of a network starts as the same policy under every condition.

    Args:
        feature_names: One name an input; see `DesignSpace.feature_sets`.
        action_names: One name an output; see `DesignSpace.names_of_part`.
        width: Hidden units of each layer.
        depth: Number of residual layers.
        condition_names: One name an input of the condition; see `ConditionSpace.feature_names`. None: unconditioned.
    """

    architecture: ClassVar[str]
    """Name in descriptions and settings."""
    input_layers: ClassVar[tuple[str, ...]]
    """The linear layers whose inputs have names."""

    def __init__(
        self,
        feature_names: Sequence[str],
        action_names: Sequence[str],
        width: int = 256,
        depth: int = 2,
        condition_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.feature_names = tuple(feature_names)
        self.action_names = tuple(action_names)
        self.condition_names = tuple(condition_names)
        self.width, self.depth = width, depth
        self._make_trunk()
        self.output = nn.Linear(width, len(self.action_names))
        self.dropout = nn.Dropout(0.0)  # switched on by Prior.fit only
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.condition: nn.Sequential | None = None
        if self.condition_names:
            modulation = nn.Linear(_CONDITION_WIDTH, (2 * depth + 1) * width)
            nn.init.zeros_(modulation.weight)
            nn.init.zeros_(modulation.bias)
            inner = nn.Linear(len(self.condition_names), _CONDITION_WIDTH)
            self.condition = nn.Sequential(inner, nn.ReLU(), modulation)

    @abstractmethod
    def _make_trunk(self) -> None:
        """Add the layers between the features and the output; feature_names, width and depth are known."""

    def input_names(self, layer: str) -> tuple[str, ...]:
        """Return the name of each input of one of the `input_layers`: the features, unless a network says otherwise."""
        return self.feature_names

    @abstractmethod
    def trunk(self, features: Tensor, modulation: Tensor | None = None) -> Tensor:
        """Return the last hidden units, float (n, width), under the conditions of each row where they are given."""

    def modulation(self, conditions: Tensor | None) -> Tensor | None:
        """Return how encoded conditions (n, C) shift and scale the hidden units, float (n, (2 depth + 1) width).

        None without conditions, and for a network that knows none.
        """
        if self.condition is None or conditions is None:
            return None
        modulation: Tensor = self.condition(conditions)
        return modulation

    def conditioned(self, condition_names: Sequence[str]) -> Self:
        """Return a copy that knows conditions, and is the same policy under all of them as yet."""
        network = type(self)(self.feature_names, self.action_names, self.width, self.depth, condition_names)
        network.load_state_dict(self.state_dict(), strict=not condition_names)
        return network

    @torch.no_grad()
    def transfer(self, feature_names: Sequence[str], action_names: Sequence[str]) -> Self:
        """Return this network for other features and actions, matched by name.

        Features that it does not know get no weight; actions that it does not know start out rare.
        """
        network = type(self)(feature_names, action_names, self.width, self.depth)
        by_name = (*(f"{layer}.weight" for layer in self.input_layers), "output.", "condition.")
        shared = {name: value for name, value in self.state_dict().items() if not name.startswith(by_name)}
        network.load_state_dict(shared, strict=False)
        for layer in self.input_layers:
            source, target = getattr(self, layer).weight, getattr(network, layer).weight
            column_at = {name: column for column, name in enumerate(self.input_names(layer))}
            target.zero_()
            for column, name in enumerate(network.input_names(layer)):
                if name in column_at:
                    target[:, column] = source[:, column_at[name]]
        action_at = {name: index for index, name in enumerate(self.action_names)}
        for row, name in enumerate(network.action_names):
            if name in action_at:
                network.output.weight[row] = self.output.weight[action_at[name]]
                network.output.bias[row] = self.output.bias[action_at[name]]
            else:
                network.output.bias[row] = _UNKNOWN_ACTION_BIAS
        return network


class MultilayerPerceptron(PartNetwork):
    """A residual multilayer perceptron: an input layer, and `depth` residual layers behind it."""

    architecture = "mlp"
    input_layers = ("input",)

    def _make_trunk(self) -> None:
        self.input = nn.Linear(len(self.feature_names), self.width)
        self.norms = nn.ModuleList([nn.LayerNorm(self.width) for _ in range(self.depth)])
        self.hidden = nn.ModuleList([nn.Linear(self.width, self.width) for _ in range(self.depth)])

    def trunk(self, features: Tensor, modulation: Tensor | None = None) -> Tensor:
        """Return the last hidden units; see `PartNetwork.trunk`."""
        if modulation is None:
            hidden: Tensor = self.dropout(torch.relu(self.input(features)))
            for norm, layer in zip(self.norms, self.hidden, strict=True):
                hidden = hidden + self.dropout(torch.relu(layer(norm(hidden))))
            return hidden
        first, *others = torch.split(modulation, self.width, dim=-1)
        hidden = self.dropout(torch.relu(self.input(features) + first))
        pairs = zip(others[::2], others[1::2], strict=True)
        for norm, layer, (shift, scale) in zip(self.norms, self.hidden, pairs, strict=True):
            hidden = hidden + self.dropout(torch.relu(layer(norm(hidden) * (1 + scale) + shift)))
        return hidden
