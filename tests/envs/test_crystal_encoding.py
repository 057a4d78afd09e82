"""From structures and texts to actions: round trips, known crystals, and the rule that names what lies outside."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from envs.composition import CompositionSpace
from envs.crystal import CrystalSpace
from envs.crystal_batch import CrystalBatch
from envs.crystal_encoding import encode_crystals
from envs.crystal_state import Stage
from tests.envs.crystals import (
    closed_shell_anions,
    default_crystal_space,
    found_group,
    free_crystal_space,
    has_operations,
    known_structures,
    occupied_letters,
    ratio_to_stated_limits,
)
from tests.envs.test_crystal_batch import TEXTS

# Known crystals


@pytest.mark.parametrize("name", TEXTS)
def test_known_crystals_come_back_with_their_symmetry_sites_and_shape(name: str) -> None:
    space, known = default_crystal_space(), known_structures()[name]
    actions = space.encode([known])
    state = space.replay(actions)
    assert space.is_finished(state).all()
    decoded = space.decode(state)[0]
    assert found_group(decoded) == found_group(known)
    assert occupied_letters(decoded) == occupied_letters(known)
    plain = decoded.copy().remove_oxidation_states()
    assert StructureMatcher().fit(plain, known)
    assert plain.volume / len(plain) == pytest.approx(known.volume / len(known), rel=0.15)
    assert decoded.charge == 0
    assert ratio_to_stated_limits(decoded, closed_shell_anions(known.composition.reduced_formula)) >= 1 - 1e-3


@pytest.mark.parametrize("name", TEXTS)
def test_texts_cells_and_oxidation_states_do_not_change_the_encoding(name: str) -> None:
    space, known = default_crystal_space(), known_structures()[name]
    primitive = known.get_primitive_structure()
    charged = known.copy().add_oxidation_state_by_guess()
    moved = known.copy().translate_sites(range(len(known)), [0.13, 0.27, 0.41])
    encoded = space.encode([known, primitive, charged, moved])
    assert (encoded == encoded[0]).all()
    letters = occupied_letters(space.decode(space.replay(space.encode([TEXTS[name]])))[0])
    assert letters == occupied_letters(known)


# Round trips


def check_texts_round_trip(space: CrystalSpace, n: int, seed: int) -> None:
    state = space.sample_uniform_policy(n, torch.Generator().manual_seed(seed))
    actions, batch = space.actions_of(state), space.materials(state)
    assert space.encode(batch).equal(actions)
    assert space.encode(batch.texts).equal(actions)
    assert space.explain(batch.texts) == [None] * n


def test_texts_of_samples_encode_to_their_own_actions() -> None:
    check_texts_round_trip(default_crystal_space(), 80, seed=11)


def test_texts_of_samples_of_a_restricted_space_encode_to_their_own_actions() -> None:
    composition = CompositionSpace(["Ca", "Ti", "O", "F"], max_elements=3, max_atoms=10)
    space = CrystalSpace(composition, max_atoms=10, formula_units=[1, 2], crystal_systems=["trigonal", "triclinic"])
    check_texts_round_trip(space, 30, seed=1)
    check_texts_round_trip(free_crystal_space(), 30, seed=2)


@pytest.mark.slow
def test_texts_of_many_samples_encode_to_their_own_actions() -> None:
    check_texts_round_trip(default_crystal_space(), 1000, seed=12)


def check_structures_come_back(n: int, seed: int) -> tuple[int, int, int]:
    """How many of n structures on the grid lie inside, match what they are encoded to, and were sensible at all."""
    space = default_crystal_space()
    state = space.sample_uniform_policy(10 * n, torch.Generator().manual_seed(seed))
    ordinary = state[state[:, space.columns.volume] < 16][:n]  # the cells of others are stretched
    structures = space.decode(ordinary)
    reasons = space.explain(structures)
    inside = [i for i, reason in enumerate(reasons) if reason is None]
    again = space.decode(space.replay(space.encode([structures[i] for i in inside])))
    matcher = StructureMatcher()
    matches = sum(
        matcher.fit(structures[i].copy().remove_oxidation_states(), new.remove_oxidation_states())
        for i, new in zip(inside, again, strict=True)
    )
    return len(inside), matches, len(structures)


def test_most_structures_of_samples_come_back_as_what_they_were() -> None:
    inside, matches, n = check_structures_come_back(40, seed=3)
    assert n >= 30
    assert inside >= 0.8 * n
    assert matches >= 0.9 * inside


@pytest.mark.slow
def test_most_of_many_structures_of_samples_come_back_as_what_they_were() -> None:
    inside, matches, n = check_structures_come_back(200, seed=4)
    assert n == 200
    assert inside >= 0.85 * n
    assert matches >= 0.95 * inside


def test_what_is_encoded_obeys_the_rules() -> None:
    """Crystals that are not on the grid: distances and symmetry hold at the nearest points, or a rule is named."""
    space, generator = default_crystal_space(), np.random.default_rng(0)
    shaken = []
    for known in known_structures().values():
        for _ in range(3):
            lattice = Lattice(known.lattice.matrix * (1 + 0.06 * generator.standard_normal()))
            shaken.append(Structure(lattice, known.species, known.frac_coords))
    reasons = space.explain(shaken)
    inside = [s for s, reason in zip(shaken, reasons, strict=True) if reason is None]
    assert len(inside) > len(shaken) / 2
    assert all(reason.split(":")[0] in ("volume", "distance") for reason in reasons if reason is not None)
    state = space.replay(space.encode(inside))
    for old, new, large in zip(
        inside, space.decode(state), space.materials(state).structures(primitive=False), strict=True
    ):
        closed = closed_shell_anions(old.composition.reduced_formula)
        assert ratio_to_stated_limits(new, closed) >= 1 - 1e-3
        assert has_operations(large, found_group(old))


# Outside


ROCKSALT = TEXTS["rocksalt"]


@lru_cache
def oxides() -> CrystalSpace:
    composition = CompositionSpace(["Na", "Ca", "Ti", "O", "Cl"], max_elements=3, max_atoms=12)
    return CrystalSpace(composition, max_atoms=12, formula_units=[1, 2, 3], crystal_systems=["cubic", "tetragonal"])


OUTSIDE = {
    "KCl | 225 | K a | Cl b | 6.3 6.3 6.3 90 90 90": "element: K is not among the elements",
    "Na3O | 221 | Na c | O a | 5 5 5 90 90 90": "charge: no choice of one icsd24 oxidation state",
    TEXTS["spinel"]: "cell: 14 atoms in the primitive cell are more than 12",
    "CaO | 62 | Ca c 0.1 0.2 | O c 0.3 0.6 | 5 5 6 90 90 90": "formula units: 4 in the primitive cell are not allowed",
    "CaO | 63 | Ca c 0.1 | O c 0.6 | 4 9 4 90 90 90": r"space group: 63 (Cmcm) is not allowed",
    "NaCl | 225 | Na a | Cl a | 5.6 5.6 5.6 90 90 90": "positions: one without free parameters is occupied twice",
    "NaCl | 221 | Na a | Na a | Cl b | Cl b | 4 4 4 90 90 90": "positions: the space group cannot hold so many atoms",
    "TiO2 | 136 | Ti a | O f 0.305 | 4.594 4.594 99 90 90 90": "lattice: c/a of 21.5 is not in",
    "NaCl | 225 | Na a | Cl b | 12 12 12 90 90 90": "volume: no volume on the grid is near and keeps all atoms apart",
    "NaCl | 225 | Na a | Cl b | 3.5 3.5 3.5 90 90 90": "volume: no volume on the grid is near and keeps all",
    "TiO2 | 136 | Ti a | O f 0.01 | 4.594 4.594 2.959 90 90 90": "distance: atoms would be nearer than their limit",
}


@pytest.mark.parametrize("text", OUTSIDE)
def test_the_rule_by_which_a_crystal_lies_outside_is_named(text: str) -> None:
    reason = oxides().explain([text])[0]
    assert reason is not None
    assert OUTSIDE[text] in reason, reason
    with pytest.raises(ValueError, match="is outside the design space: ") as error:
        oxides().encode([ROCKSALT, text])
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_crystal_in_a_group_that_is_not_allowed_is_not_blamed_on_its_charges() -> None:
    composition = CompositionSpace(["V", "O"], max_atoms=14)
    space = CrystalSpace(composition, max_atoms=14, space_groups=[225])
    text = "V2O5 | 59 | V f 0.1 0.9 | O a 0 | O f 0.1 0.5 | O f 0.3 0 | 11.5 3.56 4.37 90 90 90"
    assert space.explain([text]) == ["space group: 59 (Pmmn) is not allowed"]


def test_structures_that_are_no_crystals_are_named() -> None:
    space = default_crystal_space()
    lattice = Lattice.cubic(5.64)
    disordered = Structure.from_spacegroup("Fm-3m", lattice, [{"Na": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5] * 3])
    overlap = Structure(lattice, ["Na", "Cl", "Cl"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0.52]])
    reasons = space.explain([disordered, known_structures()["rocksalt"], overlap])
    assert reasons[1] is None
    assert reasons[0] is not None
    assert reasons[0].startswith("disorder:")
    assert reasons[2] is not None
    assert reasons[2].startswith("overlap:")
    with pytest.raises(ValueError, match=r"outside the design space: overlap"):
        space.encode([overlap])


def test_texts_and_structures_do_not_mix() -> None:
    with pytest.raises(ValueError, match="texts and structures are mixed"):
        default_crystal_space().encode([ROCKSALT, known_structures()["rocksalt"]])


def test_what_is_no_crystal_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encode: None is neither a structure nor a text"):
        default_crystal_space().encode([None])  # type: ignore[list-item]


def test_a_text_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ValueError, match=r"crystal 'NaCl': fewer than four parts"):
        default_crystal_space().encode(["NaCl"])


def test_nothing_is_encoded_to_nothing() -> None:
    space = default_crystal_space()
    assert space.encode([]).shape == (0, space.max_steps)
    assert space.explain([]) == []
    assert space.explain(CrystalBatch.from_texts([])) == []


def test_the_rows_of_those_outside_hold_only_stop() -> None:
    space = oxides()
    actions, reasons = encode_crystals(space, [ROCKSALT, *OUTSIDE])
    assert reasons[0] is None
    assert all(reason is not None for reason in reasons[1:])
    assert (actions[1:] == space.stop).all()
    stage = space.replay(actions[:1])[0, space.columns.stage]
    assert int(stage) == Stage.FINISHED
