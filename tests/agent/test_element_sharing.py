"""Weights of elements that share their properties while a prior is fitted."""

from __future__ import annotations

import pytest
import torch

from agent.element_sharing import fold, share
from agent.policy import Architecture
from tests.agent.examples import random_network, space_named


@pytest.mark.parametrize("architecture", ["mlp", "transformer"])
def test_sharing_and_folding_change_no_logit(architecture: Architecture) -> None:
    space = space_named("larger")
    network = random_network(space, width=32, architecture=architecture)
    features = space.features(space.replay(space.actions_of(space.enumerate())[:50, :1]))
    before, names = network.logits(0, features), sorted(network.state_dict())
    share(network.parts[0])
    torch.testing.assert_close(network.logits(0, features), before)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("shared"):
                torch.nn.init.normal_(parameter, std=0.1)
    shared = network.logits(0, features)
    assert not torch.allclose(shared, before, atol=0.01)
    fold(network.parts[0])
    torch.testing.assert_close(network.logits(0, features), shared)
    assert sorted(network.state_dict()) == names


def test_what_is_learned_of_one_element_reaches_those_of_its_group_most() -> None:
    space = space_named("larger")
    part = random_network(space, width=16, scale=0.0).requires_grad_(True).parts[0]
    share(part)
    row = space.action_names.index("Na1")
    shared = part.output.parametrizations.weight[0].shared  # type: ignore[union-attr, index]
    part.output.weight[row].sum().backward()
    with torch.no_grad():
        shared -= shared.grad
    moved = dict(zip(space.action_names, part.output.weight.sum(1).abs().tolist(), strict=True))
    assert moved["Na1"] > moved["K1"] > max(moved["Mg1"], moved["O1"], moved["S1"], moved["Cl1"])
    assert moved["STOP"] == 0
