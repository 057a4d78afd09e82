"""How a material is built: chemistry, design spaces, Gymnasium environments."""

from envs.composition import CompositionSpace
from envs.crystal import CrystalSpace
from envs.crystal_batch import CrystalBatch
from envs.design_space import DesignSpace
from envs.formula import CompositionBatch
from envs.gym import CompositionEnv, CrystalEnv, DesignVectorEnv

__all__ = [
    "CompositionBatch",
    "CompositionEnv",
    "CompositionSpace",
    "CrystalBatch",
    "CrystalEnv",
    "CrystalSpace",
    "DesignSpace",
    "DesignVectorEnv",
]
