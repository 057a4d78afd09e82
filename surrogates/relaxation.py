"""Relaxation of cells and positions in batches: ASE's optimisers in step, the potential evaluated for all together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surrogates.potential import Potential, PotentialValues, plain_atoms
from surrogates.structure_checks import structure_problem

if TYPE_CHECKING:
    from pymatgen.core import Structure

ENERGY_BOUNDS = (-50.0, 20.0)
"""Energies outside (eV/atom) are nonsense, which potentials give for close contacts."""
VOLUME_BOUNDS = (0.4, 2.5)
"""A final volume outside, relative to the initial one, is a structure that fell apart or collapsed."""


@dataclass(frozen=True)
class RelaxationOptions:
    """How structures are relaxed."""

    fmax: float = 0.05
    """Largest force on an atom, and virial per atom, at which a structure counts as relaxed, eV/A and eV."""
    max_steps: int = 200
    """Steps after which a relaxation has not converged."""
    batch_size: int = 16
    """Structures relaxed together."""
    time_limit: float = 300.0
    """Seconds that one structure may take; those of a batch share them."""


@dataclass(frozen=True, eq=False)
class Relaxation:
    """How the relaxation of one structure ended."""

    structure: Structure | None
    """The last structure; None when there was nothing to relax."""
    energy: float
    """eV/atom, of that structure; NaN where there is no sensible one."""
    steps: int
    converged: bool
    failure: str | None
    """One line when the result is not to be used; None for a converged relaxation."""


def relax(
    structures: Sequence[Structure],
    potential: Potential,
    options: RelaxationOptions | None = None,
    after_each: Callable[[int, Relaxation], None] | None = None,
) -> list[Relaxation]:
    """Relax cell and positions of each structure; failures are results with a reason, not exceptions.

    Args:
        structures: N structures.
        potential: What gives energies, forces and stresses.
        options: Thresholds and limits.
        after_each: Called with the number and the result of each structure as soon as it is there.
    """
    settings = options or RelaxationOptions()
    results: dict[int, Relaxation] = {}

    def finish(row: int, result: Relaxation) -> None:
        results[row] = result
        if after_each is not None:
            after_each(row, result)

    waiting: list[int] = []
    for row, structure in enumerate(structures):
        problem = structure_problem(structure)
        if problem is None:
            waiting.append(row)
        else:
            finish(row, Relaxation(None, np.nan, 0, False, problem))
    waiting.sort(key=lambda row: len(structures[row]))
    running: list[_Running] = []
    waiting.reverse()
    while waiting or running:
        while waiting and len(running) < settings.batch_size:
            row = waiting.pop()
            running.append(_Running(row, structures[row]))
        running = _advance(running, potential, settings, finish)
    return [results[row] for row in range(len(structures))]


class _Running:
    """A relaxation under way: ASE atoms with an optimiser whose forces are set from outside."""

    def __init__(self, row: int, structure: Structure) -> None:
        from ase.filters import FrechetCellFilter
        from ase.optimize import BFGS

        self.row = row
        self.initial_volume = structure.volume
        self.initial = structure
        self.steps = 0
        self.seconds = 0.0
        self.energy = np.nan
        self.atoms: Any = plain_atoms(structure)
        self.atoms.calc = _calculator()
        self.filter: Any = FrechetCellFilter(self.atoms)
        self.optimizer: Any = BFGS(self.filter, logfile=None, maxstep=0.15)

    @property
    def structure(self) -> Structure:
        """The present structure."""
        from pymatgen.core import Structure

        return Structure(
            self.atoms.cell.array, self.initial.species, self.atoms.get_scaled_positions(wrap=False), to_unit_cell=True
        )

    def take(self, values: PotentialValues) -> None:
        """Make these values the present energy, forces and stress."""
        from ase.stress import full_3x3_to_voigt_6_stress

        self.energy = values.energy
        self.atoms.calc.set_results(
            self.atoms,
            energy=values.energy * len(self.atoms),
            forces=values.forces,
            stress=full_3x3_to_voigt_6_stress(values.stress),
        )

    def step(self) -> str | None:
        """Move by one step; return why that was not possible."""
        try:
            with np.errstate(divide="ignore", invalid="ignore"):  # ASE's BFGS divides by the change of the forces
                self.optimizer.step()
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            return f"the optimiser failed: {(str(error).splitlines() or [type(error).__name__])[0]}"
        if not (np.isfinite(self.atoms.positions).all() and np.isfinite(self.atoms.cell.array).all()):
            return "the optimiser failed: the step is not finite"
        self.steps += 1
        return None

    def largest_force(self) -> float:
        """Largest force on an atom and largest virial, as the optimiser sees them."""
        return float(np.linalg.norm(self.filter.get_forces(), axis=1).max())


def _advance(
    running: list[_Running],
    potential: Potential,
    settings: RelaxationOptions,
    finish: Callable[[int, Relaxation], None],
) -> list[_Running]:
    """Evaluate the present structures and move each by one step; return those that go on."""
    started = time.monotonic()
    structures = [entry.structure for entry in running]
    try:
        found = potential.evaluate(structures)
    except Exception as error:  # a potential of the user's may raise anything; one bad structure must not end a run
        if len(running) > 1:
            alone = [_advance([entry], potential, settings, finish) for entry in running]
            return [entry for part in alone for entry in part]
        found = [f"the potential failed: {(str(error).splitlines() or [type(error).__name__])[0]}"]
    share = (time.monotonic() - started) / len(running)
    going_on = []
    for entry, structure, values in zip(running, structures, found, strict=True):
        failure = values if isinstance(values, str) else _nonsense(entry, structure, values)
        if failure is None and isinstance(values, PotentialValues):
            entry.take(values)
            began = time.monotonic()
            if entry.largest_force() <= settings.fmax:
                problem = structure_problem(structure)
                finish(entry.row, Relaxation(structure, entry.energy, entry.steps, problem is None, problem))
                continue
            entry.seconds += share
            if entry.steps >= settings.max_steps:
                failure = f"not converged after {entry.steps} steps ({entry.largest_force():.2f} eV/A left)"
            elif entry.seconds > settings.time_limit:
                failure = f"time-out after {entry.seconds:.0f} s and {entry.steps} steps"
            else:
                failure = entry.step()
                entry.seconds += time.monotonic() - began
                if failure is None:
                    going_on.append(entry)
                    continue
            finish(entry.row, Relaxation(structure, entry.energy, entry.steps, False, failure))
        else:
            finish(entry.row, Relaxation(structure, np.nan, entry.steps, False, failure))
    return going_on


def _nonsense(entry: _Running, structure: Structure, values: PotentialValues) -> str | None:
    shapes = np.shape(values.forces), np.shape(values.stress)
    expected = (len(structure), 3), (3, 3)
    if shapes != expected:
        return (
            f"forces and stress have the shapes {shapes[0]} and {shapes[1]}, expected {expected[0]} and {expected[1]}"
        )
    finite = np.isfinite(values.energy) and np.isfinite(values.forces).all() and np.isfinite(values.stress).all()
    if not finite:
        return "energy or forces are not finite"
    low, high = ENERGY_BOUNDS
    if not low < values.energy < high:
        return f"energy {values.energy:.1f} eV/atom outside {low:g} to {high:g}"
    ratio = structure.volume / entry.initial_volume
    if not VOLUME_BOUNDS[0] < ratio < VOLUME_BOUNDS[1]:
        return f"volume changed by a factor of {ratio:.2f}, outside {VOLUME_BOUNDS[0]:g} to {VOLUME_BOUNDS[1]:g}"
    return None


def _calculator() -> Any:
    from ase.calculators.calculator import Calculator, all_changes

    class _GivenResults(Calculator):  # type: ignore[misc]
        """Holds results that were computed elsewhere."""

        implemented_properties = ("energy", "forces", "stress")

        def set_results(self, atoms: Any, **results: Any) -> None:
            self.atoms = atoms.copy()
            self.results = results

        def calculate(
            self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes
        ) -> None:
            raise RuntimeError("forces of a structure that was not evaluated")

    return _GivenResults()
