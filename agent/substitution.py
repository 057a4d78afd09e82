"""Known compositions with elements exchanged for others that are known in the same surroundings.

Two elements are alike as often as known formulas differ in nothing else: SrTiO3 and BaTiO3 make Sr and Ba alike. A
prior that is fitted to such exchanges as well learns what is plausible without being known.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from envs import CompositionSpace

_SECOND_EXCHANGE = 0.3
"""Share of the compositions in which a second element may be exchanged."""


class Substitutions:
    """A source of exchanged compositions.

    Args:
        space: The design space; what it does not hold is left out.
        actions: Known compositions, long (n, T).
    """

    def __init__(self, space: CompositionSpace, actions: Tensor) -> None:
        self.space, self.actions = space, actions
        self._n_counts = space.rules.max_count
        self.likeness = self._count_exchanges()
        """How often one element stands in another's place, float (E, E); rows add up to 1 or are 0."""

    def _count_exchanges(self) -> Tensor:
        places: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for sequence in self.actions.tolist():
            placed = [action for action in sequence if action != self.space.stop]
            for position, action in enumerate(placed):
                others = (*placed[:position], *placed[position + 1 :])
                places[(action % self._n_counts, *others)].append(action // self._n_counts)
        n_elements = len(self.space.elements)
        likeness = torch.zeros(n_elements, n_elements)
        for elements in places.values():
            if len(elements) > 1:
                here = torch.tensor(elements)
                likeness[here[:, None], here] += 1 / len(elements)
        likeness.fill_diagonal_(0)
        return likeness / likeness.sum(1, keepdim=True).clamp_min(1e-9)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return at most n exchanged compositions inside the space, as action sequences, long (m, T)."""
        actions = self.actions[torch.randint(len(self.actions), (n,), generator=generator)]
        changed = torch.zeros(n, dtype=torch.bool)
        for exchanged in (torch.ones(n, dtype=torch.bool), torch.rand(n, generator=generator) < _SECOND_EXCHANGE):
            length = (actions != self.space.stop).sum(1)
            position = (torch.rand(n, generator=generator) * length).long().clamp_max(length - 1)[:, None]
            before = actions.gather(1, position).squeeze(1)
            weights = self.likeness[before // self._n_counts]
            exchanged = exchanged & weights.any(1)
            weights[~exchanged] = 1.0
            other = torch.multinomial(weights, 1, generator=generator).squeeze(1)
            after = other * self._n_counts + before % self._n_counts
            actions = actions.scatter(1, position, torch.where(exchanged, after, before)[:, None])
            changed |= exchanged
        actions = actions[changed].sort(1).values  # elements in their order, STOP behind all
        return actions[self._inside(actions)]

    def _inside(self, actions: Tensor) -> Tensor:
        """Which sequences every step of is allowed, bool (n,)."""
        inside, state = torch.ones(len(actions), dtype=torch.bool), self.space.initial(len(actions))
        for column in actions.T:
            inside &= self.space.allowed(state, column)
            state = self.space.step(state, column)
        return inside
