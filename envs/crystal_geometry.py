"""Distances between the atoms of crystals under construction, in batches.

A crystal keeps its shape while its volume is open, so all distances scale together: for every shape and every choice
of coordinates there is one least volume at which each pair of atoms is as far apart as its limit asks.
N crystals, S occupied positions, A atoms of the primitive cell, K elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from envs.crystal_batch import position_tables
from envs.element_sizes import element_sizes

SHORTEST = 0.7
"""No two atoms are nearer than this, A."""
_BEYOND = 1e9  # a ratio of squares, limit to distance, that no pair has
_CHUNK = 128  # crystals at a time: the tables of distances stay in the cache
_OFFSETS = torch.cartesian_prod(*[torch.arange(-1.0, 2.0)] * 3)[14:].contiguous()  # one of each pair +-t, without 0


def pair_limits(atomic_numbers: Tensor, closed_shell: Tensor, fraction: float) -> Tensor:
    """Return the least distance between atoms of two elements, float (N, K, K), A.

    Two closed-shell anions keep `fraction` of the sum of their anion radii, other pairs of the covalent radii; nothing
    is nearer than `SHORTEST`.

    Args:
        atomic_numbers: Long (N, K), 0 where padded.
        closed_shell: Bool (N, K): the element can only be an anion with a closed shell.
        fraction: Of the sum of radii.
    """
    first, second = atomic_numbers[:, :, None], atomic_numbers[:, None]
    return limits_of_pairs(first, closed_shell[:, :, None], second, closed_shell[:, None], fraction)


def limits_of_pairs(
    first: Tensor, first_closed: Tensor, second: Tensor, second_closed: Tensor, fraction: float
) -> Tensor:
    """Return the least distance of pairs by their atomic numbers, float, A; arguments broadcast, see `pair_limits`."""
    table = _limit_table(fraction)
    n = table.shape[1]
    place = ((first_closed & second_closed) * n + first) * n + second
    return table.flatten().index_select(0, place.flatten()).view(place.shape)


@lru_cache(maxsize=8)
def _limit_table(fraction: float) -> Tensor:
    """Float (2, 104, 104): least distances by atomic number, A; the second half for pairs of closed-shell anions."""
    sizes = element_sizes()
    covalent, anion = sizes.covalent_radius, sizes.anion_radius
    sums = covalent[:, None] + covalent
    both = (anion[:, None] > 0) & (anion > 0)
    return (fraction * torch.stack([sums, torch.where(both, anion[:, None] + anion, sums)])).clamp_min(SHORTEST)


@dataclass(frozen=True, eq=False)
class PlacedAtoms:
    """The atoms of N crystals, as far as their coordinates are settled."""

    points: Tensor
    """Float (N, A, 3): primitive fractional coordinates in the reduced basis."""
    orbit: Tensor
    """Long (N, A): the occupied position that each belongs to."""
    settled: Tensor
    """Bool (N, A): the atom exists and all its coordinates are chosen."""


def place_atoms(flat_position: Tensor, free: Tensor, settled: Tensor, transform: Tensor, n_atoms: int) -> PlacedAtoms:
    """Return the atoms of crystals.

    Args:
        flat_position: Long (N, S): number of each occupied position in `position_tables`, -1 where padded.
        free: Float (N, S, 3): x, y, z of each.
        settled: Bool (N, S): whether those that it needs are chosen.
        transform: Long (N, 3, 3): reduced basis = transform @ primitive basis.
        n_atoms: Most atoms in a crystal.
    """
    n, most = len(free), flat_position.shape[1]
    position = flat_position.clamp_min(0)
    multiplicity = position_tables().primitive_multiplicity[position].mul_(flat_position >= 0)
    ends = multiplicity.cumsum(1)
    number = torch.arange(n_atoms).expand(n, -1).contiguous()
    orbit = torch.searchsorted(ends, number, right=True)
    exists = orbit < most
    orbit.clamp_max_(most - 1)
    maps = _single_maps()
    within = (number - (ends - multiplicity).gather(1, orbit)).clamp_(0, maps.shape[1] - 1)
    chosen = (position.gather(1, orbit) * maps.shape[1] + within).flatten()
    of_atom = maps.flatten(0, 1).index_select(0, chosen).view(n, n_atoms, 4, 3)
    parameters = free.float().gather(1, orbit[..., None].expand(-1, -1, 3))[..., None]
    points = of_atom[:, :, 3]
    for axis in range(3):
        points = points + of_atom[:, :, axis] * parameters[:, :, axis]
    return PlacedAtoms(points @ _inverse(transform), orbit, exists & settled.gather(1, orbit))


def least_volumes(atoms: PlacedAtoms, lattice: Tensor, limits: Tensor, slot: Tensor) -> Tensor:
    """Return the least volume of the primitive cell at which all atoms keep their distance, float (N,), A3.

    Args:
        atoms: All settled.
        lattice: Float64 (N, 3, 3): reduced primitive basis at any volume.
        limits: Float (N, K, K), A; see `pair_limits`.
        slot: Long (N, S): the element of each occupied position, 0 .. K - 1.
    """
    ratio = torch.zeros(len(lattice))
    single = lattice.float()
    ends = (atoms.settled * torch.arange(1, atoms.settled.shape[1] + 1)).amax(1)
    for rows in _by_size(ends) if len(ends) else ():  # alike in size, so that little is padded
        width = int(ends[rows].max())
        part = PlacedAtoms(*(values[rows, :width] for values in (atoms.points, atoms.orbit, atoms.settled)))
        if width:
            ratio[rows] = _largest_ratio(part, single[rows], limits[rows], slot[rows])
    return ratio.double().pow(3) * cell_volumes(lattice)


def _largest_ratio(atoms: PlacedAtoms, lattice: Tensor, limits: Tensor, slot: Tensor) -> Tensor:
    """The largest limit over distance among the pairs of atoms, float (n,)."""
    n, n_atoms = atoms.orbit.shape
    first = _first_of_orbit(atoms)  # atoms of one position are alike, one of them speaks for all
    exists = first < n_atoms
    first = first.clamp_max(n_atoms - 1)
    points = atoms.points.transpose(1, 2)
    difference = points.gather(2, first[:, None].expand(-1, 3, -1))[..., None] - points[:, :, None]  # (n, 3, S, A)
    difference = (difference - difference.round()).flatten(2)
    steps = _OFFSETS @ (lattice @ lattice.transpose(1, 2))  # (n, 13, 3)
    lengths = (steps * _OFFSETS).sum(2, keepdim=True)
    across = (steps @ difference).abs_().mul_(-2).add_(lengths)
    nearest = across.amin(1)  # the nearest image beyond the wrapped one
    square = (lattice.transpose(1, 2) @ difference).square_().sum(1).add_(nearest.clamp_max(0)).view(n, -1, n_atoms)
    itself = (first[:, :, None] == torch.arange(n_atoms)) & exists[:, :, None]
    square = torch.where(itself, nearest.view(square.shape), square).clamp_min_(1e-12)
    of_atom = slot.gather(1, atoms.orbit)
    asked = limits.gather(1, of_atom.gather(1, first)[..., None].expand(-1, -1, limits.shape[2]))
    asked = asked.gather(2, of_atom[:, None].expand(-1, asked.shape[1], -1))
    counts = exists[:, :, None] & atoms.settled[:, None]
    return torch.where(counts, asked * square.rsqrt_(), 0.0).flatten(1).amax(1)


def _first_of_orbit(atoms: PlacedAtoms) -> Tensor:
    """Number of the first atom of each occupied position, long (N, most positions); A where there is none."""
    n, n_atoms = atoms.orbit.shape
    starts = atoms.settled.clone()
    starts[:, 1:] &= atoms.orbit[:, 1:] != atoms.orbit[:, :-1]
    width = int(starts.sum(1).max()) if n else 0
    number = torch.where(starts, torch.arange(n_atoms), n_atoms)
    return number.sort(dim=1).values[:, :width]


def cell_volumes(lattice: Tensor) -> Tensor:
    """Return the volumes of cells, (n,), from their vectors (n, 3, 3)."""
    a, b, c = lattice.unbind(1)
    volumes: Tensor = (torch.linalg.cross(a, b) * c).sum(1).abs()
    return volumes


@dataclass(frozen=True, eq=False)
class Candidates:
    """The values that may be chosen for one coordinate each of N positions."""

    flat_position: Tensor
    """Long (N,): number of the position in `position_tables`."""
    chosen: Tensor
    """Float (N, 3): its x, y, z as far as they are chosen, 0 for the others."""
    axis: Tensor
    """Long (N,): the coordinate in question; those before it are chosen, those after it open."""
    values: Tensor
    """Float (N, C)."""

    @property
    def is_last(self) -> Tensor:
        """Whether no further coordinate of the position is open, bool (N,)."""
        return _last_axis()[self.flat_position] <= self.axis


def clearances(
    atoms: PlacedAtoms, candidates: Candidates, lattice: Tensor, limits: Tensor, transform: Tensor
) -> Tensor:
    """Return how far atoms at candidate coordinates would stand from others, in units of their limits.

    The last coordinate of a position is judged by all settled atoms and by the atoms of the position itself; an earlier
    one by those of the latter whose distance the coordinates to come do not change, as across a mirror plane.
    Every pair is judged by one image only, that of the wrapped difference; exact for short distances in most cells, and
    meant to guide a choice that `least_volumes` settles.

    Args:
        atoms: What is settled.
        candidates: C values of one coordinate of each crystal.
        lattice: Float (N, 3, 3): reduced primitive basis, A.
        limits: Float (N, A + 1): least distance to each atom, and to atoms of the same position.
        transform: Long (N, 3, 3): reduced basis = transform @ primitive basis.

    Returns:
        Float (N, C): 0 where atoms coincide.
    """
    n_atoms = atoms.settled.shape[1]
    counts = atoms.settled & candidates.is_last[:, None]
    width = (counts * torch.arange(1, n_atoms + 1)).amax(1)
    multiplicity = position_tables().primitive_multiplicity[candidates.flat_position]
    turn, axes = _inverse(transform).transpose(1, 2), torch.eye(3, 4)[candidates.axis]
    at_zero = torch.nn.functional.pad(candidates.chosen, (0, 1), value=1.0) * (1 - axes)
    basis = torch.stack([at_zero, axes], dim=2)  # (N, 4, 2): all that follows is linear in the candidate value
    grid = torch.stack([torch.ones_like(candidates.values), candidates.values], dim=1)
    base = turn @ (_single_maps()[candidates.flat_position, 0].transpose(1, 2) @ basis)  # (N, 3, 2)
    weight = limits.square().reciprocal_()
    result = torch.empty(candidates.values.shape)
    for rows in _by_size(width + multiplicity):  # alike in the number of pairs, so that little is padded
        most, others, position = int(multiplicity[rows].max()), int(width[rows].max()), candidates.flat_position[rows]
        moves = _image_moves()[:, :, : most - 1][position].flatten(1, 2) @ basis[rows]
        images = (turn[rows] @ moves.view(len(moves), 3, -1)).view(len(moves), 3, most - 1, 2)
        from_here = -base[rows, :, None].expand(-1, -1, others, -1)
        from_here = torch.stack([from_here[..., 0] + atoms.points[rows, :others].transpose(1, 2), from_here[..., 1]], 3)
        pairs = torch.cat([from_here, images], dim=2)
        difference = pairs.flatten(1, 2) @ grid[rows]  # (n, 3 k, C)
        difference -= difference.round()
        difference = lattice[rows].transpose(1, 2) @ difference.view(len(moves), 3, -1)
        square = difference.square_().sum(1).view(len(moves), -1, grid.shape[2])
        of_own = _is_settled_by()[position, candidates.axis[rows], : most - 1]
        judged = torch.cat([counts[rows, :others], of_own], dim=1)[..., None]
        asked = torch.cat([weight[rows, :others], weight[rows, -1:].expand(-1, most - 1)], dim=1)[..., None]
        square = torch.addcmul(torch.where(judged, 0.0, _BEYOND), square, asked)
        result[rows] = square.amin(1) if square.shape[1] else torch.tensor(_BEYOND)
    return result.sqrt_()


def _by_size(size: Tensor) -> tuple[Tensor | slice, ...]:
    """Rows (n,) in chunks of like size."""
    return (slice(None),) if len(size) <= _CHUNK else torch.split(size.argsort(), _CHUNK)


def is_judged(flat_position: Tensor, axis: Tensor) -> Tensor:
    """Return whether values of a coordinate differ in what `clearances` says, bool (n,), for long (n,) each."""
    return (_last_axis()[flat_position] <= axis) | _is_settled_by()[flat_position, axis].any(1)


@lru_cache(maxsize=1)
def _single_maps() -> Tensor:
    """The maps of all positions in single precision: x, y, z and 1 times this, float (P, 48, 4, 3)."""
    return position_tables().maps.float().transpose(2, 3).contiguous()


@lru_cache(maxsize=1)
def _image_moves() -> Tensor:
    """From the first point of a position to its others, by x, y, z and 1: float (P, 3, 47, 4)."""
    maps = position_tables().maps.float()
    return (maps[:, 1:] - maps[:, :1]).transpose(1, 2).contiguous()


@lru_cache(maxsize=1)
def _is_settled_by() -> Tensor:
    """Whether coordinates after axis 0, 1, 2 leave the way from the first point to each other one, bool (P, 3, 47)."""
    changes = (_image_moves()[..., :3] != 0).any(1)  # (P, 47, 3)
    later = torch.stack([changes[..., axis + 1 :].any(2) for axis in range(3)], dim=1)
    exists = torch.arange(1, changes.shape[1] + 1) < position_tables().primitive_multiplicity[:, None]
    return ~later & exists[:, None]


@lru_cache(maxsize=1)
def _last_axis() -> Tensor:
    """The last free axis of each position, long (P,); 0 where there is none."""
    return (position_tables().free_axes * torch.arange(3)).amax(1)


def _inverse(transform: Tensor) -> Tensor:
    """Primitive coordinates times this are reduced ones: the inverse of integer matrices of determinant +-1."""
    a, b, c = transform.float().unbind(1)
    cofactors = torch.stack([torch.cross(b, c, dim=1), torch.cross(c, a, dim=1), torch.cross(a, b, dim=1)], dim=2)
    return cofactors * (a * cofactors[:, :, 0]).sum(1)[:, None, None]
