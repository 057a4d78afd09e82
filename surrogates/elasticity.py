"""Elastic tensors: stress against strain, with the positions relaxed in every strained cell; by matcalc.

    result = elastic_tensor(structure, CHGNetPotential())
    result.bulk_modulus, result.shear_modulus       # GPa
    result.stable                                   # the tensor is positive definite

matcalc is an optional package and takes some seconds to import: `pip install "matsmith[validate]"`.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from surrogates.potential import Potential, PotentialValues

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

SMALLEST_EIGENVALUE = 0.1
"""GPa; below, an eigenvalue of the tensor is told neither from 0 nor from a negative one."""


@dataclass(frozen=True)
class ElasticityOptions:
    """How the elastic tensor is measured."""

    strain: float = 0.01
    """Each of the six strains is applied with both signs, so that terms of second order cancel."""
    fmax: float = 0.01
    """Largest force at which positions in a strained cell count as relaxed, eV/A."""
    max_steps: int = 200
    """Steps after which that relaxation is given up."""


@dataclass(frozen=True, eq=False)
class ElasticTensor:
    """How a crystal resists small strains."""

    stiffness: NDArray[np.float64]
    """(6, 6), GPa, in Voigt's notation and the axes of the structure; symmetric."""

    @property
    def smallest_eigenvalue(self) -> float:
        """GPa."""
        return float(np.linalg.eigvalsh(self.stiffness)[0])

    @property
    def stable(self) -> bool:
        """Whether every small strain costs energy: the tensor is positive definite (Born's criterion)."""
        return self.smallest_eigenvalue > SMALLEST_EIGENVALUE

    @property
    def bulk_modulus(self) -> float:
        """Mean of Voigt's and Reuss' bound, GPa; NaN for an unstable crystal, of which Reuss' says nothing."""
        return (self._voigt()[0] + self._reuss()[0]) / 2 if self.stable else math.nan

    @property
    def shear_modulus(self) -> float:
        """Mean of Voigt's and Reuss' bound, GPa; NaN for an unstable crystal."""
        return (self._voigt()[1] + self._reuss()[1]) / 2 if self.stable else math.nan

    def _voigt(self) -> tuple[float, float]:
        c = self.stiffness
        diagonal, others, shear = c[:3, :3].trace(), c[0, 1] + c[0, 2] + c[1, 2], c[3:, 3:].trace()
        return float((diagonal + 2 * others) / 9), float((diagonal - others + 3 * shear) / 15)

    def _reuss(self) -> tuple[float, float]:
        s = np.linalg.inv(self.stiffness)
        diagonal, others, shear = s[:3, :3].trace(), s[0, 1] + s[0, 2] + s[1, 2], s[3:, 3:].trace()
        return float(1 / (diagonal + 2 * others)), float(15 / (4 * diagonal - 4 * others + 3 * shear))


def check_matcalc() -> None:
    """Raise a ValueError that names what to install when matcalc is missing."""
    if importlib.util.find_spec("matcalc") is None:
        raise ValueError('elastic: matcalc is not installed; pip install "matsmith[validate]"')


def elastic_tensor(
    structure: Structure, potential: Potential, options: ElasticityOptions | None = None
) -> ElasticTensor:
    """Return the elastic tensor of a relaxed structure.

    Args:
        structure: Relaxed with the same potential, to forces and stress much below those of the strains.
        potential: What gives energies, forces and stresses.
        options: Strains and thresholds.

    Raises:
        ValueError: matcalc is missing, or the potential failed on a strained cell.
    """
    check_matcalc()
    settings = options or ElasticityOptions()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the packages
        strains = (-settings.strain, settings.strain)
        measurement = _import_matcalc().ElasticityCalc(
            potential_calculator(potential),
            norm_strains=strains,
            shear_strains=strains,
            fmax=settings.fmax,
            relax_structure=False,
            relax_deformed_structures=True,
            units_GPa=True,
            relax_calc_kwargs={"optimizer": "BFGS", "max_steps": settings.max_steps},
            r2_min=-1.0,
        )
        found = measurement.calc(structure)
    stiffness = np.asarray(found["elastic_tensor"].voigt, dtype=np.float64)
    if not np.isfinite(stiffness).all():
        raise ValueError("the elastic tensor is not finite")
    return ElasticTensor((stiffness + stiffness.T) / 2)


@lru_cache(maxsize=1)
def _import_matcalc() -> Any:
    """Return matcalc, kept from asking MatGL's model hub for models while it is imported."""
    import matgl

    ask = matgl.get_available_pretrained_models
    matgl.get_available_pretrained_models = list
    try:
        return importlib.import_module("matcalc")
    finally:
        matgl.get_available_pretrained_models = ask


def potential_calculator(potential: Potential) -> Any:
    """Return a potential as a calculator of ASE; what the potential cannot tell is a ValueError with its reason."""
    from ase.calculators.calculator import Calculator, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress
    from pymatgen.core import Structure

    class _PotentialCalculator(Calculator):  # type: ignore[misc]
        implemented_properties = ("energy", "forces", "stress")

        def calculate(
            self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes
        ) -> None:
            super().calculate(atoms, properties, system_changes)
            positions = atoms.get_scaled_positions(wrap=False)
            values = potential.evaluate([Structure(atoms.cell.array, atoms.get_chemical_symbols(), positions)])[0]
            if not isinstance(values, PotentialValues):
                raise ValueError(values)
            self.results = {
                "energy": values.energy * len(atoms),
                "forces": values.forces,
                "stress": full_3x3_to_voigt_6_stress(values.stress),
            }

    return _PotentialCalculator()
