"""The edit budget: how far a composition may be from a reference formula, as a budget of the look-ahead.

An edit exchanges one atom for an atom of another element, adds one atom, or removes one. Between the counts c of a
composition and those r of the reference, taken as written, that is

    edits = max(added, removed),   added = sum of max(c - r, 0),   removed = sum of max(r - c, 0).

A reference is an amount of material, such as the supercell Sr8Ti8O24, and so is every composition around it: counts
may have a common divisor. For each material still to be built in one way only, it is taken with as many formula units
as bring its number of atoms closest to that of the reference, the fewer where two are as close: around Sr8Ti8O24,
Sr3BaTi4O12 is Sr6Ba2Ti8O24, and SrO, around SrTiO3, Sr2O2.

Elements enter in a fixed order, so those of the reference cut it into zones: before the first one, the first one,
between it and the second, and so on. A zone, with what was added and removed so far, tells the distance to the
reference, for a reference element that the order passes by counts as removed at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

import numpy as np

from envs.charge_sets import BoolArray, IntArray

_START = -1


@dataclass(frozen=True)
class EditBudget:
    """A reference formula in terms of the E available elements, and the edits allowed."""

    reference: tuple[int, ...]
    """(E,): atoms of each element in the reference, 0 where it has none."""
    unavailable: int
    """Atoms of the reference whose element may not be used: they count as removed from the start."""
    max_edits: int

    @property
    def atoms(self) -> int:
        """Atoms of the reference."""
        return sum(self.reference) + self.unavailable

    def zones(self) -> tuple[int, ...]:
        """Return the zone of each element: 2 k between the reference elements k - 1 and k, 2 k + 1 for element k."""
        zones, passed = [], 0
        for count in self.reference:
            zones.append(2 * passed + (count > 0))
            passed += count > 0
        return tuple(zones)


def formula_units(reference_atoms: int, atoms: int) -> int:
    """Return how many formula units of some atoms are closest to the reference in atoms; the fewer of two as close."""
    return max(1, -((atoms - 2 * reference_atoms) // (2 * atoms)))


def edit_distance(amounts: Mapping[str, float], reference: Mapping[str, float]) -> tuple[float, float]:
    """Return the atoms added to the reference and those removed from it; the edits are the greater of the two."""
    differences = [amounts.get(symbol, 0) - reference.get(symbol, 0) for symbol in {**amounts, **reference}]
    return sum(d for d in differences if d > 0), -sum(d for d in differences if d < 0)


def enumerate_edit_budgets(
    edits: EditBudget, max_elements: int, max_atoms: int, max_count: int
) -> tuple[IntArray, IntArray, BoolArray]:
    """Find all budgets (zone, elements, atoms, divisor, added, removed) within reach.

    Returns:
        Elements, atoms and divisor (B, 3), row 0 that of the empty composition; the budget after adding an element of a
        zone with a count (B, Z, max_count + 1), -1 where that exceeds a limit; and whether the budget permits to end
        here (B,).
    """
    counts = [count for count in edits.reference if count]
    n_zones = 2 * len(counts) + 1
    # passed[z]: atoms of the reference elements in zones below z
    passed = [sum(counts[: zone // 2]) for zone in range(n_zones + 1)]
    index = {(_START, 0, 0, 0, 0, edits.unavailable): 0}
    pending = list(index)
    transitions: list[IntArray] = []
    for zone, elements, atoms, divisor, added, removed in pending:
        row = np.full((n_zones, max_count + 1), -1, dtype=np.int64)
        for entered in range(zone if zone % 2 == 0 else zone + 1, n_zones) if elements < max_elements else ():
            skipped = passed[entered] - passed[zone + 1] if entered > zone else 0
            if removed + skipped > edits.max_edits:
                break
            wanted = counts[entered // 2] if entered % 2 else 0
            for count in range(max(1, wanted - edits.max_edits), min(max_count, max_atoms - atoms) + 1):
                after_added = added + max(count - wanted, 0)
                after_removed = removed + skipped + max(wanted - count, 0)
                if after_added > edits.max_edits:
                    break
                if after_removed > edits.max_edits:
                    continue
                key = (entered, elements + 1, atoms + count, gcd(divisor, count), after_added, after_removed)
                if key not in index:
                    index[key] = len(index)
                    pending.append(key)
                row[entered, count] = index[key]
        transitions.append(row)
    may_end = [
        atoms > 0
        and removed + passed[-1] - passed[zone + 1] <= edits.max_edits
        and divisor == formula_units(edits.atoms, atoms // divisor)
        for zone, _, atoms, divisor, _, removed in pending
    ]
    budgets = np.array([key[1:4] for key in pending], dtype=np.int64)
    return budgets, np.stack(transitions), np.array(may_end)
