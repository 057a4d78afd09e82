"""What a crystal must obey before any model is asked: charges that balance, and atoms that keep apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from envs.chemistry import ELECTRONEGATIVITY, oxidation_states

if TYPE_CHECKING:
    from pymatgen.core import Structure


def charge_problem(amounts: Mapping[str, int], oxidation_state_set: str = "icsd24") -> str | None:
    """Return why no oxidation states fit a composition, in a few words; None when some do.

    The rule is that of `CompositionSpace`, which is SMACT's: one state for each element, charges that sum to zero,
    every cation less electronegative than every anion. A composition of any size is judged; an element alone passes,
    as it has no ions.

    Args:
        amounts: Atoms by element.
        oxidation_state_set: One of `envs.chemistry.OXIDATION_STATE_SETS`.
    """
    if len(amounts) < 2:
        return None
    states = oxidation_states(oxidation_state_set)
    for symbol in amounts:
        if not any(states.get(symbol, ())):
            return f"{symbol} has no {oxidation_state_set} oxidation state"
        if ELECTRONEGATIVITY[symbol] is None:
            return f"{symbol} has no electronegativity"
    borders = sorted({ELECTRONEGATIVITY[symbol] or 0.0 for symbol in amounts})[1:]
    neutral = any(_balances(amounts, states, border) for border in borders)
    if neutral:
        return None
    return (
        f"no choice of one {oxidation_state_set} oxidation state per element is charge neutral "
        "with every cation less electronegative than every anion"
    )


def _balances(amounts: Mapping[str, int], states: Mapping[str, tuple[int, ...]], border: float) -> bool:
    """Return whether charges balance when the elements below an electronegativity are the cations."""
    sums = {0}
    for symbol, amount in amounts.items():
        sign = 1 if (ELECTRONEGATIVITY[symbol] or 0.0) < border else -1
        charges = [amount * charge for charge in states[symbol] if charge * sign > 0]
        sums = {total + charge for total in sums for charge in charges}
    return 0 in sums


def closest_pair_problem(structure: Structure, smallest_ratio: float) -> str | None:
    """Return which atoms are too near, in a few words; None when all keep apart.

    Args:
        structure: An ordered structure without overlapping atoms.
        smallest_ratio: Smallest distance that is allowed, as a share of the sum of the covalent radii.
    """
    from surrogates.graph_structures import touching_ratio

    ratio = touching_ratio(structure)
    if ratio >= smallest_ratio:
        return None
    return (
        f"the nearest atoms are at {ratio:.2f} of the sum of their covalent radii; expected at least {smallest_ratio:g}"
    )
