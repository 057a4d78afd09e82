"""Batches that hold several structures of each of their formulas."""

from __future__ import annotations

import torch
from torch import Tensor


class FormulaBatches:
    """Draws formulas, as often as they have structures up to a limit, and some structures of each.

    Args:
        formulas: Long (N,), equal for structures of one formula.
        used: Bool (N,), the structures to draw from.
        seed: Seed of everything random.
    """

    def __init__(self, formulas: Tensor, used: Tensor, seed: int) -> None:
        rows = used.nonzero()[:, 0]
        self.generator = torch.Generator().manual_seed(seed)
        shuffled = rows[torch.randperm(len(rows), generator=self.generator)]
        self.order = shuffled[formulas[shuffled].argsort(stable=True)]
        self.count = torch.unique(formulas[rows], return_counts=True)[1]
        self.first = self.count.cumsum(0) - self.count

    def draw(self, size: tuple[int, int], structures: int) -> tuple[Tensor, Tensor]:
        """Return rows and whether each is to be counted, both (*size, structures).

        Args:
            size: Batches, and formulas in each.
            structures: Most structures of a formula; one that has fewer is filled up with rows that do not count.
        """
        weights = self.count.clamp(max=structures).double()
        chosen = torch.multinomial(weights, size[0] * size[1], replacement=True, generator=self.generator).view(size)
        count, first = self.count[chosen][..., None], self.first[chosen][..., None]
        start = (torch.rand(*size, 1, generator=self.generator) * count).long()
        place = torch.arange(structures)
        return self.order[first + (start + place) % count], place < count
