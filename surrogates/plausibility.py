"""Plausibility of a composition's oxidation states, by how often each ion occurs in the ICSD.

An assignment gives each element one nonzero oxidation state so that the charges of the formula sum to zero and every
cation is strictly less electronegative than every anion. Its plausibility is that of its least common ion; a
composition's is that of its best assignment, 0 when there is none. The rule is that of `envs`; the ions are not limited
to any of SMACT's filtered sets but weighted by SMACT's counts of ICSD entries (2024).

An ion's plausibility is the smaller of two numbers in [0, 1], both linear in the logarithm of its count n:

    abundance  1 from 316 entries on, 0 at 10 entries or fewer
    share      1 when n is at least 3.2 % of the element's most common ion, 0 at 0.032 % or less
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor

from envs.chemistry import ATOMIC_NUMBERS, ELECTRONEGATIVITY, MAX_ATOMIC_NUMBER, SYMBOLS
from envs.formula import CompositionBatch
from envs.oxidation import icsd_counts
from surrogates.stoichiometry import integer_amounts

_CHUNK = 4096


@lru_cache(maxsize=1)
def ion_plausibilities() -> Mapping[tuple[str, int], float]:
    """Return the plausibility of each ion, 0 to 1, by (symbol, charge); ions with plausibility 0 are left out."""
    counts = icsd_counts()
    most: dict[str, int] = {}
    for (symbol, _), count in counts.items():
        most[symbol] = max(most.get(symbol, 0), count)
    values = {}
    for (symbol, charge), count in counts.items():
        abundance = (math.log10(count) - 1.0) / 1.5
        share = (math.log10(count / most[symbol]) + 3.5) / 2
        if min(abundance, share) > 0:
            values[symbol, charge] = min(abundance, share, 1.0)
    return MappingProxyType(values)


@dataclass(frozen=True, eq=False)
class _IonTables:
    """States of each element of one sign, padded; plausibilities as ranks so that small integers carry them exactly."""

    levels: Tensor
    """Float (R,): the plausibility of each rank, ascending; rank 0 is 0."""
    charges: tuple[Tensor, Tensor]
    """Long (104, M), absolute charges of cations and of anions."""
    ranks: tuple[Tensor, Tensor]
    """Int16 (104, M), 0 where padded."""
    order: Tensor
    """Float (104,), electronegativity; padding sorts last."""
    usable: Tensor
    """Bool (104,): the element has an electronegativity."""


@lru_cache(maxsize=1)
def _ion_tables() -> _IonTables:
    ions = ion_plausibilities()
    levels = sorted({0.0, *ions.values()})
    rank_of = {value: rank for rank, value in enumerate(levels)}
    charges, ranks = [], []
    for sign in (1, -1):
        states = {
            ATOMIC_NUMBERS[symbol]: sorted(
                (abs(q), rank_of[ions[symbol, q]]) for s, q in ions if s == symbol and q * sign > 0
            )
            for symbol in SYMBOLS
        }
        width = max(map(len, states.values()))
        charge = torch.zeros(MAX_ATOMIC_NUMBER + 1, width, dtype=torch.long)
        rank = torch.zeros(MAX_ATOMIC_NUMBER + 1, width, dtype=torch.int16)
        for number, entries in states.items():
            for slot, (q, r) in enumerate(entries):
                charge[number, slot], rank[number, slot] = q, r
        charges.append(charge)
        ranks.append(rank)
    order = torch.tensor([math.inf, *(ELECTRONEGATIVITY[symbol] or 0.0 for symbol in SYMBOLS)])
    usable = torch.tensor([False, *(ELECTRONEGATIVITY[symbol] is not None for symbol in SYMBOLS)])
    return _IonTables(torch.tensor(levels), (charges[0], charges[1]), (ranks[0], ranks[1]), order, usable)


def plausibility(materials: CompositionBatch) -> Tensor:
    """Return the plausibility of each composition's best oxidation states, (N,), 0 to 1.

    It is 0 for elements, for compositions without a valid assignment or with an element that has no electronegativity,
    and for fractional amounts that no factor up to 20 makes integer.
    """
    if len(materials) == 0:
        return torch.zeros(0)
    amounts, exact = integer_amounts(materials)
    tables = _ion_tables()
    best = torch.cat(
        [
            _best_rank(numbers, counts)
            for numbers, counts in zip(
                torch.split(materials.atomic_numbers, _CHUNK), torch.split(amounts, _CHUNK), strict=True
            )
        ]
    )
    usable = exact & (tables.usable[materials.atomic_numbers] | (materials.atomic_numbers == 0)).all(1)
    return tables.levels[best.long()] * usable


def _best_rank(numbers: Tensor, amounts: Tensor) -> Tensor:
    """Return the highest rank that all ions of some assignment reach, int16 (N,); 0 when there is no assignment."""
    tables = _ion_tables()
    electronegativity, order = tables.order[numbers].sort(1)
    numbers, amounts = numbers.gather(1, order), amounts.gather(1, order)
    width = int((numbers > 0).any(0).sum())
    present = numbers > 0
    cations = [
        (tables.charges[0][numbers[:, k]] * amounts[:, k, None], tables.ranks[0][numbers[:, k]]) for k in range(width)
    ]
    anions = [
        (tables.charges[1][numbers[:, k]] * amounts[:, k, None], tables.ranks[1][numbers[:, k]]) for k in range(width)
    ]
    # No total charge beyond what both sides can reach is of use.
    total = torch.minimum(
        torch.stack([c.amax(1) for c, _ in cations], 1).sum(1), torch.stack([c.amax(1) for c, _ in anions], 1).sum(1)
    )
    size = int(total.max()) + 1
    rows = len(numbers)
    highest = torch.iinfo(torch.int16).max
    empty = torch.zeros(rows, size, dtype=torch.int16)
    empty[:, 0] = highest

    suffixes = [empty]  # suffixes[-1]: all elements from k on are anions
    for k in reversed(range(1, width)):
        added = _add_element(suffixes[-1], *anions[k])
        suffixes.append(torch.where(present[:, k, None], added, suffixes[-1]))
    suffixes.reverse()  # suffixes[k - 1] belongs to a split before element k

    best = torch.zeros(rows, dtype=torch.int16)
    prefix = empty
    for k in range(1, width):
        prefix = _add_element(prefix, *cations[k - 1])
        split = present[:, k] & (electronegativity[:, k - 1] < electronegativity[:, k])
        reached = torch.minimum(prefix, suffixes[k - 1])[:, 1:].amax(1) if size > 1 else best
        best = torch.where(split, torch.maximum(best, reached), best)
    return best


def _add_element(ranks: Tensor, shifts: Tensor, ion_ranks: Tensor) -> Tensor:
    """Return the best weakest link for each total charge after one more element in one of its states, int16 (N, C)."""
    rows, size = ranks.shape
    padded = torch.cat([ranks.new_zeros(rows, 1), ranks], 1).flatten()  # column 0 of each row: out of reach
    columns = torch.arange(1, size + 1)
    result = torch.zeros_like(ranks)
    for slot in range(shifts.shape[1]):
        chosen = ion_ranks[:, slot].nonzero().squeeze(1)  # few elements have many states
        if len(chosen) == 0:
            break
        source = (columns - shifts[chosen, slot, None]).clamp_min_(0).add_(chosen[:, None] * (size + 1))
        candidate = torch.minimum(padded.take(source), ion_ranks[chosen, slot, None])
        result[chosen] = torch.maximum(result[chosen], candidate)
    return result


def best_oxidation_states(materials: CompositionBatch) -> list[dict[str, int]]:
    """Return the most plausible assignment of each composition, charge by element; empty when there is none.

    Among assignments with the same weakest link, the one with the most common ions overall is taken. Meant for
    printing: much slower than `plausibility`.
    """
    amounts, exact = integer_amounts(materials)
    return [
        _best_assignment([(SYMBOLS[z - 1], n) for z, n in zip(numbers, counts, strict=True) if z]) if is_exact else {}
        for numbers, counts, is_exact in zip(
            materials.atomic_numbers.tolist(), amounts.tolist(), exact.tolist(), strict=True
        )
    ]


def _best_assignment(elements: list[tuple[str, int]]) -> dict[str, int]:
    if any(ELECTRONEGATIVITY[symbol] is None for symbol, _ in elements):
        return {}
    ions = ion_plausibilities()
    best: tuple[float, float, list[tuple[str, int]]] = (0.0, -math.inf, [])
    for states in _signed_choices(elements):
        # (total charge) -> assignments on the front of (weakest link, summed log count)
        fronts: dict[int, list[tuple[float, float, list[tuple[str, int]]]]] = {0: [(math.inf, 0.0, [])]}
        for (symbol, amount), charges in zip(elements, states, strict=True):
            grown: dict[int, list[tuple[float, float, list[tuple[str, int]]]]] = {}
            for total, front in fronts.items():
                for charge in charges:
                    link, count = ions[symbol, charge], math.log(icsd_counts()[symbol, charge])
                    grown.setdefault(total + amount * charge, []).extend(
                        (min(weakest, link), common + count, [*chosen, (symbol, charge)])
                        for weakest, common, chosen in front
                    )
            fronts = {total: _front(entries) for total, entries in grown.items()}
        for entry in fronts.get(0, []):
            best = max(best, entry, key=lambda item: item[:2])
    return dict(best[2])


def _signed_choices(elements: list[tuple[str, int]]) -> Iterator[list[list[int]]]:
    """Yield the states left to each element for each split into cations and anions."""
    ions = ion_plausibilities()
    values = [ELECTRONEGATIVITY[symbol] or 0.0 for symbol, _ in elements]
    for border in sorted(set(values))[1:]:
        signs = [1 if value < border else -1 for value in values]
        yield [
            [charge for s, charge in ions if s == symbol and charge * sign > 0]
            for (symbol, _), sign in zip(elements, signs, strict=True)
        ]


def _front(
    entries: list[tuple[float, float, list[tuple[str, int]]]],
) -> list[tuple[float, float, list[tuple[str, int]]]]:
    """Return the entries that no other beats in both weakest link and summed log count."""
    front: list[tuple[float, float, list[tuple[str, int]]]] = []
    for entry in sorted(entries, key=lambda item: (-item[0], -item[1])):
        if not front or entry[1] > front[-1][1]:
            front.append(entry)
    return front
