"""The look-ahead against brute force: the masks reach all valid compositions and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from smact.screening import ICSD24FilterConfig, smact_validity

from envs import CompositionSpace
from envs.charge_sets import BITS_PER_WORD, pack_bits
from envs.chemistry import oxidation_states
from envs.look_ahead import CompositionRules, build_tables
from tests.envs.strategies import (
    Amounts,
    compositions_by_brute_force,
    compositions_by_masks,
    smact_accepts,
    small_limits,
)

SMALL = {"max_elements": 3, "max_atoms": 9, "max_count": 4}

CHEMISTRIES: dict[str, dict[str, Any]] = {
    "icsd24": {"elements": ["K", "Rb", "C", "Se", "O", "Cu", "Bi"]},
    "icsd24, consensus 10": {
        "elements": ["Ru", "Pd", "Os", "H", "Si", "O", "F"],
        "icsd24_filter": ICSD24FilterConfig(consensus=10),
    },
    "icsd24, medium": {
        "elements": ["K", "Cu", "Bi", "Se", "C", "O", "F"],
        "icsd24_filter": ICSD24FilterConfig(commonality="medium"),
    },
    "icsd24, main": {
        "elements": ["K", "Rb", "Se", "C", "Bi", "O", "F"],
        "icsd24_filter": ICSD24FilterConfig(commonality="main"),
    },
    "icsd24, zero states": {
        "elements": ["Ca", "Lu", "Ir", "Pt", "H", "Na", "O"],
        "icsd24_filter": ICSD24FilterConfig(include_zero=True),
    },
    "icsd24, four elements": {  # the fewest in which a cation could follow an anion and still end neutral
        "elements": ["K", "Bi", "H", "Se", "O", "F"],
        "max_elements": 4,
        "max_atoms": 8,
        "max_count": 3,
    },
    "smact14": {"elements": ["K", "Rb", "C", "Se", "Na", "H", "Cl"], "oxidation_states": "smact14"},
    "icsd16": {"elements": ["Si", "Cu", "Bi", "Ir", "Pt", "Rb", "O"], "oxidation_states": "icsd16"},
    "pymatgen_sp": {"elements": ["Ca", "Lu", "Ru", "Os", "C", "Se", "O"], "oxidation_states": "pymatgen_sp"},
    "wiki": {"elements": ["K", "Rb", "C", "Se", "F"], "oxidation_states": "wiki"},
    "wiki, tied zeros": {"elements": ["Na", "Si", "Cu", "Bi", "Ag"], "oxidation_states": "wiki", "max_count": 3},
    # CaLuO needs the zero of Lu beside the cation Ca, which ties with it
    "wiki, a zero beside a tied cation": {"elements": ["Na", "Ca", "Lu", "O", "F"], "oxidation_states": "wiki"},
    "without Pauling": {"elements": ["Pm", "K", "C", "Se", "H", "O"], "pauling": False},
    "wiki, without Pauling": {"elements": ["Lr", "Na", "F", "H"], "oxidation_states": "wiki", "pauling": False},
}

LIMITS: dict[str, dict[str, Any]] = {
    "required first": {"elements": ["K", "Rb", "Ti", "C", "Se", "O"], "required": ["K"]},
    "required last": {"elements": ["K", "Rb", "Ti", "C", "Se", "O"], "required": ["O"]},
    "required within a tie": {"elements": ["K", "Ru", "Pd", "H", "Os", "O"], "required": ["H"]},
    "two required, tied": {"elements": ["Si", "Cu", "Bi", "Fe", "O", "F"], "required": ["Si", "Bi"]},
    "required apart": {"elements": ["Na", "Ca", "Lu", "Fe", "C", "Se"], "required": ["Ca", "Se"]},
    "forbidden": {"elements": ["Na", "K", "Rb", "C", "Se", "O"], "forbidden": ["Se", "K"]},
    "exactly three elements": {"elements": ["K", "Rb", "Cu", "Si", "O", "F"], "min_elements": 3},
    "exactly two elements": {"elements": ["K", "Rb", "Cu", "Si", "C", "Se", "O", "F"], "max_elements": 2},
    "few atoms": {"elements": ["K", "Rb", "Cu", "Si", "C", "Se", "O", "F"], "max_atoms": 5},
    "low count": {"elements": ["K", "Rb", "Cu", "Si", "C", "Se", "O", "F"], "max_count": 2},
    "count ranges": {
        "elements": ["K", "Ti", "Cu", "Si", "O", "F"],
        "count_ranges": {"O": (3, 6), "Ti": (2, 2), "K": (1, 1)},
    },
    "required with a range": {"elements": ["K", "Ti", "O", "F"], "required": ["O"], "count_ranges": {"O": (2, 3)}},
    "all at once": {
        "elements": ["K", "Rb", "Ru", "Pd", "H", "C", "Se", "O"],
        "required": ["Pd"],
        "forbidden": ["Rb"],
        "min_elements": 3,
        "count_ranges": {"O": (2, 5), "H": (1, 2)},
    },
}


def assert_same(space: CompositionSpace, **limits: Any) -> None:
    """Masks and brute force agree, and no composition has two ways to be built."""
    reached = compositions_by_masks(space)
    valid = set(compositions_by_brute_force(**limits))
    assert valid, "a test case without any valid composition tests nothing"
    assert not set(reached) - valid, "unsound: an invalid composition can be built"
    assert not valid - set(reached), "incomplete: a valid composition cannot be built"
    assert len(reached) == len(valid)


@pytest.mark.parametrize("case", CHEMISTRIES)
def test_masks_reach_exactly_what_smact_accepts(case: str) -> None:
    limits = SMALL | CHEMISTRIES[case]
    assert_same(CompositionSpace(**limits), **limits)


@pytest.mark.parametrize("case", LIMITS)
def test_masks_reach_exactly_what_the_limits_leave(case: str) -> None:
    limits = SMALL | LIMITS[case]
    assert_same(CompositionSpace(**limits), **limits)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(small_limits())
def test_random_limits_leave_what_brute_force_finds_or_are_refused(limits: dict[str, Any]) -> None:
    _check_random_limits(limits)


@pytest.mark.slow
@settings(max_examples=200, derandomize=False, suppress_health_check=[HealthCheck.too_slow])
@given(small_limits())
def test_many_random_limits_leave_what_brute_force_finds_or_are_refused(limits: dict[str, Any]) -> None:
    _check_random_limits(limits)


def _check_random_limits(limits: dict[str, Any]) -> None:
    valid = set(compositions_by_brute_force(**limits))
    try:
        space = CompositionSpace(**limits)
    except ValueError as error:
        assert not valid, f"{limits} refused: {error}"
        return
    assert valid, f"{limits} should have been refused"
    reached = compositions_by_masks(space)
    assert set(reached) == valid
    assert len(reached) == len(valid)


@pytest.mark.slow
@pytest.mark.parametrize("case", CHEMISTRIES)
def test_masks_reach_exactly_what_smact_accepts_with_four_elements(case: str) -> None:
    limits = CHEMISTRIES[case] | {"max_elements": 4, "max_atoms": 10, "max_count": 3}
    assert_same(CompositionSpace(**limits), **limits)


WIDE = {"elements": ["Os", "U", "Cu", "Pt", "C", "Se"], "max_elements": 2, "max_atoms": 60, "max_count": 24}


@pytest.mark.parametrize("pauling", [True, False])
def test_charges_over_several_words_agree_with_brute_force(pauling: bool) -> None:
    space = CompositionSpace(**WIDE, pauling=pauling)
    assert build_tables(space.rules).n_charges > BITS_PER_WORD
    assert_same(space, **WIDE, pauling=pauling)


@pytest.mark.slow
@pytest.mark.parametrize("pauling", [True, False])
def test_charges_over_several_words_agree_with_brute_force_for_ternaries(pauling: bool) -> None:
    limits = WIDE | {"elements": ["Os", "U", "Se"], "max_elements": 3, "max_count": 16, "max_atoms": 40}
    space = CompositionSpace(**limits, pauling=pauling)
    assert build_tables(space.rules).n_charges > BITS_PER_WORD
    assert_same(space, **limits, pauling=pauling)


def test_without_charges_every_reduced_composition_is_reached() -> None:
    limits = {"elements": ["Ni", "Al", "He", "Fe", "Au"], "charge_neutral": False, **SMALL}
    assert_same(CompositionSpace(**limits), **limits)


def test_single_elements_are_reached_when_zero_is_among_their_states() -> None:
    limits: dict[str, Any] = {"elements": ["Na", "Ti", "O"], "min_elements": 1, "max_elements": 2, "max_atoms": 4}
    zero = ICSD24FilterConfig(include_zero=True)
    states = oxidation_states("icsd24", zero)
    singles: set[Amounts] = {frozenset({(symbol, 1)}) for symbol in limits["elements"] if 0 in states[symbol]}
    reached = compositions_by_masks(CompositionSpace(**limits, icsd24_filter=zero))
    assert {material for material in reached if len(material) == 1} == singles
    assert singles
    assert all(len(material) > 1 for material in compositions_by_masks(CompositionSpace(**limits)))


def test_the_faster_smact_of_these_tests_judges_as_smact_does() -> None:
    for amounts in compositions_by_brute_force(
        ["K", "C", "Se", "O"], max_elements=3, max_atoms=5, charge_neutral=False
    ):
        formula = "".join(f"{symbol}{count}" for symbol, count in amounts)
        assert smact_accepts(dict(amounts)) == smact_validity(formula, include_alloys=False), formula


@given(st.integers(1, 200), st.data())
def test_packed_bits_are_the_charges(n_charges: int, data: st.DataObject) -> None:
    charges = data.draw(st.sets(st.integers(0, n_charges - 1)))
    bits = np.zeros(n_charges, dtype=np.bool_)
    bits[list(charges)] = True
    words = pack_bits(bits)
    assert (words >= 0).all()
    unpacked = {w * BITS_PER_WORD + b for w, word in enumerate(words) for b in range(BITS_PER_WORD) if word >> b & 1}
    assert unpacked == charges


def test_tables_too_large_to_hold_are_refused_with_the_limits_that_matter() -> None:
    rules = CompositionRules(
        tie_group=tuple(range(90)),
        oxidation_states=((-4, 4),) * 90,
        count_range=((1, 100),) * 90,
        required=(False,) * 90,
        min_elements=2,
        max_elements=5,
        max_atoms=500,
        charge_rule="pauling",
    )
    with pytest.raises(ValueError, match=r"would take \d+\.\d GB.*max_elements=5, max_atoms=500"):
        build_tables(rules)
