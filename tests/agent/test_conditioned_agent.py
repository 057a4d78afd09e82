"""One policy for every condition: training, samples, checkpoints and fronts of a conditioned agent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pytest
import torch
from torch import Tensor

from agent import DesignAgent, Objective, Reward
from agent.condition_options import ConditionOptions
from agent.conditions import Conditions
from agent.front import pareto_front, utilities_of
from agent.metrics import hypervolume
from agent.partition import LogPartition
from agent.reward import scalarize
from envs.formula import parse_formula
from surrogates import Prediction
from tests.agent.examples import (
    all_actions,
    all_formulas,
    chi_square_p,
    frequencies,
    log_distribution,
    quick_options,
    random_prior,
    space_named,
    total_variation,
)


class Share:
    """The share of an element's atoms, a property that costs nothing."""

    def __init__(self, element: str) -> None:
        self.element = element

    def fit(self, materials: Sequence[str], labels: Tensor) -> Self:
        return self

    def members(self, materials: Sequence[str]) -> Tensor:
        return self.predict(materials).mean[None]

    def predict(self, materials: Sequence[str]) -> Prediction:
        amounts = [parse_formula(material) for material in materials]
        mean = torch.tensor([[each.get(self.element, 0.0) / sum(each.values())] for each in amounts])
        return Prediction(mean, torch.full_like(mean, 0.1))


def share_objectives(**changes: Any) -> list[Objective]:
    return [
        Objective("sodium", "maximize", 0.0, 0.6, caution=0.0, model=Share("Na")),
        Objective("oxygen", "window", 0.3, 0.6, model=Share("O"), **changes),
    ]


def conditioned_agent(target_range: tuple[float, float] | None = None, **changes: Any) -> DesignAgent:
    space = space_named()
    options = quick_options(
        **{"batch_size": 64, "replay_capacity": 4000, "learning_rate": 3e-3, "average_decay": 0.95}
        | changes.pop("options", {})
    )
    reward = Reward(share_objectives(target_range=target_range))
    prior = random_prior(space, width=48)
    return DesignAgent(space, reward, prior, **{"beta": 4.0, **changes}, options=options)  # type: ignore[arg-type]


def exact_log_target(agent: DesignAgent, condition: Conditions) -> tuple[Tensor, float]:
    """Normalised log-target of every material under a condition, and log Z; the reward by hand."""
    amounts = [parse_formula(formula) for formula in all_formulas(agent.space)]  # type: ignore[arg-type]
    share = torch.tensor(
        [[each.get(e, 0.0) / sum(each.values()) for e in ("Na", "O")] for each in amounts], dtype=torch.float64
    )
    normal = torch.distributions.Normal(share[:, 1], 0.1)
    centre = float(condition.target[0, 0]) if condition.target.numel() else 0.45
    utilities = torch.stack(
        [
            (share[:, 0] / 0.6).clamp(0, 1),
            normal.cdf(torch.tensor(centre + 0.15)) - normal.cdf(torch.tensor(centre - 0.15)),
        ],
        dim=1,
    )
    weights = condition.preference[0].double()
    worst = ((1 - utilities) * weights / weights.max()).amax(1)
    score = (1 - worst + 0.05 * (utilities * weights).sum(1)) / 1.05
    log_base = agent.base.log_prob_in_chunks(all_actions(agent.space)).double()  # type: ignore[arg-type]
    log_target = agent.prior_weight * log_base + float(condition.beta) * (0.01 + score).log()
    log_z = float(log_target.logsumexp(0))
    return log_target - log_z, log_z


ASKED: list[dict[str, Any]] = [
    {},
    {"preference": {"sodium": 1}},
    {"preference": {"oxygen": 1}, "beta": 12.0},
    {"preference": {"sodium": 0.8, "oxygen": 0.2}, "beta": 2.0},
]


# Training


@pytest.mark.slow
@pytest.mark.parametrize("prior_weight", [0.0, 1.0])
def test_one_policy_comes_close_to_the_target_of_every_condition(prior_weight: float) -> None:
    options = {"batch_size": 256, "replay_capacity": 20_000, "average_decay": 0.99}
    agent = conditioned_agent(target_range=(0.1, 0.7), prior_weight=prior_weight, options=options)
    start = DesignAgent(agent.space, agent.reward, agent.prior, prior_weight, 4.0)
    agent.train(800, progress=False)
    distances, errors = [], []
    for asked in [*ASKED, {"target": {"oxygen": 0.3}}, {"target": {"oxygen": 0.5}, "beta": 6.0}]:
        condition = agent.conditions.read(**asked)
        target, log_z = exact_log_target(agent, condition)
        before = total_variation(log_distribution(start.policy_under(condition)), target)
        distances.append(total_variation(log_distribution(agent.policy_under(condition)), target))
        errors.append(abs(agent.log_partition(**asked) - log_z))
        assert distances[-1] < 0.5 * before, asked
        coverage = agent.coverage(8192, **asked)
        assert coverage.log_z_mixture == pytest.approx(log_z, abs=0.15), asked
    assert distances[0] < 0.1  # the run's own condition
    assert sum(distances) / len(distances) < 0.25  # 0.11 to 0.17 over eight seeds
    assert sum(errors) / len(errors) < 0.3  # 0.08 to 0.16


def test_training_weighs_replayed_materials_exactly_under_new_conditions() -> None:
    """The mean weight of replayed materials under any condition estimates its Z, whatever they were found under."""
    options = {"batch_size": 256, "replay_capacity": 20_000, "learning_rate": 1e-9, "base_share": 0.4}
    agent = conditioned_agent(prior_weight=0.5, options=options, conditions=ConditionOptions(beta_range=(1, 6)))
    agent.train(40, progress=False)
    weighed = agent.trainer._weigh()
    assert torch.equal(weighed.conditions.beta[:2], torch.tensor([4.0, 4.0]))
    for row in range(len(weighed.conditions)):
        condition = weighed.conditions[row : row + 1]
        _, log_z = exact_log_target(agent, condition)
        estimate = float(weighed.log_weights[row].double().logsumexp(0)) - math.log(weighed.log_weights.shape[1])
        assert estimate == pytest.approx(log_z, abs=0.25)


def test_a_genetic_search_does_not_bias_log_z() -> None:
    """What it finds has an unknown density: it counts in no estimate, but can be taken again."""
    shares = {"policy_share": 0.3, "base_share": 0.2, "search_share": 0.5}
    ratios = []
    for seed in range(6):
        agent = conditioned_agent(
            options={"batch_size": 256, "replay_capacity": 20_000, "learning_rate": 1e-9} | shares,
            conditions=ConditionOptions(beta_range=(1, 6)),
            seed=seed,
        )
        agent.train(20, progress=False)
        ratios.append(math.exp(agent.history[-1]["log_z"] - exact_log_target(agent, agent.conditions.own)[1]))
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.2)  # 0.67 if edited ones counted
    entries = agent.trainer.replay.contents()
    found = entries.log_mixture.isinf()
    assert int(found.sum()) == 19 * 64  # half of the search's share of each step but the first
    assert entries.log_base[found] == pytest.approx(agent.base.log_prob_in_chunks(entries.actions[found]), abs=1e-4)
    log_reward = agent.reward.log_reward(entries.outcomes, agent.conditions.own)
    assert float(log_reward[found].mean()) > float(log_reward[~found].mean()) + 0.5  # children of the best
    distinct = len(torch.unique(entries.actions, dim=0))
    assert agent.trainer.replay.n_evaluated == distinct  # nothing computed twice, by whatever source it came


@pytest.mark.slow
def test_a_genetic_search_leaves_the_target_as_it_is() -> None:
    agent = conditioned_agent(options={"search_share": 0.2})
    agent.train(400, progress=False)
    for asked in ASKED[::3]:
        target, _ = exact_log_target(agent, agent.conditions.read(**asked))
        assert total_variation(log_distribution(agent.policy_under(agent.conditions.read(**asked))), target) < 0.2


def test_the_first_loss_is_that_of_every_rows_own_condition() -> None:
    """At tempering 0 the target is the base measure whatever the condition, and so is the policy: nothing is lost."""
    agent = conditioned_agent(options={"policy_share": 1.0, "base_share": 0.0, "likelihood_weight": 0.0})
    history = agent.train(1, progress=False)
    assert history["loss"][0] == pytest.approx(0.0, abs=1e-6)
    assert history["log_z"][0] == pytest.approx(0.0, abs=1e-5)


def test_a_seed_repeats_and_histories_count_evaluations() -> None:
    one, other = conditioned_agent(seed=3), conditioned_agent(seed=3)
    history = one.train(6, progress=False)
    assert history.equals(other.train(6, progress=False))
    assert history["hit_rate"].iloc[-1] == pytest.approx(
        1 - history["n_evaluated"].iloc[-1] / (6 * (32 + 8))
    )  # samples of the policy and of the base measure
    assert one.sample(5, preference={"sodium": 1}).equals(other.sample(5, preference={"sodium": 1}))


def test_training_goes_on_bit_for_bit_from_a_checkpoint(tmp_path: Path) -> None:
    whole, part = conditioned_agent((0.1, 0.7)), conditioned_agent((0.1, 0.7))
    for agent in (whole, part):
        agent.train(5, progress=False)
    part.save(tmp_path / "agent.safetensors")
    loaded = DesignAgent.load(tmp_path / "agent.safetensors", reward=part.reward)
    assert whole.train(7, progress=False).equals(loaded.train(7, progress=False))
    assert loaded.conditions.options == whole.conditions.options
    asked: dict[str, Any] = {"preference": {"sodium": 1}, "beta": 2.0, "target": {"oxygen": 0.6}}
    assert whole.sample(20, **asked).equals(loaded.sample(20, **asked))
    assert whole.log_partition(**asked) == loaded.log_partition(**asked)


def test_constraints_and_target_ranges_are_restored(tmp_path: Path) -> None:
    space = space_named()
    reward = Reward(
        [Objective("band_gap", "window", 1, 2, target_range=(0.5, 3)), Objective("toxicity", "minimize", 0, 1)],
        constraints=[Objective("supply_risk", high=6000)],
    )
    agent = DesignAgent(space, reward, random_prior(space), beta=2.0, options=quick_options())
    agent.save(tmp_path / "agent.safetensors")
    loaded = DesignAgent.load(tmp_path / "agent.safetensors")
    assert isinstance(loaded.reward, Reward)
    assert loaded.reward.objectives == reward.objectives
    assert loaded.reward.constraints == reward.constraints
    with pytest.raises(ValueError, match="trained with another reward"):
        DesignAgent.load(tmp_path / "agent.safetensors", reward=Reward(list(reward.objectives)))


def test_a_loss_that_knows_no_conditions() -> None:
    with pytest.raises(ValueError, match="loss: lpv knows no conditions"):
        conditioned_agent(conditions=ConditionOptions(), options={"loss": "lpv"})
    assert conditioned_agent(options={"loss": "lpv"}).conditions.is_fixed


def test_the_log_partition_network_fits_estimates() -> None:
    torch.manual_seed(0)
    network, generator = LogPartition(3), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(400):
        network.tempering = min(1.0, step / 100)
        conditions = torch.rand(8, 3, generator=generator)
        network.observe(conditions, 5.0 - network.tempering * 10 * conditions.sum(1))
        optimizer.zero_grad()
        network.loss(generator).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    conditions = torch.rand(100, 3, generator=generator)
    assert network(conditions).squeeze(1) == pytest.approx(5 - 10 * conditions.sum(1), abs=0.3)
    assert not network(conditions).requires_grad


# Samples


@pytest.mark.parametrize("asked", ASKED)
def test_samples_follow_the_policy_of_their_condition(asked: dict[str, Any]) -> None:
    agent = conditioned_agent()
    agent.train(15, progress=False)
    frame = agent.sample(3000, **asked, seed=1)
    policy = agent.policy_under(agent.conditions.read(**asked))
    counts = frequencies(agent.space, frame["material"])  # type: ignore[arg-type]
    assert chi_square_p(counts, log_distribution(policy)) > 0.001
    materials = frame["material"].tolist()
    assert frame["log_prob"].to_numpy() == pytest.approx(agent.log_prob(materials, **asked).numpy(), abs=1e-4)
    assert frame.attrs["condition"] == agent.conditions.describe(agent.conditions.read(**asked))


@pytest.mark.parametrize("asked", ASKED[1:])
def test_corrected_samples_follow_the_target_of_their_condition(asked: dict[str, Any]) -> None:
    agent = conditioned_agent(prior_weight=0.5)
    target, _ = exact_log_target(agent, agent.conditions.read(**asked))
    counts = frequencies(agent.space, agent.sample(4000, **asked, corrected=True, seed=0)["material"])  # type: ignore[arg-type]
    assert total_variation((counts / counts.sum()).log(), target) < 0.12


def test_utilities_of_samples_are_those_of_the_moved_target() -> None:
    agent = conditioned_agent(target_range=(0.1, 0.7))
    frame = agent.sample(50, target={"oxygen": 0.2}, seed=0)
    share = torch.tensor(frame["oxygen"].to_numpy(), dtype=torch.float64)
    normal = torch.distributions.Normal(share, 0.1)
    expected = normal.cdf(torch.tensor(0.35)) - normal.cdf(torch.tensor(0.05))
    assert frame["utility_oxygen"].to_numpy() == pytest.approx(expected.numpy(), abs=1e-4)


def test_a_policy_asked_for_what_it_was_not_trained_for() -> None:
    agent = conditioned_agent()
    with pytest.raises(ValueError, match="beta: 64 is outside the trained range 1 to 32"):
        agent.sample(5, beta=64)
    with pytest.raises(ValueError, match="no objective 'gap'"):
        agent.log_prob(["NaCl"], preference={"gap": 1})
    with pytest.raises(ValueError, match="no target of 'oxygen'"):
        agent.coverage(64, target={"oxygen": 0.3})
    with pytest.raises(ValueError, match="was not trained yet"):
        agent.log_partition()
    single = DesignAgent(agent.space, Reward(share_objectives()[:1]), beta=2.0)
    with pytest.raises(ValueError, match="answers no preferences"):
        single.sample_front(50)


# Fronts


def test_a_sweep_goes_through_all_preferences() -> None:
    agent = conditioned_agent()
    frame = agent.sample_front(103, n_preferences=5, beta=2.0, seed=4)
    assert len(frame) == 103
    sizes = frame.groupby(["preference_sodium", "preference_oxygen"], sort=False).size()
    assert [pair[0] for pair in sizes.index] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert set(sizes) == {20, 21}
    for weight, part in frame.groupby("preference_sodium"):
        materials = part["material"].tolist()
        asked = {"sodium": float(weight), "oxygen": 1 - float(weight)}  # type: ignore[arg-type]
        expected = agent.log_prob(materials, preference=asked, beta=2.0)
        assert part["log_prob"].to_numpy() == pytest.approx(expected.numpy(), abs=1e-4)
    assert frame.equals(agent.sample_front(103, n_preferences=5, beta=2.0, seed=4))
    assert len(agent.sample_front(3, seed=0)) == 3
    with pytest.raises(ValueError, match="n: 1 is too few for a sweep"):
        agent.sample_front(1)


def test_a_front_is_what_no_other_sample_dominates() -> None:
    agent = conditioned_agent()
    frame = agent.sample_front(400, seed=0)
    front = pareto_front(frame, agent.reward.objectives)
    utilities = utilities_of(frame, ["sodium", "oxygen"])
    dominated = [bool(((utilities >= row).all(1) & (utilities > row).any(1)).any()) for row in utilities]
    expected = set(frame["material"][[not flag for flag in dominated]])
    assert set(front.materials["material"]) == expected
    assert front.materials["material"].is_unique
    assert front.materials["utility_sodium"].is_monotonic_decreasing
    measures = front.measures
    assert measures.hypervolume == pytest.approx(hypervolume(utilities), abs=1e-9)
    assert (measures.n_samples, measures.n_front) == (400, len(expected))
    assert measures.n_distinct == frame["material"].nunique()
    assert len(measures.hits) == 21


def test_hits_count_the_objectives_that_have_a_weight() -> None:
    frame = pd.DataFrame(
        {
            "material": ["Na2O", "NaCl", "K2O", "KCl"], "log_prob": [-1.0, -2.0, -3.0, -4.0],
            "sodium": [0.7, 0.5, -0.1, -0.1], "oxygen": [0.4, 0.0, 0.4, 0.0],
            "utility_sodium": [1.0, 0.8, 0.0, 0.0], "utility_oxygen": [0.7, 0.1, 0.7, 0.1],
            "preference_sodium": [1.0, 0.5, 0.5, 0.0], "preference_oxygen": [0.0, 0.5, 0.5, 1.0],
        }
    )  # fmt: skip
    front = pareto_front(frame, share_objectives())
    assert front.measures.hits == (1.0, 0.0, 0.0)
    assert front.materials["material"].tolist() == ["Na2O"]
    assert front.measures.n_systems == 1


# Another reward


def other_reward(oxygen: str = "S", **changes: Any) -> Reward:
    """The same objectives, their models fitted to something else."""
    objectives = share_objectives(**changes)
    return Reward([objectives[0], replace(objectives[1], model=Share(oxygen))])


@pytest.mark.parametrize("target_range", [None, (0.1, 0.7)])
def test_another_reward_evaluates_the_replay_anew(target_range: tuple[float, float] | None) -> None:
    agent = conditioned_agent(target_range=target_range)
    agent.train(20, progress=False)
    before = agent.trainer.replay.contents()
    reward = other_reward(target_range=target_range)
    agent.change_reward(reward)
    after = agent.trainer.replay.contents()
    assert torch.equal(after.actions, before.actions) and torch.equal(after.log_mixture, before.log_mixture)
    formulas = agent.space.decode(agent.space.replay(after.actions))
    assert torch.equal(after.outcomes, reward(formulas).outcomes)
    assert not torch.equal(after.outcomes, before.outcomes)
    assert 0 <= agent.trainer.tempering <= 1


@pytest.mark.slow
def test_training_goes_on_to_the_target_of_another_reward() -> None:
    agent = conditioned_agent(options={"batch_size": 256, "replay_capacity": 20_000})
    agent.train(300, progress=False)
    agent.change_reward(other_reward())
    fresh = DesignAgent(agent.space, other_reward(), agent.prior, 1.0, 4.0)
    condition = agent.conditions.own
    utilities = torch.stack(list(agent.reward(all_formulas(agent.space)).utilities.values()), 1)  # type: ignore[arg-type]
    score = scalarize(utilities.double(), condition.preference[0].double(), "tchebycheff")
    log_target = agent.base.log_prob_in_chunks(all_actions(agent.space)).double() + 4.0 * (0.01 + score).log()  # type: ignore[arg-type]
    target = log_target - log_target.logsumexp(0)
    start = total_variation(log_distribution(agent.policy), target)
    agent.train(300, progress=False)
    end = total_variation(log_distribution(agent.policy), target)
    assert end < 0.6 * start and end < 0.6 * total_variation(log_distribution(fresh.policy), target)


def test_another_reward_survives_a_checkpoint(tmp_path: Path) -> None:
    agent = conditioned_agent()
    agent.train(10, progress=False)
    agent.save(tmp_path / "before.safetensors")
    loaded = DesignAgent.load(tmp_path / "before.safetensors", space=agent.space, reward=other_reward())
    for each in (agent, loaded):
        each.change_reward(other_reward())
        each.train(10, progress=False)
    assert torch.equal(log_distribution(agent.policy), log_distribution(loaded.policy))


def test_another_reward_has_the_same_objectives() -> None:
    agent = conditioned_agent()
    with pytest.raises(ValueError, match="change_reward: the objectives are not those"):
        agent.change_reward(Reward(share_objectives()[:1]))
