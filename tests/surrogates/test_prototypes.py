import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from envs.formula import anonymous_formula, reduced_formula
from surrogates.prototype_library import prototype_library
from surrogates.prototypes import decorate, decorated_prototypes, describe_missing, has_prototype
from surrogates.structure_checks import structure_problem

ROCKSALT = "AB_cF8_225_a_b NaCl"
PEROVSKITE = "AB3C_cP5_221_a_c_b CaTiO3"
# Their atoms sit at positions of higher symmetry than the label says, within 0.01 A.
MORE_SYMMETRIC = {"AB3_tI16_140_b_ah U3Si", "AB_oP8_33_a_a CoAs", "A2B_oC12_38_de_ab VAu2"}
FORMULAS = ("NaCl", "Li2O", "CaF2", "Al2O3", "SrTiO3", "CuFeO2", "MgAl2O4", "K2PtCl6", "NiAl", "Cu", "Cs2AgBiBr6")

# spglib 2.7 warns of what it will do in another release.
pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")


def space_group(structure):
    return SpacegroupAnalyzer(structure, symprec=0.01).get_space_group_number()


def named(formula, name):
    return decorate(formula, prototype_library()[name]).structure


def by_name(formula, part):
    (found,) = [entry for entry in decorated_prototypes(formula) if part in entry.prototype.name]
    return found.structure


def nearest(structure, site):
    """Symbol and number of the nearest neighbours, within 5 %."""
    neighbours = structure.get_neighbors(structure[site], 6.0)
    shortest = min(neighbour.nn_distance for neighbour in neighbours)
    shell = [neighbour for neighbour in neighbours if neighbour.nn_distance < 1.05 * shortest]
    assert len({neighbour.specie.symbol for neighbour in shell}) == 1
    return shell[0].specie.symbol, len(shell)


def site_of(structure, symbol):
    return next(number for number, site in enumerate(structure) if site.specie.symbol == symbol)


def test_library_is_large_and_every_type_sound():
    library = prototype_library()
    assert len(library) > 290
    for name, prototype in library.items():
        assert prototype.name == name
        assert structure_problem(prototype.structure) is None, name
        assert len(prototype.amounts) == len(prototype.elements)
        assert prototype.closest.shape == (len(prototype.elements),) * 2
        assert np.diag(prototype.closest).min() > 0.7
        assert prototype.closest == pytest.approx(prototype.closest.T)


def test_closest_distances_agree_with_pymatgen():
    for name in (ROCKSALT, PEROVSKITE, "delafossite FeCuO2"):
        prototype = prototype_library()[name]
        big = prototype.structure * (3, 3, 3)
        symbols = [site.specie.symbol for site in big]
        matrix = big.distance_matrix + np.diag([np.inf] * len(big))
        for i, first in enumerate(prototype.elements):
            for j, second in enumerate(prototype.elements):
                rows, columns = (np.array([s == wanted for s in symbols]) for wanted in (first, second))
                assert prototype.closest[i, j] == pytest.approx(matrix[rows][:, columns].min(), abs=1e-3)


def test_space_groups_of_the_whole_library_are_those_of_the_labels():
    for name, prototype in prototype_library().items():
        if name not in MORE_SYMMETRIC:
            assert space_group(prototype.structure) == prototype.space_group, name


@pytest.mark.parametrize("formula", FORMULAS)
def test_decoration_keeps_space_group_and_composition(formula):
    candidates = decorated_prototypes(formula)
    assert candidates
    for entry in candidates:
        assert reduced_formula(entry.structure.composition.formula.replace(" ", "")) == reduced_formula(formula)
        assert structure_problem(entry.structure) is None
        if entry.prototype.name not in MORE_SYMMETRIC:
            assert space_group(entry.structure) == entry.prototype.space_group, entry.prototype.name


def test_decorated_sodium_chloride_is_rocksalt():
    known = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert StructureMatcher().fit(named("MgO", ROCKSALT), known)
    assert not StructureMatcher().fit(named("MgO", "AB_cP2_221_b_a CsCl"), known)


def test_strontium_is_on_the_large_site_of_perovskite():
    known = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    )
    found = named("SrTiO3", PEROVSKITE)
    assert StructureMatcher().fit(found, known)
    assert nearest(found, site_of(found, "Ti")) == ("O", 6)
    assert nearest(found, site_of(found, "Sr")) == ("O", 12)
    inverted = StructureMatcher().fit(
        found,
        Structure.from_spacegroup(
            "Pm-3m", Lattice.cubic(3.905), ["Ti", "Sr", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
        ),
    )
    assert not inverted


@pytest.mark.parametrize(
    ("formula", "part", "surroundings"),
    [
        ("CuFeO2", "delafossite", {"Cu": ("O", 2), "Fe": ("O", 6)}),
        ("K2PtCl6", "K2PtCl6", {"Pt": ("Cl", 6), "K": ("Cl", 12)}),
        ("Rb2SnBr6", "K2PtCl6", {"Sn": ("Br", 6), "Rb": ("Br", 12)}),
        ("Cs2AgBiBr6", "elpasolite", {"Bi": ("Br", 6), "Cs": ("Br", 12)}),
        ("Li2O", "AB2_cF12_225_a_c CaF2", {"Li": ("O", 4), "O": ("Li", 8)}),
        ("SrF2", "AB2_cF12_225_a_c CaF2", {"F": ("Sr", 4), "Sr": ("F", 8)}),
        ("MgAl2O4", "A2BC4_cF56_227_d_a_e MgAl2O4", {"Mg": ("O", 4), "Al": ("O", 6)}),
        ("CaTiO3", "BaNiO3", {"Ti": ("O", 6)}),
        ("SrWO4", "scheelite", {"W": ("O", 4)}),
        ("Fe2SiO4", "olivine", {}),
    ],
)
def test_cations_and_anions_are_where_they_belong(formula, part, surroundings):
    found = [entry for entry in decorated_prototypes(formula, largest_cell=60) if part in entry.prototype.name]
    assert len(found) == 1
    for symbol, expected in surroundings.items():
        assert nearest(found[0].structure, site_of(found[0].structure, symbol)) == expected


def test_cation_and_anion_never_swap_places_whatever_the_order_of_the_formula():
    for first, second in (("NaCl", "ClNa"), ("ZnS", "SZn"), ("SrTiO3", "O3TiSr"), ("TiSrO3", "SrTiO3")):
        for one, other in zip(decorated_prototypes(first), decorated_prototypes(second), strict=True):
            assert one.structure == other.structure


# Measured volumes, A^3/atom.
@pytest.mark.parametrize(
    ("formula", "name", "volume"),
    [
        ("NaCl", ROCKSALT, 22.4),
        ("MgO", ROCKSALT, 9.35),
        ("KBr", ROCKSALT, 35.9),
        ("TiN", ROCKSALT, 9.5),
        ("Al2O3", "A2B3_hR10_167_c_e Al2O3", 8.5),
        ("Fe2O3", "A2B3_hR10_167_c_e Al2O3", 10.1),
        ("NiAl", "AB_cP2_221_b_a CsCl", 12.0),
        ("CsCl", "AB_cP2_221_b_a CsCl", 35.0),
        ("SrTiO3", PEROVSKITE, 11.9),
        ("KMgF3", PEROVSKITE, 12.6),
        ("ZnS", "AB_cF8_216_c_a ZnS", 19.8),
        ("GaAs", "AB_cF8_216_c_a ZnS", 22.6),
        ("BaF2", "AB2_cF12_225_a_c CaF2", 19.9),
        ("Cu", "A_cF4_225_a Cu", 11.8),
        ("Fe", "A_cI2_229_a W", 11.8),
        ("Si", "A_cF8_227_a C", 20.0),
    ],
)
def test_guessed_volume_is_within_a_factor_of_two(formula, name, volume):
    structure = named(formula, name)
    assert 0.5 < structure.volume / len(structure) / volume < 2


def test_the_compound_of_the_type_keeps_its_measured_volume():
    prototype = prototype_library()["A2B3_hR10_167_c_e Al2O3"]
    assert decorate("Al2O3", prototype).structure.volume == pytest.approx(prototype.structure.volume)
    assert decorate("O6Al4", prototype).structure.volume == pytest.approx(prototype.structure.volume)


def test_decorating_does_not_change_the_library():
    prototype = prototype_library()[ROCKSALT]
    before = prototype.structure.copy()
    decorate("LiF", prototype).structure.scale_lattice(1.0)
    assert prototype.structure == before


def test_large_cells_and_other_types_are_left_out():
    assert all(len(entry.structure) <= 20 for entry in decorated_prototypes("SiO2"))
    assert {len(entry.structure) for entry in decorated_prototypes("SiO2", largest_cell=3)} == {3}
    assert len(decorated_prototypes("SiO2", largest_cell=100)) > len(decorated_prototypes("SiO2"))
    (only,) = decorated_prototypes("NaCl", names=[ROCKSALT])
    assert only.prototype.name == ROCKSALT


@pytest.mark.parametrize("formula", ["Na7Cl5O11", "LiNaKRbCsF", "Na0.5Cl0.5"])
def test_composition_without_a_structure_type(formula):
    assert decorated_prototypes(formula) == []
    text = describe_missing(formula)
    assert anonymous_formula(formula) in text and "\n" not in text


def test_unreadable_formula_and_wrong_type_are_named():
    for text in ("", "NaXx", "not a formula"):
        with pytest.raises(ValueError, match=r"formula|element"):
            decorated_prototypes(text)
    with pytest.raises(ValueError, match=r"NaCl2: the structure type .* has another anonymous formula"):
        decorate("NaCl2", prototype_library()[ROCKSALT])


@settings(max_examples=10)
@given(
    cation=st.sampled_from(["Li", "Be", "K", "Cs", "Ti", "Cu", "La", "Th", "Pu", "H", "Xe", "Tc"]),
    anion=st.sampled_from(["H", "C", "Se", "O", "F", "S", "I", "As", "Te", "Fe", "Au"]),
    amount=st.integers(1, 3),
)
def test_any_pair_of_elements_gives_sound_structures(cation, anion, amount):
    formula = f"{cation}{anion}{amount}"
    if cation == anion:
        return
    for entry in decorated_prototypes(formula):
        structure = entry.structure
        assert structure.composition.fractional_composition.almost_equals(Composition(formula).fractional_composition)
        assert structure_problem(structure) is None, entry.prototype.name
        assert 1 < structure.volume / len(structure) < 2000, entry.prototype.name


@pytest.mark.parametrize("formula", ["NaCl", "SrTiO3", "Al2O3", "Mg2SiO4", "ZnNi4P4", "Cu3In5S9", "KFeO2"])
@pytest.mark.parametrize("largest_cell", [4, 20])
def test_has_prototype_agrees_with_decorating(formula, largest_cell):
    assert has_prototype(formula, largest_cell) == bool(decorated_prototypes(formula, largest_cell))
