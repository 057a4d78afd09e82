"""`DesignEnv`: one material of a design space per episode; `envs.gym` has the rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
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

Frame = str | npt.NDArray[np.uint8]
S = TypeVar("S", bound=DesignSpace)


class DesignEnv(gymnasium.Env[Observation, np.int64], ABC):
    """Builds one material per episode, one building block per step.

    Observations are the features of the space, float32 (n_features,); actions are those of the space, the last one
    STOP. Nothing is random in the environment itself, so a seed fixes only `np_random`.

    Args:
        space: The materials that may be built.
        reward: Called with the finished material in a list of one; None: 1 for each finished material.
        render_mode: One of `metadata["render_modes"]`, or None.

    Raises:
        ValueError: An unknown render mode, or a reward that cannot be called. `step`: an action that does not exist,
            or a reward that is not one finite value >= 0.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 as the base class types it

    def __init__(self, space: DesignSpace, reward: RewardFunction | None, render_mode: str | None) -> None:
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            known = ", ".join(map(repr, modes))
            raise ValueError(f"render_mode: unknown mode {render_mode!r} (expected {known} or None)")
        self.space = space
        self.reward = checked_reward(reward)
        self.render_mode = render_mode
        self.observation_space = observation_space(space)
        self.action_space = spaces.Discrete(space.n_actions)
        self._episode: Episodes | None = None
        self._ended = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start with an empty material; no options are known."""
        super().reset(seed=seed)
        self._episode, self._ended = Episodes(self.space, 1), False
        return self._episode.observations()[0], self._info(invalid_action=False)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Add a building block or stop; a masked-out action is refused."""
        if self._ended:
            raise ResetNeeded("the episode has ended; call reset() before the next step()")
        if not self.action_space.contains(action):
            raise ValueError(f"action: {action!r} does not exist (expected 0-{self.space.n_actions - 1})")
        episode = self._running()
        refused, terminated, truncated = (bool(flag) for flag in episode.step(torch.tensor([int(action)])))
        self._ended = terminated or truncated
        info = self._info(invalid_action=refused)
        value = 0.0
        if terminated:
            finished = FinishedMaterials.of(self.space, episode.state)
            value = float(finished.rewards(self.reward)[0])
            info["material"] = finished.texts[0]
            if finished.structures is not None:
                info["structure"] = finished.structures[0]
        return episode.observations()[0], value, terminated, truncated, info

    def action_masks(self) -> BoolArray:
        """Return which actions the next step will accept, bool (n_actions,): the convention of MaskablePPO."""
        mask: BoolArray = self._running().masks()[0]
        return mask

    def render(self) -> Frame | None:
        """Return the material as it stands in the form of the render mode."""
        if self.render_mode is None:
            modes = " or ".join(f'render_mode="{mode}"' for mode in self.metadata["render_modes"])
            gymnasium.logger.warn(f"render() without a render mode: make the environment with {modes}")
            return None
        return self._frame(self._running().state)

    @abstractmethod
    def _frame(self, state: Tensor) -> Frame:
        """What `render` returns for a state (1, state_size)."""

    def _running(self) -> Episodes:
        if self._episode is None:
            raise ResetNeeded("call reset() first")
        return self._episode

    def _info(self, invalid_action: bool) -> dict[str, Any]:
        return {
            "action_mask": self.action_masks(),
            "invalid_action": invalid_action,
            "refusals": int(self._running().refusals),
        }


def given_or_made(kind: type[S], make: Callable[..., S], space: S | None, limits: Mapping[str, Any]) -> S:
    """Return the space that was given, or the one within the limits.

    Raises:
        ValueError: Both were given, or a space of another kind.
    """
    if space is None:
        return make(**limits)
    if limits:
        raise ValueError(f"{', '.join(limits)}: limits belong to the space; give a space or limits, not both")
    if not isinstance(space, kind):
        raise ValueError(f"space: {space!r} is not a {kind.__name__}")
    return space
