"""`Prior`: fitting, counting, storing, and its policy in restricted spaces."""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from agent import Policy, PolicyNetwork, Prior
from agent.network_file import read_tensors, write_tensors
from agent.prior import CRYSTAL_SHARPENING
from envs import CompositionSpace, CrystalSpace
from tests.agent.crystal_examples import crystal_space, samples_of
from tests.agent.examples import (
    INTERMETALLIC,
    LARGER,
    SMALL,
    TIED,
    all_actions,
    all_formulas,
    log_distribution,
    random_prior,
    small_agent,
    space_named,
)
from tests.envs.mixed_spaces import TAGS, TaggedCompositions, every_coloured_number

OUTSIDE = ["NaCl9", "Fe2O3", "NaKClO", "NaO2Cl7", "NaK", "FeO"]


def alkali_chlorides() -> list[str]:
    """What a prior should learn: whatever has chlorine and no sulphur."""
    return [formula for formula in all_formulas(space_named("larger")) if "Cl" in formula and "S" not in formula]


@lru_cache
def fitted() -> Prior:
    materials = alkali_chlorides() * 2 + OUTSIDE + ["Na2Cl2"]
    return Prior.fit(space_named("larger"), materials, width=24, depth=1, max_epochs=8, dropout=0.0, progress=False)


def test_fitting_beats_the_uniform_policy_on_what_was_held_out() -> None:
    report = fitted().report
    assert report.held_out_nats < report.uniform_nats - 0.3
    assert 1 <= report.epochs <= 8
    assert f"{report.n_materials} materials inside the space" in str(report)


def test_materials_are_counted_once_and_those_outside_by_reason() -> None:
    space, report = space_named("larger"), fitted().report
    assert report.n_materials == len(alkali_chlorides())  # Na2Cl2 is NaCl
    reasons = Counter((reason or "").split(":")[0] for reason in space.explain(OUTSIDE))
    assert report.outside == dict(reasons)
    assert sum(report.outside.values()) == len(OUTSIDE)


def test_perplexity_is_the_number_of_equally_likely_actions() -> None:
    space = CompositionSpace(["Li", "Na", "K", "F", "O"], max_elements=2, max_count=1)  # 3 cations, 2 anions, STOP
    uniform = random_prior(space, scale=0.0)
    actions = space.actions_of(space.enumerate())
    assert len(actions) == 6
    assert uniform.perplexity(space, actions) == pytest.approx((3 * 2) ** (1 / 3))
    with pytest.raises(ValueError, match="no materials"):
        uniform.perplexity(space, actions[:0])


def test_a_transformer_is_fitted_stored_and_read_like_a_perceptron(tmp_path: Path) -> None:
    space = space_named("larger")
    settings = {"width": 32, "depth": 1, "max_epochs": 8, "learning_rate": 4e-3, "progress": False}
    prior = Prior.fit(space, alkali_chlorides(), architecture="transformer", **settings)  # type: ignore[arg-type]
    assert type(prior.network.parts[0]).__name__ == "Transformer"
    assert prior.report.held_out_nats < prior.report.uniform_nats - 0.3
    prior.save(tmp_path / "prior.safetensors")
    loaded = Prior.load(tmp_path / "prior.safetensors")
    difference = log_distribution(loaded.policy(space)) - log_distribution(prior.policy(space))
    assert difference.abs().max() < 0.05


def test_exchanged_elements_make_what_is_unknown_but_alike_likelier() -> None:
    space = CompositionSpace(["Li", "Na", "K", "Rb", "F", "Cl", "Br", "I", "O", "S"], max_elements=3, max_count=3)
    halides = [f"{cation}{anion}" for cation in ("Li", "Na", "K", "Rb") for anion in ("F", "Cl", "Br", "I")]
    oxides = ["Li2O", "Na2O", "K2O", "Rb2O", "Li2S", "Na2S", "K2S", "NaKO", "LiNaO", "LiKS", "NaKS", "NaRbO"]
    known = [formula for formula in halides if formula != "RbI"] + oxides
    settings = {"width": 24, "depth": 1, "max_epochs": 6, "dropout": 0.0, "temperature": 1.0, "progress": False}
    left_out = space.encode(["RbI"])
    with_exchanges, without = (
        float(Prior.fit(space, known, substitution_share=share, **settings).log_prob(space, left_out))  # type: ignore[arg-type]
        for share in (0.5, 0.0)
    )
    assert with_exchanges > without


def test_the_fitted_policy_prefers_what_it_was_shown() -> None:
    space = space_named("larger")
    probability = log_distribution(fitted().policy(space)).double().exp()
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-5)
    shown = torch.tensor([formula in set(alkali_chlorides()) for formula in all_formulas(space)])
    uniform = log_distribution(random_prior(space, scale=0.0).policy(space)).double().exp()
    assert probability[shown].sum() > uniform[shown].sum() + 0.2


def test_fitting_depends_on_the_seed_alone() -> None:
    space = space_named()

    def nats(seed: int, global_seed: int) -> float:
        torch.manual_seed(global_seed)
        prior = Prior.fit(space, all_formulas(space), seed=seed, width=8, max_epochs=1, progress=False)
        return prior.report.held_out_nats

    with torch.random.fork_rng():
        assert nats(0, 1) == nats(0, 2) != nats(1, 1)


def test_too_few_materials_are_refused() -> None:
    space = space_named()
    with pytest.raises(ValueError, match=r"at least 20 distinct .* not 2 \(outside: 2 by count, 2 by element, .*"):
        Prior.fit(space, ["NaCl", "NaCl", "Na2Cl2", "KCl", *OUTSIDE], progress=False)
    with pytest.raises(ValueError, match=r"not 0 \(outside: none\)"):
        Prior.fit(space, [], progress=False)
    with pytest.raises(ValueError, match="Xx"):
        Prior.fit(space, ["Xx2"], progress=False)


def test_a_stored_prior_is_the_same_up_to_half_precision(tmp_path: Path) -> None:
    space, path = space_named("larger"), tmp_path / "prior.safetensors"
    fitted().save(path)
    loaded = Prior.load(path)
    assert loaded.report == fitted().report
    difference = log_distribution(loaded.policy(space)) - log_distribution(fitted().policy(space))
    assert difference.abs().max() < 0.05
    loaded.save(path)
    again = Prior.load(path)
    assert torch.equal(log_distribution(again.policy(space)), log_distribution(loaded.policy(space)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["prior.safetensors"]


def test_files_that_are_no_prior_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    fitted().save(path)
    tensors, description = read_tensors(path, "prior")
    content = path.read_bytes()

    def refuse(message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            Prior.load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    path.write_bytes(content[: len(content) // 2])
    refuse("cut short")
    path.write_text("formula\nNaCl\n")
    refuse("not a readable safetensors file")
    small_agent().save(path)
    refuse("holds an agent, expected a prior")
    import json

    save_file(
        {name: t for name, t in tensors.items() if "output" not in name}, path, {"description": json.dumps(description)}
    )
    refuse("does not fit this version of MatSmith")
    save_file(
        tensors, path, {"description": json.dumps(description | {"parts": [description["parts"][0] | {"width": 7}]})}
    )
    refuse("does not fit this version of MatSmith")
    save_file(tensors, path, {"description": json.dumps({"kind": "prior"})})
    refuse("does not fit this version of MatSmith")


def test_files_of_a_single_part_still_load(tmp_path: Path) -> None:
    space, path = space_named("larger"), tmp_path / "prior.safetensors"
    fitted().save(path)
    expected = log_distribution(Prior.load(path).policy(space))
    tensors, description = read_tensors(path, "prior")
    (part,) = description.pop("parts")
    del description["kinds"]
    write_tensors(path, {name.removeprefix("0."): value for name, value in tensors.items()}, description | part)
    assert torch.equal(log_distribution(Prior.load(path).policy(space)), expected)


# Several kinds of action


def test_a_prior_over_several_kinds_of_action(tmp_path: Path) -> None:
    space, path = space_named("coloured"), tmp_path / "prior.safetensors"
    shown = [text for text in every_coloured_number() if "33" not in text and not text.startswith("red")]
    settings = {"width": 24, "depth": 1, "max_epochs": 4, "learning_rate": 5e-3, "temperature": 1.0, "progress": False}
    prior = Prior.fit(space, [*shown, "red 9"], **settings)  # type: ignore[arg-type]
    assert (prior.report.n_materials, prior.report.outside) == (len(shown), {"sum": 1})
    probability = log_distribution(prior.policy(space)).double().exp()
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-5)
    red, with_33 = (torch.tensor([part in text for text in all_formulas(space)]) for part in ("red", "33"))
    assert float(probability[red].sum()) < 0.1  # a third under the uniform policy
    uniform = log_distribution(random_prior(space, scale=0.0).policy(space)).double().exp()
    assert float(probability[with_33].sum()) < 0.5 * float(uniform[with_33].sum())
    prior.save(path)
    assert {name.split(".")[0] for name in read_tensors(path, "prior")[0]} == {"0", "1"}
    loaded = Prior.load(path)
    difference = log_distribution(loaded.policy(space)) - log_distribution(prior.policy(space))
    assert difference.abs().max() < 0.05
    assert loaded.network.kinds == space.kinds


def test_temperature_flattens_every_part() -> None:
    space = space_named("coloured")
    settings = {"width": 24, "depth": 1, "max_epochs": 3, "dropout": 0.0, "progress": False}
    sharp, flat = (Prior.fit(space, every_coloured_number(), temperature=t, **settings) for t in (1.0, 2.0))  # type: ignore[arg-type]
    for one, other in zip(sharp.network.parts, flat.network.parts, strict=True):
        assert torch.equal(other.output.weight * 2, one.output.weight)
        assert torch.equal(other.output.bias * 2, one.output.bias)


# The embedded prior


@pytest.mark.parametrize("limits", [SMALL, LARGER, TIED, INTERMETALLIC], ids=str)
def test_the_embedded_prior_is_a_distribution_in_any_space(limits: dict[str, object]) -> None:
    space = CompositionSpace(**limits)  # type: ignore[arg-type]
    policy = Prior.default().policy(space)
    log_prob = log_distribution(policy)
    assert float(log_prob.double().exp().sum()) == pytest.approx(1.0, abs=1e-4)
    assert torch.isfinite(log_prob).all()
    sampled = policy.sample_many(300, torch.Generator().manual_seed(0)).state
    assert set(space.decode(sampled)) <= set(all_formulas(space))
    assert torch.equal(Prior.default().log_prob(space, all_actions(space)), log_prob)


def test_the_embedded_prior_knows_chemistry() -> None:
    space = CompositionSpace(["Na", "Sr", "Ti", "O", "Cl"], max_elements=3)
    log_prob = log_distribution(Prior.default().policy(space))
    at = {formula: row for row, formula in enumerate(all_formulas(space))}
    known = [at[formula] for formula in ("NaCl", "SrTiO3", "TiO2", "SrCl2", "Na2O")]
    assert log_prob[known].mean() > log_prob.mean() + 2


def test_every_sample_of_the_embedded_prior_is_inside_the_space() -> None:
    space = CompositionSpace(required=["O"], max_elements=3, forbidden=["Pb"])
    state = Prior.default().policy(space).sample_many(400, torch.Generator().manual_seed(0)).state
    formulas = space.decode(state)
    assert space.explain(formulas) == [None] * 400
    assert len(set(formulas)) > 300


def test_the_embedded_prior_decides_the_composition_part_of_a_larger_space() -> None:
    space, alone = TaggedCompositions(**LARGER), space_named("larger")
    log_prob = log_distribution(Prior.default().policy(alone))
    for tag in TAGS:
        actions = space.encode([f"{formula} {tag}" for formula in all_formulas(alone)])
        assert Prior.default().log_prob(space, actions) == pytest.approx(log_prob - math.log(3), abs=1e-4)
    sampled = Prior.default().policy(space).sample_many(200, torch.Generator().manual_seed(0)).state
    assert space.explain(space.decode(sampled)) == [None] * 200


def test_a_prior_is_frozen_and_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    policy = random_prior(space_named()).policy(space_named("larger"))
    assert not any(parameter.requires_grad for parameter in policy.network.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert Prior.default() is Prior.default()


# Crystals


def test_parts_that_are_kept_stay_and_the_others_are_fitted() -> None:
    space = crystal_space()
    kept = random_prior(space_named(), seed=3)
    texts = [text for text in samples_of(space, 400) if " | 225 | " in text]
    prior = Prior.fit(space, texts, width=16, depth=1, max_epochs=4, seed=1, kept=kept, temperature=1.0, progress=False)
    compositions = space.composition
    before = kept.policy(compositions)
    actions = compositions.actions_of(compositions.enumerate())
    after = Policy(compositions, PolicyNetwork(prior.network.parts[:1], compositions.kinds))
    assert torch.allclose(before.log_prob(actions), after.log_prob(actions), atol=1e-6)
    assert not kept.network.parts[0].output.weight.requires_grad
    assert prior.report.n_materials == len(set(texts))
    assert prior.report.held_out_nats < prior.report.uniform_nats
    state = prior.policy(space).sample_many(200, torch.Generator().manual_seed(0)).state
    groups, uniform = (batch.space_group for batch in (space.materials(state), samples_of(space)))
    assert (groups == 225).double().mean() > (uniform == 225).double().mean() + 0.2
    with pytest.raises(ValueError, match="kept: the prior knows every part of the space"):
        Prior.fit(space, texts, kept=prior, progress=False)


def test_a_prior_of_compositions_alone_leaves_structures_uniform() -> None:
    space, prior = crystal_space(), random_prior(space_named(), seed=3)
    rollout = prior.policy(space).sample_many(100, torch.Generator().manual_seed(0))
    uniform = Policy(space, PolicyNetwork.for_space(space)).log_prob_in_chunks(rollout.actions)
    batch = space.materials(rollout.state)
    compositions = space.composition
    actions = compositions.encode(batch.compositions)
    of_composition = prior.log_prob(compositions, actions)
    uniform_composition = Policy(compositions, PolicyNetwork.for_space(compositions)).log_prob_in_chunks(actions)
    assert torch.allclose(rollout.log_prob - of_composition, uniform - uniform_composition, atol=1e-4)


def test_the_embedded_prior_over_crystals_is_the_one_over_compositions_sharpened() -> None:
    space, prior = crystal_space(), Prior.default_crystals()
    assert Prior.default_crystals() is prior and prior.report.n_materials > 1000
    compositions = space.composition
    own = Policy(compositions, PolicyNetwork(prior.policy(space).network.parts[:1], compositions.kinds))
    embedded = Prior.default().policy(compositions)
    features = compositions.features(compositions.replay(all_actions(compositions)[:, :1]))
    logits, expected = own.network.logits(0, features), embedded.network.logits(0, features)
    torch.testing.assert_close(logits, CRYSTAL_SHARPENING * expected, atol=0.05, rtol=0.02)  # both in half precision


def test_the_embedded_prior_over_crystals_knows_structures() -> None:
    space = CrystalSpace(
        CompositionSpace(["Na", "Cl"], count_ranges={"Na": (1, 1), "Cl": (1, 1)}), max_atoms=2, formula_units=[1]
    )
    state = Prior.default_crystals().policy(space).sample_many(300, torch.Generator().manual_seed(0)).state
    common = Counter(space.materials(state).space_group.tolist()).most_common(3)
    assert 225 in dict(common)  # rocksalt
    uniform = samples_of(space, 300)
    assert dict(common)[225] > 5 * int((uniform.space_group == 225).sum())
