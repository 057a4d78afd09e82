"""`Policy` and `PolicyNetwork`, against enumeration of every material."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from agent.policy import Policy, PolicyNetwork, visit
from envs import CompositionSpace
from tests.agent.examples import (
    SPACES,
    all_actions,
    chi_square_p,
    frequencies,
    log_distribution,
    random_network,
    random_policy,
    space_named,
)

N = 4000


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> CompositionSpace:
    return space_named(request.param)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_of_all_materials_sum_to_one(space: CompositionSpace, seed: int) -> None:
    log_prob = log_distribution(random_policy(space, seed, scale=2.0))
    assert float(log_prob.double().exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_an_untrained_network_is_the_uniform_masked_policy(space: CompositionSpace) -> None:
    log_prob = log_distribution(Policy(space, PolicyNetwork.for_space(space, width=8)))
    for actions, value in zip(all_actions(space)[:40], log_prob[:40].tolist(), strict=True):
        state, expected = space.initial(1), 0.0
        for action in actions:
            if space.is_finished(state).all():
                break
            expected -= math.log(int(space.mask(state).sum()))
            state = space.step(state, action[None])
        assert value == pytest.approx(expected, abs=1e-5)


def test_rollouts_know_their_own_log_probability(space: CompositionSpace) -> None:
    policy = random_policy(space)
    rollout = policy.sample(300, generator())
    assert rollout.log_prob == pytest.approx(policy.log_prob(rollout.actions), abs=1e-5)
    assert space.is_finished(rollout.state).all()
    assert torch.equal(space.replay(rollout.actions), rollout.state)
    assert torch.equal(space.actions_of(rollout.state), rollout.actions)
    assert torch.equal(rollout.states[0], space.initial(300))
    assert rollout.log_drawn is not None and torch.equal(rollout.log_drawn, rollout.log_prob)


def test_samples_follow_the_exact_distribution(space: CompositionSpace) -> None:
    policy = random_policy(space)
    counts = frequencies(space, space.decode(policy.sample_many(N, generator(), size=1024).state))
    assert chi_square_p(counts, log_distribution(policy)) > 0.001


@pytest.mark.parametrize(("temperature", "epsilon"), [(2.5, 0.0), (1.0, 0.4), (0.5, 0.2)])
def test_exploration_changes_the_samples_but_not_their_log_probability(temperature: float, epsilon: float) -> None:
    space = space_named()
    policy = random_policy(space, scale=1.5)
    rollout = policy.sample(N, generator(), temperature=temperature, epsilon=epsilon)
    assert rollout.log_prob == pytest.approx(policy.log_prob(rollout.actions), abs=1e-5)

    every = policy.replay(visit(space, all_actions(space)), temperature=temperature, epsilon=epsilon)
    assert every.log_prob == pytest.approx(log_distribution(policy), abs=1e-5)
    counts = frequencies(space, space.decode(rollout.state))
    assert chi_square_p(counts, every.log_drawn) > 0.001  # sums to one, too
    assert chi_square_p(counts, log_distribution(policy)) < 1e-6

    at = {tuple(actions): row for row, actions in enumerate(all_actions(space).tolist())}
    rows = [at[tuple(actions)] for actions in rollout.actions.tolist()]
    assert rollout.log_drawn == pytest.approx(every.log_drawn[rows], abs=1e-4)


def test_exploring_probabilities_are_the_textbook_ones() -> None:
    space = space_named()
    policy = random_policy(space)
    actions = all_actions(space)[7:8]
    drawn = policy.replay(visit(space, actions), temperature=2.0, epsilon=0.3).log_drawn
    state, expected = space.initial(1), 0.0
    for action in actions[0].tolist():
        if space.is_finished(state).all():
            break
        mask = space.mask(state)[0]
        logits = policy.network(space.features(state))[0]
        tempered = (logits[mask] / 2.0).softmax(0)
        mixed = torch.zeros(space.n_actions).masked_scatter(mask, 0.7 * tempered + 0.3 / mask.sum())
        expected += math.log(float(mixed[action]))
        state = space.step(state, torch.tensor([action]))
    assert float(drawn) == pytest.approx(expected, abs=1e-5)


def test_a_reference_judges_the_same_trajectories(space: CompositionSpace) -> None:
    policy, reference = random_policy(space, 0), random_policy(space, 1)
    rollout = policy.sample(200, generator(), reference=reference.network, epsilon=0.2)
    assert rollout.log_reference == pytest.approx(reference.log_prob(rollout.actions), abs=1e-5)
    assert policy.sample(5, generator()).log_reference is None


def test_rollout_and_replay_have_the_same_gradient() -> None:
    space = space_named()
    network = random_network(space).requires_grad_(True)
    policy = Policy(space, network)
    rollout = policy.sample(64, generator(), epsilon=0.3)
    gradients = []
    for log_prob in (rollout.log_prob, policy.log_prob(rollout.actions)):
        network.zero_grad()
        log_prob.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert gradients[0].norm() > 0
    assert torch.allclose(*gradients, atol=1e-4)


def test_the_same_generator_gives_the_same_rollout() -> None:
    policy = random_policy(space_named())
    torch.manual_seed(1)
    first = policy.sample(50, generator(3))
    torch.manual_seed(2)
    assert torch.equal(first.actions, policy.sample(50, generator(3)).actions)
    assert not torch.equal(first.actions, policy.sample(50, generator(4)).actions)


def test_chunks_and_single_rows_agree(space: CompositionSpace) -> None:
    policy = random_policy(space)
    actions = all_actions(space)
    whole = policy.log_prob(actions)
    assert policy.log_prob_in_chunks(actions, size=7) == pytest.approx(whole, abs=1e-5)
    assert policy.log_prob(actions[3:4]) == pytest.approx(whole[3:4], abs=1e-5)
    assert policy.log_prob_in_chunks(actions[:0]).shape == (0,)
    assert policy.sample(1, generator()).actions.shape == (1, space.max_steps)


# Transfer to other spaces


def test_transfer_matches_by_name() -> None:
    here, there = space_named("small"), CompositionSpace(["Cl", "Mg", "O", "K"], max_elements=3, max_count=4)
    network = random_network(here)
    moved = network.transfer(there.feature_names, there.action_names).requires_grad_(False)
    shared = [name for name in there.action_names if name in here.action_names]
    assert len(shared) == 10  # three counts of three elements, and STOP
    state_here = here.replay(torch.tensor([[here.action_names.index("K2"), here.action_names.index("O1")]]))
    state_there = there.replay(torch.tensor([[there.action_names.index("K2"), there.action_names.index("O1")]]))
    logits_here, logits_there = network(here.features(state_here))[0], moved(there.features(state_there))[0]
    for name in shared:
        assert float(logits_there[there.action_names.index(name)]) == pytest.approx(
            float(logits_here[here.action_names.index(name)]), abs=1e-5
        )


def test_actions_that_a_transferred_network_does_not_know_are_rare_but_possible() -> None:
    here, there = space_named("small"), space_named("larger")
    moved = Policy(there, random_network(here).transfer(there.feature_names, there.action_names))
    log_prob = log_distribution(moved)
    assert float(log_prob.double().exp().sum()) == pytest.approx(1.0, abs=1e-5)
    assert torch.isfinite(log_prob).all()
    with_magnesium = torch.tensor(["Mg" in formula for formula in there.decode(there.enumerate())])
    share = float(log_prob.double().exp()[with_magnesium].sum())
    assert 0 < share < 0.05
    assert with_magnesium.float().mean() > 0.2


def test_transfer_within_one_space_changes_nothing() -> None:
    space = space_named()
    policy = random_policy(space)
    same = Policy(space, policy.network.transfer(space.feature_names, space.action_names))
    assert torch.equal(log_distribution(same), log_distribution(policy))


# Conditions


def conditioned_network(space: CompositionSpace, seed: int = 0) -> PolicyNetwork:
    """A network whose policy differs from condition to condition."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = random_network(space, seed).conditioned([f"c{i}" for i in range(5)])
        assert network.condition is not None
        torch.nn.init.normal_(network.condition[2].weight, std=0.2)
    return network.requires_grad_(False)


CODES = torch.tensor([[0.0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0.5, 0, 0], [0, 0, 0, 1, 1]])


def test_every_condition_has_a_policy_of_its_own(space: CompositionSpace) -> None:
    network, distributions = conditioned_network(space), []
    for code in CODES:
        policy = Policy(space, network, code[None])
        distributions.append(log_distribution(policy).double().exp())
        assert float(distributions[-1].sum()) == pytest.approx(1.0, abs=1e-5)
        counts = frequencies(space, space.decode(policy.sample_many(N, generator()).state))
        assert chi_square_p(counts, log_distribution(policy)) > 0.001
    for one, other in pairwise(distributions):
        assert float((one - other).abs().sum()) > 0.05


def test_conditions_of_a_batch_are_those_of_its_rows(space: CompositionSpace) -> None:
    network = conditioned_network(space)
    policy, row = Policy(space, network), torch.arange(200) % 4
    rollout = policy.sample(200, generator(), conditions=CODES[row], temperature=1.3)
    for number in range(4):
        alone = Policy(space, network, CODES[number : number + 1])
        mine = rollout.actions[row == number]
        assert rollout.log_prob[row == number] == pytest.approx(alone.log_prob(mine), abs=1e-5)
        again = policy.replay(visit(space, rollout.actions), CODES[row], temperature=1.3)
        assert again.log_prob == pytest.approx(rollout.log_prob, abs=1e-5)
        assert again.log_exploring == pytest.approx(rollout.log_exploring, abs=1e-4)


def test_a_network_that_learns_conditions_starts_as_it_was(space: CompositionSpace) -> None:
    plain = random_network(space)
    conditioned = plain.conditioned(["a", "b"])
    expected = log_distribution(Policy(space, plain))
    for code in ([0.0, 0.0], [1.0, 0.3]):
        assert log_distribution(Policy(space, conditioned, torch.tensor([code]))) == pytest.approx(expected, abs=1e-6)
    assert plain.conditioned(()).condition is None
