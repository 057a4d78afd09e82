"""Formulas as text and as tensors, against pymatgen."""

from __future__ import annotations

from math import gcd

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition

from envs.chemistry import SYMBOLS
from envs.formula import (
    CompositionBatch,
    anonymous_formula,
    chemical_system,
    hydrate_problem,
    parse_formula,
    plain_digits,
    reduce_amounts,
    reduced_formula,
    write_formula,
)

counts = st.dictionaries(st.sampled_from(SYMBOLS), st.integers(1, 30).map(float), min_size=1, max_size=7)
fractions = st.dictionaries(
    st.sampled_from(SYMBOLS), st.floats(0.01, 50).map(lambda x: round(x, 3)), min_size=1, max_size=5
)


@given(st.one_of(counts, fractions))
def test_written_formulas_parse_to_the_same_amounts(amounts: dict[str, float]) -> None:
    assert parse_formula(write_formula(amounts)) == pytest.approx(amounts)


@given(counts)
def test_parsing_agrees_with_pymatgen(amounts: dict[str, float]) -> None:
    formula = write_formula(amounts)
    assert parse_formula(formula) == Composition(formula).get_el_amt_dict()


@given(counts)
def test_a_reduced_formula_keeps_the_proportions_and_has_no_common_divisor(amounts: dict[str, float]) -> None:
    reduced = parse_formula(reduced_formula(write_formula(amounts)))
    assert reduced.keys() == amounts.keys()
    assert len({amounts[symbol] / reduced[symbol] for symbol in amounts}) == 1
    assert gcd(*(int(amount) for amount in reduced.values())) == 1


@given(counts)
def test_anonymous_formula_agrees_with_pymatgen(amounts: dict[str, float]) -> None:
    formula = write_formula(amounts)
    expected = Composition(reduced_formula(formula)).anonymized_formula
    assert anonymous_formula(formula) == expected


@given(counts)
def test_chemical_system_agrees_with_pymatgen(amounts: dict[str, float]) -> None:
    assert chemical_system(write_formula(amounts)) == Composition(amounts).chemical_system


@pytest.mark.parametrize(
    ("formula", "amounts"),
    [
        ("SrTiO3", {"Sr": 1, "Ti": 1, "O": 3}),
        (" NaCl ", {"Na": 1, "Cl": 1}),
        ("Ca(OH)2", {"Ca": 1, "O": 2, "H": 2}),
        ("Fe.5O", {"Fe": 0.5, "O": 1}),
        ("CO", {"C": 1, "O": 1}),
        ("Co", {"Co": 1}),
        ("CH3CH3", {"C": 2, "H": 6}),
        ("SrTiO₃", {"Sr": 1, "Ti": 1, "O": 3}),
        ("Al₂(SO₄)₃", {"Al": 2, "S": 3, "O": 12}),
        ("Li₀.₅CoO₂", {"Li": 0.5, "Co": 1, "O": 2}),
    ],
)
def test_notations_of_formulas(formula: str, amounts: dict[str, float]) -> None:
    assert parse_formula(formula) == amounts


def test_subscripts_are_the_ten_digits() -> None:
    assert plain_digits("₀₁₂₃₄₅₆₇₈₉") == "0123456789"
    assert plain_digits("SrTiO3") == "SrTiO3"


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("CuSO4.5H2O", "CuSO4(H2O)5"),
        ("CuSO4.H2O", "CuSO4(H2O)"),
        ("CuSO4.1H2O", "CuSO4(H2O)"),
        ("CuSO₄.5H₂O", "CuSO4(H2O)5"),
        ("CuSO4 . 5 H2O", "CuSO4(H2O)5"),
        ("CuSO4.5(H2O)", "CuSO4(H2O)5"),
        ("CaSO4.0.5H2O", "CaSO4(H2O)0.5"),
        ("NaCl.2H2O", "NaCl(H2O)2"),
        ("LiOH.H2O", "LiOH(H2O)"),
        ("NaOD.D2O", "NaOD(D2O)"),
        ("Mg(NO3)2.6H2O", "Mg(NO3)2(H2O)6"),
        ("Na2B4O7.10H2O", "Na2B4O7(H2O)10"),
        ("Al2O3.2SiO2.2H2O", "brackets, as in CuSO4(H2O)5"),
        ("(CuSO4.5H2O)2", "brackets, as in CuSO4(H2O)5"),
        ("(CuSO4.5H2O)", "brackets, as in CuSO4(H2O)5"),
        ("CuSO4.5H2O(OH)", "brackets, as in CuSO4(H2O)5"),
    ],
)
def test_hydrates_that_look_like_decimals_are_refused_with_what_was_expected(formula: str, expected: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_formula(formula)
    assert str(error.value) == f"{formula!r} can be read in two ways (expected {expected})"
    if "brackets" not in expected and "D" not in expected:
        assert parse_formula(expected) == Composition(expected).get_el_amt_dict()


@pytest.mark.parametrize("dot", ["·", "•", "*", "⋅", "∙", " · "])
@pytest.mark.parametrize("n", ["5", "", "0.5"])
def test_hydrates_with_other_dots_are_refused_with_what_was_expected(dot: str, n: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_formula(f"CuSO4{dot}{n}H2O")
    assert f"is not a chemical formula (expected CuSO4(H2O){n})" in str(error.value)


@pytest.mark.parametrize(
    "formula",
    ["Li0.5CoO2", "Na0.5H2O", "Sr1.5H2O", "Li.5H2O", "VO0.5H2O", "O4.0H2O", "VO1.05H2O", "VO2.333H2O", "Cl2.6O2",
     "H2O", "CuSO4(H2O)5", "CuSO4.5H4O2", "Ca(OH)2"],
)  # fmt: skip
def test_ordinary_decimals_and_water_are_read_as_pymatgen_does(formula: str) -> None:
    assert hydrate_problem(formula) is None
    assert parse_formula(formula) == Composition(formula).get_el_amt_dict()


def test_a_long_text_is_judged_at_once() -> None:
    """What backtracks would take years for the last ones."""
    for text in (
        "Cu." + " " * 30_000 + "x2O",
        "C" * 9000 + "." * 9000 + "x2O",
        "C" + "1" * 30_000 + " " * 30_000 + "2O",
    ):
        assert hydrate_problem(text) is None


@given(st.sampled_from([symbol for symbol in SYMBOLS if symbol not in "HO"]), st.floats(0.01, 50))
def test_no_written_formula_is_taken_for_a_hydrate(symbol: str, amount: float) -> None:
    amounts = {symbol: round(amount, 2), "H": 2.0, "O": 1.0}
    assert parse_formula(write_formula(amounts)) == pytest.approx(amounts)


@pytest.mark.parametrize("formula", ["", "  ", "hello", "Xx2O", "Na0Cl", "Na-1", "NaCl)", "123", "Na Cl 2 (", "Fe2O3?"])
def test_what_is_no_formula_is_refused_by_name(formula: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_formula(formula)
    assert repr(formula) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("formula", [None, 3, 2.5, float("nan"), ["NaCl"]])
def test_what_is_no_text_is_refused_by_name(formula: object) -> None:
    with pytest.raises(ValueError, match="is not a chemical formula"):
        parse_formula(formula)  # type: ignore[arg-type]


def test_elements_are_written_in_ascending_electronegativity() -> None:
    assert write_formula({"O": 3, "Ti": 1, "Sr": 1}) == "SrTiO3"
    assert write_formula({"Se": 1, "C": 2}) == "C2Se"


def test_fractional_amounts_are_not_reduced() -> None:
    assert reduce_amounts({"Fe": 0.5, "O": 1.0}) == {"Fe": 0.5, "O": 1.0}
    assert reduced_formula("Fe2O4") == "FeO2"


def test_anonymous_formula_orders_by_amount() -> None:
    assert anonymous_formula("SrTiO3") == "ABC3"
    assert anonymous_formula("Al2O3") == "A2B3"
    assert anonymous_formula("Ti2O4") == "AB2"


# Batches


def test_a_batch_holds_numbers_amounts_and_padding() -> None:
    batch = CompositionBatch.from_formulas(["SrTiO3", "NaCl"])
    assert batch.atomic_numbers.tolist() == [[38, 22, 8], [11, 17, 0]]
    assert batch.amounts.tolist() == [[1, 1, 3], [1, 1, 0]]
    assert batch.fractions.sum(1).tolist() == pytest.approx([1, 1])


@given(st.lists(st.one_of(counts, fractions), max_size=5))
def test_a_batch_is_a_sequence_of_its_formulas(compositions: list[dict[str, float]]) -> None:
    formulas = [write_formula(amounts) for amounts in compositions]
    batch = CompositionBatch.from_formulas(formulas)
    assert len(batch) == len(formulas)
    assert [parse_formula(formula) for formula in batch] == [
        pytest.approx(parse_formula(formula), rel=1e-5) for formula in formulas
    ]


def test_batches_are_sliced_and_indexed() -> None:
    batch = CompositionBatch.from_formulas(["SrTiO3", "NaCl", "MgO"])
    assert batch[1] == "NaCl"
    assert batch[-1] == "MgO"
    assert list(batch[1:]) == ["NaCl", "MgO"]
    assert list(batch.rows(torch.tensor([2, 0]))) == ["MgO", "SrTiO3"]
    assert list(batch.rows(torch.tensor([False, True, False]))) == ["NaCl"]
    assert CompositionBatch.from_formulas(batch) is batch


def test_dense_fractions_stand_at_the_atomic_number() -> None:
    dense = CompositionBatch.from_formulas(["SrTiO3", "Lr", "H2O"]).dense_fractions()
    assert dense.shape == (3, 103)
    assert dense.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert dense[0, 7].item() == pytest.approx(0.6)
    assert dense[1, 102].item() == 1
    assert dense[2, 0].item() == pytest.approx(2 / 3)


def test_an_empty_batch_has_no_rows() -> None:
    batch = CompositionBatch.from_formulas([])
    assert len(batch) == 0
    assert list(batch) == []
    assert batch.dense_fractions().shape == (0, 103)


def test_a_batch_with_an_unreadable_formula_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'hello'"):
        CompositionBatch.from_formulas(["NaCl", "hello"])
