"""The prior's weight as a condition: training, samples, certificate, checkpoints and the sweep over it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from agent import DesignAgent, Objective, Reward
from agent.condition_options import ConditionOptions
from agent.network_file import read_tensors, write_tensors
from agent.partition import LogPartition
from agent.prior_weights import measure_samples
from envs import CompositionBatch
from envs.formula import parse_formula
from surrogates.datasets import read_known_formulas
from surrogates.known import nearest
from tests.agent.examples import (
    all_formulas,
    chi_square_p,
    crc_reward,
    frequencies,
    log_distribution,
    small_agent,
    total_variation,
)

DIAL = ConditionOptions(preference=False, beta_range=None, prior_weight_range=(0, 1))
BROAD = {"batch_size": 192, "replay_capacity": 20_000, "learning_rate": 3e-3, "average_decay": 0.98}


def dial_agent(**changes: Any) -> DesignAgent:
    return small_agent(**{"beta": 1.5, "prior_weight": 0.5, "width": 48, "scale": 0.35, "conditions": DIAL} | changes)


def exact(agent: DesignAgent, weight: float) -> tuple[Tensor, float]:
    """Normalised log-target at a prior weight, and log Z, without the agent's own arithmetic."""
    rewards = torch.tensor(crc_reward(all_formulas(agent.space)), dtype=torch.float64)
    log_target = agent.beta * rewards.log() + weight * log_distribution(agent.base).double()
    log_z = float(log_target.logsumexp(0))
    return log_target - log_z, log_z


def distance(agent: DesignAgent, weight: float) -> float:
    policy = agent.policy_under(agent.conditions.read(prior_weight=weight))
    return total_variation(log_distribution(policy), exact(agent, weight)[0])


# Training


def test_one_policy_comes_close_to_the_target_of_every_prior_weight() -> None:
    agent = dial_agent(options=BROAD)
    weights = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    before = [distance(agent, weight) for weight in weights]
    agent.train(100, progress=False)
    for weight, start in zip(weights, before, strict=True):
        assert distance(agent, weight) < min(0.25, 0.4 * start), weight
        assert agent.log_partition(prior_weight=weight) == pytest.approx(exact(agent, weight)[1], abs=0.15)
    # each lies closer to its own target than to any other's
    for weight in (0.0, 0.5, 1.0):
        policy = log_distribution(agent.policy_under(agent.conditions.read(prior_weight=weight)))
        distances = {other: total_variation(policy, exact(agent, other)[0]) for other in (0.0, 0.5, 1.0)}
        assert min(distances, key=distances.__getitem__) == weight


def test_replayed_materials_are_weighed_exactly_under_every_prior_weight() -> None:
    agent = dial_agent(options=BROAD | {"learning_rate": 1e-9, "base_share": 0.4})
    agent.train(30, progress=False)
    weighed = agent.trainer._weigh()
    assert weighed.conditions.prior_weight[:2].tolist() == [0.5, 0.5]
    for row, weight in enumerate(weighed.conditions.prior_weight.tolist()):
        estimate = float(weighed.log_weights[row].double().logsumexp(0)) - math.log(weighed.log_weights.shape[1])
        assert estimate == pytest.approx(exact(agent, weight)[1], abs=0.25)


def test_at_first_the_target_is_the_prior_under_every_prior_weight() -> None:
    agent = dial_agent(options={"policy_share": 1.0, "base_share": 0.0, "likelihood_weight": 0.0})
    history = agent.train(1, progress=False)
    assert history["loss"][0] == pytest.approx(0.0, abs=1e-6)
    assert history["log_z"][0] == pytest.approx(0.0, abs=1e-5)


def test_log_z_over_a_wide_range_is_found_at_once() -> None:
    """Tens of nats from one condition to another: what is linear need not be learned step by step."""
    generator = torch.Generator().manual_seed(0)
    network = LogPartition(16, wide_range=True)
    slopes = 4 * torch.rand(16, generator=generator)
    for tempering in (0.0, 0.4, 1.0):
        network.tempering = tempering
        conditions = torch.rand(320, 16, generator=generator)
        noise = 0.1 * torch.randn(320, generator=generator)
        network.observe(conditions, tempering * (conditions @ slopes - 60) + noise)
    conditions = torch.rand(100, 16, generator=generator)
    found = network(conditions).squeeze(1) - network.network(conditions).squeeze(1).detach()
    assert found == pytest.approx(conditions @ slopes - 60, abs=0.6)
    assert not network(conditions).requires_grad


# Samples


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_samples_and_their_correction_follow_the_prior_weight(weight: float) -> None:
    agent = dial_agent()
    agent.train(15, progress=False)
    frame = agent.sample(2000, prior_weight=weight, seed=1)
    policy = agent.policy_under(agent.conditions.read(prior_weight=weight))
    assert chi_square_p(frequencies(agent.space, frame["material"].tolist()), log_distribution(policy)) > 0.001
    found = agent.log_prob(frame["material"], prior_weight=weight)
    assert frame["log_prob"].to_numpy() == pytest.approx(found.numpy(), abs=1e-4)
    assert frame.attrs["condition"]["prior_weight"] == pytest.approx(weight)
    corrected = agent.sample(8000, prior_weight=weight, corrected=True, seed=0)
    counts = frequencies(agent.space, corrected["material"].tolist())
    assert total_variation((counts / counts.sum()).log(), exact(agent, weight)[0]) < 0.12


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_certificate_is_that_of_the_prior_weight(weight: float) -> None:
    agent = dial_agent()
    agent.train(15, progress=False)
    coverage = agent.coverage(8192, prior_weight=weight)
    log_z = exact(agent, weight)[1]
    assert coverage.log_z_mixture == pytest.approx(log_z, abs=0.1)
    assert coverage.log_z_base == pytest.approx(log_z, abs=0.3)


def test_what_is_left_out_is_the_own_prior_weight() -> None:
    agent = dial_agent()
    agent.train(5, progress=False)
    materials = all_formulas(agent.space)[:10]
    assert torch.equal(agent.log_prob(materials), agent.log_prob(materials, prior_weight=0.5))
    assert agent.sample(20, seed=0).equals(agent.sample(20, prior_weight=0.5, seed=0))
    assert agent.coverage(256) == agent.coverage(256, prior_weight=0.5)


def test_a_front_at_a_prior_weight() -> None:
    objectives = [Objective("toxicity", "minimize", 0, 1), Objective("supply_risk", "minimize", 0, 6000)]
    agent = dial_agent(reward=Reward(objectives), conditions=ConditionOptions(prior_weight_range=(0, 1)))
    agent.train(5, progress=False)
    frame = agent.sample_front(21, n_preferences=3, prior_weight=0.1, seed=0)
    asked = {"preference": {"toxicity": 1}, "prior_weight": 0.1}
    part = frame[frame["preference_toxicity"] == 1]
    expected = agent.log_prob(part["material"], **asked)  # type: ignore[arg-type]
    assert part["log_prob"].to_numpy() == pytest.approx(expected.numpy(), abs=1e-4)
    assert frame.attrs["condition"]["prior_weight"] == pytest.approx(0.1)


def test_what_the_policy_was_not_trained_for() -> None:
    agent = dial_agent(conditions=ConditionOptions(prior_weight_range=(0.25, 0.75)))
    for refused in (agent.sample, agent.coverage, lambda **asked: agent.log_prob(["NaCl"], **asked)):
        with pytest.raises(ValueError, match=r"prior_weight: 0.9 is outside the trained range 0.25 to 0.75"):
            refused(prior_weight=0.9)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"prior_weight: 0.9 was not trained for \(expected 0.5, the only one\)"):
        dial_agent(conditions=None).sample(5, prior_weight=0.9)


def test_a_range_needs_a_prior() -> None:
    agent = dial_agent()
    with pytest.raises(ValueError, match="prior_weight_range: there is no prior to be weighed"):
        DesignAgent(agent.space, agent.reward, None, conditions=DIAL)
    with pytest.raises(ValueError, match=r"prior_weight: 1 is outside prior_weight_range, 0 to 0.5"):
        DesignAgent(agent.space, agent.reward, agent.prior, conditions=ConditionOptions(prior_weight_range=(0, 0.5)))


# Checkpoints


def test_training_goes_on_bit_for_bit_from_a_checkpoint(tmp_path: Path) -> None:
    whole, part = dial_agent(), dial_agent()
    for agent in (whole, part):
        agent.train(5, progress=False)
    part.save(tmp_path / "agent.safetensors")
    loaded = DesignAgent.load(tmp_path / "agent.safetensors", reward=part.reward)
    assert loaded.conditions.options == DIAL
    assert whole.train(7, progress=False).equals(loaded.train(7, progress=False))
    assert whole.sample(20, prior_weight=0.1).equals(loaded.sample(20, prior_weight=0.1))


def test_a_checkpoint_of_an_older_run_has_one_prior_weight(tmp_path: Path) -> None:
    path = tmp_path / "agent.safetensors"
    agent = dial_agent(conditions=None)
    agent.train(3, progress=False)
    agent.save(path)
    tensors, description = read_tensors(path, "agent")
    assert description["conditions"].pop("prior_weight_range") is None
    write_tensors(path, tensors, description)
    loaded = DesignAgent.load(path, reward=agent.reward)
    assert loaded.conditions.prior_weight_range is None
    assert loaded.sample(20, seed=0).equals(agent.sample(20, seed=0))
    assert torch.equal(loaded.trainer.conditions.own.prior_weight, torch.tensor([0.5]))


# The sweep


def test_a_sweep_measures_every_prior_weight() -> None:
    objectives = [Objective("toxicity", high=0.5), Objective("plausibility", low=0.5)]
    agent = dial_agent(reward=Reward(objectives), conditions=ConditionOptions(prior_weight_range=(0, 1)))
    agent.train(5, progress=False)
    frame = agent.sample_prior_weights(400, n_weights=3, preference={"toxicity": 1}, beta=2.0, seed=7)
    assert frame["prior_weight"].tolist() == [0, 0.5, 1]
    assert frame.attrs["n_drawn"] == 400
    assert frame.attrs["condition"]["beta"] == 2 and frame.attrs["condition"]["prior_weight"] == "sweep"
    samples = agent.sample(400, preference={"toxicity": 1}, beta=2.0, prior_weight=0.0, seed=7)
    known = set(read_known_formulas()["formula"])
    first = frame.iloc[0]
    assert first["mean_reward"] == pytest.approx(samples["log_reward"].map(math.exp).mean(), abs=1e-5)
    assert first["hits"] == pytest.approx((samples["toxicity_fraction"] <= 0.5).mean())  # plausibility weighs nothing
    assert first["known"] == pytest.approx(samples["material"].isin(known).mean(), abs=0.02)
    assert first["distinct"] == samples["material"].nunique() / 400
    assert first["effective_sample_size"] == pytest.approx(samples.attrs["effective_sample_size"], rel=1e-4)
    assert frame.equals(agent.sample_prior_weights(400, n_weights=3, preference={"toxicity": 1}, beta=2.0, seed=7))


def test_a_sweep_without_objectives_counts_no_hits() -> None:
    frame = dial_agent().sample_prior_weights(50, n_weights=2, seed=0)
    assert frame["hits"].isna().all()
    assert frame["mean_reward"].gt(0).all()


def test_sweeps_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="prior_weight: the policy answers its own only"):
        dial_agent(conditions=None).sample_prior_weights(50)
    with pytest.raises(ValueError, match="n: 0 is too few"):
        dial_agent().sample_prior_weights(0)
    with pytest.raises(ValueError, match="n_weights: 1 is too few"):
        dial_agent().sample_prior_weights(50, n_weights=1)


def test_figures_of_known_formulas_and_of_a_strange_one() -> None:
    known = read_known_formulas()["formula"].tolist()
    gap = Objective("band_gap", "window", 1.0, 2.0, target_range=(0.5, 3.0))
    samples = pd.DataFrame({"material": known[::100], "log_reward": 0.0, "band_gap_eV": 2.6})
    figures = measure_samples(samples, [gap], [1.0])
    counts = [
        Counter(element for formula in each for element in parse_formula(formula)) for each in (known[::100], known)
    ]
    shares = [[count[element] for element in counts[1]] for count in counts]
    assert figures.element_distance == pytest.approx(jensenshannon(*shares, base=2), abs=1e-6)
    assert figures.nearest_distance == pytest.approx(0.0, abs=1e-3)
    assert (figures.known, figures.distinct, figures.mean_reward, figures.hits) == (1.0, 1.0, 1.0, 0.0)
    assert measure_samples(samples, [gap], [1.0], {"band_gap": 2.5}).hits == 1.0  # the window moved to 2.0..3.0
    half = pd.concat([samples.head(100).assign(material="XeKr9", band_gap_eV=1.5), samples.head(100)])
    figures = measure_samples(half, [gap], [1.0])
    assert (figures.known, figures.hits, figures.distinct) == (0.5, 0.5, 101 / 200)
    far = float(nearest(CompositionBatch.from_formulas(["XeKr9"]), k=1).distances)
    assert figures.nearest_distance == pytest.approx(far / 2, abs=1e-3) and far > 0.1


def test_estimates_of_an_earlier_reward_are_forgotten_but_the_level_at_beta_0_stays() -> None:
    codes = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
    partition = LogPartition(4, wide_range=True)
    partition.observe(codes, torch.full((64,), 3.0))  # at tempering 0
    partition.tempering = 1.0
    partition.observe(codes, torch.full((64,), -40.0))
    partition.forget()
    partition.tempering = 0.5
    partition.observe(codes, torch.full((64,), 8.0))
    assert float(partition.level) == 3.0
    assert (partition._linear(codes, torch.tensor(0.5)) > 3).all()  # drawn to 8 - 3, not to -43
