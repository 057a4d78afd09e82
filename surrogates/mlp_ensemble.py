"""An ensemble of small neural networks evaluated as one batched matrix product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MLPEnsemble(nn.Module):
    """S multilayer perceptrons of the same shape with SiLU activations, run together.

    Args:
        sizes: Widths of the layers, input and output included.
        members: S, the number of networks.
        generator: Source of the initial weights (He initialisation; the last layer smaller by half).
    """

    def __init__(self, sizes: Sequence[int], members: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.members = members
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            scale = (2 / fan_in) ** 0.5 * (0.5 if layer == len(self.sizes) - 2 else 1.0)
            self.weights.append(nn.Parameter(scale * torch.randn(members, fan_in, fan_out, generator=generator)))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, fan_out)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (S, N, sizes[-1]) for inputs (N, sizes[0]), or (S, N, sizes[0]) with a batch per member."""
        hidden = inputs.expand(self.members, *inputs.shape) if inputs.ndim == 2 else inputs
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer:
                hidden = nn.functional.silu(hidden)
            hidden = torch.baddbmm(bias, hidden, weight)
        return hidden
