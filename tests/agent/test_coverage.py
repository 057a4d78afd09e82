"""`measure_coverage`, against closed forms and against enumeration."""

from __future__ import annotations

import math

import pytest
import torch

from agent.coverage import Scored, measure_coverage
from agent.policy import Policy
from tests.agent.examples import exact_log_target, log_distribution, small_agent, total_variation


def test_equal_densities_cover_everything() -> None:
    log_p = torch.log(torch.tensor([0.5, 0.25, 0.25]))
    scored = Scored(log_p, log_p, log_p + 3.0)
    coverage = measure_coverage(scored, scored, 0.75)
    assert coverage.covered == pytest.approx(1.0)
    assert coverage.effective_share == pytest.approx(1.0)
    assert coverage.log_z_policy == pytest.approx(3.0, abs=1e-6)
    assert coverage.log_z_base == pytest.approx(3.0, abs=1e-6)
    assert (coverage.distinct_share, coverage.n_samples) == (0.75, 3)
    assert "100% of the target covered" in str(coverage)


def test_half_a_target_by_hand() -> None:
    """Two materials of equal target; the policy knows one, the base measure both."""
    certain, never, half = 0.0, -math.inf, math.log(0.5)
    from_policy = Scored(torch.full((4,), certain), torch.full((4,), half), torch.full((4,), 2.0))
    from_base = Scored(torch.tensor([certain, never] * 2), torch.full((4,), half), torch.full((4,), 2.0))
    coverage = measure_coverage(from_policy, from_base, 0.25)
    assert coverage.log_z_policy == pytest.approx(2.0)
    assert coverage.log_z_base == pytest.approx(2.0 + math.log(2))
    # the mixture has density 3/4 and 1/4; six of eight samples are the first material
    assert coverage.log_z_mixture == pytest.approx(2.0 + math.log((6 / 0.75 + 2 / 0.25) / 8))
    assert coverage.covered == pytest.approx(0.5)


def test_unequal_numbers_are_refused() -> None:
    one, two = (Scored(*(torch.zeros(n) for _ in range(3))) for n in (1, 2))
    with pytest.raises(ValueError, match="not 1 and 2"):
        measure_coverage(one, two, 1.0)


@pytest.mark.parametrize("prior_weight", [0.0, 0.5, 1.0])
def test_log_z_and_the_share_covered_are_those_of_the_enumeration(prior_weight: float) -> None:
    agent = small_agent(prior_weight=prior_weight, beta=1.5)
    _, log_z = exact_log_target(agent)
    coverage = agent.coverage(6000)
    assert coverage.log_z_mixture == pytest.approx(log_z, abs=0.06)
    assert coverage.log_z_base == pytest.approx(log_z, abs=0.1)
    assert coverage.log_z_policy == pytest.approx(log_z, abs=0.1)
    assert coverage.covered == pytest.approx(1.0, abs=0.06)
    log_target, _ = exact_log_target(agent)
    weights = log_target - log_distribution(agent.policy).double()
    exact_share = 1 / float((2 * weights + log_distribution(agent.policy).double()).exp().sum())
    assert coverage.effective_share == pytest.approx(exact_share, rel=0.15)


@torch.no_grad()
def test_a_policy_collapsed_onto_a_part_covers_that_part() -> None:
    agent = small_agent(prior_weight=0.0, beta=1.0)
    log_target, _ = exact_log_target(agent)
    stop_at = {name: row for row, name in enumerate(agent.space.action_names)}
    bias = agent.trainer.average.parts[0].output.bias
    for name, row in stop_at.items():
        if name.startswith("K"):
            bias[row] -= 30  # no potassium: a part of the target that the policy never sees
    log_policy = log_distribution(Policy(agent.space, agent.trainer.average))
    reached = log_policy > -20
    exact = float(log_target.exp()[reached].sum())
    assert 0.1 < exact < 0.7
    coverage = agent.coverage(6000)
    assert coverage.covered == pytest.approx(exact, abs=0.06)
    assert total_variation(log_policy, log_target) > 1 - exact - 1e-3


def test_coverage_needs_samples() -> None:
    with pytest.raises(ValueError, match="n: 0 is not a positive number"):
        small_agent().coverage(0)
