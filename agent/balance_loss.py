"""The losses by which a policy comes to balance its target: torchgfn's, made for what we know of log Z.

Log Z never comes from the loss itself: it is estimated from replayed materials, see `agent.trainer`.
"""

from __future__ import annotations

from typing import Any

import torch
from gfn.estimators import ScalarEstimator
from gfn.gflownet import (
    LogPartitionVarianceGFlowNet,
    RelativeTrajectoryBalanceGFlowNet,
    SubTBGFlowNet,
    TBGFlowNet,
)
from gfn.gflownet.losses import RegressionLoss
from torch import Tensor, nn

from agent.partition import LogPartition
from agent.policy import PolicyNetwork
from agent.sampler import SpaceFeatures, policy_estimator
from agent.training_options import TrainingOptions
from envs import DesignSpace


class HuberLoss(RegressionLoss):  # type: ignore[misc]  # torchgfn ships no types
    """Quadratic within `scale`, linear beyond, so that hopeless materials do not drown the rest (Huber 1964)."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, residuals: Tensor) -> Tensor:
        """Return the loss of each residual."""
        return nn.functional.huber_loss(residuals, torch.zeros_like(residuals), reduction="none", delta=self.scale)


def make_gflownet(
    options: TrainingOptions,
    space: DesignSpace,
    estimator: object,
    base: PolicyNetwork,
    log_partition: LogPartition | None,
) -> Any:  # torchgfn ships no types
    """Return the loss that the options name.

    Args:
        options: Of the training.
        space: The design space.
        estimator: torchgfn's view of the policy that is trained.
        base: Network of the base measure.
        log_partition: Log Z by condition; None where there is one condition only.
    """
    common = {"loss_fn": HuberLoss(options.residual_scale)}
    if log_partition is not None:
        return TBGFlowNet(estimator, None, logZ=log_partition.estimator(), constant_pb=True, **common)
    fixed_log_z = nn.Parameter(torch.tensor(1.0), requires_grad=False)  # torchgfn takes 0 for none given
    if options.loss == "tb":
        return TBGFlowNet(estimator, None, logZ=fixed_log_z, constant_pb=True, **common)
    if options.loss == "lpv":
        return LogPartitionVarianceGFlowNet(estimator, None, constant_pb=True, **common)
    if options.loss == "rtb":
        of_base = policy_estimator(space, base)
        return RelativeTrajectoryBalanceGFlowNet(estimator, of_base, logZ=fixed_log_z, **common)
    flow = nn.Sequential(nn.Linear(space.n_features, 128), nn.ReLU(), nn.Linear(128, 1))
    log_flow = ScalarEstimator(flow, preprocessor=SpaceFeatures(space))
    return SubTBGFlowNet(estimator, None, log_flow, constant_pb=True, **common)
