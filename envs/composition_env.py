"""`CompositionEnv`: one composition per episode; `envs.gym` has the rules."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from envs.chemistry import SYMBOLS
from envs.composition import CompositionSpace
from envs.design_env import DesignEnv, given_or_made
from envs.design_vector_env import DesignVectorEnv
from envs.episodes import RewardFunction
from envs.formula import CompositionBatch, write_formula


class CompositionEnv(DesignEnv):
    """Builds one composition per episode, one element with its count per step; `envs.gym` has the rules.

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

    space: CompositionSpace

    def __init__(
        self,
        space: CompositionSpace | None = None,
        reward: RewardFunction | None = None,
        render_mode: str | None = None,
        **limits: Any,
    ) -> None:
        super().__init__(_composition_space(space, limits), reward, render_mode)

    def _frame(self, state: Tensor) -> str:
        batch = self.space.materials(state)
        return batch[0] if self.space.is_finished(state).item() else f"{placed_elements(batch)} |".lstrip()


def composition_vector_env(
    num_envs: int,
    space: CompositionSpace | None = None,
    reward: RewardFunction | None = None,
    **limits: Any,
) -> DesignVectorEnv:
    """Return the vector environment that `gymnasium.make_vec("matsmith/Composition-v0", num_envs=...)` makes."""
    return DesignVectorEnv(_composition_space(space, limits), num_envs, reward)


def placed_elements(batch: CompositionBatch) -> str:
    """Return the elements of the first composition with their counts, in the order in which they were placed."""
    placed = zip(batch.atomic_numbers[0].tolist(), batch.amounts[0].tolist(), strict=True)
    return " ".join(write_formula({SYMBOLS[z - 1]: amount}) for z, amount in placed if z)


def _composition_space(space: CompositionSpace | None, limits: dict[str, Any]) -> CompositionSpace:
    return given_or_made(CompositionSpace, CompositionSpace, space, limits)
