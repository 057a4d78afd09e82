"""Training: from the base measure to the target, p(x | c) ~ base(x)^w R(x | c), under every condition c.

Every step mixes these sources and takes one gradient step on a torchgfn loss:

- materials sampled from the policy, on-policy or exploring, each under a condition of its own;
- materials sampled from the base measure (the prior, or the uniform masked policy), which keep every region in sight;
- materials replayed in proportion to the target under a few newly drawn conditions, by their exact importance weights;
  on these the likelihood is raised as well;
- if asked for, the best materials found so far and edits of them (genetic search, as in Kim et al. 2024,
  arXiv:2402.05961), which only the balance loss sees.

The log-partition function is not learned from the loss: it is the importance-sampling estimate from the replayed
mixture (smoothed over conditions by a small network), so a policy that leaves out part of the target sees everywhere
else that it is too likely. All conditions are tempered by a common share, which rises to 1 as fast as the effective
sample size allows. What is kept is a moving average of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from gfn.gflownet import RelativeTrajectoryBalanceGFlowNet
from torch import Tensor, nn

from agent.balance_loss import make_gflownet
from agent.checks import check_loss
from agent.conditions import Conditions, ConditionSpace
from agent.optimizer_state import pack_optimizer, unpack_optimizer
from agent.partition import LogPartition
from agent.policy import Policy
from agent.replay import Batch, Replay, draw, effective_share, log_mean_exp, log_mean_exp_rows
from agent.reward import FunctionReward, Reward
from agent.rollout import Rollout, visit
from agent.sampler import DesignGFlowNetEnv, StaticBatchSampler, policy_estimator, to_trajectories
from agent.training_options import TrainingOptions
from envs import DesignSpace


@dataclass(frozen=True)
class StepReport:
    """What one step saw."""

    step: int
    beta: float
    """Of the run's own condition, to which all that follow belong too."""
    loss: float
    mean_reward: float
    """Mean over the policy's samples, at inverse temperature 1."""
    log_z: float
    """Importance-sampling estimate from the replayed mixture at this beta."""
    effective_share: float
    """Effective sample size of the policy's latest samples as a share of their number."""
    covered: float
    """Share of the target covered: exp(log Z from the policy's samples - log Z from the mixture)."""
    n_evaluated: int
    """Materials whose reward was computed so far, under all conditions."""
    hit_rate: float
    """Share of the rewards asked for so far that were known already."""


@dataclass(frozen=True)
class _Weighed:
    """Replayed entries and their weights under G conditions."""

    conditions: Conditions
    codes: Tensor
    """The conditions encoded, float (G, C)."""
    entries: Batch
    """P of them."""
    log_target: Tensor
    """Unnormalised log-targets, float (G, P)."""
    log_weights: Tensor
    """Log importance weights, float (G, P); -inf for entries of unknown density."""


class Trainer:
    """The state of a training run: networks, optimiser, replay, random numbers, schedule.

    Args:
        space: The design space.
        reward: What materials are worth under a condition.
        conditions: What the policy answers.
        base: The base measure; the policy starts as a copy of its network.
        options: Settings.
        seed: Source of all randomness.
        n_outcomes: Columns of the reward's outcomes.

    Raises:
        ValueError: A loss that cannot be conditioned.
    """

    def __init__(
        self,
        space: DesignSpace,
        reward: Reward | FunctionReward,
        conditions: ConditionSpace,
        base: Policy,
        options: TrainingOptions,
        seed: int,
        n_outcomes: int,
    ) -> None:
        check_loss(options.loss, conditions)
        self.space, self.reward, self.conditions, self.base = space, reward, conditions, base
        self.options = options
        self.generator = torch.Generator().manual_seed(seed)
        self.network = base.network.conditioned(conditions.feature_names).requires_grad_(True)
        self.average = base.network.conditioned(conditions.feature_names).requires_grad_(False)
        self.average.load_state_dict(self.network.state_dict())
        wide = conditions.prior_weight_range is not None
        n_codes = len(conditions.feature_names)
        self.log_partition = None if conditions.is_fixed else LogPartition(n_codes, wide_range=wide)
        self.policy = Policy(space, self.network)
        self.replay = Replay(options.replay_capacity, space.max_steps, n_outcomes)
        self.recent = Replay(max(_RECENT, options.batch_size), space.max_steps, n_outcomes)
        self.tempering = 0.0
        self.step = 0
        self.segment = (0, 0)  # first and last step of the schedule in force
        self._environment = DesignGFlowNetEnv(space, conditions)
        estimator = policy_estimator(space, self.network)
        self._sampler = StaticBatchSampler(self.policy, estimator, self.generator)
        self.gflownet = make_gflownet(options, space, estimator, base.network, self.log_partition)
        parameters = {id(p): p for p in [*self.network.parameters(), *self.gflownet.parameters()]}
        self.optimizer = torch.optim.Adam(
            [p for p in parameters.values() if p.requires_grad], lr=options.learning_rate, betas=(0.9, 0.99)
        )

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
        fresh_conditions = self.conditions.draw(n_policy + n_base, self.generator)
        codes = self.conditions.encode(fresh_conditions)
        explore = {"temperature": options.temperature, "epsilon": options.epsilon}
        on_policy = self._sampler.rollout(n_policy, conditions=codes[:n_policy], reference=self.base.network, **explore)
        with torch.no_grad():
            sampled = self.base.sample(n_base, self.generator, keep_states=False) if n_base else None
        self._raise_tempering()
        weighed = self._weigh() if len(self.replay) else None
        n_search = round(options.search_share * options.batch_size) if weighed else 0
        n_replay = max(0, options.batch_size - n_policy - n_base - n_search) if weighed else 0
        found, replayed, all_codes, all_conditions = None, None, codes, fresh_conditions
        if weighed is not None and n_search:
            found, target = self._search(weighed, n_search)
            all_codes = torch.cat([all_codes, weighed.codes[target]])
            all_conditions = Conditions.join([all_conditions, weighed.conditions[target]])
        if weighed is not None and n_replay:
            replayed, target = draw(weighed.entries, weighed.log_weights, n_replay, self.generator)
            all_codes = torch.cat([all_codes, weighed.codes[target]])
            all_conditions = Conditions.join([all_conditions, weighed.conditions[target]])
        rollouts = [on_policy]
        offline = [part.actions for part in (sampled, found, replayed) if part is not None]
        if offline:
            visited = visit(self.space, torch.cat(offline))
            rollouts.append(self.policy.replay(visited, all_codes[n_policy:], **explore))
        rollout = _join(rollouts)
        fresh = self._score(rollout, on_policy, sampled)
        self.replay.add(fresh)
        n_own = self.conditions.n_own(n_policy)
        self.recent.add(replace(fresh[:n_own], log_mixture=rollout.log_drawn[:n_own]))

        weighed = weighed or self._weigh()
        estimates = log_mean_exp_rows(weighed.log_weights[:, weighed.entries.log_mixture.isfinite()])
        entries = Batch.join([part for part in (fresh, found, replayed) if part is not None])
        loss: Tensor | float = 0.0
        if self.log_partition is not None:
            self.log_partition.tempering = self.tempering
            self.log_partition.observe(weighed.codes, estimates)
            loss = self.log_partition.loss(self.generator)
        if n_replay and options.likelihood_weight:
            loss = loss - options.likelihood_weight * rollout.log_prob[-n_replay:].mean()
        balance = self._balance_loss(rollout, entries, all_conditions, all_codes, estimates[0])
        self._descend(loss + balance)
        self.step += 1
        log_z = float(estimates[0])
        own = self.reward.log_reward(fresh.outcomes[:n_own], replace(self.conditions.own, beta=torch.ones(1)))
        weights = self._own_weights(self.tempering)
        return StepReport(
            self.step,
            self.tempering * float(self.conditions.own.beta),
            float(balance.detach()),
            float(own.exp().mean()),
            log_z,
            effective_share(weights),
            math.exp(min(log_mean_exp(weights) - log_z, 10.0)),
            self.replay.n_evaluated,
            self.replay.hit_rate,
        )

    def _weigh(self) -> _Weighed:
        """Weigh replayed entries under a few conditions, the run's own first."""
        conditions = self.conditions.draw(1 if self.conditions.is_fixed else _ANCHORS, self.generator)
        most = max(_WEIGHTS // len(conditions), 2 * self.options.batch_size)  # more than one step's edited materials
        entries = self.replay.window(most, self.generator)
        tempered = self.conditions.tempered(conditions, self.tempering).each
        log_target = self.reward.log_reward(entries.outcomes, tempered) + tempered.prior_weight * entries.log_base
        codes = self.conditions.encode(conditions)
        return _Weighed(conditions, codes, entries, log_target, log_target - entries.log_mixture)

    def _search(self, weighed: _Weighed, n: int) -> tuple[Batch, Tensor]:
        """Take n of the best materials found so far, edit half of them, and score and keep what came out.

        The density of edited ones is unknown: in the replay they have no weight in estimates, but can be taken again.

        Returns:
            The materials, and the number of the condition under which each was chosen, long (n,).
        """
        chosen, target = draw(weighed.entries, weighed.log_target, n, self.generator)
        n_edited = (n + 1) // 2
        actions = self.space.edit(chosen.actions[:n_edited], self.generator)
        outcomes = self._outcomes(actions, self.space.replay(actions))
        unknown = torch.full((n_edited,), torch.inf)
        edited = Batch(actions, self.base.log_prob_in_chunks(actions), outcomes, unknown)
        self.replay.add(edited)
        return Batch.join([edited, chosen[n_edited:]]), target

    def _outcomes(self, actions: Tensor, state: Tensor, ring: Replay | None = None) -> Tensor:
        """Return the outcomes of finished trajectories, evaluating only what the replay does not hold, float (n, K)."""
        ring = self.replay if ring is None else ring
        return ring.outcomes_of(actions, lambda rows: self.reward(self.space.materials(state[rows])).outcomes)

    def _score(self, rollout: Rollout, on_policy: Rollout, sampled: Rollout | None) -> Batch:
        """Evaluate base measure and reward of the fresh part of a batch, and the mixture that it was drawn from."""
        assert on_policy.log_reference is not None
        n_policy, n_base = len(on_policy.actions), 0 if sampled is None else len(sampled.actions)
        n = n_policy + n_base
        actions, state = rollout.actions[:n], rollout.state[:n]
        log_base = on_policy.log_reference
        if sampled is not None:
            log_base = torch.cat([log_base, sampled.log_prob])
        log_mixture = rollout.log_drawn[:n] + math.log(n_policy / n)
        if n_base:
            log_mixture = torch.logaddexp(log_mixture, log_base + math.log(n_base / n))
        return Batch(actions, log_base, self._outcomes(actions, state), log_mixture)

    def _balance_loss(
        self, rollout: Rollout, entries: Batch, conditions: Conditions, codes: Tensor, own_log_z: Tensor
    ) -> Tensor:
        log_z = own_log_z if self.log_partition is None else self.log_partition(codes).squeeze(1)
        tempered = self.conditions.tempered(conditions, self.tempering)
        tilt = self.reward.log_reward(entries.outcomes, tempered)
        lowest = log_z + (1 - tempered.prior_weight) * entries.log_base - _DEEPEST_RATIO
        log_target = tempered.prior_weight * entries.log_base + torch.maximum(tilt, lowest)
        trajectories = to_trajectories(self._environment, rollout, conditions=codes if codes.shape[1] else None)
        if isinstance(self.gflownet, RelativeTrajectoryBalanceGFlowNet):
            log_target = log_target - entries.log_base  # the loss adds the base measure itself
        if self.log_partition is None and hasattr(self.gflownet, "logZ"):
            self.gflownet.logZ.data.copy_(own_log_z)
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

    # Another reward

    def change_reward(self, reward: Reward | FunctionReward, n_outcomes: int) -> None:
        """Go on with another reward: the latest replayed materials are evaluated anew, and tempering starts again.

        Args:
            reward: Over the same objectives.
            n_outcomes: Columns of its outcomes.
        """
        self.reward = reward
        if self.log_partition is not None:
            self.log_partition.forget()
        self.replay = self._evaluated_anew(self.replay, n_outcomes)
        self.recent = self._evaluated_anew(self.recent, n_outcomes)
        self.tempering = 0.0
        if len(self.recent):
            self._temper_as_far_as_allowed()

    def _evaluated_anew(self, ring: Replay, n_outcomes: int) -> Replay:
        latest = ring.latest(_KEPT)
        result = Replay(ring.capacity, self.space.max_steps, n_outcomes)
        result.n_requested, result.n_evaluated = ring.n_requested, ring.n_evaluated
        for first in range(0, len(latest.actions), _CHUNK):
            entries = latest[first : first + _CHUNK]
            outcomes = self._outcomes(entries.actions, self.space.replay(entries.actions), result)
            result.add(replace(entries, outcomes=outcomes))
        return result

    # Judging the policy by its latest samples

    def _own_weights(self, tempering: float) -> Tensor:
        """Return the log importance weights of the latest samples under the run's own condition, float (n,)."""
        latest = self.recent.contents()
        own = self.conditions.tempered(self.conditions.own, tempering)
        log_reward = self.reward.log_reward(latest.outcomes, own)
        return own.prior_weight * latest.log_base + log_reward - latest.log_mixture

    def _raise_tempering(self) -> None:
        """Raise the tempering to the schedule's floor, and beyond as far as the effective sample size allows."""
        first, last = self.segment
        rising = max(self.options.annealing * (last - first), 1.0)
        self.tempering = max(self.tempering, min(1.0, (self.step - first) / rising))
        if self.step % 10 == 0 and self.tempering < 1 and len(self.recent):
            self._temper_as_far_as_allowed()

    def _temper_as_far_as_allowed(self) -> None:
        """Raise the tempering while the latest samples keep their effective sample size."""
        for candidate in torch.linspace(self.tempering, 1.0, 17)[1:].tolist():
            if effective_share(self._own_weights(candidate)) < self.options.least_effective_share:
                break
            self.tempering = candidate

    # Checkpoints

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that the next step depends on, as tensors by name and JSON-compatible values."""
        tensors = {
            **{f"network.{name}": value for name, value in self.network.state_dict().items()},
            **{f"average.{name}": value for name, value in self.average.state_dict().items()},
            **{f"gflownet.{name}": value for name, value in self._own_tensors().items()},
            **{f"replay.{name}": value for name, value in self.replay.state_dict().items()},
            **{f"recent.{name}": value for name, value in self.recent.state_dict().items()},
            **pack_optimizer(self.optimizer),
            "generator": self.generator.get_state(),
        }
        return tensors, {"step": self.step, "segment": self.segment, "tempering": self.tempering}

    def load_state_dict(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        self.average.load_state_dict(part("average."))
        for name, value in self._own_tensors().items():
            value.copy_(tensors[f"gflownet.{name}"])
        self.replay.load_state_dict(part("replay."))
        self.recent.load_state_dict(part("recent."))
        unpack_optimizer(self.optimizer, tensors)
        self.generator.set_state(tensors["generator"])
        self.step, self.tempering = values["step"], values["tempering"]
        if self.log_partition is not None:
            self.log_partition.tempering = self.tempering
        self.segment = (values["segment"][0], values["segment"][1])

    def _own_tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of the loss that are neither the policy's nor the base measure's."""
        others = [*self.network.state_dict().values(), *self.base.network.state_dict().values()]
        known = {value.data_ptr() for value in others}
        own = self.gflownet.state_dict()
        return {name: value for name, value in own.items() if value.data_ptr() not in known}


_DEEPEST_RATIO = 12.0
"""Nats by which the target may lie below the base measure while training; beyond, it is cut off."""
_ANCHORS = 8
"""Conditions under which replayed entries are weighed in a step."""
_WEIGHTS = 65_536
"""Most importance weights computed in a step, all conditions together."""
_KEPT, _CHUNK = 20_000, 2048
"""Replayed materials that are evaluated anew when the reward changes, and how many at a time."""
_RECENT = 4096
"""Latest policy samples under the run's own condition, by which the policy is judged."""


def _join(rollouts: Sequence[Rollout]) -> Rollout:
    return Rollout(
        torch.cat([rollout.actions for rollout in rollouts]),
        torch.cat([rollout.states for rollout in rollouts], dim=1),
        torch.cat([rollout.step_log_prob for rollout in rollouts]),
        log_exploring=torch.cat([rollout.log_drawn for rollout in rollouts]),
    )
