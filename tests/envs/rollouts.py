"""Random masked episodes, for the tests of all Gymnasium environments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt


def uniform_actions(masks: npt.NDArray[np.bool_], generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw one allowed action per row of masks (..., n_actions)."""
    return (generator.random(masks.shape) * masks).argmax(-1)


def finish(env: gymnasium.Env[Any, Any], seed: int = 0) -> tuple[list[float], dict[str, Any]]:
    """Run one random masked episode; return the rewards and the last info."""
    generator = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    rewards, ended = [], False
    while not ended:
        action = uniform_actions(info["action_mask"], generator)
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(float(reward))
        ended = terminated or truncated
    return rewards, info
