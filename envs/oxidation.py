"""Oxidation states of the elements of a composition: which choices are neutral, and which is the most common.

assign_oxidation_states({"Sr": 1, "Ti": 1, "O": 3}, oxidation_states("icsd24"))    # {"Sr": 2, "Ti": 4, "O": -2}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from envs.charge_sets import BITS_PER_WORD, n_words, shift, union
from envs.chemistry import ATOMIC_NUMBERS, ELECTRONEGATIVITY, formula_order


@lru_cache(maxsize=1)
def icsd_counts() -> Mapping[tuple[str, int], int]:
    """Return the number of ICSD entries that hold each ion, by (symbol, charge); from SMACT, zero charges left out."""
    import smact

    text = (Path(smact.data_directory) / "oxidation_states_icsd24_counts.json").read_text(encoding="utf-8")
    return MappingProxyType(
        {
            (row["element"], int(row["oxidation_state"])): int(row["results_count"])
            for row in json.loads(text)
            if row["results_count"] and row["oxidation_state"] and row["element"] in ATOMIC_NUMBERS
        }
    )


def assign_oxidation_states(
    amounts: Mapping[str, int], states: Mapping[str, Sequence[int]], pauling: bool = True
) -> dict[str, int] | None:
    """Return the neutral choice of one oxidation state an element whose ions have the most ICSD entries.

    Compared is the sum of the logarithms of the entries. None when no choice is neutral.

    Args:
        amounts: Atoms of each element.
        states: Oxidation states that each may take.
        pauling: Whether every cation must be less electronegative than every anion.
    """
    order = sorted(amounts, key=lambda symbol: ELECTRONEGATIVITY[symbol] or 0.0)
    counts = icsd_counts()
    # (charge, highest electronegativity of a cation, lowest of an anion) -> best score and choice so far
    found: dict[tuple[int, float, float], tuple[float, tuple[int, ...]]] = {(0, -math.inf, math.inf): (0.0, ())}
    for symbol in order:
        value = ELECTRONEGATIVITY[symbol] or 0.0
        grown: dict[tuple[int, float, float], tuple[float, tuple[int, ...]]] = {}
        for (total, cation, anion), (score, chosen) in found.items():
            for state in states[symbol]:
                highest = max(cation, value) if state > 0 else cation
                lowest = min(anion, value) if state < 0 else anion
                if pauling and highest >= lowest:
                    continue
                key = (total + amounts[symbol] * state, highest, lowest)
                candidate = (score + math.log(counts.get((symbol, state), 0) + 0.5), (*chosen, state))
                if key not in grown or candidate > grown[key]:
                    grown[key] = candidate
        found = grown
    neutral = [entry for (total, _, _), entry in found.items() if total == 0]
    return dict(zip(order, max(neutral)[1], strict=True)) if neutral else None


def write_ions(states: Mapping[str, int]) -> str:
    """Return oxidation states by element as text, in ascending electronegativity: "Sr2+ Ti4+ O2-"."""
    ions = [(symbol, states[symbol]) for symbol in sorted(states, key=formula_order)]
    return " ".join(f"{symbol}{abs(q)}{'+' if q > 0 else '-' if q < 0 else ''}" for symbol, q in ions)


def always_lowest(counts: Tensor, states: Tensor, exists: Tensor) -> Tensor:
    """Return which elements take their lowest oxidation state in every neutral choice, bool (N, K).

    The order of electronegativities is left out of account, so an element may be missed, never wrongly named.

    Args:
        counts: Long (N, K): atoms of each element, 0 where padded.
        states: Long (N, K, R): oxidation states.
        exists: Bool (N, K, R): which of them are real.
    """
    charge = torch.where(exists, counts[..., None] * states, 0)
    exists = exists | ((counts == 0)[..., None] & (torch.arange(states.shape[2]) == 0))  # padding adds nothing
    bound = int(charge.abs().amax(2).sum(1).max()) if len(counts) else 0
    zero = torch.zeros(len(counts), n_words(2 * bound + 1), dtype=torch.long)
    zero[:, bound // BITS_PER_WORD] = 1 << (bound % BITS_PER_WORD)
    lowest = torch.where(exists, states, _HIGHEST).amin(2)
    result = counts > 0
    for slot in range(counts.shape[1]):
        others = zero  # the charges that the other elements can add up to
        for other in range(counts.shape[1]):
            if other != slot:
                others = union(shift(others, charge[:, other]), exists[:, other])
        bit = bound - charge[:, slot]
        balanced = (others.gather(1, bit // BITS_PER_WORD) >> (bit % BITS_PER_WORD)) & 1
        result[:, slot] &= ~((balanced == 1) & exists[:, slot] & (states[:, slot] > lowest[:, slot, None])).any(1)
    return result


_HIGHEST = 99
