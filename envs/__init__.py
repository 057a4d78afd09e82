"""How a material is built: chemistry, design spaces, Gymnasium environments."""

from envs.composition import CompositionSpace
from envs.design_space import DesignSpace
from envs.formula import CompositionBatch

__all__ = ["CompositionBatch", "CompositionSpace", "DesignSpace"]
