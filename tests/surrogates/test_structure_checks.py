import math
import re

import numpy as np
import pytest
from pymatgen.core import Lattice, Molecule, Structure
from pymatgen.core.periodic_table import DummySpecies

from surrogates.structure_checks import structure_problem


def rocksalt(a=5.6, species=("Na", "Cl")):
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), species, [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_sound_structures_have_no_problem():
    assert structure_problem(rocksalt()) is None
    assert structure_problem(rocksalt().get_primitive_structure()) is None
    assert structure_problem(rocksalt().add_oxidation_state_by_element({"Na": 1, "Cl": -1})) is None


@pytest.mark.parametrize(
    ("species", "positions", "reason"),
    [
        (["Na", "Cl"], [[0, 0, 0], [0.04, 0, 0]], r"Na and Cl \(sites 1 and 2\) are 0.20 Å apart; .* 0.5 Å"),
        (["Na", "Cl"], [[0.97, 0, 0], [0.02, 0, 0]], r"are 0.25 Å apart"),
        (["Na", "Na"], [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]], r"are 0.00 Å apart"),
        ([{"Na": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]], r"site 1 is partially occupied \(Na:0.5"),
        (["Na", {"Cl": 0.5, "Br": 0.5}], [[0, 0, 0], [0.5, 0.5, 0.5]], r"site 2 is partially occupied"),
        (["Na", DummySpecies("X")], [[0, 0, 0], [0.5, 0.5, 0.5]], r"X.* on site 2 is not a chemical element"),
        (["Na", "Rf"], [[0, 0, 0], [0.5, 0.5, 0.5]], r"Rf on site 2 is not a chemical element"),
        (["Na", "Cl"], [[0, 0, 0], [0.5, math.nan, 0.5]], r"position of site 2 is not finite"),
    ],
)
def test_problem_is_named(species, positions, reason):
    problem = structure_problem(Structure(Lattice.cubic(5.0), species, positions))
    assert problem is not None and "\n" not in problem
    assert re.search(reason, problem), problem


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (np.zeros((3, 3)), "a volume of 0 Å3"),
        ([[4, 0, 0], [4, 0, 0], [0, 0, 4]], "a volume of 0 Å3"),
        ([[1e-6, 0, 0], [0, 4, 0], [0, 0, 4]], "a volume of 1.6e-05 Å3"),
        ([[0.3, 0, 0], [0, 40, 0], [0, 0, 40]], "0.30 Å from their own periodic images"),
        ([[4, 0, 0], [4, 0.3, 0], [0, 0, 40]], "0.30 Å from their own periodic images"),
        ([[math.nan, 0, 0], [0, 4, 0], [0, 0, 4]], "the lattice is not finite"),
        ([[math.inf, 0, 0], [0, 4, 0], [0, 0, 4]], "the lattice is not finite"),
    ],
)
def test_collapsed_cells_are_named(matrix, reason):
    problem = structure_problem(Structure(Lattice(matrix), ["Na"], [[0, 0, 0]]))
    assert problem is not None and reason in problem, problem


def test_skewed_cell_is_judged_by_its_atoms():
    skewed = Structure(Lattice([[4, 0, 0], [4000, 4, 0], [8000, 12000, 4]]), ["Na", "Cl"], [[0, 0, 0], [0.5, 0, 0]])
    assert structure_problem(skewed) is None


def test_other_objects_are_named():
    assert structure_problem("NaCl") == "expected a pymatgen Structure, not str"
    assert structure_problem(Molecule(["H"], [[0, 0, 0]])) == "expected a pymatgen Structure, not Molecule"
    assert structure_problem(Structure(Lattice.cubic(4), [], [])) == "the structure has no atoms"
