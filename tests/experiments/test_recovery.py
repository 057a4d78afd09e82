import json
import math
import sys
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.evaluation_compositions import composition_keys
from envs import CompositionBatch, CompositionSpace
from envs.formula import chemical_system, parse_formula, reduced_formula
from surrogates.datasets import read_known_formulas

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "benchmarks"))

import recovery
from recovery_baselines import Ngram, PolicyContestant, UniformValid
from recovery_data import (
    AtomStrings,
    DistinctCounter,
    distinct_formulas,
    held_out_places,
    ionic_shares,
    is_inside,
    split_formulas,
    without_a_twentieth,
)
from recovery_gpt import Gpt, GptSettings
from recovery_substitution import Substitution

FORMULAS = read_known_formulas()["formula"].tolist()[::24]


@pytest.fixture(scope="module")
def space():
    return CompositionSpace()


@pytest.fixture(scope="module")
def random_split(space):
    return split_formulas("random", space, distinct_formulas(FORMULAS), 0.1, seed=3)


# The split


def test_distinct_formulas_keep_the_first_of_equal_materials():
    assert distinct_formulas(["TiO2", "NaCl", "Ti2O4", "O2Ti", "ClNa"]) == ["TiO2", "NaCl"]


def test_random_split_has_the_size_asked_for():
    held_out = held_out_places("random", FORMULAS, 0.1, seed=1)
    assert len(set(held_out)) == len(held_out) == round(0.1 * len(FORMULAS))
    assert held_out != held_out_places("random", FORMULAS, 0.1, seed=2)
    assert held_out == held_out_places("random", FORMULAS, 0.1, seed=1)


def test_split_by_systems_holds_out_whole_systems_until_the_share_is_reached():
    held_out = set(held_out_places("systems", FORMULAS, 0.1, seed=1))
    sides = defaultdict(set)
    for place, formula in enumerate(FORMULAS):
        sides[chemical_system(formula)].add(place in held_out)
    assert all(len(side) == 1 for side in sides.values())
    largest = max(Counter(map(chemical_system, FORMULAS)).values())
    assert 0.1 * len(FORMULAS) - 1 <= len(held_out) < 0.1 * len(FORMULAS) + largest


@pytest.mark.parametrize("name", ["systems", "random"])
def test_no_reduced_formula_stands_on_both_sides_and_all_lie_inside(name, space):
    split = split_formulas(name, space, distinct_formulas(FORMULAS), 0.1, seed=0)
    training, reachable = ({reduced_formula(f) for f in part} for part in (split.training, split.reachable))
    assert training and reachable and not training & reachable
    assert space.explain(split.training + split.reachable) == [None] * (len(training) + len(reachable))
    assert len(split.reachable) <= split.n_held_out


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="unknown split 'prototype'"):
        held_out_places("prototype", FORMULAS, 0.1, seed=0)


def test_a_twentieth_and_the_rest_are_all():
    kept, held_out = without_a_twentieth(200, seed=4)
    assert len(held_out) == 10 and sorted(kept + held_out) == list(range(200))


def test_every_ionic_formula_within_the_limits_encodes(space):
    shares = ionic_shares(space, FORMULAS)
    assert shares.encoded == shares.within_limits <= shares.ionic < len(FORMULAS)
    assert shares.encoded == sum(reason is None for reason in space.explain(FORMULAS))


def test_batched_acceptance_is_that_of_explain(space):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.stack([torch.randperm(103, generator=generator)[:6] + 1 for _ in range(400)])
    amounts = torch.randint(0, 10, numbers.shape, generator=generator).float()
    amounts[:200, 3:] = 0
    amounts[:, 0] += (amounts.sum(1) == 0).float()
    drawn = CompositionBatch(torch.where(amounts > 0, numbers, 0), amounts)
    formulas = [*FORMULAS, *drawn, "Ti2O4", "O2"]
    materials = CompositionBatch.from_formulas(formulas)
    assert is_inside(space, materials).tolist() == [reason is None for reason in space.explain(formulas)]


# Strings


def test_strings_return_to_the_formulas_that_they_were_made_of(space, random_split):
    strings = AtomStrings(space)
    decoded = strings.decode(strings.encode(random_split.training))
    original = CompositionBatch.from_formulas(random_split.training)
    assert composition_keys(decoded).equal(composition_keys(original))


def test_a_string_repeats_each_symbol_in_ascending_electronegativity(space):
    strings = AtomStrings(space)
    tokens = strings.encode(["O6Ti2Sr2"])[0].tolist()
    assert [strings.symbols[token] for token in tokens[:5]] == ["Sr", "Ti", "O", "O", "O"]
    assert tokens[5] == strings.end and set(tokens[6:]) == {strings.padding}


def test_strings_without_atoms_or_without_end_are_no_composition(space):
    strings = AtomStrings(space)
    tokens = strings.encode(["TiO2"]).repeat(4, 1)
    tokens[0, 0], tokens[0, 1:] = strings.end, strings.padding
    tokens[1] = strings.symbols.index("O")
    tokens[2, :3] = tokens[2, :3].flip(0)  # O O Ti: another order, the same composition
    decoded = strings.decode(tokens)
    assert (decoded.atomic_numbers > 0).any(1).tolist() == [False, False, True, True]
    assert [reduced_formula(f) for f in decoded.formulas[2:]] == ["TiO2", "TiO2"]


# Counting


@pytest.mark.parametrize("known", [[], list(range(0, 60, 3))], ids=["all", "novel"])
def test_distinct_materials_are_counted_in_the_order_of_drawing(known):
    random = np.random.default_rng(0)
    stream = random.integers(0, 90, 400)
    readable = random.random(400) < 0.8
    held_out = np.arange(20, 70)
    counter = DistinctCounter(held_out, [1, 7, 30, 55, 500], np.array(known, np.int64))
    for start in range(0, 400, 37):
        rows = np.arange(start, min(start + 37, 400))
        rows = rows[readable[rows]]
        counter.add(stream[rows], rows + 1, min(start + 37, 400))
    seen, expected = [], []
    for place, key in enumerate(stream.tolist()):
        if readable[place] and key not in known and key not in seen:
            seen.append(key)
            if len(seen) in (1, 7, 30, 55):
                expected.append((len(seen), place + 1, len(set(seen) & set(held_out.tolist()))))
    assert [(c.distinct, c.draws, c.found) for c in counter.checkpoints] == expected
    assert not counter.is_complete
    assert (counter.last.distinct, counter.last.draws) == (len(seen), 400)
    assert counter.last.found == len(set(seen) & set(held_out.tolist()))


# The n-gram


def test_ngram_matches_a_case_counted_by_hand(space):
    strings = AtomStrings(space)
    ngram = Ngram(strings, strings.encode(["NaCl", "NaCl", "NaBr"]), order=2)
    na, cl, br = (strings.symbols.index(symbol) for symbol in ("Na", "Cl", "Br"))
    # unigrams: Na 3, Cl 2, Br 1, end 3, so 9 tokens of 4 kinds
    uniform = 1 / strings.n_outcomes
    cl_alone, ba_alone = (2 + 4 * uniform) / 13, 4 * uniform / 13
    after_na = ngram.probabilities([na])  # Cl twice, Br once: 3 tokens of 2 kinds
    assert after_na[cl] == pytest.approx((2 + 2 * cl_alone) / 5)
    assert after_na[strings.symbols.index("Ba")] == pytest.approx(2 * ba_alone / 5)
    assert ngram.probabilities([])[na] == pytest.approx((3 + (3 + 4 * uniform) / 13) / 4)  # begin: always Na
    assert ngram.probabilities([strings.symbols.index("Ba")])[cl] == pytest.approx(cl_alone)  # Ba was never seen
    assert ngram.parameters == 4 + 5
    chain = ngram.probabilities([])[na] * after_na[br] * ngram.probabilities([na, br])[strings.end]
    assert ngram.log_prob(strings.encode(["NaBr"]))[0] == pytest.approx(math.log(chain))


@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_ngram_probabilities_sum_to_one_after_any_context(order, space, random_split):
    strings = AtomStrings(space)
    tokens = strings.encode(random_split.training)
    ngram = Ngram(strings, tokens, order)
    contexts = [tokens[row, :length].tolist() for row, length in ((0, 0), (1, 1), (5, 2), (9, 3))]
    for context in [*contexts, [80, 3, 3, 80, 5, 80]]:
        probabilities = ngram.probabilities(context)
        assert (probabilities > 0).all() and probabilities.sum() == pytest.approx(1)


def test_ngram_samples_as_often_as_its_probabilities_say(space):
    strings = AtomStrings(space)
    ngram = Ngram(strings, strings.encode(["NaCl", "NaCl", "NaBr", "Na2O"] * 20), order=3)
    for temperature in (1.0, 2.0):
        samples = ngram.sample(20_000, torch.Generator().manual_seed(0), temperature)
        keys = composition_keys(samples)
        for formula in ("NaCl", "NaBr", "Na2O"):
            share = float((keys == composition_keys(CompositionBatch.from_formulas([formula]))).double().mean())
            expected = math.exp(ngram.log_prob(strings.encode([formula]), temperature)[0])
            assert share == pytest.approx(expected, abs=5 * math.sqrt(expected / 20_000))


def test_ngram_order_is_chosen_by_held_out_likelihood(space, random_split):
    ngram = Ngram.fit(space, random_split.training, seed=0, orders=[1, 2, 3])
    strings = AtomStrings(space)
    tokens = strings.encode(random_split.training)
    kept, held_out = without_a_twentieth(len(tokens), 0)
    nats = {n: -Ngram(strings, tokens[kept], n).log_prob(tokens[held_out]).mean() for n in (1, 2, 3)}
    assert ngram.order == min(nats, key=nats.get)
    likelihood = ngram.likelihood(random_split.reachable)
    n_tokens = np.mean([sum(parse_formula(f).values()) + 1 for f in map(reduced_formula, random_split.reachable)])
    assert likelihood.perplexity == pytest.approx(math.exp(likelihood.nats / n_tokens))


# The others


def test_a_policy_is_judged_and_sampled_at_a_temperature(space, random_split):
    settings = {"width": 16, "depth": 1, "max_epochs": 2}
    prior = PolicyContestant.fit(space, random_split.training, 0, settings)
    uniform = UniformValid(space)
    nats = [prior.likelihood(random_split.reachable, t).nats for t in (1.0, 1.5, 1e6)]
    assert nats[0] < nats[1] < nats[2] == pytest.approx(uniform.likelihood(random_split.reachable).nats, rel=1e-3)
    actions = space.encode(random_split.reachable)
    assert nats[0] == pytest.approx(-float(prior.policy.log_prob_in_chunks(actions).mean()), rel=1e-5)
    for contestant in (prior, uniform):
        samples = contestant.sample(100, torch.Generator().manual_seed(0))
        assert len(samples) == 100 and is_inside(space, samples).all()


def test_substitution_exchanges_one_or_two_ions_and_keeps_amounts_and_neutrality(space):
    substitution = Substitution(space, ["SrTiO3"])
    samples = substitution.sample(2000, torch.Generator().manual_seed(0))
    made = [f for f, filled in zip(samples, (samples.atomic_numbers > 0).any(1).tolist(), strict=True) if filled]
    assert made
    for formula in made:
        amounts = parse_formula(formula)
        assert sorted(amounts.values()) == [1, 1, 3]
        assert 1 <= len(amounts.keys() & {"Sr", "Ti", "O"}) <= 2 or sorted(amounts) == ["O", "Sr", "Ti"]
    titanates = sum({"Ti", "O"} <= parse_formula(f).keys() for f in made)
    assert made.count("BaTiO3") > 0.05 * titanates  # the best known substitution


# All together


def tiny(monkeypatch, **settings):
    monkeypatch.setitem(recovery.PRIORS, "MLP prior", {"width": 16, "depth": 1, "max_epochs": 2})
    monkeypatch.setattr(recovery, "read_known_formulas", lambda: {"formula": np.array(FORMULAS)})
    return recovery.Options(counts=[20, 50], batch=64, **settings)


def test_end_to_end(monkeypatch, tmp_path, capsys):
    names = [name for name in recovery.CONTESTANTS if name != "GPT-2"]
    options = tiny(monkeypatch, contestants=names, temperatures=[1.0, 1.5], output=tmp_path / "found.json", json=True)
    recovery.main(options)
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])["splits"]
    assert list(result) == ["systems", "random"]
    for split in result.values():
        rows = {(row["row"], row["temperature"]): row for row in split["results"]}
        ngrams = {(name, t) for name in ("n-gram", "n-gram, valid only") for t in (1.0, 1.5)}
        assert {("MLP prior", 1.0), ("MLP prior", 1.5), ("uniform-valid", 1.0), *ngrams} <= rows.keys()
        assert len(rows) == 11  # four of the priors, one uniform, four n-grams, two substitutions
        for row in rows.values():
            for block in ("distinct", "novel"):
                early, late = row[block]
                assert early["count"] == 20 and late["count"] == 50
                assert early["found"] <= late["found"] and early["draws"] <= late["draws"]
                assert late["recovery"] == late["found"] / split["reachable"]
        assert rows["MLP prior", 1.0]["valid"] == rows["uniform-valid", 1.0]["valid"] == 1
        assert rows["n-gram", 1.0]["valid"] < 1
        assert rows["n-gram", 1.0]["distinct"][1]["draws"] <= rows["n-gram, valid only", 1.0]["distinct"][1]["draws"]
        assert rows["MLP prior", 1.0]["held_out"]["nats"] < rows["uniform-valid", 1.0]["held_out"]["nats"]

    def measure_again(name, *_):
        raise AssertionError(f"{name} is measured again")

    monkeypatch.setattr(recovery, "measure", measure_again)
    recovery.main(options)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["splits"] == result
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    options.seed = 1
    with pytest.raises(AssertionError, match="transformer prior is measured again"):
        recovery.main(options)


def test_a_contestant_that_finds_little_new_stops(space, random_split):
    options = recovery.Options(counts=[3, 100_000], batch=500, draws_a_new=10)
    strings = AtomStrings(space)
    ngram = Ngram(strings, strings.encode(["NaCl", "KCl", "LiF"] * 200), order=4)
    found, shares = recovery.draw(ngram, space, random_split, options, temperature=1.0)
    assert found[""]["distinct"][0]["distinct"] == 3
    assert 3 <= found[""]["distinct"][1]["distinct"] < 100_000
    assert shares["draws"] < 5000


def test_unknown_contestant_is_named():
    with pytest.raises(ValueError, match="unknown 'LSTM'"):
        recovery.Options(contestants=["LSTM"])


# The GPT-2


@pytest.fixture(scope="module")
def gpt(space, random_split):
    pytest.importorskip("transformers")
    settings = GptSettings(layers=1, heads=2, width=16, max_epochs=4, batch_size=32, learning_rate=1e-2)
    return Gpt.fit(space, random_split.training, 0, settings)


def test_gpt_learns_and_its_perplexity_is_that_of_its_tokens(gpt, space, random_split):
    likelihood = gpt.likelihood(random_split.reachable)
    assert likelihood.perplexity < 0.5 * AtomStrings(space).n_outcomes
    hotter = [gpt.likelihood(random_split.reachable, t).perplexity for t in (1.0, 3.0, 1e6)]
    assert all(low < high for low, high in pairwise(hotter))
    assert hotter[-1] == pytest.approx(AtomStrings(space).n_outcomes, rel=1e-3)


def test_gpt_draws_with_kept_keys_and_values_what_it_would_draw_without(gpt, space):
    strings = AtomStrings(space)
    coldest = gpt._draw(3, torch.Generator().manual_seed(0), temperature=1e-4)
    greedy = [strings.begin]
    with torch.no_grad():
        while len(greedy) <= strings.length and greedy[-1] != strings.end:
            logits = gpt._model(input_ids=torch.tensor([greedy])).logits[0, -1, : strings.n_outcomes]
            greedy.append(int(logits.argmax()))
    assert all(row[: len(greedy) - 1] == greedy[1:] for row in coldest.tolist())


def test_gpt_draws_as_often_as_its_likelihood_says(gpt, space):
    samples = gpt._draw(20_000, torch.Generator().manual_seed(0), temperature=0.5)
    strings, counts = samples.unique(dim=0, return_counts=True)
    commonest = counts.topk(3)
    expected = gpt._log_prob(strings[commonest.indices], temperature=0.5).exp() * 20_000
    assert commonest.values.tolist() == pytest.approx(expected.tolist(), abs=5 * float(expected.max()) ** 0.5)


def test_gpt_takes_part(monkeypatch, capsys):
    pytest.importorskip("transformers")
    settings = GptSettings(layers=1, heads=2, width=16, max_epochs=1)
    recovery.main(tiny(monkeypatch, contestants=["MLP prior", "GPT-2"], gpt=settings, splits=["random"]))
    printed = capsys.readouterr().out
    assert "GPT-2, valid only" in printed and "MLP prior over" in printed
