"""Wyckoff positions against spglib and pymatgen, their orbits against the group, feasibility against brute force."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import spglib
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from torch import Tensor

import envs
from envs.wyckoff import SpaceGroup, WyckoffPosition, all_space_groups, space_group
from envs.wyckoff_counts import count_multisets, feasible_groups, multisets_fit

FloatArray = npt.NDArray[np.float64]
Site = tuple[str, int]  # letter, atomic number

# spglib 2.7 warns of what it will do in another release.
pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")

NUMBERS = range(1, 231)


def generic_lattice(group: SpaceGroup) -> FloatArray:
    """Rows (A) of a conventional lattice with the symmetry of the crystal system and no more."""
    a, b, c = 7.13, 8.37, 9.71
    lattices = {
        "triclinic": (a, b, c, 81.3, 97.1, 104.9),
        "monoclinic": (a, b, c, 90, 103.7, 90),
        "orthorhombic": (a, b, c, 90, 90, 90),
        "tetragonal": (a, a, c, 90, 90, 90),
        "trigonal": (a, a, c, 90, 90, 120),
        "hexagonal": (a, a, c, 90, 90, 120),
        "cubic": (a, a, a, 90, 90, 90),
    }
    return np.array(Lattice.from_parameters(*lattices[group.crystal_system]).matrix)


def decorate(group: SpaceGroup, sites: list[Site], seed: int = 0) -> tuple[FloatArray, FloatArray, list[int]]:
    """A primitive cell as spglib reads it: atoms on Wyckoff positions with random free parameters."""
    generator = torch.Generator().manual_seed(seed)
    orbits = [
        group[letter].orbit(torch.rand(3, generator=generator, dtype=torch.float64), primitive=True)
        for letter, _ in sites
    ]
    atoms = [z for (_, z), orbit in zip(sites, orbits, strict=True) for _ in orbit]
    return group.primitive_basis.numpy() @ generic_lattice(group), torch.cat(orbits).numpy(), atoms


def symmetry(cell: tuple[FloatArray, FloatArray, list[int]]) -> Any:
    return spglib.get_symmetry_dataset(cell, symprec=1e-4)


def off_lattice(difference: Tensor) -> Tensor:
    """Distance of coordinates (..., 3) from integers."""
    return (difference - difference.round()).abs().amax(-1)


def compose(first: Tensor, second: Tensor) -> Tensor:
    """Affine maps (..., 3, 4): first after second."""
    product = first[..., :3] @ second
    product[..., 3] += first[..., 3]
    return product


def same_maps(a: Tensor, b: Tensor, group: SpaceGroup) -> Tensor:
    """Whether affine maps (..., 3, 4) are equal up to a lattice translation."""
    shifts = (a - b)[..., None, :, 3] + group.centring_translations
    return ((a - b)[..., :3].abs().amax((-1, -2)) < 1e-9) & (off_lattice(shifts) < 1e-9).any(-1)


# The table against spglib


def test_operations_are_those_of_the_hall_setting_in_spglib() -> None:
    for group in all_space_groups():
        assert spglib.get_spacegroup_type(group.hall_number).number == group.number
        assert group.symbol == spglib.get_spacegroup_type(group.hall_number).international_short
        database = spglib.get_symmetry_from_database(group.hall_number)
        rotations, translations = (torch.tensor(database[key]).double() for key in ("rotations", "translations"))
        theirs = torch.cat([rotations, translations[..., None]], -1)
        assert len(theirs) == group.point_group_order * group.n_centring
        found = same_maps(theirs[:, None], group.operations, group)  # (theirs, ours)
        assert (found.sum(1) == 1).all(), group.symbol
        assert (found.sum(0) == group.n_centring).all(), group.symbol


def test_setting_is_the_standard_one() -> None:
    choices = {g.number: spglib.get_spacegroup_type(g.hall_number).choice for g in all_space_groups()}
    assert {choices[n] for n in range(3, 16)} <= {"b", "b1"}
    assert {choices[n] for n in (146, 148, 155, 160, 161, 166, 167)} == {"H"}
    two_origins = [number for number in NUMBERS if choices[number] == "2"]
    assert len(two_origins) == 24
    assert {227, 141, 70, 48} <= set(two_origins)


def test_atoms_on_general_positions_have_the_symmetry_of_the_group() -> None:
    # Two elements: the single general orbit of some polar groups has a mirror plane of its own.
    for group in all_space_groups():
        found = symmetry(decorate(group, [(group.positions[-1].letter, 1), (group.positions[-1].letter, 2)]))
        assert found.number == group.number, group.symbol
        assert set(found.wyckoffs) == {group.positions[-1].letter}


def test_positions_have_spglibs_letters_and_site_symmetry() -> None:
    for group in all_space_groups():
        general = group.positions[-1].letter
        for position in group.positions:
            found = symmetry(decorate(group, [(general, 1), (position.letter, 2)]))
            assert found.number == group.number, (group.symbol, position.letter)
            letters = set(found.wyckoffs[-position.primitive_multiplicity :])
            assert len(letters) == 1
            letter = letters.pop()
            assert group.canonical_letters([letter]) == group.canonical_letters([position.letter])
            assert found.site_symmetry_symbols[-1] == group[letter].site_symmetry, (group.symbol, letter)
            assert len(set(found.crystallographic_orbits)) == 2


# Orbits and operations


def test_operations_form_a_group() -> None:
    for group in all_space_groups():
        products = compose(group.operations[:, None], group.operations[None])  # (n, n, 3, 4)
        hits = same_maps(products[:, :, None], group.operations, group).sum(-1)
        assert (hits == 1).all(), group.symbol


def test_multiplicity_times_order_of_site_symmetry_is_order_of_group() -> None:
    for group in all_space_groups():
        for position in group.positions:
            images = compose(group.operations, position.maps[:1])
            stabiliser = int(same_maps(images, position.maps[:1], group).sum())
            assert position.primitive_multiplicity * stabiliser == group.point_group_order, (group.symbol, position)
            assert position.multiplicity == position.primitive_multiplicity * group.n_centring
            assert position.degrees_of_freedom == int(torch.linalg.matrix_rank(position.rotation))
            assert position.degrees_of_freedom == sum(position.free_axes)


def test_orbits_are_distinct_points_that_the_group_permutes() -> None:
    generator = torch.Generator().manual_seed(0)
    for group in all_space_groups():
        for position in group.positions:
            points = position.orbit(torch.rand(3, generator=generator, dtype=torch.float64))
            assert len(points) == position.multiplicity
            assert int((off_lattice(points[:, None] - points) < 1e-6).sum()) == len(points)
            images = points @ group.operations[:, :, :3].mT + group.operations[:, None, :, 3]  # (operations, points, 3)
            assert (off_lattice(images[:, :, None] - points) < 1e-6).any(-1).all(), (group.symbol, position.letter)


def test_primitive_orbit_is_the_conventional_one_modulo_centring() -> None:
    free = torch.rand(3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for group in all_space_groups():
        assert torch.linalg.det(group.primitive_basis).item() == pytest.approx(1 / group.n_centring)
        inverse = torch.linalg.inv(group.primitive_basis)
        assert off_lattice(group.centring_translations @ inverse).max() < 1e-9
        for position in group.positions:
            primitive = position.orbit(free, primitive=True)
            assert len(primitive) == position.primitive_multiplicity
            assert int((off_lattice(primitive[:, None] - primitive) < 1e-6).sum()) == len(primitive)
            back = position.orbit(free) @ inverse
            assert ((off_lattice(back[:, None] - primitive) < 1e-6).sum(1) == 1).all()


def test_orbits_of_a_batch_are_those_of_its_rows() -> None:
    position = space_group(166)["h"]
    free = torch.rand(2, 5, 3, dtype=torch.float32)
    for primitive, n_points in ((False, 18), (True, 6)):
        batch = position.orbit(free, primitive)
        assert batch.shape == (2, 5, n_points, 3)
        assert batch.dtype == torch.float64
        torch.testing.assert_close(batch[1, 3], position.orbit(free[1, 3], primitive))


def test_orbit_depends_on_its_free_parameters_only() -> None:
    position = space_group(225)["e"]
    assert position.representative == "x,0,0"
    x = torch.tensor([0.2, 0.3, 0.4], requires_grad=True)
    points = position.orbit(x)
    assert points[0].tolist() == pytest.approx([0.2, 0, 0])
    points.square().sum().backward()
    assert x.grad is not None
    assert x.grad[1:].tolist() == [0, 0]
    assert x.grad[0] != 0


# Equivalent sets


def on_position(points: Tensor, position: WyckoffPosition) -> bool:
    """Whether the first of the points (m, 3) lies on the position for some free parameters."""
    shifts = torch.cartesian_prod(*[torch.arange(-3.0, 4.0, dtype=torch.float64)] * 3)
    wanted = (points[0] - position.maps[:, None, :, 3] + shifts).mT  # (multiplicity, 3, shifts)
    linear = position.maps[:, :, :3]
    residual = wanted - linear @ (torch.linalg.pinv(linear) @ wanted)
    return bool((residual.abs().amax(1) < 1e-6).any())


def check_normaliser(group: SpaceGroup) -> None:
    generator = torch.Generator().manual_seed(2)
    for found in group.normaliser:
        rotation, inverse = found.rotation, torch.linalg.inv(found.rotation)
        conjugate = group.operations.clone()
        conjugate[:, :, :3] = rotation @ group.operations[:, :, :3] @ inverse
        conjugate[:, :, 3] = group.operations[:, :, 3] @ rotation.T + found.translation
        conjugate[:, :, 3] -= conjugate[:, :, :3] @ found.translation
        assert (same_maps(conjugate[:, None], group.operations, group).sum(1) == 1).all()
        moved = group.centring_translations @ rotation.T
        assert (off_lattice(moved[:, None] - group.centring_translations) < 1e-9).any(-1).all()
        lattice = torch.from_numpy(generic_lattice(group))
        metric = lattice @ lattice.T
        assert torch.allclose(rotation.T @ metric @ rotation, metric, atol=1e-6) == found.keeps_lattice
        for i, j in enumerate(found.permutation):
            free = torch.rand(3, generator=generator, dtype=torch.float64)
            points = group.positions[i].orbit(free) @ rotation.T + found.translation
            assert on_position(points % 1, group.positions[j]), (group.symbol, group.letters[i], group.letters[j])


def test_normaliser_maps_group_and_positions_onto_themselves() -> None:
    for group in all_space_groups():
        check_normaliser(group)


@pytest.mark.parametrize(
    ("number", "of_lattice", "in_all"),
    [
        (1, 1, 1),
        (2, 8, 1344),  # AGL(3, 2) permutes the eight inversion centres
        (3, 4, 24),  # all permutations of the four axes
        (14, 4, 8),
        (47, 8, 48),
        (62, 2, 2),
        (166, 2, 2),
        (216, 8, 8),  # a, b, c and d by steps of a quarter of the diagonal, and inversion
        (221, 2, 2),
        (225, 2, 2),
        (230, 1, 1),
    ],
)
def test_number_of_equivalent_sets(number: int, of_lattice: int, in_all: int) -> None:
    group = space_group(number)
    assert len(group.equivalent_sets_of_lattice) == of_lattice
    assert len(group.equivalent_sets) == in_all
    assert set(group.equivalent_sets_of_lattice) <= set(group.equivalent_sets)
    assert group.equivalent_sets[0] == tuple(range(len(group.positions)))


def test_equivalent_sets_permute_positions_of_one_kind() -> None:
    for group in all_space_groups():
        kinds = [(p.multiplicity, p.degrees_of_freedom) for p in group.positions]
        for permutation in group.equivalent_sets:
            assert sorted(permutation) == list(range(len(kinds)))
            assert all(kinds[i] == kinds[j] for i, j in enumerate(permutation))


@given(st.data())
def test_canonical_letters_are_idempotent_and_the_same_for_equivalent_sets(data: st.DataObject) -> None:
    group = space_group(data.draw(st.integers(3, 230)))
    words = st.text(st.sampled_from(group.letters), min_size=1, max_size=4)
    letters = data.draw(st.lists(words, min_size=1, max_size=3))
    keep_lattice = data.draw(st.booleans())
    canonical = group.canonical_letters(letters, keep_lattice)
    assert group.canonical_letters(canonical, keep_lattice) == canonical
    assert [len(word) for word in canonical] == [len(word) for word in letters]
    sets = group.equivalent_sets_of_lattice if keep_lattice else group.equivalent_sets
    image = data.draw(st.sampled_from(sets))
    moved = ["".join(group.letters[image[group.letters.index(letter)]] for letter in word) for word in letters]
    assert group.canonical_letters(moved, keep_lattice) == canonical


def test_canonical_letters_of_known_structures() -> None:
    assert space_group(225).canonical_letters(["b", "a"]) == ("a", "b")  # rocksalt
    assert space_group(216).canonical_letters(["d", "a"]) == ("a", "c")  # zinc blende
    assert space_group(216).canonical_letters(["b", "a"]) == ("a", "b")  # rocksalt, another structure
    assert space_group(221).canonical_letters(["b", "a", "d"]) == ("a", "b", "c")  # perovskite
    assert space_group(221).canonical_letters(["b", "a", "c"]) == ("a", "b", "d")  # its other setting
    assert space_group(47).canonical_letters(["zA", "h"]) == ("uA", "a")  # the mirror planes of Pmmm exchange
    assert space_group(47).canonical_letters(["z"], keep_lattice=True) == ("y",)


def primitive_structure(group: SpaceGroup, letters: tuple[str, ...], lattice: FloatArray | None = None) -> Structure:
    cell, points, atoms = decorate(group, [(letter, 11 + i) for i, letter in enumerate(letters)])
    if lattice is not None:
        cell = group.primitive_basis.numpy() @ lattice
    return Structure(cell, atoms, points)


def decorations(group: SpaceGroup) -> Iterator[tuple[str, ...]]:
    """Up to three elements on different positions without free parameters, at most twelve positions."""
    fixed = [p.letter for p in group.positions if not p.degrees_of_freedom][:8]
    for n in (1, 2, 3):
        yield from permutations(fixed, n) if n < 3 else combinations(fixed, n)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 10, 14, 47, 63, 84, 123, 148, 162, 166, 191, 200, 216, 221, 225, 227])
def test_equivalent_letters_are_what_structure_matcher_calls_the_same_crystal(number: int) -> None:
    """Both ways: crystals of exactly this group match if and only if their letters are equivalent."""
    group = space_group(number)
    matcher = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.05, primitive_cell=False, scale=False)
    crystals = [(letters, primitive_structure(group, letters)) for letters in decorations(group)]
    rng = np.random.default_rng(number)
    pairs = [(i, j) for i, j in combinations(range(len(crystals)), 2) if len(crystals[i][0]) == len(crystals[j][0])]
    same = differing = 0
    for k in rng.permutation(len(pairs))[:300]:
        (letters, crystal), (others, other) = (crystals[i] for i in pairs[k])
        if crystal.composition != other.composition:
            continue
        equivalent = group.canonical_letters(letters, True) == group.canonical_letters(others, True)
        found = [
            spglib.get_symmetry_dataset((c.lattice.matrix, c.frac_coords, c.atomic_numbers), symprec=1e-4)
            for c in (crystal, other)
        ]
        matched = bool(matcher.fit(crystal, other))
        if equivalent:
            assert matched, (letters, others)
            same += 1
        elif all(f.number == number and len(f.std_types) == len(crystal) * group.n_centring for f in found):
            assert not matched, (letters, others)
            differing += 1
    assert same
    assert differing or number not in (2, 10, 47, 123, 166, 191, 216, 221, 227)  # the others: too symmetric
    for found in group.normaliser:
        letters = tuple(p.letter for p in group.positions if not p.degrees_of_freedom)[:4]
        moved = tuple(group.letters[found.permutation[group.letters.index(letter)]] for letter in letters)
        lattice = np.linalg.inv(found.rotation.numpy()).T @ generic_lattice(group)
        assert matcher.fit(primitive_structure(group, letters), primitive_structure(group, moved, lattice))


# Feasibility


@lru_cache(maxsize=100_000)
def fits_by_brute_force(counts: tuple[int, ...], number: int, used: frozenset[str] = frozenset()) -> bool:
    """Place orbits one by one, every position of the group in turn."""
    if not counts:
        return True
    if counts[0] == 0:
        return fits_by_brute_force(counts[1:], number, used)
    for position in space_group(number).positions:
        if position.primitive_multiplicity > counts[0] or position.letter in used:
            continue
        taken = used if position.degrees_of_freedom else used | {position.letter}
        if fits_by_brute_force((counts[0] - position.primitive_multiplicity, *counts[1:]), number, taken):
            return True
    return False


@pytest.mark.parametrize(
    "number", [1, 2, 12, 19, 47, 62, 70, 88, 123, 139, 148, 166, 194, 205, 217, 221, 225, 227, 230]
)
def test_fit_agrees_with_brute_force(number: int) -> None:
    for counts in count_multisets(3, 10):
        assert multisets_fit(counts, number) == fits_by_brute_force(counts, number), counts


def test_multisets_within_the_default_limits() -> None:
    table = feasible_groups()
    assert len(table.multisets) == 1124
    assert len(set(table.multisets)) == 1124
    assert table.fits.shape == (1124, 230)
    assert table.fits[:, 0].all()  # everything fits in P1
    assert int(table.classes.max()) + 1 == 36
    columns = {tuple(column.tolist()) for column in table.fits.T}
    assert len(columns) == 36


def test_known_counts_fit() -> None:
    assert multisets_fit((1, 1), 225)  # rocksalt
    assert multisets_fit((1, 2), 225)  # fluorite
    assert multisets_fit((1, 1, 3), 221)  # perovskite
    assert not multisets_fit((1, 1, 1), 225)  # two positions of multiplicity 1
    assert not multisets_fit((1, 1, 3), 225)
    assert multisets_fit((2, 4), 136)  # rutile
    assert multisets_fit((2, 4, 8), 227)  # spinel, two formula units in the primitive cell


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(1, 230), st.randoms(use_true_random=False))
def test_lookup_agrees_with_fit_in_any_order(counts: list[int], number: int, random: Any) -> None:
    shuffled = [*counts, *[0] * 3]
    random.shuffle(shuffled)
    looked_up = feasible_groups().lookup(torch.tensor([[shuffled], [shuffled]]))
    assert looked_up.shape == (2, 1, 230)
    assert bool(looked_up[1, 0, number - 1]) == multisets_fit(counts, number) == multisets_fit(counts[::-1], number)


@pytest.mark.parametrize("counts", [[0, 0], [21], [1, 1, 1, 1, 1, 1], [2, -1], [10, 11]])
def test_lookup_refuses_counts_beyond_the_table(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="not a multiset"):
        feasible_groups().lookup(torch.tensor([[1] + [0] * (len(counts) - 1), counts]))


# Errors and the table itself


@pytest.mark.parametrize("number", [0, 231, -1])
def test_unknown_space_group_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 230"):
        space_group(number)


def test_unknown_letters_are_refused() -> None:
    with pytest.raises(KeyError, match="no Wyckoff position 'm'"):
        space_group(225)["m"]
    with pytest.raises(KeyError, match="no Wyckoff position 'z'"):
        space_group(225).canonical_letters(["az"])
    with pytest.raises(TypeError, match="one text for each element"):
        space_group(225).canonical_letters("ab")
    with pytest.raises(ValueError, match="at least one atom"):
        multisets_fit((1, 0), 225)


def test_table_is_plain_json() -> None:
    content = (Path(envs.__file__).parent / "data" / "wyckoff.json.gz").read_bytes()
    assert len(content) < 20_000
    table = json.loads(gzip.decompress(content))
    assert sum(len(entry["letters"]) for entry in table) == 1731
    assert [group.letters for group in all_space_groups()] == [entry["letters"] for entry in table]
