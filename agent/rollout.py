"""Trajectories in batches: how they grow, what is kept of them, and the states along given ones.

walk = Walk(space, n, space.max_steps)
while len(walk.rows):
    walk.advance(choose(walk.open))         # one action of every trajectory that is still open
visited = visit(space, actions)             # the states where a choice was made, grouped by kind of action
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from envs import DesignSpace


@dataclass(frozen=True)
class Rollout:
    """n finished trajectories of T steps, short ones padded with STOP."""

    actions: Tensor
    """Long (n, T)."""
    states: Tensor
    """States before each step and after the last one, long (T + 1, n, state_size); where the way was not kept, the
    finished ones alone, long (1, n, state_size)."""
    step_log_prob: Tensor
    """Log-probability of each action under the policy itself, exploration left out, float (n, T)."""
    log_reference: Tensor | None = None
    """Log-probability of each trajectory under a reference network, float (n,), where one was given."""

    log_exploring: Tensor | None = None
    """Log-probability of each trajectory under the exploring policy, float (n,), where that is another one."""

    @property
    def log_drawn(self) -> Tensor:
        """Log-probability of each trajectory under the distribution that it was drawn from, float (n,), no gradient."""
        return self.log_prob.detach() if self.log_exploring is None else self.log_exploring

    @property
    def state(self) -> Tensor:
        """The finished states, long (n, state_size)."""
        return self.states[-1]

    @property
    def log_prob(self) -> Tensor:
        """Log-probability of each trajectory under the policy itself, float (n,)."""
        return self.step_log_prob.sum(1)


@dataclass(frozen=True)
class VisitedKind:
    """M states where an action of one kind was chosen, in one batch."""

    kind: int
    features: Tensor
    """Float (M, F)."""
    mask: Tensor
    """Bool (M, size of the kind)."""
    row: Tensor
    """Long (M,): the sequence that each belongs to."""
    step: Tensor
    """Long (M,): the position in it."""


@dataclass(frozen=True)
class Visited:
    """The states along n given action sequences where a choice was made."""

    groups: tuple[VisitedKind, ...]
    """One a kind; states that leave no choice are left out, see `choices`."""
    actions: Tensor
    """Long (n, T): the sequences."""
    states: Tensor
    """Long (T + 1, n, state_size): all states, or (1, n, state_size): those at the end."""


class Walk:
    """n trajectories on their way from the empty object; each state is written once.

    Args:
        space: The design space.
        n: Number of trajectories.
        length: Steps at most.
        keep_states: Whether to keep the states on the way, or the last ones only.
        by_kind: Whether trajectories wait for each other where the kind of action changes, so that one kind is due at a
            time; otherwise all take each step together.
    """

    def __init__(
        self, space: DesignSpace, n: int, length: int, keep_states: bool = True, by_kind: bool = False
    ) -> None:
        self.space, self.length, self.keep_states = space, length, keep_states
        self.rows = torch.arange(n)
        """Trajectories whose action is due, long (m,)."""
        self.steps = torch.zeros(n, dtype=torch.long)
        """Steps that each of them has taken, long (m,)."""
        self.open = space.initial(n)
        """Their states, long (m, state_size)."""
        self.states = self.open.new_empty(length + 1 if keep_states else 1, *self.open.shape)
        """As in `Rollout`; complete when all trajectories are finished or have taken `length` steps."""
        self.states[0] = self.open
        self._by_kind = by_kind and len(space.kinds) > 1
        self._kind = int(space.kind(self.open[:1])) if self._by_kind and n else 0
        self._waiting: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)  # rows, steps, states

    def advance(self, actions: Tensor) -> None:
        """Take one action, long (m,), of every trajectory that is due."""
        following, steps = self.space.step(self.open, actions), self.steps + 1
        finished = self.space.is_finished(following)
        ended = finished | (steps == self.length)
        if self.keep_states:
            self._keep(following, steps, finished)
        elif ended.any():
            done = ended.nonzero().squeeze(1)
            self.states[0].index_copy_(0, self.rows[done], following.index_select(0, done))
        stays = ~ended
        if self._by_kind:
            kind = self.space.kind(following)
            leaves = (stays & (kind != self._kind)).nonzero().squeeze(1)
            stays &= kind == self._kind
            for number in kind[leaves].unique().tolist():  # type: ignore[no-untyped-call]
                part = leaves[kind[leaves] == number]
                self._waiting[number].append((self.rows[part], steps[part], following.index_select(0, part)))
        left = stays.nonzero().squeeze(1)
        if len(left) < len(stays):
            self.rows, steps, following = self.rows[left], steps[left], following.index_select(0, left)
        self.steps, self.open = steps, following
        if not len(left) and self._waiting:
            self._kind = min(self._waiting)
            self.rows, self.steps, self.open = map(torch.cat, zip(*self._waiting.pop(self._kind), strict=True))

    def _keep(self, following: Tensor, steps: Tensor, finished: Tensor) -> None:
        self.states[steps, self.rows] = following
        for step in steps[finished].unique().tolist():  # type: ignore[no-untyped-call]
            done = finished & (steps == step)
            self.states[step + 1 :, self.rows[done]] = following[done]


@dataclass(frozen=True)
class Choice:
    """States where an action of one kind is due, and more than one is allowed."""

    kind: int
    at: Tensor | slice
    """Their rows."""
    features: Tensor
    """Float (m, F)."""
    mask: Tensor
    """Bool (m, size of the kind)."""


def choices(space: DesignSpace, state: Tensor) -> tuple[Tensor, list[Choice]]:
    """Return the actions of rows that leave no choice, long (n,), and what is to be chosen in all others, by kind.

    With one kind of action every row counts as a choice.
    """
    forced, found = torch.empty(len(state), dtype=torch.long), []
    for number, at in space.rows_by_kind(state):
        kind, group = space.kinds[number], state if isinstance(at, slice) else state.index_select(0, at)
        if kind.size == 1:
            forced[at] = kind.start
            continue
        mask = space.mask_of(number, group)
        free = mask.sum(1) != 1 if len(space.kinds) > 1 else mask.new_ones(len(mask))
        if free.all():
            found.append(Choice(number, at, space.features_of(number, group), mask))
            continue
        forced[at] = kind.start + mask.to(torch.uint8).argmax(1)
        rows = free.nonzero().squeeze(1)
        if len(rows):  # features of the whole group: a space may share work between them and the mask
            features = space.features_of(number, group).index_select(0, rows)
            where = rows if isinstance(at, slice) else at[rows]
            found.append(Choice(number, where, features, mask.index_select(0, rows)))
    return forced, found


class Record:
    """The choices made along trajectories, to be judged again in one batch a kind."""

    def __init__(self) -> None:
        self._found: dict[int, list[tuple[Tensor, Tensor, Tensor, Tensor]]] = defaultdict(list)

    def add(self, choice: Choice, rows: Tensor, steps: Tensor | int) -> None:
        """Record a choice of some trajectories at their steps; features and mask of one state may serve all of them."""
        features, mask = (values.expand(len(rows), -1) for values in (choice.features, choice.mask))
        steps = steps if isinstance(steps, Tensor) else torch.full_like(rows, steps)
        self._found[choice.kind].append((features, mask, rows, steps))

    def groups(self) -> tuple[VisitedKind, ...]:
        """Return all choices, grouped by kind."""
        parts = sorted(self._found.items())
        return tuple(VisitedKind(kind, *map(torch.cat, zip(*found, strict=True))) for kind, found in parts)


def visit(space: DesignSpace, actions: Tensor, keep_states: bool = True) -> Visited:
    """Walk along action sequences, long (n, T), and collect the states where a choice was made."""
    n, length = actions.shape
    walk, record = Walk(space, n, length, keep_states, by_kind=True), Record()
    while len(walk.rows) and length:
        for choice in choices(space, walk.open)[1]:
            record.add(choice, walk.rows[choice.at], walk.steps[choice.at])
        walk.advance(actions[walk.rows, walk.steps])
    return Visited(record.groups(), actions, walk.states)
