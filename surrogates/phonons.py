"""Lattice vibrations by finite displacements in a supercell; symmetry and Fourier interpolation by phonopy.

    measurement = PhononMeasurement(structure)
    forces = [values.forces for values in potential.evaluate(measurement.supercells)]
    result = measurement.finish(forces)
    result.stable, result.lowest_frequency          # THz; imaginary frequencies are negative

phonopy is an optional package: `pip install "matsmith[validate]"`.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surrogates.potential import Potential, PotentialValues

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

_SYMMETRY_TOLERANCE = 5e-3  # A; what is left of a relaxation's imprecision
_AT_GAMMA = 1e-8
_SUPERCELLS_TOGETHER = 4


@dataclass(frozen=True)
class PhononOptions:
    """How vibrations are computed and judged."""

    supercell_edge: float = 10.0
    """Least length of each edge of the supercell, A."""
    displacement: float = 0.015
    """How far an atom is moved, A."""
    lowest_allowed: float = -0.1
    """THz; a mode below means that the crystal is unstable."""
    largest_supercell: int = 500
    """Most atoms in a supercell; larger ones are refused."""
    denser: int = 2
    """Points of the mesh along an edge of the reciprocal cell, in multiples of those that fit into the supercell."""


@dataclass(frozen=True)
class Phonons:
    """What the vibrations say about stability."""

    lowest_frequency: float
    """THz, over the mesh, the three acoustic modes at Gamma left out; negative for an imaginary one."""
    q_point: tuple[float, float, float]
    """Where in the reciprocal cell it lies."""
    highest_frequency: float
    """THz."""
    stable: bool
    supercell: tuple[int, int, int]
    """Multiples of the cell's edges."""
    displacements: int


def check_phonopy() -> None:
    """Raise a ValueError that names what to install when phonopy is missing."""
    if importlib.util.find_spec("phonopy") is None:
        raise ValueError('phonon: phonopy is not installed; pip install "matsmith[validate]"')


class PhononMeasurement:
    """The displaced supercells of one crystal, and what follows from the forces in them.

    Args:
        structure: A relaxed cell, best the primitive one with short edges.
        options: Sizes and thresholds.

    Raises:
        ValueError: phonopy is missing, or the supercell would be too large.
    """

    def __init__(self, structure: Structure, options: PhononOptions | None = None) -> None:
        check_phonopy()
        self.options = options or PhononOptions()
        edges = structure.lattice.abc
        multiples = [max(1, math.ceil(self.options.supercell_edge / edge - 1e-3)) for edge in edges]
        uniform = [max(multiples)] * 3  # keeps all of the symmetry, so that fewer atoms have to be moved
        sizes = [len(structure) * math.prod(numbers) for numbers in (multiples, uniform)]
        limit = self.options.largest_supercell
        if sizes[0] > limit:
            raise ValueError(
                f"a supercell of {'x'.join(map(str, multiples))} cells has {sizes[0]} atoms, more than {limit}"
            )
        found = [_displaced(structure, multiples, self.options.displacement)]
        if sizes[0] < sizes[1] <= limit:
            found.append(_displaced(structure, uniform, self.options.displacement))
        self._phonopy = min(found, key=_displaced_atoms)
        a, b, c = (int(number) for number in np.diag(self._phonopy.supercell_matrix))
        self.multiples = (a, b, c)

    @property
    def supercells(self) -> list[Structure]:
        """The supercells with one atom displaced in each, in the order in which `finish` takes their forces."""
        from pymatgen.core import Structure

        return [
            Structure(cell.cell, cell.symbols, cell.scaled_positions)
            for cell in self._phonopy.supercells_with_displacements
        ]

    @property
    def displaced_atoms(self) -> int:
        """Atoms in all supercells together: what the work grows with."""
        return _displaced_atoms(self._phonopy)

    def finish(self, forces: Sequence[NDArray[np.float64]]) -> Phonons:
        """Return frequencies from the forces in each supercell, (atoms, 3) in eV/A each."""
        phonopy = self._phonopy
        phonopy.forces = np.asarray(forces)
        phonopy.produce_force_constants(show_drift=False)
        phonopy.symmetrize_force_constants(show_drift=False)
        mesh = [self.options.denser * multiple for multiple in self.multiples]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on unequal multiples, which reduce the points by less symmetry
            phonopy.run_mesh(mesh, is_gamma_center=True)
        frequencies = np.array(phonopy.mesh.frequencies)  # (points, modes)
        points = np.array(phonopy.mesh.qpoints)
        highest = float(frequencies.max())
        for row in (np.abs(points).max(1) < _AT_GAMMA).nonzero()[0]:
            acoustic = np.abs(frequencies[row]).argsort()[:3]  # exactly 0 but for rounding
            frequencies[row, acoustic] = np.inf
        place = int(frequencies.min(1).argmin())
        lowest = float(frequencies[place].min())
        x, y, z = (float(value) for value in points[place])
        return Phonons(
            lowest if math.isfinite(lowest) else 0.0,
            (x, y, z),
            highest,
            lowest >= self.options.lowest_allowed,
            self.multiples,
            len(forces),
        )


def _displaced(structure: Structure, multiples: Sequence[int], displacement: float) -> Any:
    """Return phonopy's object with the displacements in a supercell."""
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        symbols=[site.specie.symbol for site in structure],
        cell=structure.lattice.matrix,
        scaled_positions=structure.frac_coords,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on supercells of less symmetry than the cell
        result = Phonopy(
            cell, supercell_matrix=np.diag(multiples), primitive_matrix=np.eye(3), symprec=_SYMMETRY_TOLERANCE
        )
        result.generate_displacements(distance=displacement)
    return result


def _displaced_atoms(phonopy: Any) -> int:
    return sum(map(len, phonopy.supercells_with_displacements))


def evaluate_forces(
    supercells: Sequence[Structure], potential: Potential, after_each: Callable[[int], None] | None = None
) -> list[NDArray[np.float64]]:
    """Return the forces in each supercell, (atoms, 3) in eV/A each.

    Args:
        supercells: As a measurement wants them.
        potential: What gives forces.
        after_each: Called with the number of atoms in the supercells that were just evaluated.

    Raises:
        ValueError: The potential fails on one; the message is its reason.
    """
    forces: list[NDArray[np.float64]] = []
    for start in range(0, len(supercells), _SUPERCELLS_TOGETHER):
        part = supercells[start : start + _SUPERCELLS_TOGETHER]
        for values in potential.evaluate(part):
            if not isinstance(values, PotentialValues):
                raise ValueError(values)
            forces.append(values.forces)
        if after_each is not None:
            after_each(sum(map(len, part)))
    return forces
