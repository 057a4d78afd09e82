"""Shapes of cells against pymatgen and spglib's database, reduced bases against ASE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.geometry import minkowski_reduce
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice

from envs.lattice_shapes import (
    ANGLES,
    BETAS,
    ENTRY_NAMES,
    ENTRY_SIZES,
    FREE_ENTRIES,
    N_ANGLES,
    RATIOS,
    SMALLEST_VOLUME,
    allowed_betas,
    allowed_gammas,
    entry_values,
    nearest_bin,
    reduce_lattices,
    relative_volume,
    shape_lattices,
)
from envs.wyckoff import N_SPACE_GROUPS, space_group
from tests.envs.crystals import database_operations


def random_bins(n: int, seed: int) -> torch.Tensor:
    """Bins of all entries, long (n, 5), with angles that make a cell."""
    generator = torch.Generator().manual_seed(seed)
    bins = torch.stack([torch.randint(size, (20 * n,), generator=generator) for size in ENTRY_SIZES], dim=1)
    allowed = allowed_gammas(bins[:, 2], bins[:, 3]).gather(1, bins[:, 4:]).squeeze(1)
    return bins[allowed][:n]


def test_there_is_one_ascending_list_of_values_for_each_entry() -> None:
    assert len(ENTRY_NAMES) == len(ENTRY_SIZES) == 5
    for entry, size in enumerate(ENTRY_SIZES):
        values = entry_values(entry)
        assert len(values) == size
        assert (values.diff() > 0).all()
    assert float(RATIOS[0]) > 0.2
    assert float(RATIOS[-1]) < 10
    assert (float(ANGLES[0]) > 60) & (float(ANGLES[-1]) < 120)
    assert (float(BETAS[0]) > 60) & (float(BETAS[-1]) < 150)


@given(st.integers(0, 4), st.floats(0.05, 200))
def test_the_nearest_bin_is_the_nearest(entry: int, value: float) -> None:
    values = entry_values(entry).numpy()
    distance = np.abs(np.log(values / value)) if entry < 2 else np.abs(values - value)
    assert distance[nearest_bin(entry, value)] == pytest.approx(distance.min())


@pytest.mark.parametrize("entry", range(5))
def test_every_centre_lies_in_its_own_bin(entry: int) -> None:
    assert [nearest_bin(entry, v) for v in entry_values(entry).tolist()] == list(range(ENTRY_SIZES[entry]))


def test_shapes_have_the_parameters_of_their_bins() -> None:
    bins = random_bins(100, seed=0)
    for row, cell in zip(bins, shape_lattices(bins, torch.zeros(len(bins), dtype=torch.bool)), strict=True):
        lattice = Lattice(cell.numpy())
        expected = [float(entry_values(entry)[row[entry]]) for entry in range(5)]
        assert lattice.abc == pytest.approx([1, *expected[:2]])
        assert lattice.angles == pytest.approx(expected[2:])
        assert float(cell.det()) > 0


def test_entries_that_are_not_chosen_are_those_of_a_cube_or_of_hexagonal_axes() -> None:
    cells = shape_lattices(torch.full((2, 5), -1), torch.tensor([False, True]))
    assert Lattice(cells[0].numpy()).parameters == pytest.approx((1, 1, 1, 90, 90, 90))
    assert Lattice(cells[1].numpy()).parameters == pytest.approx((1, 1, 1, 90, 90, 120))
    assert cells[0].equal(torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("system", FREE_ENTRIES)
def test_every_shape_of_a_crystal_system_has_the_symmetry_of_its_groups_and_no_more_entries_could_be_free(
    system: str,
) -> None:
    free = torch.tensor(FREE_ENTRIES[system])
    bins = torch.where(free, random_bins(3, seed=1), -1)
    hexagonal = torch.full((3,), system in ("trigonal", "hexagonal"))
    metrics = [cell @ cell.T for cell in shape_lattices(bins, hexagonal).numpy()]
    for number in range(1, N_SPACE_GROUPS + 1):
        if space_group(number).crystal_system != system:
            continue
        rotations = database_operations(number)[0]
        for metric in metrics:
            turned = np.einsum("kia,ij,kjb->kab", rotations, metric, rotations)
            assert np.abs(turned - metric).max() < 1e-9 * metric.max(), number
        # the metrics that all rotations keep form a space whose dimension is one (the volume) more than the entries
        symmetric = [np.outer(a, b) + np.outer(b, a) for i, a in enumerate(np.eye(3)) for b in np.eye(3)[i:]]
        averaged = [np.einsum("kia,ij,kjb->ab", rotations, m, rotations).ravel() / len(rotations) for m in symmetric]
        assert np.linalg.matrix_rank(np.array(averaged), tol=1e-8) == int(free.sum()) + 1, number


@given(st.floats(1, 179), st.floats(1, 179), st.floats(1, 179))
def test_the_relative_volume_is_that_of_a_cell_or_zero(alpha: float, beta: float, gamma: float) -> None:
    volume = float(relative_volume(*torch.tensor([[alpha], [beta], [gamma]], dtype=torch.float64)))
    a, b, c = np.cos(np.deg2rad([alpha, beta, gamma]))
    gram = np.array([[1, c, b], [c, 1, a], [b, a, 1]])
    determinant = np.linalg.det(gram)
    assert volume == pytest.approx(np.sqrt(max(determinant, 0)), abs=1e-6)


def test_angles_are_allowed_exactly_when_they_make_a_cell_of_sufficient_volume() -> None:
    some = 0
    for alpha in range(N_ANGLES):
        of_beta = []
        for beta in range(N_ANGLES):
            angles = [(float(ANGLES[alpha]), float(BETAS[beta]), float(g)) for g in ANGLES]
            volumes = [np.linalg.det(_gram(*triple)) for triple in angles]
            expected = [volume > 0 and np.sqrt(volume) >= SMALLEST_VOLUME for volume in volumes]
            assert allowed_gammas(torch.tensor([alpha]), torch.tensor([beta]))[0].tolist() == expected
            of_beta.append(any(expected))
            some += sum(expected)
        assert allowed_betas(torch.tensor([alpha]))[0].tolist() == of_beta
        assert any(of_beta)  # whatever alpha is, it leads somewhere
    assert 0.5 < some / N_ANGLES**3 < 1


def _gram(alpha: float, beta: float, gamma: float) -> np.ndarray:
    a, b, c = np.cos(np.deg2rad([alpha, beta, gamma]))
    return np.array([[1, c, b], [c, 1, a], [b, a, 1]])


# Reduced bases


def check_reduced(lattices: torch.Tensor) -> None:
    reduced, transform = reduce_lattices(lattices)
    assert transform.dtype == torch.long
    assert transform.double().det().abs().allclose(torch.ones(len(lattices), dtype=torch.float64))
    assert (transform.double() @ lattices).allclose(reduced, atol=1e-8)
    for given_cell, cell in zip(lattices.numpy(), reduced.numpy(), strict=True):
        expected, _ = minkowski_reduce(given_cell)
        lengths = np.linalg.norm(cell, axis=1)
        assert (np.diff(lengths) >= -1e-9).all()
        assert lengths == pytest.approx(np.sort(np.linalg.norm(expected, axis=1)), rel=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_bases_of_all_shapes_are_reduced_as_by_ase(seed: int) -> None:
    bins = random_bins(60, seed)
    cells = shape_lattices(bins, torch.zeros(len(bins), dtype=torch.bool))
    centred = torch.stack([space_group(n).primitive_basis for n in (1, 5, 38, 22, 23, 146)])
    check_reduced(centred[torch.arange(len(cells)) % 6] @ cells)


@settings(max_examples=60)
@given(st.lists(st.integers(-6, 6), min_size=6, max_size=6), st.integers(0, 10_000))
def test_skewed_bases_are_reduced_as_by_ase(steps: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lattice = torch.randn(1, 3, 3, generator=generator, dtype=torch.float64)
    if lattice.det().abs() < 0.05:
        return
    lower, upper = torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    lower[1, 0], lower[2, 0], lower[2, 1] = map(float, steps[:3])
    upper[0, 1], upper[0, 2], upper[1, 2] = map(float, steps[3:])
    check_reduced(lower @ upper @ lattice)


def test_a_reduced_basis_stays_as_it_is() -> None:
    bins = random_bins(50, seed=5)
    reduced, _ = reduce_lattices(shape_lattices(bins, torch.zeros(len(bins), dtype=torch.bool)))
    again, transform = reduce_lattices(reduced)
    assert again.equal(reduced)
    assert transform.equal(torch.eye(3, dtype=torch.long).repeat(len(bins), 1, 1))


def test_no_lattices_at_all() -> None:
    reduced, transform = reduce_lattices(torch.zeros(0, 3, 3, dtype=torch.float64))
    assert reduced.shape == transform.shape == (0, 3, 3)
