"""Crystals as text and as tensors: space group, occupied Wyckoff positions, lattice.

    batch = CrystalBatch.from_texts(["TiO2 | 136 | Ti a | O f 0.305 | 4.594 4.594 2.959 90 90 90"])
    batch.compositions          # what a composition-level model reads
    batch.structures()          # pymatgen structures of the primitive cells
    list(batch)                 # the texts

The text of a crystal is complete: reduced formula, space group in its standard setting, each occupied position with its
element, letter and free parameters, and the parameters of the conventional cell (A, degrees).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

from envs.chemistry import ATOMIC_NUMBERS, SYMBOLS
from envs.formula import CompositionBatch, reduced_formula
from envs.wyckoff import N_SPACE_GROUPS, all_space_groups, space_group

if TYPE_CHECKING:
    from pymatgen.core import Structure

TEXT_EXAMPLE = "TiO2 | 136 | Ti a | O f 0.305 | 4.594 4.594 2.959 90 90 90"
_NUMBER = re.compile(r"[+-]?\d*\.?\d+")


@dataclass(frozen=True, eq=False)
class CrystalBatch(Sequence[str]):
    """N crystals as tensors; also a sequence of N texts, written on demand. S: most occupied positions in a crystal."""

    compositions: CompositionBatch
    """Reduced formulas."""
    space_group: Tensor
    """Long (N,), 1-230."""
    element: Tensor
    """Long (N, S): atomic number of the element on each occupied position, 0 where padded."""
    position: Tensor
    """Long (N, S): index of each occupied position in `SpaceGroup.positions`."""
    free: Tensor
    """Float64 (N, S, 3): parameters x, y, z of each occupied position; those that it lacks are 0."""
    lattice: Tensor
    """Float64 (N, 3, 3): vectors of the conventional cell as rows, A."""
    charge: Tensor | None = None
    """Long (N, S): oxidation state of the element on each occupied position."""

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> CrystalBatch:
        """Read texts as this class writes them.

        Raises:
            ValueError: A text cannot be read; the message names it and what is wrong.
        """
        if isinstance(texts, CrystalBatch):
            return texts
        parsed = [_read(text) for text in texts]
        width = max((len(orbits) for _, _, orbits, _ in parsed), default=1)
        numbers = torch.tensor([group for _, group, _, _ in parsed], dtype=torch.long)
        element, position = torch.zeros(2, len(parsed), width, dtype=torch.long)
        free = torch.zeros(len(parsed), width, 3, dtype=torch.float64)
        for row, (_, _, orbits, _) in enumerate(parsed):
            for column, (z, index, parameters) in enumerate(orbits):
                element[row, column], position[row, column] = z, index
                free[row, column] = torch.tensor(parameters, dtype=torch.float64)
        parameters_of_cells = torch.tensor([cell for *_, cell in parsed], dtype=torch.float64).reshape(-1, 6)
        compositions = CompositionBatch.from_formulas(formula for formula, *_ in parsed)
        return cls(compositions, numbers, element, position, free, lattice_vectors(parameters_of_cells))

    @cached_property
    def multiplicity(self) -> Tensor:
        """Atoms of each occupied position in the primitive cell, long (N, S), 0 where padded."""
        return torch.where(self.element > 0, position_tables().primitive_multiplicity[self.flat_position], 0)

    @cached_property
    def flat_position(self) -> Tensor:
        """Number of each occupied position among those of all space groups, long (N, S); see `position_tables`."""
        return position_tables().first[self.space_group - 1][:, None] + self.position

    @property
    def n_atoms(self) -> Tensor:
        """Atoms in the primitive cell, long (N,)."""
        return self.multiplicity.sum(1)

    def structures(self, primitive: bool = True) -> list[Structure]:
        """Return pymatgen structures, with oxidation states where they are known."""
        from pymatgen.core import Lattice, Species, Structure

        result = []
        for row, number in enumerate(self.space_group.tolist()):
            group = space_group(number)
            species, points = [], []
            for column, z in enumerate(self.element[row].tolist()):
                if not z:
                    continue
                orbit = group.positions[int(self.position[row, column])].orbit(self.free[row, column], primitive)
                symbol = SYMBOLS[z - 1]
                named = symbol if self.charge is None else Species(symbol, int(self.charge[row, column]))
                species += [named] * len(orbit)
                points.append(orbit)
            cell = group.primitive_basis @ self.lattice[row] if primitive else self.lattice[row]
            coordinates = torch.cat(points).numpy() % 1.0
            result.append(Structure(Lattice(cell.numpy()), species, coordinates))
        return result

    def rows(self, index: Tensor) -> CrystalBatch:
        """Return the crystals that a long or boolean index selects."""
        return CrystalBatch(
            self.compositions.rows(index),
            self.space_group[index],
            self.element[index],
            self.position[index],
            self.free[index],
            self.lattice[index],
            None if self.charge is None else self.charge[index],
        )

    def __len__(self) -> int:
        return len(self.space_group)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> CrystalBatch: ...
    def __getitem__(self, index: int | slice) -> str | CrystalBatch:
        if isinstance(index, slice):
            return self.rows(torch.tensor(range(len(self))[index], dtype=torch.long))
        return self.texts[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    @cached_property
    def texts(self) -> list[str]:
        """The text of each crystal."""
        lengths = self.lattice.norm(dim=2)
        pairs = ((1, 2), (0, 2), (0, 1))
        cosines = torch.stack([(self.lattice[:, i] * self.lattice[:, j]).sum(1) for i, j in pairs], dim=1)
        cosines /= torch.stack([lengths[:, i] * lengths[:, j] for i, j in pairs], dim=1)
        angles = torch.rad2deg(torch.arccos(cosines.clamp(-1, 1)))
        cells = torch.cat([lengths, angles], dim=1).tolist()
        result = []
        for row, number in enumerate(self.space_group.tolist()):
            positions = space_group(number).positions
            parts = [self.compositions[row], str(number)]
            for z, index, free in zip(
                self.element[row].tolist(), self.position[row].tolist(), self.free[row].tolist(), strict=True
            ):
                if z:
                    position = positions[index]
                    values = [_number(v) for v, is_free in zip(free, position.free_axes, strict=True) if is_free]
                    parts.append(" ".join([SYMBOLS[z - 1], position.letter, *values]))
            result.append(" | ".join([*parts, " ".join(map(_number, cells[row]))]))
        return result


def lattice_vectors(parameters: Tensor) -> Tensor:
    """Return the vectors of cells, a along x and b in the xy plane, float64 (..., 3, 3), rows.

    Args:
        parameters: Float64 (..., 6): a, b, c and alpha, beta, gamma in degrees.
    """
    lengths, cosines = parameters[..., :3], torch.cos(torch.deg2rad(parameters[..., 3:]))
    cosines = torch.where(cosines.abs() < 1e-12, 0.0, cosines)
    alpha, beta, gamma = cosines.unbind(-1)
    sine = (1 - gamma**2).sqrt()
    across = (alpha - beta * gamma) / sine
    height = (1 - beta**2 - across**2).clamp_min(0).sqrt()
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    rows = [[one, zero, zero], [gamma, sine, zero], [beta, across, height]]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2) * lengths[..., None]


@dataclass(frozen=True, eq=False)
class PositionTables:
    """The Wyckoff positions of all 230 space groups in one row, P = 1,731."""

    first: Tensor
    """Long (230,): where the positions of each group begin."""
    count: Tensor
    """Long (230,): positions of each group."""
    primitive_multiplicity: Tensor
    """Long (P,)."""
    degrees_of_freedom: Tensor
    """Long (P,)."""
    free_axes: Tensor
    """Bool (P, 3)."""
    maps: Tensor
    """Float64 (P, 48, 3, 4): points of the primitive cell, in its basis, as rotation and translation of (x, y, z);
    beyond the multiplicity the first is repeated."""
    primitive_basis: Tensor
    """Float64 (230, 3, 3)."""


@lru_cache(maxsize=1)
def position_tables() -> PositionTables:
    """Return the positions of all space groups as tensors."""
    groups = all_space_groups()
    positions = [position for group in groups for position in group.positions]
    count = torch.tensor([len(group.positions) for group in groups])
    multiplicity = torch.tensor([position.primitive_multiplicity for position in positions])
    maps = torch.empty(len(positions), int(multiplicity.max()), 3, 4, dtype=torch.float64)
    for row, position in enumerate(positions):
        # primitive = (R x + t) B, coordinates as rows
        inside = position.maps[: position.primitive_multiplicity]
        maps[row] = torch.einsum("mij,ik->mkj", inside[:1], position.to_primitive)
        maps[row, : len(inside)] = torch.einsum("mij,ik->mkj", inside, position.to_primitive)
    return PositionTables(
        count.cumsum(0) - count,
        count,
        multiplicity,
        torch.tensor([position.degrees_of_freedom for position in positions]),
        torch.tensor([position.free_axes for position in positions]),
        maps,
        torch.stack([group.primitive_basis for group in groups]),
    )


def _is_cell_of(crystal_system: str, cell: Sequence[float]) -> bool:
    """Whether a, b, c, alpha, beta, gamma have the values that a crystal system fixes, to what a text can tell."""
    a, b, c, *angles = cell
    fixed = {
        "triclinic": (None, None, None),
        "monoclinic": (90, None, 90),
        "trigonal": (90, 90, 120),
        "hexagonal": (90, 90, 120),
    }.get(crystal_system, (90, 90, 90))
    alike = {"tetragonal": (a, b), "trigonal": (a, b), "hexagonal": (a, b), "cubic": (a, b, c)}
    lengths = alike.get(crystal_system, (a,))
    right = all(value is None or abs(value - angle) < 0.01 for value, angle in zip(fixed, angles, strict=True))
    return right and max(lengths) - min(lengths) < 1e-3 * max(lengths)


def _number(value: float) -> str:
    return f"{value:.5f}".rstrip("0").rstrip(".")


def _read(text: str) -> tuple[str, int, list[tuple[int, int, list[float]]], list[float]]:
    def fail(what: str) -> ValueError:
        return ValueError(f"crystal {text!r}: {what} (expected a text such as {TEXT_EXAMPLE!r})")

    parts = [part.strip() for part in text.split("|")] if isinstance(text, str) else []
    if len(parts) < 4:
        raise fail("fewer than four parts")
    if not parts[1].isdecimal() or not 1 <= int(parts[1]) <= N_SPACE_GROUPS:
        raise fail(f"space group {parts[1]!r} is not a number from 1 to {N_SPACE_GROUPS}")
    group = space_group(int(parts[1]))
    orbits, amounts = [], dict[str, int]()
    for part in parts[2:-1]:
        symbol, letter, *numbers = [*part.split(), "", ""][: max(2, len(part.split()))]
        if symbol not in ATOMIC_NUMBERS:
            raise fail(f"{symbol!r} is not a chemical element")
        if len(letter) != 1 or letter not in group.letters:
            raise fail(f"{letter!r} is not a position of {group.symbol}, which has {group.letters}")
        index = group.letters.index(letter)
        position = group.positions[index]
        if len(numbers) != position.degrees_of_freedom or not all(map(_NUMBER.fullmatch, numbers)):
            raise fail(f"position {letter} needs {position.degrees_of_freedom} free parameters, not {numbers}")
        given = iter(numbers)
        orbits.append((ATOMIC_NUMBERS[symbol], index, [float(next(given)) if f else 0.0 for f in position.free_axes]))
        amounts[symbol] = amounts.get(symbol, 0) + position.primitive_multiplicity
    cell = parts[-1].split()
    if len(cell) != 6 or not all(map(_NUMBER.fullmatch, cell)) or not all(float(value) > 0 for value in cell):
        raise fail(f"{parts[-1]!r} is not six positive cell parameters")
    formula = reduced_formula("".join(f"{symbol}{n}" for symbol, n in amounts.items()))
    if reduced_formula(parts[0]) != formula:
        raise fail(f"the positions make {formula}, not {parts[0]}")
    values = [float(value) for value in cell]
    volume = float(lattice_vectors(torch.tensor(values, dtype=torch.float64)).det())
    if not math.isfinite(volume) or volume < 1e-3 * values[0] * values[1] * values[2]:
        raise fail(f"{parts[-1]!r} is no cell with a volume")
    if not _is_cell_of(group.crystal_system, values):
        raise fail(f"{parts[-1]!r} is no {group.crystal_system} cell")
    return formula, group.number, orbits, values
