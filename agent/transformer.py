"""A causal transformer over the actions taken so far, as a network of a feature set.

What has been built is read off the features ("count O" is 2/8 after the action O2): each element placed is a token, and
one more token, which reads all features, asks for the next action. Only what was placed before is there to be attended
to, so the policy is autoregressive, and works wherever features do: in other spaces, in torchgfn, in Gymnasium.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agent.part_network import PartNetwork

_ATOMS_A_UNIT = 8
"""Atoms that a count feature of 1 stands for; see `CompositionSpace.feature_bounds`."""
_MOST_COUNTED = 8
"""Counts beyond are read as this."""
_WIDTH_A_HEAD = 32
_WIDENING = 2
"""Hidden units of a feed-forward layer for each unit of the width."""


class Transformer(PartNetwork):
    """A transformer with pre-normalised blocks; see the module's text."""

    architecture = "transformer"
    input_layers = ("query", "element")

    def _make_trunk(self) -> None:
        self.elements = elements_counted(self.feature_names)
        at = {name: column for column, name in enumerate(self.feature_names)}
        self._count_at = torch.tensor([at[f"count {element}"] for element in self.elements])
        self.query = nn.Linear(len(self.feature_names), self.width)
        self.element = nn.Linear(len(self.elements), self.width, bias=False)
        self.count = nn.Parameter(0.05 * torch.randn(_MOST_COUNTED, self.width))
        self.blocks = nn.ModuleList([_Block(self.width) for _ in range(self.depth)])
        self.norm = nn.LayerNorm(self.width)

    def input_names(self, layer: str) -> tuple[str, ...]:
        """Return the name of each input of a layer; those of `element` are its elements."""
        return self.feature_names if layer == "query" else tuple(f"has {element}" for element in self.elements)

    def trunk(self, features: Tensor, modulation: Tensor | None = None) -> Tensor:
        """Return the last hidden units; see `PartNetwork.trunk`."""
        query = self.query(features)
        shifts: Sequence[Tensor | None] = [None] * (2 * self.depth)
        if modulation is not None:
            first, *shifts = torch.split(modulation, self.width, dim=-1)
            query = query + first
        placed, exists = self._placed(features)
        if len(placed) < len(query):  # one state under many conditions
            placed, exists = placed.expand(len(query), -1, -1), exists.expand(len(query), -1)
        tokens = self.dropout(torch.cat([query[:, None], placed], dim=1))
        attended = torch.cat([exists.new_ones(len(exists), 1), exists], dim=1)[:, None, None]
        for number, (block, shift, scale) in enumerate(zip(self.blocks, shifts[::2], shifts[1::2], strict=True)):
            last = number == self.depth - 1
            tokens = block(tokens, attended, shift, scale, self.dropout, query_only=last)
        hidden: Tensor = self.norm(tokens[:, 0])
        return hidden

    def _placed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the elements placed so far, float (n, K, width), and which of them exist, bool (n, K)."""
        amounts = (features.index_select(1, self._count_at) * _ATOMS_A_UNIT).round().long()
        row, element = amounts.nonzero(as_tuple=True)
        n_placed = torch.bincount(row, minlength=len(features))
        place = torch.arange(len(row)) - (n_placed.cumsum(0) - n_placed)[row]
        exists = torch.arange(int(n_placed.max()) if len(features) else 0) < n_placed[:, None]
        count = amounts[row, element].clamp_max(_MOST_COUNTED) - 1
        values = self.element.weight.T.index_select(0, element) + self.count.index_select(0, count)
        tokens = values.new_zeros(*exists.shape, self.width).index_put((row, place), values)
        return tokens, exists


class _Block(nn.Module):
    """Attention and a feed-forward layer, each with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // _WIDTH_A_HEAD)
        if width % self.heads:
            raise ValueError(
                f"width: {width} cannot be shared by {self.heads} attention heads "
                f"(expected a multiple of {_WIDTH_A_HEAD})"
            )
        self.norm, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.read, self.write = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, _WIDENING * width), nn.Linear(_WIDENING * width, width)

    def forward(
        self,
        tokens: Tensor,
        attended: Tensor,
        shift: Tensor | None,
        scale: Tensor | None,
        dropout: nn.Dropout,
        query_only: bool,
    ) -> Tensor:
        """Return tokens (n, K, width) after the block; with `query_only` the first of each row alone."""
        read = self.norm(tokens)
        if shift is not None and scale is not None:
            read = read * (1 + scale[:, None]) + shift[:, None]
        query, key, value = self.read(read).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if query_only:
            tokens, query = tokens[:, :1], query[:, :, :1]
        heard = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attended)
        tokens = tokens + dropout(self.write(heard.transpose(1, 2).flatten(2)))
        hidden: Tensor = tokens + dropout(self.narrow(nn.functional.gelu(self.widen(self.norm_forward(tokens)))))
        return hidden


def elements_counted(feature_names: Sequence[str]) -> tuple[str, ...]:
    """Return the elements whose counts are among the features, in their order."""
    return tuple(name.removeprefix("count ") for name in feature_names if name.startswith("count "))
