"""Which atom counts fit on the Wyckoff positions of a space group.

    multisets_fit((1, 1), 225)                  # True: rocksalt
    feasible_groups().lookup(counts)            # (N, 230): for a batch of counts by element

Only the multiset of the counts matters: a position without free parameters holds one element, the others any number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import torch
from torch import Tensor

from envs.wyckoff import N_SPACE_GROUPS, space_group


@dataclass(frozen=True)
class _Capacity:
    """What a group can hold in its primitive cell, as far as atom counts are concerned."""

    free: tuple[int, ...]
    """Multiplicities of positions with free parameters, ascending, without those that are sums of others."""
    fixed: tuple[tuple[int, int], ...]
    """Multiplicities of positions without free parameters, ascending, and how many there are, to be used once each."""

    def places_free(self, count: int) -> bool:
        """Whether so many atoms can be placed on positions with free parameters alone."""
        return count == 0 or any(count >= m and self.places_free(count - m) for m in self.free)


@lru_cache(maxsize=N_SPACE_GROUPS)
def _capacity(number: int) -> _Capacity:
    positions = space_group(number).positions
    fixed = [p.primitive_multiplicity for p in positions if not p.degrees_of_freedom]
    capacity = _Capacity((), ())
    for multiplicity in sorted({p.primitive_multiplicity for p in positions if p.degrees_of_freedom}):
        if not capacity.places_free(multiplicity):
            capacity = _Capacity((*capacity.free, multiplicity), ())
    needed = sorted(m for m in set(fixed) if not capacity.places_free(m))  # free positions do for the others
    return _Capacity(capacity.free, tuple((m, fixed.count(m)) for m in needed))


@lru_cache(maxsize=100_000)
def _uses(count: int, capacity: _Capacity) -> tuple[tuple[int, ...], ...]:
    """How many fixed positions of each multiplicity one element may take, free ones holding the rest; the fewest."""
    every = [
        used
        for used in product(*(range(min(n, count // m) + 1) for m, n in capacity.fixed))
        if (rest := count - sum(k * m for k, (m, _) in zip(used, capacity.fixed, strict=True))) >= 0
        and capacity.places_free(rest)
    ]
    return tuple(u for u in every if not any(v != u and _at_most(v, u) for v in every))


def _at_most(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True))


@lru_cache(maxsize=200_000)
def _left_over(counts: tuple[int, ...], capacity: _Capacity) -> frozenset[tuple[int, ...]]:
    """Fixed positions of each multiplicity that may be left when the counts are placed; empty if they cannot be."""
    if not counts:
        return frozenset([tuple(n for _, n in capacity.fixed)])
    return frozenset(
        tuple(n - k for n, k in zip(left, used, strict=True))
        for left in _left_over(counts[:-1], capacity)
        for used in _uses(counts[-1], capacity)
        if _at_most(used, left)
    )


def multisets_fit(counts: Sequence[int], number: int) -> bool:
    """Return whether atoms can be placed on the Wyckoff positions of a space group.

    A position without free parameters can be occupied once, by one element; the others any number of times.

    Args:
        counts: Atoms of each element in the primitive cell; their order does not matter.
        number: The space group.
    """
    if any(count < 1 for count in counts):
        raise ValueError(f"counts: {tuple(counts)} (expected at least one atom of each element)")
    return bool(_left_over(tuple(sorted(counts, reverse=True)), _capacity(number)))


def count_multisets(max_elements: int, max_atoms: int) -> Iterator[tuple[int, ...]]:
    """Yield every multiset of atom counts within the limits, each descending."""

    def extend(counts: tuple[int, ...], largest: int, left: int) -> Iterator[tuple[int, ...]]:
        for count in range(1, min(largest, left) + 1):
            longer = (*counts, count)
            yield longer
            if len(longer) < max_elements:
                yield from extend(longer, count, left - count)

    yield from extend((), max_atoms, max_atoms)


@dataclass(frozen=True, eq=False)
class FeasibleGroups:
    """Which space groups can hold which atom counts, for all multisets of counts within limits."""

    multisets: tuple[tuple[int, ...], ...]
    """Counts of each multiset, descending."""
    fits: Tensor
    """Bool (n_multisets, 230): whether space group j + 1 can hold multiset i in its primitive cell."""
    keys: Tensor
    """Long (n_multisets,), ascending: the counts of each multiset as digits, the largest first."""
    max_elements: int
    max_atoms: int

    @cached_property
    def classes(self) -> Tensor:
        """Long (230,): equal numbers for groups that can hold the same multisets."""
        classes: Tensor = torch.unique(self.fits, dim=1, return_inverse=True)[1]
        return classes

    def lookup(self, counts: Tensor) -> Tensor:
        """Return which groups can hold atom counts in their primitive cells.

        Args:
            counts: Long (..., n): atoms of each element in any order; zeros are ignored.

        Returns:
            Bool (..., 230).

        Raises:
            ValueError: A row is empty or beyond the limits of the table.
        """
        digits = counts.sort(dim=-1, descending=True).values
        digits = torch.nn.functional.pad(digits, (0, max(0, self.max_elements - digits.shape[-1])))
        outside = (digits[..., 0] < 1) | (digits < 0).any(-1) | (digits[..., self.max_elements :] > 0).any(-1)
        outside |= digits.sum(-1) > self.max_atoms
        if outside.any():
            raise ValueError(
                f"counts: {counts[outside][0].tolist()} is not a multiset of 1-{self.max_elements} elements and at most"
                f" {self.max_atoms} atoms"
            )
        rows = torch.searchsorted(self.keys, _keys(digits[..., : self.max_elements], self.max_atoms))
        return self.fits[rows]


def _keys(digits: Tensor, max_atoms: int) -> Tensor:
    powers = (max_atoms + 1) ** torch.arange(digits.shape[-1] - 1, -1, -1)
    return (digits * powers).sum(-1)


@lru_cache(maxsize=8)
def feasible_groups(max_elements: int = 5, max_atoms: int = 20) -> FeasibleGroups:
    """Return which space groups can hold which multisets of so many atoms of so many elements in a primitive cell."""
    multisets = tuple(sorted(count_multisets(max_elements, max_atoms)))
    digits = torch.tensor([[*counts, *[0] * (max_elements - len(counts))] for counts in multisets])
    capacities = [_capacity(number) for number in range(1, N_SPACE_GROUPS + 1)]
    columns = {c: [bool(_left_over(counts, c)) for counts in multisets] for c in set(capacities)}
    fits = torch.tensor([columns[capacity] for capacity in capacities]).T.contiguous()
    return FeasibleGroups(multisets, fits, _keys(digits, max_atoms), max_elements, max_atoms)
