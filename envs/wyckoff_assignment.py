"""Exact look-ahead for placing atoms on Wyckoff positions: which position may come next so that all atoms find a place?

    remaining = torch.tensor([[4, 2]])                         # rutile: 4 O first, then 2 Ti
    none = torch.zeros(1, dtype=torch.long)
    allowed_positions(torch.tensor([136]), remaining, occupied=none, last=none)   # bool (1, 27)

Elements are placed one after the other, each on positions of ascending index. A fixed position, one without free
parameters, is occupied at most once in the whole crystal; one with free parameters any number of times.

All fixed positions of one multiplicity are alike to the elements that follow, so it is enough to count how many are
taken: a vector with one number for each multiplicity. A group has at most 27 such vectors; they are numbered in mixed
radix, so that adding vectors adds their numbers, and a set of vectors is a bitset in one integer. Two such sets decide:
the vectors that leave room for the later elements, and those that the current element may take from here on. A position
is allowed when they have one in common. Everything else is a look-up: there is no search, and no cache to warm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import product
from math import prod

import torch
from torch import Tensor

from envs.wyckoff import N_SPACE_GROUPS, all_space_groups

MAX_POSITIONS = 27
"""Most positions of any space group (Pmmm)."""
MAX_COUNT = 100
"""Most atoms of one element in the primitive cell that the tables cover."""

_Kind = tuple[tuple[int, int], ...]
"""Each multiplicity of fixed positions of a group, ascending, and how many of them there are."""


def allowed_positions(group: Tensor, remaining: Tensor, occupied: Tensor, last: Tensor) -> Tensor:
    """Return which positions may be occupied next so that all remaining atoms can still be placed.

    Args:
        group: Long (N,): space groups, 1-230.
        remaining: Long (N, K): atoms of each element still to be placed in the primitive cell. The first column that
            is not zero is the current element, those after it come later; zeros are ignored.
        occupied: Long (N,): bit i is set when position i is occupied; only positions without free parameters matter.
        last: Long (N,): index of the last position of the current element; 0 when it has none yet.

    Returns:
        Bool (N, 27): column i is position i of the group. All False when nothing is left or nothing fits.

    Raises:
        ValueError: A space group or a count is out of range.
    """
    _check(group, remaining)
    tables = _tables(group.device)
    row = group - 1
    is_current = (remaining > 0) & ((remaining > 0).cumsum(1) == 1)
    current = (remaining * is_current).sum(1)
    room = _room(tables, row, remaining.masked_fill(is_current, 0))

    index = torch.arange(MAX_POSITIONS, device=group.device)
    weight = tables.weight.index_select(0, row)
    taken_weight = weight * ((occupied[:, None] >> index) & 1)
    open_weight = weight - taken_weight
    open_after = open_weight.sum(1, keepdim=True) - open_weight.cumsum(1)  # all that this element may take later
    left = current[:, None] - tables.multiplicity.index_select(0, row)
    may_take = _look_up(tables.usable, tables.supply.index_select(0, row), left.clamp(min=0))
    may_take &= _look_up(tables.below, tables.kind[row, None], open_after)
    completes = (room[:, None] >> (taken_weight.sum(1, keepdim=True) + weight)) & may_take
    return (completes != 0) & (left >= 0) & (taken_weight == 0) & (index >= last[:, None])


def can_place(group: Tensor, remaining: Tensor, occupied: Tensor, last: Tensor) -> Tensor:
    """Return whether all remaining atoms can be placed, bool (N,); arguments as for `allowed_positions`."""
    return allowed_positions(group, remaining, occupied, last).any(1) | (remaining == 0).all(1)


def _check(group: Tensor, remaining: Tensor) -> None:
    wrong = (group < 1) | (group > N_SPACE_GROUPS)
    if wrong.any():
        raise ValueError(f"space group: {group[wrong][0].item()} is not a number from 1 to {N_SPACE_GROUPS}")
    wrong = (remaining < 0) | (remaining > MAX_COUNT)
    if wrong.any():
        raise ValueError(f"remaining: {remaining[wrong][0].item()} atoms of an element (expected 0 to {MAX_COUNT})")


def _room(tables: _Tables, row: Tensor, later: Tensor) -> Tensor:
    """Bitset (N,) of the vectors of fixed positions that may be taken before the later elements (N, K) are placed."""
    supply = tables.supply[row, 0]
    room = tables.everything[row]
    for count in later.unbind(1):
        needed, fits = tables.needed[supply, count], tables.fits[supply, count]  # (N, J)
        ways = (room[:, None] >> needed) & fits
        room = ways[:, 0]
        for way in ways.unbind(1)[1:]:
            room = room | way
    return room


def _look_up(table: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return table[row, column], faster than by indexing with two tensors."""
    places = row * table.shape[1] + column
    return table.flatten().index_select(0, places.flatten()).view(places.shape)


@dataclass(frozen=True, eq=False)
class _Tables:
    """G = 230 groups, P = 27 positions, C = counts 0 to 100, V = up to 27 vectors.

    A kind is what groups with the same fixed positions have in common. A supply is what an element can be placed on:
    the fixed positions of a kind and some multiplicities of positions with free parameters.
    """

    kind: Tensor
    """Long (G,)."""
    everything: Tensor
    """Long (G,): bitset of all vectors of the group."""
    multiplicity: Tensor
    """Long (G, P): atoms in the primitive cell; more than any count where the group has no such position."""
    weight: Tensor
    """Long (G, P): what taking the position adds to the number of the vector; 0 for those with free parameters."""
    supply: Tensor
    """Long (G, P): the supply of an element whose last position is this one, leaving aside which are taken."""
    below: Tensor
    """Long (kinds, V): bitset of the vectors that are nowhere larger than a vector."""
    usable: Tensor
    """Long (supplies, C): bitset of the vectors that an element may take, positions with free parameters the rest."""
    needed: Tensor
    """Long (supplies, C, J): the smallest vectors in `usable`, as numbers, padded."""
    fits: Tensor
    """Long (supplies, C, J): bitset of the vectors that allow for taking `needed` as well; 0 where padded."""

    def to(self, device: torch.device) -> _Tables:
        return _Tables(*(getattr(self, field.name).to(device) for field in fields(self)))


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> _Tables:
    return _build_tables().to(device)


@lru_cache(maxsize=1)
def _build_tables() -> _Tables:
    kinds, supplies = dict[_Kind, int](), dict[tuple[_Kind, tuple[int, ...]], int]()
    kind, everything = torch.zeros(2, N_SPACE_GROUPS, dtype=torch.long)
    weight, supply = torch.zeros(2, N_SPACE_GROUPS, MAX_POSITIONS, dtype=torch.long)
    multiplicity = torch.full((N_SPACE_GROUPS, MAX_POSITIONS), MAX_COUNT + 1)
    for row, group in enumerate(all_space_groups()):
        size = [position.primitive_multiplicity for position in group.positions]
        is_fixed = [position.degrees_of_freedom == 0 for position in group.positions]
        of_group = tuple(sorted(Counter(m for m, fixed in zip(size, is_fixed, strict=True) if fixed).items()))
        weights = {m: prod(n + 1 for _, n in of_group[i + 1 :]) for i, (m, _) in enumerate(of_group)}
        kind[row] = kinds.setdefault(of_group, len(kinds))
        everything[row] = 2 ** prod(n + 1 for _, n in of_group) - 1
        for i, m in enumerate(size):
            free = tuple(sorted({n for n, fixed in zip(size[i:], is_fixed[i:], strict=True) if not fixed}))
            multiplicity[row, i] = m
            weight[row, i] = weights[m] if is_fixed[i] else 0
            supply[row, i] = supplies.setdefault((of_group, free), len(supplies))
    below = _stack([_below(of_group) for of_group in kinds])
    usable, needed, fits = (_stack(column) for column in zip(*(_uses(*one) for one in supplies), strict=True))
    return _Tables(kind, everything, multiplicity, weight, supply, below, usable, needed, fits)


def _vectors(kind: _Kind) -> Tensor:
    """Long (V, m): how many of the n fixed positions of each of m multiplicities are taken, all cases by number."""
    return torch.tensor([*product(*(range(n + 1) for _, n in kind))], dtype=torch.long)


def _below(kind: _Kind) -> Tensor:
    vectors = _vectors(kind)
    return _bitset((vectors <= vectors[:, None]).all(2))


def _uses(kind: _Kind, free: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Usable (C,), needed (C, J) and fits (C, J) of one supply."""
    vectors, below = _vectors(kind), _below(kind)
    atoms = (vectors * torch.tensor([m for m, _ in kind], dtype=torch.long)).sum(1)
    rest = torch.arange(MAX_COUNT + 1)[:, None] - atoms
    may_take = (rest >= 0) & _sums(free)[rest.clamp(min=0)]  # (C, V)
    is_smaller = (vectors[:, None] <= vectors).all(2) & (vectors[:, None] != vectors).any(2)
    smallest = may_take & ~(may_take[:, :, None] & is_smaller).any(1)
    needed = smallest.byte().argsort(dim=1, descending=True, stable=True)[:, : int(smallest.sum(1).max())]
    fits = below[len(vectors) - 1 - needed]  # vector number V - 1 - v is what v leaves
    return _bitset(may_take), needed, fits * smallest.gather(1, needed)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors that differ in their last dimension, padded with 0."""
    width = max(tensor.shape[-1] for tensor in tensors)
    return torch.stack([torch.nn.functional.pad(tensor, (0, width - tensor.shape[-1])) for tensor in tensors])


def _bitset(members: Tensor) -> Tensor:
    """Long (...): bit j is set where a bool (..., V) is true at j."""
    return (members.long() << torch.arange(members.shape[-1])).sum(-1)


def _sums(multiplicities: Sequence[int]) -> Tensor:
    """Bool (C,): which counts are sums of the multiplicities, each used any number of times."""
    possible = [True, *[False] * MAX_COUNT]
    for count in range(1, MAX_COUNT + 1):
        possible[count] = any(m <= count and possible[count - m] for m in multiplicities)
    return torch.tensor(possible)
