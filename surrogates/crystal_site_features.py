"""Features of space groups and of Wyckoff positions that need neither a lattice nor coordinates.

    tables = site_tables()
    tables.sites[batch.flat_position]          # (N, S, F): site symmetry and freedom of each occupied position

A position is described by its site symmetry and its multiplicity, never by its letter, and a pair of positions by how
far apart their points lie in a cell of nominal shape. All of it is the same for positions that a change of axes or
origin exchanges (the affine normaliser), so the descriptions of one crystal from two origins are one description.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from envs.crystal_batch import CrystalBatch
from envs.wyckoff import CRYSTAL_SYSTEMS, SpaceGroup, WyckoffPosition, all_space_groups

SHELLS = 12
"""Nearest points of a pair of positions whose distances are kept."""

OPERATION_TYPES: tuple[tuple[int, int], ...] = (
    (1, -1), (1, 0), (1, 1), (1, 2), (-1, -3), (-1, 1), (-1, 0), (-1, -1), (-1, -2),
)  # fmt: skip
"""Determinant and trace of the rotations 2, 3, 4, 6, -1, m, -3, -4, -6."""

_CENTRINGS = "PACIFR"
_LATTICE_FREEDOM = {
    "triclinic": 6,
    "monoclinic": 4,
    "orthorhombic": 3,
    "tetragonal": 2,
    "trigonal": 2,
    "hexagonal": 2,
    "cubic": 1,
}
_AXIAL_RATIO = {"P": 1.4, "R": 6**0.5}
"""Nominal c/a on hexagonal axes: between those of AlB2 and hcp; that of the cubic close packing."""
_CANDIDATES = 32
_VARIANTS = 4
"""Values of the free parameters that are tried, and how many of the best are averaged over."""
_NEARLY_BEST = 0.9
_SAME_POINT = 1e-3


@dataclass(frozen=True, eq=False)
class SiteTables:
    """Features of all P = 1,731 positions and of all 230 groups."""

    sites: Tensor
    """Float (P, F), about -1 to 1."""
    groups: Tensor
    """Float (230, G), about -1 to 1."""
    distances: Tensor
    """Float (P, Q, `SHELLS`), from a point of a position to the nearest points of each position of the same group, in
    units of the cube root of the primitive cell's volume, ascending; Q is the most positions of a group."""
    pair_class: Tensor
    """Long (P, Q), equal for pairs of positions of one group that the affine normaliser exchanges, else not."""


@lru_cache(maxsize=1)
def site_tables() -> SiteTables:
    """Return the features of all positions and groups; takes some seconds, once."""
    groups = all_space_groups()
    sites = torch.tensor([_site_features(group, p) for group in groups for p in group.positions])
    widest = max(len(group.positions) for group in groups)
    distances = torch.zeros(len(sites), widest, SHELLS)
    pair_class = torch.zeros(len(sites), widest, dtype=torch.long)
    first, classes = 0, 0
    for group in groups:
        n = len(group.positions)
        found = _pair_classes(group)
        distances[first : first + n, :n] = _averaged(found, _pair_distances(group)).float()
        pair_class[first : first + n, :n] = found + classes
        first, classes = first + n, classes + int(found.max()) + 1
    group_features = torch.tensor([_group_features(group) for group in groups])
    return SiteTables(sites, group_features, distances, pair_class)


def structure_type_keys(crystals: CrystalBatch, with_elements: bool = False) -> Tensor:
    """Return a 64-bit key of each crystal's structure type, long (N,): space group and positions by element.

    Which elements they are counts only where asked for; origin, lattice and free parameters never do. Types that differ
    only in how more than two positions lie to each other share a key.
    """
    other = torch.where(crystals.element > 0, crystals.position, 0)
    classes = site_tables().pair_class[crystals.flat_position[:, :, None], other[:, None, :]]  # (N, S, S)
    first, second = crystals.element[:, :, None], crystals.element[:, None, :]
    what = first * 128 + second if with_elements else (first == second).long()
    keys: Tensor = torch.where((first > 0) & (second > 0), _mixed(classes * 16384 + what), 0).sum((1, 2))
    return keys


def _mixed(values: Tensor) -> Tensor:
    """Hash long values into long values (the finaliser of splitmix64, signed)."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        values = (values + 1) * factor
        values = values ^ (values >> shift)
    return values


def _operation_shares(rotations: Tensor) -> list[float]:
    """Share of each of `OPERATION_TYPES` among rotations (n, 3, 3)."""
    determinants, traces = torch.linalg.det(rotations).round(), rotations.diagonal(dim1=1, dim2=2).sum(1).round()
    return [float(((determinants == d) & (traces == t)).double().mean()) for d, t in OPERATION_TYPES]


def _site_features(group: SpaceGroup, position: WyckoffPosition) -> list[float]:
    """Order and operations of the site symmetry, degrees of freedom, multiplicity."""
    point = position.orbit(torch.tensor([0.1234, 0.3721, 0.2113]))[0]
    rotations, translations = group.operations[:, :, :3], group.operations[:, :, 3]
    shifts = (rotations @ point + translations - point)[:, None] - group.centring_translations
    fixed = ((shifts - shifts.round()).abs().amax(2) < 1e-6).any(1)
    order = group.point_group_order / position.primitive_multiplicity
    freedom = [float(position.degrees_of_freedom == n) for n in range(4)]
    logarithms = [_log2(order) / 5, _log2(position.primitive_multiplicity) / 5]
    return [*logarithms, *freedom, *_operation_shares(rotations[fixed])]


def _group_features(group: SpaceGroup) -> list[float]:
    """Crystal system, centring, order and operations of the point group."""
    systems = [float(group.crystal_system == name) for _, name in CRYSTAL_SYSTEMS]
    centring = [float(group.centring == letter) for letter in _CENTRINGS]
    special = [p for p in group.positions if p.primitive_multiplicity == 1]
    sizes = [
        _log2(group.point_group_order) / 5,
        _LATTICE_FREEDOM[group.crystal_system] / 6,
        float(bool(special)),
        _log2(min(p.primitive_multiplicity for p in group.positions)) / 5,
    ]
    return [*systems, *centring, *sizes, *_operation_shares(group.operations[:, :, :3])]


def _log2(value: float) -> float:
    return float(torch.tensor(float(value)).log2())


def _nominal_lattice(group: SpaceGroup) -> Tensor:
    """Return the conventional cell (3, 3), rows, scaled to a primitive cell of volume 1; edges equal or nearly so."""
    lattice = torch.eye(3, dtype=torch.float64)
    if group.crystal_system in ("trigonal", "hexagonal"):
        lattice[1] = torch.tensor([-0.5, 0.75**0.5, 0.0])
        lattice[2, 2] = _AXIAL_RATIO[group.centring]
    return lattice * (group.n_centring / lattice.det()) ** (1 / 3)


def _candidates() -> Tensor:
    """Values of (x, y, z) spread over the cell, (`_CANDIDATES`, 3): multiples of powers of the plastic number."""
    ratio = 1.2207440846057596
    steps = torch.tensor([ratio**-1, ratio**-2, ratio**-3], dtype=torch.float64)
    return (0.5 + torch.arange(1, _CANDIDATES + 1).double()[:, None] * steps) % 1.0


def _distances(points: Tensor, others: Tensor, lattice: Tensor) -> Tensor:
    """Return the distances from points (..., 3) to all images of others (..., M, 3) nearby, (..., 27 M)."""
    difference = others - points[..., None, :]
    difference = difference - difference.round()
    images = torch.tensor(list(product((-1, 0, 1), repeat=3)), dtype=torch.float64)
    vectors = (difference[..., None, :] + images) @ lattice
    distances: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return distances.flatten(-2)


def _spread_parameters(position: WyckoffPosition, lattice: Tensor) -> Tensor:
    """Return values of the free parameters that keep the points of a position apart, (`_VARIANTS`, 3)."""
    if not position.degrees_of_freedom:
        return torch.zeros(_VARIANTS, 3, dtype=torch.float64)
    candidates = _candidates()
    orbits = position.orbit(candidates)  # (C, M, 3)
    own = _distances(orbits[:, 0], orbits, lattice)
    own[own < 1e-9] = torch.inf
    nearest = own.amin(1)
    good = (nearest >= _NEARLY_BEST * nearest.max()).nonzero()[:, 0]
    picked = torch.linspace(0, len(good) - 1, _VARIANTS).round().long()
    return candidates[good[picked]]


def _pair_distances(group: SpaceGroup) -> Tensor:
    """Return the mean distances of the nearest points of each pair of positions, (n, n, `SHELLS`)."""
    lattice = _nominal_lattice(group)
    free = [_spread_parameters(position, lattice) for position in group.positions]
    orbits = [position.orbit(values) for position, values in zip(group.positions, free, strict=True)]
    points = torch.stack([orbit[:, 0] for orbit in orbits], 1)  # (V, n, 3)
    result = points.new_zeros(len(orbits), len(orbits), SHELLS)
    for column, orbit in enumerate(orbits):
        found = _distances(points, orbit[:, None].expand(-1, len(orbits), -1, -1), lattice)
        found[found < _SAME_POINT] = torch.inf
        result[:, column] = found.topk(SHELLS, dim=-1, largest=False, sorted=True).values.mean(0)
    return result


def _pair_classes(group: SpaceGroup) -> Tensor:
    """Return the class of each pair of positions under the affine normaliser, long (n, n), counted from 0."""
    n = len(group.positions)
    label = torch.arange(n * n).view(n, n)
    while True:
        before = label
        for permutation in _permutations(group):
            label = torch.minimum(label, label[permutation][:, permutation])
        if bool((label == before).all()):
            classes: Tensor = torch.unique(label, return_inverse=True)[1]
            return classes


def _averaged(classes: Tensor, values: Tensor) -> Tensor:
    """Return values of pairs (n, n, K) averaged over each class."""
    flat = classes.flatten()
    sums = values.new_zeros(int(flat.max()) + 1, values.shape[2]).index_add_(0, flat, values.flatten(0, 1))
    return (sums / torch.bincount(flat)[:, None])[classes]


def _permutations(group: SpaceGroup) -> Iterator[Tensor]:
    """Yield the permutations that generate those of the affine normaliser, and their inverses."""
    for found in group.normaliser:
        permutation = torch.tensor(found.permutation)
        yield permutation
        yield permutation.argsort()
