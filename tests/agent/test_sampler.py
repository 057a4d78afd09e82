"""The torchgfn face: its own checks, its own sampler and its own losses against ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gfn.estimators import ScalarEstimator
from gfn.gflownet import (
    LogPartitionVarianceGFlowNet,
    RelativeTrajectoryBalanceGFlowNet,
    SubTBGFlowNet,
    TBGFlowNet,
)
from gfn.samplers import Sampler
from torch import Tensor, nn

from agent import Objective
from agent.balance_loss import HuberLoss
from agent.condition_options import ConditionOptions
from agent.conditions import ConditionSpace
from agent.partition import LogPartition
from agent.policy import Policy, PolicyNetwork
from agent.rollout import Rollout, visit
from agent.sampler import (
    DesignGFlowNetEnv,
    SpaceFeatures,
    StaticBatchSampler,
    policy_estimator,
    to_trajectories,
)
from envs import DesignSpace
from tests.agent.examples import SPACE_NAMES, random_network, random_policy, space_named


@pytest.fixture(params=SPACE_NAMES)
def space(request: pytest.FixtureRequest) -> DesignSpace:
    return space_named(request.param)


def rollout_in(policy: Policy, n: int = 40, seed: int = 0, **exploration: float) -> Rollout:
    return policy.sample(n, torch.Generator().manual_seed(seed), **exploration)


def debug_env(space: DesignSpace) -> DesignGFlowNetEnv:
    return DesignGFlowNetEnv(space, debug=True)


def test_torchgfn_samples_the_same_containers(space: DesignSpace) -> None:
    policy, env = random_policy(space), debug_env(space)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stock = Sampler(policy_estimator(space, policy.network, debug=True)).sample_trajectories(
            env, n=40, save_logprobs=True
        )
    ours = to_trajectories(env, rollout_in(policy))
    for trajectories in (stock, ours):
        length = int(trajectories.terminating_idx.max())
        assert trajectories.states.tensor.shape == (length + 1, 40, space.state_size)
        assert trajectories.actions.tensor.shape == (length, 40, 1)
        assert trajectories.log_probs.shape == (length, 40)
        beyond = torch.arange(length)[:, None] >= trajectories.terminating_idx
        assert (trajectories.actions.tensor[beyond] == -1).all()
        assert (trajectories.states.tensor[1:][beyond] == env.sf).all()
        assert (trajectories.log_probs[beyond] == 0).all()
    finished = stock.terminating_states.tensor
    actions = space.actions_of(finished)
    assert stock.log_probs.sum(0) == pytest.approx(policy.log_prob(actions), abs=1e-4)


def test_terminating_states_are_the_finished_materials(space: DesignSpace) -> None:
    rollout = rollout_in(random_policy(space))
    trajectories = to_trajectories(debug_env(space), rollout)
    assert space.decode(trajectories.terminating_states.tensor) == space.decode(rollout.state)
    assert trajectories.log_probs.sum(0) == pytest.approx(rollout.log_prob, abs=1e-5)


def test_torchgfn_accepts_every_step_of_ours(space: DesignSpace) -> None:
    """With debug=True torchgfn checks each action against its masks."""
    env = debug_env(space)
    trajectories = to_trajectories(env, rollout_in(random_policy(space)))
    states = env.reset(batch_shape=40)
    for step in range(int(trajectories.terminating_idx.max())):
        assert torch.equal(states.tensor, trajectories.states[step].tensor)
        states = env._step(states, trajectories.actions[step])
    assert states.is_sink_state.all()


def test_backward_steps_undo_forward_steps(space: DesignSpace) -> None:
    env = debug_env(space)
    trajectories = to_trajectories(env, rollout_in(random_policy(space)))
    for step in range(int(trajectories.terminating_idx.max()) - 1):
        grown = trajectories.terminating_idx > step + 1
        after = env.states_from_tensor(trajectories.states.tensor[step + 1][grown])
        taken = env.actions_from_tensor(trajectories.actions.tensor[step][grown])
        assert (after.backward_masks.sum(-1) == 1).all()  # a tree
        assert after.backward_masks.gather(1, taken.tensor).all()
        before = env._backward_step(after, taken)
        assert torch.equal(before.tensor, trajectories.states.tensor[step][grown])
    assert not env.reset(batch_shape=3).backward_masks.any()


def test_masks_are_those_of_the_space(space: DesignSpace) -> None:
    env = debug_env(space)
    states = env.states_from_tensor(torch.cat([space.initial(2), env.sf[None]]))
    assert torch.equal(states.forward_masks[:2], space.mask(space.initial(2)))


def test_the_sampler_is_the_policy_and_refuses_what_it_cannot_do() -> None:
    space = space_named()
    policy, env = random_policy(space), debug_env(space)
    sampler = StaticBatchSampler(policy, policy_estimator(space, policy.network), torch.Generator().manual_seed(0))
    trajectories = sampler.sample_trajectories(env, n=40, epsilon=0.5)
    expected = rollout_in(policy, epsilon=0.5)
    assert trajectories.log_probs.sum(0) == pytest.approx(expected.log_prob, abs=1e-6)
    assert sampler.sample_trajectories(env, n=4, save_logprobs=False).log_probs is None
    for refused in ({}, {"n": 4, "save_estimator_outputs": True}, {"states": env.reset(batch_shape=4)}):
        with pytest.raises(ValueError, match="nothing else"):
            sampler.sample_trajectories(env, **refused)  # type: ignore[arg-type]


# Losses


def loss_of(name: str, space: DesignSpace, network: PolicyNetwork, base: PolicyNetwork, **options: Any) -> Any:
    estimator = policy_estimator(space, network, debug=True)
    if name == "tb":
        return TBGFlowNet(estimator, None, init_logZ=0.7, constant_pb=True, debug=True, **options)
    if name == "lpv":
        return LogPartitionVarianceGFlowNet(estimator, None, constant_pb=True, debug=True, **options)
    if name == "rtb":
        of_base = policy_estimator(space, base)
        return RelativeTrajectoryBalanceGFlowNet(estimator, of_base, init_logZ=0.7, debug=True, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = ScalarEstimator(nn.Linear(space.n_features, 1), preprocessor=SpaceFeatures(space))
    return SubTBGFlowNet(estimator, None, flow, constant_pb=True, debug=True, **options)


@pytest.mark.parametrize("name", ["tb", "subtb", "lpv", "rtb"])
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
@pytest.mark.parametrize("space_name", ["small", "coloured"])
def test_cached_log_probabilities_give_the_loss_that_torchgfn_recomputes(
    name: str, epsilon: float, space_name: str
) -> None:
    space = space_named(space_name)
    network, base = random_network(space, 0), random_network(space, 1)
    env = debug_env(space)
    trajectories = to_trajectories(env, rollout_in(Policy(space, network), epsilon=epsilon))
    log_rewards = torch.linspace(-2, 3, 40)
    gflownet = loss_of(name, space, network, base)
    reduction = "sum" if name == "subtb" else "mean"  # the only one that sub-trajectory balance knows
    cached, recomputed = (
        gflownet.loss(env, trajectories, again, reduction, log_rewards=log_rewards) for again in (False, True)
    )
    assert torch.isfinite(cached)
    assert cached.item() == pytest.approx(recomputed.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["tb", "lpv", "rtb"])
@pytest.mark.parametrize("scale", [0.1, 1e6])
def test_losses_are_the_formulas(name: str, scale: float) -> None:
    space = space_named()
    network, base = random_network(space, 0), random_network(space, 1)
    rollout = rollout_in(Policy(space, network))
    log_rewards = torch.linspace(-2, 3, 40)
    gflownet = loss_of(name, space, network, base, loss_fn=HuberLoss(scale))
    found = gflownet.loss(
        debug_env(space),
        to_trajectories(debug_env(space), rollout),
        recalculate_all_logprobs=False,
        log_rewards=log_rewards,
    )
    residual = rollout.log_prob - log_rewards
    if name == "rtb":
        residual = residual - Policy(space, base).log_prob(rollout.actions)
    residual = residual - residual.mean() if name == "lpv" else residual + 0.7
    assert found.item() == pytest.approx(huber(residual, scale).mean().item(), rel=1e-5)


def huber(residual: Tensor, scale: float) -> Tensor:
    """Huber's loss as he wrote it in 1964."""
    size = residual.abs()
    return torch.where(size <= scale, residual.square() / 2, scale * (size - scale / 2))


# Conditions


@pytest.mark.parametrize("space_name", ["small", "coloured"])
def test_torchgfn_samples_and_judges_under_conditions(space_name: str) -> None:
    """Its own sampler draws conditions, and its recomputed loss is ours: no condition is dropped on the way."""
    space = space_named(space_name)
    objectives = [Objective("toxicity", high=0.5), Objective("plausibility", low=0.5)]
    conditions = ConditionSpace(objectives, 4.0, ConditionOptions(own_share=0.1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = random_network(space).conditioned(conditions.feature_names)
        log_z = LogPartition(len(conditions.feature_names))
        for part in network.parts:
            assert part.condition is not None
            nn.init.normal_(part.condition[2].weight, std=0.2)
        log_z.tempering = 1.0
        env = DesignGFlowNetEnv(space, conditions, debug=True)
        estimator = policy_estimator(space, network, debug=True)
        stock = Sampler(estimator).sample_trajectories(env, n=60, save_logprobs=True)
    codes = stock.states.conditions[0]
    assert codes.shape == (60, len(conditions.feature_names))
    assert len(codes.unique(dim=0)) > 50
    actions = torch.full((60, space.max_steps), space.stop)
    length = len(stock.actions.tensor)
    placed = stock.actions.tensor.squeeze(-1).T
    actions[:, :length] = torch.where(placed < 0, space.stop, placed)
    rollout = Policy(space, network).replay(visit(space, actions), codes)
    assert stock.log_probs.nan_to_num(0).sum(0).detach() == pytest.approx(rollout.log_prob.detach(), abs=1e-4)
    plain = Policy(space, network).replay(visit(space, actions), codes.flip(0))
    assert (plain.log_prob - rollout.log_prob).abs().max() > 0.05

    gflownet = TBGFlowNet(estimator, None, logZ=log_z.estimator(), constant_pb=True, debug=True)
    ours, log_rewards = to_trajectories(env, rollout, conditions=codes), torch.linspace(-2, 3, 60)
    cached, recomputed = (gflownet.loss(env, ours, again, log_rewards=log_rewards) for again in (False, True))
    assert cached.item() == pytest.approx(recomputed.item(), rel=1e-4)
    residual = rollout.log_prob + log_z(codes).squeeze(1) - log_rewards
    assert cached.item() == pytest.approx(residual.square().mean().item(), rel=1e-4)
