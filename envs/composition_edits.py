"""Edits of compositions: an element exchanged, a count set anew, an element added or dropped."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.design_space import DesignSpace

_TRIES = 4
"""Tries at a valid edit of a composition."""


def edit_compositions(space: DesignSpace, n_counts: int, actions: Tensor, generator: torch.Generator) -> Tensor:
    """Return a valid variation of each composition, long (n, max_steps).

    One edit, or with a chance of 1/2 each more. Where a few tries give nothing valid, the composition stays as it is.

    Args:
        space: Its actions are elements in canonical order, `n_counts` counts each, and STOP.
        n_counts: Counts of each element.
        actions: Of the compositions, long (n, max_steps), padded with STOP.
        generator: Source of all randomness.
    """
    edited = actions.clone()
    pending = torch.arange(len(actions))
    for _ in range(_TRIES):
        proposed = actions[pending]
        more = torch.arange(len(pending))
        while len(more):
            proposed[more] = _edit_once(proposed[more], space.stop, n_counts, generator)
            more = more[torch.rand(len(more), generator=generator) < 0.5]
        valid = _are_valid(space, proposed)
        edited[pending[valid]] = proposed[valid]
        pending = pending[~valid]
        if not len(pending):
            break
    return edited


def _edit_once(actions: Tensor, stop: int, n_counts: int, generator: torch.Generator) -> Tensor:
    """Return sequences with one edit, in canonical order, valid or not."""

    def random(high: Tensor | int) -> Tensor:
        return (torch.rand(len(actions), generator=generator) * high).long()

    rows, length = torch.arange(len(actions)), (actions != stop).sum(1)
    kind, slot = random(4), random(length.clamp_min(1))
    element, count = random(stop // n_counts), random(n_counts)
    slot = torch.where(kind == 2, length.clamp_max(actions.shape[1] - 1), slot)
    before = actions[rows, slot]
    placed = torch.stack(
        [
            element * n_counts + before % n_counts,  # another element, as many of it
            before // n_counts * n_counts + count,  # the same element, another count
            element * n_counts + count,  # one element more
            torch.full_like(before, stop),  # one element less
        ]
    )[kind, rows]
    edited = actions.clone()
    edited[rows, slot] = torch.where((length == 0) & (kind != 2), stop, placed)
    return edited.sort(1).values


def _are_valid(space: DesignSpace, actions: Tensor) -> Tensor:
    """Return which sequences are those of a finished material of the space, bool (n,)."""
    state, valid = space.initial(len(actions)), torch.ones(len(actions), dtype=torch.bool)
    for column in actions.T:
        rows = valid.nonzero().squeeze(1)
        valid[rows] = space.allowed(state[rows], column[rows])
        rows = valid.nonzero().squeeze(1)
        state[rows] = space.step(state[rows], column[rows])
    return valid & space.is_finished(state)
