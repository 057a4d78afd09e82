"""A design space and its policy as torchgfn sees them: environment, estimator and static-batch sampler.

torchgfn supplies the losses and containers; its own sampler and replay are several times slower than a static batch
(see `experiments/benchmarks/throughput.py`), so `StaticBatchSampler` rolls out with `agent.policy` and returns real
`Trajectories`. `Trajectories.log_probs` always belong to the policy itself, never to the exploring mixture, so losses
are called with `recalculate_all_logprobs=False`.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from gfn.actions import Actions
from gfn.containers import Trajectories
from gfn.env import DiscreteEnv
from gfn.estimators import ConditionalDiscretePolicyEstimator, DiscretePolicyEstimator
from gfn.preprocessors import IdentityPreprocessor, Preprocessor
from gfn.samplers import Sampler
from gfn.states import DiscreteStates, States
from torch import Tensor, nn

from agent.conditions import ConditionSpace
from agent.policy import Policy, PolicyNetwork
from agent.rollout import Rollout
from envs import DesignSpace


class DesignGFlowNetEnv(DiscreteEnv):  # type: ignore[misc]  # torchgfn ships no types
    """A design space as a torchgfn environment: states are the space's own rows, the last action is EXIT.

    The trajectory of a material is unique, so the backward policy is 1: use losses with `pb=None, constant_pb=True`.
    Rewards are handed to the losses; the environment has none.

    Args:
        space: What may be built.
        conditions: What a conditioned policy answers; None, or a fixed condition: the environment is unconditional.
        seed: Of the conditions that torchgfn's own samplers ask for.
        debug: Whether torchgfn checks every action.
    """

    def __init__(
        self, space: DesignSpace, conditions: ConditionSpace | None = None, seed: int = 0, debug: bool = False
    ) -> None:
        self.space, self.conditions = space, conditions
        self.is_conditional = conditions is not None and not conditions.is_fixed
        self._generator = torch.Generator().manual_seed(seed)
        start = space.initial(1)[0]
        super().__init__(space.n_actions, start, (space.state_size,), sf=torch.full_like(start, -1), debug=False)
        self.debug = debug

    def sample_conditions(self, batch_shape: int | tuple[int, ...]) -> Tensor:
        """Return encoded conditions as they are drawn in training, float (*batch_shape, C)."""
        assert self.conditions is not None
        shape = (batch_shape,) if isinstance(batch_shape, int) else tuple(batch_shape)
        codes = self.conditions.encode(self.conditions.draw(math.prod(shape), self._generator))
        return codes.reshape(*shape, -1)

    def make_states_class(self) -> type[DiscreteStates]:
        """Return a States class whose masks come from the space."""
        environment = self

        class DesignStates(DiscreteStates):  # type: ignore[misc]
            state_shape = environment.state_shape
            s0 = environment.s0
            sf = environment.sf
            n_actions = environment.n_actions
            make_random_states = environment.make_random_states

            def _compute_forward_masks(self) -> Tensor:
                rows = self.tensor.reshape(-1, environment.space.state_size)
                mask = torch.ones(len(rows), environment.n_actions, dtype=torch.bool)
                inside = (rows != environment.sf).any(1)
                mask[inside] = environment.space.mask(rows[inside])
                return mask.reshape(*self.batch_shape, -1)

            def _compute_backward_masks(self) -> Tensor:
                rows = self.tensor.reshape(-1, environment.space.state_size)
                mask = torch.zeros(len(rows), environment.n_actions - 1, dtype=torch.bool)
                inside = (rows != environment.sf).any(1).nonzero().squeeze(1)
                actions = environment.space.actions_of(rows[inside])
                n_placed = (actions != environment.space.stop).sum(1)
                grown = n_placed > 0
                mask[inside[grown], actions[grown, n_placed[grown] - 1]] = True
                return mask.reshape(*self.batch_shape, -1)

        return DesignStates

    def step(self, states: DiscreteStates, actions: Actions) -> DiscreteStates:
        """Return the states after adding one building block each."""
        return cast(
            DiscreteStates,
            self.states_from_tensor(self.space.step(states.tensor, actions.tensor.squeeze(-1))),
        )

    def backward_step(self, states: DiscreteStates, actions: Actions) -> DiscreteStates:
        """Return the states before their last building block; a tree leaves no choice."""
        return cast(DiscreteStates, self.states_from_tensor(self.space.undo(states.tensor)))


class SpaceFeatures(Preprocessor):  # type: ignore[misc]
    """torchgfn preprocessor: states -> features of the space."""

    def __init__(self, space: DesignSpace) -> None:
        super().__init__(output_dim=space.n_features)
        self.space = space

    def preprocess(self, states: States) -> Tensor:
        """Return the features, float (*batch, F)."""
        rows = states.tensor.reshape(-1, self.space.state_size)
        return self.space.features(rows).reshape(*states.batch_shape, -1)


class SpaceLogits(nn.Module):
    """A network as torchgfn wants it: states, and encoded conditions if it knows any -> logits of all actions.

    Actions of another kind than the next one's get a logit of 0; the masks leave them out.
    """

    def __init__(self, space: DesignSpace, network: PolicyNetwork) -> None:
        super().__init__()
        self.space, self.network = space, network

    def forward(self, states: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return the logits, float (*batch, n_actions), of states (*batch, state_size), conditions (*batch, C)."""
        state = states.reshape(-1, self.space.state_size)
        each = torch.arange(len(state))
        judge = self.network.under(None if conditions is None else conditions.reshape(len(state), -1))
        logits = torch.zeros(len(state), self.space.n_actions)
        for number, rows in self.space.rows_by_kind(state):
            kind = self.space.kinds[number]
            if kind.size > 1:
                features = self.space.features_of(number, state[rows])
                logits[rows, kind.start : kind.start + kind.size] = judge(number, features, each[rows])
        return logits.reshape(*states.shape[:-1], -1)


class ConditionedPolicyEstimator(ConditionalDiscretePolicyEstimator):  # type: ignore[misc]
    """A conditioned network as a torchgfn forward-policy estimator: states and encoded conditions -> logits."""

    def __init__(self, space: DesignSpace, network: PolicyNetwork, debug: bool = False) -> None:
        nothing = nn.Identity()  # state, condition and joint module are one network here
        module, states = SpaceLogits(space, network), IdentityPreprocessor(space.state_size)
        super().__init__(module, nothing, nothing, space.n_actions, states, debug=debug)

    def _forward_trunk(self, states: States, conditions: Tensor) -> Tensor:
        logits: Tensor = self.module(self.preprocessor(states), conditions)
        return logits


def policy_estimator(space: DesignSpace, network: PolicyNetwork, debug: bool = False) -> Any:
    """Return the network as a torchgfn forward-policy estimator, a conditional one where it knows conditions."""
    if network.is_conditioned:
        return ConditionedPolicyEstimator(space, network, debug)
    states = IdentityPreprocessor(space.state_size)
    return DiscretePolicyEstimator(SpaceLogits(space, network), space.n_actions, states, debug=debug)


class StaticBatchSampler(Sampler):  # type: ignore[misc]
    """torchgfn sampler that rolls out a static batch with `Policy.sample`."""

    def __init__(self, policy: Policy, estimator: Any, generator: torch.Generator) -> None:
        super().__init__(estimator)
        self.policy = policy
        self.generator = generator

    def sample_trajectories(
        self,
        env: DesignGFlowNetEnv,
        n: int | None = None,
        states: States | None = None,
        conditions: Tensor | None = None,
        save_estimator_outputs: bool = False,
        save_logprobs: bool = True,
        **exploration: Any,
    ) -> Trajectories:
        """Roll out n trajectories from the empty object; `exploration` is passed to `Policy.sample`.

        Raises:
            ValueError: Asked for something that a static batch does not do: start states, conditions, outputs.
        """
        if n is None or states is not None or conditions is not None or save_estimator_outputs:
            raise ValueError("StaticBatchSampler rolls out n trajectories from the empty object and nothing else")
        return to_trajectories(env, self.rollout(n, **exploration), save_logprobs)

    def rollout(self, n: int, **exploration: Any) -> Rollout:
        """Roll out n trajectories with the sampler's policy and random numbers."""
        return self.policy.sample(n, self.generator, **exploration)


def to_trajectories(
    env: DesignGFlowNetEnv, rollout: Rollout, save_logprobs: bool = True, conditions: Tensor | None = None
) -> Trajectories:
    """Return a rollout as torchgfn `Trajectories`, states and actions by step, with encoded conditions (n, C)."""
    space = env.space
    terminating_idx = (rollout.actions == space.stop).int().argmax(1) + 1
    length = int(terminating_idx.max())
    beyond = torch.arange(length + 1)[:, None] >= terminating_idx
    states = torch.where(beyond[..., None], env.sf, rollout.states[: length + 1])
    actions = torch.where(beyond[:-1], -1, rollout.actions[:, :length].T).unsqueeze(-1)
    return Trajectories(
        env,
        env.states_from_tensor(states, None if conditions is None else conditions.expand(length + 1, -1, -1)),
        env.actions_from_tensor(actions),
        terminating_idx,
        log_probs=rollout.step_log_prob[:, :length].T if save_logprobs else None,
    )
