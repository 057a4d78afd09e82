"""The network of one feature set: a shared trunk, and one output for each action that is decided by these features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_CONDITION_WIDTH = 64
"""Hidden units between a condition and its modulation."""
_UNKNOWN_ACTION_BIAS = -8.0
"""Start of the logit of an action that a transferred network has never seen: rare, but never impossible."""


class PartNetwork(nn.Module):
    """Features (n, F) -> logits (n, A): a residual multilayer perceptron.

    Conditions shift and scale the hidden units (feature-wise linear modulation, Perez et al. 2018), by nothing at
    first: a conditioned copy of a network starts as the same policy under every condition.

    Args:
        feature_names: One name an input; see `DesignSpace.feature_sets`.
        action_names: One name an output; see `DesignSpace.names_of_part`.
        width: Hidden units of each layer.
        depth: Number of residual layers between the input and the output layer.
        condition_names: One name an input of the condition; see `ConditionSpace.feature_names`. None: unconditioned.
    """

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
        self.input = nn.Linear(len(self.feature_names), width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(depth)])
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
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

    def modulation(self, conditions: Tensor | None) -> Tensor | None:
        """Return how encoded conditions (n, C) shift and scale the hidden units, float (n, (2 depth + 1) width).

        None without conditions, and for a network that knows none.
        """
        if self.condition is None or conditions is None:
            return None
        modulation: Tensor = self.condition(conditions)
        return modulation

    def trunk(self, features: Tensor, modulation: Tensor | None = None) -> Tensor:
        """Return the last hidden units, float (n, width), under the conditions of each row where they are given."""
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

    def conditioned(self, condition_names: Sequence[str]) -> PartNetwork:
        """Return a copy that knows conditions, and is the same policy under all of them as yet."""
        network = PartNetwork(self.feature_names, self.action_names, self.width, self.depth, condition_names)
        network.load_state_dict(self.state_dict(), strict=not condition_names)
        return network

    @torch.no_grad()
    def transfer(self, feature_names: Sequence[str], action_names: Sequence[str]) -> PartNetwork:
        """Return this network for other features and actions, matched by name.

        Features that it does not know get no weight; actions that it does not know start out rare.
        """
        network = PartNetwork(feature_names, action_names, self.width, self.depth)
        own = self.state_dict()
        network.load_state_dict(
            {name: value for name, value in own.items() if not name.startswith(("input.weight", "output."))},
            strict=False,
        )
        feature_at = {name: index for index, name in enumerate(self.feature_names)}
        action_at = {name: index for index, name in enumerate(self.action_names)}
        network.input.weight.zero_()
        for column, name in enumerate(network.feature_names):
            if name in feature_at:
                network.input.weight[:, column] = self.input.weight[:, feature_at[name]]
        for row, name in enumerate(network.action_names):
            if name in action_at:
                network.output.weight[row] = self.output.weight[action_at[name]]
                network.output.bias[row] = self.output.bias[action_at[name]]
            else:
                network.output.bias[row] = _UNKNOWN_ACTION_BIAS
        return network
