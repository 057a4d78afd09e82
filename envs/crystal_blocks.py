"""The blocks that a crystal is built of: for each kind which actions are allowed, and what one does to a state."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from envs.chemistry import ATOMIC_NUMBERS, MAX_ATOMIC_NUMBER, oxidation_states
from envs.composition import CompositionSpace
from envs.crystal_batch import position_tables
from envs.crystal_grid import N_COORDINATES, VOLUME_RATIOS
from envs.crystal_limits import CrystalLimits
from envs.crystal_state import Stage
from envs.crystal_state_geometry import APART, StateGeometry, crystal_system
from envs.lattice_shapes import ENTRY_SIZES, FREE_ENTRIES, allowed_betas, allowed_gammas, reduce_lattices
from envs.oxidation import always_lowest
from envs.wyckoff import CRYSTAL_SYSTEMS
from envs.wyckoff_assignment import allowed_positions

ENTRY_STARTS = tuple(sum(ENTRY_SIZES[:entry]) for entry in range(6))
"""Where the bins of each lattice entry begin among the actions of a lattice."""
_TOUCHING = 1e-3  # clearance below which atoms coincide
_NEAR_BEST = 0.8  # share of the best clearance that will do where no value has room
_ENTRY_OF_ACTION = torch.repeat_interleave(torch.arange(5), torch.tensor(ENTRY_SIZES))
_STARTS = torch.tensor(ENTRY_STARTS)
_FREE_ENTRIES = torch.tensor([FREE_ENTRIES[name] for _, name in CRYSTAL_SYSTEMS])


class CrystalBlocks:
    """Masks and steps of `CrystalSpace`, by kind of action.

    Args:
        limits: Of the space.
        composition: The space of the compositions.
        geometry: Of the states.
    """

    def __init__(self, limits: CrystalLimits, composition: CompositionSpace, geometry: StateGeometry) -> None:
        self.limits, self.composition, self.geometry = limits, composition, geometry
        self.columns = geometry.columns
        self._units = torch.tensor(limits.units)
        self._groups = torch.tensor(limits.groups)
        self._states, self._state_exists = _state_table(composition)

    @cached_property
    def masks(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        """For each kind: state -> allowed actions, bool (n, size)."""
        return (
            lambda state: self.composition.mask(state[:, self.columns.composition]),
            self._units_mask,
            self._group_mask,
            self._position_mask,
            self._lattice_mask,
            self._coordinate_mask,
            self._volume_mask,
            lambda state: torch.ones(len(state), 1, dtype=torch.bool),
        )

    def _units_mask(self, state: Tensor) -> Tensor:
        counts = self.geometry.compositions(state).amounts.long()
        cells = counts[:, None] * self._units[:, None]  # (n, U, K)
        fits = cells.sum(2) <= self.limits.max_atoms
        rows, units = fits.nonzero(as_tuple=True)
        fits[rows, units] = self.limits.feasible.lookup(cells[rows, units])[:, self._groups - 1].any(1)
        return fits

    def _group_mask(self, state: Tensor) -> Tensor:
        return self.limits.feasible.lookup(state[:, self.columns.remaining])[:, self._groups - 1]

    def _position_mask(self, state: Tensor) -> Tensor:
        columns = self.columns
        return allowed_positions(
            state[:, columns.group],
            state[:, columns.remaining],
            state[:, columns.occupied],
            state[:, columns.last],
        )

    def _lattice_mask(self, state: Tensor) -> Tensor:
        entry, bins = state[:, self.columns.entry], state[:, self.columns.lattice]
        allowed = entry[:, None] == _ENTRY_OF_ACTION
        alpha, beta = bins[:, 2].clamp_min(0), bins[:, 3].clamp_min(0)
        triclinic = state[:, self.columns.group] <= 2
        for number, verdict in ((3, allowed_betas(alpha)), (4, allowed_gammas(alpha, beta))):
            judged = ((entry == number) & triclinic)[:, None]
            allowed[:, ENTRY_STARTS[number] : ENTRY_STARTS[number + 1]] &= verdict | ~judged
        return allowed

    def _coordinate_mask(self, state: Tensor) -> Tensor:
        """Prefer values that keep atoms apart at the largest regular volume, else those that come near the best."""
        clearance = self.geometry.clearance(state)
        best = clearance.amax(1, keepdim=True)
        room = clearance >= torch.where(best >= 1, 1.0, best * _NEAR_BEST).clamp_min(_TOUCHING)
        allowed = torch.zeros(len(state), 3, N_COORDINATES, dtype=torch.bool)
        allowed[torch.arange(len(state)), state[:, self.columns.axis]] = room
        return allowed.flatten(1)

    def _volume_mask(self, state: Tensor) -> Tensor:
        allowed = self.geometry.least_ratio(state)[:, None] * APART <= VOLUME_RATIOS
        allowed[:, -1] = True
        return allowed

    @cached_property
    def steps(self) -> tuple[Callable[[Tensor, Tensor], None], ...]:
        """For each kind: (state, chosen) -> None, changing the state; chosen counts from the first of the kind."""
        return (
            self._step_composition,
            self._step_units,
            self._step_group,
            self._step_position,
            self._step_lattice,
            self._step_coordinate,
            self._step_volume,
            self._step_stop,
        )

    def _step_composition(self, state: Tensor, chosen: Tensor) -> None:
        state[:, self.columns.composition] = self.composition.step(state[:, self.columns.composition], chosen)
        state[chosen == self.composition.stop, self.columns.stage] = Stage.FORMULA_UNITS

    def _step_units(self, state: Tensor, chosen: Tensor) -> None:
        columns, batch = self.columns, self.geometry.compositions(state)
        units, counts = self._units[chosen], batch.amounts.long()
        state[:, columns.units] = units
        state[:, columns.remaining] = counts * units[:, None]
        states, exists = self._states[batch.atomic_numbers], self._state_exists[batch.atomic_numbers]
        anion = always_lowest(counts, states, exists) & (states.amin(2) < 0)
        state[:, columns.closed_shell] = (anion.long() << torch.arange(columns.n_elements)).sum(1)
        state[:, columns.stage] = Stage.SPACE_GROUP

    def _step_group(self, state: Tensor, chosen: Tensor) -> None:
        state[:, self.columns.group] = self._groups[chosen]
        state[:, self.columns.stage] = Stage.POSITION

    def _step_position(self, state: Tensor, chosen: Tensor) -> None:
        columns, tables, number = self.columns, position_tables(), torch.arange(len(state))
        flat = tables.first[state[:, columns.group] - 1] + chosen
        placed, element = state[:, columns.placed].clone(), state[:, columns.element].clone()
        state[number, columns.flat.start + placed] = flat + 1
        state[number, columns.slot.start + placed] = element
        fixed = tables.degrees_of_freedom[flat] == 0
        state[:, columns.occupied] |= torch.where(fixed, 1 << chosen, 0)
        state[number, columns.remaining.start + element] -= tables.primitive_multiplicity[flat]
        state[:, columns.placed] += 1
        filled = state[number, columns.remaining.start + element] == 0
        state[:, columns.last] = torch.where(filled, 0, chosen)
        state[:, columns.element] += filled.long()
        done = (state[:, columns.remaining] == 0).all(1)
        rows = done.nonzero().squeeze(1)
        if len(rows):
            part = state.index_select(0, rows)
            part[:, columns.entry] = -1
            self._next_entry(part)
            state.index_copy_(0, rows, part)

    def _step_lattice(self, state: Tensor, chosen: Tensor) -> None:
        entry = state[:, self.columns.entry]
        bins = chosen - _STARTS[entry]
        state[torch.arange(len(state)), self.columns.lattice.start + entry] = bins
        self._next_entry(state)

    def _next_entry(self, state: Tensor) -> None:
        """Move on to the next lattice entry that the crystal system leaves free, or to the coordinates."""
        columns = self.columns
        free = _FREE_ENTRIES[crystal_system(state[:, columns.group])]  # (n, 5)
        later = free & (torch.arange(5) > state[:, columns.entry, None])
        state[:, columns.entry] = torch.where(later.any(1), later.int().argmax(1), 5)
        state[:, columns.stage] = torch.where(later.any(1), int(Stage.LATTICE), int(Stage.COORDINATE))
        rows = (~later.any(1)).nonzero().squeeze(1)
        if len(rows):
            part = state.index_select(0, rows)
            _, transform = reduce_lattices(self.geometry.primitive_lattice(part))
            part[:, columns.transform] = transform.flatten(1)
            self._next_coordinate(part)
            state.index_copy_(0, rows, part)

    def _step_coordinate(self, state: Tensor, chosen: Tensor) -> None:
        columns = self.columns
        place = columns.free.start + 3 * state[:, columns.orbit] + state[:, columns.axis]
        state[torch.arange(len(state)), place] = chosen % N_COORDINATES
        self._next_coordinate(state)

    def _next_coordinate(self, state: Tensor) -> None:
        """Move on to the next free coordinate, or to the volume."""
        columns = self.columns
        flat = self.geometry.flat_position(state)
        needed = position_tables().free_axes[flat.clamp_min(0)] & (flat >= 0)[..., None]
        open_ = needed.flatten(1) & (state[:, columns.free] < 0)
        first = open_.int().argmax(1)
        state[:, columns.orbit], state[:, columns.axis] = first // 3, first % 3
        state[:, columns.stage] = torch.where(open_.any(1), int(Stage.COORDINATE), int(Stage.VOLUME))

    def _step_volume(self, state: Tensor, chosen: Tensor) -> None:
        state[:, self.columns.volume] = chosen + 1
        state[:, self.columns.stage] = Stage.STOP

    def _step_stop(self, state: Tensor, chosen: Tensor) -> None:
        state[:, self.columns.stage] = Stage.FINISHED


def _state_table(composition: CompositionSpace) -> tuple[Tensor, Tensor]:
    """Oxidation states by atomic number, long (104, R), and which of them are real; none without charge rules."""
    limits = composition.limits
    states = oxidation_states(limits.oxidation_states, limits.icsd24_filter) if limits.charge_neutral else {}
    width = max(map(len, states.values()), default=1)
    table = torch.zeros(MAX_ATOMIC_NUMBER + 1, width, dtype=torch.long)
    exists = torch.zeros_like(table, dtype=torch.bool)
    for symbol, values in states.items():
        table[ATOMIC_NUMBERS[symbol], : len(values)] = torch.tensor(values)
        exists[ATOMIC_NUMBERS[symbol], : len(values)] = True
    return table, exists
