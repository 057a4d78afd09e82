"""`CrystalEnv`: one crystal per episode; `envs.gym` has the rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from envs.chemistry import SYMBOLS
from envs.composition import CompositionSpace
from envs.composition_env import placed_elements
from envs.crystal import CrystalSpace
from envs.crystal_batch import position_tables
from envs.crystal_grid import coordinates
from envs.crystal_state import Stage
from envs.design_env import DesignEnv, Frame, given_or_made
from envs.design_vector_env import DesignVectorEnv
from envs.episodes import RewardFunction
from envs.lattice_shapes import ENTRY_NAMES, entry_values
from envs.wyckoff import WyckoffPosition, space_group


class CrystalEnv(DesignEnv):
    """Builds one crystal per episode, one building block per step; `envs.gym` has the rules.

    Observations are the features of the space, float32 (n_features,); actions are those of the space, the last one
    STOP. Nothing is random in the environment itself, so a seed fixes only `np_random`.

    With `render_mode="ansi"`, `render` returns what is chosen so far on one line that ends with a bar,
    "TiO2 x2 | P4_2/mnm | Ti a | O f x=0.3125 | c/a 0.64 |", and the text of the crystal when it is finished. With
    "rgb_array" it returns a picture, uint8 (400, 400, 3): the same line and, once its shape is chosen, the
    conventional cell with the atoms whose coordinates are settled. Until the volume is chosen, that of the elements
    stands in for it.

    Args:
        space: The crystals that may be built; None: `CrystalSpace(**limits)`.
        reward: Called with the finished crystal, a pymatgen `Structure` with oxidation states, in a list of one; None:
            1 for each finished crystal.
        render_mode: "ansi", "rgb_array" or None.
        **limits: Keyword arguments of `CrystalSpace`, when no space is given; `composition` may also be a mapping of
            the keyword arguments of `CompositionSpace`.

    Raises:
        ValueError: A wrong limit, or limits next to a space. `step`: an action that does not exist, or a reward that
            is not one finite value >= 0.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 as the base class types it
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
    }
    space: CrystalSpace

    def __init__(
        self,
        space: CrystalSpace | None = None,
        reward: RewardFunction | None = None,
        render_mode: str | None = None,
        **limits: Any,
    ) -> None:
        super().__init__(_crystal_space(space, limits), reward, render_mode)

    def _frame(self, state: Tensor) -> Frame:
        text = _text(self.space, state)
        if self.render_mode == "ansi":
            return text
        return _picture(self.space, state, text)


def crystal_vector_env(
    num_envs: int,
    space: CrystalSpace | None = None,
    reward: RewardFunction | None = None,
    **limits: Any,
) -> DesignVectorEnv:
    """Return the vector environment that `gymnasium.make_vec("matsmith/Crystal-v0", num_envs=...)` makes."""
    return DesignVectorEnv(_crystal_space(space, limits), num_envs, reward)


def _crystal_space(space: CrystalSpace | None, limits: dict[str, Any]) -> CrystalSpace:
    def make(composition: CompositionSpace | Mapping[str, Any] | None = None, **others: Any) -> CrystalSpace:
        if isinstance(composition, Mapping):
            composition = CompositionSpace(**composition)
        return CrystalSpace(composition, **others)

    return given_or_made(CrystalSpace, make, space, limits)


def _text(space: CrystalSpace, state: Tensor) -> str:
    """One line on a crystal under construction, (1, state_size), or the text of a finished one."""
    columns, row = space.columns, state[0]
    stage = int(row[columns.stage])
    if stage == Stage.FINISHED:
        return space.materials(state)[0]
    batch = space.geometry.compositions(state)
    if stage == Stage.COMPOSITION:
        return f"{placed_elements(batch)} |".lstrip()
    parts = [batch[0]]
    if stage > Stage.FORMULA_UNITS:
        parts[0] += f" x{int(row[columns.units])}"
    if stage > Stage.SPACE_GROUP:
        parts.append(space_group(int(row[columns.group])).symbol)
        for z, position, bins in _occupied(space, state):
            chosen = zip("xyz", bins.tolist(), coordinates(bins).tolist(), strict=True)
            values = [f"{axis}={value:.4g}" for axis, k, value in chosen if k >= 0]
            parts.append(" ".join([SYMBOLS[z - 1], position.letter, *values]))
    for entry, k in enumerate(row[columns.lattice].tolist()):
        if k >= 0:
            parts.append(f"{ENTRY_NAMES[entry]} {float(entry_values(entry)[k]):.4g}")
    if stage == Stage.STOP:
        parts.append(f"volume {float(space.materials(state).lattice[0].det()):.4g} A3")
    return " | ".join([*parts, ""]).rstrip()


def _picture(space: CrystalSpace, state: Tensor, text: str) -> npt.NDArray[np.uint8]:
    """The text and, once its shape is settled, the conventional cell with the atoms that are."""
    from envs.crystal_drawing import Cell, draw_crystal

    elements = space.geometry.compositions(state).atomic_numbers[0]
    cell = None
    if int(state[0, space.columns.stage]) >= Stage.COORDINATE:
        numbers, points = [], [torch.empty(0, 3, dtype=torch.float64)]
        for z, position, bins in _occupied(space, state):
            if ((bins >= 0) | ~torch.tensor(position.free_axes)).all():
                points.append(position.orbit(coordinates(bins)))
                numbers += [z] * len(points[-1])
        cell = Cell(_lattice(space, state).numpy(), numbers, torch.cat(points).numpy())
    return draw_crystal(text, elements[elements > 0].tolist(), cell)


def _lattice(space: CrystalSpace, state: Tensor) -> Tensor:
    """The conventional cell (3, 3), A; until the volume is chosen, with that of the elements."""
    if int(state[0, space.columns.stage]) >= Stage.STOP:
        return space.materials(state).lattice[0]
    volume = space.geometry.element_volume(state)[0] * space_group(int(state[0, space.columns.group])).n_centring
    unit = space.geometry.unit_lattice(state)[0]
    return unit * (volume / unit.det().abs()) ** (1 / 3)


def _occupied(space: CrystalSpace, state: Tensor) -> Iterator[tuple[int, WyckoffPosition, Tensor]]:
    """The occupied positions in order: atomic number, position, bins (3,) of x, y, z, -1 where not chosen."""
    columns, number = space.columns, int(state[0, space.columns.group])
    elements = space.geometry.compositions(state).atomic_numbers[0]
    index = space.geometry.flat_position(state)[0] - position_tables().first[number - 1]
    bins = space.geometry.free_bins(state)[0]
    for orbit, slot in enumerate(state[0, columns.slot][: int(state[0, columns.placed])].tolist()):
        yield int(elements[slot]), space_group(number).positions[int(index[orbit])], bins[orbit]
