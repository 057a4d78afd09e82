"""From a formula to the actions of `CompositionSpace` that build it, or the rule by which it lies outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from envs.chemistry import formula_order
from envs.edit_budget import edit_distance, formula_units
from envs.formula import parse_formula, reduce_amounts

if TYPE_CHECKING:
    from envs.composition import CompositionSpace


def encode_compositions(space: CompositionSpace, materials: Iterable[str]) -> tuple[Tensor, list[str | None]]:
    """Return the actions of formulas, long (n, max_steps), and the rule by which each lies outside, or None."""
    reasons: list[str | None] = []
    sequences: list[list[int]] = []
    index = {symbol: number for number, symbol in enumerate(space.elements)}
    for material in materials:
        amounts = _amounts_as_built(space, material)
        reason = _broken_limit(space, index, amounts)
        symbols = [] if reason else sorted(amounts, key=formula_order)
        sequence = [index[s] * space.rules.max_count + int(amounts[s]) - 1 for s in symbols]
        sequences.append(sequence + [space.stop] * (space.max_steps - len(sequence)))
        reasons.append(reason)
    actions = torch.tensor(sequences, dtype=torch.long).reshape(-1, space.max_steps)
    within = torch.tensor([reason is None for reason in reasons], dtype=torch.bool).nonzero().squeeze(1)
    state = space.initial(len(within))
    valid = torch.ones(len(within), dtype=torch.bool)
    for column in actions[within].T:
        valid &= space.allowed(state, column)
        state = space.step(state, torch.where(valid, column, space.stop))
    for row in within[~valid].tolist():
        reasons[row] = _charge_reason(space)
    return actions, reasons


def _amounts_as_built(space: CompositionSpace, material: str) -> dict[str, float]:
    amounts = reduce_amounts(parse_formula(material))
    atoms = sum(amounts.values())
    if space.rules.edits is None or atoms != int(atoms):
        return amounts
    units = formula_units(space.rules.edits.atoms, int(atoms))
    return {symbol: amount * units for symbol, amount in amounts.items()}


def _charge_reason(space: CompositionSpace) -> str:
    order = " with every cation less electronegative than every anion" if space.limits.pauling else ""
    states = f"{space.limits.oxidation_states} oxidation state"
    return f"charge: no choice of one {states} per element is charge neutral{order}"


def _broken_limit(space: CompositionSpace, index: Mapping[str, int], amounts: Mapping[str, float]) -> str | None:
    """Name the first limit that amounts break, charge rules aside."""
    for symbol, amount in amounts.items():
        if symbol not in index:
            return f"element: {symbol} is not among the elements of the space"
        if amount != int(amount):
            return f"count: {amount:g} of {symbol} is not a whole number"
    if space.limits.max_edits is not None:
        added, removed = edit_distance(amounts, space.limits.reference_counts)
        if max(added, removed) > space.limits.max_edits:
            return (
                f"edits: {added:g} atoms more and {removed:g} fewer than {space.limits.reference} are more than "
                f"{space.limits.max_edits} edits"
            )
    for symbol, amount in amounts.items():
        low, high = space.rules.count_range[index[symbol]]
        if not low <= amount <= high:
            return f"count: {amount:g} of {symbol} is not in {low}-{high}"
    if not space.rules.min_elements <= len(amounts) <= space.rules.max_elements:
        return f"number of elements: {len(amounts)} is not in {space.rules.min_elements}-{space.rules.max_elements}"
    if sum(amounts.values()) > space.rules.max_atoms:
        return f"atoms: {sum(amounts.values()):g} are more than {space.rules.max_atoms}"
    missing = [symbol for symbol in space.limits.required if symbol not in amounts]
    return f"required element: {missing[0]} is missing" if missing else None
