"""Hypervolume improvements of many points over the fronts of many members at once, exact, by disjoint boxes.

What a member's front leaves of the unit cube is kept as boxes that do not overlap; what a point adds to the front is
the volume of them that lies below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from agent.metrics import is_non_dominated

_AT_ONCE = 256  # boxes and points multiplied at a time: the product stays in the cache


@dataclass(frozen=True, eq=False)
class Boxes:
    """K boxes in the space of the objectives, those of one member disjoint."""

    lower: Tensor
    """Float (m, K)."""
    upper: Tensor
    """Float (m, K), above lower."""
    member: Tensor
    """Whose they are, long (K,)."""

    def __len__(self) -> int:
        return len(self.member)

    def rows(self, index: Tensor | slice) -> Boxes:
        """Return some of the boxes."""
        return Boxes(self.lower[:, index], self.upper[:, index], self.member[index])

    @classmethod
    def join(cls, parts: Sequence[Boxes]) -> Boxes:
        """Return the boxes of several parts."""
        return cls(
            torch.cat([part.lower for part in parts], 1),
            torch.cat([part.upper for part in parts], 1),
            torch.cat([part.member for part in parts]),
        )


def open_boxes(observed: Tensor, n_members: int, pending: Tensor | None) -> Boxes:
    """Return each member's part of [0, 1]^m that neither observed nor pending materials dominate.

    Args:
        observed: Utilities that all members agree on, double (K, m).
        n_members: S.
        pending: Utilities by member, double (m, S, P).
    """
    corner = torch.zeros(observed.shape[1], 1, dtype=torch.float64)
    boxes = Boxes(corner, corner + 1, torch.zeros(1, dtype=torch.long))
    front = observed[is_non_dominated(observed)]
    for point in front[front.prod(1).argsort(descending=True, stable=True)]:  # fewest boxes of the orders tried
        boxes, _ = cut(boxes, point[:, None])
    boxes = Boxes(
        boxes.lower.repeat(1, n_members),
        boxes.upper.repeat(1, n_members),
        torch.arange(n_members).repeat_interleave(len(boxes)),
    )
    if pending is not None:
        for values in pending.unbind(2):
            boxes, _ = cut(boxes, values)
    return boxes


def cut(boxes: Boxes, values: Tensor) -> tuple[Boxes, Boxes]:
    """Return what of the boxes lies outside, and what within, the reach of one material's values, float (m, S)."""
    reach = values[:, boxes.member]
    is_cut = (boxes.lower < reach).all(0)
    whole, within, reach = boxes.rows(~is_cut), boxes.rows(is_cut), reach[:, is_cut]
    inner = torch.minimum(within.upper, reach)
    outside = [whole]
    turn = (within.lower - within.upper).argsort(dim=0, stable=True).argsort(dim=0)  # longest side first: fewest boxes
    for j in range(len(values)):  # beyond the reach in objective j, within it in those that had their turn
        lower, upper = within.lower.clone(), torch.where(turn < turn[j], inner, within.upper)
        lower[j] = reach[j]
        outside.append(Boxes(lower, upper, within.member).rows(reach[j] < within.upper[j]))
    return Boxes.join(outside), Boxes(within.lower, inner, within.member)


def mean_improvements(boxes: Boxes, points: Tensor) -> Tensor:
    """Return the mean over the members of what of their boxes lies below each point, float (N,); points (m, S, N)."""
    _, n_members, n_points = points.shape
    total = torch.zeros(n_points, dtype=points.dtype)
    for start in range(0, n_points, _AT_ONCE):
        some = points[:, :, start : start + _AT_ONCE].contiguous()
        step = _AT_ONCE**2 // some.shape[2]
        for at in range(0, len(boxes), step):
            part = boxes.rows(slice(at, at + step))
            lengths = (
                torch.minimum(values.index_select(0, part.member), high).sub_(low).clamp_min_(0)
                for values, low, high in zip(some, part.lower[..., None], part.upper[..., None], strict=True)
            )
            total[start : start + _AT_ONCE] += reduce(Tensor.mul_, lengths).sum(0)
    return total / n_members
