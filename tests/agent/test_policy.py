"""`Policy` and `PolicyNetwork`, against enumeration of every material."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from agent.policy import Policy, PolicyNetwork
from agent.rollout import visit
from envs import CompositionSpace, DesignSpace
from tests.agent.examples import (
    SMALL,
    SPACE_NAMES,
    all_actions,
    all_formulas,
    chi_square_p,
    frequencies,
    log_distribution,
    random_network,
    random_policy,
    space_named,
)
from tests.envs.mixed_spaces import TAGS, ColouredNumbers, TaggedCompositions

N = 4000


@pytest.fixture(params=SPACE_NAMES)
def space(request: pytest.FixtureRequest) -> DesignSpace:
    return space_named(request.param)


@pytest.fixture
def numbers() -> ColouredNumbers:
    return space_named("coloured")  # type: ignore[no-any-return]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_of_all_materials_sum_to_one(space: DesignSpace, seed: int) -> None:
    log_prob = log_distribution(random_policy(space, seed, scale=2.0))
    assert float(log_prob.double().exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_an_untrained_network_is_the_uniform_masked_policy(space: DesignSpace) -> None:
    log_prob = log_distribution(Policy(space, PolicyNetwork.for_space(space, width=8)))
    for actions, value in zip(all_actions(space)[:40], log_prob[:40].tolist(), strict=True):
        state, expected = space.initial(1), 0.0
        for action in actions:
            if space.is_finished(state).all():
                break
            expected -= math.log(int(space.mask(state).sum()))
            state = space.step(state, action[None])
        assert value == pytest.approx(expected, abs=1e-5)


def test_rollouts_know_their_own_log_probability(space: DesignSpace) -> None:
    policy = random_policy(space)
    rollout = policy.sample(300, generator())
    assert rollout.log_prob == pytest.approx(policy.log_prob(rollout.actions), abs=1e-5)
    assert space.is_finished(rollout.state).all()
    assert torch.equal(space.replay(rollout.actions), rollout.state)
    assert torch.equal(space.actions_of(rollout.state), rollout.actions)
    assert torch.equal(rollout.states[0], space.initial(300))
    assert rollout.log_drawn is not None and torch.equal(rollout.log_drawn, rollout.log_prob)


def test_samples_follow_the_exact_distribution(space: DesignSpace) -> None:
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
        logits = policy.network.logits(0, space.features(state))[0]
        tempered = (logits[mask] / 2.0).softmax(0)
        mixed = torch.zeros(space.n_actions).masked_scatter(mask, 0.7 * tempered + 0.3 / mask.sum())
        expected += math.log(float(mixed[action]))
        state = space.step(state, torch.tensor([action]))
    assert float(drawn) == pytest.approx(expected, abs=1e-5)


def test_a_reference_judges_the_same_trajectories(space: DesignSpace) -> None:
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


def test_chunks_and_single_rows_agree(space: DesignSpace) -> None:
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
    moved = network.transfer(there).requires_grad_(False)
    shared = [name for name in there.action_names if name in here.action_names]
    assert len(shared) == 10  # three counts of three elements, and STOP
    state_here = here.replay(torch.tensor([[here.action_names.index("K2"), here.action_names.index("O1")]]))
    state_there = there.replay(torch.tensor([[there.action_names.index("K2"), there.action_names.index("O1")]]))
    logits_here = network.logits(0, here.features(state_here))[0]
    logits_there = moved.logits(0, there.features(state_there))[0]
    for name in shared:
        assert float(logits_there[there.action_names.index(name)]) == pytest.approx(
            float(logits_here[here.action_names.index(name)]), abs=1e-5
        )


def test_actions_that_a_transferred_network_does_not_know_are_rare_but_possible() -> None:
    here, there = space_named("small"), space_named("larger")
    moved = Policy(there, random_network(here).transfer(there))
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
    same = Policy(space, policy.network.transfer(space))
    assert torch.equal(log_distribution(same), log_distribution(policy))


# Several kinds of action


def test_a_head_is_a_slice_of_its_part(numbers: ColouredNumbers) -> None:
    network = random_network(numbers)
    assert [len(part.action_names) for part in network.parts] == [5, 4]
    state = numbers.initial(3)
    for kind, part, outputs in ((0, 0, slice(0, 3)), (1, 1, slice(0, 3)), (2, 0, slice(3, 5)), (3, 1, slice(3, 4))):
        features = numbers.features_of(kind, state)
        whole = network.parts[part].output(network.parts[part].trunk(features))
        assert network.logits(kind, features) == pytest.approx(whole[:, outputs], abs=1e-6)


def test_every_head_that_leaves_a_choice_gets_a_gradient(numbers: ColouredNumbers) -> None:
    for through_rollout in (True, False):
        network = random_network(numbers).requires_grad_(True)
        policy = Policy(numbers, network)
        sampled = policy.sample(100, generator())
        log_prob = sampled.log_prob if through_rollout else policy.log_prob(sampled.actions)
        log_prob.square().mean().backward()  # type: ignore[no-untyped-call]
        for part in network.parts:
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
        reached = [part.output.weight.grad.abs().sum(1) > 0 for part in network.parts]
        assert reached[0].all()
        assert reached[1].tolist() == [True, True, True, False]  # STOP is no choice


def test_visited_states_are_grouped_by_kind(numbers: ColouredNumbers) -> None:
    visited = visit(numbers, numbers.encode(["red 13", "blue 2"]))
    assert [(group.kind, group.row.tolist(), group.step.tolist()) for group in visited.groups] == [
        (0, [0, 1], [0, 0]),
        (1, [0, 1, 0], [1, 1, 3]),
        (2, [0, 1], [2, 2]),  # red 13 may not grow: no choice
    ]
    assert [tuple(group.mask.shape) for group in visited.groups] == [(2, 3), (3, 3), (2, 2)]
    assert visit(numbers, visited.actions[:0]).groups == ()


def test_states_on_the_way_are_kept_on_demand(space: DesignSpace) -> None:
    policy = random_policy(space)
    whole, ends = policy.sample(60, generator()), policy.sample(60, generator(), keep_states=False)
    assert torch.equal(whole.actions, ends.actions)
    assert torch.equal(ends.states, whole.states[-1:])
    expected = space.initial(60)
    for step, actions in enumerate(whole.actions.T, 1):
        expected = space.step(expected, actions)
        assert torch.equal(whole.states[step], expected)
    assert torch.equal(visit(space, whole.actions).states, whole.states)
    assert torch.equal(visit(space, whole.actions, keep_states=False).states, ends.states)


def test_a_network_is_carried_over_part_by_part() -> None:
    alone, tagged = space_named(), TaggedCompositions(**SMALL)
    network = random_network(alone)
    with torch.random.fork_rng(devices=[]):
        moved = Policy(tagged, network.transfer(tagged).requires_grad_(False))
        back = Policy(alone, random_network(tagged, 5).transfer(alone).requires_grad_(False))
    formulas = all_formulas(alone)
    expected = log_distribution(Policy(alone, network)) - math.log(3)
    for tag in ("cubic", "other"):
        actions = tagged.encode([f"{formula} {tag}" for formula in formulas])
        assert moved.log_prob(actions) == pytest.approx(expected, abs=1e-5)
    of_composition, of_all = log_distribution(back), Policy(tagged, random_network(tagged, 5)).log_prob
    for number, formula in enumerate(formulas[:20]):  # what the tags add up to is the composition's own probability
        every_tag = of_all(tagged.encode([f"{formula} {tag}" for tag in TAGS]))
        assert float(every_tag.logsumexp(0)) == pytest.approx(float(of_composition[number]), abs=1e-5)


def test_parts_that_share_nothing_start_uniform(numbers: ColouredNumbers) -> None:
    moved = Policy(numbers, random_network(space_named()).transfer(numbers))
    uniform = Policy(numbers, PolicyNetwork.for_space(numbers))
    assert log_distribution(moved) == pytest.approx(log_distribution(uniform), abs=1e-6)


def test_weights_of_older_files_belong_to_the_only_part() -> None:
    space = space_named()
    network = random_network(space)
    assert all(name.startswith("0.") for name in network.state_dict())
    older = {name.removeprefix("0."): value for name, value in network.state_dict().items()}
    loaded = PolicyNetwork.for_space(space, width=24, depth=1)
    loaded.load_state_dict(older)
    assert torch.equal(log_distribution(Policy(space, loaded)), log_distribution(Policy(space, network)))
    part = network.parts[0]
    described = {name: getattr(part, name) for name in ("feature_names", "action_names", "width", "depth")}
    restored = PolicyNetwork.restore(described, older)
    assert torch.equal(log_distribution(Policy(space, restored)), log_distribution(Policy(space, network)))
    with pytest.raises(RuntimeError, match=r"input\.weight"):
        loaded.load_state_dict({name: value for name, value in older.items() if name != "input.weight"})


# Conditions


def conditioned_network(space: DesignSpace, seed: int = 0) -> PolicyNetwork:
    """A network whose policy differs from condition to condition."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = random_network(space, seed).conditioned([f"c{i}" for i in range(5)])
        for part in network.parts:
            assert part.condition is not None
            torch.nn.init.normal_(part.condition[2].weight, std=0.2)
    return network.requires_grad_(False)


CODES = torch.tensor([[0.0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0.5, 0, 0], [0, 0, 0, 1, 1]])


def test_every_condition_has_a_policy_of_its_own(space: DesignSpace) -> None:
    network, distributions = conditioned_network(space), []
    for code in CODES:
        policy = Policy(space, network, code[None])
        distributions.append(log_distribution(policy).double().exp())
        assert float(distributions[-1].sum()) == pytest.approx(1.0, abs=1e-5)
        counts = frequencies(space, space.decode(policy.sample_many(N, generator()).state))
        assert chi_square_p(counts, log_distribution(policy)) > 0.001
    for one, other in pairwise(distributions):
        assert float((one - other).abs().sum()) > 0.05


def test_conditions_of_a_batch_are_those_of_its_rows(space: DesignSpace) -> None:
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


def test_a_network_that_learns_conditions_starts_as_it_was(space: DesignSpace) -> None:
    plain = random_network(space)
    conditioned = plain.conditioned(["a", "b"])
    expected = log_distribution(Policy(space, plain))
    for code in ([0.0, 0.0], [1.0, 0.3]):
        assert log_distribution(Policy(space, conditioned, torch.tensor([code]))) == pytest.approx(expected, abs=1e-6)
    assert not plain.conditioned(()).is_conditioned
