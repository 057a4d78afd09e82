"""Whole numbers of doped compositions, by hand and against fractions."""

from __future__ import annotations

from fractions import Fraction
from math import gcd, lcm

from hypothesis import given
from hypothesis import strategies as st

from envs.formula import CompositionBatch
from surrogates.decimal_amounts import whole_amounts


def test_by_hand() -> None:
    formulas = ["La0.825Sr0.175MnO3", "Na2Cl2", "Na0.01K0.99Cl", "Na0.3125Cl", "Li0.5CoO2", "Na0.001Cl99.825", "NaCl"]
    counts, exact = whole_amounts(CompositionBatch.from_formulas(formulas))
    assert counts[:, :4].tolist() == [
        [33, 7, 40, 120], [1, 1, 0, 0], [1, 99, 100, 0], [5, 16, 0, 0], [1, 2, 4, 0], [1, 99825, 0, 0], [1, 1, 0, 0],
    ]  # fmt: skip
    assert exact.all()
    counts, exact = whole_amounts(CompositionBatch.from_formulas(["Na0.31234Cl", "NaCl"]))
    assert exact.tolist() == [False, True] and counts[0].tolist() == [0, 0]


@given(st.lists(st.tuples(st.integers(1, 9999), st.integers(1, 9999)), min_size=1, max_size=5))
def test_three_digits_are_exact(thousandths: list[tuple[int, int]]) -> None:
    batch = CompositionBatch.from_formulas([f"Na{a / 1000:.3f}Cl{b / 1000:.3f}" for a, b in thousandths])
    counts, exact = whole_amounts(batch)
    assert exact.all()
    for (a, b), found in zip(thousandths, counts.tolist(), strict=True):
        first, second = Fraction(a, 1000), Fraction(b, 1000)
        whole = [int(value * lcm(first.denominator, second.denominator)) for value in (first, second)]
        ratio = [value // gcd(*whole) for value in whole]
        # a factor up to 20 may leave the amounts a thousandth off
        assert found == ratio or all(
            abs(value / scale - given / 1000) < 1e-3
            for scale in [found[0] / (a / 1000)]
            for value, given in zip(found, (a, b), strict=True)
        )


def test_nothing() -> None:
    counts, exact = whole_amounts(CompositionBatch.from_formulas([]))
    assert len(counts) == len(exact) == 0
