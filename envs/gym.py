"""Gymnasium environments over a design space: one material at a time, or a batch of them.

    env = gymnasium.make("matsmith/Composition-v0", required=["O"], max_elements=3, reward=my_reward)
    observation, info = env.reset(seed=0)
    action = env.action_space.sample(info["action_mask"].astype(np.int8))
    observation, reward, terminated, truncated, info = env.step(action)

A reward is any callable `(materials) -> array (n,) of finite values >= 0`. It is paid once, when a material is
finished; every other step pays 0. Without one, each finished material pays 1.

A masked-out action is refused: the material stays as it is, the reward is 0, `info["invalid_action"]` is True, and
after `MAX_REFUSALS` refusals the episode is truncated. So no invalid material is ever built, and agents that know
nothing of masks still get an environment that ends.

Keys of `info`:
    action_mask: bool (n_actions,), which actions the next step will accept.
    invalid_action: Whether the last action was refused.
    refusals: Actions refused in this episode.
    material: The finished material; only in the step that terminates the episode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from envs.chemistry import SYMBOLS
from envs.composition import CompositionSpace
from envs.design_space import DesignSpace
from envs.formula import write_formula

MAX_REFUSALS = 100
"""Refused actions after which an episode is truncated."""

Observation = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
RewardFunction = Callable[[Sequence[str]], npt.ArrayLike]


class CompositionEnv(gymnasium.Env[Observation, np.int64]):
    """Builds one composition per episode, one element with its count per step; the module docstring has the rules.

    Observations are the features of the space, float32 (n_features,); actions are those of the space, the last one
    STOP. Nothing is random in the environment itself, so a seed fixes only `np_random`. With `render_mode="ansi"`,
    `render` returns the growing formula on one line: "Sr Ti |", and "SrTiO3" when it is finished.

    Args:
        space: The compositions that may be built; None: `CompositionSpace(**limits)`.
        reward: Called with the finished material in a list of one; None: 1 for each finished material.
        render_mode: "ansi" or None.
        **limits: Keyword arguments of `CompositionSpace`, when no space is given.

    Raises:
        ValueError: A wrong limit, or limits next to a space. `step`: an action that does not exist, or a reward that
            is not one finite value >= 0.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 as the base class types it

    def __init__(
        self,
        space: CompositionSpace | None = None,
        reward: RewardFunction | None = None,
        render_mode: str | None = None,
        **limits: Any,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode: unknown mode {render_mode!r} (expected 'ansi' or None)")
        self.space = _composition_space(space, limits)
        self.reward = _checked_reward(reward)
        self.render_mode = render_mode
        self.observation_space = _observation_space(self.space)
        self.action_space = spaces.Discrete(self.space.n_actions)
        self._episode: _Episodes | None = None
        self._ended = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start with the empty composition; no options are known."""
        super().reset(seed=seed)
        self._episode, self._ended = _Episodes(self.space, 1), False
        return self._episode.observations()[0], self._info(invalid_action=False)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Place an element or stop; a masked-out action is refused."""
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
            materials = self.space.materials(episode.state)
            value = float(_evaluate(self.reward, materials)[0])
            info["material"] = materials[0]
        return episode.observations()[0], value, terminated, truncated, info

    def action_masks(self) -> BoolArray:
        """Return which actions the next step will accept, bool (n_actions,): the convention of MaskablePPO."""
        mask: BoolArray = self._running().masks()[0]
        return mask

    def render(self) -> str | None:
        """Return the growing formula when the render mode is "ansi"."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() without a render mode: make the environment with render_mode="ansi"')
            return None
        state = self._running().state
        batch = self.space.materials(state)
        if self.space.is_finished(state).item():
            return batch[0]
        placed = zip(batch.atomic_numbers[0].tolist(), batch.amounts[0].tolist(), strict=True)
        return " ".join([*(write_formula({SYMBOLS[z - 1]: amount}) for z, amount in placed if z), "|"])

    def _running(self) -> _Episodes:
        if self._episode is None:
            raise ResetNeeded("call reset() first")
        return self._episode

    def _info(self, invalid_action: bool) -> dict[str, Any]:
        return {
            "action_mask": self.action_masks(),
            "invalid_action": invalid_action,
            "refusals": int(self._running().refusals),
        }


class DesignVectorEnv(VectorEnv[Observation, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """Builds `num_envs` materials of any design space at once, by tensor operations over the batch.

    Autoreset is SAME_STEP: an episode that ends starts anew within the same step, so no step is lost. The observation
    and mask returned are then those of the new episode. `infos` is laid out like that of `SyncVectorEnv`: the last
    observation and info of the ended episodes stand in `final_obs` and `final_info`, and a key with an underscore
    before it tells which environments have a value, so the finished materials are
    `infos["final_info"]["material"][infos["final_info"]["_material"]]`.

    Args:
        space: The materials that may be built.
        num_envs: Environments in the batch.
        reward: Called once per step with the materials that were finished in it; None: 1 for each.

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
        self.reward = _checked_reward(reward)
        self.single_observation_space = _observation_space(space)
        self.single_action_space = spaces.Discrete(space.n_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._episodes: _Episodes | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start all materials anew; no options are known."""
        super().reset(seed=seed)
        self._episodes = episodes = _Episodes(self.space, self.num_envs)
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
            materials = self.space.materials(episodes.state[terminated])
            rewards[terminated.numpy()] = _evaluate(self.reward, materials)
            final["final_info"] |= self._present("material", list(materials), terminated.numpy(), dtype=object)
        episodes.restart(ended)
        infos = self._infos((refused & ~ended).numpy()) | final
        return episodes.observations(), rewards, terminated.numpy(), truncated.numpy(), infos

    def action_masks(self) -> BoolArray:
        """Return which actions the next step will accept, bool (num_envs, n_actions)."""
        return self._running().masks()

    def _running(self) -> _Episodes:
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

    def _final(self, episodes: _Episodes, ended: Tensor, refused: Tensor) -> dict[str, Any]:
        """The last observation and info of the episodes that ended in this step."""
        rows = ended.numpy()
        observations = np.full(self.num_envs, None, dtype=object)  # of arrays, as the wrappers of Gymnasium expect
        for row, observation in zip(np.flatnonzero(rows), self.space.features(episodes.state[ended]), strict=True):
            observations[row] = observation.numpy()
        info = (
            self._present("action_mask", self.space.mask(episodes.state[ended]).numpy(), rows)
            | self._present("invalid_action", refused[ended].numpy(), rows)
            | self._present("refusals", episodes.refusals[ended].numpy(), rows)
        )
        return {"final_obs": observations, "_final_obs": rows, "final_info": info, "_final_info": rows.copy()}

    def _present(self, key: str, values: Any, rows: BoolArray, dtype: Any = None) -> dict[str, Any]:
        """The info of some environments, with the array that tells which have it."""
        values = np.asarray(values, dtype=dtype)
        array = np.full((self.num_envs, *values.shape[1:]), None if dtype is object else 0, dtype=values.dtype)
        array[rows] = values
        return {key: array, f"_{key}": rows.copy()}


class _Episodes:
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


def composition_vector_env(
    num_envs: int,
    space: CompositionSpace | None = None,
    reward: RewardFunction | None = None,
    **limits: Any,
) -> DesignVectorEnv:
    """Return the vector environment that `gymnasium.make_vec("matsmith/Composition-v0", num_envs=...)` makes."""
    return DesignVectorEnv(_composition_space(space, limits), num_envs, reward)


def _composition_space(space: CompositionSpace | None, limits: dict[str, Any]) -> CompositionSpace:
    if space is None:
        return CompositionSpace(**limits)
    if limits:
        raise ValueError(f"{', '.join(limits)}: limits belong to the space; give a space or limits, not both")
    return space


def _observation_space(space: DesignSpace) -> spaces.Box[np.float32]:
    low, high = (bound.numpy() for bound in space.feature_bounds)
    return spaces.Box(low, high, dtype=np.float32)


def _checked_reward(reward: RewardFunction | None) -> RewardFunction | None:
    if reward is not None and not callable(reward):
        raise ValueError(f"reward: {reward!r} is not callable (expected materials -> array of values >= 0)")
    return reward


def _evaluate(reward: RewardFunction | None, materials: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return one reward per material, float64 (n,).

    Raises:
        ValueError: The reward returned something else than n finite values >= 0; the message names the reward.
    """
    if reward is None:
        return np.ones(len(materials))
    returned = reward(materials)
    name = getattr(reward, "__qualname__", type(reward).__qualname__)
    where = f"reward {reward.__module__}.{name}"
    if isinstance(returned, Tensor):
        returned = returned.detach().cpu().numpy()
    try:
        values = np.asarray(returned, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: returned {returned!r}, expected {len(materials)} numbers") from error
    if values.shape != (len(materials),):
        raise ValueError(f"{where}: returned shape {values.shape}, expected ({len(materials)},): one value a material")
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(f"{where}: returned {values[first]} for {materials[first]}, expected a finite value >= 0")
    return values


gymnasium.register(
    id="matsmith/Composition-v0",
    entry_point="envs.gym:CompositionEnv",
    vector_entry_point="envs.gym:composition_vector_env",
)
