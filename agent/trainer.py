"""Training: from the base measure to the target, p(x) ~ base(x)^w R(x)^beta.

Every step mixes three sources and takes one gradient step on a torchgfn loss:

- materials sampled from the policy, on-policy or exploring;
- materials sampled from the base measure (the prior, or the uniform masked policy), which keep every region in sight;
- materials replayed in proportion to the target by their exact importance weights, on which the likelihood is raised
  as well.

The log-partition function is not learned: it is the importance-sampling estimate from the replayed mixture, so a
policy that leaves out part of the target sees everywhere else that it is too likely. beta rises as fast as the
effective sample size allows. What is kept is a moving average of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

from agent.optimizer_state import pack_optimizer, unpack_optimizer
from agent.policy import Policy, PolicyNetwork, Rollout, visit
from agent.replay import Batch, Replay, effective_share, log_mean_exp
from agent.reward import FunctionReward, Reward
from agent.sampler import DesignGFlowNetEnv, SpaceFeatures, StaticBatchSampler, policy_estimator, to_trajectories
from agent.training_options import TrainingOptions
from envs import DesignSpace


class HuberLoss(RegressionLoss):  # type: ignore[misc]  # torchgfn ships no types
    """Quadratic within `scale`, linear beyond, so that hopeless materials do not drown the rest (Huber 1964)."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, residuals: Tensor) -> Tensor:
        """Return the loss of each residual."""
        return nn.functional.huber_loss(residuals, torch.zeros_like(residuals), reduction="none", delta=self.scale)


@dataclass(frozen=True)
class StepReport:
    """What one step saw."""

    step: int
    beta: float
    loss: float
    mean_reward: float
    """Mean over the policy's own samples."""
    log_z: float
    """Importance-sampling estimate from the replayed mixture at this beta."""
    effective_share: float
    """Effective sample size of the policy's latest samples as a share of their number."""
    covered: float
    """Share of the target covered: exp(log Z from the policy's samples - log Z from the mixture)."""
    n_distinct: int
    """Distinct materials evaluated so far."""


class Trainer:
    """The state of a training run: networks, optimiser, replay, random numbers, schedule.

    Args:
        space: The design space.
        reward: Its log-reward is multiplied by beta.
        base: The base measure; the policy starts as a copy of its network.
        base_weight: Exponent of the base measure in the target.
        beta: Inverse temperature of the reward.
        options: Settings.
        seed: Source of all randomness.
    """

    def __init__(
        self,
        space: DesignSpace,
        reward: Reward | FunctionReward,
        base: Policy,
        base_weight: float,
        beta: float,
        options: TrainingOptions,
        seed: int,
    ) -> None:
        self.space, self.reward, self.base = space, reward, base
        self.base_weight, self.beta, self.options = base_weight, beta, options
        self.generator = torch.Generator().manual_seed(seed)
        self.network = _copy(base.network)
        self.average = _copy(base.network).requires_grad_(False)
        self.policy = Policy(space, self.network)
        self.replay = Replay(options.replay_capacity, space.max_steps)
        self.current_beta = 0.0
        self.step = 0
        self.segment = (0, 0)  # first and last step of the schedule in force
        self.seen: set[int] = set()
        self._recent: list[tuple[Tensor, Tensor, Tensor]] = []  # policy samples: log_prob, log_base, log_reward
        self._environment = DesignGFlowNetEnv(space)
        estimator = policy_estimator(space, self.network)
        self._sampler = StaticBatchSampler(self.policy, estimator, self.generator)
        self.gflownet = self._make_gflownet(estimator)
        parameters = {id(p): p for p in [*self.network.parameters(), *self.gflownet.parameters()]}
        self.optimizer = torch.optim.Adam(
            [p for p in parameters.values() if p.requires_grad], lr=options.learning_rate, betas=(0.9, 0.99)
        )

    def _make_gflownet(self, estimator: object) -> Any:  # torchgfn ships no types
        """Return torchgfn's loss; log Z is set from outside, never learned."""
        common = {"loss_fn": HuberLoss(self.options.residual_scale)}
        fixed_log_z = nn.Parameter(torch.tensor(1.0), requires_grad=False)  # torchgfn takes 0 for none given
        if self.options.loss == "tb":
            return TBGFlowNet(estimator, None, logZ=fixed_log_z, constant_pb=True, **common)
        if self.options.loss == "lpv":
            return LogPartitionVarianceGFlowNet(estimator, None, constant_pb=True, **common)
        if self.options.loss == "rtb":
            base = policy_estimator(self.space, self.base.network)
            return RelativeTrajectoryBalanceGFlowNet(estimator, base, logZ=fixed_log_z, **common)
        flow = nn.Sequential(nn.Linear(self.space.n_features, 128), nn.ReLU(), nn.Linear(128, 1))
        log_flow = ScalarEstimator(flow, preprocessor=SpaceFeatures(self.space))
        return SubTBGFlowNet(estimator, None, log_flow, constant_pb=True, **common)

    # One step

    def train(self, steps: int, report: Callable[[StepReport], None] | None = None) -> None:
        """Take steps on a schedule of their own, or finish the schedule that an interruption left open."""
        if self.step >= self.segment[1]:
            self.segment = (self.step, self.step + steps)
        while self.step < self.segment[1]:
            result = self.take_step()
            if report is not None:
                report(result)

    @property
    def remaining(self) -> int:
        """Steps that are left of the schedule in force."""
        return max(0, self.segment[1] - self.step)

    def take_step(self) -> StepReport:
        """Sample, score, and take one gradient step."""
        options = self.options
        n_policy = max(1, round(options.policy_share * options.batch_size))
        n_base = round(options.base_share * options.batch_size)
        on_policy = self._sampler.rollout(
            n_policy, temperature=options.temperature, epsilon=options.epsilon, reference=self.base.network
        )
        with torch.no_grad():
            sampled = self.base.sample(n_base, self.generator) if n_base else None
        self._choose_beta()
        n_replay = max(0, options.batch_size - n_policy - n_base) if len(self.replay) else 0
        replayed = self.replay.draw(n_replay, self.base_weight, self.current_beta, self.generator) if n_replay else None

        offline = torch.cat([part.actions for part in (sampled, replayed) if part is not None] or [torch.empty(0)])
        rollouts = [on_policy]
        if len(offline):
            explore = {"temperature": options.temperature, "epsilon": options.epsilon}
            rollouts.append(self.policy.replay(visit(self.space, offline.long()), **explore))
        rollout = _join(rollouts)
        fresh = self._score(rollout, on_policy, sampled)
        log_base = torch.cat([fresh.log_base, replayed.log_base]) if replayed is not None else fresh.log_base
        log_reward = torch.cat([fresh.log_reward, replayed.log_reward]) if replayed is not None else fresh.log_reward
        self.replay.add(fresh)
        self._remember(rollout.log_drawn[:n_policy], fresh, n_policy)

        log_z = log_mean_exp(self.replay.log_weights(self.base_weight, self.current_beta))
        loss = self._balance_loss(rollout, log_base, log_reward, log_z)
        if replayed is not None and options.likelihood_weight:
            loss = loss - options.likelihood_weight * rollout.log_prob[-n_replay:].mean()
        self._descend(loss)
        self.step += 1
        share, covered = self._judge(log_z)
        mean_reward = float(fresh.log_reward[:n_policy].exp().mean())
        return StepReport(
            self.step, self.current_beta, float(loss.detach()), mean_reward, log_z, share, covered, len(self.seen)
        )

    def _score(self, rollout: Rollout, on_policy: Rollout, sampled: Rollout | None) -> Batch:
        """Evaluate base measure and reward of the fresh part of a batch, and the mixture that it was drawn from."""
        assert on_policy.log_reference is not None
        n_policy, n_base = len(on_policy.actions), 0 if sampled is None else len(sampled.actions)
        n = n_policy + n_base
        actions, state = rollout.actions[:n], rollout.state[:n]
        log_base = on_policy.log_reference
        if sampled is not None:
            log_base = torch.cat([log_base, sampled.log_prob])
        log_policy = rollout.log_drawn[:n]
        values = self.reward(self.space.materials(state))
        log_mixture = log_policy + math.log(n_policy / n)
        if n_base:
            log_mixture = torch.logaddexp(log_mixture, log_base + math.log(n_base / n))
        self.seen.update(hash(row) for row in map(tuple, actions.tolist()))
        return Batch(actions, log_base, values.log_reward, log_mixture)

    def _balance_loss(self, rollout: Rollout, log_base: Tensor, log_reward: Tensor, log_z: float) -> Tensor:
        tilt = self.current_beta * log_reward
        tilt = tilt.clamp_min(float(tilt.max()) - _DEEPEST_TILT)
        log_target = self.base_weight * log_base + tilt
        trajectories = to_trajectories(self._environment, rollout)
        if isinstance(self.gflownet, RelativeTrajectoryBalanceGFlowNet):
            log_target = log_target - log_base  # the loss adds the base measure itself
        if hasattr(self.gflownet, "logZ"):
            self.gflownet.logZ.data.fill_(log_z)
        loss: Tensor = self.gflownet.loss(
            self._environment, trajectories, recalculate_all_logprobs=False, log_rewards=log_target
        )
        return loss

    def _descend(self, loss: Tensor) -> None:
        first, last = self.segment
        progress = (self.step - first) / max(last - first, 1)
        rate = self.options.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
        self.optimizer.param_groups[0]["lr"] = rate * min(1.0, (self.step - first + 1) / 20)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
        self.optimizer.step()
        decay = min(self.options.average_decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for target, source in zip(self.average.parameters(), self.network.parameters(), strict=True):
                target.lerp_(source, 1 - decay)

    # Judging the policy by its latest samples

    def _remember(self, log_prob: Tensor, fresh: Batch, n_policy: int) -> None:
        self._recent.append((log_prob, fresh.log_base[:n_policy], fresh.log_reward[:n_policy]))
        while sum(len(part[0]) for part in self._recent) - len(self._recent[0][0]) >= _RECENT:
            self._recent.pop(0)

    def _recent_log_weights(self, beta: float) -> Tensor:
        log_prob, log_base, log_reward = (torch.cat(parts) for parts in self._recent_columns())
        return self.base_weight * log_base + beta * log_reward - log_prob

    def _judge(self, log_z: float) -> tuple[float, float]:
        weights = self._recent_log_weights(self.current_beta)
        return effective_share(weights), math.exp(min(log_mean_exp(weights) - log_z, 10.0))

    def _choose_beta(self) -> None:
        """Raise beta to the schedule's floor, and beyond as far as the effective sample size allows."""
        first, last = self.segment
        rising = max(self.options.annealing * (last - first), 1.0)
        floor = min(1.0, (self.step - first) / rising) * self.beta
        self.current_beta = max(self.current_beta, floor)
        if self.step % 10 or self.current_beta >= self.beta or not self._recent:
            return
        for candidate in torch.linspace(self.current_beta, self.beta, 17)[1:].tolist():
            if effective_share(self._recent_log_weights(candidate)) < self.options.least_effective_share:
                break
            self.current_beta = candidate

    # Checkpoints

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that the next step depends on, as tensors by name and JSON-compatible values."""
        log_prob, log_base, log_reward = (torch.cat([torch.zeros(0), *parts]) for parts in self._recent_columns())
        tensors = {
            **{f"network.{name}": value for name, value in self.network.state_dict().items()},
            **{f"average.{name}": value for name, value in self.average.state_dict().items()},
            **{f"gflownet.{name}": value for name, value in self._own_parameters().items()},
            **{f"replay.{name}": value for name, value in self.replay.state_dict().items()},
            **pack_optimizer(self.optimizer),
            "recent": torch.stack([log_prob, log_base, log_reward]),
            "seen": torch.tensor(sorted(self.seen), dtype=torch.long),
            "generator": self.generator.get_state(),
        }
        values = {
            "step": self.step,
            "segment": self.segment,
            "current_beta": self.current_beta,
            "recent_sizes": [len(part[0]) for part in self._recent],
        }
        return tensors, values

    def load_state_dict(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        self.average.load_state_dict(part("average."))
        for name, value in part("gflownet.").items():
            self._own_parameters()[name].data.copy_(value)
        self.replay.load_state_dict(part("replay."))
        unpack_optimizer(self.optimizer, tensors)
        sizes = values["recent_sizes"]
        self._recent = list(zip(*(column.split(sizes) for column in tensors["recent"]), strict=True)) if sizes else []
        self.seen = set(tensors["seen"].tolist())
        self.generator.set_state(tensors["generator"])
        self.step, self.current_beta = values["step"], values["current_beta"]
        self.segment = (values["segment"][0], values["segment"][1])

    def _own_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the loss that are not the policy's."""
        of_policy = {id(parameter) for parameter in self.network.parameters()}
        return {name: p for name, p in self.gflownet.named_parameters() if id(p) not in of_policy}

    def _recent_columns(self) -> list[list[Tensor]]:
        return [[part[column] for part in self._recent] for column in range(3)]


_DEEPEST_TILT = 16.0
"""Nats below the best reward of a batch at which the target is cut off while training."""
_RECENT = 4096
"""Latest policy samples by which the policy is judged."""


def _copy(network: PolicyNetwork) -> PolicyNetwork:
    copy = PolicyNetwork(network.feature_names, network.action_names, network.width, network.depth)
    copy.load_state_dict(network.state_dict())
    return copy


def _join(rollouts: Sequence[Rollout]) -> Rollout:
    return Rollout(
        torch.cat([rollout.actions for rollout in rollouts]),
        torch.cat([rollout.states for rollout in rollouts], dim=1),
        torch.cat([rollout.step_log_prob for rollout in rollouts]),
        log_exploring=torch.cat([rollout.log_drawn for rollout in rollouts]),
    )
