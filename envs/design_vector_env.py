"""`DesignVectorEnv`: a batch of materials of any design space, built at once; `envs.gym` has the rules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from envs.design_space import DesignSpace
from envs.episodes import (
    BoolArray,
    Episodes,
    FinishedMaterials,
    Observation,
    RewardFunction,
    checked_reward,
    observation_space,
)


class DesignVectorEnv(VectorEnv[Observation, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """Builds `num_envs` materials of any design space at once, by tensor operations over the batch.

    Autoreset is SAME_STEP: an episode that ends starts anew within the same step, so no step is lost. The observation
    and mask returned are then those of the new episode. `infos` is laid out like that of `SyncVectorEnv`: the last
    observation and info of the ended episodes stand in `final_obs` and `final_info`, and a key with an underscore
    before it tells which environments have a value, so the finished materials are
    `infos["final_info"]["material"][infos["final_info"]["_material"]]`, and those of crystals also stand as pymatgen
    structures under "structure".

    Args:
        space: The materials that may be built.
        num_envs: Environments in the batch.
        reward: Called once per step with the materials that were finished in it; None: 1 for each. Crystals come as
            a list of pymatgen `Structure`s, other materials as texts.

    Raises:
        ValueError: `num_envs` is not positive. `step`: actions that do not exist, or a reward that is not one finite
            value >= 0 per material.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 as the base class types it
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(self, space: DesignSpace, num_envs: int = 1, reward: RewardFunction | None = None) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise ValueError(f"num_envs: {num_envs!r} is not a positive whole number")
        self.space = space
        self.num_envs = num_envs
        self.reward = checked_reward(reward)
        self.single_observation_space = observation_space(space)
        self.single_action_space = spaces.Discrete(space.n_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._episodes: Episodes | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start all materials anew; no options are known."""
        super().reset(seed=seed)
        self._episodes = episodes = Episodes(self.space, self.num_envs)
        return episodes.observations(), self._infos(np.zeros(self.num_envs, dtype=np.bool_))

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[Observation, npt.NDArray[np.float64], BoolArray, BoolArray, dict[str, Any]]:
        """Take one action per material, long (num_envs,); masked-out ones are refused."""
        episodes = self._running()
        refused, terminated, truncated = episodes.step(self._checked_actions(actions))
        rewards = np.zeros(self.num_envs)
        ended = terminated | truncated
        final: dict[str, Any] = {}
        if ended.any():
            final = self._final(episodes, ended, refused)
        if terminated.any():
            finished = FinishedMaterials.of(self.space, episodes.state[terminated])
            rewards[terminated.numpy()] = finished.rewards(self.reward)
            final["final_info"] |= self._present_objects("material", finished.texts, terminated.numpy())
            if finished.structures is not None:
                final["final_info"] |= self._present_objects("structure", finished.structures, terminated.numpy())
        episodes.restart(ended)
        infos = self._infos((refused & ~ended).numpy()) | final
        return episodes.observations(), rewards, terminated.numpy(), truncated.numpy(), infos

    def action_masks(self) -> BoolArray:
        """Return which actions the next step will accept, bool (num_envs, n_actions)."""
        return self._running().masks()

    def _running(self) -> Episodes:
        if self._episodes is None:
            raise ResetNeeded("call reset() first")
        return self._episodes

    def _checked_actions(self, actions: npt.ArrayLike) -> Tensor:
        array = np.asarray(actions)
        if array.shape != (self.num_envs,) or array.dtype.kind not in "iu":
            raise ValueError(
                f"actions: expected {self.num_envs} integers, one per environment, not {array.dtype} {array.shape}"
            )
        wrong = array[(array < 0) | (array >= self.space.n_actions)]
        if len(wrong):
            raise ValueError(f"actions: {wrong[0]} does not exist (expected 0-{self.space.n_actions - 1})")
        return torch.from_numpy(array.astype(np.int64))

    def _infos(self, refused: BoolArray) -> dict[str, Any]:
        everywhere = np.ones(self.num_envs, dtype=np.bool_)
        return (
            self._present("action_mask", self.action_masks(), everywhere)
            | self._present("invalid_action", refused, everywhere)
            | self._present("refusals", self._running().refusals.numpy().copy(), everywhere)
        )

    def _final(self, episodes: Episodes, ended: Tensor, refused: Tensor) -> dict[str, Any]:
        """The last observation and info of the episodes that ended in this step."""
        rows = ended.numpy()
        features = self.space.features(episodes.state[ended]).float().numpy()
        info = (
            self._present("action_mask", self.space.mask(episodes.state[ended]).numpy(), rows)
            | self._present("invalid_action", refused[ended].numpy(), rows)
            | self._present("refusals", episodes.refusals[ended].numpy(), rows)
        )
        final = self._present_objects("final_obs", features, rows)  # arrays, as the wrappers of Gymnasium expect
        return final | {"final_info": info, "_final_info": rows.copy()}

    def _present(self, key: str, values: npt.NDArray[Any], rows: BoolArray) -> dict[str, Any]:
        """The info of some environments, with the array that tells which have it."""
        array = np.zeros((self.num_envs, *values.shape[1:]), dtype=values.dtype)
        array[rows] = values
        return {key: array, f"_{key}": rows.copy()}

    def _present_objects(self, key: str, values: Iterable[Any], rows: BoolArray) -> dict[str, Any]:
        """The same for values that are no numbers; None where there is none."""
        array = np.full(self.num_envs, None, dtype=object)
        for row, value in zip(np.flatnonzero(rows), values, strict=True):  # a Structure is a sequence: one by one
            array[row] = value
        return {key: array, f"_{key}": rows.copy()}
