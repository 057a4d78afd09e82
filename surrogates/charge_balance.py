"""Whether the charges of many compositions can balance, by SMACT's two tests and under a named set of oxidation states.

    judgement = judge_charges(CompositionBatch.from_formulas(["SrTiO3", "NaCl2"]), "smact14")
    judgement.neutral_and_balanced    # tensor([True, False])

Every element takes one oxidation state, the same for all its atoms (Davies et al., Chem 1, 617 (2016)). The charges
that the elements can add up to are sets of bits, for all compositions at once; no choice of states is enumerated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import smact
import torch
from torch import Tensor

from envs.charge_sets import BITS_PER_WORD, n_words, shift, union
from envs.chemistry import ATOMIC_NUMBERS, ELECTRONEGATIVITY, MAX_ATOMIC_NUMBER, SYMBOLS, oxidation_states
from envs.formula import CompositionBatch
from surrogates.decimal_amounts import whole_amounts

CHARGE_SETTINGS: Mapping[str, str] = {
    "icsd24": "ICSD 2024 as smact_validity filters it by default",
    "smact14": "SMACT's first list (2014), used by CDVAE",
    "icsd16": "ICSD 2016",
    "pymatgen_sp": "pymatgen's structure predictor",
}
"""What each named set of oxidation states is; the names are those of `envs.chemistry.OXIDATION_STATE_SETS`."""

_CHUNK_WORDS = 2_000_000


@dataclass(frozen=True, eq=False)
class ChargeJudgement:
    """The verdict on each of N compositions. An element alone passes all tests, as in SMACT."""

    neutral: Tensor
    """Bool (N,): some choice of states sums to zero."""
    balanced: Tensor
    """Bool (N,): some choice with a cation and an anion has every cation less electronegative than every anion,
    whatever its sum."""
    neutral_and_balanced: Tensor
    """Bool (N,): one choice sums to zero and has no cation as electronegative as an anion, or more so: what
    `smact_validity(include_alloys=False)` asks."""


def judge_charges(materials: CompositionBatch, oxidation_state_set: str = "icsd24") -> ChargeJudgement:
    """Return the verdicts under a set of oxidation states.

    Compositions pass none of the tests when they hold an element without states in the set; without an
    electronegativity (Pauling), they may be neutral only. Amounts are multiplied to integers by a factor up to 20, or
    by 100 or 1000; those that need more digits cannot be neutral.

    Raises:
        ValueError: Unknown set.
    """
    table = _state_table(oxidation_state_set)
    numbers, counts, exact = _by_electronegativity(materials)
    present = numbers > 0
    alone = present.sum(1) == 1
    possible = table.exists.any(1)[numbers].all(1)
    comparable = possible & (_electronegativity()[numbers] != -math.inf).all(1)

    neutral = torch.zeros(len(materials), dtype=torch.bool)
    target = -(counts * table.lowest[numbers]).sum(1)
    highest = (counts * table.above_lowest[numbers].amax(2)).sum(1)
    rows = possible & exact & (target >= 0) & (target <= highest)
    _decide(neutral, rows, target, table.width, lambda chosen: _sums_to_zero(table, numbers, counts, target, chosen))

    both = torch.zeros_like(neutral)
    largest = torch.minimum(
        (counts * table.cations[numbers].amax(2)).sum(1), (counts * table.anions[numbers].amax(2)).sum(1)
    )
    _decide(both, comparable & neutral, largest, table.width, lambda chosen: _split(table, numbers, counts, chosen))
    balanced = comparable & _can_be_ordered(table, numbers)
    return ChargeJudgement(neutral | alone, balanced | alone, both | alone)


def cdvae_validity(materials: CompositionBatch) -> Tensor:
    """Return which compositions are valid as CDVAE defines it, bool (N,) (Xie et al., ICLR 2022).

    Valid are elements, alloys of metals only, and what is neutral and balanced under the oxidation states of smact14.
    """
    metal = torch.tensor([True, *(symbol in set(smact.metals) for symbol in SYMBOLS)])
    return judge_charges(materials, "smact14").neutral_and_balanced | metal[materials.atomic_numbers].all(1)


# Tables by atomic number; row 0 is padding, which adds nothing.


@dataclass(frozen=True, eq=False)
class _StateTable:
    """Oxidation states of the elements: R of any sign, all shifted to be at least 0."""

    lowest: Tensor
    """Long (104,): the lowest state."""
    above_lowest: Tensor
    """Long (104, R): the states less the lowest one."""
    exists: Tensor
    """Bool (104, R)."""
    cations: Tensor
    """Long (104, R): states of at least 0."""
    cation_exists: Tensor
    anions: Tensor
    """Long (104, R): states of at most 0, without the sign."""
    anion_exists: Tensor

    @property
    def width(self) -> int:
        """R."""
        return self.exists.shape[1]


@lru_cache(maxsize=8)
def _state_table(name: str) -> _StateTable:
    states = oxidation_states(name)
    width = max(map(len, states.values()))
    values = torch.zeros(MAX_ATOMIC_NUMBER + 1, width, dtype=torch.long)
    exists = torch.zeros_like(values, dtype=torch.bool)
    exists[0, 0] = True
    for symbol, charges in states.items():
        if symbol in ATOMIC_NUMBERS:
            values[ATOMIC_NUMBERS[symbol], : len(charges)] = torch.tensor(charges)
            exists[ATOMIC_NUMBERS[symbol], : len(charges)] = True
    lowest = values[:, 0]  # the states ascend
    cation, anion = exists & (values >= 0), exists & (values <= 0)
    return _StateTable(
        lowest,
        torch.where(exists, values - lowest[:, None], 0),
        exists,
        torch.where(cation, values, 0),
        cation,
        torch.where(anion, -values, 0),
        anion,
    )


@lru_cache(maxsize=1)
def _electronegativity() -> Tensor:
    """Double (104,): infinite for padding, minus infinity where there is none."""
    values = [ELECTRONEGATIVITY[symbol] for symbol in SYMBOLS]
    return torch.tensor([math.inf, *(-math.inf if value is None else value for value in values)], dtype=torch.double)


def _by_electronegativity(materials: CompositionBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return atomic numbers and integer counts with the elements ascending, each long (N, K), and which are exact."""
    counts, exact = whole_amounts(materials)
    order = _electronegativity()[materials.atomic_numbers].argsort(stable=True, dim=1)
    return materials.atomic_numbers.gather(1, order), counts.gather(1, order), exact


# Sets of charges


def _decide(result: Tensor, rows: Tensor, largest: Tensor, width: int, decide: Callable[[Tensor], Tensor]) -> None:
    """Set the result of the given rows, those with sets of similar size together."""
    for chosen in _groups(rows.nonzero().squeeze(1), largest, width):
        result[chosen] = decide(chosen)


def _groups(rows: Tensor, largest: Tensor, width: int) -> Iterator[Tensor]:
    words = largest[rows].div(BITS_PER_WORD, rounding_mode="floor") + 1
    size = words.double().log2().ceil().long()
    for step in sorted(set(size.tolist())):
        at_once = max(1, _CHUNK_WORDS // (width * 2**step))
        yield from torch.split(rows[size == step], at_once)


def _only_zero(rows: int, largest: Tensor) -> Tensor:
    empty = torch.zeros(rows, n_words(int(largest.max()) + 1), dtype=torch.long)
    empty[:, 0] = 1
    return empty


def _sums_to_zero(table: _StateTable, numbers: Tensor, counts: Tensor, target: Tensor, rows: Tensor) -> Tensor:
    numbers, counts, target = numbers[rows], counts[rows], target[rows]
    reached = _only_zero(len(rows), target)
    for slot in range(numbers.shape[1]):
        reached = _add(reached, numbers[:, slot], counts[:, slot], table.above_lowest, table.exists)
    word = reached.gather(1, target.div(BITS_PER_WORD, rounding_mode="floor")[:, None]).squeeze(1)
    return ((word >> (target % BITS_PER_WORD)) & 1) == 1


def _split(table: _StateTable, numbers: Tensor, counts: Tensor, rows: Tensor) -> Tensor:
    """Return whether the elements below some electronegativity can be as positive as the others are negative."""
    numbers, counts = numbers[rows], counts[rows]
    order = _electronegativity()[numbers]
    positive = (counts * table.cations[numbers].amax(2)).sum(1)
    negative = (counts * table.anions[numbers].amax(2)).sum(1)
    zero = _only_zero(len(rows), torch.minimum(positive, negative))
    slots = range(numbers.shape[1])
    suffixes = [zero]  # suffixes[k]: charges of the last k elements
    for slot in reversed(slots):
        suffixes.append(_add(suffixes[-1], numbers[:, slot], counts[:, slot], table.anions, table.anion_exists))
    prefix = zero
    found = (prefix & suffixes[-1]).any(1)
    for slot in slots:
        prefix = _add(prefix, numbers[:, slot], counts[:, slot], table.cations, table.cation_exists)
        rest = suffixes[len(slots) - slot - 1]
        ends_group = order[:, slot] < order[:, slot + 1] if slot + 1 < len(slots) else True
        found |= (prefix & rest).any(1) & ends_group
    return found


def _add(sets: Tensor, numbers: Tensor, counts: Tensor, charges: Tensor, exists: Tensor) -> Tensor:
    """Return the sums (n, W) with one more element of each row, in any of its states."""
    member = exists[numbers]
    used = int(member.any(0).nonzero().max()) + 1 if bool(member.any()) else 1
    return union(shift(sets, counts[:, None] * charges[numbers][:, :used]), member[:, :used])


def _can_be_ordered(table: _StateTable, numbers: Tensor) -> Tensor:
    """Return whether a border of electronegativity leaves cations (at least one) below and anions above, bool (N,)."""
    order = _electronegativity()[numbers]
    may_be_positive, may_be_negative = (table.cations > 0).any(1)[numbers], (table.anions > 0).any(1)[numbers]
    below = table.cation_exists.any(1)[numbers]
    above = table.anion_exists.any(1)[numbers]
    found = torch.zeros(len(numbers), dtype=torch.bool)
    for slot in range(1, numbers.shape[1]):
        cations = below[:, :slot].all(1) & may_be_positive[:, :slot].any(1)
        anions = above[:, slot:].all(1) & may_be_negative[:, slot:].any(1)
        found |= cations & anions & (order[:, slot - 1] < order[:, slot])
    return found
