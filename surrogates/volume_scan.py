"""Energy against volume: the cheapest estimate of what a structure type is worth for a composition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from surrogates.potential import Potential
from surrogates.relaxation import ENERGY_BOUNDS
from surrogates.structure_checks import structure_problem

if TYPE_CHECKING:
    from pymatgen.core import Structure

_STEP = 0.14
"""Step of the grid in the logarithm of the volume."""
_FIRST = (-1, 0, 1)
_SMALLEST_VOLUME = 4.5
"""A^3/atom; diamond has 5.7. Points below are left out: their graphs are huge."""
_LOWEST, _HIGHEST = -5, 5
"""Ends of the grid: strong compression gives large graphs and unreliable energies."""


@dataclass(frozen=True)
class VolumeScan:
    """The best volume of one structure whose shape and fractional coordinates are kept."""

    energy: float
    """eV/atom at that volume; NaN on failure."""
    volume: float
    """A^3/atom."""
    failure: str | None


def scan_volumes(structures: Sequence[Structure], potential: Potential) -> list[VolumeScan]:
    """Find the volume of lowest energy of each structure, by points on a grid and a parabola in V^(-2/3).

    The parabola is the Birch-Murnaghan equation of second order (Birch, Phys. Rev. 71, 809 (1947)). Failures are
    results with a reason, not exceptions.
    """
    found: list[dict[int, float]] = [{} for _ in structures]
    reasons = {row: problem for row, structure in enumerate(structures) if (problem := structure_problem(structure))}
    wanted = [(row, point) for row in range(len(structures)) if row not in reasons for point in _FIRST]
    while wanted:
        for row, point in wanted:
            if structures[row].volume / len(structures[row]) * np.exp(_STEP * point) < _SMALLEST_VOLUME:
                found[row][point] = np.inf
        wanted = [(row, point) for row, point in wanted if point not in found[row]]
        energies = _energies([_scaled(structures[row], point) for row, point in wanted], potential)
        for (row, point), energy in zip(wanted, energies, strict=True):
            if isinstance(energy, str):
                reasons[row], energy = energy, np.nan
            inside = np.isfinite(energy) and ENERGY_BOUNDS[0] < energy < ENERGY_BOUNDS[1]
            found[row][point] = energy if inside else np.inf
        wanted = [(row, point) for row in range(len(structures)) for point in _next_points(found[row])]
    return [
        _result(structure, points, reasons.get(row, "no finite energy at any volume"))
        for row, (structure, points) in enumerate(zip(structures, found, strict=True))
    ]


def _energies(structures: list[Structure], potential: Potential) -> list[float | str]:
    """Return energies, or what the potential raised for a structure alone."""
    if not structures:
        return []
    try:
        return [float(energy) for energy in potential.energies(structures)]
    except Exception as error:  # a potential of the user's may raise anything; one bad structure must not end a run
        if len(structures) > 1:
            return [energy for structure in structures for energy in _energies([structure], potential)]
        return [f"the potential failed: {(str(error).splitlines() or [type(error).__name__])[0]}"]


def _scaled(structure: Structure, point: int) -> Structure:
    from pymatgen.core import Structure

    factor = float(np.exp(_STEP * point / 3))
    return Structure(structure.lattice.matrix * factor, structure.species, structure.frac_coords)


def _next_points(points: dict[int, float]) -> list[int]:
    """Return the neighbours of the lowest point that are not known yet."""
    best = min(points, key=lambda point: (points[point], abs(point)), default=0)
    if not np.isfinite(points.get(best, np.inf)):
        return []
    return [point for point in (best - 1, best + 1) if point not in points and _LOWEST <= point <= _HIGHEST]


def _result(structure: Structure, points: dict[int, float], reason: str) -> VolumeScan:
    best = min(points, key=lambda point: (points[point], abs(point)), default=0)
    if not np.isfinite(points.get(best, np.inf)):
        return VolumeScan(np.nan, np.nan, reason)
    per_atom = structure.volume / len(structure)
    if best in (_LOWEST, _HIGHEST):
        side = "below" if best == _LOWEST else "above"
        return VolumeScan(np.nan, np.nan, f"no minimum: the energy still falls {side} the range of volumes")
    around = [best - 1, best, best + 1]
    energies = np.array([points[point] for point in around])
    if not np.isfinite(energies).all():
        return VolumeScan(points[best], per_atom * float(np.exp(_STEP * best)), None)
    x = np.exp(_STEP * np.array(around)) ** (-2 / 3)
    curvature, slope, constant = np.polyfit(x, energies, 2)
    if curvature <= 0:
        return VolumeScan(points[best], per_atom * float(np.exp(_STEP * best)), None)
    minimum = float(np.clip(-slope / (2 * curvature), x.min(), x.max()))
    energy = float(np.polyval((curvature, slope, constant), minimum))
    return VolumeScan(energy, per_atom * minimum**-1.5, None)
