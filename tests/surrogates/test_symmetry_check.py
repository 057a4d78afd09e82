"""Space groups and primitive cells of known crystals, exact and a little off."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from surrogates.symmetry_check import AS_BUILT, AS_RELAXED, find_space_group, primitive_cell
from tests.surrogates.crystals import perovskite, rocksalt


def test_known_space_groups():
    rutile = Structure.from_spacegroup(
        136, Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    )
    found = [find_space_group(s) for s in (rocksalt("Na", "Cl", 5.69), perovskite("Sr", "Ti", "O", 3.9), rutile)]
    assert [(group.number, group.symbol) for group in found] == [(225, "Fm-3m"), (221, "Pm-3m"), (136, "P4_2/mnm")]


def test_charges_do_not_lower_the_symmetry():
    structure = rocksalt("Na", "Cl", 5.69)
    structure.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    assert find_space_group(structure).number == 225


def test_tolerance_decides_about_small_displacements():
    structure = perovskite("Sr", "Ti", "O", 3.9)
    structure.translate_sites([1], [0, 0, 0.05], frac_coords=False)
    assert find_space_group(structure, AS_BUILT).number == 99
    assert find_space_group(structure, AS_RELAXED).number == 221


def test_overlapping_atoms_have_no_space_group():
    structure = Structure(Lattice.cubic(3), ["Na", "Na"], [[0, 0, 0], [0, 0, 0]])
    assert find_space_group(structure) is None


@pytest.mark.parametrize("scaling", [[2, 1, 1], [[1, 1, 0], [0, 1, 0], [0, 1, 3]]])
def test_primitive_cell_of_a_supercell(scaling):
    structure = rocksalt("Na", "Cl", 5.69)
    large = structure.copy()
    large.make_supercell(scaling)
    small = primitive_cell(large)
    assert len(small) == 2 and small.matches(structure, scale=False)
    assert np.allclose(small.lattice.abc, 5.69 / 2**0.5)


def test_primitive_cell_moves_nothing_onto_ideal_places():
    structure = perovskite("Sr", "Ti", "O", 3.9)
    structure.translate_sites([1], [0, 0, 0.005], frac_coords=False)
    assert primitive_cell(structure).get_distance(0, 1) == pytest.approx(structure.get_distance(0, 1), abs=1e-6)
