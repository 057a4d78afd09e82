"""Frequencies of crystals of springs against their dynamical matrix in closed form."""

import importlib.util

import numpy as np
import pytest
from pymatgen.core import Element, Lattice, Structure

from surrogates.phonons import PhononMeasurement, PhononOptions, evaluate_forces
from surrogates.potential import PotentialValues
from tests.surrogates.analytic_potentials import Analytic, Wrapped
from tests.surrogates.crystals import face_centred

THZ = np.sqrt(1.602176634e-19 / 1e-20 / 1.66053906660e-27) / 2e12 / np.pi
"""Frequency of a spring of 1 eV/A^2 with a mass of 1 u."""


class Springs(Analytic):
    """Springs between all atoms nearer than a cutoff: k/2 (d - rest)^2 each."""

    name = "springs"

    def __init__(self, stiffness, rest, cutoff):
        super().__init__()
        self.stiffness, self.rest, self.cutoff = stiffness, rest, cutoff

    def values(self, structure):
        first, second, images, distances = structure.get_neighbor_list(self.cutoff)
        vectors = (structure.frac_coords[second] + images - structure.frac_coords[first]) @ structure.lattice.matrix
        stretch = distances - self.rest
        pulls = (self.stiffness * stretch / distances)[:, None] * vectors
        forces = np.zeros((len(structure), 3))
        np.add.at(forces, first, pulls)
        energy = (self.stiffness / 2 * stretch**2).sum() / 2 / len(structure)
        return PotentialValues(energy, forces, pulls.T @ vectors / (2 * structure.volume))


def closed_form(structure, springs, q_points):
    """Return frequencies (points, 3) in THz, imaginary ones negative, of a crystal of one atom a cell."""
    _, _, images, distances = structure.get_neighbor_list(springs.cutoff)
    directions = images @ structure.lattice.matrix / distances[:, None]
    along = springs.stiffness
    across = springs.stiffness * (1 - springs.rest / distances)
    outer = directions[:, :, None] * directions[:, None, :]
    blocks = along * outer + across[:, None, None] * (np.eye(3) - outer)
    waves = 1 - np.cos(2 * np.pi * q_points @ images.T)
    dynamical = np.einsum("qn,nij->qij", waves, blocks) / Element("Cu").atomic_mass
    squares = np.linalg.eigvalsh(dynamical)
    return np.sign(squares) * np.sqrt(np.abs(squares)) * THZ


def measure(structure, potential, **options):
    measurement = PhononMeasurement(structure, PhononOptions(displacement=1e-3, **options))
    return measurement, measurement.finish(evaluate_forces(measurement.supercells, potential))


def mesh(measurement):
    axes = [np.arange(2 * n) / (2 * n) for n in measurement.multiples]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    return points[np.abs(points).max(1) > 0]


def test_face_centred_crystal_of_springs():
    a, k = 3.6, 2.5
    structure = Structure(face_centred(a), ["Cu"], [[0, 0, 0]])
    springs = Springs(k, a / 2**0.5, 1.2 * a / 2**0.5)
    measurement, found = measure(structure, springs)
    exact = closed_form(structure, springs, mesh(measurement))
    top = np.sqrt(8 * k / Element("Cu").atomic_mass) * THZ  # longitudinal, at X (Born and Huang)
    assert exact.max() == pytest.approx(top)
    assert found.highest_frequency == pytest.approx(top, rel=1e-3)
    assert found.lowest_frequency == pytest.approx(exact.min(), rel=1e-2)
    assert found.stable and found.supercell == (4, 4, 4) and found.displacements == 1
    assert min(structure.lattice.abc) * 4 >= 10


def test_compressed_springs_buckle():
    """Springs longer than their places push atoms sideways: imaginary modes, as the closed form says."""
    a, k = 3.6, 2.5
    structure = Structure(face_centred(a), ["Cu"], [[0, 0, 0]])
    springs = Springs(k, 1.3 * a / 2**0.5, 1.2 * a / 2**0.5)
    measurement, found = measure(structure, springs)
    exact = closed_form(structure, springs, mesh(measurement))
    assert exact.min() < -1
    assert found.lowest_frequency == pytest.approx(exact.min(), rel=1e-2)
    assert not found.stable
    assert closed_form(structure, springs, np.array([found.q_point])).min() == pytest.approx(exact.min(), rel=1e-6)


def test_threshold_decides_what_is_imaginary():
    structure = Structure(face_centred(3.6), ["Cu"], [[0, 0, 0]])
    springs = Springs(2.5, 1.3 * 3.6 / 2**0.5, 1.2 * 3.6 / 2**0.5)
    assert measure(structure, springs, lowest_allowed=-100.0)[1].stable


def test_optical_modes_at_gamma_count():
    """Two equal atoms a cell: the buckling mode at X of the small cell is at Gamma of the doubled one."""
    a = 3.6
    springs = Springs(2.5, 1.5 * a / 2**0.5, 1.2 * a / 2**0.5)
    small = Structure(face_centred(a), ["Cu"], [[0, 0, 0]])
    exact = closed_form(small, springs, np.array([[0.5, 0.5, 0.0]]))
    assert exact.min() < 0
    large = Structure(Lattice.tetragonal(a / 2**0.5, a), ["Cu"] * 2, [[0, 0, 0], [0.5, 0.5, 0.5]])
    _, found = measure(large, springs, denser=1, supercell_edge=1.0)
    assert found.supercell == (1, 1, 1)
    assert found.q_point == (0.0, 0.0, 0.0)
    assert found.lowest_frequency == pytest.approx(exact.min(), rel=1e-2)


def test_large_supercells_are_refused():
    structure = Structure(face_centred(3.6), ["Cu"], [[0, 0, 0]])
    with pytest.raises(ValueError, match="a supercell of 4x4x4 cells has 64 atoms, more than 50"):
        PhononMeasurement(structure, PhononOptions(largest_supercell=50))


def test_the_supercell_that_moves_fewer_atoms_is_taken():
    """The short edges of a rhombohedral cell are not related by symmetry: equal multiples keep it."""
    structure = Structure(Lattice.rhombohedral(5.18, 55.3), ["Cu"], [[0, 0, 0]]).get_reduced_structure()
    measurement = PhononMeasurement(structure)
    assert measurement.multiples == (3, 3, 3)
    assert measurement.displaced_atoms == 27 * len(measurement.supercells)
    layered = Structure(Lattice.tetragonal(3.0, 12.0), ["Cu"], [[0, 0, 0]])
    assert PhononMeasurement(layered).multiples == (4, 4, 1)


def test_a_potential_that_fails_is_an_error_with_its_reason():
    structure = Structure(face_centred(3.6), ["Cu"], [[0, 0, 0]])
    failing = Wrapped(Springs(1, 1, 3), lambda structure, values: "no such atom")
    with pytest.raises(ValueError, match="no such atom"):
        evaluate_forces([structure], failing)


def test_missing_package_is_one_line_that_says_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "phonopy" else found(name))
    with pytest.raises(ValueError, match=r'^phonon: phonopy is not installed; pip install "matsmith\[validate\]"$'):
        PhononMeasurement(Structure(face_centred(3.6), ["Cu"], [[0, 0, 0]]))
