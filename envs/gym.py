"""Gymnasium environments over a design space: one material at a time, or a batch of them.

    env = gymnasium.make("matsmith/Composition-v0", required=["O"], max_elements=3, reward=my_reward)
    observation, info = env.reset(seed=0)
    action = env.action_space.sample(info["action_mask"].astype(np.int8))
    observation, reward, terminated, truncated, info = env.step(action)

    env = gymnasium.make("matsmith/Crystal-v0", composition={"required": ["O"]}, max_atoms=10, reward=my_reward)

A reward is any callable `(materials) -> array (n,) of finite values >= 0`; the materials are formulas where
compositions are built, and pymatgen `Structure`s with oxidation states where crystals are. It is paid once, when a
material is finished; every other step pays 0. Without one, each finished material pays 1.

A masked-out action is refused: the material stays as it is, the reward is 0, `info["invalid_action"]` is True, and
after `MAX_REFUSALS` refusals the episode is truncated. So no invalid material is ever built, and agents that know
nothing of masks still get an environment that ends.

Keys of `info`:
    action_mask: bool (n_actions,), which actions the next step will accept.
    invalid_action: Whether the last action was refused.
    refusals: Actions refused in this episode.
    material: The finished material as text; only in the step that terminates the episode.
    structure: The finished crystal as pymatgen `Structure` of the primitive cell; only there, and only for crystals.
"""

from __future__ import annotations

import gymnasium

from envs.composition_env import CompositionEnv, composition_vector_env
from envs.crystal_env import CrystalEnv, crystal_vector_env
from envs.design_vector_env import DesignVectorEnv
from envs.episodes import MAX_REFUSALS

__all__ = [
    "MAX_REFUSALS",
    "CompositionEnv",
    "CrystalEnv",
    "DesignVectorEnv",
    "composition_vector_env",
    "crystal_vector_env",
]

gymnasium.register(
    id="matsmith/Composition-v0",
    entry_point="envs.gym:CompositionEnv",
    vector_entry_point="envs.gym:composition_vector_env",
)
gymnasium.register(
    id="matsmith/Crystal-v0",
    entry_point="envs.gym:CrystalEnv",
    vector_entry_point="envs.gym:crystal_vector_env",
)
