"""Edits of compositions: of whole elements and their counts, or of single atoms around a reference formula."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from envs.design_space import DesignSpace

_TRIES = 4
"""Tries at a valid edit of a composition."""

Change = Callable[[Tensor, int, int, torch.Generator], Tensor]
"""Makes one edit, valid or not, of action sequences (n, T) in canonical order, given STOP and the counts an element."""


def edit_compositions(
    space: DesignSpace, n_counts: int, actions: Tensor, generator: torch.Generator, change: Change
) -> Tensor:
    """Return a valid variation of each composition, long (n, max_steps).

    One edit, or with a chance of 1/2 each more. Where a few tries give nothing valid, the composition stays as it is.

    Args:
        space: Its actions are elements in canonical order, `n_counts` counts each, and STOP.
        n_counts: Counts of each element.
        actions: Of the compositions, long (n, max_steps), padded with STOP.
        generator: Source of all randomness.
        change: What an edit is: `edit_counts` or `move_atoms`.
    """
    edited = actions.clone()
    pending = torch.arange(len(actions))
    for _ in range(_TRIES):
        proposed = actions[pending]
        more = torch.arange(len(pending))
        while len(more):
            proposed[more] = change(proposed[more], space.stop, n_counts, generator)
            more = more[torch.rand(len(more), generator=generator) < 0.5]
        valid = _are_valid(space, proposed)
        edited[pending[valid]] = proposed[valid]
        pending = pending[~valid]
        if not len(pending):
            break
    return edited


def edit_counts(actions: Tensor, stop: int, n_counts: int, generator: torch.Generator) -> Tensor:
    """Exchange an element, set a count anew, add an element or drop one."""

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


def move_atoms(actions: Tensor, stop: int, n_counts: int, generator: torch.Generator) -> Tensor:
    """Exchange one atom, add one or remove one, as suits the supercell of a reference formula."""
    n, n_elements = len(actions), stop // n_counts
    rows = torch.arange(n)
    counts = torch.zeros(n, n_elements + 1, dtype=torch.long)  # the last column takes the padding
    counts.scatter_(1, actions // n_counts, torch.where(actions == stop, 0, actions % n_counts + 1))
    length = (actions != stop).sum(1).clamp_min(1)

    def present() -> Tensor:
        slot = (torch.rand(n, generator=generator) * length).long()
        return actions[rows, slot] // n_counts

    taken, given = present(), present()
    anything = (torch.rand(n, generator=generator) * n_elements).long()
    given = torch.where(torch.rand(n, generator=generator) < 0.5, anything, given)
    kind = (torch.rand(n, generator=generator) * 3).long()  # 0 exchanges, 1 adds, 2 removes
    counts[rows, taken] -= (kind != 1).long()
    counts[rows, given] += (kind != 2).long()
    counts = counts[:, :n_elements].clamp(0, n_counts)
    placed = torch.where(counts > 0, torch.arange(n_elements) * n_counts + counts - 1, stop)
    return placed.sort(1).values[:, : actions.shape[1]]


def _are_valid(space: DesignSpace, actions: Tensor) -> Tensor:
    """Return which sequences are those of a finished material of the space, bool (n,)."""
    state, valid = space.initial(len(actions)), torch.ones(len(actions), dtype=torch.bool)
    for column in actions.T:
        rows = valid.nonzero().squeeze(1)
        valid[rows] = space.allowed(state[rows], column[rows])
        rows = valid.nonzero().squeeze(1)
        state[rows] = space.step(state[rows], column[rows])
    return valid & space.is_finished(state)
