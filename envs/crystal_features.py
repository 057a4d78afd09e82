"""What a policy sees of a crystal under construction, once its composition is settled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

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
_STAGES = ("formula units", "space group", "position", "lattice", "coordinate", "volume")
_MOST_CLEARANCE = 3.0
_LEAST_VOLUME = (-2.5, 3.0)  # logarithm of the ratio


class CrystalFeatures:
    """States -> features, float (n, F).

    Args:
        elements: The elements of the space, in order.
        columns: Where things stand in a state.
        geometry: Of the states.
    """

    def __init__(self, elements: Sequence[str], columns: CrystalColumns, geometry: StateGeometry) -> None:
        self.elements, self.columns, self.geometry = tuple(elements), columns, geometry
        self._index = torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.long)  # 0: none
        for index, symbol in enumerate(self.elements):
            self._index[ATOMIC_NUMBERS[symbol]] = index + 1

    @cached_property
    def names(self) -> tuple[str, ...]:
        """One name a feature."""
        return (
            *(f"choosing {stage}" for stage in _STAGES),
            *(f"share of {symbol}" for symbol in self.elements),
            *(f"contains {symbol}" for symbol in self.elements),
            *(f"current {symbol}" for symbol in self.elements),
            *(f">= {n} atoms in the cell" for n in range(1, _ATOMS + 1)),
            *(f">= {n} formula units" for n in range(1, 9)),
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

    def __call__(self, kind: int, state: Tensor) -> Tensor:
        """Return the features of states that all choose an action of one kind."""
        columns, tables, n = self.columns, position_tables(), len(state)
        batch = self.geometry.compositions(state)
        index = self._index[batch.atomic_numbers]  # (n, K)
        shares = torch.zeros(n, len(self.elements) + 1).scatter_(1, index, batch.fractions)[:, 1:]
        stage = _one_hot(torch.full((n,), kind - 1), len(_STAGES))
        units, group = state[:, columns.units], state[:, columns.group]
        atoms = (batch.amounts.sum(1) * units)[:, None] >= torch.arange(1, _ATOMS + 1)
        chosen = group > 0
        groups = _one_hot(group - 1, N_SPACE_GROUPS)
        systems = _one_hot(torch.where(chosen, crystal_system(group), -1), len(CRYSTAL_SYSTEMS))
        centring = _one_hot(torch.where(chosen, _centring_of_group()[(group - 1).clamp_min(0)], -1), len(_CENTRINGS))
        orbits = self._orbits(kind, state)
        current = torch.where(orbits.slot >= 0, index.gather(1, orbits.slot.clamp_min(0)[:, None]).squeeze(1) - 1, -1)
        remaining = state[:, columns.remaining].gather(1, orbits.slot.clamp_min(0)[:, None])
        left = (remaining >= torch.arange(1, _ATOMS + 1)) & (kind == Stage.POSITION)
        letters = [self._letters(state, orbits.slot)] if kind >= Stage.POSITION else [torch.zeros(n, 4 * len(LETTERS))]
        return torch.cat(
            [
                stage,
                shares,
                (shares > 0).float(),
                _one_hot(current, len(self.elements)),
                atoms.float(),
                (units[:, None] >= torch.arange(1, 9)).float(),
                groups,
                systems,
                centring,
                left.float(),
                *letters,
                _one_hot(orbits.letter, len(LETTERS)),
                self._lattice(kind, state),
                self._coordinate(kind, state, tables.free_axes),
                self._volume(kind, state),
            ],
            dim=1,
        )

    def _orbits(self, kind: int, state: Tensor) -> _Current:
        """The element and position that are being worked on, -1 where there is none."""
        columns, none = self.columns, torch.full((len(state),), -1)
        if kind == Stage.POSITION:
            last = state[:, columns.last]
            placed = state[:, columns.placed]
            before = state[:, columns.slot].gather(1, (placed - 1).clamp_min(0)[:, None]).squeeze(1)
            begun = (placed > 0) & (before == state[:, columns.element])
            return _Current(state[:, columns.element], torch.where(begun, last, -1))
        if kind == Stage.COORDINATE:
            orbit = state[:, columns.orbit, None]
            flat = self.geometry.flat_position(state).gather(1, orbit).squeeze(1)
            first = position_tables().first[state[:, columns.group] - 1]
            return _Current(state[:, columns.slot].gather(1, orbit).squeeze(1), flat - first)
        return _Current(none, none)

    def _letters(self, state: Tensor, slot: Tensor) -> Tensor:
        """Of each position of the group: multiplicity, freedom, occupants, atoms of the current element on it."""
        columns, tables, n = self.columns, position_tables(), len(state)
        group = state[:, columns.group] - 1
        first, count = tables.first[group, None], tables.count[group, None]
        letter = torch.arange(len(LETTERS))
        exists = letter < count
        flat = torch.where(exists, first + letter, 0)
        multiplicity = torch.where(exists, tables.primitive_multiplicity[flat], 0).float()
        freedom = torch.where(exists, tables.degrees_of_freedom[flat], 0) / 3
        occupied = self.geometry.flat_position(state)
        place = torch.where(occupied >= 0, occupied - first, len(LETTERS))
        total = torch.zeros(n, len(LETTERS) + 1)
        occupants = total.clone().scatter_add_(1, place, torch.ones(place.shape))
        own = (state[:, columns.slot] == slot[:, None]).float()
        of_element = total.scatter_add_(1, place, own)
        return torch.cat([(multiplicity / 4).clamp_max(6), freedom, occupants[:, :-1], of_element[:, :-1]], dim=1)

    def _lattice(self, kind: int, state: Tensor) -> Tensor:
        bins = state[:, self.columns.lattice]
        entry = torch.where(torch.tensor(kind == Stage.LATTICE), state[:, self.columns.entry], -1)
        values = torch.where(bins >= 0, (bins + 0.5) / torch.tensor(ENTRY_SIZES), 0.0)
        return torch.cat([_one_hot(entry, 5), values, (bins >= 0).float()], dim=1)

    def _coordinate(self, kind: int, state: Tensor, free_axes: Tensor) -> Tensor:
        columns, n = self.columns, len(state)
        if kind != Stage.COORDINATE:
            return torch.zeros(n, 3 + 6 + N_COORDINATES + 2)
        orbit = state[:, columns.orbit]
        bins = self.geometry.free_bins(state)[torch.arange(n), orbit]
        angle = 2 * torch.pi * (bins + 0.5) / N_COORDINATES
        waves = torch.where((bins >= 0)[..., None], torch.stack([angle.sin(), angle.cos()], dim=2), 0.0)
        clearance = self.geometry.clearance(state)
        to_come = (state[:, columns.placed] - orbit) / columns.n_orbits
        return torch.cat(
            [
                _one_hot(state[:, columns.axis], 3),
                waves.flatten(1),
                clearance.clamp_max(_MOST_CLEARANCE),
                to_come[:, None],
                (clearance < 1).all(1).float()[:, None],
            ],
            dim=1,
        )

    def _volume(self, kind: int, state: Tensor) -> Tensor:
        if kind != Stage.VOLUME:
            return torch.zeros(len(state), N_VOLUMES + 1)
        least = self.geometry.least_ratio(state)
        allowed = least[:, None] * APART <= VOLUME_RATIOS
        allowed[:, -1] = True
        return torch.cat([allowed.float(), least.log().clamp(*_LEAST_VOLUME).float()[:, None]], dim=1)


class _Current:
    """Element slot and position index, long (n,) each, -1 where there is none."""

    def __init__(self, slot: Tensor, letter: Tensor) -> None:
        self.slot, self.letter = slot, letter


def _one_hot(index: Tensor, size: int) -> Tensor:
    """Float (n, size); a row of zeros where the index is negative."""
    return torch.zeros(len(index), size + 1).scatter_(1, torch.where(index < 0, size, index)[:, None], 1.0)[:, :size]


def _centring_of_group() -> Tensor:
    return torch.tensor([_CENTRINGS.index(group.centring) for group in all_space_groups()])
