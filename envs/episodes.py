"""Episodes of any design space, and the rewards of what they build: what single and vector environments share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from envs.crystal import CrystalSpace
from envs.design_space import DesignSpace

if TYPE_CHECKING:
    from pymatgen.core import Structure

MAX_REFUSALS = 100
"""Refused actions after which an episode is truncated."""

Observation = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
RewardFunction = Callable[[Sequence[Any]], npt.ArrayLike]


class Episodes:
    """n materials under construction; what the single and the vector environment share."""

    def __init__(self, space: DesignSpace, n: int) -> None:
        self.space = space
        self.state = space.initial(n)
        self.refusals = torch.zeros(n, dtype=torch.long)
        self._mask: Tensor | None = None

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take one existing action per row; return which were refused, terminated and truncated, bool (n,) each."""
        refused = ~self._current_mask().gather(1, actions[:, None]).squeeze(1)
        accepted = ~refused
        self.state[accepted] = self.space.step(self.state[accepted], actions[accepted])
        self.refusals += refused
        self._mask = None
        terminated = self.space.is_finished(self.state)
        return refused, terminated, ~terminated & (self.refusals >= MAX_REFUSALS)

    def restart(self, rows: Tensor) -> None:
        """Begin again where `rows`, bool (n,), is set."""
        self.state[rows] = self.space.initial(int(rows.sum()))
        self.refusals[rows] = 0
        self._mask = None

    def observations(self) -> Observation:
        """Features, float32 (n, n_features)."""
        features: Observation = self.space.features(self.state).float().numpy()
        return features

    def masks(self) -> BoolArray:
        """Allowed actions, bool (n, n_actions), as an array of the caller's own."""
        masks: BoolArray = self._current_mask().numpy().copy()
        return masks

    def _current_mask(self) -> Tensor:
        if self._mask is None:
            self._mask = self.space.mask(self.state)
        return self._mask


@dataclass(frozen=True)
class FinishedMaterials:
    """n finished materials, as agents and rewards see them."""

    texts: Sequence[str]
    """Formulas, or the texts of crystals."""
    structures: list[Structure] | None
    """Of crystals, else None."""

    @classmethod
    def of(cls, space: DesignSpace, state: Tensor) -> FinishedMaterials:
        """Return the materials of finished states."""
        structures = space.decode(state) if isinstance(space, CrystalSpace) else None
        return cls(space.materials(state), structures)

    def rewards(self, reward: RewardFunction | None) -> npt.NDArray[np.float64]:
        """Return one reward per material, float64 (n,).

        Raises:
            ValueError: The reward returned something else than n finite values >= 0; the message names the reward.
        """
        n = len(self.texts)
        if reward is None:
            return np.ones(n)
        returned = reward(self.texts if self.structures is None else self.structures)
        name = getattr(reward, "__qualname__", type(reward).__qualname__)
        where = f"reward {reward.__module__}.{name}"
        if isinstance(returned, Tensor):
            returned = returned.detach().cpu().numpy()
        try:
            values = np.asarray(returned, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: returned {returned!r}, expected {n} numbers") from error
        if values.shape != (n,):
            raise ValueError(f"{where}: returned shape {values.shape}, expected ({n},): one value a material")
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if len(wrong):
            first = int(wrong[0])
            raise ValueError(f"{where}: returned {values[first]} for {self.texts[first]}, expected a finite value >= 0")
        return values


def observation_space(space: DesignSpace) -> spaces.Box[np.float32]:
    """Return the box that the features lie in."""
    low, high = (bound.numpy() for bound in space.feature_bounds)
    return spaces.Box(low, high, dtype=np.float32)


def checked_reward(reward: RewardFunction | None) -> RewardFunction | None:
    """Return the reward; ValueError when it cannot be called."""
    if reward is not None and not callable(reward):
        raise ValueError(f"reward: {reward!r} is not callable (expected materials -> array of values >= 0)")
    return reward
