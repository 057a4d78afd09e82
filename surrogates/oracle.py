"""Oracles: the expensive truth that labels materials with energies or with a user's own numbers.

    CHGNetOracle().label(["SrTiO3", my_structure])      # formation_energy, e_above_hull, energy (eV/atom)
    TableOracle("measured.csv").label(["SrTiO3"])       # whatever the table holds
    FunctionOracle(my_function, "my experiment").label(["SrTiO3"])

What goes wrong with a material is a label with a reason, never an exception that ends a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from envs.formula import CompositionBatch, reduced_formula, write_formula
from surrogates.base import Label
from surrogates.hull import ReferenceHull
from surrogates.known_compounds import KNOWN_ENERGIES, energy_mismatch, known_structures
from surrogates.potential import CHGNetPotential, MatGLPotential, Potential
from surrogates.relaxation import Relaxation, RelaxationOptions, relax
from surrogates.structure_checks import structure_problem

if TYPE_CHECKING:
    from pymatgen.core import Structure


class RelaxationOracle:
    """Relaxes structures with a potential; the energies refer to elements relaxed with the same potential.

    A formula is tried in the structure types of its anonymous formula: the energy against volume of each, then
    relaxation of the best few. Labels hold formation_energy, e_above_hull and energy (eV/atom) and volume (A^3/atom).

    Args:
        potential: What gives energies, forces and stresses.
        options: How structures are relaxed.
        hull: What e_above_hull refers to; the embedded hull when None. With another potential than the hull's its
            own errors do not cancel.
        relaxed_per_formula: Structure types that are relaxed of a formula.
        largest_cell: Most atoms of a structure type's primitive cell.
        check: Whether to compare NaCl, MgO and Al2O3 with experiment first.

    Raises:
        ValueError: The potential misses a known compound by more than 0.15 eV/atom; the message gives the figures.
    """

    cost = 20.0
    """Typical core-seconds of a formula."""

    def __init__(
        self,
        potential: Potential,
        options: RelaxationOptions | None = None,
        hull: ReferenceHull | None = None,
        relaxed_per_formula: int = 3,
        largest_cell: int = 20,
        check: bool = True,
    ) -> None:
        self.potential = potential
        self.name, self.version = potential.name, potential.version
        self.options = options or RelaxationOptions()
        self.relaxed_per_formula = relaxed_per_formula
        self.largest_cell = largest_cell
        self._hull = hull
        self._element_energies: dict[str, float | str] = {}
        if check:
            self.check_known_compounds()

    @cached_property
    def hull(self) -> ReferenceHull:
        """What e_above_hull refers to."""
        return self._hull or ReferenceHull.default()

    def label(self, materials: Sequence[Any]) -> list[Label]:
        """Return one label per material, in order.

        Args:
            materials: Formulas, or pymatgen structures to relax as they are.
        """
        names = _names(materials)
        results: dict[int, Label] = {}
        starts: list[tuple[int, str, Structure]] = []
        for row, material in enumerate(materials):
            found = self._starting_structures(material)
            if isinstance(found, str):
                results[row] = Label(names[row], failure=found)
            else:
                starts += [(row, prototype, structure) for prototype, structure in found]
        relaxations = relax([structure for _, _, structure in starts], self.potential, self.options)
        by_row: dict[int, list[tuple[str, Relaxation]]] = {}
        for (row, prototype, _), relaxation in zip(starts, relaxations, strict=True):
            by_row.setdefault(row, []).append((prototype, relaxation))
        for row, found_here in by_row.items():
            results[row] = self._label(names[row], found_here)
        return [results[row] for row in range(len(materials))]

    def refuses(self, materials: Sequence[str]) -> list[str | None]:
        """Return for each formula why it could not be labelled, None where it can be tried; costs nothing."""
        from surrogates.prototypes import describe_missing, has_prototype

        reasons: list[str | None] = []
        for formula in materials:
            try:
                reasons.append(None if has_prototype(formula, self.largest_cell) else describe_missing(formula))
            except ValueError as error:
                reasons.append(str(error).splitlines()[0])
        return reasons

    def check_known_compounds(self) -> dict[str, float]:
        """Return the formation energies of NaCl, MgO and Al2O3, eV/atom.

        Raises:
            ValueError: One is off by more than 0.15 eV/atom, or it or an element could not be relaxed.
        """
        found = relax(known_structures(), self.potential, self.options)
        labels = [
            self._label(formula, [("", relaxation)], with_hull=False)
            for formula, relaxation in zip(KNOWN_ENERGIES, found, strict=True)
        ]
        for label in labels:
            if label.failure is not None:
                raise ValueError(f"{self.name} {self.version}: refused, {label.material} failed: {label.failure}")
        energies = {label.material: label.values["formation_energy"] for label in labels}
        mismatch = energy_mismatch(list(energies.values()))
        if mismatch is not None:
            raise ValueError(f"{self.name} {self.version}: refused, its formation energies are {mismatch}")
        return energies

    def _starting_structures(self, material: Any) -> list[tuple[str, Structure]] | str:
        """Return structure types and structures to relax, or why there are none."""
        if not isinstance(material, str):
            problem = structure_problem(material)
            return problem if problem is not None else [("", _undecorated(material))]
        from surrogates.prototypes import decorated_prototypes, describe_missing
        from surrogates.volume_scan import scan_volumes

        try:
            candidates = decorated_prototypes(material, self.largest_cell)
        except ValueError as error:
            return str(error).splitlines()[0]
        if not candidates:
            return describe_missing(material)
        scans = scan_volumes([candidate.structure for candidate in candidates], self.potential)
        usable = [(scan, candidate) for scan, candidate in zip(scans, candidates, strict=True) if scan.failure is None]
        usable.sort(key=lambda entry: entry[0].energy)
        result = []
        for scan, candidate in usable[: self.relaxed_per_formula]:
            structure = candidate.structure
            structure.scale_lattice(scan.volume * len(structure))
            result.append((candidate.prototype.name, structure))
        return result or f"none of {len(candidates)} structure types has an energy minimum: {scans[0].failure}"

    def _label(self, name: str, found: list[tuple[str, Relaxation]], with_hull: bool = True) -> Label:
        good = [entry for entry in found if entry[1].failure is None]
        if not good:
            prototype, worst = found[0]
            return Label(name, {}, worst.failure, worst.structure, worst.steps, False, prototype)
        prototype, best = min(good, key=lambda entry: entry[1].energy)
        assert best.structure is not None
        amounts = {str(key): float(value) for key, value in best.structure.composition.get_el_amt_dict().items()}
        total = sum(amounts.values())
        formation = best.energy
        for symbol, amount in amounts.items():
            reference = self._element_energy(symbol)
            if isinstance(reference, str):
                return Label(name, {}, reference, best.structure, best.steps, True, prototype)
            formation -= reference * amount / total
        values = {
            "formation_energy": formation,
            "energy": best.energy,
            "volume": best.structure.volume / len(best.structure),
        }
        if with_hull:
            batch = CompositionBatch.from_formulas([write_formula(amounts)])
            given = torch.tensor([formation], dtype=torch.float64)
            above = float(self.hull.e_above_hull(batch, given, missing="nan")[0])
            if math.isfinite(above):
                values["e_above_hull"] = above
        return Label(name, values, None, best.structure, best.steps, True, prototype)

    def _element_energy(self, symbol: str) -> float | str:
        """Return the energy of an element relaxed with this potential, eV/atom, or why there is none; computed once."""
        if symbol not in self._element_energies:
            self._element_energies[symbol] = self._relax_element(symbol)
        return self._element_energies[symbol]

    def _relax_element(self, symbol: str) -> float | str:
        from surrogates.reference_export import read_reference_structures

        start = read_reference_structures().get(symbol)
        if start is None:
            return f"no reference structure of the element {symbol}"
        found = relax([start.structure], self.potential, self.options)[0]
        return found.energy if found.failure is None else f"the element {symbol} could not be relaxed: {found.failure}"


class CHGNetOracle(RelaxationOracle):
    """Relaxation with CHGNet, whose weights are in its package.

    Args:
        weights: Version of the weights: 0.3.0, 0.2.0 or r2scan.
        options: How structures are relaxed.
        hull: What e_above_hull refers to; the embedded hull when None.
        relaxed_per_formula: Structure types that are relaxed of a formula.
        check: Whether to compare NaCl, MgO and Al2O3 with experiment first (seconds).

    Raises:
        ValueError: No such weights, or they miss a known compound.
    """

    def __init__(
        self,
        weights: str = "0.3.0",
        options: RelaxationOptions | None = None,
        hull: ReferenceHull | None = None,
        relaxed_per_formula: int = 3,
        check: bool = True,
    ) -> None:
        super().__init__(CHGNetPotential(weights), options, hull, relaxed_per_formula, check=check)


class MatGLOracle(RelaxationOracle):
    """Relaxation with a MatGL potential by its hub name or its folder.

    Args:
        model: For instance "TensorNet-MatPES-PBE-v2025.1-PES".
        options: How structures are relaxed.
        hull: What e_above_hull refers to; the embedded hull, which CHGNet computed, when None.
        relaxed_per_formula: Structure types that are relaxed of a formula.
        check: Whether to compare NaCl, MgO and Al2O3 with experiment first: weights of older versions of MatGL load
            without complaint and are wrong.

    Raises:
        ValueError: The weights cannot be found, or miss a known compound.
    """

    def __init__(
        self,
        model: str,
        options: RelaxationOptions | None = None,
        hull: ReferenceHull | None = None,
        relaxed_per_formula: int = 3,
        check: bool = True,
    ) -> None:
        super().__init__(MatGLPotential(model), options, hull, relaxed_per_formula, check=check)


class TableOracle:
    """Looks labels up in a table: CSV or Parquet with a formula or cif column and one column a property.

    Args:
        path: The table. Of rows with the same reduced formula the first counts.

    Raises:
        ValueError: The table cannot be read.
    """

    name = "table"
    cost = 0.0

    def __init__(self, path: str | Path) -> None:
        from surrogates.datasets import load_dataset

        dataset = load_dataset(path)
        self.version = Path(path).name
        self._values: dict[str, dict[str, float]] = {}
        rows = dataset.properties.to_dict(orient="records")
        for formula, values in zip(dataset.materials, rows, strict=True):
            self._values.setdefault(reduced_formula(formula), {str(key): float(v) for key, v in values.items()})

    def label(self, materials: Sequence[Any]) -> list[Label]:
        """Return one label per material, in order; a structure is looked up by its formula."""
        return [self._label(name) for name in _names(materials)]

    @property
    def materials(self) -> list[str]:
        """All reduced formulas of the table."""
        return list(self._values)

    def _label(self, name: str) -> Label:
        try:
            values = self._values.get(reduced_formula(name))
        except ValueError as error:
            return Label(name, failure=str(error))
        return Label(name, failure=f"not in the table {self.version}") if values is None else Label(name, dict(values))


class FunctionOracle:
    """A function of yours as an oracle.

    Args:
        function: Takes one material and returns a mapping of property names to finite numbers; what it raises becomes
            the reason of a failed label.
        name: What it is called in results.
        version: Changes when its answers do.
        cost: Typical core-seconds of a call.
    """

    def __init__(
        self, function: Callable[[Any], Mapping[str, float]], name: str = "", version: str = "1", cost: float = 1.0
    ) -> None:
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self.version = version
        self.cost = cost

    def label(self, materials: Sequence[Any]) -> list[Label]:
        """Return one label per material, in order."""
        return [self._label(name, material) for name, material in zip(_names(materials), materials, strict=True)]

    def _label(self, name: str, material: Any) -> Label:
        try:
            found = self.function(material)
            if not hasattr(found, "items"):
                raise TypeError(f"expected a mapping of property names to numbers, not {type(found).__name__}")
            values = {str(key): float(value) for key, value in found.items()}
        except Exception as error:  # a user's function may raise anything
            reason = (str(error).strip().splitlines() or [""])[0]
            return Label(name, failure=f"{self.name}: {type(error).__name__}: {reason}".rstrip(": "))
        bad = [f"{key} is {value}" for key, value in values.items() if not math.isfinite(value)]
        if bad or not values:
            return Label(name, failure=f"{self.name}: {bad[0] if bad else 'no values returned'}")
        return Label(name, values)


def _names(materials: Sequence[Any]) -> list[str]:
    if isinstance(materials, str):
        raise ValueError(f"label: expected a list of materials, not the text {materials!r}")
    return [_name(material) for material in materials]


def _name(material: Any) -> str:
    if isinstance(material, str):
        return material
    composition = getattr(material, "composition", None)
    if composition is None:
        return str(material)[:80]
    try:
        amounts = composition.element_composition.get_el_amt_dict()
        return reduced_formula(write_formula({str(key): float(value) for key, value in amounts.items()}))
    except (ValueError, KeyError):
        return str(getattr(composition, "formula", material))[:80]


def _undecorated(structure: Structure) -> Structure:
    """Return elements and positions alone: energies do not depend on oxidation states or site properties here."""
    from pymatgen.core import Structure

    return Structure(structure.lattice, [site.specie.symbol for site in structure], structure.frac_coords)
