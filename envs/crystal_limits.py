"""The limits that define a `CrystalSpace`: checked, and brought to bear on the composition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from math import gcd

import torch
from torch import Tensor

from envs.composition_limits import CompositionLimits, is_whole
from envs.crystal_grid import N_COORDINATES
from envs.wyckoff import CRYSTAL_SYSTEMS, N_SPACE_GROUPS, all_space_groups, space_group
from envs.wyckoff_counts import FeasibleGroups, feasible_groups

MOST_ATOMS = N_COORDINATES
"""With more atoms the grid might run out of room on a line, and a rollout be stuck."""


@dataclass(frozen=True)
class CrystalLimits:
    """The arguments of `CrystalSpace`, where they are described.

    Raises:
        ValueError: A value is out of range or unknown; the message names it.
    """

    composition: CompositionLimits
    max_atoms: int
    formula_units: Sequence[int] | None
    space_groups: Sequence[int | str] | None
    crystal_systems: Sequence[str] | None
    min_distance: float

    def __post_init__(self) -> None:
        if self.composition.reference is not None:
            raise ValueError("composition: crystals are not built around a reference formula (leave reference out)")
        if not is_whole(self.max_atoms) or not 1 <= self.max_atoms <= MOST_ATOMS:
            raise ValueError(f"max_atoms: {self.max_atoms!r} is not a whole number from 1 to {MOST_ATOMS}")
        if isinstance(self.min_distance, bool) or not isinstance(self.min_distance, int | float):
            raise ValueError(f"min_distance: {self.min_distance!r} is not a number")
        if not 0 <= self.min_distance <= 1.2:
            raise ValueError(f"min_distance: {self.min_distance} is not between 0 and 1.2 sums of radii")
        for name in ("formula_units", "space_groups", "crystal_systems"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise ValueError(f"{name}: {value!r} is not a list")
            if not value:
                raise ValueError(f"{name}: the list is empty (leave it out to allow all)")
            object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "max_atoms", int(self.max_atoms))
        object.__setattr__(self, "min_distance", float(self.min_distance))
        for units in self.formula_units or ():
            if not is_whole(units) or units < 1:
                raise ValueError(f"formula_units: {units!r} is not a positive whole number")
        for name in ("formula_units", "space_groups"):  # no integers of NumPy: they are no JSON
            plain = [int(value) if is_whole(value) else value for value in getattr(self, name) or ()]
            object.__setattr__(self, name, tuple(plain) or None)
        if not self.groups:
            raise ValueError(
                f"space_groups: none of {', '.join(map(str, self.space_groups or ()))} is "
                f"{' or '.join(self.crystal_systems or ())}"
            )

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """Numbers of the space groups that are allowed, ascending."""
        names = [name for _, name in CRYSTAL_SYSTEMS]
        for system in self.crystal_systems or ():
            if system not in names:
                raise ValueError(f"crystal_systems: unknown system {system!r} (expected one of {', '.join(names)})")
        given = range(1, N_SPACE_GROUPS + 1) if self.space_groups is None else map(_group_number, self.space_groups)
        systems = names if self.crystal_systems is None else self.crystal_systems
        return tuple(sorted({number for number in given if space_group(number).crystal_system in systems}))

    @cached_property
    def units(self) -> tuple[int, ...]:
        """Numbers of formula units that are allowed and can fit, ascending."""
        fewest = max(1, min(self.composition.min_elements, self.max_atoms))
        every = range(1, self.max_atoms // fewest + 1)
        return tuple(sorted(set(every) & set(every if self.formula_units is None else self.formula_units)))

    @cached_property
    def feasible(self) -> FeasibleGroups:
        """Which groups can hold which counts."""
        return feasible_groups(self.composition.max_elements, self.max_atoms)

    @cached_property
    def group_index(self) -> Tensor:
        """Long (G,): the allowed groups, from 0."""
        return torch.tensor(self.groups) - 1

    def as_json(self) -> dict[str, object]:
        """Return the limits as JSON-compatible values."""

        def listed(value: Sequence[object] | None) -> list[object] | None:
            return None if value is None else list(value)

        return {
            "composition": self.composition.as_json(),
            "max_atoms": self.max_atoms,
            "formula_units": listed(self.formula_units),
            "space_groups": listed(self.space_groups),
            "crystal_systems": listed(self.crystal_systems),
            "min_distance": self.min_distance,
        }

    def restricted_composition(self) -> CompositionLimits:
        """Return the limits of the composition with those counts only that an allowed group can hold.

        Raises:
            ValueError: No group can hold any counts; the message names the limits in conflict.
        """
        limits = replace(self.composition, max_atoms=min(self.composition.max_atoms, self.max_atoms))
        table = self.feasible
        fits = table.fits[:, self.group_index].any(1)
        holdable = {counts for counts, fit in zip(table.multisets, fits.tolist(), strict=True) if fit}

        def can_be_built(counts: tuple[int, ...]) -> bool:
            return any(tuple(units * count for count in counts) in holdable for units in self.units)

        within = [
            counts
            for counts in table.multisets
            if sum(counts) <= limits.max_atoms and len(counts) >= limits.min_elements and gcd(*counts) == 1
        ]
        good = frozenset(counts for counts in within if can_be_built(counts))
        if not good:
            named = [
                f"{name}={','.join(map(str, value))}"
                for name, value in (
                    ("space_groups", self.space_groups),
                    ("crystal_systems", self.crystal_systems),
                    ("formula_units", self.formula_units),
                )
                if value is not None
            ]
            raise ValueError(
                f"no crystal satisfies all limits; in conflict: {'; '.join(named)}; max_atoms={self.max_atoms}"
            )
        return limits if len(good) == len(within) else replace(limits, multisets=good)


def _group_number(given: int | str) -> int:
    """Read a space group's number or symbol."""
    if is_whole(given):
        if not 1 <= int(given) <= N_SPACE_GROUPS:
            raise ValueError(f"space_groups: {given} is not a number from 1 to {N_SPACE_GROUPS}")
        return int(given)
    symbols = {group.symbol: group.number for group in all_space_groups()}
    if not isinstance(given, str) or given not in symbols:
        close = get_close_matches(str(given), symbols, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"space_groups: {given!r} is no space group (expected a number or a symbol such as Fm-3m){hint}"
        )
    return symbols[given]
