"""Moduli and stability from closed forms; tensors of Lennard-Jones crystals against relations that hold exactly."""

import importlib.util

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from surrogates.elasticity import ElasticityOptions, ElasticTensor, elastic_tensor
from surrogates.potential import PotentialValues
from surrogates.relaxation import RelaxationOptions, relax
from tests.surrogates.analytic_potentials import Analytic, LennardJones, Wrapped
from tests.surrogates.crystals import face_centred

FACES = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
EV_PER_A3_IN_GPA = 160.2176634


def cubic(c11, c12, c44):
    stiffness = np.diag([c11] * 3 + [c44] * 3).astype(float)
    stiffness[:3, :3] += c12 * (1 - np.eye(3))
    return ElasticTensor(stiffness)


def test_moduli_of_a_cubic_crystal():
    c11, c12, c44 = 297.0, 95.0, 156.0  # MgO
    tensor = cubic(c11, c12, c44)
    assert tensor.stable
    assert tensor.bulk_modulus == pytest.approx((c11 + 2 * c12) / 3)
    voigt = (c11 - c12 + 3 * c44) / 5
    reuss = 5 * (c11 - c12) * c44 / (4 * c44 + 3 * (c11 - c12))
    assert tensor.shear_modulus == pytest.approx((voigt + reuss) / 2)
    assert tensor.smallest_eigenvalue == pytest.approx(min(c11 - c12, c44))


@pytest.mark.parametrize("constants", [(100, 120, 50), (100, 40, -5), (100, -60, 50), (100, 40, 0)])
def test_each_of_borns_criteria_is_needed(constants):
    tensor = cubic(*constants)
    assert not tensor.stable
    assert np.isnan(tensor.bulk_modulus) and np.isnan(tensor.shear_modulus)


def test_missing_package_is_one_line_that_says_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matcalc" else found(name))
    with pytest.raises(ValueError, match=r'^elastic: matcalc is not installed; pip install "matsmith\[validate\]"$'):
        elastic_tensor(Structure(face_centred(4.0), ["Cu"], [[0, 0, 0]]), LennardJones())


def relaxed(structure, potential):
    (found,) = relax([structure], potential, RelaxationOptions(fmax=1e-4))
    assert found.failure is None
    return found.structure


def bulk_modulus(structure, potential):
    """From energies at three volumes, GPa."""
    v0, d = structure.volume, 0.002
    energies = []
    for factor in (1 - d, 1, 1 + d):
        strained = structure.copy()
        strained.scale_lattice(v0 * factor)
        energies.append(potential.values(strained).energy * len(strained))
    return (energies[0] - 2 * energies[1] + energies[2]) / (v0 * d) ** 2 * v0 * EV_PER_A3_IN_GPA


@pytest.mark.slow
def test_central_forces_obey_cauchys_relation():
    potential = LennardJones()
    structure = relaxed(Structure(Lattice.cubic(3.9), ["Cu"] * 4, FACES), potential)
    tensor = elastic_tensor(structure, potential)
    c = tensor.stiffness
    assert tensor.stable
    assert c[0, 1] == pytest.approx(c[3, 3], rel=0.01)  # at zero pressure, with every atom a centre of symmetry
    assert tensor.bulk_modulus == pytest.approx(bulk_modulus(structure, potential), rel=0.01)
    assert np.abs(c[:3, 3:]).max() < 1e-3 * c[0, 0]


@pytest.mark.slow
def test_simple_cubic_lennard_jones_crystal_shears():
    """Central forces hold a simple cubic crystal against shear by second neighbours alone, which here pull."""
    potential = LennardJones()
    tensor = elastic_tensor(relaxed(Structure(Lattice.cubic(2.7), ["Cu"], [[0, 0, 0]]), potential), potential)
    assert not tensor.stable and tensor.stiffness[3, 3] < 0


class DiamondSprings(Analytic):
    """Springs at rest between first and between second neighbours of a diamond lattice of edge a."""

    name = "springs"

    def __init__(self, first, second, a):
        super().__init__()
        self.first, self.second, self.a = first, second, a

    def values(self, structure):
        d1, d2 = self.a * 3**0.5 / 4, self.a / 2**0.5
        centre, other, images, distances = structure.get_neighbor_list(1.1 * d2)
        near = distances < (d1 + d2) / 2
        stiffness, rest = np.where(near, self.first, self.second), np.where(near, d1, d2)
        vectors = (structure.frac_coords[other] + images - structure.frac_coords[centre]) @ structure.lattice.matrix
        pulls = (stiffness * (distances - rest) / distances)[:, None] * vectors
        forces = np.zeros((len(structure), 3))
        np.add.at(forces, centre, pulls)
        energy = (stiffness / 2 * (distances - rest) ** 2).sum() / 2 / len(structure)
        return PotentialValues(energy, forces, pulls.T @ vectors / (2 * structure.volume))


@pytest.mark.slow
def test_positions_relax_in_a_strained_cell():
    """Under shear the sublattices of diamond shift until no bond is stretched, so that C44 is of second neighbours."""
    k1, k2, a = 10.0, 2.0, 5.0
    structure = Structure(face_centred(a), ["Si", "Si"], [[0, 0, 0], [0.25, 0.25, 0.25]])
    c = elastic_tensor(structure, DiamondSprings(k1, k2, a), ElasticityOptions(fmax=1e-4)).stiffness / EV_PER_A3_IN_GPA
    assert c[0, 0] == pytest.approx(4 * k2 / a + k1 / (3 * a), rel=0.01)
    assert c[0, 1] == pytest.approx(2 * k2 / a + k1 / (3 * a), rel=0.01)
    assert c[3, 3] == pytest.approx(2 * k2 / a, rel=0.01)  # with fixed positions k1 / (3 a) more


@pytest.mark.slow
def test_a_potential_that_fails_is_an_error_with_its_reason():
    structure = Structure(face_centred(3.9), ["Cu"], [[0, 0, 0]])
    failing = Wrapped(LennardJones(), lambda structure, values: "no such atom")
    with pytest.raises(ValueError, match="no such atom"):
        elastic_tensor(structure, failing)
