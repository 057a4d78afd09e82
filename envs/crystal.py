"""`CrystalSpace`: complete crystal structures, built one block at a time.

    space = CrystalSpace(CompositionSpace(required=["O"], max_elements=3), max_atoms=10)
    state = space.sample_uniform_policy(5, torch.Generator().manual_seed(0))
    space.decode(state)                        # five pymatgen structures, oxidation states on their sites
    space.encode([structure])                  # the actions that build the nearest crystal on the grid

The blocks come in this order: the composition; the number of formula units in the primitive cell; the space group;
for one element after the other its Wyckoff positions, in the order a, b, c, ...; the shape of the cell; the free
coordinates of each position, x, y, z; the volume. No choice can lead nowhere, and no crystal has atoms nearer than
their limit.

A sequence of actions describes one crystal. The same crystal may have several descriptions, by another origin or choice
of axes, or by an exchange of the coordinates of two like positions; compare crystals with a structure matcher.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from envs.chemistry import SYMBOLS, oxidation_states
from envs.composition import CompositionSpace
from envs.crystal_batch import CrystalBatch, position_tables
from envs.crystal_blocks import ENTRY_STARTS, CrystalBlocks
from envs.crystal_encoding import encode_crystals
from envs.crystal_features import LETTERS, CrystalFeatures
from envs.crystal_grid import N_COORDINATES, N_VOLUMES, VOLUME_RATIOS, axis_values, coordinates
from envs.crystal_limits import CrystalLimits
from envs.crystal_state import CrystalColumns, Stage
from envs.crystal_state_geometry import StateGeometry
from envs.design_space import ActionKind, DesignSpace
from envs.formula import parse_formula
from envs.lattice_shapes import ENTRY_NAMES, ENTRY_SIZES, entry_values
from envs.oxidation import assign_oxidation_states
from envs.wyckoff import N_SPACE_GROUPS

if TYPE_CHECKING:
    from pymatgen.core import Structure


class CrystalSpace(DesignSpace):
    """Complete crystals within limits.

    Args:
        composition: The compositions that may be built; None: `CompositionSpace()`. Those whose counts fit no allowed
            space group are left out of it.
        max_atoms: Most atoms in the primitive cell.
        formula_units: Numbers of formula units in the primitive cell that may be chosen; None: all that fit.
        space_groups: Numbers or symbols of the space groups that may be chosen; None: all 230.
        crystal_systems: Names of the crystal systems that may be chosen; None: all 7.
        min_distance: Least distance between atoms in units of the sum of their radii: anion radii for two closed-shell
            anions, covalent radii for other pairs; no two atoms are nearer than 0.7 A in any case.

    Raises:
        ValueError: A limit out of range, an unknown group, or limits that leave nothing; the message names them.
    """

    def __init__(
        self,
        composition: CompositionSpace | None = None,
        max_atoms: int = 20,
        formula_units: Sequence[int] | None = None,
        space_groups: Sequence[int | str] | None = None,
        crystal_systems: Sequence[str] | None = None,
        min_distance: float = 0.75,
    ) -> None:
        composition = composition or CompositionSpace()
        if not isinstance(composition, CompositionSpace):
            raise ValueError(f"composition: {composition!r} is not a CompositionSpace")
        self.limits = CrystalLimits(
            composition.limits, max_atoms, formula_units, space_groups, crystal_systems, min_distance
        )
        restricted = self.limits.restricted_composition()
        self.composition = composition if restricted == composition.limits else CompositionSpace.within(restricted)
        n_elements = restricted.max_elements
        self.columns = CrystalColumns(n_elements, max_atoms, self.composition.state_size)
        self.state_size = self.columns.size
        self._start = self.columns.start(self.composition.initial(1)[0])
        self.geometry = StateGeometry(self.columns, self.composition, min_distance)
        self._blocks = CrystalBlocks(self.limits, self.composition, self.geometry)
        self._features = CrystalFeatures(self.composition.elements, self.columns, self.geometry)
        self.max_steps = self.composition.max_steps + _most_structure_steps(self.limits)
        self._oxidation_states = (
            oxidation_states(restricted.oxidation_states, restricted.icsd24_filter) if restricted.charge_neutral else {}
        )
        self._assignments: dict[str, dict[str, int]] = {}

    # What defines the space

    @cached_property
    def kinds(self) -> tuple[ActionKind, ...]:
        """The kinds of actions, numbered as `Stage`; the composition is decided by features of its own."""
        sizes = (
            self.composition.n_actions,
            len(self.limits.units),
            len(self.limits.groups),
            len(LETTERS),
            sum(ENTRY_SIZES),
            3 * N_COORDINATES,
            N_VOLUMES,
            1,
        )
        starts = [sum(sizes[:kind]) for kind in range(len(sizes))]
        return tuple(
            ActionKind(Stage(kind).name.lower().replace("_", " "), start, size, int(kind > 0))
            for kind, (start, size) in enumerate(zip(starts, sizes, strict=True))
        )

    @cached_property
    def n_actions(self) -> int:  # type: ignore[override]
        """Number of actions; the last one is STOP."""
        return self.kinds[-1].start + 1

    @property
    def identity(self) -> dict[str, object]:
        """The settings of the constructor, as JSON-compatible values."""
        return self.limits.as_json()

    def __repr__(self) -> str:
        return f"CrystalSpace({len(self.composition.elements)} elements, {len(self.limits.groups)} space groups)"

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        """One name an action, such as "Ti2", "2 formula units", "space group 136", "position f"."""
        return (
            *self.composition.action_names[:-1],
            "composition done",
            *(f"{units} formula units" for units in self.limits.units),
            *(f"space group {number}" for number in self.limits.groups),
            *(f"position {letter}" for letter in LETTERS),
            *(f"{name} {v:.4g}" for e, name in enumerate(ENTRY_NAMES) for v in entry_values(e).tolist()),
            *(f"{axis} {v:.4f}" for k, axis in enumerate("xyz") for v in axis_values(torch.tensor(k)).tolist()),
            *(f"volume {ratio:.3f}" for ratio in VOLUME_RATIOS.tolist()),
            "STOP",
        )

    @cached_property
    def feature_sets(self) -> tuple[tuple[str, ...], ...]:
        """Features that decide the composition, and those that decide the structure."""
        return (self.composition.feature_names, self._features.names)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """All features, those of the composition first."""
        return tuple(name for names in self.feature_sets for name in names)

    def names_of_part(self, part: int) -> tuple[str, ...]:
        """Return the names of the actions that a feature set decides; those of a composition are its space's own."""
        if part == 0:
            return self.composition.action_names
        return self.action_names[self.kinds[1].start :]

    @property
    def feature_bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each feature."""
        low, high = self.composition.feature_bounds
        own_low, own_high = self._features.bounds
        return torch.cat([low, own_low]), torch.cat([high, own_high])

    # Functional environment

    def initial(self, n: int) -> Tensor:
        """Return n empty crystals, long (n, state_size)."""
        return self._start.repeat(n, 1)

    def is_finished(self, state: Tensor) -> Tensor:
        """Return which rows have stopped, bool (n,)."""
        return state[:, self.columns.stage] == Stage.FINISHED

    def kind(self, state: Tensor) -> Tensor:
        """Return the kind of the next action, long (n,)."""
        return state[:, self.columns.stage].clamp_max(Stage.STOP)

    def mask(self, state: Tensor) -> Tensor:
        """Return which actions keep a valid crystal reachable, bool (n, n_actions)."""
        mask = torch.zeros(len(state), self.n_actions, dtype=torch.bool)
        for number, rows in self._by_kind(state):
            kind = self.kinds[number]
            mask[rows, kind.start : kind.start + kind.size] = self.mask_of(number, state[rows])
        return mask

    def allowed(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return whether one action a row is allowed, bool (n,)."""
        result = torch.zeros(len(state), dtype=torch.bool)
        for number, rows in self._by_kind(state):
            kind = self.kinds[number]
            chosen = actions[rows] - kind.start
            inside = (chosen >= 0) & (chosen < kind.size)
            rows, chosen = rows[inside], chosen[inside]
            if number == Stage.COMPOSITION:
                result[rows] = self.composition.allowed(state[rows][:, self.columns.composition], chosen)
            elif len(rows):
                result[rows] = self.mask_of(number, state[rows]).gather(1, chosen[:, None]).squeeze(1)
        return result

    def mask_of(self, kind: int, state: Tensor) -> Tensor:
        """Return which actions of the kind that all rows choose from are allowed, bool (n, size)."""
        return self._blocks.masks[kind](state)

    def step(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return the states after one action a row; an action is taken on trust, a finished row stays."""
        state = state.clone()
        for number, rows in self.rows_by_kind(state):
            if isinstance(rows, slice):
                self._blocks.steps[number](state, actions - self.kinds[number].start)
                continue
            before = state.index_select(0, rows)
            self._blocks.steps[number](before, actions[rows] - self.kinds[number].start)
            state.index_copy_(0, rows, before)
        return state

    def _by_kind(self, state: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The kinds at hand with their rows, finished ones under STOP."""
        kinds = self.kind(state)
        for number in torch.unique(kinds).tolist():
            yield number, (kinds == number).nonzero().squeeze(1)

    def features(self, state: Tensor) -> Tensor:
        """Return all features, float (n, n_features); those of the other part are 0."""
        result = torch.zeros(len(state), self.n_features)
        split = len(self.feature_sets[0])
        for number, rows in self._by_kind(state):
            columns = slice(0, split) if self.kinds[number].features == 0 else slice(split, None)
            result[rows, columns] = self.features_of(number, state[rows])
        return result

    def features_of(self, kind: int, state: Tensor) -> Tensor:
        """Return what decides an action of the kind that all rows choose from, float (n, F)."""
        if kind == Stage.COMPOSITION:
            return self.composition.features(state[:, self.columns.composition])
        return self._features(kind, state)

    # To and from materials

    def materials(self, state: Tensor) -> CrystalBatch:
        """Return the crystals.

        Raises:
            ValueError: A crystal has no volume yet.
        """
        columns, geometry = self.columns, self.geometry
        if bool((state[:, columns.stage] < Stage.STOP).any()):
            raise ValueError("materials: a crystal is not complete")
        flat = geometry.flat_position(state)
        batch = geometry.compositions(state)
        exists = flat >= 0
        position = torch.where(exists, flat - position_tables().first[state[:, columns.group] - 1, None], 0)
        element = torch.where(exists, batch.atomic_numbers.gather(1, state[:, columns.slot]), 0)
        width = int(exists.sum(1).max()) if len(state) else 0
        chosen = VOLUME_RATIOS[state[:, columns.volume] - 1]
        stretched = (state[:, columns.volume] == N_VOLUMES).nonzero().squeeze(1)
        if len(stretched):
            chosen[stretched] = geometry.stretched_ratio(state[stretched])
        unit = geometry.unit_lattice(state)
        cells = position_tables().primitive_basis[state[:, columns.group] - 1].det().abs()
        volume = chosen * geometry.element_volume(state) / cells  # of the conventional cell
        lattice = unit * (volume / unit.det().abs()).pow(1 / 3)[:, None, None]
        free = coordinates(geometry.free_bins(state))
        return CrystalBatch(
            batch, state[:, columns.group], element[:, :width], position[:, :width], free[:, :width], lattice
        )

    def decode(self, state: Tensor) -> list[Structure]:
        """Return pymatgen structures of the primitive cells, with oxidation states where charges are ruled."""
        batch = self.materials(state)
        return replace(batch, charge=self._charges(batch)).structures()

    def _charges(self, batch: CrystalBatch) -> Tensor | None:
        """Oxidation state of the element on each position, long (n, S); None where there is no charge rule."""
        if not self._oxidation_states:
            return None
        charge = torch.zeros_like(batch.element)
        for row, formula in enumerate(batch.compositions):
            assigned = self._assigned(formula)
            for column, z in enumerate(batch.element[row].tolist()):
                if z:
                    charge[row, column] = assigned[SYMBOLS[z - 1]]
        return charge

    def _assigned(self, formula: str) -> dict[str, int]:
        if formula not in self._assignments:
            amounts = {symbol: int(amount) for symbol, amount in parse_formula(formula).items()}
            found = assign_oxidation_states(amounts, self._oxidation_states, self.limits.composition.pauling)
            assert found is not None, formula  # every composition of the space has one
            self._assignments[formula] = found
        return self._assignments[formula]

    def actions_of(self, state: Tensor) -> Tensor:
        """Return the actions that lead to each state, long (n, max_steps), padded with STOP."""
        columns, stage, kinds = self.columns, state[:, self.columns.stage, None], self.kinds
        composition = self.composition.actions_of(state[:, columns.composition])
        composed = torch.where(stage > Stage.COMPOSITION, self.composition.stop, -1)
        grown = torch.where(composition == self.composition.stop, -1, composition)
        units = torch.where(
            state[:, columns.units, None] > 0,
            torch.searchsorted(torch.tensor(self.limits.units), state[:, columns.units, None].contiguous()),
            -1,
        )
        group = torch.where(
            state[:, columns.group, None] > 0,
            torch.searchsorted(torch.tensor(self.limits.groups), state[:, columns.group, None].contiguous()),
            -1,
        )
        first = position_tables().first[(state[:, columns.group, None] - 1).clamp_min(0)]
        flat = self.geometry.flat_position(state)
        position = torch.where(flat >= 0, flat - first, -1)
        lattice = state[:, columns.lattice]
        entries = torch.where(lattice >= 0, lattice + torch.tensor(ENTRY_STARTS[:5]), -1)
        bins = state[:, columns.free]
        axes = torch.arange(bins.shape[1]) % 3 * N_COORDINATES
        coordinate = torch.where(bins >= 0, bins + axes, -1)
        volume = state[:, columns.volume, None] - 1
        within = [units, group, position, entries, coordinate, volume]
        parts = [
            grown,
            composed,
            *(torch.where(p >= 0, p + k.start, -1) for p, k in zip(within, kinds[1:], strict=False)),
        ]
        tokens = torch.cat(parts, dim=1)
        order = (tokens < 0).int().argsort(dim=1, stable=True)
        tokens = tokens.gather(1, order)
        tokens = torch.where(tokens < 0, self.stop, tokens)
        padded = torch.full((len(state), max(self.max_steps, tokens.shape[1])), self.stop)
        padded[:, : tokens.shape[1]] = tokens
        return padded[:, : self.max_steps]

    def explain(self, materials: Iterable[str | Structure]) -> list[str | None]:
        """Return for each crystal the rule by which it lies outside the space, or None when it lies inside.

        A rule reads "kind: detail", with the kinds of `CompositionSpace.explain` and disorder, symmetry, overlap, cell,
        formula units, space group, positions, lattice, volume, distance.
        """
        return encode_crystals(self, materials)[1]

    def encode(self, materials: Iterable[str | Structure]) -> Tensor:
        """Return the actions that build each crystal, at the nearest points of the grids, long (n, max_steps).

        Args:
            materials: Structures, or texts as `CrystalBatch` writes them.

        Raises:
            ValueError: A crystal lies outside the space; the message names it and the rule.
        """
        materials = materials if isinstance(materials, CrystalBatch) else list(materials)
        actions, reasons = encode_crystals(self, materials)
        for material, reason in zip(materials, reasons, strict=True):
            if reason is not None:
                name = repr(material) if isinstance(material, str) else material.composition.reduced_formula
                raise ValueError(f"{name} is outside the design space: {reason}")
        return actions


def _most_structure_steps(limits: CrystalLimits) -> int:
    """Most actions after the composition, STOP included."""
    tables = position_tables()
    group = torch.repeat_interleave(torch.arange(1, N_SPACE_GROUPS + 1), tables.count)
    usable = torch.isin(group, torch.tensor(limits.groups)) & (tables.primitive_multiplicity <= limits.max_atoms)
    most = 0
    for number in limits.groups:
        here = usable & (group == number)
        if not here.any():
            continue
        orbits = limits.max_atoms // int(tables.primitive_multiplicity[here].min())
        freedom = (tables.degrees_of_freedom[here] / tables.primitive_multiplicity[here]).max()
        most = max(most, orbits + int(float(freedom) * limits.max_atoms + 1e-6))
    return 2 + 5 + most + 2
