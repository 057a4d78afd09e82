"""Small design spaces with several kinds of action, and what their materials are by brute force."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from envs import CompositionSpace, DesignSpace
from envs.design_space import ActionKind

TOTALS = {"red": 4, "green": 5, "blue": 6}
"""The highest sum of digits that each colour bears."""
DIGITS = (1, 2, 3)
_COLOURS = list(TOTALS)


@lru_cache
def every_coloured_number() -> list[str]:
    """All materials of `ColouredNumbers`, by brute force."""
    return [
        f"{colour} {''.join(map(str, digits))}"
        for colour, total in TOTALS.items()
        for length in range(1, total + 1)
        for digits in product(DIGITS, repeat=length)
        if sum(digits) <= total
    ]


class ColouredNumbers(DesignSpace):
    """A colour, then digits whose sum is at most the colour's total, each followed by "more" or "last", then STOP.

    Action numbers: 0-2 colours, 3-5 digits, 6-7 more and last, 8 STOP. Colours and more or last are decided by one
    feature set, digits (and STOP) by another, so that neither set has its actions in a row.

    States are (finished, colour from 1 on, kind that is due, digits..., 0).
    """

    n_actions = 9
    max_steps = 2 + 2 * max(TOTALS.values())
    state_size = 2 + 1 + max(TOTALS.values()) + 1
    kinds = (  # type: ignore[assignment]
        ActionKind("colour", 0, 3, 0),
        ActionKind("digit", 3, 3, 1),
        ActionKind("length", 6, 2, 0),
        ActionKind("STOP", 8, 1, 1),
    )

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        return (*_COLOURS, *(f"digit {d}" for d in DIGITS), "more", "last", "STOP")

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        return (*self.feature_sets[0], "digit due", "STOP due")

    @cached_property
    def feature_sets(self) -> tuple[tuple[str, ...], ...]:
        placed = tuple(f"{position} is {d}" for position in range(max(TOTALS.values())) for d in DIGITS)
        return (*_COLOURS, *placed), (*_COLOURS, *placed, *(f"room for {n}" for n in range(7)))

    @property
    def identity(self) -> dict[str, object]:
        return {"totals": TOTALS}

    def initial(self, n: int) -> Tensor:
        return torch.zeros(n, self.state_size, dtype=torch.long)

    def _room(self, state: Tensor) -> Tensor:
        totals = torch.tensor([0, *TOTALS.values()])
        return totals[state[:, 1]] - state[:, 3:].sum(1)

    def kind(self, state: Tensor) -> Tensor:
        return state[:, 2]

    def mask_of(self, kind: int, state: Tensor) -> Tensor:
        assert (state[:, 2] == kind).all()
        room = self._room(state)[:, None]
        if kind == 1:
            return torch.tensor(DIGITS) <= room
        if kind == 2:
            return torch.cat([room > 0, torch.ones_like(room, dtype=torch.bool)], dim=1)
        return torch.ones(len(state), self.kinds[kind].size, dtype=torch.bool)

    def mask(self, state: Tensor) -> Tensor:
        mask = torch.zeros(len(state), self.n_actions, dtype=torch.bool)
        for number, kind in enumerate(self.kinds):
            rows = (state[:, 2] == number).nonzero().squeeze(1)
            mask[rows, kind.start : kind.start + kind.size] = self.mask_of(number, state[rows])
        return mask

    def allowed(self, state: Tensor, actions: Tensor) -> Tensor:
        return self.mask(state).gather(1, actions[:, None]).squeeze(1)

    def step(self, state: Tensor, actions: Tensor) -> Tensor:
        state = state.clone()
        stops = (actions == self.stop) | self.is_finished(state)
        colours, digits = ~stops & (actions < 3), ~stops & (actions >= 3) & (actions < 6)
        state[stops, 0] = 1
        state[colours, 1] = actions[colours] + 1
        rows = digits.nonzero().squeeze(1)
        state[rows, 3 + (state[rows, 3:] > 0).sum(1)] = torch.tensor(DIGITS)[actions[rows] - 3]
        due = torch.where(colours, 1, torch.where(digits, 2, torch.where(~stops & (actions == 6), 1, 3)))
        state[:, 2] = due
        return state

    def is_finished(self, state: Tensor) -> Tensor:
        return state[:, 0] == 1

    def features(self, state: Tensor) -> Tensor:
        return torch.cat([self.features_of(0, state), state[:, 2:3] == 1, state[:, 2:3] == 3], dim=1)

    def features_of(self, kind: int, state: Tensor) -> Tensor:
        colour = one_hot(state[:, 1], 4)[:, 1:]
        placed = one_hot(state[:, 3:-1], 4)[..., 1:].flatten(1)
        both = torch.cat([colour, placed], dim=1).float()
        if self.kinds[kind].features == 0:
            return both
        return torch.cat([both, one_hot(self._room(state), 7).float()], dim=1)

    def materials(self, state: Tensor) -> Sequence[str]:
        return [f"{['', *_COLOURS][row[1]]} {''.join(str(d) for d in row[3:] if d)}".strip() for row in state.tolist()]

    def actions_of(self, state: Tensor) -> Tensor:
        sequences = []
        for row in state.tolist():
            digits = [d for d in row[3:] if d]
            sequence = [row[1] - 1] if row[1] else []
            for position, digit in enumerate(digits, 1):
                decided = position < len(digits) or row[2] in (1, 3)
                sequence += [DIGITS.index(digit) + 3, 6 if position < len(digits) or row[2] == 1 else 7][: 1 + decided]
            sequences.append(sequence + [self.stop] * (self.max_steps - len(sequence)))
        return torch.tensor(sequences, dtype=torch.long).reshape(-1, self.max_steps)

    def explain(self, materials: Iterable[str]) -> list[str | None]:
        return [None if text in every_coloured_number() else f"sum: {text} is none" for text in materials]

    def encode(self, materials: Iterable[str]) -> Tensor:
        states = self.initial(0)
        for text in materials:
            if text not in every_coloured_number():
                raise ValueError(f"{text!r} is outside the design space")
            colour, digits = text.split()
            row = [1, _COLOURS.index(colour) + 1, 3, *map(int, digits)]
            states = torch.cat([states, torch.tensor([row + [0] * (self.state_size - len(row))])])
        return self.actions_of(states)


TAGS = ("cubic", "hexagonal", "other")


class TaggedCompositions(DesignSpace):
    """A composition, finished by its own STOP, then a tag, then STOP: the composition is decided as it is alone."""

    def __init__(self, **limits: Any) -> None:
        self.compositions = CompositionSpace(**limits)
        self.n_actions = self.compositions.n_actions + len(TAGS) + 1
        self.max_steps = self.compositions.max_steps + 2
        self.state_size = self.compositions.state_size + 2  # tag (1..), finished

    @cached_property
    def kinds(self) -> tuple[ActionKind, ...]:
        n = self.compositions.n_actions
        return (
            ActionKind("composition", 0, n, 0),
            ActionKind("tag", n, len(TAGS), 1),
            ActionKind("STOP", n + len(TAGS), 1, 1),
        )

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        return (*self.compositions.action_names[:-1], "composition done", *(f"tag {tag}" for tag in TAGS), "STOP")

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        return self.compositions.feature_names

    @cached_property
    def feature_sets(self) -> tuple[tuple[str, ...], ...]:
        return self.feature_names, tuple(f"with {symbol}" for symbol in self.compositions.elements)

    def names_of_part(self, number: int) -> tuple[str, ...]:
        return self.compositions.action_names if number == 0 else super().names_of_part(number)

    @property
    def identity(self) -> dict[str, object]:
        return self.compositions.identity

    def initial(self, n: int) -> Tensor:
        return torch.cat([self.compositions.initial(n), torch.zeros(n, 2, dtype=torch.long)], dim=1)

    def kind(self, state: Tensor) -> Tensor:
        composed = self.compositions.is_finished(state[:, :-2])
        return torch.where(state[:, -2] > 0, 2, composed.long())

    def mask_of(self, kind: int, state: Tensor) -> Tensor:
        if kind == 0:
            return self.compositions.mask(state[:, :-2])
        return torch.ones(len(state), self.kinds[kind].size, dtype=torch.bool)

    def features_of(self, kind: int, state: Tensor) -> Tensor:
        features = self.compositions.features(state[:, :-2])
        return features if kind == 0 else features[:, : len(self.compositions.elements)]

    def mask(self, state: Tensor) -> Tensor:
        mask = torch.zeros(len(state), self.n_actions, dtype=torch.bool)
        for number, kind in enumerate(self.kinds):
            rows = (self.kind(state) == number).nonzero().squeeze(1)
            mask[rows, kind.start : kind.start + kind.size] = self.mask_of(number, state[rows])
        return mask

    def allowed(self, state: Tensor, actions: Tensor) -> Tensor:
        return self.mask(state).gather(1, actions[:, None]).squeeze(1)

    def step(self, state: Tensor, actions: Tensor) -> Tensor:
        state, kind = state.clone(), self.kind(state)
        composing = kind == 0
        state[composing, :-2] = self.compositions.step(state[composing, :-2], actions[composing])
        state[kind == 1, -2] = actions[kind == 1] - self.kinds[1].start + 1
        state[kind == 2, -1] = 1
        return state

    def is_finished(self, state: Tensor) -> Tensor:
        return state[:, -1] == 1

    def features(self, state: Tensor) -> Tensor:
        return self.compositions.features(state[:, :-2])

    def materials(self, state: Tensor) -> Sequence[str]:
        formulas = self.compositions.decode(state[:, :-2])
        return [f"{f} {['', *TAGS][tag]}".strip() for f, tag in zip(formulas, state[:, -2].tolist(), strict=True)]

    def actions_of(self, state: Tensor) -> Tensor:
        composed, tag = self.compositions.is_finished(state[:, :-2]), state[:, -2]
        return self._sequences(self.compositions.actions_of(state[:, :-2]), composed, tag)

    def _sequences(self, composition: Tensor, composed: Tensor, tag: Tensor) -> Tensor:
        rows, n_placed = torch.arange(len(tag)), (composition != self.compositions.stop).sum(1)
        actions = torch.full((len(tag), self.max_steps), self.stop)
        placed = torch.arange(composition.shape[1]) < n_placed[:, None]
        actions[:, : composition.shape[1]] = torch.where(placed, composition, self.stop)
        actions[rows, n_placed] = torch.where(composed, self.compositions.stop, self.stop)
        actions[rows, n_placed + 1] = torch.where(tag > 0, self.kinds[1].start + tag - 1, self.stop)
        return actions

    def explain(self, materials: Iterable[str]) -> list[str | None]:
        formulas, tags = zip(*(text.split() for text in materials), strict=True)
        reasons = self.compositions.explain(formulas)
        return [r or (None if tag in TAGS else f"tag: {tag}") for r, tag in zip(reasons, tags, strict=True)]

    def encode(self, materials: Iterable[str]) -> Tensor:
        formulas, tags = zip(*(text.split() for text in materials), strict=True)
        number = torch.tensor([TAGS.index(tag) + 1 for tag in tags])
        return self._sequences(self.compositions.encode(formulas), torch.ones_like(number, dtype=torch.bool), number)
