"""Who decides: objectives, reward, policy, training, report, command line."""

from agent.coverage import Coverage
from agent.design_agent import DesignAgent
from agent.objective import Objective
from agent.policy import Policy, PolicyNetwork
from agent.prior import Prior
from agent.reward import Reward
from agent.trainer import TrainingOptions

__all__ = ["Coverage", "DesignAgent", "Objective", "Policy", "PolicyNetwork", "Prior", "Reward", "TrainingOptions"]
