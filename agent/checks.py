"""Checks of what an agent is made of, before anything is trained."""

from __future__ import annotations

import torch

from agent.condition_options import ConditionOptions
from agent.conditions import ConditionSpace
from agent.reward import SMALLEST, FunctionReward, Reward
from agent.training_options import LossName
from envs import DesignSpace

_CHECKED_SAMPLES = 64


def check_settings(prior_weight: float, beta: float, seed: int) -> None:
    """Check what can be checked before space, reward and prior are made.

    Raises:
        ValueError: A number is out of range; the message names it.
    """
    if not 0 <= prior_weight <= 1:
        raise ValueError(f"prior_weight: {prior_weight:g} is not in 0..1")
    if not 0 < beta < 1000:
        raise ValueError(f"beta: {beta:g} is not a positive number below 1000")
    check_seed(seed)


def check_seed(seed: int) -> int:
    """Return a seed, or raise a ValueError when it is none."""
    if not 0 <= seed < 2**62:
        raise ValueError(f"seed: {seed} is not a whole number from 0 to 2^62")
    return seed


def check_prior_weight_range(conditions: ConditionOptions | None, has_prior: bool) -> None:
    """Raise a ValueError when prior weights can be asked for where there is no prior."""
    if conditions is not None and conditions.prior_weight_range is not None and not has_prior:
        raise ValueError("prior_weight_range: there is no prior to be weighed (expected a prior, or no range)")


def check_loss(loss: LossName, conditions: ConditionSpace) -> None:
    """Raise a ValueError when a loss cannot be conditioned and there is more than one condition."""
    if loss != "tb" and not conditions.is_fixed:
        raise ValueError(f"loss: {loss} knows no conditions (expected tb, or a fixed condition)")


def check_reward(reward: Reward | FunctionReward, space: DesignSpace, seed: int = 0) -> int:
    """Evaluate a reward on one batch of uniform samples; return the number of columns of its outcomes.

    Raises:
        ValueError: The reward fails, returns something else than finite values >= 0, or only values too small to be
            told apart; the message names it.
    """
    state = space.sample_uniform_policy(_CHECKED_SAMPLES, torch.Generator().manual_seed(seed))
    materials = space.materials(state)
    if isinstance(reward, FunctionReward):
        largest = float(reward.values(materials).max())
        if 0 < largest < SMALLEST:
            raise ValueError(
                f"reward {reward.name!r}: the largest of {len(materials)} values is {largest:.2g}, "
                f"but values below {SMALLEST:g} are not told apart; scale it up"
            )
        return 1
    values = reward(materials)
    bad = ~torch.isfinite(values.log_reward)
    if bad.any():
        raise ValueError(f"objectives: not finite for {materials[int(bad.nonzero()[0, 0])]}")
    return values.outcomes.shape[1]
