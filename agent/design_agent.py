"""`DesignAgent`: a policy that samples materials in proportion to a reward, under any condition it was trained for.

space = CompositionSpace(forbidden=["Pb", "Cd"], max_elements=4)
reward = Reward([Objective("band_gap", "window", 1.1, 1.6)])
agent = DesignAgent(space, reward, prior=Prior.default(), beta=8)
agent.train(1000)
agent.sample(100)
agent.coverage()

With several objectives the policy is conditioned:

agent.sample(100, preference={"band_gap": 0.7, "e_above_hull": 0.3}, beta=16)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from agent.checks import check_prior_weight_range, check_reward, check_seed, check_settings
from agent.condition_options import ConditionOptions
from agent.conditions import Conditions, ConditionSpace, default_options
from agent.coverage import Coverage, Scored, measure_coverage
from agent.front import sample_front
from agent.interruption import interrupt_between_steps
from agent.policy import Policy, PolicyNetwork
from agent.prior import Prior
from agent.prior_weights import sample_prior_weights
from agent.replay import effective_share
from agent.reward import FunctionReward, Reward, RewardFunction, RewardValues, as_reward
from agent.rollout import Rollout
from agent.trainer import StepReport, Trainer
from agent.training_options import TrainingOptions
from envs import CrystalBatch, DesignSpace


class DesignAgent:
    """A GFlowNet over a design space, with target p(x) ~ prior(x)^prior_weight R(x)^beta.

    With several objectives, or a target range, R depends on a preference and on targets, and one policy answers all of
    them at any beta of a range, and if wanted at any prior weight. Methods that take `preference`, `beta`, `target` and
    `prior_weight` answer for the objectives' own weights and windows and the agent's own beta and prior weight where
    these are left out; they raise a ValueError for what the policy was not trained for.

    Args:
        space: What may be built.
        reward: A `Reward`, or any callable `(materials) -> array (N,)` of finite values >= 0.
        prior: The base measure; None: p(x) ~ R(x)^beta over the whole space.
        prior_weight: Exponent of the prior, 0 to 1; 0 keeps it as a start only.
        beta: Inverse temperature of the reward, positive.
        seed: Source of all randomness.
        options: Settings of the training.
        conditions: What can be asked of the policy; None: see `default_options`.

    Raises:
        ValueError: A number out of range, a range of prior weights without a prior, or a reward that fails on a first
            batch (wrong shape, NaN, negative).
    """

    def __init__(
        self,
        space: DesignSpace,
        reward: Reward | FunctionReward | RewardFunction,
        prior: Prior | None = None,
        prior_weight: float = 1.0,
        beta: float = 1.0,
        seed: int = 0,
        options: TrainingOptions | None = None,
        conditions: ConditionOptions | None = None,
    ) -> None:
        check_settings(prior_weight, beta, seed)
        self.space = space
        self.reward = as_reward(reward)
        self.prior = prior
        self.prior_weight = prior_weight if prior is not None else 0.0
        self.beta = beta
        self.seed = seed
        self.options = options or TrainingOptions()
        n_outcomes = check_reward(self.reward, space, seed)
        objectives = self.reward.objectives
        conditions = conditions or default_options(objectives, beta, self.options.loss)
        check_prior_weight_range(conditions, prior is not None)
        self.conditions = ConditionSpace(objectives, beta, conditions, self.prior_weight)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # initial weights
            base = prior.policy(space) if prior is not None else uniform_policy(space)
            self.trainer = Trainer(space, self.reward, self.conditions, base, self.options, seed, n_outcomes)
        self._generator = torch.Generator().manual_seed(seed + 1)
        self.history: list[dict[str, float]] = []

    @property
    def policy(self) -> Policy:
        """The policy in use: the moving average of the trained weights."""
        return self.policy_under(self.conditions.own)

    def policy_under(self, condition: Conditions) -> Policy:
        """Return the policy in use under one condition."""
        return Policy(self.space, self.trainer.average, self.conditions.encode(condition))

    @property
    def base(self) -> Policy:
        """The base measure: the prior, or the uniform masked policy."""
        return self.trainer.base

    def train(
        self, steps: int = 2000, *, progress: bool = True, callback: Callable[[StepReport], None] | None = None
    ) -> pd.DataFrame:
        """Train; return the history, one row a step.

        Ctrl-C takes effect between two steps, and the next call first finishes the schedule that was left open.

        Args:
            steps: Gradient steps of the schedule.
            progress: Whether to show a progress bar.
            callback: Called after every step.

        Raises:
            ValueError: steps is not positive.
        """
        from tqdm import tqdm

        if steps < 1:
            raise ValueError(f"steps: {steps} is not a positive number")
        remaining = self.trainer.remaining or steps
        with (
            tqdm(total=remaining, desc="training", unit="step", disable=not progress) as bar,
            interrupt_between_steps() as check,
        ):

            def report(step: StepReport) -> None:
                self.history.append(asdict(step))
                bar.update()
                if step.step % 10 == 0:
                    bar.set_postfix_str(
                        f"loss {step.loss:.2f}, reward {step.mean_reward:.3f}, covered {step.covered:.2f}, "
                        f"{step.n_evaluated:,} rewards computed, {step.hit_rate:.0%} known"
                    )
                if callback is not None:
                    callback(step)
                check()

            self.trainer.train(steps, report)
        return pd.DataFrame(self.history)

    def change_reward(self, reward: Reward) -> None:
        """Go on with another reward over the same objectives, with models that were fitted anew for instance.

        What was learned is kept; the latest materials of the replay are evaluated anew.

        Raises:
            ValueError: Its objectives or scalarisation are others, or it fails on a first batch.
        """
        if [replace(o, model=None) for o in reward.objectives] != [
            replace(o, model=None) for o in self.reward.objectives
        ]:
            raise ValueError("change_reward: the objectives are not those that the policy was trained for")
        n_outcomes = check_reward(reward, self.space, self.seed)
        self.reward = reward
        self.trainer.change_reward(reward, n_outcomes)

    def sample(
        self,
        n: int = 1000,
        *,
        preference: Mapping[str, float] | None = None,
        beta: float | None = None,
        target: Mapping[str, float] | None = None,
        prior_weight: float | None = None,
        corrected: bool = False,
        seed: int | None = None,
    ) -> pd.DataFrame:
        """Sample materials.

        Args:
            n: Number of samples; repetitions are kept, for they are part of the distribution.
            preference: Weights by objective, of any sum; objectives left out weigh nothing.
            beta: Inverse temperature: how greedy.
            target: Centres of windows by property, in its unit.
            prior_weight: Exponent of the prior: how close to known chemistry.
            corrected: Draw several times as many and resample them by importance weight, so that they follow the
                target itself, not the policy's approximation of it.
            seed: Of this call; None: continue the agent's own sequence.

        Returns:
            Columns material (a formula, or the text of a crystal, with formula and space_group beside it), log_prob,
            log_prior, log_reward (at beta 1), one or two (value, spread) a property and the utilities. `.attrs` has
            `effective_sample_size`, `n_drawn` and `condition`.
        """
        if n < 1:
            raise ValueError(f"n: {n} is not a positive number of samples")
        condition = self.conditions.read(preference, beta, target, prior_weight)
        generator = self._generator if seed is None else torch.Generator().manual_seed(check_seed(seed))
        return self.sample_under(condition, n, corrected, generator)

    def sample_under(self, condition: Conditions, n: int, corrected: bool, generator: torch.Generator) -> pd.DataFrame:
        """Sample materials under one condition; see `sample`."""
        n_drawn = max(4 * n, 4096) if corrected else n
        rollout = self.policy_under(condition).sample_many(n_drawn, generator)
        values = self.evaluate(rollout, condition)
        log_base = self.base.log_prob_in_chunks(rollout.actions)
        log_target = condition.prior_weight * log_base + self.reward.log_reward(values.outcomes, condition)
        log_weights = log_target - rollout.log_prob
        rows = torch.arange(n)
        if corrected:
            weights = log_weights.double().softmax(0)
            rows = torch.multinomial(weights, n, replacement=True, generator=generator)
        materials = self.space.materials(rollout.state[rows])
        described = {}
        if isinstance(materials, CrystalBatch):
            described = {"formula": list(materials.compositions), "space_group": materials.space_group.tolist()}
        frame = pd.DataFrame(
            {
                "material": list(materials),
                **described,
                "log_prob": rollout.log_prob[rows].numpy(),
                "log_prior": log_base[rows].numpy(),
                "log_reward": values.log_reward[rows].numpy(),
                **{name: column[rows].numpy() for name, column in values.columns().items()},
            }
        )
        frame.attrs["effective_sample_size"] = effective_share(log_weights) * n_drawn
        frame.attrs["n_drawn"] = n_drawn
        frame.attrs["condition"] = self.conditions.describe(condition)
        return frame

    def sample_front(
        self,
        n: int = 2000,
        *,
        n_preferences: int = 21,
        beta: float | None = None,
        target: Mapping[str, float] | None = None,
        prior_weight: float | None = None,
        seed: int | None = None,
    ) -> pd.DataFrame:
        """Sample under preferences spread evenly over all trade-offs: an approximation of the Pareto front.

        Args:
            n: Number of samples, divided evenly among the preferences.
            n_preferences: Most preferences; a simplex lattice has 3, 6, 10, 15, 21, ... points for three objectives.
            beta: As for `sample`.
            target: As for `sample`.
            prior_weight: As for `sample`.
            seed: As for `sample`.

        Returns:
            The columns of `sample`, and the weights of the preference (`preference_<objective>`) that each row was
            sampled under, rows in the order of the preferences. `.attrs` has `effective_share`, one a preference.

        Raises:
            ValueError: The policy answers no preference, or there are fewer samples or preferences than objectives.
        """
        condition = self.conditions.read(None, beta, target, prior_weight)
        generator = self._generator if seed is None else torch.Generator().manual_seed(check_seed(seed))
        return sample_front(self, n, n_preferences, condition, generator)

    def sample_prior_weights(
        self,
        n: int = 1000,
        *,
        n_weights: int = 9,
        preference: Mapping[str, float] | None = None,
        beta: float | None = None,
        target: Mapping[str, float] | None = None,
        seed: int | None = None,
    ) -> pd.DataFrame:
        """Sample under prior weights spread evenly over the trained range: hits against closeness to known chemistry.

        Args:
            n: Number of samples under each weight.
            n_weights: Number of weights, at least 2.
            preference: As for `sample`, and so are the others.
            beta: How greedy.
            target: Centres of windows by property, in its unit.
            seed: Of this call.

        Returns:
            One row a weight; see `agent.prior_weights`. `.attrs` has `condition` and `n_drawn`.

        Raises:
            ValueError: The policy answers no prior weight but its own, or n or n_weights is too small.
        """
        condition = self.conditions.read(preference, beta, target)
        generator = self._generator if seed is None else torch.Generator().manual_seed(check_seed(seed))
        return sample_prior_weights(self, n, n_weights, condition, generator)

    def coverage(
        self,
        n: int = 8192,
        seed: int = 0,
        *,
        preference: Mapping[str, float] | None = None,
        beta: float | None = None,
        target: Mapping[str, float] | None = None,
        prior_weight: float | None = None,
    ) -> Coverage:
        """Measure how much of the target the policy covers, by n samples of it and n of the base measure.

        Raises:
            ValueError: n is not positive.
        """
        if n < 1:
            raise ValueError(f"n: {n} is not a positive number of samples")
        condition = self.conditions.read(preference, beta, target, prior_weight)
        policy = self.policy_under(condition)
        generator = torch.Generator().manual_seed(seed)
        from_policy = policy.sample_many(n, generator)
        from_base = self.base.sample_many(n, generator)
        log_base = self.base.log_prob_in_chunks(from_policy.actions)
        of_policy = self._score(from_policy, from_policy.log_prob, log_base, condition)
        of_base = self._score(from_base, policy.log_prob_in_chunks(from_base.actions), from_base.log_prob, condition)
        distinct = len(torch.unique(from_policy.actions, dim=0)) / n
        return measure_coverage(of_policy, of_base, distinct)

    def _score(self, rollout: Rollout, log_policy: Tensor, log_base: Tensor, condition: Conditions) -> Scored:
        log_reward = self.reward.log_reward(self.evaluate(rollout).outcomes, condition)
        return Scored(log_policy, log_base, condition.prior_weight * log_base + log_reward)

    def evaluate(self, rollout: Rollout, condition: Conditions | None = None) -> RewardValues:
        """Return reward, utilities and properties of finished trajectories, under a preference and targets if given."""
        return self.reward(self.space.materials(rollout.state), condition)

    def log_prob(
        self,
        materials: Iterable[str],
        *,
        preference: Mapping[str, float] | None = None,
        beta: float | None = None,
        target: Mapping[str, float] | None = None,
        prior_weight: float | None = None,
    ) -> Tensor:
        """Return the exact log-probability of materials under the policy, float (N,).

        Raises:
            ValueError: A material lies outside the space; the message names it and the rule.
        """
        policy = self.policy_under(self.conditions.read(preference, beta, target, prior_weight))
        return policy.log_prob_in_chunks(self.space.encode(materials))

    def log_partition(
        self,
        *,
        preference: Mapping[str, float] | None = None,
        beta: float | None = None,
        target: Mapping[str, float] | None = None,
        prior_weight: float | None = None,
    ) -> float:
        """Return the training's estimate of log Z, the logarithm of the summed target.

        Raises:
            ValueError: The agent was not trained.
        """
        condition = self.conditions.read(preference, beta, target, prior_weight)
        if not self.history:
            raise ValueError("log_partition: the agent was not trained yet")
        if self.trainer.log_partition is None:
            return self.history[-1]["log_z"]
        return float(self.trainer.log_partition(self.conditions.encode(condition)))

    def save(self, path: str | Path) -> None:
        """Write a checkpoint from which training goes on bit for bit; see `agent.checkpoint`."""
        from agent.checkpoint import save_agent

        save_agent(self, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        space: DesignSpace | None = None,
        reward: Reward | FunctionReward | RewardFunction | None = None,
    ) -> DesignAgent:
        """Read a checkpoint.

        Args:
            path: What `save` wrote.
            space: If given, the checkpoint must belong to an equal one.
            reward: Needed when the reward was not made of embedded properties alone.

        Raises:
            ValueError: Not a checkpoint, cut short, of another space, or a reward is needed.
        """
        from agent.checkpoint import load_agent

        return load_agent(path, space, reward)


def uniform_policy(space: DesignSpace) -> Policy:
    """Return the policy that takes every allowed action with the same probability."""
    return Policy(space, PolicyNetwork.for_space(space).requires_grad_(False))
