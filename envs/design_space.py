"""`DesignSpace`: what may be built, as a functional environment over batches of integer tensors.

A state is a long tensor (n, state_size); rows are independent. Gymnasium and torchgfn environments are thin faces of
it, so that there is one set of rules. Every material has exactly one sequence of actions, ending in STOP.

    state = space.initial(n)
    while not space.is_finished(state).all():
        actions = choose(space.mask(state))      # bool (n, n_actions); a finished row allows STOP only
        state = space.step(state, actions)       # a finished row stays as it is
    space.decode(state)

Where sequences are long and mixed, actions come in kinds: every state knows the kind of its next action, and a policy
asks for the mask and the features of that kind alone (`kind`, `mask_of`, `features_of`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class ActionKind:
    """Actions with consecutive numbers that answer one question, such as "which space group?"."""

    name: str
    start: int
    """Number of the first of them."""
    size: int
    features: int
    """Number of the feature set by which they are decided."""


class DesignSpace(ABC):
    """All objects that may be built, and the rules by which they are built."""

    n_actions: int
    """Number of actions; the last one is STOP."""
    max_steps: int
    """Length of the longest action sequence, STOP included."""
    state_size: int
    """Columns of a state."""

    @property
    def stop(self) -> int:
        """The STOP action."""
        return self.n_actions - 1

    @property
    def n_features(self) -> int:
        """Columns of `features`."""
        return len(self.feature_names)

    @cached_property
    @abstractmethod
    def action_names(self) -> tuple[str, ...]:
        """One name an action; equal names mean the same building block in any space."""

    @cached_property
    @abstractmethod
    def feature_names(self) -> tuple[str, ...]:
        """One name a feature; equal names mean the same feature in any space."""

    @property
    def feature_bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each feature, float (n_features,) each; 0 and 1 unless a space says otherwise."""
        return torch.zeros(self.n_features), torch.ones(self.n_features)

    # Kinds of action: one, unless a space says otherwise

    @cached_property
    def kinds(self) -> tuple[ActionKind, ...]:
        """The kinds of action in the order of their numbers; together they hold every action once."""
        return (ActionKind("action", 0, self.n_actions, 0),)

    @cached_property
    def feature_sets(self) -> tuple[tuple[str, ...], ...]:
        """Names of the features of each feature set; equal names mean the same feature in any space."""
        return (self.feature_names,)

    def names_of_part(self, number: int) -> tuple[str, ...]:
        """Return the names of all actions that are decided by one feature set, in the order of their numbers."""
        kinds = [kind for kind in self.kinds if kind.features == number]
        return tuple(name for kind in kinds for name in self.action_names[kind.start : kind.start + kind.size])

    def kind(self, state: Tensor) -> Tensor:
        """Return the kind of each row's next action, long (n,); a finished row: the kind that holds STOP."""
        return torch.zeros(len(state), dtype=torch.long)

    def mask_of(self, kind: int, state: Tensor) -> Tensor:
        """Return which actions of a kind keep a valid object reachable, bool (n, size); all rows are of this kind."""
        return self.mask(state)

    def features_of(self, kind: int, state: Tensor) -> Tensor:
        """Return what a policy sees, float (n, F of the kind's feature set); all rows are of this kind."""
        return self.features(state)

    def rows_by_kind(self, state: Tensor) -> list[tuple[int, Tensor | slice]]:
        """Return each kind that is present and its rows, long (m,), or a slice of all rows where there is one kind."""
        if len(self.kinds) == 1:
            return [(0, slice(None))]
        kind = self.kind(state)
        present = kind.unique().tolist()  # type: ignore[no-untyped-call]
        if len(present) == 1:
            return [(present[0], slice(None))]
        return [(number, (kind == number).nonzero().squeeze(1)) for number in present]

    @property
    @abstractmethod
    def identity(self) -> dict[str, object]:
        """The settings that define this space, as JSON-compatible values."""

    @abstractmethod
    def initial(self, n: int) -> Tensor:
        """Return n empty objects, long (n, state_size)."""

    @abstractmethod
    def mask(self, state: Tensor) -> Tensor:
        """Return which actions keep a valid object reachable, bool (n, n_actions)."""

    @abstractmethod
    def allowed(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return whether one action a row is allowed, bool (n,): `mask(state)` at `actions`, without the rest."""

    @abstractmethod
    def step(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return the states after one action a row, long (n,); actions are taken on trust."""

    @abstractmethod
    def is_finished(self, state: Tensor) -> Tensor:
        """Return which rows have stopped, bool (n,)."""

    @abstractmethod
    def features(self, state: Tensor) -> Tensor:
        """Return what a policy sees, float (n, n_features)."""

    @abstractmethod
    def materials(self, state: Tensor) -> Sequence[str]:
        """Return the objects built so far in the form that surrogates read."""

    @abstractmethod
    def actions_of(self, state: Tensor) -> Tensor:
        """Return the actions that lead to each state, long (n, max_steps), padded with STOP."""

    @abstractmethod
    def explain(self, materials: Iterable[str]) -> list[str | None]:
        """Return for each material the rule ("kind: detail") by which it lies outside the space, None when inside."""

    @abstractmethod
    def encode(self, materials: Iterable[str]) -> Tensor:
        """Return the one action sequence of each material, long (n, max_steps), padded with STOP.

        Raises:
            ValueError: A material lies outside the space; the message names it and the rule.
        """

    def decode(self, state: Tensor) -> list[str]:
        """Return the objects built so far as text."""
        return list(self.materials(state))

    def replay(self, actions: Tensor) -> Tensor:
        """Return the states that action sequences, long (n, T), lead to."""
        state = self.initial(len(actions))
        for column in actions.T:
            state = self.step(state, column)
        return state

    def undo(self, state: Tensor) -> Tensor:
        """Return the states before their last action, STOP included; empty objects stay empty."""
        actions = self.actions_of(state)
        n_left = (actions != self.stop).sum(1) - (~self.is_finished(state)).long()
        before = self.initial(len(state))
        for step in range(self.max_steps):
            rows = (n_left > step).nonzero().squeeze(1)
            before[rows] = self.step(before[rows], actions[rows, step])
        return before

    def enumerate(self, limit: int = 1_000_000) -> Tensor:
        """Return every material of a small space once, as finished states, long (n, state_size).

        Raises:
            ValueError: There are more than `limit` objects on the way.
        """
        finished, growing = [], self.initial(1)
        for _ in range(self.max_steps):
            row, action = torch.cat([self.mask(part) for part in growing.split(4096)]).nonzero(as_tuple=True)  # type: ignore[no-untyped-call]
            if len(row) > limit:
                raise ValueError(f"the design space has more than {limit:,} objects; it is too large to enumerate")
            following = self.step(growing[row], action)
            done = self.is_finished(following)
            finished.append(following[done])
            growing = following[~done]
            if not len(growing):
                break
        return torch.cat(finished)

    def sample_uniform_policy(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Roll out the policy that chooses uniformly among the allowed actions; return n finished states.

        With one kind of action each step first proposes actions blindly and keeps those that are allowed; what is still
        open after a few rounds is drawn from the full mask. Both are uniform over the mask.
        """
        state = self.initial(n)
        while True:
            rows = (~self.is_finished(state)).nonzero().squeeze(1)
            if not len(rows):
                return state
            if len(self.kinds) > 1:  # one kind at a time, for all rows that have come so far
                kind = self.kind(state)[rows]
                rows = rows[kind == kind.min()]
            here = state.index_select(0, rows)
            state.index_copy_(0, rows, self.step(here, self._draw_uniform(here, generator)))

    def edit(self, actions: Tensor, generator: torch.Generator) -> Tensor:
        """Return a valid variation of each material, long (n, max_steps): here, with a new end.

        A trajectory is cut anywhere and finished by the uniform masked policy (backtracking and rebuilding, as in the
        local search of Kim et al. 2024, arXiv:2310.02710).

        Args:
            actions: Of the materials, long (n, max_steps), padded with STOP.
            generator: Source of all randomness.
        """
        length = (actions != self.stop).sum(1)
        kept = (torch.rand(len(actions), generator=generator) * (length + 1)).long().clamp_max(length)
        state, edited = self.initial(len(actions)), torch.full_like(actions, self.stop)
        for step in range(self.max_steps):
            chosen = torch.where(step < kept, actions[:, step], self.stop)
            rows = ((step >= kept) & ~self.is_finished(state)).nonzero().squeeze(1)
            if len(rows):
                chosen[rows] = self._draw_uniform(state[rows], generator)
            edited[:, step] = chosen
            state = self.step(state, chosen)
        return edited

    def _draw_uniform(self, state: Tensor, generator: torch.Generator | None, rounds: int = 6) -> Tensor:
        if len(self.kinds) > 1:
            return self._draw_uniform_by_kind(state, generator)
        actions = torch.empty(len(state), dtype=torch.long)
        pending = torch.arange(len(state))
        for _ in range(rounds):
            proposed = torch.randint(self.n_actions, (len(pending),), generator=generator)
            accepted = self.allowed(state[pending], proposed)
            actions[pending[accepted]] = proposed[accepted]
            pending = pending[~accepted]
            if not len(pending):
                return actions
        mask = self.mask(state[pending])
        actions[pending] = _choose_uniformly(mask, torch.rand(len(pending), generator=generator))
        return actions

    def _draw_uniform_by_kind(self, state: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw from the mask of each row's kind: blind proposals would mostly be of other kinds."""
        actions = torch.empty(len(state), dtype=torch.long)
        uniform = torch.rand(len(state), generator=generator)
        for number, rows in self.rows_by_kind(state):
            mask = self.mask_of(number, state if isinstance(rows, slice) else state.index_select(0, rows))
            actions[rows] = self.kinds[number].start + _choose_uniformly(mask, uniform[rows])
        return actions


def _choose_uniformly(mask: Tensor, uniform: Tensor) -> Tensor:
    """Return one allowed action a row, long (n,), by one uniform number a row."""
    running = mask.to(torch.int32).cumsum(1, dtype=torch.int32)
    ordinal = (uniform * running[:, -1]).to(torch.int32).clamp_max_(running[:, -1] - 1)
    return torch.searchsorted(running, ordinal[:, None], right=True).squeeze(1)
