"""Standard settings against StructureMatcher, spglib and the literature, for prototypes and for all space groups."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import spglib
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import DummySpecies, Lattice, Structure

from envs.crystal_batch import CrystalBatch, lattice_vectors
from envs.crystal_normaliser import POLAR_ORIGIN
from envs.crystal_standard import Standardised, standardise
from envs.formula import CompositionBatch
from envs.wyckoff import SpaceGroup, all_space_groups, space_group

FloatArray = npt.NDArray[np.float64]

# spglib warns of what it will do in another release.
pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")

build = Structure.from_spacegroup
PROTOTYPES = {  # pymatgen takes origin choice 1
    "rocksalt": (
        build(225, Lattice.cubic(5.64), ["Cl", "Na"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        "NaCl | 225 | Na a | Cl b | 5.64 5.64 5.64 90 90 90",
    ),
    "caesium chloride": (
        build(221, Lattice.cubic(4.12), ["Cs", "Cl"], [[0.5, 0.5, 0.5], [0, 0, 0]]),
        "CsCl | 221 | Cs a | Cl b | 4.12 4.12 4.12 90 90 90",
    ),
    "zinc blende": (
        build(216, Lattice.cubic(5.41), ["Zn", "S"], [[0, 0, 0], [0.75, 0.75, 0.75]]),
        "ZnS | 216 | Zn a | S c | 5.41 5.41 5.41 90 90 90",
    ),
    "wurtzite": (
        build(186, Lattice.hexagonal(3.25, 5.2), ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]]),
        "ZnO | 186 | Zn b 0.02083 | O b 0.40283 | 3.25 3.25 5.2 90 90 120",
    ),
    "fluorite": (
        build(225, Lattice.cubic(5.46), ["Ca", "F"], [[0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]),
        "CaF2 | 225 | Ca a | F c | 5.46 5.46 5.46 90 90 90",
    ),
    "rutile": (
        build(136, Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
        "TiO2 | 136 | Ti a | O f 0.305 | 4.594 4.594 2.959 90 90 90",
    ),
    "anatase": (
        build("I4_1/amd", Lattice.tetragonal(3.785, 9.514), ["Ti", "O"], [[0, 0, 0], [0, 0, 0.2081]]),
        "TiO2 | 141 | Ti a | O e 0.0831 | 3.785 3.785 9.514 90 90 90",
    ),
    "cubic perovskite": (
        build(221, Lattice.cubic(3.905), ["Ti", "Sr", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0]]),
        "SrTiO3 | 221 | Sr a | Ti b | O c | 3.905 3.905 3.905 90 90 90",
    ),
    "tetragonal perovskite": (
        build(
            99,
            Lattice.tetragonal(3.994, 4.034),
            ["Ba", "Ti", "O", "O"],
            [[0, 0, 0], [0.5, 0.5, 0.5224], [0.5, 0.5, -0.0244], [0.5, 0, 0.4895]],
        ),
        "BaTiO3 | 99 | Ba a 0.02083 | Ti b 0.49843 | O b 0.04523 | O c 0.53133 | 3.994 3.994 4.034 90 90 90",
    ),
    "spinel": (
        build("Fd-3m", Lattice.cubic(8.083), ["Mg", "Al", "O"], [[0] * 3, [0.625] * 3, [0.3874] * 3]),
        "MgAl2O4 | 227 | Mg a | Al d | O e 0.2624 | 8.083 8.083 8.083 90 90 90",
    ),
    "corundum": (
        build(167, Lattice.hexagonal(4.759, 12.991), ["Al", "O"], [[0, 0, 0.35216], [0.30624, 0, 0.25]]),
        "Al2O3 | 167 | Al c 0.14784 | O e 0.30624 | 4.759 4.759 12.991 90 90 120",
    ),
    "delafossite": (
        build(166, Lattice.hexagonal(2.857, 16.94), ["Cu", "Al", "O"], [[0, 0, 0], [0, 0, 0.5], [0, 0, 0.1099]]),
        "AlCuO2 | 166 | Al a | Cu b | O c 0.3901 | 2.857 2.857 16.94 90 90 120",
    ),
    "baddeleyite": (
        build(
            14,
            Lattice.monoclinic(5.1505, 5.2116, 5.3173, 99.23),
            ["Zr", "O", "O"],
            [[0.2754, 0.0395, 0.2083], [0.07, 0.3317, 0.3447], [0.4496, 0.7569, 0.4792]],
        ),
        None,
    ),
    "triclinic": (
        build(
            2,
            Lattice.from_parameters(5.1, 6.2, 7.4, 83, 97, 105),
            ["Cu", "S", "O", "O"],
            [[0, 0, 0.5], [0.01, 0.29, 0.63], [0.91, 0.15, 0.67], [0.24, 0.32, 0.8]],
        ),
        None,
    ),
}
SHAPES = {
    "triclinic": (7.13, 8.37, 9.71, 81.3, 97.1, 104.9),
    "monoclinic": (7.13, 8.37, 9.71, 90, 103.7, 90),
    "orthorhombic": (7.13, 8.37, 9.71, 90, 90, 90),
    "tetragonal": (7.13, 7.13, 9.71, 90, 90, 90),
    "trigonal": (7.13, 7.13, 9.71, 90, 90, 120),
    "hexagonal": (7.13, 7.13, 9.71, 90, 90, 120),
    "cubic": (9.71, 9.71, 9.71, 90, 90, 90),
}


def number_of(structure: Structure, tolerance: float = 1e-4) -> int:
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    return int(spglib.get_symmetry_dataset(cell, symprec=tolerance).number)


def disguised(structure: Structure, rng: np.random.Generator, shift: bool = True) -> Structure:
    """The same crystal: rotated, its atoms in another order, in another cell, from another origin."""
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    order = rng.permutation(len(structure))
    points = structure.frac_coords[order] + shift * rng.random(3)
    other = Structure(structure.lattice.matrix @ rotation, [structure.species[i] for i in order], points)
    while True:
        cell = rng.integers(-1, 2, (3, 3))
        if 0.5 < abs(np.linalg.det(cell)) < 2.5:
            return other.make_supercell(cell, to_unit_cell=True)


def random_crystal(group: SpaceGroup, positions: list[int], rng: np.random.Generator, spacing: float) -> CrystalBatch:
    """Different elements on the positions of a group, generic parameters, no atoms nearer than a spacing in A."""
    elements = [11, 17, 8][: len(positions)]
    symbols = ["Na", "Cl", "O"]
    formula = "".join(
        f"{s}{group.positions[p].primitive_multiplicity}" for s, p in zip(symbols, positions, strict=False)
    )
    lattice = lattice_vectors(torch.tensor([SHAPES[group.crystal_system]], dtype=torch.float64))
    axes = np.array([[group.positions[p].free_axes for p in positions]])
    for _ in range(200):
        crystal = CrystalBatch(
            CompositionBatch.from_formulas([formula]),
            torch.tensor([group.number]),
            torch.tensor([elements]),
            torch.tensor([positions]),
            torch.from_numpy(np.where(axes, rng.random((1, len(positions), 3)), 0.0)),
            lattice,
        )
        if not len(crystal.structures()[0].get_neighbor_list(spacing)[0]):
            return crystal
    raise AssertionError(f"no room for {positions} in {group.symbol}")


def letters_of(crystals: CrystalBatch) -> list[str]:
    """The letters of each element of one crystal."""
    parts = [part.split() for part in crystals[0].split(" | ")[2:-1]]
    return ["".join(p[1] for p in parts if p[0] == symbol) for symbol in dict.fromkeys(p[0] for p in parts)]


def distances(structure: Structure) -> FloatArray:
    """Distances within 6 A (A) with sum and difference of the atomic numbers of both atoms, sorted rows of three."""
    first, second, _, lengths = structure.get_neighbor_list(6.0)
    numbers = np.array(structure.atomic_numbers)
    rows = np.stack([numbers[first] + numbers[second], np.abs(numbers[first] - numbers[second]), lengths], axis=1)
    return rows[np.lexsort(rows.T[::-1])]


# Prototypes


@pytest.mark.parametrize("name", PROTOTYPES)
def test_prototype_keeps_its_structure_and_gets_its_text(name: str) -> None:
    structure, text = PROTOTYPES[name]
    standardised = standardise([structure])
    assert standardised.reasons == [None]
    assert text is None or list(standardised.crystals) == [text]
    (primitive,) = standardised.crystals.structures()
    (conventional,) = standardised.crystals.structures(primitive=False)
    number = number_of(structure)
    assert standardised.crystals.space_group.tolist() == [number]
    for found in (primitive, conventional):
        assert found.volume / len(found) == pytest.approx(structure.volume / len(structure), abs=1e-6)
        assert number_of(found) == number
    tight = StructureMatcher(ltol=1e-4, stol=1e-4, angle_tol=0.01, scale=False, primitive_cell=False)
    assert tight.fit(structure.get_primitive_structure(), primitive)
    assert list(CrystalBatch.from_texts(standardised.crystals.texts)) == list(standardised.crystals)


@pytest.mark.parametrize("name", PROTOTYPES)
def test_text_does_not_depend_on_cell_origin_rotation_and_order(name: str) -> None:
    structure, _ = PROTOTYPES[name]
    rng = np.random.default_rng(len(name))
    others = [disguised(structure, rng) for _ in range(5)]
    assert set(standardise(others).crystals) == set(standardise([structure]).crystals)


def test_mirror_image_is_the_same_crystal() -> None:
    crystal = random_crystal(space_group(19), [0, 0], np.random.default_rng(0), 1.0)
    (structure,) = crystal.structures()
    image = Structure(structure.lattice, structure.species, -structure.frac_coords)
    texts = list(standardise([structure, image]).crystals)
    assert texts[0] == texts[1]
    assert texts[0].startswith("NaCl | 19 | Na a ")


@pytest.mark.parametrize(("number", "axes"), [(1, [0, 1, 2]), (3, [1]), (7, [0, 2]), (33, [2]), (160, [2]), (186, [2])])
def test_first_orbit_sets_the_origin_of_polar_groups(number: int, axes: list[int]) -> None:
    group = space_group(number)
    crystal = random_crystal(group, [len(group.positions) - 1] * 2, np.random.default_rng(number), 1.0)
    crystals = standardise(crystal.structures(), 1e-3).crystals
    assert crystals.space_group.tolist() == [number]
    assert crystals.free[0, 0, axes].tolist() == pytest.approx([POLAR_ORIGIN] * len(axes))


# All space groups


def check_group(group: SpaceGroup, seed: int) -> bool:
    """Check a crystal with the symmetry of the group and one of random positions; whether the second has more."""
    rng = np.random.default_rng([group.number, seed])
    general = len(group.positions) - 1
    drawn = rng.integers(0, len(group.positions), 2).tolist()
    while drawn[0] == drawn[1] and not group.positions[drawn[0]].degrees_of_freedom:
        drawn = rng.integers(0, len(group.positions), 2).tolist()
    crystals = [random_crystal(group, [general, general, drawn[0]], rng, 0.6), random_crystal(group, drawn, rng, 0.6)]
    numbers = []
    for crystal in crystals:
        (structure,) = crystal.structures()
        images = [disguised(structure, rng) for _ in range(2)]
        for change in group.normaliser:
            if change.keeps_lattice:
                (conventional,) = crystal.structures(primitive=False)
                points = conventional.frac_coords @ change.rotation.numpy().T + change.translation.numpy()
                images.append(Structure(conventional.lattice, conventional.species, points))
        standardised = standardise([structure, *images], 1e-3)
        assert set(standardised.reasons) == {None}
        assert len(set(standardised.crystals)) == 1, list(standardised.crystals)
        found = standardised.crystals[:1]
        number = int(found.space_group[0])
        numbers.append(number)
        found_group = space_group(number)
        assert number == number_of(structure, 1e-3)
        assert tuple(letters_of(found)) == found_group.canonical_letters(letters_of(found), keep_lattice=True)
        assert ((found.free >= 0) & (found.free < 1)).all()
        (result,) = found.structures()
        assert result.volume / len(result) == pytest.approx(structure.volume / len(structure), abs=1e-6)
        ratio, rest = divmod(len(structure), len(result))  # a supergroup may have a smaller cell
        assert rest == 0
        np.testing.assert_allclose(np.repeat(distances(result), ratio, axis=0), distances(structure), atol=0.01)
        if ratio == 1 and len(structure) <= 24:
            matcher = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.05, scale=False, primitive_cell=False)
            assert matcher.fit(structure, result), (crystal[0], found[0])
    assert numbers[0] == group.number
    return numbers[1] != group.number


@pytest.mark.parametrize("number", [1, 2, 5, 9, 14, 15, 22, 36, 43, 47, 62, 82, 99, 146, 167, 186, 198])
def test_crystals_survive_a_disguise(number: int) -> None:
    check_group(space_group(number), seed=0)


@pytest.mark.slow
def test_crystals_of_all_groups_survive_a_disguise() -> None:
    with_more = sum(check_group(group, seed=1) for group in all_space_groups())
    assert 0 < with_more < 115  # two orbits, often special: many have the symmetry of a supergroup


def test_description_is_its_own_standard() -> None:
    crystals = standardise([structure for structure, _ in PROTOTYPES.values()]).crystals
    assert list(standardise(crystals.structures()).crystals) == list(crystals)
    assert list(standardise(crystals.structures(primitive=False)).crystals) == list(crystals)


# Tolerance


def test_atoms_off_their_places_are_put_right() -> None:
    exact = PROTOTYPES["corundum"][0]
    distorted = exact.copy()
    distorted.perturb(0.003)
    found = standardise([distorted], tolerance=0.02)
    assert found.crystals.space_group.tolist() == [167]
    (result,) = found.crystals.structures()
    assert number_of(result, 1e-5) == 167
    assert StructureMatcher(stol=0.01, scale=False).fit(result, exact)
    assert found.crystals.free[0, 0, 2].item() == pytest.approx(0.14784, abs=3e-4)
    assert standardise([distorted], tolerance=1e-5).crystals.space_group.tolist() == [1]


def test_tolerance_beyond_all_distances_still_gives_a_description() -> None:
    structure, text = PROTOTYPES["rutile"]
    assert list(standardise([structure], tolerance=3.0).crystals) == [text]


@pytest.mark.parametrize("tolerance", [0, -0.1, float("nan"), float("inf")])
def test_tolerance_must_be_a_length(tolerance: float) -> None:
    with pytest.raises(ValueError, match=r"tolerance: .* is not a positive length"):
        standardise([], tolerance)


# What has no description


def cubic(species: list[object], points: list[list[float]], a: float = 4.0) -> Structure:
    return Structure(Lattice.cubic(a), species, points)


REFUSED = {
    "partly occupied": (cubic([{"Na": 0.5}], [[0, 0, 0]]), "disorder: a site is occupied by Na:0.5"),
    "mixed": (cubic([{"Na": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]), "disorder: "),
    "deuterium": (cubic(["Li", "D"], [[0, 0, 0], [0.5, 0.5, 0.5]]), "element: D is not"),
    "charged deuterium": (cubic(["Li+", "D-"], [[0, 0, 0], [0.5, 0.5, 0.5]]), "element: D is not"),
    "dummy": (cubic([DummySpecies("X"), "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]), "element: X"),
    "oganesson": (cubic(["Og"], [[0, 0, 0]]), "element: Og is not one of the elements up to Lr"),
    "empty": (Structure(Lattice.cubic(3), [], []), "element: the structure has no atoms"),
    "overlapping": (cubic(["Na", "Cl"], [[0, 0, 0], [0.05, 0, 0]]), "overlap: Na and Cl are 0.20 A apart"),
    "coinciding": (cubic(["Na", "Cl"], [[0, 0, 0], [1, 0, 0]]), "overlap: Na and Cl are 0.00 A apart"),
    "too small a cell": (cubic(["Na"], [[0, 0, 0]], 0.3), "overlap: Na and Na are 0.30 A apart"),
    "no number": (cubic(["Na"], [[0, float("nan"), 0]]), "overlap: the cell has no volume"),
    "flat": (Structure([[3, 0, 0], [0, 3, 0], [3, 3, 0]], ["Na"], [[0, 0, 0]]), "overlap: the cell has no volume"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_description_gets_a_reason(name: str) -> None:
    structure, reason = REFUSED[name]
    standardised = standardise([structure])
    assert len(standardised.crystals) == 0
    assert str(standardised.reasons[0]).startswith(reason)


def test_structure_without_a_space_group_gets_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spglib, "get_symmetry_dataset", lambda *_, **__: None)
    standardised = standardise([PROTOTYPES["rutile"][0]], tolerance=0.02)
    assert standardised.reasons == ["symmetry: spglib finds no space group at 0.02 A"]


def test_order_is_kept_and_reasons_stand_at_their_index() -> None:
    good = [structure for structure, _ in PROTOTYPES.values()][:3]
    bad = REFUSED["deuterium"][0]
    standardised = standardise([bad, good[0], good[1], bad, good[2]])
    assert [reason is None for reason in standardised.reasons] == [False, True, True, False, True]
    assert list(standardised.crystals) == [text for _, text in PROTOTYPES.values()][:3]
    assert len(standardised.crystals.rows(torch.tensor([2]))) == 1


def test_nothing_gives_nothing() -> None:
    standardised = standardise([])
    assert isinstance(standardised, Standardised)
    assert standardised.reasons == []
    assert list(standardised.crystals) == []


def test_oxidation_states_are_dropped() -> None:
    structure, text = PROTOTYPES["rutile"]
    charged = structure.copy().add_oxidation_state_by_element({"Ti": 4, "O": -2})
    mixed = charged.copy().replace(0, "Ti3+")
    standardised = standardise([charged, mixed])
    assert list(standardised.crystals) == [text, text]
    assert standardised.crystals.charge is None
