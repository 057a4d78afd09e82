"""Candidates: distinct, ranked, with the evidence on each."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from agent import DesignAgent, Objective, Reward
from agent.candidates import collect_candidates, describe_oxidation_states, gather_evidence
from envs import CompositionBatch, CompositionSpace
from envs.chemistry import oxidation_states
from surrogates.datasets import read_band_gaps, read_known_formulas
from surrogates.plausibility import plausibility
from tests.agent.examples import all_formulas, crc_reward, quick_options, random_prior, small_agent, space_named


def test_candidates_are_distinct_and_ranked_by_reward() -> None:
    agent = small_agent()
    table = collect_candidates(agent, 25, 400, seed=3)
    sampled = set(agent.sample(400, seed=3)["material"])
    assert table["rank"].tolist() == list(range(1, 26))
    assert table["formula"].is_unique
    assert table["reward"].is_monotonic_decreasing
    assert table["reward"].tolist() == pytest.approx(crc_reward(table["formula"].tolist()), rel=1e-5)
    best = sorted(crc_reward(sorted(sampled)), reverse=True)[:25]
    assert table["reward"].tolist() == pytest.approx(best, rel=1e-5)
    assert table.equals(collect_candidates(agent, 25, 400, seed=3))


def test_fewer_materials_than_asked_for_are_all_there_are() -> None:
    agent = small_agent()
    table = collect_candidates(agent, 10_000, 60, seed=0)
    assert set(table["formula"]) == set(agent.sample(60, seed=0)["material"])
    assert not table.isna().any().any()


def test_predictions_come_with_their_spread() -> None:
    space = space_named()
    reward = Reward([Objective("band_gap", low=1.0, high=3.0), Objective("toxicity", "minimize", 0, 1)])
    agent = DesignAgent(space, reward, random_prior(space), options=quick_options())
    table = collect_candidates(agent, 10, 50, seed=0)
    assert (table["band_gap_eV_std"] > 0).all()
    assert (table["toxicity_fraction_std"] == 0).all()
    assert table["utility_band_gap"].between(0, 1).all()
    score = [math.log(value) for value in table["reward"]]
    assert score == pytest.approx(reward(table["formula"].tolist()).log_reward.tolist(), abs=1e-5)


def test_evidence_agrees_with_the_tables() -> None:
    formulas = list(dict.fromkeys([*all_formulas(space_named())[:40], "NaCl", "K2O"]))
    evidence = gather_evidence(formulas, space_named().limits).set_index(pd.Index(formulas))
    known = {frozenset(split(formula).items()) for formula in read_known_formulas()["formula"]}
    for formula in formulas:
        assert evidence.loc[formula, "novel"] == (frozenset(split(formula).items()) not in known)
        if not evidence.loc[formula, "novel"]:
            assert evidence.loc[formula, "nearest_distance"] == pytest.approx(0, abs=1e-3)
    gaps = read_band_gaps().set_index("formula")["band_gap_eV"]
    first = str(evidence.loc["K2O", "nearest_known"]).split("; ")[0]
    assert split(first.split(" ")[0]) == split("K2O")
    for text in evidence["nearest_known"]:
        parts = text.split("; ")
        assert len(parts) == 3
        for part in parts:
            if "measured" in part:
                name, value = part.split(" (")[0], float(part.split("(")[1].split(" ")[0])
                assert gaps.get(name, 0.0) == pytest.approx(value, abs=0.006)  # metals are known from classes alone
    assert evidence.loc["K2O", "oxidation_states"] == "K1+ O2-"


@pytest.mark.parametrize("pauling", [True, False])
@pytest.mark.parametrize("oxidation_state_set", ["icsd24", "pymatgen_sp", "smact14"])
def test_oxidation_states_are_neutral_and_of_the_set_that_was_asked_for(
    oxidation_state_set: str, pauling: bool
) -> None:
    space = CompositionSpace(required=["S"], max_elements=3, oxidation_states=oxidation_state_set, pauling=pauling)
    formulas = sorted(set(space.decode(space.sample_uniform_policy(300, torch.Generator().manual_seed(0)))))
    described = describe_oxidation_states(CompositionBatch.from_formulas(formulas), space.limits)
    allowed = oxidation_states(oxidation_state_set)
    for formula, states in zip(formulas, described, strict=True):
        amounts = split(formula)
        assert states.keys() == amounts.keys()
        assert sum(amounts[symbol] * charge for symbol, charge in states.items()) == 0
        assert all(charge in allowed[symbol] for symbol, charge in states.items()), formula
    assert plausibility(CompositionBatch.from_formulas(formulas)).eq(0).any()  # some have rare ions only


def test_without_charge_rules_the_most_plausible_oxidation_states_or_none() -> None:
    space = CompositionSpace(charge_neutral=False)
    batch = CompositionBatch.from_formulas(["SrTiO3", "FeAl"])
    assert describe_oxidation_states(batch, space.limits) == [{"Sr": 2, "Ti": 4, "O": -2}, {}]


def test_a_formula_with_fractions_has_no_oxidation_states_of_its_own() -> None:
    batch = CompositionBatch.from_formulas(["Li0.5CoO2", "LiCoO2"])
    assert describe_oxidation_states(batch, CompositionSpace().limits) == [{}, {"Li": 1, "Co": 3, "O": -2}]


def split(formula: str) -> dict[str, float]:
    from envs.formula import parse_formula, reduce_amounts

    return dict(reduce_amounts(parse_formula(formula)))
