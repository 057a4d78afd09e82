"""`CompositionSpace`: chemical compositions, built by adding one element with its count at a time.

space = CompositionSpace(required=["O"], max_elements=3)
state = space.sample_uniform_policy(5, torch.Generator().manual_seed(0))
space.decode(state)        # five charge-neutral oxides
space.encode(["SrTiO3"])   # the one action sequence that builds SrTiO3
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from smact.screening import ICSD24FilterConfig
from torch import Tensor

from envs.charge_sets import BITS_PER_WORD, shift, union
from envs.chemistry import ATOMIC_NUMBERS, check_elements
from envs.completion import complete_limits
from envs.composition_edits import edit_compositions, edit_counts, move_atoms
from envs.composition_encoding import encode_compositions
from envs.composition_features import CompositionFeatures
from envs.composition_limits import CompositionLimits
from envs.design_space import DesignSpace
from envs.formula import CompositionBatch
from envs.look_ahead import LookAheadTables, build_tables
from envs.reference_formula import default_sizes

_STOPPED, _LAST, _BUDGET, _FIRST_PLACED = range(4)  # columns of a state
_MASK_CHUNK = 128  # rows whose table entries fit the processor's cache: 5 x faster than all rows at once


class CompositionSpace(DesignSpace):
    """All valid compositions within limits.

    A composition is valid when its counts have no common divisor and some choice of one oxidation state per element
    makes the charges sum to zero with every cation less electronegative than every anion: exactly the compositions of
    two or more elements that pass `smact.screening.smact_validity(include_alloys=False)` with the same states.

    With a reference formula, the compositions are those within a number of edits around it (`envs.edit_budget`):
    amounts of the reference's cell, such as Sr7BaTi8O24 around Sr8Ti8O24, whose counts may have a common divisor. They
    must be neutral with one oxidation state per element like all others, so that an aliovalent dopant comes with what
    compensates it (a second dopant, vacancies); charge_neutral=False lets it come alone. The reference itself need not
    be valid: an element of it that is forbidden is one to be replaced.

    Args:
        elements: Elements that may be used; None: all that the oxidation-state set and the rules know. Those of a
            reference or of a partial formula may be used anyway.
        required: Elements that every composition contains.
        forbidden: Elements that none contains.
        min_elements: Fewest elements in a composition.
        max_elements: Most elements in a composition.
        max_atoms: Most atoms in the reduced formula, or around a reference in its cell; None: 20, or as many as the
            edits of the reference can reach.
        max_count: Most atoms of one element, likewise; None: 8, or as many as the edits can reach.
        count_ranges: Lowest and highest count by element, in force when the element is present; takes the place of
            1..max_count for that element.
        oxidation_states: A set of SMACT's: icsd24, smact14, icsd16, pymatgen_sp or wiki.
        icsd24_filter: How the set icsd24 is filtered; SMACT's defaults when None.
        charge_neutral: False switches all charge rules off, as intermetallics need.
        pauling: False drops the electronegativity rule and keeps neutrality.
        reference: Formula to stay close to, as written: not reduced, so that Sr8Ti8O24 is a supercell.
        max_edits: Most edits away from the reference; one exchanges, adds or removes an atom.
        keep: Elements whose count stays that of the reference.
        complete: A partial formula with blanks, such as "Li ? O" (`envs.completion`); sets required and count_ranges,
            min_elements and max_elements.

    Raises:
        ValueError: An unknown element or set, contradictory limits, or limits that leave nothing; the message names
            the limits in conflict.
    """

    def __init__(
        self,
        elements: Iterable[str] | None = None,
        required: Iterable[str] = (),
        forbidden: Iterable[str] = (),
        min_elements: int = 2,
        max_elements: int = 5,
        max_atoms: int | None = None,
        max_count: int | None = None,
        count_ranges: Mapping[str, tuple[int, int]] | None = None,
        oxidation_states: str = "icsd24",
        icsd24_filter: ICSD24FilterConfig | None = None,
        charge_neutral: bool = True,
        pauling: bool = True,
        reference: str | None = None,
        max_edits: int | None = None,
        keep: Iterable[str] = (),
        complete: str | None = None,
    ) -> None:
        if complete is not None and reference is not None:
            raise ValueError("complete, reference: both are given (expected one of them)")
        atoms, count = default_sizes(reference, max_edits)
        given: dict[str, Any] = {
            "elements": None if elements is None else check_elements(elements, "elements"),
            "required": check_elements(required, "required"),
            "forbidden": check_elements(forbidden, "forbidden"),
            "min_elements": min_elements,
            "max_elements": max_elements,
            "max_atoms": atoms if max_atoms is None else max_atoms,
            "max_count": count if max_count is None else max_count,
            "count_ranges": {} if count_ranges is None else count_ranges,
        }
        if complete is not None:
            names = ("elements", "required", "forbidden", "count_ranges", "max_atoms")
            given |= complete_limits(complete, *(given[name] for name in names))
        limits = CompositionLimits(
            **given,
            oxidation_states=oxidation_states,
            icsd24_filter=icsd24_filter,
            charge_neutral=charge_neutral,
            pauling=pauling,
            reference=reference,
            max_edits=max_edits,
            keep=check_elements(keep, "keep"),
        )
        self._build(limits, "" if complete is None else f"complete: {complete!r} cannot be filled: ")

    @classmethod
    def within(cls, limits: CompositionLimits) -> CompositionSpace:
        """Return the space of the compositions within limits."""
        space = cls.__new__(cls)
        space._build(limits)
        return space

    def _build(self, limits: CompositionLimits, purpose: str = "") -> None:
        self.limits = limits
        self.elements = limits.available()
        self.rules = limits.rules()
        """The limits in terms of the available elements."""
        tables = build_tables(self.rules)
        if not tables.feasible:
            raise ValueError(purpose + self.limits.describe_conflict())
        self._n_counts = self.rules.max_count
        self.n_actions = len(self.elements) * self._n_counts + 1
        self.max_steps = limits.max_elements + 1
        self._n_words = tables.from_clean.shape[-1]
        self._first_word = _FIRST_PLACED + limits.max_elements
        self.state_size = self._first_word + 3 * self._n_words
        self._features = CompositionFeatures(self.elements, tables.lowest_charge)
        self._load(tables)

    def _load(self, tables: LookAheadTables) -> None:
        """Turn the tables into tensors laid out for `mask` and `step`."""
        n_elements, n_counts = len(self.elements), self._n_counts

        def by_action(table: object) -> Tensor:
            return torch.as_tensor(table).flatten(1, 2).contiguous()

        self._from_clean = by_action(tables.from_clean)  # (B, E*C, W)
        self._from_tied = by_action(tables.from_tied)
        self._from_anion = by_action(tables.from_anion)
        self._zone = torch.as_tensor(tables.zone)
        self._next_budget = torch.as_tensor(tables.next_budget)
        self._budgets = torch.as_tensor(tables.budgets)
        self._may_stop = torch.as_tensor(tables.may_stop)
        self._may_follow = torch.as_tensor(tables.may_follow).repeat_interleave(n_counts, dim=1)  # (E + 1, E*C)
        groups = [-1, *self.rules.tie_group]
        self._tie_group = torch.tensor(groups)
        followers = [
            [e for e in range(last, n_elements) if self.rules.tie_group[e] == group]
            for last, group in enumerate(groups)
        ]
        width = max(map(len, followers)) if self.rules.charge_rule == "pauling" else 0
        self._tied_actions = torch.tensor(
            [
                [
                    e * n_counts + c
                    for e in (follow + follow[:1] * width)[:width] or [0] * width
                    for c in range(n_counts)
                ]
                for follow in followers
            ],
            dtype=torch.long,
        )  # (E + 1, width*C): actions on later elements that tie with the last one, repeated to fill the row
        self._tie_follows = torch.tensor([bool(follow) for follow in followers])
        states = [s if self.rules.charge_rule != "none" else (0,) for s in self.rules.oxidation_states]
        width = max(map(len, states))
        self._states = torch.tensor([list(s) + [0] * (width - len(s)) for s in states])  # (E, R)
        self._state_exists = torch.tensor([[True] * len(s) + [False] * (width - len(s)) for s in states])
        self._atomic_numbers = torch.tensor([0, *(ATOMIC_NUMBERS[symbol] for symbol in self.elements)])
        zero = -tables.lowest_charge
        start = torch.zeros(self.state_size, dtype=torch.long)
        start[self._first_word + zero // BITS_PER_WORD] = 1 << (zero % BITS_PER_WORD)  # phase CLEAN, charge 0
        self._start = start
        self._zero_word, self._zero_bit = zero // BITS_PER_WORD, zero % BITS_PER_WORD
        assert self._from_clean.shape[1] == n_elements * n_counts

    # What defines the space

    @property
    def identity(self) -> dict[str, object]:
        """The settings of the constructor, as JSON-compatible values."""
        return self.limits.as_json()

    def __repr__(self) -> str:
        return f"CompositionSpace({len(self.elements)} elements, {self.n_actions} actions)"

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        """Element and count of each action, e.g. "O3"; "STOP" last."""
        names = [f"{symbol}{count}" for symbol in self.elements for count in range(1, self._n_counts + 1)]
        return (*names, "STOP")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One name a column of `features`; see `envs.composition_features`."""
        return self._features.names

    @property
    def feature_bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each feature, float (n_features,) each; counts are in units of 8 atoms."""
        lowest, highest = super().feature_bounds
        columns, counts = self._features.highest_counts(self.rules.count_range)
        highest[columns] = counts
        return lowest, highest

    # Functional environment

    def initial(self, n: int) -> Tensor:
        """Return n empty compositions, long (n, state_size)."""
        return self._start.repeat(n, 1)

    def is_finished(self, state: Tensor) -> Tensor:
        """Return which rows have stopped, bool (n,)."""
        return state[:, _STOPPED] == 1

    def mask(self, state: Tensor) -> Tensor:
        """Return which actions keep a valid composition reachable, bool (n, n_actions); see `envs.look_ahead`."""
        last, budget = state[:, _LAST], state[:, _BUDGET]
        clean, tied, anion = self._charges(state)
        pauling = self.rules.charge_rule == "pauling"
        allowed = torch.empty(len(state), self.n_actions - 1, dtype=torch.bool)
        for start in range(0, len(state), _MASK_CHUNK):
            rows = slice(start, start + _MASK_CHUNK)
            meets = self._from_clean[budget[rows]].bitwise_and_((clean | tied)[rows, None])
            if pauling:
                meets |= self._from_anion[budget[rows]].bitwise_and_(anion[rows, None])
            allowed[rows] = meets.squeeze(-1) != 0 if self._n_words == 1 else (meets != 0).any(-1)
        if pauling and self._tied_actions.shape[1]:
            self._correct_ties(allowed, last, budget, clean, tied, anion)
        allowed &= self._may_follow[last]
        mask = torch.cat([allowed, self._may_stop_now(state)[:, None]], dim=1)
        finished = self.is_finished(state)
        if finished.any():
            mask[finished] = False
            mask[finished, -1] = True
        return mask

    def _correct_ties(
        self, allowed: Tensor, last: Tensor, budget: Tensor, clean: Tensor, tied: Tensor, anion: Tensor
    ) -> None:
        """Judge the actions on elements that tie with the last one again: no anion may follow a tied cation."""
        rows = ((tied != 0).any(1) & self._tie_follows[last]).nonzero().squeeze(1)
        actions = self._tied_actions[last[rows]]  # (r, A)
        at_budget = budget[rows, None]
        verdict = (
            (clean[rows, None] & self._from_clean[at_budget, actions])
            | (tied[rows, None] & self._from_tied[at_budget, actions])
            | (anion[rows, None] & self._from_anion[at_budget, actions])
        )
        allowed[rows[:, None], actions] = (verdict != 0).any(-1)

    def allowed(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return whether one action a row is allowed, bool (n,)."""
        last, budget = state[:, _LAST], state[:, _BUDGET]
        stops = actions == self.stop
        placing = actions.clamp_max(self.n_actions - 2)
        clean, tied, anion = self._charges(state)
        same_group = (self._tie_group[last] == self._tie_group[placing // self._n_counts + 1])[:, None]
        free = torch.where(same_group, clean, clean | tied)
        meets = (
            (free & self._from_clean[budget, placing])
            | (torch.where(same_group, tied, 0) & self._from_tied[budget, placing])
            | (anion & self._from_anion[budget, placing])
        )
        may_place = (meets != 0).any(1) & self._may_follow[last, placing] & ~self.is_finished(state)
        return torch.where(stops, self.is_finished(state) | self._may_stop_now(state), may_place)

    def _may_stop_now(self, state: Tensor) -> Tensor:
        clean, tied, anion = (words[:, self._zero_word] for words in self._charges(state))
        neutral = ((clean | tied | anion) >> self._zero_bit) & 1
        return (neutral == 1) & self._may_stop[state[:, _BUDGET], state[:, _LAST]]

    def _charges(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Charge sets of the phases CLEAN, TIED and ANION, each (n, W)."""
        charges = state[:, self._first_word :].reshape(-1, 3, self._n_words)
        return charges[:, 0], charges[:, 1], charges[:, 2]

    def step(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return the states after one action a row; an action is taken on trust, a finished row stays."""
        state = state.clone()
        stops = actions == self.stop
        state[stops, _STOPPED] = 1
        rows = (~stops & ~self.is_finished(state)).nonzero().squeeze(1)
        if not len(rows):
            return state
        before, placing = state[rows], actions[rows]
        element, count = placing // self._n_counts, placing % self._n_counts + 1
        n_placed = self._budgets[before[:, _BUDGET], 0]
        after = before.clone()
        after[:, _LAST] = element + 1
        after[:, _BUDGET] = self._next_budget[before[:, _BUDGET], self._zone[element], count]
        after.scatter_(1, (_FIRST_PLACED + n_placed)[:, None], placing[:, None] + 1)
        after[:, self._first_word :] = self._charges_after(before, element, count)
        state[rows] = after
        return state

    def _charges_after(self, state: Tensor, element: Tensor, count: Tensor) -> Tensor:
        clean, tied, anion = self._charges(state)
        same_group = (self._tie_group[state[:, _LAST]] == self._tie_group[element + 1])[:, None]
        no_anion = clean | tied
        free, tied = torch.where(same_group, clean, no_anion), torch.where(same_group, tied, 0)
        charge, exists = self._states[element], self._state_exists[element]  # (n, R)
        added = charge * count[:, None]
        if self.rules.charge_rule != "pauling":
            new = union(shift(free, added), exists)
            return torch.cat([new, torch.zeros_like(new), torch.zeros_like(new)], dim=1)
        new_tied = union(shift(no_anion, added), exists & (charge > 0))
        new_anion = union(shift(free | anion, added), exists & (charge < 0))
        has_zero = (exists & (charge == 0)).any(1, keepdim=True)
        new_clean = torch.where(has_zero, free, 0)
        new_tied |= torch.where(has_zero, tied, 0)
        new_anion |= torch.where(has_zero, anion, 0)
        return torch.cat([new_clean, new_tied, new_anion], dim=1)

    def edit(self, actions: Tensor, generator: torch.Generator) -> Tensor:
        """Return a valid variation of each composition, long (n, max_steps); see `envs.composition_edits`."""
        change = edit_counts if self.limits.reference is None else move_atoms
        return edit_compositions(self, self._n_counts, actions, generator, change)

    def features(self, state: Tensor) -> Tensor:
        """Return what a policy sees, float (n, n_features), in the order of `feature_names`."""
        element, count = self._placed(state)
        used, last = self._budgets[state[:, _BUDGET]], state[:, _LAST]
        clean, tied, anion = self._charges(state)
        return self._features(element, count, last, used, self._may_stop_now(state), (clean | tied, anion))

    def _placed(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Index + 1 of each element placed and its count, 0 where there is none, each (n, max_elements)."""
        placed = state[:, _FIRST_PLACED : self._first_word]
        element = torch.where(placed > 0, (placed - 1) // self._n_counts + 1, 0)
        return element, torch.where(placed > 0, (placed - 1) % self._n_counts + 1, 0)

    # To and from materials

    def materials(self, state: Tensor) -> CompositionBatch:
        """Return the compositions built so far."""
        element, count = self._placed(state)
        return CompositionBatch(self._atomic_numbers[element], count.float())

    def actions_of(self, state: Tensor) -> Tensor:
        """Return the actions that lead to each state, long (n, max_steps), padded with STOP."""
        placed = state[:, _FIRST_PLACED : self._first_word]
        actions = torch.where(placed > 0, placed - 1, self.stop)
        return torch.cat([actions, torch.full((len(state), 1), self.stop)], dim=1)

    def explain(self, materials: Iterable[str]) -> list[str | None]:
        """Return for each formula the rule by which it lies outside the space, or None when it lies inside.

        A rule reads "kind: detail", with the kinds element, edits, count, number of elements, atoms, required element,
        charge.
        """
        return encode_compositions(self, materials)[1]

    def encode(self, materials: Iterable[str]) -> Tensor:
        """Return the one action sequence of each formula, long (n, max_steps), padded with STOP.

        Formulas are reduced first: Ti2O4 is TiO2. Around a reference, they are taken with as many formula units as
        come closest to it in atoms.

        Raises:
            ValueError: A formula lies outside the space; the message names it and the rule.
        """
        formulas = list(materials)
        actions, reasons = encode_compositions(self, formulas)
        for formula, reason in zip(formulas, reasons, strict=True):
            if reason is not None:
                raise ValueError(f"{formula!r} is outside the design space: {reason}")
        return actions
