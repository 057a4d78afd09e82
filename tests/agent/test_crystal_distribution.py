"""The exact distribution of a trained policy over an enumerated space of crystals."""

import numpy as np
import pytest
import torch

from agent import DesignAgent, TrainingOptions
from envs import CompositionSpace, CrystalSpace


def reward(structures):
    volume = np.array([structure.volume / len(structure) for structure in structures])
    return np.exp(-(((volume - 10) / 3) ** 2)) + 0.06


@pytest.mark.slow
def test_a_trained_policy_samples_crystals_in_proportion_to_the_reward():
    space = CrystalSpace(CompositionSpace(["Mg", "O"], max_atoms=2), max_atoms=2, space_groups=[123, 221, 225])
    every = space.enumerate()
    values = torch.tensor(reward(space.decode(every)))
    target = values / values.sum()
    agent = DesignAgent(space, reward, seed=0, options=TrainingOptions(batch_size=256))

    def total_variation():
        share = agent.policy.log_prob_in_chunks(space.actions_of(every)).double().exp()
        assert float(share.sum()) == pytest.approx(1, abs=1e-4)
        return float((share - target).abs().sum() / 2)

    assert total_variation() > 0.5
    agent.train(300, progress=False)
    assert total_variation() <= 0.05
    assert agent.log_partition() == pytest.approx(float(values.sum().log()), abs=0.05)
