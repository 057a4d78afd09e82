"""What a campaign labels next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from agent import CampaignOptions, DesignAgent, Objective
from agent.campaign_batch import allowed, draw_initial, listed_in, propose_batch, sample_among
from agent.labelled_objectives import LabelledObjectives
from agent.store_records import Trial
from envs import CompositionBatch
from surrogates.base import Label
from surrogates.energy import EnergyModel
from surrogates.known import distance_between, is_known
from surrogates.oracle import FunctionOracle
from tests.agent.examples import (
    all_actions,
    all_formulas,
    chi_square_p,
    log_distribution,
    quick_options,
    random_prior,
    space_named,
)


def energy(material: str) -> dict[str, float]:
    return {"e_above_hull": float(EnergyModel.default().predict([material]).mean[0, 1]) + 0.1}


class Choosy(FunctionOracle):
    """Takes nothing with sulfur."""

    def __init__(self) -> None:
        super().__init__(energy)

    def refuses(self, materials: Sequence[str]) -> list[str | None]:
        return ["sulfur" if "S" in material else None for material in materials]


class Listed(FunctionOracle):
    """Knows a few materials only."""

    materials = ("NaCl", "K2O", "Na2O", "KCl", "NaKO", "Na2S", "Fe2O3", "K2S")

    def __init__(self) -> None:
        super().__init__(energy)


ANY = FunctionOracle(energy)
OPTIONS = CampaignOptions(batch=6, initial=8, pool=200, label_known=True)


def test_what_may_be_labelled_is_distinct_new_and_taken() -> None:
    given = ["Na2O", "O1Na2", "KCl", "Na2S", "K2O"]
    assert allowed(given, {"K2O"}, ANY, OPTIONS) == ["Na2O", "KCl", "Na2S"]
    assert allowed(given, set(), Choosy(), OPTIONS) == ["Na2O", "KCl", "K2O"]
    assert allowed([], set(), Choosy(), OPTIONS) == []


def test_known_formulas_are_left_out_unless_wanted() -> None:
    given = all_formulas(space_named())
    kept = allowed(given, (), ANY, CampaignOptions())
    known = is_known(CompositionBatch.from_formulas(given)).tolist()
    assert kept == [formula for formula, flag in zip(given, known, strict=True) if not flag] and any(known)


def test_first_materials_are_drawn_from_the_prior() -> None:
    space, prior = space_named(), random_prior(space_named())
    counts = torch.zeros(len(all_formulas(space)), dtype=torch.float64)
    at = {formula: row for row, formula in enumerate(all_formulas(space))}
    for seed in range(400):
        first = draw_initial(space, prior, ANY, CampaignOptions(initial=1, label_known=True), seed)
        counts[at[first[0]]] += 1
    assert chi_square_p(counts, log_distribution(prior.policy(space))) > 1e-3


def test_first_materials_are_distinct_seeded_and_taken() -> None:
    space = space_named()
    one, two = (draw_initial(space, None, Choosy(), OPTIONS, 3) for _ in range(2))
    assert one == two and len(set(one)) == 8 and not any("S" in material for material in one)
    assert not {*one} & {*draw_initial(space, None, Choosy(), OPTIONS, 3, known=one)}


def test_first_materials_of_a_list_come_from_it() -> None:
    inside = {"NaCl", "K2O", "Na2O", "KCl", "KNaO", "Na2S", "K2S"} & {*all_formulas(space_named()), "KNaO"}
    first = draw_initial(space_named(), None, Listed(), CampaignOptions(initial=4, label_known=True), 0)
    assert len({*first}) == 4 and {*first} <= inside
    assert {*draw_initial(space_named(), None, Listed(), CampaignOptions(initial=50, label_known=True), 0)} == inside


def test_a_space_of_which_the_oracle_takes_nothing_is_an_error() -> None:
    class Never(FunctionOracle):
        def refuses(self, materials: Sequence[str]) -> list[str | None]:
            return ["no"] * len(materials)

    with pytest.raises(ValueError, match="the oracle takes none"):
        draw_initial(space_named(), None, Never(energy), OPTIONS, 0)


def test_listed_materials_outside_the_space_are_left_out() -> None:
    assert "Fe2O3" not in listed_in(space_named(), Listed.materials)


# Batches


@pytest.fixture(scope="module")
def ready() -> tuple[DesignAgent, LabelledObjectives, list[Trial]]:
    """A policy and models after twenty labels."""
    space = space_named("larger")
    materials = draw_initial(space, None, ANY, CampaignOptions(initial=20, label_known=True), 0)
    trials = [trial(number, material) for number, material in enumerate(materials)]
    objectives = [Objective("e_above_hull", "minimize", 0.0, 0.5), Objective("supply_risk", "minimize", 500, 3000)]
    wanted = LabelledObjectives(objectives, ["e_above_hull"])
    wanted.fit(materials, {"e_above_hull": [energy(material)["e_above_hull"] for material in materials]})
    agent = DesignAgent(space, wanted.reward, random_prior(space), beta=4.0, options=quick_options())
    return agent, wanted, trials


def trial(number: int, material: str) -> Trial:
    label = Label(material, energy(material))
    return Trial(number, 0, material, "energy", "1", "initial", "done", 1, {}, None, label, 0.1, None, None)


def propose(ready: tuple[Any, Any, Any], known: Sequence[str] = (), **changes: Any) -> list[Any]:
    agent, wanted, trials = ready
    options = CampaignOptions(**{"batch": 6, "pool": 150, "label_known": True, **changes})  # type: ignore[arg-type]
    return propose_batch(agent, wanted, trials, {*known, *(t.material for t in trials)}, ANY, options, 7)[0]


def test_a_batch_is_new_and_comes_with_predictions(ready: tuple[Any, Any, Any]) -> None:
    _, wanted, trials = ready
    proposals = propose(ready)
    materials = [proposal.material for proposal in proposals]
    assert len({*materials}) == 6 and not {*materials} & {t.material for t in trials}
    assert [p.picked_by for p in proposals] == ["ehvi"] * 3 + ["greedy"] * 2 + ["random"]
    predicted = wanted.model.predict(materials)
    assert [p.predicted["e_above_hull"][0] for p in proposals] == pytest.approx(predicted.mean[:, 0].tolist(), abs=1e-5)
    batch = CompositionBatch.from_formulas(materials)
    distance = distance_between(batch, CompositionBatch.from_formulas([t.material for t in trials]))
    assert [p.training_distance for p in proposals] == pytest.approx(distance.tolist(), abs=1e-4)


def test_greedy_picks_have_the_highest_reward_of_what_is_left(ready: tuple[Any, Any, Any]) -> None:
    _, wanted, _ = ready
    best = [p.material for p in propose(ready, method="greedy", greedy_share=1.0, random_picks=0)]
    reward = wanted.reward(best).log_reward
    assert torch.equal(reward.sort(descending=True).values, reward)
    others = [p.material for p in propose(ready, known=best, method="greedy", greedy_share=1.0, random_picks=0)]
    assert wanted.reward(others).log_reward.max() <= reward.min()


def test_the_seed_decides(ready: tuple[Any, Any, Any]) -> None:
    assert propose(ready) == propose(ready)


def test_nothing_new_is_an_empty_batch(ready: tuple[Any, Any, Any]) -> None:
    assert propose(ready, known=all_formulas(space_named("larger"))) == []


def test_a_penalty_keeps_a_batch_near_what_is_labelled(ready: tuple[Any, Any, Any]) -> None:
    free = [p.training_distance for p in propose(ready, random_picks=0)]
    bound = [p.training_distance for p in propose(ready, random_picks=0, distance_penalty=50.0)]
    assert sum(bound) < sum(free)


def test_drawing_among_materials_follows_the_policy(ready: tuple[Any, Any, Any]) -> None:
    """Of one draw among M materials, each has the policy's probability given that it is one of them."""
    agent = small_fixed_agent()
    materials = all_formulas(agent.space)[:25]  # type: ignore[arg-type]
    log_p = agent.policy.log_prob_in_chunks(all_actions(agent.space)[:25])  # type: ignore[arg-type]
    counts = torch.zeros(25, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(1500):
        counts[materials.index(sample_among(agent, materials, 1, generator)[0])] += 1
    assert chi_square_p(counts, log_p - log_p.logsumexp(0)) > 1e-3
    assert sample_among(agent, materials, 30, generator) == materials
    assert len({*sample_among(agent, materials, 11, generator)}) == 11
    conditioned = ready[0]
    assert len({*sample_among(conditioned, all_formulas(conditioned.space), 60, generator)}) == 60


def small_fixed_agent() -> DesignAgent:
    space = space_named()
    return DesignAgent(space, lambda materials: [1.0] * len(materials), random_prior(space), options=quick_options())
