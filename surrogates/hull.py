"""Stability against decomposition: formation energies and distances to the convex hull of a table of phases.

    hull = ReferenceHull(load_reference_table("my_phases.csv"))
    hull.e_above_hull(["SrTiO3"])                        # eV/atom, of the table's own entry
    hull.hull_energy(["Sr2TiO4"], exclude_self=True)     # the best mixture of other phases
    hull.decomposition("Sr3Ti4O11")                      # {"SrTiO3": 0.83, "TiO2": 0.17}

A distance means something only together with `source`: a phase that the table lacks can only lower the hull, so the
distance is a lower bound.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor

from envs.chemistry import ATOMIC_NUMBERS, MAX_ATOMIC_NUMBER
from envs.formula import CompositionBatch, parse_formula
from surrogates.convex_hull import ConvexHull
from surrogates.reference_table import (
    ReferenceTable,
    composition_keys,
    missing_elements,
    mixed_element_energies,
    read_reference_table,
)

if TYPE_CHECKING:
    from pymatgen.analysis.phase_diagram import PhaseDiagram

WhenMissing = Literal["raise", "nan"]
"""What happens to a composition with an element that the table has no pure phase of."""

_CACHED_PHASE_DIAGRAMS = 128


class ReferenceHull:
    """Formation energies, hull and decomposition with respect to a `ReferenceTable`.

    Batched methods take formulas or a `CompositionBatch` of N materials and return float64 tensors (N,) in eV/atom. A
    composition with an element that has no energy in the table has no hull: they raise a ValueError that names all such
    elements, or give NaN for it with `missing="nan"`.
    """

    def __init__(self, table: ReferenceTable) -> None:
        self.table = table
        self._element_energies = table.element_energies()
        self._formation_energies = table.formation_energies()
        self._phase_diagrams: dict[frozenset[str], PhaseDiagram] = {}

    @classmethod
    @lru_cache(maxsize=1)
    def default(cls) -> Self:
        """Return the hull of the embedded table; made once."""
        return cls(read_reference_table())

    @property
    def source(self) -> str:
        """What the hull consists of, e.g. "within the CHGNet prototype library, 31,402 entries"."""
        return self.table.source

    def describe(self) -> str:
        """Return one line: elements, formulas and source."""
        elements = int((~torch.isnan(self._element_energies)).sum())
        return f"convex hull of {len(self.table):,} formulas of {elements} elements {self.source}"

    def __str__(self) -> str:
        return self.describe()

    def formation_energy(
        self, materials: Iterable[str], energies: Tensor | None = None, *, missing: WhenMissing = "raise"
    ) -> Tensor:
        """Return formation energies, (N,).

        Args:
            materials: N compositions.
            energies: (N,), total energies in eV/atom on the table's own scale; the table's own entries when None, with
                NaN for formulas that it does not hold.
            missing: See the class.
        """
        batch = self._checked(materials, missing)
        if energies is None:
            return self._own_formation_energies(batch)
        if energies.shape != (len(batch),):
            raise ValueError(f"energies: expected the shape ({len(batch)},), not {tuple(energies.shape)}")
        return energies.double() - mixed_element_energies(batch, self._element_energies)

    def hull_energy(
        self, materials: Iterable[str], exclude_self: bool = False, *, missing: WhenMissing = "raise"
    ) -> Tensor:
        """Return the formation energy of the hull at the compositions, (N,), never above 0.

        Args:
            materials: N compositions.
            exclude_self: Take the hull of all other formulas, so that a stable compound lies below it; the pure
                elements always stay.
            missing: See the class.
        """
        batch = self._checked(materials, missing)
        hull = self._convex_hull.energy(batch, exclude_self)
        return torch.where(self._has_end_members(batch), hull, torch.nan)

    def e_above_hull(
        self,
        materials: Iterable[str],
        formation_energies: Tensor | None = None,
        *,
        exclude_self: bool = False,
        missing: WhenMissing = "raise",
    ) -> Tensor:
        """Return the distance to the hull, formation energy minus hull energy, (N,).

        It is negative where a given formation energy lies below the hull of the table, and with `exclude_self` for
        stable compounds (the decomposition enthalpy).

        Args:
            materials: N compositions.
            formation_energies: (N,), eV/atom; those of the table's own entries when None, with NaN for other formulas.
            exclude_self: As for `hull_energy`.
            missing: See the class.
        """
        batch = self._checked(materials, missing)
        if formation_energies is None:
            formation_energies = self._own_formation_energies(batch)
        if formation_energies.shape != (len(batch),):
            raise ValueError(
                f"formation_energies: expected the shape ({len(batch)},), not {tuple(formation_energies.shape)}"
            )
        return formation_energies.double() - self.hull_energy(batch, exclude_self, missing=missing)

    def decomposition(self, formula: str) -> dict[str, float]:
        """Return the stable phases that the composition decomposes into, with their shares of the atoms.

        A stable compound of the table gives itself. Computed by pymatgen's `PhaseDiagram`.

        Raises:
            ValueError: The formula is unreadable, or the table has no pure phase of one of its elements.
        """
        from pymatgen.core import Composition

        amounts = parse_formula(formula)
        diagram = self.phase_diagram(amounts)
        with _without_electronegativity_warnings():
            phases = diagram.get_decomposition(Composition(amounts))
        return {str(entry.name): float(share) for entry, share in phases.items()}

    def phase_diagram(self, elements: Iterable[str]) -> PhaseDiagram:
        """Return pymatgen's phase diagram of formation energies for a set of elements; the last 128 are kept.

        Raises:
            ValueError: An element is unknown, or the table has no pure phase of it.
        """
        system = frozenset(elements)
        if system not in self._phase_diagrams:
            if len(self._phase_diagrams) >= _CACHED_PHASE_DIAGRAMS:
                del self._phase_diagrams[next(iter(self._phase_diagrams))]
            self._phase_diagrams[system] = self._build_phase_diagram(system)
        return self._phase_diagrams[system]

    def _build_phase_diagram(self, system: frozenset[str]) -> PhaseDiagram:
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
        from pymatgen.core import Composition

        unknown = sorted(system - set(ATOMIC_NUMBERS))
        if unknown or not system:
            raise ValueError(f"phase diagram: expected chemical elements, not {', '.join(unknown) or 'an empty set'}")
        self._checked(sorted(system), "raise")
        allowed = torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.bool)
        allowed[[0, *(ATOMIC_NUMBERS[symbol] for symbol in system)]] = True
        rows = allowed[self.table.materials.atomic_numbers].all(1).nonzero().squeeze(1)
        inside = self.table.materials.rows(rows)
        energies = self._formation_energies[rows].tolist()
        entries = []
        with _without_electronegativity_warnings():
            for formula, energy in zip(inside, energies, strict=True):
                composition = Composition(parse_formula(formula))
                entries.append(PDEntry(composition, energy * composition.num_atoms, name=formula))
            return PhaseDiagram(entries)

    def _checked(self, materials: Iterable[str], missing: WhenMissing) -> CompositionBatch:
        batch = CompositionBatch.from_formulas(materials)
        if missing == "raise":
            absent = missing_elements(batch, self._element_energies)
            if absent:
                raise ValueError(
                    f"no hull without end members: there is no energy of the pure elements {', '.join(absent)} "
                    f"{self.source}"
                )
        return batch

    def _has_end_members(self, batch: CompositionBatch) -> Tensor:
        known = ~torch.isnan(self._element_energies[batch.atomic_numbers])
        return (known | (batch.amounts <= 0)).all(1)

    @cached_property
    def _convex_hull(self) -> ConvexHull:
        return ConvexHull(self.table.materials, self._formation_energies)

    def _own_formation_energies(self, batch: CompositionBatch) -> Tensor:
        """Return the formation energies of the table's entries of the same compositions, NaN where there is none."""
        keys, place = self._sorted_keys
        wanted = composition_keys(batch)
        found = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
        energies = self._formation_energies[place[found]]
        return torch.where(keys[found] == wanted, energies, torch.nan)

    @cached_property
    def _sorted_keys(self) -> tuple[Tensor, Tensor]:
        keys, place = composition_keys(self.table.materials).sort()
        return keys, place


@contextmanager
def _without_electronegativity_warnings() -> Iterator[None]:
    """Keep pymatgen from warning of noble gases, whose order in a formula does not matter here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No Pauling electronegativity")
        yield
