"""Electronegativities and oxidation states against SMACT's own tables."""

from __future__ import annotations

import warnings

import pytest
from smact import Element
from smact.screening import ICSD24FilterConfig, _get_icsd24_oxidation_states

from envs.chemistry import (
    ATOMIC_NUMBERS,
    ELECTRONEGATIVITY,
    OXIDATION_STATE_SETS,
    SYMBOLS,
    check_elements,
    formula_order,
    oxidation_states,
)

ATTRIBUTES = {
    "smact14": "oxidation_states_smact14",
    "icsd16": "oxidation_states_icsd16",
    "pymatgen_sp": "oxidation_states_sp",
    "wiki": "oxidation_states_wiki",
}


def test_symbols_are_in_order_of_atomic_number() -> None:
    assert len(SYMBOLS) == len(set(SYMBOLS)) == 103
    assert [Element(symbol).number for symbol in SYMBOLS] == list(range(1, 104))
    assert ATOMIC_NUMBERS["Fe"] == 26


def test_formula_order_is_ascending_electronegativity_then_atomic_number() -> None:
    assert sorted(["Se", "C", "O", "K", "Rb", "He"], key=formula_order) == ["He", "K", "Rb", "C", "Se", "O"]
    assert len({formula_order(symbol) for symbol in SYMBOLS}) == 103


def test_elements_without_electronegativity_are_the_six_that_smact_lacks() -> None:
    assert {symbol for symbol, value in ELECTRONEGATIVITY.items() if value is None} == {
        *("He", "Ne", "Ar", "Pm", "Rn", "Lr")
    }


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_states_of_a_set_are_those_of_smact(name: str) -> None:
    states = oxidation_states(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SMACT warns of elements without states
        for symbol in SYMBOLS:
            assert set(states.get(symbol, ())) == set(getattr(Element(symbol), ATTRIBUTES[name]) or ())


@pytest.mark.parametrize(
    "chosen",
    [
        None,
        ICSD24FilterConfig(consensus=10),
        ICSD24FilterConfig(commonality="medium"),
        ICSD24FilterConfig(commonality="main"),
        ICSD24FilterConfig(commonality=20.0),
        ICSD24FilterConfig(include_zero=True),
    ],
)
def test_states_of_icsd24_are_those_that_smact_filters(chosen: ICSD24FilterConfig | None) -> None:
    states = oxidation_states("icsd24", chosen)
    for symbol in SYMBOLS:
        of_smact = _get_icsd24_oxidation_states([Element(symbol)], chosen or ICSD24FilterConfig())
        assert set(states.get(symbol, ())) == set(of_smact[0] if of_smact else ())


@pytest.mark.parametrize("name", OXIDATION_STATE_SETS)
def test_states_are_ascending_and_never_empty(name: str) -> None:
    for states in oxidation_states(name).values():
        assert states
        assert list(states) == sorted(set(states))


def test_an_unknown_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^oxidation_states: unknown set 'ICSD24' \(expected one of icsd24, smact14"):
        oxidation_states("ICSD24")


def test_only_icsd24_can_be_filtered() -> None:
    with pytest.raises(ValueError, match=r"^icsd24_filter: only the set 'icsd24' can be filtered, not 'wiki'"):
        oxidation_states("wiki", ICSD24FilterConfig())


@pytest.mark.parametrize("chosen", [ICSD24FilterConfig(commonality="rare"), ICSD24FilterConfig(consensus=10**9)])
def test_a_filter_that_leaves_nothing_is_refused(chosen: ICSD24FilterConfig) -> None:
    with pytest.raises(ValueError, match=r"^icsd24_filter: no oxidation state"):
        oxidation_states("icsd24", chosen)


def test_elements_are_checked_in_order_without_repetitions() -> None:
    assert check_elements(["O", "Fe", "O"], "elements") == ("O", "Fe")
    assert check_elements((symbol for symbol in ("Ti", "O")), "elements") == ("Ti", "O")
    assert check_elements("Fe", "elements") == ("Fe",)
    assert check_elements([], "elements") == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["fe"], "required: 'fe' is not a chemical element .* did you mean Fe"),
        (["Xx"], "required: 'Xx' is not a chemical element"),
        ([26], "required: 26 is not a chemical element"),
        ([["Fe"]], r"required: \['Fe'\] is not a chemical element"),
        ([None], "required: None is not a chemical element"),
        ("Na,K", "required: 'Na,K' is one text .*list of element symbols"),
        (None, "required: None is not a list of element symbols"),
        (7, "required: 7 is not a list of element symbols"),
    ],
)
def test_what_is_no_element_is_refused_by_name(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        check_elements(given, "required")  # type: ignore[arg-type]
