"""From a structure to the actions of `CrystalSpace` that build the nearest crystal on its grids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from envs.chemistry import SYMBOLS, formula_order
from envs.crystal_batch import CrystalBatch, position_tables
from envs.crystal_blocks import ENTRY_STARTS
from envs.crystal_grid import N_COORDINATES, VOLUME_RATIOS, coordinate_bins, volumes_of_elements
from envs.crystal_standard import standardise
from envs.crystal_state import Stage
from envs.lattice_shapes import ENTRY_NAMES, FREE_ENTRIES, RATIOS, entry_values, nearest_bin
from envs.wyckoff import space_group

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from envs.crystal import CrystalSpace

_NEAR = 1.15  # factor by which the volume on the grid may differ from the crystal's own


def encode_crystals(space: CrystalSpace, materials: Iterable[str | Structure]) -> tuple[Tensor, list[str | None]]:
    """Return the actions of crystals, long (n, max_steps), and the rule by which each lies outside, or None."""
    crystals, reasons = _read(materials)
    actions = torch.full((len(reasons), space.max_steps), space.stop)
    rows = [row for row, reason in enumerate(reasons) if reason is None]
    formulas = list(crystals.compositions)
    compositions = space.composition.explain(formulas)
    known = [number for number, reason in enumerate(compositions) if reason is None]
    built = dict(zip(known, space.composition.encode([formulas[number] for number in known]).tolist(), strict=True))
    cells = _Cells(crystals)
    ratios: dict[int, float] = {}
    for number, row in enumerate(rows):
        # The cell comes first: compositions that fit no allowed group are outside for a reason of their own.
        reason = _outside_cell(space, cells, number) or compositions[number]
        if reason is None:
            try:
                sequence = _sequence(space, built[number], cells, number)
                actions[row, : len(sequence)] = torch.tensor(sequence)
                ratios[row] = cells.ratios[number]
            except _OutsideError as error:
                reason = str(error)
        reasons[row] = reason
    _walk(space, actions, ratios, reasons)
    return actions, reasons


def _read(materials: Iterable[str | Structure]) -> tuple[CrystalBatch, list[str | None]]:
    """Crystals in standard settings, and why others could not be read."""
    if isinstance(materials, CrystalBatch):
        return materials, [None] * len(materials)
    materials = list(materials)
    texts = [material for material in materials if isinstance(material, str)]
    if len(texts) == len(materials):
        return CrystalBatch.from_texts(texts), [None] * len(texts)
    if texts:
        raise ValueError("encode: texts and structures are mixed (expected one kind)")
    for material in materials:
        if not hasattr(material, "frac_coords"):
            raise ValueError(f"encode: {material!r} is neither a structure nor a text")
    found = standardise(materials)
    return found.crystals, list(found.reasons)


class _OutsideError(Exception):
    """A crystal lies outside the space; the text is the rule."""


class _Cells:
    """What encoding needs of N crystals, as plain numbers."""

    def __init__(self, crystals: CrystalBatch) -> None:
        tables, batch = position_tables(), crystals.compositions
        lengths = crystals.lattice.norm(dim=2)
        cosines = [
            (crystals.lattice[:, i] * crystals.lattice[:, j]).sum(1) / (lengths[:, i] * lengths[:, j])
            for i, j in ((1, 2), (0, 2), (0, 1))
        ]
        angles = torch.rad2deg(torch.arccos(torch.stack(cosines, dim=1).clamp(-1, 1)))
        cells = tables.primitive_basis[crystals.space_group - 1].det().abs() * crystals.lattice.det().abs()
        self.n_atoms = crystals.n_atoms
        units = (self.n_atoms / batch.amounts.sum(1)).round().long()
        self.units: list[int] = units.tolist()
        ratios = cells / (volumes_of_elements(batch.atomic_numbers, batch.amounts) * units)
        self.ratios: list[float] = ratios.tolist()
        self.shapes: list[list[float]] = torch.cat([lengths[:, 1:] / lengths[:, :1], angles], dim=1).tolist()
        self.groups: list[int] = crystals.space_group.tolist()
        self.elements: list[list[int]] = crystals.element.tolist()
        self.positions: list[list[int]] = crystals.position.tolist()
        self.bins: list[list[list[int]]] = coordinate_bins(crystals.free).tolist()
        self.axes: list[list[list[bool]]] = tables.free_axes[crystals.flat_position].tolist()


def _outside_cell(space: CrystalSpace, cells: _Cells, row: int) -> str | None:
    """The limit on cell, formula units or space group that a crystal breaks."""
    limits, number, n_atoms, units = space.limits, cells.groups[row], int(cells.n_atoms[row]), cells.units[row]
    if n_atoms > limits.max_atoms:
        return f"cell: {n_atoms} atoms in the primitive cell are more than {limits.max_atoms}"
    if units not in limits.units:
        return f"formula units: {units} in the primitive cell are not allowed"
    if number not in limits.groups:
        return f"space group: {number} ({space_group(number).symbol}) is not allowed"
    return None


def _sequence(space: CrystalSpace, composition: list[int], cells: _Cells, row: int) -> list[int]:
    """The actions of one crystal up to its volume, from those of its composition."""
    limits, kinds, number, units = space.limits, space.kinds, cells.groups[row], cells.units[row]
    orbits = sorted(
        (formula_order(SYMBOLS[z - 1]), position, column)
        for column, (z, position) in enumerate(zip(cells.elements[row], cells.positions[row], strict=True))
        if z
    )
    return [
        *composition[: composition.index(space.composition.stop) + 1],
        kinds[Stage.FORMULA_UNITS].start + limits.units.index(units),
        kinds[Stage.SPACE_GROUP].start + limits.groups.index(number),
        *(kinds[Stage.POSITION].start + position for _, position, _ in orbits),
        *(kinds[Stage.LATTICE].start + block for block in _lattice_blocks(cells.shapes[row], number)),
        *(
            kinds[Stage.COORDINATE].start + axis * N_COORDINATES + cells.bins[row][column][axis]
            for *_, column in orbits
            for axis in range(3)
            if cells.axes[row][column][axis]
        ),
    ]


def _lattice_blocks(shape: Sequence[float], number: int) -> Iterator[int]:
    """The bins of the entries that a group leaves free, counted over all entries."""
    step = float(RATIOS[1] / RATIOS[0])
    for entry, free in enumerate(FREE_ENTRIES[space_group(number).crystal_system]):
        if not free:
            continue
        centres = entry_values(entry)
        if entry < 2:
            low, high = float(centres[0]) / step, float(centres[-1]) * step
        else:
            low, high = float(2 * centres[0] - centres[1]), float(2 * centres[-1] - centres[-2])
        if not low <= shape[entry] <= high:
            raise _OutsideError(f"lattice: {ENTRY_NAMES[entry]} of {shape[entry]:.3g} is not in {low:.3g}-{high:.3g}")
        yield ENTRY_STARTS[entry] + nearest_bin(entry, shape[entry])


def _walk(space: CrystalSpace, actions: Tensor, ratios: dict[int, float], reasons: list[str | None]) -> None:
    """Check every action against the masks, and choose the allowed volume that is nearest."""
    rows = torch.tensor(list(ratios), dtype=torch.long)
    wanted = torch.tensor(list(ratios.values()), dtype=torch.float64)
    state = space.initial(len(rows))
    for step in range(space.max_steps):
        open_rows = (~space.is_finished(state)).nonzero().squeeze(1)
        if not len(open_rows):
            break
        here = state[open_rows]
        chosen = actions[rows[open_rows], step]
        at_volume = (here[:, space.columns.stage] == Stage.VOLUME).nonzero().squeeze(1)
        if len(at_volume):
            chosen[at_volume] = _nearest_volumes(space, here[at_volume], wanted[open_rows[at_volume]])
            actions[rows[open_rows[at_volume]], step] = chosen[at_volume]
        allowed = space.allowed(here, chosen)
        for number in open_rows[~allowed].tolist():
            stage = Stage(int(state[number, space.columns.stage]))
            detail = (
                f" (volume {float(wanted[number]):.2f} times that of the elements)" if stage == Stage.VOLUME else ""
            )
            reasons[int(rows[number])] = _REASONS[stage] + detail
        state[open_rows[allowed]] = space.step(here[allowed], chosen[allowed])
        state[open_rows[~allowed], space.columns.stage] = Stage.FINISHED
    for row, reason in enumerate(reasons):
        if reason is not None:
            actions[row] = space.stop


def _nearest_volumes(space: CrystalSpace, state: Tensor, wanted: Tensor) -> Tensor:
    """The action of the nearest allowed volume, -1 where none is near."""
    ratio = VOLUME_RATIOS.repeat(len(state), 1)
    ratio[:, -1] = space.geometry.stretched_ratio(state)
    allowed = space.mask_of(Stage.VOLUME, state)
    distance, nearest = torch.where(allowed, (ratio / wanted[:, None]).log().abs(), torch.inf).min(1)
    return torch.where(distance.exp() <= _NEAR, space.kinds[Stage.VOLUME].start + nearest, -1)


_REASONS = {
    Stage.FORMULA_UNITS: "positions: the space group cannot hold so many atoms",
    Stage.SPACE_GROUP: "positions: the space group cannot hold so many atoms",
    Stage.POSITION: "positions: one without free parameters is occupied twice",
    Stage.LATTICE: "lattice: the nearest angles on the grid make no cell",
    Stage.COORDINATE: "distance: atoms would be nearer than their limit at the nearest coordinates on the grid",
    Stage.VOLUME: "volume: no volume on the grid is near and keeps all atoms apart",
}
