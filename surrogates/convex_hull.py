"""Lower convex hull of formation energies over composition, exact, for whole batches of compositions.

The hull at a composition b is the linear programme min e·x over mixtures x >= 0 of entries that have the composition b.
Only an entry below zero that is stable within its own chemical system can carry weight, so the table is pruned once,
small systems first; for each composition the vertices of all subsets of its elements are gathered and a revised simplex
method (Dantzig's rule, from the pure elements) runs on all compositions at once in double precision. Every result is
certified by the gap between its primal and dual energies; the rare one without a certificate is solved again by HiGHS.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Self

import torch
from torch import Tensor

from envs.chemistry import MAX_ATOMIC_NUMBER
from envs.formula import CompositionBatch

MAX_INDEXED_ELEMENTS = 8
"""Compositions of more elements are solved one by one: they have too many subsets of elements."""

SAME_COMPOSITION = 1e-6
"""Largest difference of an atomic fraction between two ways to write a composition (amounts are single precision)."""

TOLERANCE = 1e-9
"""eV/atom; reduced costs above -TOLERANCE count as zero."""

_MAX_PIVOTS = 200
_SMALLEST_PIVOT = 1e-9
_ROWS_TOGETHER = 16384
_ROWS_PER_SOLVE = 1024


class ConvexHull:
    """Convex hull of N compounds and the pure elements, all of which have the formation energy 0."""

    def __init__(self, materials: CompositionBatch, formation_energies: Tensor) -> None:
        """Prune the compounds.

        Args:
            materials: N compositions. Pure elements and compounds at or above zero have no part in a hull.
            formation_energies: (N,), eV/atom.
        """
        numbers, fractions, sizes = _sorted_by_element(materials)
        energies = formation_energies.double()
        kept = (sizes > 1) & (energies < 0)
        self._numbers, self._fractions = numbers[kept], fractions[kept]
        self._energies, self._sizes = energies[kept], sizes[kept]
        self._stable = torch.ones(len(self._energies), dtype=torch.bool)
        self._index = self._build_index()
        for size in range(2, min(int(self._sizes.max()), MAX_INDEXED_ELEMENTS) + 1 if len(self._sizes) else 0):
            rows = (self._sizes == size).nonzero().squeeze(1)
            others = self._energy_of_size(self._numbers[rows, :size], self._fractions[rows, :size], exclude_self=True)
            self._stable[rows] = self._energies[rows] < others + TOLERANCE
            self._index = self._build_index()

    @property
    def n_vertices(self) -> int:
        """Number of compounds that are stable within their own chemical system."""
        return int(self._stable.sum())

    def energy(self, materials: CompositionBatch, exclude_self: bool = False) -> Tensor:
        """Return the formation energy of the hull at N compositions, float64 (N,), eV/atom, never above 0.

        Args:
            materials: N compositions of any elements.
            exclude_self: Leave out the compounds of the very same composition, so that the result is the energy of the
                best mixture of others; the pure elements always stay.
        """
        numbers, fractions, sizes = _sorted_by_element(materials)
        result = fractions.new_zeros(len(numbers))
        for size in range(2, numbers.shape[1] + 1):
            rows = (sizes == size).nonzero().squeeze(1)
            for part in torch.split(rows, _ROWS_TOGETHER):
                if len(part):
                    result[part] = self._energy_of_size(numbers[part, :size], fractions[part, :size], exclude_self)
        return result

    def _build_index(self) -> _SystemIndex:
        indexed = self._sizes <= MAX_INDEXED_ELEMENTS
        return _SystemIndex.build(
            self._numbers[indexed, :MAX_INDEXED_ELEMENTS],
            self._fractions[indexed, :MAX_INDEXED_ELEMENTS],
            self._energies[indexed],
            self._stable[indexed],
        )

    def _energy_of_size(self, numbers: Tensor, fractions: Tensor, exclude_self: bool) -> Tensor:
        """Return the hull's energy at compositions of exactly K elements, ascending; numbers and fractions (N, K)."""
        if numbers.shape[1] > MAX_INDEXED_ELEMENTS:
            pairs = zip(numbers, fractions, strict=True)
            return torch.stack([self._energy_by_scan(z, x, exclude_self) for z, x in pairs])
        places, ranges = self._index.find(numbers, exclude_self)
        order = ranges.sum(1).argsort()
        result = torch.empty_like(fractions[:, 0])
        for rows in torch.split(order, _ROWS_PER_SOLVE):
            columns, energies = self._index.gather(places[rows], ranges[rows], numbers.shape[1])
            result[rows] = _mixture_energy(columns, energies, fractions[rows], exclude_self)
        return result

    def _energy_by_scan(self, numbers: Tensor, fractions: Tensor, exclude_self: bool) -> Tensor:
        allowed = torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.bool)
        allowed[numbers] = True
        allowed[0] = True
        inside = allowed[self._numbers].all(1)
        dense = fractions.new_zeros(int(inside.sum()), MAX_ATOMIC_NUMBER + 1)
        dense.scatter_add_(1, self._numbers[inside], self._fractions[inside])
        columns, energies = dense[:, numbers].unsqueeze(0), self._energies[inside].unsqueeze(0)
        return _mixture_energy(columns, energies, fractions.unsqueeze(0), exclude_self).squeeze(0)


@dataclass(frozen=True, eq=False)
class _SystemIndex:
    """E compounds grouped by their set of elements, the stable ones of each group first."""

    keys: Tensor
    """Long (G,), ascending; one a set of elements, see `_Subsets`."""

    starts: Tensor
    """Long (G,), first compound of each group."""

    stable_counts: Tensor
    all_counts: Tensor

    fractions: Tensor
    """Float64 (E, W), in ascending atomic number, 0 where padded."""

    energies: Tensor
    """Float64 (E,)."""

    @classmethod
    def build(cls, numbers: Tensor, fractions: Tensor, energies: Tensor, stable: Tensor) -> Self:
        powers = _BASE ** torch.arange(numbers.shape[1])
        keys_of_entries = (numbers * powers).sum(1)
        by_stability = (~stable).long().argsort(stable=True)
        order = by_stability[keys_of_entries[by_stability].argsort(stable=True)]
        keys, group, counts = torch.unique(keys_of_entries[order], return_inverse=True, return_counts=True)
        stable_counts = torch.zeros_like(counts).scatter_add_(0, group, stable[order].long())
        return cls(keys, counts.cumsum(0) - counts, stable_counts, counts, fractions[order], energies[order])

    def find(self, numbers: Tensor, unpruned: bool) -> tuple[Tensor, Tensor]:
        """Return start and number of the stable compounds for each subset of K elements, long (N, S) each.

        With `unpruned`, all compounds of the full set of elements, which is the last subset, are counted.
        """
        subsets = _subsets(numbers.shape[1])
        keys = (numbers.unsqueeze(2) * subsets.powers).sum(1)  # (N, S)
        if not len(self.keys):
            return torch.zeros_like(keys), torch.zeros_like(keys)
        place = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        found = self.keys[place] == keys
        counts = self.stable_counts[place]
        if unpruned:
            counts[:, -1] = self.all_counts[place[:, -1]]
        return self.starts[place], counts * found

    def gather(self, starts: Tensor, counts: Tensor, n_elements: int) -> tuple[Tensor, Tensor]:
        """Return the compounds of (N, S) ranges: fractions (N, M, K) and energies (N, M), padded with zeros."""
        n, s = counts.shape
        flat = counts.flatten()
        ends = flat.cumsum(0)
        ranges = torch.repeat_interleave(torch.arange(n * s), flat)
        step = torch.arange(len(ranges)) - (ends - flat)[ranges]
        entry = starts.flatten()[ranges] + step
        row = ranges // s
        first_of_row = torch.cat([ends.new_zeros(1), ends[s - 1 :: s]])
        width = int(counts.sum(1).max()) if n else 0
        slot = row * width + torch.arange(len(ranges)) - first_of_row[row]
        energies = self.energies.new_zeros(n * width)
        energies[slot] = self.energies[entry]
        digits = min(n_elements, self.fractions.shape[1])
        members = _subsets(n_elements).members[ranges % s, :digits]
        columns = self.fractions.new_zeros(n * width * n_elements)
        places = slot.unsqueeze(1) * n_elements + members
        columns.index_add_(0, places.flatten(), self.fractions[entry, :digits].flatten())
        return columns.view(n, width, n_elements), energies.view(n, width)


_BASE = MAX_ATOMIC_NUMBER + 1


@dataclass(frozen=True, eq=False)
class _Subsets:
    """All S subsets of two or more of K sorted elements, the full set last."""

    powers: Tensor
    """Long (K, S): the key of a subset is the sum of atomic number times this, digits in the base 104."""

    members: Tensor
    """Long (S, K): positions of a subset's elements; the rest, which meets only padding, is 0."""


@lru_cache(maxsize=MAX_INDEXED_ELEMENTS)
def _subsets(n: int) -> _Subsets:
    subsets = [subset for size in range(2, n + 1) for subset in combinations(range(n), size)]
    powers, members = torch.zeros(n, len(subsets), dtype=torch.long), torch.zeros(len(subsets), n, dtype=torch.long)
    for column, subset in enumerate(subsets):
        for digit, position in enumerate(subset):
            powers[position, column] = _BASE**digit
            members[column, digit] = position
    return _Subsets(powers, members)


def _sorted_by_element(materials: CompositionBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return atomic numbers ascending (N, K), fractions in float64 (N, K), both 0 where padded, and sizes (N,)."""
    amounts = materials.amounts.double()
    numbers = torch.where(amounts > 0, materials.atomic_numbers, _BASE)
    numbers, order = numbers.sort(1)
    fractions = (amounts / amounts.sum(1, keepdim=True)).gather(1, order)
    present = numbers < _BASE
    return numbers * present, fractions * present, present.sum(1)


def _mixture_energy(columns: Tensor, energies: Tensor, target: Tensor, exclude_target: bool) -> Tensor:
    """Return the least energy of mixtures of compounds and pure elements, (N,).

    Args:
        columns: (N, M, K), atomic fractions of M compounds; rows of zeros are padding.
        energies: (N, M), formation energies.
        target: (N, K), composition of the mixture, all positive.
        exclude_target: Leave out the compounds of the target's composition.
    """
    if exclude_target:
        own = (columns - target.unsqueeze(1)).abs().amax(2) < SAME_COMPOSITION
        columns, energies = columns * ~own.unsqueeze(2), energies * ~own
    n, _, k = columns.shape
    elements = torch.eye(k, dtype=target.dtype).expand(n, k, k)
    columns = torch.cat([elements, columns], 1)
    energies = torch.cat([energies.new_zeros(n, k), energies], 1)
    result, certified = _simplex(columns, energies, target)
    for row in (~certified).nonzero().flatten().tolist():
        result[row] = _solve_with_highs(columns[row], energies[row], target[row])
    return result


def _simplex(columns: Tensor, energies: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least e·x with columns^T x = target and x >= 0, (N,), and whether it is certified, bool (N,).

    The first K columns are the unit vectors with energy 0.
    """
    n, _, k = columns.shape
    result, certified = target.new_zeros(n), torch.zeros(n, dtype=torch.bool)
    rows = torch.arange(n)
    inverse = torch.eye(k, dtype=target.dtype).repeat(n, 1, 1)
    basis = torch.arange(k).repeat(n, 1)
    weights, prices = target.clone(), torch.zeros_like(target)
    for _ in range(_MAX_PIVOTS):
        reduced = energies - torch.bmm(columns, prices.unsqueeze(2)).squeeze(2)
        best, entering = reduced.min(1)
        going = best < -TOLERANCE
        if not bool(going.all()):
            done = ~going
            result[rows[done]] = (prices[done] * target[done]).sum(1)
            certified[rows[done]] = _is_certified(
                columns[done], energies[done], target[done], basis[done], weights[done], prices[done]
            )
            rows, columns, energies, target = rows[going], columns[going], energies[going], target[going]
            inverse, basis, weights, prices = inverse[going], basis[going], weights[going], prices[going]
            best, entering = best[going], entering[going]
        if not len(rows):
            break
        at = torch.arange(len(rows))
        direction = torch.bmm(inverse, columns[at, entering].unsqueeze(2)).squeeze(2)
        ratio = torch.where(direction > _SMALLEST_PIVOT, weights.clamp_min(0) / direction, torch.inf)
        step = ratio.amin(1, keepdim=True)
        tied = ratio <= step + 1e-12
        leaving = torch.where(tied, direction, -torch.inf).argmax(1)  # the largest pivot of those that tie
        pivot_row = inverse[at, leaving] / direction[at, leaving].unsqueeze(1)
        inverse = inverse - direction.unsqueeze(2) * pivot_row.unsqueeze(1)
        inverse[at, leaving] = pivot_row
        weights = weights - step * direction
        weights[at, leaving] = step.squeeze(1)
        basis[at, leaving] = entering
        prices = prices + best.unsqueeze(1) * pivot_row
    return result, certified


def _is_certified(
    columns: Tensor, energies: Tensor, target: Tensor, basis: Tensor, weights: Tensor, prices: Tensor
) -> Tensor:
    """Return whether the weights are a mixture of the target's composition with the energy that the prices give."""
    basic = columns.gather(1, basis.unsqueeze(2).expand(-1, -1, columns.shape[2]))
    residual = ((weights.unsqueeze(2) * basic).sum(1) - target).abs().amax(1)
    gap = ((weights * energies.gather(1, basis)).sum(1) - (prices * target).sum(1)).abs()
    return (weights.amin(1) > -TOLERANCE) & (residual < TOLERANCE) & (gap < TOLERANCE)


def _solve_with_highs(columns: Tensor, energies: Tensor, target: Tensor) -> float:
    """Return the same least energy for one composition, by the HiGHS solver."""
    from scipy.optimize import linprog

    tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    solution = linprog(energies.numpy(), A_eq=columns.T.numpy(), b_eq=target.numpy(), method="highs", options=tight)
    if solution.status != 0:
        raise RuntimeError(f"convex hull: HiGHS found no optimum ({solution.message})")
    return float(solution.fun)
