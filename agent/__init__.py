"""Who decides: objectives, reward, policy, training, campaigns of labelling, report, command line.

Names are imported when they are first used, so that `matsmith --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.campaign import Campaign
    from agent.campaign_options import CampaignOptions
    from agent.coverage import Coverage
    from agent.design_agent import DesignAgent
    from agent.evaluation import Evaluation, evaluate
    from agent.objective import Objective
    from agent.policy import Policy, PolicyNetwork
    from agent.prior import Prior
    from agent.reward import Reward
    from agent.training_options import TrainingOptions

_HOME = {
    "Campaign": "campaign",
    "CampaignOptions": "campaign_options",
    "Coverage": "coverage",
    "DesignAgent": "design_agent",
    "Evaluation": "evaluation",
    "Objective": "objective",
    "Policy": "policy",
    "PolicyNetwork": "policy",
    "Prior": "prior",
    "Reward": "reward",
    "TrainingOptions": "training_options",
    "evaluate": "evaluation",
}

__all__ = [
    "Campaign",
    "CampaignOptions",
    "Coverage",
    "DesignAgent",
    "Evaluation",
    "Objective",
    "Policy",
    "PolicyNetwork",
    "Prior",
    "Reward",
    "TrainingOptions",
    "evaluate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'agent' has no attribute {name!r}")
    return getattr(import_module(f"agent.{_HOME[name]}"), name)
