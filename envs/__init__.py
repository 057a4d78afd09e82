"""How a material is built: chemistry, design spaces, Gymnasium environments."""

from envs.composition import CompositionSpace
from envs.design_space import DesignSpace
from envs.formula import CompositionBatch
from envs.gym import CompositionEnv, DesignVectorEnv

__all__ = ["CompositionBatch", "CompositionEnv", "CompositionSpace", "DesignSpace", "DesignVectorEnv"]
