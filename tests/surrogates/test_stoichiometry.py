from functools import reduce
from math import gcd

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from envs.chemistry import SYMBOLS
from envs.formula import CompositionBatch, reduced_formula
from surrogates.stoichiometry import integer_amounts, material_keys

compositions = st.dictionaries(st.sampled_from(SYMBOLS), st.integers(1, 30), min_size=1, max_size=6)


def as_formula(entry: dict[str, int]) -> str:
    return "".join(f"{symbol}{n}" for symbol, n in entry.items())


@given(compositions)
def test_integer_amounts_have_no_common_divisor(entry):
    amounts, exact = integer_amounts(CompositionBatch.from_formulas([as_formula(entry)]))
    divisor = reduce(gcd, entry.values())
    assert amounts[0].tolist() == [n // divisor for n in entry.values()]
    assert exact.item()


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("Ga0.5As0.5", [1, 1]),
        ("Al0.25Ga0.75As", [1, 3, 4]),
        ("Cu0.95In1.05Se2.05", [19, 21, 41]),
        ("Ti0.3333O0.6667", [1, 2]),
    ],
)
def test_simple_fractions_become_integers(formula, expected):
    amounts, exact = integer_amounts(CompositionBatch.from_formulas([formula]))
    assert exact.item()
    assert amounts[0].tolist() == expected


def test_other_fractions_are_told():
    amounts, exact = integer_amounts(CompositionBatch.from_formulas(["Ga0.4321As0.5679", "NaClO0.0001", "NaCl"]))
    assert exact.tolist() == [False, False, True]
    assert amounts.tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 0]]


@given(compositions, compositions)
def test_keys_are_equal_exactly_for_equal_reduced_formulas(first, second):
    formulas = [as_formula(first), as_formula(dict(reversed(first.items()))), as_formula(second)]
    keys = material_keys(CompositionBatch.from_formulas(formulas))
    assert keys[0] == keys[1]
    assert (keys[0] == keys[2]).item() == (reduced_formula(formulas[0]) == reduced_formula(formulas[2]))


def test_a_batch_of_width_zero_rows_has_no_keys():
    empty = CompositionBatch(torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3))
    assert material_keys(empty).shape == (0,)
