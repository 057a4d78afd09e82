"""Exact look-ahead for compositions: from which partial compositions is a valid one still reachable?

Elements enter in ascending electronegativity. A partial composition is summarised by

- the last element placed,
- a budget: elements and atoms used so far and the common divisor of the counts, around a reference formula also the
  atoms added to it and removed from it (`envs.edit_budget`), and
- charge sets: the charges that its elements can add up to, one oxidation state per element, kept apart by phase.
  CLEAN: no anion yet, and no cation among the elements that tie with the last one in electronegativity;
  TIED: no anion yet, but such a cation; ANION: an anion was placed, so no cation may follow.

The phases carry the Pauling rule (every cation less electronegative than every anion; equal does not pass). Running
backwards over the elements, `build_tables` finds for every (budget, element, count) and phase the charges that still
lead to a neutral finish. An action is allowed when the charges at hand and these have one in common: one bitwise AND.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Literal

import numpy as np

from envs.charge_sets import BoolArray, IntArray, n_words, pack_bits
from envs.edit_budget import EditBudget, enumerate_edit_budgets

MAX_GIGABYTES = 2.0
"""Largest size of the tables together; the defaults take a hundredth of it."""

ChargeRule = Literal["pauling", "neutral", "none"]
"""neutral and Pauling-ordered; neutral only; no charges at all."""


@dataclass(frozen=True)
class CompositionRules:
    """What a valid composition is, in terms of E elements sorted by electronegativity."""

    tie_group: tuple[int, ...]
    """Group of equal electronegativity of each element, ascending."""
    oxidation_states: tuple[tuple[int, ...], ...]
    """States that each element may take; ignored by the charge rule "none"."""
    count_range: tuple[tuple[int, int], ...]
    """Lowest and highest count of each element, when it is present."""
    required: tuple[bool, ...]
    min_elements: int
    max_elements: int
    max_atoms: int
    charge_rule: ChargeRule
    multisets: frozenset[tuple[int, ...]] | None = None
    """Multisets of counts, each descending, that a composition may have; None: all."""
    edits: EditBudget | None = None
    """A reference formula and the edits allowed, in place of counts without a common divisor; not with multisets."""

    @property
    def max_count(self) -> int:
        """The highest count that any element may have."""
        return max(high for _, high in self.count_range)


@dataclass(frozen=True)
class LookAheadTables:
    """The result of the backward pass. B budgets, E elements in Z zones, C counts, W words of charges."""

    zone: IntArray
    """(E,): zone of each element; one for all without a reference formula."""
    next_budget: IntArray
    """(B, Z, C + 1): the budget after adding an element of a zone with a count; -1 where a limit is exceeded. Count 0
    is unused."""
    budgets: IntArray
    """(B, 3): elements used, atoms used, common divisor of the counts. Row 0 is the empty composition."""
    may_stop: BoolArray
    """(B, E + 1): limits met and no required element left, by budget and last element (0: none placed)."""
    may_follow: BoolArray
    """(E + 1, E): the element may come next, by last element: it is later in order and skips no required one."""
    from_clean: IntArray
    """(B, E, C, W): charges in phase CLEAN from which placing the element with the count keeps a finish reachable."""
    from_tied: IntArray
    """(B, E, C, W): the same from phase TIED, when the element ties with the last one."""
    from_anion: IntArray
    """(B, E, C, W): the same from phase ANION."""
    lowest_charge: int
    """The charge of bit 0."""
    n_charges: int
    feasible: bool
    """Whether any valid composition exists."""


def build_tables(rules: CompositionRules) -> LookAheadTables:
    """Run the backward pass."""
    n_elements = len(rules.tie_group)
    if rules.edits is None:
        zone = np.zeros(n_elements, dtype=np.int64)
        budgets, next_budget, permitted = _enumerate_budgets(rules)
    else:
        zone = np.array(rules.edits.zones(), dtype=np.int64)
        budgets, next_budget, permitted = enumerate_edit_budgets(
            rules.edits, rules.max_elements, rules.max_atoms, rules.max_count
        )
    n_budgets = len(budgets)
    lowest, highest = _charge_range(rules)
    n_charges = highest - lowest + 1
    may_follow, none_required_after = _order_rules(rules.required)
    within_limits = (budgets[:, 0] >= rules.min_elements) & permitted
    may_stop = within_limits[:, None] & none_required_after[None, :]

    shape = (n_budgets, n_elements, rules.max_count, n_words(n_charges))
    gigabytes = 3 * 8 * prod(shape) / 1e9
    if gigabytes > MAX_GIGABYTES:
        raise ValueError(
            f"the look-ahead tables would take {gigabytes:.1f} GB, more than {MAX_GIGABYTES:g}: lower "
            f"max_elements={rules.max_elements}, max_atoms={rules.max_atoms}, max_count or count_ranges "
            f"(highest count {rules.max_count})" + (f", or max_edits={rules.edits.max_edits}" if rules.edits else "")
        )
    from_clean, from_tied, from_anion = (np.zeros(shape, dtype=np.int64) for _ in range(3))

    def empty() -> BoolArray:
        return np.zeros((n_budgets, n_charges), dtype=np.bool_)

    # Unions over the elements that may follow the one under consideration, walking backwards.
    any_clean, any_anion = empty(), empty()  # all later elements
    tied_here = empty()  # later elements of the same tie group, from TIED
    clean_beyond = empty()  # later elements beyond the tie group, from CLEAN
    for element in reversed(range(n_elements)):
        if element + 1 < n_elements and rules.tie_group[element + 1] != rules.tie_group[element]:
            clean_beyond, tied_here = any_clean, empty()
        finish = empty()
        finish[:, -lowest] = may_stop[:, element + 1]
        finish_clean, finish_anion = finish | any_clean, finish | any_anion
        finish_tied = finish | clean_beyond | tied_here
        here_clean, here_tied, here_anion = empty(), empty(), empty()
        low, high = rules.count_range[element]
        for count in range(low, high + 1):
            after = next_budget[:, zone[element], count]
            clean, tied, anion = empty(), empty(), empty()
            for state in rules.oxidation_states[element] if rules.charge_rule != "none" else (0,):
                if rules.charge_rule != "pauling":
                    clean |= _charges_before(finish_clean, after, state * count)
                elif state > 0:
                    before = _charges_before(finish_tied, after, state * count)
                    clean |= before
                    tied |= before
                elif state < 0:
                    before = _charges_before(finish_anion, after, state * count)
                    clean |= before
                    anion |= before
                else:
                    clean |= _charges_before(finish_clean, after, 0)
                    tied |= _charges_before(finish_tied, after, 0)
                    anion |= _charges_before(finish_anion, after, 0)
            from_clean[:, element, count - 1] = pack_bits(clean)
            from_tied[:, element, count - 1] = pack_bits(tied)
            from_anion[:, element, count - 1] = pack_bits(anion)
            here_clean, here_tied, here_anion = here_clean | clean, here_tied | tied, here_anion | anion
        if rules.required[element]:  # nothing beyond a required element can be reached without it
            any_clean, any_anion, tied_here, clean_beyond = here_clean, here_anion, here_tied, empty()
        else:
            any_clean, any_anion = any_clean | here_clean, any_anion | here_anion
            tied_here = tied_here | here_tied
    feasible = bool(any_clean[0, -lowest])
    return LookAheadTables(
        zone,
        next_budget,
        budgets,
        may_stop,
        may_follow,
        from_clean,
        from_tied,
        from_anion,
        lowest,
        n_charges,
        feasible,
    )


def _charges_before(finish: BoolArray, after: IntArray, added: int) -> BoolArray:
    """Charges q of each budget such that q + added lies in the finish set of the budget afterwards."""
    n_charges = finish.shape[1]
    before = np.zeros_like(finish)
    if abs(added) >= n_charges:
        return before
    reached = finish[after] & (after >= 0)[:, None]
    if added >= 0:
        before[:, : n_charges - added] = reached[:, added:]
    else:
        before[:, -added:] = reached[:, :added]
    return before


def _enumerate_budgets(rules: CompositionRules) -> tuple[IntArray, IntArray, BoolArray]:
    """All reachable (elements, atoms, divisor), the transitions between them (B, 1, C + 1), and which may end.

    One may end whose counts have no common divisor and are a permitted multiset.
    Where multisets are limited, each multiset is a budget of its own.
    """
    by_multiset = rules.multisets is not None
    index: dict[tuple[int, ...], int] = {() if by_multiset else (0, 0, 0): 0}
    pending = list(index)
    budgets = [(0, 0, 0)]
    transitions: list[list[int]] = []
    for key in pending:
        elements, atoms, divisor = budgets[index[key]]
        row = [-1] * (rules.max_count + 1)
        for count in range(1, rules.max_count + 1):
            if elements + 1 > rules.max_elements or atoms + count > rules.max_atoms:
                break
            budget = (elements + 1, atoms + count, gcd(divisor, count))
            following = tuple(sorted((*key, count), reverse=True)) if by_multiset else budget
            if following not in index:
                index[following] = len(index)
                pending.append(following)
                budgets.append(budget)
            row[count] = index[following]
        transitions.append(row)
    permitted = [budgets[index[key]][2] == 1 and (rules.multisets is None or key in rules.multisets) for key in pending]
    return np.array(budgets, dtype=np.int64), np.array(transitions, dtype=np.int64)[:, None], np.array(permitted)


def _order_rules(required: Sequence[bool]) -> tuple[BoolArray, BoolArray]:
    """Which element may follow which, (E + 1, E), and whether none is required after each last element, (E + 1,)."""
    n_elements = len(required)
    may_follow = np.zeros((n_elements + 1, n_elements), dtype=np.bool_)
    none_required_after = np.zeros(n_elements + 1, dtype=np.bool_)
    for last in range(n_elements + 1):
        next_required = next((e for e in range(last, n_elements) if required[e]), None)
        none_required_after[last] = next_required is None
        may_follow[last, last : n_elements if next_required is None else next_required + 1] = True
    return may_follow, none_required_after


def _charge_range(rules: CompositionRules) -> tuple[int, int]:
    """Bounds that no charge on the way to a neutral composition exceeds."""
    if rules.charge_rule == "none":
        return 0, 0
    states = [state for of_element in rules.oxidation_states for state in of_element]
    most_positive, most_negative = max([0, *states]), -min([0, *states])
    bound = 0
    for cations in range(1, rules.max_elements + 1):
        for atoms in range(1, rules.max_atoms + 1):
            positive = most_positive * min(atoms, cations * rules.max_count)
            anion_atoms = min(rules.max_atoms - atoms, (rules.max_elements - cations) * rules.max_count)
            bound = max(bound, min(positive, most_negative * anion_atoms))
    return (0, bound) if rules.charge_rule == "pauling" else (-bound, bound)
