"""`CompositionSpace`: encoding, states, rollouts, features."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from smact.screening import ICSD24FilterConfig, smact_validity
from torch import Tensor

from envs import CompositionSpace, DesignSpace
from envs.formula import parse_formula, reduce_amounts, reduced_formula, write_formula
from tests.envs.strategies import (
    amounts,
    amounts_of,
    default_space,
    nearly_valid_amounts,
    random_states,
    seeds,
    smact_accepts,
)

SPACES: dict[str, dict[str, Any]] = {
    "default": {},
    "without Pauling": {"pauling": False, "elements": ["K", "Rb", "C", "Se", "H", "Pt", "O", "Cl"]},
    "intermetallics": {"charge_neutral": False, "elements": ["Ni", "Al", "Fe", "Au", "Sn"]},
    "zero states": {"oxidation_states": "wiki", "elements": ["K", "Rb", "Cu", "Si", "Bi", "C", "Se", "O"]},
    "many limits": {
        "required": ["O", "H"],
        "forbidden": ["Pb"],
        "min_elements": 3,
        "max_elements": 6,
        "count_ranges": {"O": (2, 12)},
    },
    "wide": {"elements": ["Os", "U", "Cu", "Pt", "C", "Se", "O", "K"], "max_atoms": 60, "max_count": 24},
}


@pytest.fixture(scope="module", params=SPACES)
def space(request: pytest.FixtureRequest) -> CompositionSpace:
    return default_space() if request.param == "default" else CompositionSpace(**SPACES[request.param])


# Inside or outside


def is_inside_the_default_space(composition: dict[str, int]) -> bool:
    """The definition of the default space in other words."""
    reduced = reduce_amounts({symbol: float(count) for symbol, count in composition.items()})
    return (
        2 <= len(reduced) <= 5
        and sum(reduced.values()) <= 20
        and max(reduced.values()) <= 8
        and smact_accepts(composition)
    )


@settings(max_examples=150)
@given(st.one_of(amounts(), nearly_valid_amounts(default_space())))
def test_explain_agrees_with_smact(composition: dict[str, int]) -> None:
    formula = write_formula({symbol: float(count) for symbol, count in composition.items()})
    reason = default_space().explain([formula])[0]
    assert (reason is None) == is_inside_the_default_space(composition), f"{formula}: {reason}"


@pytest.mark.slow
@settings(max_examples=800, derandomize=False)
@given(st.one_of(amounts(), nearly_valid_amounts(default_space())))
def test_explain_agrees_with_smact_on_many(composition: dict[str, int]) -> None:
    formula = write_formula({symbol: float(count) for symbol, count in composition.items()})
    reason = default_space().explain([formula])[0]
    assert (reason is None) == is_inside_the_default_space(composition), f"{formula}: {reason}"


WIDE_ELEMENTS = ("Os", "U", "Cu", "Pt", "C", "Se", "O", "K", "Rb", "Cl")


@lru_cache
def wide_space() -> CompositionSpace:
    space = CompositionSpace(WIDE_ELEMENTS, max_elements=4, max_atoms=60, max_count=24)
    assert space._n_words > 1
    return space


@settings(max_examples=80)
@given(
    st.one_of(
        st.dictionaries(st.sampled_from(WIDE_ELEMENTS), st.integers(1, 24), min_size=2, max_size=4),
        nearly_valid_amounts(wide_space()),
    )
)
def test_explain_agrees_with_smact_where_charges_fill_several_words(composition: dict[str, int]) -> None:
    reduced = reduce_amounts({symbol: float(count) for symbol, count in composition.items()})
    inside = (
        set(reduced) <= set(WIDE_ELEMENTS)
        and sum(reduced.values()) <= 60
        and max(reduced.values()) <= 24
        and smact_accepts(reduced)
    )
    assert (wide_space().explain([write_formula(reduced)])[0] is None) == inside


@pytest.mark.parametrize(
    ("formula", "rule"),
    [
        ("HeO", "He"),
        ("PbO", "Pb"),
        ("Na2CaMgFeAlO6", "elements"),
        ("Na2O9", "O"),
        ("Na7K7Cl7F7", None),
        ("NaCl", "required"),
        ("NaCl0.5O", "0.5"),
        ("Na3O8", "charge neutral"),
        ("Xx2O", "Xx"),
    ],
)
def test_a_formula_outside_is_refused_by_name_and_rule(formula: str, rule: str | None) -> None:
    space = CompositionSpace(
        forbidden=["Pb"], required=["O"] if rule == "required" else [], max_elements=4, max_atoms=12
    )
    if rule is None:  # reduces to one atom of each
        assert space.encode([formula]).shape == (1, space.max_steps)
        return
    with pytest.raises(ValueError, match=f"{formula}|Xx") as error:
        space.encode(["NaOH", formula])
    assert rule in str(error.value)
    assert "\n" not in str(error.value)


def test_encode_of_nothing_is_empty() -> None:
    assert default_space().encode([]).shape == (0, default_space().max_steps)
    assert default_space().explain([]) == []


def test_encode_accepts_any_notation_and_reduces_it() -> None:
    space = default_space()
    same = space.encode(["SrTiO3", "O3TiSr", "Sr2Ti2O6", "TiSrO3"])
    assert (same == same[0]).all()
    assert space.decode(space.replay(same)) == ["SrTiO3"] * 4
    assert space.encode(["Ca(OH)2"]).equal(space.encode(["CaH2O2"]))
    assert space.encode(["SrTiO₃"]).equal(space.encode(["SrTiO3"]))
    with pytest.raises(ValueError, match=r"'Mg\(OH\)2\.2H2O' can be read in two ways"):
        space.encode(["Mg(OH)2.2H2O"])


# States


def test_decoded_materials_encode_to_the_actions_that_built_them(space: CompositionSpace) -> None:
    state = space.sample_uniform_policy(300, torch.Generator().manual_seed(1))
    formulas = space.decode(state)
    actions = space.encode(formulas)
    assert actions.shape == (300, space.max_steps)
    assert actions.equal(space.actions_of(state))
    assert space.replay(actions).equal(state)
    assert space.explain(formulas) == [None] * 300
    assert formulas == [reduced_formula(formula) for formula in formulas]


def test_every_prefix_of_an_encoded_material_allows_its_next_action(space: CompositionSpace) -> None:
    actions = space.actions_of(space.sample_uniform_policy(300, torch.Generator().manual_seed(2)))
    state = space.initial(300)
    for column in actions.T:
        assert space.mask(state).gather(1, column[:, None]).all()
        assert space.allowed(state, column).all()
        state = space.step(state, column)
    assert space.is_finished(state).all()


def test_allowed_agrees_with_mask_for_every_action(space: CompositionSpace) -> None:
    state = random_states(space, 60, seed=3)
    every_action = torch.arange(space.n_actions).repeat(60)
    allowed = space.allowed(state.repeat_interleave(space.n_actions, dim=0), every_action)
    assert allowed.reshape(60, -1).equal(space.mask(state))


def test_mask_of_a_row_is_independent_of_the_batch(space: CompositionSpace) -> None:
    state = random_states(space, 300, seed=4)  # more rows than one chunk
    mask = space.mask(state)
    alone = torch.cat([space.mask(row[None]) for row in state[::7]])
    assert alone.equal(mask[::7])
    assert space.mask(state.flip(0)).equal(mask.flip(0))
    assert space.mask(state[:0]).shape == (0, space.n_actions)


@given(seed=seeds)
@settings(max_examples=5)
def test_masked_rollouts_never_get_stuck_and_finish_within_the_limits(space: CompositionSpace, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    state = space.initial(50)
    for _ in range(space.max_steps):
        mask = space.mask(state)
        assert mask.any(1).all()
        state = space.step(state, torch.multinomial(mask.float(), 1, generator=generator).squeeze(1))
    assert space.is_finished(state).all()
    limits = space.limits
    for formula in space.decode(state):
        counts = dict(amounts_of(formula))
        assert limits.min_elements <= len(counts) <= limits.max_elements
        assert sum(counts.values()) <= limits.max_atoms
        assert set(limits.required) <= set(counts) <= set(space.elements)
        for symbol, count in counts.items():
            low, high = limits.count_ranges.get(symbol, (1, limits.max_count))
            assert low <= count <= high
        if limits.charge_neutral:
            assert smact_accepts(counts, limits.oxidation_states, limits.icsd24_filter, limits.pauling)


def test_finished_rows_allow_stop_only_and_stay(space: CompositionSpace) -> None:
    state = space.sample_uniform_policy(20, torch.Generator().manual_seed(5))
    mask = space.mask(state)
    assert mask[:, space.stop].all()
    assert mask.sum(1).eq(1).all()
    assert space.step(state, torch.zeros(20, dtype=torch.long)).equal(state)


def test_step_leaves_its_argument_alone(space: CompositionSpace) -> None:
    state = space.initial(3)
    before = state.clone()
    space.step(state, space.mask(state).float().argmax(1))
    assert state.equal(before)


def test_undo_takes_back_the_last_action(space: CompositionSpace) -> None:
    state = space.sample_uniform_policy(50, torch.Generator().manual_seed(6))
    actions = space.actions_of(state)
    states = [space.initial(50)]
    for column in actions.T:
        states.append(space.step(states[-1], column))
    n_actions = (actions != space.stop).sum(1) + 1
    for taken in range(1, space.max_steps + 1):
        rows = n_actions >= taken
        assert space.undo(states[taken][rows]).equal(states[taken - 1][rows])
    assert space.undo(space.initial(2)).equal(space.initial(2))


# The uniform policy


def _exact_distribution(space: CompositionSpace) -> dict[str, float]:
    """Probability of each material under the uniform policy, from the masks."""
    exact: dict[str, float] = {}
    pending: list[tuple[Tensor, float]] = [(space.initial(1), 1.0)]
    while pending:
        state, probability = pending.pop()
        if space.is_finished(state).item():
            exact[space.decode(state)[0]] = probability
            continue
        actions = space.mask(state)[0].nonzero().squeeze(1)
        children = space.step(state.repeat(len(actions), 1), actions)
        pending += [(child[None], probability / len(actions)) for child in children]
    return exact


@pytest.mark.parametrize(
    "limits",
    [
        {"elements": ["K", "Rb", "C", "Se", "O"], "max_elements": 3, "max_atoms": 6, "max_count": 3},
        {"elements": ["Na", "Cl", "O", "H"], "required": ["O"], "max_elements": 3, "max_atoms": 5, "max_count": 40},
    ],
    ids=["proposals mostly accepted", "mostly drawn from the mask"],
)
def test_uniform_policy_chooses_uniformly_among_allowed_actions(limits: dict[str, Any]) -> None:
    space = CompositionSpace(**limits)
    exact = _exact_distribution(space)
    assert sum(exact.values()) == pytest.approx(1)
    n = 40_000
    counts = Counter(space.decode(space.sample_uniform_policy(n, torch.Generator().manual_seed(0))))
    assert set(counts) <= set(exact)
    common = [formula for formula in exact if n * exact[formula] >= 10]  # as a chi-square test needs
    observed = [counts[formula] for formula in common]
    expected = [n * exact[formula] for formula in common]
    observed.append(n - sum(observed))
    expected.append(n - sum(expected))
    assert len(common) > 10
    if expected[-1] < 1:
        observed, expected = observed[:-1], [value * sum(observed[:-1]) / sum(expected[:-1]) for value in expected[:-1]]
    assert chisquare(observed, expected).pvalue > 1e-3


def test_uniform_policy_repeats_with_its_generator(space: CompositionSpace) -> None:
    first = space.sample_uniform_policy(50, torch.Generator().manual_seed(7))
    again = space.sample_uniform_policy(50, torch.Generator().manual_seed(7))
    other = space.sample_uniform_policy(50, torch.Generator().manual_seed(8))
    assert first.equal(again)
    assert not first.equal(other)


def test_uniform_policy_without_rows_returns_none(space: CompositionSpace) -> None:
    assert space.sample_uniform_policy(0).shape == (0, space.state_size)


@pytest.mark.slow
def test_ten_thousand_uniform_samples_pass_smact() -> None:
    space = default_space()
    formulas = space.decode(space.sample_uniform_policy(10_000, torch.Generator().manual_seed(0)))
    assert all(smact_accepts(dict(amounts_of(formula))) for formula in formulas)
    assert all(smact_validity(formula, include_alloys=False) for formula in formulas[:1000])  # SMACT as users call it


# Features and names


def test_features_are_finite_within_their_bounds_and_named(space: CompositionSpace) -> None:
    state = random_states(space, 200, seed=9)
    features = space.features(state)
    assert features.shape == (200, space.n_features)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    low, high = space.feature_bounds
    assert low.shape == high.shape == (space.n_features,)
    assert (features >= low).all()
    assert (features <= high).all()
    assert len(space.feature_names) == len(set(space.feature_names)) == space.n_features


def test_a_count_as_high_as_it_may_be_reaches_the_feature_bound() -> None:
    space = CompositionSpace(elements=["Sr", "Ti", "O"], max_atoms=40, max_count=12, count_ranges={"O": (1, 24)})
    column = space.feature_names.index("count O")
    assert space.features(space.replay(space.encode(["Sr2Ti11O24"])))[0, column] == 3
    assert space.feature_bounds[1][column] == 3
    assert space.feature_bounds[1][space.feature_names.index("count Ti")] == 1.5


def test_actions_have_unique_names_that_tell_what_they_place(space: CompositionSpace) -> None:
    names = space.action_names
    assert len(names) == len(set(names)) == space.n_actions
    assert names[space.stop] == "STOP"
    formulas = space.decode(space.step(space.initial(space.n_actions - 1), torch.arange(space.n_actions - 1)))
    assert [formula if formula[-1].isdigit() else f"{formula}1" for formula in formulas] == list(names[:-1])


@pytest.mark.parametrize(
    "limits",
    [
        {"max_atoms": 6, "max_count": 3},
        {"elements": ["Sr", "Ti", "Cu", "H", "C", "N", "O", "F"], "max_elements": 3},
        {"forbidden": ["Na", "Pb"], "max_elements": 6, "max_count": 12},
        {"count_ranges": {"O": (1, 3)}},
    ],
    ids=["fewer atoms", "fewer elements", "more of all", "count range"],
)
def test_equal_feature_names_mean_equal_values_in_two_spaces(limits: dict[str, Any]) -> None:
    other = CompositionSpace(**limits)
    narrow, wide = (other, default_space()) if other.limits.max_elements <= 5 else (default_space(), other)
    formulas = narrow.decode(narrow.sample_uniform_policy(200, torch.Generator().manual_seed(10)))
    inside = [reason is None for reason in wide.explain(formulas)]
    formulas = [formula for formula, both in zip(formulas, inside, strict=True) if both]
    assert len(formulas) > 50
    names = [name for name in narrow.feature_names if name in wide.feature_names]
    columns = [torch.tensor([space.feature_names.index(name) for name in names]) for space in (narrow, wide)]
    states = [space.initial(len(formulas)) for space in (narrow, wide)]
    actions = [space.encode(formulas) for space in (narrow, wide)]
    for step in range(min(narrow.max_steps, wide.max_steps)):
        first, second = (
            space.features(state)[:, column]
            for space, state, column in zip((narrow, wide), states, columns, strict=True)
        )
        differing = [name for name, equal in zip(names, (first == second).all(0).tolist(), strict=True) if not equal]
        assert not differing
        states = [s.step(state, a[:, step]) for s, state, a in zip((narrow, wide), states, actions, strict=True)]


def test_identity_rebuilds_the_space(space: CompositionSpace) -> None:
    identity: dict[str, Any] = dict(space.identity)
    if identity["icsd24_filter"] is not None:
        identity["icsd24_filter"] = ICSD24FilterConfig(**identity["icsd24_filter"])
    twin = CompositionSpace(**identity)
    assert twin.identity == space.identity
    assert twin.action_names == space.action_names
    state = random_states(space, 50, seed=11)
    assert twin.mask(state).equal(space.mask(state))


# Edits


@pytest.mark.parametrize("edit", [CompositionSpace.edit, DesignSpace.edit])
def test_edits_are_valid_materials_in_canonical_order(space: CompositionSpace, edit: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    actions = space.actions_of(space.sample_uniform_policy(300, generator))
    edited = edit(space, actions, generator)
    state = space.replay(edited)
    assert space.is_finished(state).all()
    assert torch.equal(space.encode(space.decode(state)), edited)
    assert float((edited != actions).any(1).float().mean()) > 0.3
    again = edit(space, actions, torch.Generator().manual_seed(1))
    assert torch.equal(again, edit(space, actions, torch.Generator().manual_seed(1)))
    assert edit(space, actions[:0], generator).shape == (0, space.max_steps)


def test_edits_exchange_recount_add_and_drop() -> None:
    space = CompositionSpace(["Na", "K", "O", "S"], max_elements=3, max_count=3)
    sequences = space.encode(["Na2O"] * 2000)
    found = Counter(space.decode(space.replay(space.edit(sequences, torch.Generator().manual_seed(0)))))
    assert {"K2O", "Na2S", "Na2O"} <= set(found)
    assert any({"Na", "S", "O"} <= set(parse_formula(formula)) for formula in found)
    assert found["Na2O"] < 1600
    reached = set(found)
    for _ in range(4):  # edits of edits reach the whole space
        seeds_of = space.encode(sorted(reached) * 40)
        reached |= set(space.decode(space.replay(space.edit(seeds_of, torch.Generator().manual_seed(len(reached))))))
    assert reached == set(space.decode(space.enumerate()))
