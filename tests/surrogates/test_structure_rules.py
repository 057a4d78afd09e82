"""Charge rules against SMACT, on formulas of all sizes; the closest pair against distances by hand."""

import random

import pytest
from smact.screening import smact_validity

from envs.chemistry import SYMBOLS
from surrogates.datasets import read_known_formulas
from surrogates.structure_rules import charge_problem, closest_pair_problem
from tests.surrogates.crystals import rocksalt


def smact_says(amounts):
    formula = "".join(f"{symbol}{amount}" for symbol, amount in amounts.items())
    return bool(smact_validity(formula, include_alloys=False))


def test_random_compositions_are_judged_as_smact_judges_them():
    generator = random.Random(0)
    valid = 0
    for _ in range(400):
        symbols = generator.sample(SYMBOLS[:94], generator.choice([2, 2, 3, 3, 4]))
        if generator.random() < 0.7:
            symbols[-1] = "O" if "O" not in symbols[:-1] else "F"
        if len(set(symbols)) < len(symbols):
            continue
        amounts = {symbol: generator.randint(1, 6) for symbol in symbols}
        assert (charge_problem(amounts) is None) == smact_says(amounts), amounts
        valid += charge_problem(amounts) is None
    assert valid > 30


def test_known_compositions_are_judged_as_smact_judges_them():
    from envs.formula import parse_formula

    formulas = read_known_formulas()["formula"].sample(150, random_state=0)
    for formula in formulas:
        amounts = {symbol: int(amount) for symbol, amount in parse_formula(formula).items()}
        if len(amounts) > 1:
            assert (charge_problem(amounts) is None) == smact_says(amounts), formula


@pytest.mark.parametrize(
    ("amounts", "part"),
    [
        ({"Ni": 1, "Al": 1}, "charge neutral"),
        ({"Na": 1, "Cl": 2}, "charge neutral"),
        ({"He": 1, "O": 1}, "He has no"),
    ],
)
def test_reasons_name_what_is_wrong(amounts, part):
    assert part in charge_problem(amounts)


def test_elements_and_multiples_pass():
    assert charge_problem({"C": 8}) is None
    assert charge_problem({"Sr": 8, "Ti": 8, "O": 24}) is None


def test_closest_pair():
    structure = rocksalt("Na", "Cl", 5.69)
    ratio = 5.69 / 2 / (1.66 + 1.02)  # Cordero's radii
    assert closest_pair_problem(structure, ratio - 0.001) is None
    problem = closest_pair_problem(structure, ratio + 0.001)
    assert f"at {ratio:.2f} of the sum of their covalent radii" in problem
