"""Potentials whose answers are known, for tests of what uses a potential."""

import numpy as np
from ase.calculators.lj import LennardJones as AseLennardJones

from surrogates.potential import PotentialValues

ELEMENT_ENERGIES = {"Na": -1.3, "Cl": -1.8, "Mg": -1.5, "O": -4.9, "Al": -3.7}
FORMATION_ENERGIES = {"NaCl": -2.10, "MgO": -3.05, "Al2O3": -3.40}


class Analytic:
    """Counts what it is asked for; subclasses say what one structure has."""

    name = "analytic"
    version = "1"

    def __init__(self):
        self.evaluated = []

    def energies(self, structures):
        return np.array([self.values(structure).energy for structure in structures])

    def evaluate(self, structures):
        self.evaluated += structures
        return [self.values(structure) for structure in structures]


class Birch(Analytic):
    """e = e0 + b ((v0 / v)^(2/3) - 1)^2 in eV/atom, whatever the positions: a parabola in v^(-2/3)."""

    def __init__(self, energy=-2.0, volume=20.0, stiffness=8.0):
        super().__init__()
        self.energy, self.volume, self.stiffness = energy, volume, stiffness

    def values(self, structure):
        per_atom = structure.volume / len(structure)
        x = (self.volume / per_atom) ** (2 / 3)
        slope = 2 * self.stiffness * (x - 1) * (-2 / 3) * x / per_atom
        energy = self.minimum(structure) + self.stiffness * (x - 1) ** 2
        return PotentialValues(energy, np.zeros((len(structure), 3)), slope * np.eye(3))

    def minimum(self, structure):
        return self.energy


class Compounds(Birch):
    """Formation energies of NaCl, MgO and Al2O3 out of a table, times a factor; 20 A^3/atom for everything."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def minimum(self, structure):
        composition = structure.composition
        elements = sum(
            composition.get_atomic_fraction(symbol) * ELEMENT_ENERGIES[symbol] for symbol in composition.as_dict()
        )
        return self.scale * (elements + FORMATION_ENERGIES.get(composition.reduced_formula, 0.0))


class LennardJones(Analytic):
    """With one kind of atom, cut off and shifted as in ASE."""

    name = "Lennard-Jones"

    def __init__(self, sigma=2.5, epsilon=0.4):
        super().__init__()
        self.sigma, self.epsilon, self.cutoff = sigma, epsilon, 3 * sigma

    def ase_calculator(self):
        return AseLennardJones(sigma=self.sigma, epsilon=self.epsilon, rc=self.cutoff)

    def values(self, structure):
        first, second, images, distances = structure.get_neighbor_list(self.cutoff)
        vectors = (structure.frac_coords[second] + images - structure.frac_coords[first]) @ structure.lattice.matrix
        c6 = (self.sigma / distances) ** 6
        shift = 4 * self.epsilon * (3.0**-12 - 3.0**-6)
        energy = (4 * self.epsilon * (c6**2 - c6) - shift).sum() / 2
        pulls = (-24 * self.epsilon * (2 * c6**2 - c6) / distances**2)[:, None] * vectors
        forces = np.zeros((len(structure), 3))
        np.add.at(forces, first, pulls)
        return PotentialValues(energy / len(structure), forces, pulls.T @ vectors / (2 * structure.volume))


class Wrapped(Analytic):
    """Another potential with one change: `change(structure, values)` returns what is said instead."""

    def __init__(self, potential, change):
        super().__init__()
        self.potential, self.change = potential, change

    def values(self, structure):
        return self.change(structure, self.potential.values(structure))
