"""What a policy sees of a crystal under construction, once its composition is settled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from itertools import accumulate

import torch
from torch import Tensor

from envs.chemistry import ATOMIC_NUMBERS, MAX_ATOMIC_NUMBER
from envs.crystal_batch import position_tables
from envs.crystal_grid import N_COORDINATES, N_VOLUMES, VOLUME_RATIOS
from envs.crystal_limits import MOST_ATOMS
from envs.crystal_state import CrystalColumns, Stage
from envs.crystal_state_geometry import APART, StateGeometry, crystal_system
from envs.lattice_shapes import ENTRY_NAMES, ENTRY_SIZES
from envs.wyckoff import CRYSTAL_SYSTEMS, N_SPACE_GROUPS, all_space_groups

LETTERS = "abcdefghijklmnopqrstuvwxyzA"
"""Letters of Wyckoff positions in order."""
_CENTRINGS = "PACIFR"
_ATOMS = 20
_UNITS = 8
_STAGES = ("formula units", "space group", "position", "lattice", "coordinate", "volume")
_MOST_CLEARANCE = 3.0
_LEAST_VOLUME = (-2.5, 3.0)  # logarithm of the ratio
_ENTRY_SIZES = torch.tensor(ENTRY_SIZES)


class CrystalFeatures:
    """States -> features, float (n, F).

    Args:
        elements: The elements of the space, in order.
        columns: Where things stand in a state.
        geometry: Of the states.
    """

    def __init__(self, elements: Sequence[str], columns: CrystalColumns, geometry: StateGeometry) -> None:
        self.elements, self.columns, self.geometry = tuple(elements), columns, geometry
        self._index = torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.long)
        for index, symbol in enumerate(self.elements):
            self._index[ATOMIC_NUMBERS[symbol]] = index

    @cached_property
    def names(self) -> tuple[str, ...]:
        """One name a feature."""
        return (
            *(f"choosing {stage}" for stage in _STAGES),
            *(f"share of {symbol}" for symbol in self.elements),
            *(f"contains {symbol}" for symbol in self.elements),
            *(f"current {symbol}" for symbol in self.elements),
            *(f">= {n} atoms in the cell" for n in range(1, _ATOMS + 1)),
            *(f">= {n} formula units" for n in range(1, _UNITS + 1)),
            *(f"in space group {number}" for number in range(1, N_SPACE_GROUPS + 1)),
            *(f"is {name}" for _, name in CRYSTAL_SYSTEMS),
            *(f"lattice {letter}" for letter in _CENTRINGS),
            *(f">= {n} atoms of the element left" for n in range(1, _ATOMS + 1)),
            *(
                f"{what} of position {x}"
                for what in ("multiplicity", "freedom", "occupants", "own atoms")
                for x in LETTERS
            ),
            *(f"current position {letter}" for letter in LETTERS),
            *(f"choosing {name}" for name in ENTRY_NAMES),
            *(f"value of {name}" for name in ENTRY_NAMES),
            *(f"{name} chosen" for name in ENTRY_NAMES),
            *(f"choosing {axis}" for axis in "xyz"),
            *(f"{what} of {axis}" for axis in "xyz" for what in ("sine", "cosine")),
            *(f"room at {k}/24" for k in range(N_COORDINATES)),
            "positions to come",
            "no room",
            *(f"volume {ratio:.3f} allowed" for ratio in VOLUME_RATIOS.tolist()),
            "least volume",
        )

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each feature."""
        low = torch.tensor([-1.0 if n.startswith(("sine", "cosine")) else 0.0 for n in self.names])
        high = torch.tensor(
            [
                _MOST_CLEARANCE
                if n.startswith("room at")
                else float(MOST_ATOMS)
                if n.startswith(("occup", "own", "mult"))
                else 1.0
                for n in self.names
            ]
        )
        low[-1], high[-1] = _LEAST_VOLUME  # the last feature
        return low, high

    @cached_property
    def _starts(self) -> dict[str, int]:
        """Where each group of features begins."""
        sizes = {
            "stage": len(_STAGES),
            "share": len(self.elements),
            "contains": len(self.elements),
            "current": len(self.elements),
            "atoms": _ATOMS,
            "units": _UNITS,
            "group": N_SPACE_GROUPS,
            "system": len(CRYSTAL_SYSTEMS),
            "centring": len(_CENTRINGS),
            "left": _ATOMS,
            "positions": 2 * len(LETTERS),
            "occupants": len(LETTERS),
            "own": len(LETTERS),
            "letter": len(LETTERS),
            "entry": len(ENTRY_NAMES),
            "values": len(ENTRY_NAMES),
            "chosen": len(ENTRY_NAMES),
            "axis": 3,
            "waves": 6,
            "room": N_COORDINATES,
            "to come": 1,
            "no room": 1,
            "volume": N_VOLUMES,
            "least": 1,
        }
        return dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))

    def __call__(self, kind: int, state: Tensor) -> Tensor:
        """Return the features of states that all choose an action of one kind."""
        at, features, marks = self._starts, torch.zeros(len(state), len(self.names)), _Marks()
        if kind <= Stage.VOLUME:
            features[:, kind - 1] = 1.0
        element = self._composition(kind, state, features, marks)
        if kind > Stage.SPACE_GROUP:
            slot = self._positions(kind, state, features, marks)
            if slot is not None:
                marks.add(at["current"] + element.gather(1, slot[:, None]))
        if kind >= Stage.LATTICE:
            bins = state[:, self.columns.lattice]
            features[:, at["values"] : at["chosen"]] = ((bins + 0.5) / _ENTRY_SIZES).clamp_min_(0)
            features[:, at["chosen"] : at["axis"]] = bins >= 0
        if kind == Stage.LATTICE:
            marks.add(at["entry"] + state[:, self.columns.entry, None])
        if kind == Stage.COORDINATE:
            self._coordinate(state, features, marks)
        if kind == Stage.VOLUME:
            least = self.geometry.least_ratio(state)
            features[:, at["volume"] : at["least"]] = least[:, None] * APART <= VOLUME_RATIOS
            features[:, at["least"] - 1] = 1.0  # the last volume
            features[:, at["least"]] = least.log().clamp_(*_LEAST_VOLUME)
        return marks.write(features)

    def _composition(self, kind: int, state: Tensor, features: Tensor, marks: _Marks) -> Tensor:
        """Write what there is to say about the composition; return the number of each element, long (n, K)."""
        at, batch, units = self._starts, self.geometry.compositions(state), state[:, self.columns.units]
        element = self._index[batch.atomic_numbers]
        marks.add(at["share"] + element, batch.fractions)
        marks.add(at["contains"] + element, (batch.amounts > 0).float())
        if kind > Stage.FORMULA_UNITS:
            features[:, at["atoms"] : at["units"]] = _up_to(_ATOMS)[(batch.amounts.sum(1) * units).long()]
            features[:, at["units"] : at["group"]] = _up_to(_UNITS)[units]
        return element

    def _positions(self, kind: int, state: Tensor, features: Tensor, marks: _Marks) -> Tensor | None:
        """Write what there is to say about the space group and its positions.

        Returns:
            The slot of the element that is being worked on, long (n,), if there is one.
        """
        columns, at, tables = self.columns, self._starts, position_tables()
        group = state[:, columns.group] - 1
        first = tables.first[group, None]
        features[:, at["positions"] : at["occupants"]] = _positions_of_groups()[group]
        marks.add(_system_and_centring()[group] + torch.tensor([at["system"], at["centring"]]))
        marks.add(at["group"] + group[:, None])
        flat, slots = self.geometry.flat_position(state), state[:, columns.slot]
        exists = flat >= 0
        place = torch.where(exists, flat - first, 0)
        marks.add(at["occupants"] + place, exists.float())
        if kind == Stage.POSITION:
            slot, placed = state[:, columns.element], state[:, columns.placed]
            before = slots.gather(1, (placed - 1).clamp_min(0)[:, None])
            begun = (placed[:, None] > 0) & (before == slot[:, None])
            marks.add(at["letter"] + state[:, columns.last, None], begun.float())
            left = state[:, columns.remaining].gather(1, slot[:, None]).squeeze(1)
            features[:, at["left"] : at["positions"]] = _up_to(_ATOMS)[left]
        elif kind == Stage.COORDINATE:
            orbit = state[:, columns.orbit, None]
            slot = slots.gather(1, orbit).squeeze(1)
            marks.add(at["letter"] + place.gather(1, orbit))
        else:
            return None
        marks.add(at["own"] + place, (exists & (slots == slot[:, None])).float())
        return slot

    def _coordinate(self, state: Tensor, features: Tensor, marks: _Marks) -> None:
        columns, at = self.columns, self._starts
        orbit = state[:, columns.orbit]
        bins = self.geometry.free_bins(state)[torch.arange(len(state)), orbit]
        marks.add(at["axis"] + state[:, columns.axis, None])
        features[:, at["waves"] : at["room"]] = _waves()[bins].flatten(1)
        clearance = self.geometry.clearance(state)
        features[:, at["room"] : at["to come"]] = clearance.clamp_max(_MOST_CLEARANCE)
        features[:, at["to come"]] = (state[:, columns.placed] - orbit) / columns.n_orbits
        features[:, at["no room"]] = clearance.amax(1) < 1


class _Marks:
    """Numbers that stand at few columns of a row each; several at one column add up."""

    def __init__(self) -> None:
        self._columns: list[Tensor] = []
        self._values: list[Tensor] = []

    def add(self, columns: Tensor, values: Tensor | None = None) -> None:
        """Note values, float (n, q), at columns, long (n, q); 1 unless given."""
        self._columns.append(columns)
        self._values.append(torch.ones(columns.shape) if values is None else values)

    def write(self, features: Tensor) -> Tensor:
        """Add everything to the features, and return them."""
        return features.scatter_add_(1, torch.cat(self._columns, dim=1), torch.cat(self._values, dim=1))


@cache
def _up_to(most: int) -> Tensor:
    """Row k holds a 1 for each number from 1 to k, float (MOST_ATOMS + 1, most)."""
    return (torch.arange(MOST_ATOMS + 1)[:, None] >= torch.arange(1, most + 1)).float()


@cache
def _waves() -> Tensor:
    """Sine and cosine of each bin of a coordinate, float (N_COORDINATES + 1, 2); the last row, of bin -1, is 0."""
    angle = 2 * torch.pi * (torch.arange(N_COORDINATES) + 0.5) / N_COORDINATES
    return torch.nn.functional.pad(torch.stack([angle.sin(), angle.cos()], dim=1), (0, 0, 0, 1))


@cache
def _positions_of_groups() -> Tensor:
    """Of each position of a group, multiplicity and then freedom, float (230, 2 x 27); 0 where there is none."""
    tables, letter = position_tables(), torch.arange(len(LETTERS))
    exists = letter < tables.count[:, None]
    flat = torch.where(exists, tables.first[:, None] + letter, 0)
    multiplicity = torch.where(exists, tables.primitive_multiplicity[flat], 0).float()
    freedom = torch.where(exists, tables.degrees_of_freedom[flat], 0) / 3
    return torch.cat([(multiplicity / 4).clamp_max(6), freedom], dim=1)


@cache
def _system_and_centring() -> Tensor:
    """Crystal system and centring of each space group, long (230, 2)."""
    centring = torch.tensor([_CENTRINGS.index(group.centring) for group in all_space_groups()])
    return torch.stack([crystal_system(torch.arange(1, N_SPACE_GROUPS + 1)), centring], dim=1)
