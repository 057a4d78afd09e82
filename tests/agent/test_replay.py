"""`Replay`, against a list and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import chisquare

from agent.replay import Batch, Replay, effective_share, log_mean_exp


def batch(first: int, n: int) -> Batch:
    """n entries whose numbers all tell which one it is."""
    number = torch.arange(first, first + n)
    return Batch(number[:, None].repeat(1, 3), number / 10.0, number / 100.0, number / 7.0)


def test_the_ring_keeps_the_latest_entries() -> None:
    replay = Replay(capacity=10, max_steps=3)
    kept: list[int] = []
    for first, n in ((0, 4), (4, 4), (8, 4), (12, 1), (13, 9), (22, 10)):
        replay.add(batch(first, n))
        kept = [*kept, *range(first, first + n)][-10:]
        contents = replay.contents()
        assert sorted(contents.actions[:, 0].tolist()) == kept
        assert len(replay) == len(kept)
        assert (contents.actions == contents.actions[:, :1]).all()  # rows stay together
        number = contents.actions[:, 0]
        assert torch.equal(contents.log_base, number / 10.0)
        assert torch.equal(contents.log_reward, number / 100.0)
        assert torch.equal(contents.log_mixture, number / 7.0)


def test_weights_are_target_over_mixture() -> None:
    replay = Replay(8, 3)
    replay.add(batch(1, 5))
    number = np.arange(1, 6)
    expected = 0.5 * number / 10 + 3.0 * number / 100 - number / 7
    assert replay.log_weights(0.5, 3.0).numpy() == pytest.approx(expected, abs=1e-6)
    assert replay.contents().log_target(0.0, 2.0).numpy() == pytest.approx(number / 50, abs=1e-6)


def test_entries_are_drawn_in_proportion_to_their_weights() -> None:
    replay = Replay(16, 3)
    replay.add(batch(0, 12))
    drawn = replay.draw(6000, 1.0, 20.0, torch.Generator().manual_seed(0))
    weights = np.exp(replay.log_weights(1.0, 20.0).double().numpy())
    counts = np.bincount(drawn.actions[:, 0].numpy(), minlength=12)
    assert chisquare(counts, 6000 * weights / weights.sum()).pvalue > 0.001
    assert torch.equal(drawn.log_base, drawn.actions[:, 0] / 10.0)
    assert torch.equal(drawn.log_mixture, drawn.actions[:, 0] / 7.0)


def test_extreme_weights_leave_one_entry() -> None:
    replay = Replay(16, 3)
    replay.add(batch(0, 12))
    drawn = replay.draw(100, 0.0, 1e6, torch.Generator().manual_seed(0))
    assert set(drawn.actions[:, 0].tolist()) == {11}


def test_a_restored_ring_goes_on_where_it_was() -> None:
    one, other = Replay(10, 3), Replay(10, 3)
    one.add(batch(0, 13))
    other.load_state_dict(one.state_dict())
    for replay in (one, other):
        replay.add(batch(13, 5))
    for name in ("actions", "log_base", "log_reward", "log_mixture"):
        assert torch.equal(getattr(one.contents(), name), getattr(other.contents(), name))


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_log_mean_exp_is_numpys(offset: float) -> None:
    values = np.random.default_rng(0).normal(size=50) * 5 + offset
    expected = logsumexp(values) - np.log(50)
    assert log_mean_exp(torch.tensor(values)) == pytest.approx(expected, abs=1e-9)
    assert log_mean_exp(torch.zeros(0)) == -np.inf


def test_effective_share_is_kongs() -> None:
    log_weights = np.random.default_rng(0).normal(size=200) * 2 + 500
    weights = np.exp(log_weights - 500)
    expected = weights.sum() ** 2 / (weights**2).sum() / 200
    assert effective_share(torch.tensor(log_weights)) == pytest.approx(expected)
    assert effective_share(torch.full((7,), -3.0)) == pytest.approx(1.0)
    assert effective_share(torch.tensor([0.0, -1e3, -1e3, -1e3])) == pytest.approx(0.25)
