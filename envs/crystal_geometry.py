"""Distances between the atoms of crystals under construction, in batches.

A crystal keeps its shape while its volume is open, so all distances scale together: for every shape and every choice
of coordinates there is one least volume at which each pair of atoms is as far apart as its limit asks.
N crystals, S occupied positions, A atoms of the primitive cell, K elements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from envs.crystal_batch import position_tables
from envs.element_sizes import element_sizes

SHORTEST = 0.7
"""No two atoms are nearer than this, A."""
_BEYOND = 1e9  # a ratio of limit to distance that no pair has
_CHUNK = 256  # crystals at a time: the tables of distances stay in the cache
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
    sizes = element_sizes()
    covalent, anion = sizes.covalent_radius[atomic_numbers], sizes.anion_radius[atomic_numbers]
    ionic = closed_shell & (anion > 0)
    both = ionic[:, :, None] & ionic[:, None, :]
    sums = torch.where(both, anion[:, :, None] + anion[:, None, :], covalent[:, :, None] + covalent[:, None, :])
    return (fraction * sums).clamp_min(SHORTEST)


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
    tables = position_tables()
    occupied = flat_position >= 0
    multiplicity = torch.where(occupied, tables.primitive_multiplicity[flat_position.clamp_min(0)], 0)
    ends = multiplicity.cumsum(1)
    number = torch.arange(n_atoms).expand(len(free), -1).contiguous()
    orbit = torch.searchsorted(ends, number, right=True)
    exists = orbit < flat_position.shape[1]
    orbit = orbit.clamp_max(flat_position.shape[1] - 1)
    within = (number - (ends - multiplicity).gather(1, orbit)).clamp(0, tables.maps.shape[1] - 1)
    maps = _single_maps()[flat_position.gather(1, orbit).clamp_min(0), within]  # (N, A, 3, 4)
    parameters = free.float().gather(1, orbit[..., None].expand(-1, -1, 3))
    points = (maps[..., :3] @ parameters[..., None]).squeeze(-1) + maps[..., 3]
    settled_atoms = exists & settled.gather(1, orbit)
    return PlacedAtoms(points @ _inverse(transform), orbit, settled_atoms)


def least_volumes(atoms: PlacedAtoms, lattice: Tensor, limits: Tensor, slot: Tensor) -> Tensor:
    """Return the least volume of the primitive cell at which all atoms keep their distance, float (N,), A3.

    Args:
        atoms: All settled.
        lattice: Float64 (N, 3, 3): reduced primitive basis at any volume.
        limits: Float (N, K, K), A; see `pair_limits`.
        slot: Long (N, S): the element of each occupied position, 0 .. K - 1.
    """
    parts = [
        _largest_ratio(
            PlacedAtoms(atoms.points[rows], atoms.orbit[rows], atoms.settled[rows]),
            lattice[rows].float(),
            limits[rows],
            slot[rows],
        )
        for rows in (slice(start, start + _CHUNK) for start in range(0, len(lattice), _CHUNK))
    ]
    return torch.cat([torch.zeros(0), *parts]).double().pow(3) * lattice.det().abs()


def _largest_ratio(atoms: PlacedAtoms, lattice: Tensor, limits: Tensor, slot: Tensor) -> Tensor:
    """The largest limit over distance among the pairs of atoms, float (N,)."""
    rows = torch.arange(len(lattice))[:, None]
    first = _first_of_orbit(atoms)  # atoms of one position are alike, one of them speaks for all
    exists = first < len(atoms.points[0])
    first = first.clamp_max(len(atoms.points[0]) - 1)
    metric = lattice @ lattice.transpose(1, 2)
    difference = atoms.points[rows, first][:, :, None] - atoms.points[:, None]  # (N, S, A, 3)
    difference = difference - difference.round()
    projected = difference @ metric[:, None]
    base = (difference * projected).sum(-1)
    steps = torch.einsum("ti,nij,tj->nt", _OFFSETS, metric, _OFFSETS)
    across = (projected @ _OFFSETS.T).abs_().mul_(-2).add_(steps[:, None, None])
    nearest = across.amin(-1)  # the nearest image beyond the wrapped one
    itself = (first[:, :, None] == torch.arange(atoms.points.shape[1])) & exists[:, :, None]
    square = torch.where(itself, nearest, base + nearest.clamp_max(0)).clamp_min(1e-12)
    atom_slot = slot.gather(1, atoms.orbit)
    asked = limits[rows[..., None], slot.gather(1, atoms.orbit.gather(1, first))[:, :, None], atom_slot[:, None]]
    ratio = asked * square.rsqrt()
    counts = exists[:, :, None] & atoms.settled[:, None]
    return torch.where(counts, ratio, 0.0).flatten(1).amax(1)


def _first_of_orbit(atoms: PlacedAtoms) -> Tensor:
    """Number of the first atom of each occupied position, long (N, most positions); A where there is none."""
    n, n_atoms = atoms.orbit.shape
    starts = atoms.settled.clone()
    starts[:, 1:] &= atoms.orbit[:, 1:] != atoms.orbit[:, :-1]
    width = int(starts.sum(1).max()) if n else 0
    number = torch.where(starts, torch.arange(n_atoms), n_atoms)
    return number.sort(dim=1).values[:, :width]


def clearances(
    atoms: PlacedAtoms, flat_position: Tensor, candidates: Tensor, lattice: Tensor, limits: Tensor, transform: Tensor
) -> Tensor:
    """Return how far atoms at candidate coordinates would stand from the settled ones, in units of their limits.

    Every pair is judged by one image only, that of the wrapped difference; exact for short distances in most cells, and
    meant to guide a choice that `least_volumes` settles.

    Args:
        atoms: What is settled.
        flat_position: Long (N,): the position to be occupied.
        candidates: Float (N, C, 3): x, y, z of each candidate.
        lattice: Float (N, 3, 3): reduced primitive basis, A.
        limits: Float (N, A + 1): least distance to each atom, and to atoms of the same position.
        transform: Long (N, 3, 3): reduced basis = transform @ primitive basis.

    Returns:
        Float (N, C): 0 where atoms coincide.
    """
    multiplicity = position_tables().primitive_multiplicity[flat_position]
    result = torch.empty(candidates.shape[:2])
    to_reduced = _inverse(transform)
    order = multiplicity.argsort()
    for rows in torch.split(order, _CHUNK // 2):  # alike in multiplicity, so that little is padded
        most = int(multiplicity[rows].max())
        maps = _single_maps()[flat_position[rows], :most]
        turned = maps[..., :3].transpose(2, 3) @ to_reduced[rows, None]  # (n, M, 3, 3)
        shift = maps[..., 3] @ to_reduced[rows]
        points = candidates[rows].float()
        images = torch.einsum("ncj,nmjk->nmck", points, turned) + shift[:, :, None]  # (n, M, C, 3)
        settled = atoms.settled[rows]
        width = int(settled.any(0).nonzero().max()) + 1 if bool(settled.any()) else 0
        others = torch.cat([atoms.points[rows, :width, None].expand(-1, -1, images.shape[2], -1), images[:, 1:]], dim=1)
        difference = others - images[:, :1]
        difference -= difference.round()
        n, k, c, _ = difference.shape
        square = (difference.reshape(n, k * c, 3) @ lattice[rows].float()).square_().sum(-1).reshape(n, k, c)
        of_own = multiplicity[rows, None] > torch.arange(1, most)
        counts = torch.cat([settled[:, :width], of_own], dim=1)
        asked = torch.cat([limits[rows, :width], limits[rows, -1:].expand(-1, most - 1)], dim=1)
        square = torch.where(counts[..., None], square / asked.square()[..., None], _BEYOND)
        result[rows] = square.amin(1).sqrt() if k else math.sqrt(_BEYOND)
    return result


@lru_cache(maxsize=1)
def _single_maps() -> Tensor:
    """The maps of all positions in single precision, float (P, 48, 3, 4)."""
    return position_tables().maps.float()


def _inverse(transform: Tensor) -> Tensor:
    """Primitive coordinates times this are reduced ones: the inverse of integer matrices of determinant +-1."""
    a, b, c = transform.float().unbind(1)
    cofactors = torch.stack([torch.cross(b, c, dim=1), torch.cross(c, a, dim=1), torch.cross(a, b, dim=1)], dim=2)
    return cofactors * (a * cofactors[:, :, 0]).sum(1)[:, None, None]
