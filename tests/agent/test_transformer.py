"""`Transformer`: the same contract as the perceptron, and attention to nothing but what was placed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agent.policy import Policy, PolicyNetwork
from agent.transformer import Transformer
from envs import CompositionSpace, CrystalSpace
from tests.agent.examples import (
    LARGER,
    SPACES,
    all_actions,
    chi_square_p,
    frequencies,
    log_distribution,
    random_network,
    space_named,
)


def transformer(space: CompositionSpace, seed: int = 0) -> PolicyNetwork:
    return random_network(space, seed, width=64, architecture="transformer")


def states_on_the_way(space: CompositionSpace, n_actions: int) -> tuple[Tensor, Tensor]:
    """Distinct states after a number of actions, and these actions."""
    if not n_actions:
        return space.initial(1), torch.zeros(1, 0, dtype=torch.long)
    actions = all_actions(space)[:, :n_actions]
    begun = actions[(actions != space.stop).all(1)].unique(dim=0)
    return space.replay(begun), begun


@pytest.mark.parametrize("name", SPACES)
def test_probabilities_of_all_materials_sum_to_one(name: str) -> None:
    space = space_named(name)
    assert float(log_distribution(Policy(space, transformer(space))).double().exp().sum()) == pytest.approx(1, abs=1e-5)


def test_an_untrained_transformer_is_the_uniform_masked_policy() -> None:
    space = space_named()
    uniform = log_distribution(Policy(space, PolicyNetwork.for_space(space)))
    network = PolicyNetwork.for_space(space, 32, 2, "transformer")
    assert isinstance(network.parts[0], Transformer)
    torch.testing.assert_close(log_distribution(Policy(space, network)), uniform)


def test_samples_follow_the_exact_distribution() -> None:
    space = space_named()
    policy = Policy(space, transformer(space))
    rollout = policy.sample_many(4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(rollout.log_prob, policy.log_prob_in_chunks(rollout.actions), atol=1e-4, rtol=0)
    assert chi_square_p(frequencies(space, space.decode(rollout.state)), log_distribution(policy)) > 1e-3


@pytest.mark.parametrize("n_actions", [0, 1, 2, 3])
def test_the_tokens_are_the_elements_placed_so_far(n_actions: int) -> None:
    space = space_named("larger")
    part = transformer(space).parts[0]
    assert isinstance(part, Transformer)
    state, begun = states_on_the_way(space, n_actions)
    tokens, exists = part._placed(space.features(state))
    assert exists.shape == (len(begun), n_actions) and exists.all()
    for row, sequence in enumerate(begun.tolist()):
        for place, action in enumerate(sequence):
            name = space.action_names[action]
            symbol, count = name.rstrip("0123456789"), int(name.lstrip("NaKMgOSCl"))
            expected = part.element.weight[:, part.elements.index(symbol)] + part.count[count - 1]
            torch.testing.assert_close(tokens[row, place], expected)


def test_a_state_does_not_depend_on_what_stands_beside_it() -> None:
    space = space_named("larger")
    network = transformer(space)
    state = torch.cat([states_on_the_way(space, n)[0][:20] for n in range(4)])
    features = space.features(state)
    together = network.logits(0, features)
    alone = torch.cat([network.logits(0, row[None]) for row in features])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_transfer_matches_elements_by_name() -> None:
    large, small = space_named("larger"), CompositionSpace(**(LARGER | {"elements": ["K", "S", "Na", "O"]}))
    network = transformer(large)
    carried = network.transfer(small)
    assert isinstance(carried.parts[0], Transformer)
    shared = [large.action_names.index(name) for name in small.action_names]
    for n in range(3):
        state, begun = states_on_the_way(small, n)
        same = large.replay(torch.tensor(shared)[begun])
        theirs = network.logits(0, large.features(same))[:, shared]
        torch.testing.assert_close(carried.logits(0, small.features(state)), theirs, atol=1e-4, rtol=1e-4)


def test_a_description_and_the_weights_restore_it() -> None:
    space = space_named()
    network = transformer(space)
    restored = PolicyNetwork.restore(network.describe(), network.state_dict())
    assert isinstance(restored.parts[0], Transformer)
    torch.testing.assert_close(
        log_distribution(Policy(space, restored)), log_distribution(Policy(space, network)), atol=1e-5, rtol=1e-5
    )


def test_conditions_change_nothing_at_first_and_everything_later() -> None:
    space = space_named()
    network = transformer(space)
    conditioned = network.conditioned(["warm", "cold"])
    state = torch.cat([states_on_the_way(space, n)[0][:10] for n in range(3)])
    features, codes = space.features(state), torch.rand(len(state), 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(conditioned.logits(0, features, codes), network.logits(0, features))
    modulation = conditioned.parts[0].condition[2]  # type: ignore[index]
    torch.nn.init.normal_(modulation.weight, std=0.5)
    every = conditioned.logits(0, features, codes)
    alone = torch.cat([conditioned.logits(0, row[None], code[None]) for row, code in zip(features, codes, strict=True)])
    torch.testing.assert_close(every, alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(every, network.logits(0, features), atol=0.01)
    at_start = conditioned.logits(0, features[:1], codes)  # one state under many conditions
    torch.testing.assert_close(at_start, conditioned.logits(0, features[:1].expand(len(codes), -1), codes))


def test_parts_that_count_no_elements_stay_perceptrons() -> None:
    space = CrystalSpace(CompositionSpace(["Na", "Cl"], max_elements=2), max_atoms=4, space_groups=["Fm-3m"])
    network = PolicyNetwork.for_space(space, 32, 1, "transformer")
    kinds = {type(part).__name__ for part in network.parts}
    assert kinds == {"Transformer", "MultilayerPerceptron"}


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"width: 100 cannot be shared by 3 attention heads \(expected a multiple of 32\)"
    ):
        PolicyNetwork.for_space(space_named(), 100, 1, "transformer")
