"""Distances, clearances and the grids of coordinates, against pymatgen and brute force in double precision."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from envs.chemistry import ATOMIC_NUMBERS, SYMBOLS
from envs.crystal import CrystalSpace
from envs.crystal_batch import position_tables
from envs.crystal_geometry import SHORTEST, PlacedAtoms, least_volumes, pair_limits, place_atoms
from envs.crystal_grid import (
    N_COORDINATES,
    VOLUME_RATIOS,
    axis_values,
    coordinate_bins,
    coordinates,
    volumes_of_elements,
)
from envs.crystal_limits import MOST_ATOMS
from envs.crystal_state import Stage
from envs.crystal_state_geometry import APART, UNCONSTRAINED, crystal_system
from envs.element_sizes import element_sizes
from envs.lattice_shapes import reduce_lattices
from envs.wyckoff import CRYSTAL_SYSTEMS, N_SPACE_GROUPS, space_group
from tests.envs.crystals import (
    default_crystal_space,
    free_crystal_space,
    least_ratio_to_limit,
    pair_limit,
    ratio_to_stated_limits,
)

IMAGES = torch.cartesian_prod(*[torch.arange(-2.0, 3.0, dtype=torch.float64)] * 3)

# Limits of pairs


def test_limits_of_pairs_are_fractions_of_radii() -> None:
    symbols = ["O", "S", "Sr", "H", "He", "P"]
    numbers = torch.tensor([[ATOMIC_NUMBERS[s] for s in symbols]])
    for bits in itertools.product([False, True], repeat=3):
        closed = torch.tensor([[*bits, False, False, True]])
        named = frozenset(s for s, bit in zip(symbols, closed[0].tolist(), strict=True) if bit and s not in ("Sr", "P"))
        for fraction in (0.0, 0.75, 1.2):
            found = pair_limits(numbers, closed, fraction)
            assert found.shape == (1, 6, 6)
            for (i, a), (j, b) in itertools.product(enumerate(symbols), repeat=2):
                assert float(found[0, i, j]) == pytest.approx(pair_limit(a, b, named, fraction), abs=0.012)
    assert (pair_limits(numbers, closed, 0.0) == SHORTEST).all()


# Least volumes


def random_cells(seed: int, n: int, skew: int) -> torch.Tensor:
    """Cells whose vectors are combinations of those of a random, not too flat lattice."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randn(20 * n, 3, 3, generator=generator, dtype=torch.float64)
    cells = cells[cells.det().abs() > 0.15 * cells.norm(dim=2).prod(1)][:n] * 4
    lower = torch.eye(3, dtype=torch.float64).repeat(n, 1, 1)
    upper = lower.clone()
    for i, j in ((1, 0), (2, 0), (2, 1)):
        lower[:, i, j] = torch.randint(-skew, skew + 1, (n,), generator=generator).double()
        upper[:, j, i] = torch.randint(-skew, skew + 1, (n,), generator=generator).double()
    return lower @ upper @ cells


@pytest.mark.parametrize(("seed", "n_atoms", "skew"), [(0, 1, 0), (1, 1, 3), (2, 2, 1), (3, 4, 3), (4, 7, 2)])
def test_least_volumes_are_those_of_brute_force_in_any_lattice(seed: int, n_atoms: int, skew: int) -> None:
    n = 25
    generator = torch.Generator().manual_seed(seed + 100)
    lattice = random_cells(seed, n, skew)
    reduced, transform = reduce_lattices(lattice)
    free = torch.rand(n, n_atoms, 3, generator=generator, dtype=torch.float64)
    general = torch.zeros(n, n_atoms, dtype=torch.long)  # space group 1, position a
    atoms = place_atoms(general, free, torch.ones(n, n_atoms, dtype=torch.bool), transform, n_atoms + 2)
    assert atoms.settled.sum(1).eq(n_atoms).all()
    slot = torch.arange(n_atoms).repeat(n, 1) % 3
    limits = pair_limits(
        torch.tensor([[8, 22, 38]]).repeat(n, 1), torch.tensor([[True, False, False]]).repeat(n, 1), 0.75
    )
    found = least_volumes(atoms, reduced, limits, slot)
    symbols = ["O", "Ti", "Sr"]
    for row in range(n):
        structure = Structure(
            Lattice(lattice[row].numpy()), [symbols[i] for i in slot[row].tolist()], free[row].numpy()
        )
        table = {(a, b): float(limits[row, symbols.index(a), symbols.index(b)]) for a in symbols for b in symbols}
        expected = structure.volume / least_ratio_to_limit(structure, table) ** 3
        assert float(found[row]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("system", [name for _, name in CRYSTAL_SYSTEMS])
def test_least_volumes_are_those_of_brute_force_in_every_crystal_system(system: str) -> None:
    space = default_crystal_space()
    state = space.initial(400)
    generator = torch.Generator().manual_seed(len(system))
    for _ in range(space.max_steps):
        at_group = state[:, space.columns.stage] == Stage.SPACE_GROUP
        if bool(at_group.all()):
            break
        moving = (~at_group).nonzero().squeeze(1)
        state[moving] = space.step(state[moving], space._draw_uniform(state[moving], generator))
    wanted = torch.tensor([space_group(n).crystal_system == system for n in space.limits.groups])
    mask = space.mask_of(Stage.SPACE_GROUP, state) & wanted
    state = state[mask.any(1)][:8]
    group = torch.multinomial(mask[mask.any(1)][:8].float(), 1, generator=generator).squeeze(1)
    state = space.step(state, space.kinds[Stage.SPACE_GROUP].start + group)
    while True:
        moving = (state[:, space.columns.stage] < Stage.VOLUME).nonzero().squeeze(1)
        if not len(moving):
            break
        state[moving] = space.step(state[moving], space._draw_uniform(state[moving], generator))
    least = space.geometry.least_ratio(state)
    last = space.kinds[Stage.VOLUME].start + len(VOLUME_RATIOS) - 1
    finished = space.step(space.step(state, torch.full((len(state),), last)), torch.full((len(state),), space.stop))
    batch = space.materials(finished)
    assert len(batch) == 8
    for row, structure in enumerate(space.decode(finished)):
        bits = int(state[row, space.columns.closed_shell])
        numbers = batch.compositions.atomic_numbers[row].tolist()
        closed = frozenset(
            SYMBOLS[z - 1] for i, z in enumerate(numbers) if z and bits >> i & 1 and element_sizes().anion_radius[z]
        )
        volume = float(volumes_of_elements(batch.compositions.atomic_numbers, batch.compositions.amounts)[row])
        volume *= float(batch.n_atoms[row] / batch.compositions.amounts[row].sum())
        expected = structure.volume / volume / ratio_to_stated_limits(structure, closed) ** 3
        assert float(least[row]) == pytest.approx(expected, rel=2e-3), batch[row]  # radii are rounded to 0.01 A


def test_the_factor_on_the_least_volume_covers_single_precision() -> None:
    space = default_crystal_space()
    state = space.sample_uniform_policy(200, torch.Generator().manual_seed(5))
    stretched, least = space.geometry.stretched_ratio(state), space.geometry.least_ratio(state)
    assert stretched.equal((least * APART).clamp_min(float(VOLUME_RATIOS[-1])))
    assert len(space.geometry.least_ratio(state[:0])) == 0
    batch = space.materials(state)
    limits = space.geometry.limits(state).double()
    for row in range(len(batch)):
        group = space_group(int(batch.space_group[row]))
        points, slots = [], []
        for column, z in enumerate(batch.element[row].tolist()):
            if z:
                orbit = group.positions[int(batch.position[row, column])].orbit(batch.free[row, column], primitive=True)
                points.append(orbit)
                slots += [int(state[row, space.columns.slot][column])] * len(orbit)
        reduced, transform = reduce_lattices((group.primitive_basis @ batch.lattice[row])[None])
        distance = all_distances(torch.cat(points), reduced[0], transform[0])
        assert float((distance / limits[row][slots][:, slots]).min()) >= 1.0, batch[row]


def all_distances(points: torch.Tensor, reduced: torch.Tensor, transform: torch.Tensor) -> torch.Tensor:
    """Least distance (A, A) of atoms given in primitive coordinates, of an atom to its own images on the diagonal."""
    inside = points @ torch.linalg.inv(transform.double())
    difference = inside[:, None] - inside[None]
    difference -= difference.round()
    lengths = ((difference[:, :, None] + IMAGES) @ reduced).norm(dim=-1)
    own = torch.eye(len(points), dtype=torch.bool)[..., None] & (IMAGES == 0).all(1)
    return lengths.masked_fill(own, torch.inf).amin(-1)


# Clearances


def test_clearances_are_least_distances_and_never_miss_atoms_that_coincide() -> None:
    space = free_crystal_space()  # crowded
    state, seen, early, coincide = space.initial(96), 0, 0, 0
    generator = torch.Generator().manual_seed(3)
    for _ in range(space.max_steps):
        if bool(space.is_finished(state).all()):
            break
        rows = (state[:, space.columns.stage] == Stage.COORDINATE).nonzero().squeeze(1)
        if len(rows):
            here = state[rows]
            clearance = space.geometry.clearance(here)
            for row in range(0, len(rows), 6):
                expected, is_last = clearances_by_brute_force(space, here[row])
                early += int(not is_last and bool((expected < UNCONSTRAINED).any()))
                seen += int(is_last)
                coincide += int((expected < 1e-6).sum())
                assert (clearance[row].double() >= expected * (1 - 1e-3) - 1e-5).all()
                assert torch.equal(clearance[row] < 1e-4, expected < 1e-4)
                assert torch.equal(clearance[row] >= 1, expected >= 1)
                near = expected < 1  # further off another image may be nearer
                assert clearance[row].double()[near].allclose(expected[near], rtol=1e-3, atol=1e-5)
        state = space.step(state, space._draw_uniform(state, generator))
    assert seen > 80
    assert early > 10
    assert coincide > 10


def clearances_by_brute_force(space: CrystalSpace, state: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """What `clearance` says of a state (size,), in double precision over 125 images, and whether the axis is the last.

    On an earlier axis only those images of an atom count whose distance is the same wherever the other axes lead.
    """
    columns, row = space.columns, state[None]
    group = space_group(int(state[columns.group]))
    first = int(position_tables().first[group.number - 1])
    orbit, axis = int(state[columns.orbit]), int(state[columns.axis])
    bins = space.geometry.free_bins(row)[0]
    positions = [group.positions[flat - 1 - first] for flat in state[columns.flat].tolist() if flat]
    own = positions[orbit]
    later = [k for k in range(axis + 1, 3) if own.free_axes[k]]
    limits = space.geometry.limits(row)[0].double()
    slots = state[columns.slot].tolist()
    lattice = space.geometry.primitive_lattice(row)[0]
    volume = float(space.geometry.element_volume(row)[0] * VOLUME_RATIOS[-1])
    reduced, transform = reduce_lattices((lattice * (volume / lattice.det().abs()) ** (1 / 3))[None])
    to_reduced = torch.linalg.inv(transform[0].double())
    others, asked = [], []
    for i, position in enumerate(positions):
        done = all(int(bins[i, k]) >= 0 for k in range(3) if position.free_axes[k])
        if i != orbit and done and not later:
            points = position.orbit(coordinates(bins[i]), primitive=True)
            others.append(points)
            asked += [float(limits[slots[orbit], slots[i]])] * len(points)
    result = torch.empty(N_COORDINATES, dtype=torch.float64)
    for k, value in enumerate(axis_values(torch.tensor(axis)).tolist()):
        free = coordinates(bins[orbit])
        free[axis] = value
        points = own.orbit(free, primitive=True)
        elsewhere = free.clone()
        elsewhere[later] += torch.tensor([0.1234, 0.2718], dtype=torch.float64)[: len(later)]
        moved = own.orbit(elsewhere, primitive=True)
        same = ((points - points[:1]) - (moved - moved[:1])).abs().amax(1) < 1e-9
        images = points[1:][same[1:]]
        every = torch.cat([*others, images])
        limit = torch.tensor([*asked, *[float(limits[slots[orbit], slots[orbit]])] * len(images)]).double()
        if not len(every):
            return torch.full((N_COORDINATES,), UNCONSTRAINED, dtype=torch.float64), not later
        difference = (every - points[:1]) @ to_reduced
        difference -= difference.round()
        lengths = ((difference[:, None] + IMAGES) @ reduced[0]).norm(dim=-1).amin(1)
        result[k] = (lengths / limit).min()
    return result.clamp_max(UNCONSTRAINED), not later


def test_where_no_value_has_room_those_near_the_best_are_allowed() -> None:
    space, crowded = free_crystal_space(), 0
    state, generator = space.initial(96), torch.Generator().manual_seed(4)
    for _ in range(space.max_steps):
        here = state[state[:, space.columns.stage] == Stage.COORDINATE]
        if len(here):
            clearance, number = space.geometry.clearance(here), torch.arange(len(here))
            mask = space.mask_of(Stage.COORDINATE, here).unflatten(1, (3, N_COORDINATES))
            axis = here[:, space.columns.axis]
            best = clearance.amax(1, keepdim=True)
            assert mask.any(2).sum(1).eq(1).all()
            assert mask[number, axis].equal(torch.where(best >= 1, clearance >= 1, clearance >= 0.8 * best))
            crowded += int((best < 1).sum())
        state = space.step(state, space._draw_uniform(state, generator))
    assert crowded > 30


def test_atoms_that_are_not_settled_do_not_count() -> None:
    points = torch.tensor([[[0.0, 0, 0], [0.01, 0, 0]]])
    orbit, lattice = torch.tensor([[0, 1]]), 4 * torch.eye(3, dtype=torch.float64)[None]
    limits, slot = torch.full((1, 1, 1), 2.0), torch.zeros(1, 2, dtype=torch.long)
    both = PlacedAtoms(points, orbit, torch.tensor([[True, True]]))
    one = PlacedAtoms(points, orbit, torch.tensor([[True, False]]))
    assert float(least_volumes(one, lattice, limits, slot)) == pytest.approx(8.0)
    assert float(least_volumes(both, lattice, limits, slot)) == pytest.approx((2 / 0.04 * 4) ** 3, rel=1e-4)


# Grids


def test_coordinates_and_bins_are_inverse() -> None:
    bins = torch.randint(N_COORDINATES, (200, 3), generator=torch.Generator().manual_seed(0))
    values = coordinates(bins)
    assert ((values > 0) & (values < 1)).all()
    assert coordinate_bins(values).equal(bins)
    assert coordinate_bins(values + 3).equal(bins)
    assert coordinate_bins(values - 2 + 0.49 / N_COORDINATES).equal(bins)
    assert coordinates(torch.full((2, 3), -1)).equal(torch.zeros(2, 3, dtype=torch.float64))
    for axis in range(3):
        assert axis_values(torch.tensor(axis)).equal(coordinates(torch.arange(24)[:, None].repeat(1, 3))[:, axis])


def test_crystal_systems_are_those_of_the_groups() -> None:
    names = [name for _, name in CRYSTAL_SYSTEMS]
    found = crystal_system(torch.arange(1, N_SPACE_GROUPS + 1)).tolist()
    assert [names[i] for i in found] == [space_group(n).crystal_system for n in range(1, N_SPACE_GROUPS + 1)]


def grid_orbits(number: int, index: int) -> torch.Tensor:
    """All orbits of a position on the grid in primitive coordinates, float64 (points of the grid, m, 3)."""
    position = space_group(number).positions[index]
    axes = [
        axis_values(torch.tensor(axis)) if free else torch.zeros(1, dtype=torch.float64)
        for axis, free in enumerate(position.free_axes)
    ]
    return position.orbit(torch.cartesian_prod(*axes), primitive=True)


def test_no_point_of_any_grid_coincides_with_an_image_of_its_own() -> None:
    """So every choice of coordinates gives the position its multiplicity, and its symmetry to no other position."""
    for number in range(1, N_SPACE_GROUPS + 1):
        for index, position in enumerate(space_group(number).positions):
            if position.degrees_of_freedom and position.primitive_multiplicity > 1:
                orbits = grid_orbits(number, index).float()
                difference = orbits[:, 1:] - orbits[:, :1]
                difference -= difference.round()
                nearest = difference.abs().amax(-1).amin()
                assert float(nearest) > 1e-3, f"{number} {position.letter}"


def test_lines_have_room_for_as_many_orbits_as_a_crystal_may_have() -> None:
    for number in range(1, N_SPACE_GROUPS + 1):
        for index, position in enumerate(space_group(number).positions):
            if position.degrees_of_freedom == 1:
                orbits = (grid_orbits(number, index) % 1.0 * 1e6).round().long() % 1_000_000
                different = {frozenset(map(tuple, orbit)) for orbit in orbits.tolist()}
                assert len(different) >= MOST_ATOMS // position.primitive_multiplicity, f"{number} {position.letter}"


def test_volumes_add_up() -> None:
    numbers, counts = torch.tensor([[22, 8, 0], [8, 0, 0]]), torch.tensor([[1.0, 2.0, 0.0], [4.0, 0.0, 0.0]])
    volume = element_sizes().volume.double()
    expected = torch.stack([volume[22] + 2 * volume[8], 4 * volume[8]])
    assert volumes_of_elements(numbers, counts).allclose(expected)
    assert np.all(np.diff(VOLUME_RATIOS.numpy()) > 0)
