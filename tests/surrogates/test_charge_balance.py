"""Charges by sets of bits: SMACT's verdict on random formulas, brute force over all choices, and cases by hand."""

from __future__ import annotations

import random
import time
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition
from smact.screening import smact_validity

from envs.chemistry import ELECTRONEGATIVITY, SYMBOLS, oxidation_states
from envs.formula import CompositionBatch, parse_formula
from surrogates.charge_balance import CHARGE_SETTINGS, cdvae_validity, judge_charges
from tests.envs.strategies import smact_accepts


def random_formulas(n: int, seed: int, most_elements: int = 5, most_atoms: int = 8) -> list[str]:
    """Formulas of any elements; half of them hold oxygen, so that many are neutral."""
    generator = random.Random(seed)
    formulas = []
    for _ in range(n):
        elements = generator.sample(SYMBOLS, generator.randint(2, most_elements))
        if generator.random() < 0.5:
            elements = [*dict.fromkeys([*elements[:-1], "O"])]
        formulas.append("".join(f"{symbol}{generator.randint(1, most_atoms)}" for symbol in elements))
    return formulas


def assert_agrees_with_smact(formulas: list[str], setting: str) -> None:
    found = judge_charges(CompositionBatch.from_formulas(formulas), setting)
    accepted = {True: 0, False: 0}
    for row, formula in enumerate(formulas):
        amounts = parse_formula(formula)
        assert bool(found.neutral_and_balanced[row]) == smact_accepts(amounts, setting), formula
        assert bool(found.neutral[row]) == smact_accepts(amounts, setting, pauling=False), formula
        accepted[bool(found.neutral_and_balanced[row])] += 1
    assert min(accepted.values()) > 0.005 * len(formulas)


@pytest.mark.parametrize("setting", CHARGE_SETTINGS)
def test_verdicts_are_those_of_smact(setting: str) -> None:
    assert_agrees_with_smact(random_formulas(300, 1), setting)


@pytest.mark.slow
@pytest.mark.parametrize("setting", CHARGE_SETTINGS)
def test_verdicts_are_those_of_smact_on_5000_formulas(setting: str) -> None:
    assert_agrees_with_smact(random_formulas(5000, 2), setting)


def test_the_default_setting_is_what_smact_does_unasked() -> None:
    formulas = random_formulas(40, 3)
    found = judge_charges(CompositionBatch.from_formulas(formulas))
    assert found.neutral_and_balanced.tolist() == [
        smact_validity(Composition(formula), include_alloys=False) for formula in formulas
    ]


@pytest.mark.filterwarnings("ignore")  # SMACT warns of elements without oxidation states
def test_cdvae_validity_is_smact_with_alloys_and_the_first_oxidation_states() -> None:
    formulas = ["Fe", "NaCl", "CuZn", "NiAl3", "FeSi", "He2O", "CsAu", "O2", "SnPb", "TiCu2", *random_formulas(60, 4)]
    found = cdvae_validity(CompositionBatch.from_formulas(formulas))
    expected = [smact_validity(Composition(formula), oxidation_states_set="smact14") for formula in formulas]
    assert found.tolist() == expected and 10 < sum(expected) < 60


def brute_force(amounts: dict[str, int], setting: str) -> tuple[bool, bool, bool]:
    """Neutral, balanced, both: by all choices of states."""
    if len(amounts) == 1:
        return True, True, True
    states = oxidation_states(setting)
    neutral = balanced = both = False
    values = [ELECTRONEGATIVITY[symbol] for symbol in amounts]
    for choice in product(*(states.get(symbol, ()) for symbol in amounts)):
        sums_up = sum(n * charge for n, charge in zip(amounts.values(), choice, strict=True)) == 0
        cations = [x for x, charge in zip(values, choice, strict=True) if charge > 0]
        anions = [x for x, charge in zip(values, choice, strict=True) if charge < 0]
        ordered = None not in values and all(a < b for a, b in product(cations, anions))
        neutral |= sums_up
        balanced |= ordered and bool(cations) and bool(anions)
        both |= sums_up and ordered
    return neutral, balanced, both


@given(
    st.lists(
        st.dictionaries(st.sampled_from(SYMBOLS), st.integers(1, 60), min_size=1, max_size=4), min_size=1, max_size=6
    ),
    st.sampled_from([*CHARGE_SETTINGS, "wiki"]),
)
def test_verdicts_are_those_of_brute_force(compositions: list[dict[str, int]], setting: str) -> None:
    formulas = ["".join(f"{symbol}{n}" for symbol, n in amounts.items()) for amounts in compositions]
    found = judge_charges(CompositionBatch.from_formulas(formulas), setting)
    rows = zip(found.neutral.tolist(), found.balanced.tolist(), found.neutral_and_balanced.tolist(), strict=True)
    assert list(rows) == [brute_force(amounts, setting) for amounts in compositions]


def test_by_hand() -> None:
    def verdict(formula: str) -> tuple[bool, bool, bool]:
        found = judge_charges(CompositionBatch.from_formulas([formula]))
        return bool(found.neutral), bool(found.balanced), bool(found.neutral_and_balanced)

    assert verdict("SrTiO3") == verdict("Fe") == (True, True, True)
    assert verdict("NaCl2") == (False, True, False)  # Na+ and Cl- can be ordered, but do not sum to zero
    assert verdict("KRb") == (False, False, False)  # equal electronegativities
    assert verdict("HeO") == (False, False, False)
    assert verdict("Li0.5Na0.5Cl") == (True, True, True)
    assert verdict("La0.825Ca0.175Mn0.175Fe0.825O3")[1]
    assert verdict("Na0.333K0.667Cl") == verdict("Na333K667Cl1000") == (True, True, True)
    assert not verdict("Na0.31234K0.68766Cl")[0]  # needs more than three digits


def test_large_and_small_formulas_stand_side_by_side() -> None:
    formulas = ["NaCl", "C60H3000Cl3240", "Na20000Cl20000O1", "Na20001Cl20001", "MgO", "Na500Mg500Cl1500"]
    found = judge_charges(CompositionBatch.from_formulas(formulas), "smact14")
    alone = [
        bool(judge_charges(CompositionBatch.from_formulas([formula]), "smact14").neutral_and_balanced)
        for formula in formulas
    ]
    assert found.neutral_and_balanced.tolist() == alone
    assert alone[0] and not alone[2] and alone[3] and alone[4] and alone[5]


def test_nothing_to_judge() -> None:
    found = judge_charges(CompositionBatch.from_formulas([]))
    assert found.neutral.shape == found.balanced.shape == found.neutral_and_balanced.shape == (0,)
    with pytest.raises(ValueError, match="oxidation_states: unknown set 'mine'"):
        judge_charges(CompositionBatch.from_formulas(["NaCl"]), "mine")


@pytest.mark.slow
def test_a_hundred_thousand_formulas_take_seconds() -> None:
    materials = CompositionBatch.from_formulas(random_formulas(100_000, 5))
    began = time.process_time()
    for setting in CHARGE_SETTINGS:
        judge_charges(materials, setting)
    assert time.process_time() - began < 20
    assert torch.get_num_threads() == 1
