"""`CrystalSpace`: what its rollouts build, masks, enumeration, features; against SMACT, pymatgen and spglib."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from envs.chemistry import ELECTRONEGATIVITY, oxidation_states
from envs.composition import CompositionSpace
from envs.crystal import CrystalSpace
from envs.crystal_batch import CrystalBatch
from envs.crystal_grid import N_COORDINATES, VOLUME_RATIOS, coordinates, volumes_of_elements
from envs.crystal_limits import MOST_ATOMS
from envs.crystal_state import Stage
from envs.formula import CompositionBatch, parse_formula
from envs.lattice_shapes import entry_values
from envs.wyckoff import N_SPACE_GROUPS, space_group
from tests.envs.crystals import (
    closed_shell_anions,
    default_crystal_space,
    found_group,
    found_operations,
    free_crystal_space,
    has_operations,
    prefixes,
    ratio_to_stated_limits,
    rollout,
)
from tests.envs.strategies import smact_accepts

SPACES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cubic oxides": (
        {"elements": ["Li", "Mg", "Ti", "O"], "required": ["O"], "max_atoms": 12},
        {"crystal_systems": ["cubic"], "max_atoms": 14},
    ),
    "two units": (
        {"elements": ["Na", "Ca", "Cl", "O"], "max_elements": 3},
        {"formula_units": [2], "max_atoms": 6, "space_groups": [2, "P6_3/mmc", 225, 136]},
    ),
    "few atoms": ({"elements": ["Cs", "Pb", "I", "Br"]}, {"max_atoms": 6, "min_distance": 1.0}),
    "no charges": (
        {"elements": ["Ni", "Al"], "charge_neutral": False, "min_elements": 1, "max_count": 12},
        {"max_atoms": 12, "min_distance": 0.0, "crystal_systems": ["trigonal", "monoclinic"]},
    ),
    "one group": ({"elements": ["K", "Zn", "S", "F"]}, {"space_groups": [1]}),
    "smact14, any order": (
        {"elements": ["Li", "P", "H", "O"], "oxidation_states": "smact14", "pauling": False},
        {"max_atoms": 10, "space_groups": [4, 19, 198]},
    ),
}


@pytest.fixture(scope="module", params=["default", *SPACES])
def space(request: pytest.FixtureRequest) -> CrystalSpace:
    if request.param == "default":
        return default_crystal_space()
    composition, limits = SPACES[request.param]
    return CrystalSpace(CompositionSpace(**composition), **limits)


# What rollouts build


def check_samples(space: CrystalSpace, state: Tensor) -> int:
    """Every rule on every crystal; returns in how many spglib finds the declared group, not a supergroup."""
    batch, structures = space.materials(state), space.decode(state)
    limits, exact = space.limits, 0
    states = oxidation_states(limits.composition.oxidation_states)
    for row, (structure, whole) in enumerate(zip(structures, batch.structures(primitive=False), strict=True)):
        text, number = batch[row], int(batch.space_group[row])
        amounts = parse_formula(batch.compositions[row])
        assert number in limits.groups
        assert len(structure) <= limits.max_atoms
        assert len(structure) / sum(amounts.values()) in limits.units
        closed: frozenset[str] = frozenset()
        if limits.composition.charge_neutral:
            assert structure.charge == 0, text
            assert sum(site.specie.oxi_state for site in structure) == 0, text
            chosen = {site.specie.symbol: site.specie.oxi_state for site in structure}
            assert all(charge in states[symbol] for symbol, charge in chosen.items()), text
            if limits.composition.pauling:
                cations = [ELECTRONEGATIVITY[s] or 0.0 for s, q in chosen.items() if q > 0]
                anions = [ELECTRONEGATIVITY[s] or 0.0 for s, q in chosen.items() if q < 0]
                assert max(cations) < min(anions), text
            rules = limits.composition
            assert smact_accepts(amounts, rules.oxidation_states, pauling=rules.pauling), text
            if rules.oxidation_states == "icsd24":
                closed = closed_shell_anions(batch.compositions[row])
        assert ratio_to_stated_limits(structure, closed, limits.min_distance) >= 1 - 1e-6, text
        assert has_operations(whole, number), text
        assert found_operations(structure) % space_group(number).point_group_order == 0, text  # Lagrange
        exact += found_group(structure) == number
    return exact


def test_crystals_obey_every_rule(space: CrystalSpace) -> None:
    state = rollout(space, space.initial(16), seed=0)
    check_samples(space, state)


@pytest.mark.slow
def test_a_thousand_crystals_of_the_uniform_policy_obey_every_rule() -> None:
    space = default_crystal_space()
    exact = check_samples(space, space.sample_uniform_policy(1000, torch.Generator().manual_seed(0)))
    assert exact >= 700


def states_in_groups(space: CrystalSpace, per_group: int, seed: int) -> Tensor:
    """States with every space group, chosen last, `per_group` of each, with as many atoms as there are."""
    generator = torch.Generator().manual_seed(seed)
    state = space.initial(4000)
    while True:
        early = (state[:, space.columns.stage] < Stage.SPACE_GROUP).nonzero().squeeze(1)
        if not len(early):
            break
        state[early] = space.step(state[early], space._draw_uniform(state[early], generator))
    state = state[state[:, space.columns.remaining].sum(1).argsort(descending=True)]
    mask = space.mask_of(Stage.SPACE_GROUP, state)
    assert mask.any(0).all()
    rows = [column.nonzero().squeeze(1)[:per_group] for column in mask.T]
    kind = space.kinds[Stage.SPACE_GROUP]
    group = torch.cat([torch.full((len(r),), kind.start + i) for i, r in enumerate(rows)])
    return space.step(state[torch.cat(rows)], group)


def test_a_crystal_is_built_in_each_of_the_230_groups() -> None:
    space = free_crystal_space()
    state = rollout(space, states_in_groups(space, 1, seed=0), seed=1)
    batch = space.materials(state)
    assert sorted(batch.space_group.tolist()) == list(range(1, N_SPACE_GROUPS + 1))
    exact = 0
    for row, (small, whole) in enumerate(zip(batch.structures(), batch.structures(primitive=False), strict=True)):
        number = int(batch.space_group[row])
        assert has_operations(whole, number), batch[row]
        exact += found_group(small) == number
    assert exact >= 170  # high symmetry with few atoms is often higher still


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, N_SPACE_GROUPS + 1))
def test_a_space_of_one_group_builds_crystals_in_it(number: int) -> None:
    composition = CompositionSpace(
        ["Na", "O", "Cl"], min_elements=1, max_elements=3, max_count=20, charge_neutral=False
    )
    space = CrystalSpace(composition, space_groups=[number])
    batch = space.materials(rollout(space, space.initial(4), seed=number))
    assert (batch.space_group == number).all()
    for whole in batch.structures(primitive=False):
        assert has_operations(whole, number)


def test_default_compositions_reach_every_group() -> None:
    space = default_crystal_space()
    compositions = space.composition.encode(["NaCl", "TiO2", "Al2O3", "Si3N4", "SrTiO3", "MgAl2O4"])
    state = space.initial(len(compositions))
    for column in compositions.T:
        rows = (state[:, space.columns.stage] == Stage.COMPOSITION).nonzero().squeeze(1)
        state[rows] = space.step(state[rows], column[rows])
    assert (state[:, space.columns.stage] == Stage.FORMULA_UNITS).all()
    rows, actions = space.mask(state).nonzero(as_tuple=True)
    state = space.step(state[rows], actions)
    assert space.mask_of(Stage.SPACE_GROUP, state).any(0).all()


# Masks


def test_masks_never_strand_a_rollout(space: CrystalSpace) -> None:
    rollout(space, space.initial(64), seed=7)


CROWDED = {
    "lines": [3, 75, 76, 99, 143, 156, 183],
    "planes": [6, 8, 25, 38],
    "anywhere": [1, 5, 146, 195, 197, 199],
    "mirrors in cubic groups": [200, 217, 221, 225],
}


@pytest.mark.parametrize("name", CROWDED)
def test_masks_never_strand_a_rollout_that_crowds_the_cell(name: str) -> None:
    """The most atoms there may be, the first position as often as it goes, the lowest coordinates that are left."""
    composition = CompositionSpace(
        ["Na"], min_elements=1, max_elements=1, max_atoms=1, max_count=1, charge_neutral=False
    )
    for min_distance in (0.0, 0.75):
        space = CrystalSpace(composition, max_atoms=MOST_ATOMS, space_groups=CROWDED[name], min_distance=min_distance)
        units = space.kinds[Stage.FORMULA_UNITS]
        state = space.initial(1)
        for _ in range(2):  # Na, composition done
            state = space.step(state, space.mask(state).int().argmax(1))
        mask = space.mask(state)[0, units.start : units.start + units.size]
        state = space.step(state, units.start + mask.nonzero()[-1])
        mask = space.mask(state)
        groups = mask[0].nonzero().squeeze(1)
        state = space.step(state.repeat(len(groups), 1), groups)
        for _ in range(space.max_steps):
            if bool(space.is_finished(state).all()):
                break
            mask = space.mask(state)
            assert mask.any(1).all(), space.limits.groups
            state = space.step(state, mask.int().argmax(1))
        assert space.is_finished(state).all()
        assert (space.materials(state).n_atoms == int(space.limits.units[-1])).any()


def test_all_faces_of_the_masks_agree(space: CrystalSpace) -> None:
    state, generator = space.initial(40), torch.Generator().manual_seed(1)
    for step in range(space.max_steps):
        if bool(space.is_finished(state).all()):
            break
        mask = space.mask(state)
        assert mask.shape == (40, space.n_actions)
        kinds = space.kind(state)
        for number, kind in enumerate(space.kinds):
            rows = (kinds == number).nonzero().squeeze(1)
            inside = torch.zeros(space.n_actions, dtype=torch.bool)
            inside[kind.start : kind.start + kind.size] = True
            assert not mask[rows][:, ~inside].any()
            if len(rows):
                assert space.mask_of(number, state[rows]).equal(mask[rows][:, inside])
        every = torch.randint(space.n_actions, (40,), generator=generator)
        drawn = torch.multinomial(mask.float(), 1, generator=generator).squeeze(1)
        for actions in (every, drawn, torch.full((40,), space.stop), torch.full((40,), step)):
            assert space.allowed(state, actions).equal(mask.gather(1, actions[:, None]).squeeze(1))
        state = space.step(state, drawn)


def test_a_step_leaves_the_state_that_it_is_given(space: CrystalSpace) -> None:
    state = space.initial(8)
    for _ in range(space.max_steps):
        before = state.clone()
        after = space.step(state, space.mask(state).int().argmax(1))
        assert state.equal(before)
        state = after


def test_finished_crystals_allow_stop_only_and_stay(space: CrystalSpace) -> None:
    state = rollout(space, space.initial(5), seed=3)
    mask = space.mask(state)
    assert mask[:, space.stop].all()
    assert int(mask.sum()) == 5
    assert space.step(state, torch.full((5,), space.stop)).equal(state)


def test_rollouts_run_in_inference_mode_and_masks_follow_changes_in_place() -> None:
    space = free_crystal_space()
    with torch.inference_mode():
        state = space.sample_uniform_policy(4, torch.Generator().manual_seed(0))
    assert space.is_finished(state).all()
    states = [s for s in prefixes(space, space.actions_of(state.clone())) if (s[:, 0] == Stage.COORDINATE).any()]
    shared = states[0].clone()
    for other in states:
        shared.copy_(other)
        rows = shared[:, 0] == Stage.COORDINATE
        kept = shared[rows]
        first = space.geometry.clearance(kept).clone()
        assert space.geometry.clearance(kept).equal(first)
        assert space.mask(shared).equal(space.mask(other.clone()))
        kept.copy_(kept.roll(1, 0))
        assert space.geometry.clearance(kept).equal(first.roll(1, 0))


# Trajectories


def test_every_state_tells_the_actions_that_led_to_it(space: CrystalSpace) -> None:
    actions = space.actions_of(rollout(space, space.initial(12), seed=5))
    states = prefixes(space, actions)
    for n, state in enumerate(states):
        expected = torch.where(torch.arange(space.max_steps) < n, actions, space.stop)
        assert space.actions_of(state).equal(expected)
        if n % 10 == 7:
            assert space.replay(space.actions_of(state)[:, :n]).equal(state)


def test_undo_takes_back_one_action_at_every_prefix(space: CrystalSpace) -> None:
    actions = space.actions_of(rollout(space, space.initial(6), seed=6))
    length = (actions != space.stop).sum(1) + 1
    states = prefixes(space, actions)
    for n in range(1, len(states), 8):
        expected = torch.stack([states[min(n, int(k)) - 1][row] for row, k in enumerate(length)])
        assert space.undo(states[n]).equal(expected)
    assert space.undo(states[0]).equal(states[0])


def test_rollouts_depend_on_the_generator_alone() -> None:
    space = default_crystal_space()

    def sample(seed: int) -> Tensor:
        return space.sample_uniform_policy(16, torch.Generator().manual_seed(seed))

    assert sample(1).equal(sample(1))
    assert not sample(1).equal(sample(2))


def test_rows_do_not_influence_each_other(space: CrystalSpace) -> None:
    actions = space.actions_of(rollout(space, space.initial(20), seed=9))
    for state in prefixes(space, actions)[::9]:
        mask, features = space.mask(state), space.features(state)
        assert torch.cat([space.mask(row) for row in state.split(3)]).equal(mask)
        assert torch.cat([space.features(row) for row in state.split(3)]).allclose(features, atol=1e-5)


def test_edited_crystals_obey_every_rule() -> None:
    space = default_crystal_space()
    actions = space.actions_of(space.sample_uniform_policy(16, torch.Generator().manual_seed(1)))
    edited = space.edit(actions, torch.Generator().manual_seed(2))
    state = space.replay(edited)
    assert space.actions_of(state).equal(edited)
    assert not edited.equal(actions)
    check_samples(space, state)


def test_no_crystals_at_all() -> None:
    space = default_crystal_space()
    none = space.initial(0)
    assert space.mask(none).shape == (0, space.n_actions)
    assert space.features(none).shape == (0, space.n_features)
    assert space.step(none, torch.zeros(0, dtype=torch.long)).shape == none.shape
    assert space.actions_of(none).shape == (0, space.max_steps)
    assert space.decode(none) == []
    assert list(space.materials(none)) == []


def test_unfinished_crystals_are_no_materials() -> None:
    with pytest.raises(ValueError, match="not complete"):
        default_crystal_space().decode(default_crystal_space().initial(2))


# Names, kinds, features


def test_actions_have_names_and_kinds(space: CrystalSpace) -> None:
    assert len(space.action_names) == len(set(space.action_names)) == space.n_actions
    assert space.action_names[-1] == "STOP"
    assert [kind.start for kind in space.kinds] == [0, *_running_sum([kind.size for kind in space.kinds])[:-1]]
    assert sum(kind.size for kind in space.kinds) == space.n_actions
    assert [kind.name for kind in space.kinds][:3] == ["composition", "formula units", "space group"]
    names = [space.names_of_part(part) for part in range(len(space.feature_sets))]
    assert len(names[0]) + len(names[1]) == space.n_actions
    assert space.action_names[space.composition.n_actions - 1] == "composition done"


def _running_sum(values: list[int]) -> list[int]:
    return torch.tensor(values).cumsum(0).tolist()


def test_features_are_named_finite_and_within_their_bounds(space: CrystalSpace) -> None:
    assert len(set(space.feature_names)) == len(space.feature_names) == space.n_features
    low, high = space.feature_bounds
    assert low.shape == high.shape == (space.n_features,)
    state, generator = space.initial(32), torch.Generator().manual_seed(2)
    for _ in range(space.max_steps + 1):
        features = space.features(state)
        assert features.isfinite().all()
        wrong = ((features < low) | (features > high)).any(0)
        assert not wrong.any(), [space.feature_names[i] for i in wrong.nonzero().squeeze(1).tolist()]
        for number, rows in space.rows_by_kind(state):
            part = space.kinds[number].features
            width = len(space.feature_sets[0])
            of_part = features[rows][:, :width] if part == 0 else features[rows][:, width:]
            assert space.features_of(number, state[rows]).equal(of_part)
        if bool(space.is_finished(state).all()):
            break
        state = space.step(state, torch.multinomial(space.mask(state).float(), 1, generator=generator).squeeze(1))


def test_features_of_crowded_and_of_loose_crystals_lie_within_their_bounds() -> None:
    composition = CompositionSpace(["H", "Cs"], min_elements=1, max_elements=1, max_count=1, charge_neutral=False)
    for min_distance in (0.0, 1.2):
        space = CrystalSpace(composition, MOST_ATOMS, space_groups=[1, 3], min_distance=min_distance)
        low, high = space.feature_bounds
        for state in prefixes(space, space.actions_of(rollout(space, space.initial(24), seed=0)))[::2]:
            features = space.features(state)
            assert ((features >= low) & (features <= high)).all()


def test_the_volumes_that_features_show_are_those_that_the_mask_allows() -> None:
    space = default_crystal_space()
    actions = space.actions_of(space.sample_uniform_policy(200, torch.Generator().manual_seed(4)))
    width, seen = len(space.feature_sets[0]), 0
    first = space.feature_sets[1].index(f"volume {float(VOLUME_RATIOS[0]):.3f} allowed")
    for state in prefixes(space, actions):
        here = state[state[:, space.columns.stage] == Stage.VOLUME]
        if len(here):
            shown = space.features(here)[:, width + first : width + first + len(VOLUME_RATIOS)]
            assert shown.bool().equal(space.mask_of(Stage.VOLUME, here))
            seen += len(here)
    assert seen == 200


# Small spaces, against plain enumeration


def uniform_probabilities(space: CrystalSpace, state: Tensor) -> Tensor:
    """Probability of each finished crystal under the uniform policy, float64 (n,)."""
    actions, probability = space.actions_of(state), torch.ones(len(state), dtype=torch.float64)
    growing = space.initial(len(state))
    for column in actions.T:
        probability /= space.mask(growing).sum(1)
        growing = space.step(growing, column)
    assert growing.equal(state)
    return probability


def cubic_crystals_of_sodium_chloride() -> dict[str, int]:
    """Groups and pairs of positions that hold one Na and one Cl each, by brute force, as text: how many volumes."""
    found = {}
    batch = CompositionBatch.from_formulas(["NaCl"])
    volume = float(volumes_of_elements(batch.atomic_numbers, batch.amounts))
    closed = closed_shell_anions("NaCl")
    space = CrystalSpace(CompositionSpace(["Na", "Cl"]), max_atoms=2, crystal_systems=["cubic"])
    for number in range(195, N_SPACE_GROUPS + 1):
        positions = space_group(number).positions
        single = [i for i, p in enumerate(positions) if p.primitive_multiplicity == 1]
        assert all(positions[i].degrees_of_freedom == 0 for i in single)
        for na, cl in product(single, repeat=2):
            if na != cl:
                text = f"NaCl | {number} | Na {positions[na].letter} | Cl {positions[cl].letter} | 1 1 1 90 90 90"
                structure = CrystalBatch.from_texts([text]).structures()[0]
                least = structure.volume / ratio_to_stated_limits(structure, closed) ** 3 / volume
                found[text.rsplit(" | ", 1)[0]] = max(1, sum(least <= ratio for ratio in VOLUME_RATIOS.tolist()))
    assert space.limits.units == (1,)
    return found


def test_all_cubic_crystals_of_two_atoms_are_enumerated() -> None:
    space = CrystalSpace(CompositionSpace(["Na", "Cl"]), max_atoms=2, crystal_systems=["cubic"])
    state = space.enumerate()
    expected = cubic_crystals_of_sodium_chloride()
    found: dict[str, int] = {}
    for text in space.materials(state):
        name = text.rsplit(" | ", 1)[0]
        found[name] = found.get(name, 0) + 1
    assert found == expected
    assert len({tuple(row) for row in space.actions_of(state).tolist()}) == len(state)
    assert float(uniform_probabilities(space, state).sum()) == pytest.approx(1.0)
    space.decode(state)


def test_crystals_with_free_coordinates_are_enumerated() -> None:
    """Four atoms of one element on threefold axes of P2_13 and I-43m: every bin, every volume."""
    composition = CompositionSpace(["Si"], min_elements=1, max_elements=1, max_count=1, charge_neutral=False)
    space = CrystalSpace(composition, max_atoms=4, formula_units=[4], space_groups=[198, 217])
    state = space.enumerate()
    batch = space.materials(state)
    bins = space.geometry.free_bins(state)[:, 0, 0].tolist()
    found = set(zip(batch.space_group.tolist(), bins, state[:, space.columns.volume].tolist(), strict=True))
    volume = 4 * float(volumes_of_elements(torch.tensor([[14]]), torch.tensor([[1.0]])))
    expected = set()
    for number, letter in ((198, "a"), (217, "c")):
        least = []
        for k in range(N_COORDINATES):
            x = float(coordinates(torch.tensor([k, 0, 0]))[0])
            structure = CrystalBatch.from_texts([f"Si | {number} | Si {letter} {x:.8f} | 9 9 9 90 90 90"]).structures()[
                0
            ]
            least.append(structure.volume / ratio_to_stated_limits(structure, frozenset()) ** 3 / volume)
        roomy = [k for k in range(N_COORDINATES) if least[k] <= VOLUME_RATIOS[-1]] or range(N_COORDINATES)
        for k in roomy:
            volumes = [i + 1 for i, ratio in enumerate(VOLUME_RATIOS.tolist()) if least[k] <= ratio]
            expected |= {(number, k, i) for i in volumes or [len(VOLUME_RATIOS)]}
    on_lines = torch.tensor(bins) >= 0
    assert {one for one in found if one[1] >= 0} == expected
    assert len(expected) == int(on_lines.sum())
    assert {text.split(" | ")[1:-1][-1] for text in batch.rows(~on_lines)} == {"Si b"}  # I-43m: one on a, three on b
    assert float(uniform_probabilities(space, state).sum()) == pytest.approx(1.0)


def test_crystals_with_a_free_shape_are_enumerated_with_probabilities_that_sum_to_one() -> None:
    composition = CompositionSpace(["Na", "Cl"], max_atoms=2)
    space = CrystalSpace(composition, max_atoms=2, space_groups=["P4/mmm", "P6_3/mmc", "P-6m2"])
    state = space.enumerate()
    batch = space.materials(state)
    assert set(batch.space_group.tolist()) == {123, 187}  # P6_3/mmc has no position of one atom
    assert float(uniform_probabilities(space, state).sum()) == pytest.approx(1.0)
    assert len(set(map(tuple, state.tolist()))) == len(state)
    shape = batch.lattice.norm(dim=2)
    ratios = entry_values(1)
    nearest = (shape[:, 2] / shape[:, 0])[:, None].sub(ratios).abs().argmin(1)
    assert sorted(set(nearest.tolist())) == list(range(len(ratios)))


def test_a_space_too_large_to_enumerate_says_so() -> None:
    with pytest.raises(ValueError, match="too large to enumerate"):
        default_crystal_space().enumerate(limit=1000)


def test_the_uniform_policy_draws_from_the_masks_uniformly() -> None:
    space = CrystalSpace(CompositionSpace(["Na", "Cl"]), max_atoms=2, space_groups=[221, 225])
    state = space.enumerate()
    exact = dict(zip(map(tuple, state.tolist()), uniform_probabilities(space, state).tolist(), strict=True))
    n = 4000
    counts: dict[tuple[int, ...], int] = {}
    for row in space.sample_uniform_policy(n, torch.Generator().manual_seed(0)).tolist():
        counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    assert counts.keys() <= exact.keys()
    for row, probability in exact.items():
        assert counts.get(row, 0) / n == pytest.approx(probability, abs=4.5 * math.sqrt(probability / n))
