"""`Replay`, against a list and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import chisquare
from torch import Tensor

from agent.replay import Batch, Replay, draw, effective_share, log_mean_exp, log_mean_exp_rows


def batch(first: int, n: int) -> Batch:
    """n entries whose numbers all tell which one it is."""
    number = torch.arange(first, first + n)
    return Batch(number[:, None].repeat(1, 3), number / 10.0, outcomes_of(number[:, None]), number / 7.0)


def outcomes_of(actions: Tensor) -> Tensor:
    return torch.stack([actions[:, 0] / 100.0, -actions[:, 0] / 3.0], dim=1)


def test_the_ring_keeps_the_latest_entries() -> None:
    replay = Replay(capacity=10, max_steps=3, n_outcomes=2)
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
        assert torch.equal(contents.outcomes, outcomes_of(number[:, None]))
        assert torch.equal(contents.log_mixture, number / 7.0)


def test_entries_are_drawn_in_proportion_to_their_weights() -> None:
    entries = batch(0, 12)
    log_weights = torch.stack([torch.linspace(0, 3, 12), torch.linspace(1, -4, 12), torch.zeros(12)])
    drawn, target = draw(entries, log_weights, 18_000, torch.Generator().manual_seed(0))
    assert torch.bincount(target).tolist() == [6000, 6000, 6000]
    for number, row in enumerate(log_weights.double().numpy()):
        counts = np.bincount(drawn.actions[target == number, 0].numpy(), minlength=12)
        assert chisquare(counts, 6000 * np.exp(row) / np.exp(row).sum()).pvalue > 0.001
    assert torch.equal(drawn.log_base, drawn.actions[:, 0] / 10.0)
    assert torch.equal(drawn.outcomes, outcomes_of(drawn.actions))
    assert torch.equal(drawn.log_mixture, drawn.actions[:, 0] / 7.0)


def test_extreme_weights_leave_one_entry() -> None:
    log_weights = 1e6 * torch.arange(12.0)[None]
    drawn, _ = draw(batch(0, 12), log_weights, 100, torch.Generator().manual_seed(0))
    assert set(drawn.actions[:, 0].tolist()) == {11}


def test_fewer_draws_than_targets() -> None:
    drawn, target = draw(batch(0, 12), torch.zeros(8, 12), 3, torch.Generator().manual_seed(0))
    assert target.tolist() == [0, 1, 2]
    assert len(drawn.actions) == 3


def test_a_window_is_a_run_of_neighbours_that_starts_anywhere() -> None:
    replay, generator = Replay(10, 3, 2), torch.Generator().manual_seed(0)
    replay.add(batch(0, 8))
    assert torch.equal(replay.window(8, generator).log_base, replay.contents().log_base)
    first = set()
    for _ in range(200):
        window = replay.window(3, generator)
        number = window.actions[:, 0]
        assert ((number.diff() - 1) % 8 == 0).all()
        assert torch.equal(window.outcomes, outcomes_of(window.actions))
        first.add(int(number[0]))
    assert first == set(range(8))


def test_a_restored_ring_goes_on_where_it_was() -> None:
    one, other = Replay(10, 3, 2), Replay(10, 3, 2)
    one.add(batch(0, 7))
    one.add(batch(7, 6))
    one.outcomes_of(batch(11, 4).actions, lambda rows: outcomes_of(batch(11, 4).actions[rows]))
    other.load_state_dict(one.state_dict())
    asked: list[list[int]] = [[], []]
    for number, replay in enumerate((one, other)):
        replay.add(batch(13, 5))
        actions = batch(6, 10).actions
        replay.outcomes_of(
            actions, lambda rows, n=number, a=actions: asked[n].extend(rows.tolist()) or outcomes_of(a[rows])
        )
    for name in ("actions", "log_base", "outcomes", "log_mixture"):
        assert torch.equal(getattr(one.contents(), name), getattr(other.contents(), name))
    assert asked[0] == asked[1]
    assert (one.n_requested, one.n_evaluated) == (other.n_requested, other.n_evaluated)


# The cache


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=6), min_size=1, max_size=8), st.integers(6, 20))
def test_no_reward_is_computed_twice_while_the_ring_holds_the_material(batches: list[list[int]], capacity: int) -> None:
    replay = Replay(capacity, 3, 2)
    ring: list[int] = []
    n_requested = n_evaluated = 0
    for numbers in batches:
        actions = torch.tensor(numbers)[:, None].repeat(1, 3)
        computed: list[int] = []

        def evaluate(rows: Tensor, actions: Tensor = actions, computed: list[int] = computed) -> Tensor:
            computed.extend(actions[rows, 0].tolist())
            return outcomes_of(actions[rows])

        outcomes = replay.outcomes_of(actions, evaluate)
        assert torch.equal(outcomes, outcomes_of(actions))
        assert sorted(computed) == sorted(set(numbers) - set(ring))
        replay.add(Batch(actions, torch.zeros(len(numbers)), outcomes, torch.zeros(len(numbers))))
        ring = [*ring, *numbers][-capacity:]
        n_requested, n_evaluated = n_requested + len(numbers), n_evaluated + len(computed)
        assert (replay.n_requested, replay.n_evaluated) == (n_requested, n_evaluated)
    assert replay.hit_rate == pytest.approx(1 - n_evaluated / n_requested)


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_log_mean_exp_is_numpys(offset: float) -> None:
    values = np.random.default_rng(0).normal(size=50) * 5 + offset
    expected = logsumexp(values) - np.log(50)
    assert log_mean_exp(torch.tensor(values)) == pytest.approx(expected, abs=1e-9)
    assert log_mean_exp(torch.zeros(0)) == -np.inf
    rows = torch.tensor(np.stack([values, values[::-1] + 3]))
    assert log_mean_exp_rows(rows).tolist() == pytest.approx([expected, expected + 3], rel=1e-6, abs=1e-4)


def test_effective_share_is_kongs() -> None:
    log_weights = np.random.default_rng(0).normal(size=200) * 2 + 500
    weights = np.exp(log_weights - 500)
    expected = weights.sum() ** 2 / (weights**2).sum() / 200
    assert effective_share(torch.tensor(log_weights)) == pytest.approx(expected)
    assert effective_share(torch.full((7,), -3.0)) == pytest.approx(1.0)
    assert effective_share(torch.tensor([0.0, -1e3, -1e3, -1e3])) == pytest.approx(0.25)


@pytest.mark.parametrize(("added", "most"), [(3, 2), (5, 5), (8, 3), (13, 5), (13, 99), (0, 4)])
def test_latest_are_those_added_last_in_order(added: int, most: int) -> None:
    replay = Replay(5, 1, 1)
    for number in range(added):
        replay.add(Batch(torch.tensor([[number]]), torch.zeros(1), torch.zeros(1, 1), torch.zeros(1)))
    expected = list(range(added))[-min(most, 5) :] if added else []
    assert replay.latest(most).actions.flatten().tolist() == expected


def test_a_checkpoint_brings_the_width_of_its_outcomes() -> None:
    full = Replay(4, 1, 3)
    full.add(Batch(torch.tensor([[1], [2]]), torch.zeros(2), torch.rand(2, 3), torch.zeros(2)))
    other = Replay(4, 1, 1)
    other.load_state_dict(full.state_dict())
    assert torch.equal(other.contents().outcomes, full.contents().outcomes)
