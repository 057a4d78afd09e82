"""Equal structures among given ones and among the embedded ones."""

import numpy as np
from pymatgen.analysis.structure_matcher import ElementComparator, StructureMatcher
from pymatgen.core import Structure

from surrogates.duplicates import first_equals, in_reference, same_structure
from tests.surrogates.crystals import face_centred, perovskite, rocksalt


def zincblende(cation, anion, a):
    return Structure(face_centred(a), [cation, anion], [[0, 0, 0], [0.25, 0.25, 0.25]])


def test_cell_origin_volume_and_charges_do_not_matter():
    structure = rocksalt("Na", "Cl", 5.69)
    other = structure.copy()
    other.make_supercell([[1, 1, 0], [0, 2, 0], [0, 0, 1]])
    other.translate_sites(range(len(other)), [0.1, 0.2, 0.3])
    other.scale_lattice(other.volume * 1.3)
    other.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    assert same_structure(structure, other)


def test_groups_are_told_by_their_first_structure():
    structures = [
        rocksalt("Na", "Cl", 5.69),
        zincblende("Na", "Cl", 5.69),
        None,
        rocksalt("Na", "Cl", 6.0),
        rocksalt("Mg", "O", 4.26),
        zincblende("Na", "Cl", 6.2),
        rocksalt("Cl", "Na", 5.69),
    ]
    assert first_equals(structures) == [None, None, None, 0, None, 1, 0]


def test_embedded_structures_are_known_and_others_are_not():
    assert in_reference(rocksalt("Na", "Cl", 5.69))
    assert in_reference(perovskite("Sr", "Ti", "O", 3.9))
    assert not in_reference(zincblende("Na", "Cl", 5.69))  # another structure of a known formula
    assert not in_reference(perovskite("Sr", "Ti", "Xe", 3.9))  # a formula that is not there


def test_groups_are_those_of_the_matcher_itself():
    generator = np.random.default_rng(0)
    base = perovskite("Sr", "Ti", "O", 3.9) * [2, 1, 1]
    structures = []
    for size in generator.uniform(0, 1.2, 14):
        moved = base.copy()
        for site in range(len(moved)):
            moved.translate_sites([site], generator.normal(0, size / 2, 3), frac_coords=False)
        structures.append(moved.apply_strain(generator.normal(0, 0.04, 3), inplace=False))
    matcher = StructureMatcher(comparator=ElementComparator())
    found = first_equals(structures)
    for row, equal in enumerate(found):
        earlier = [other for other in range(row) if found[other] is None]
        expected = next((other for other in earlier if matcher.fit(structures[row], structures[other])), None)
        assert equal == expected
    assert 2 < sum(equal is None for equal in found) < 14
