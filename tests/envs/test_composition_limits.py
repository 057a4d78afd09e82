"""Bad limits: one line that names the value, what was expected and where it stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from smact.screening import ICSD24FilterConfig

from envs import CompositionSpace

BAD: list[tuple[dict[str, Any], str]] = [
    # elements
    ({"elements": ["Fe", "Xx"]}, "elements: 'Xx' is not a chemical element"),
    ({"elements": ["fe"]}, "elements: 'fe' is not a chemical element .*did you mean Fe"),
    ({"elements": "Na,K"}, "elements: 'Na,K' is one text .*list"),
    ({"elements": 26}, "elements: 26 is not a list"),
    ({"elements": [26, 8]}, "elements: 26 is not a chemical element"),
    ({"elements": [["Fe"]]}, r"elements: \['Fe'\] is not a chemical element"),
    ({"elements": []}, "elements: the list is empty"),
    ({"elements": ["He", "O"]}, "elements: He has no oxidation state in the set 'icsd24'"),
    ({"elements": ["Pm", "O"]}, "elements: Pm has no tabulated electronegativity.*pauling"),
    ({"elements": ["Na", "Cl"], "forbidden": ["Na", "Cl"]}, "elements: none is left.*forbidden"),
    ({"required": ["Xx"]}, "required: 'Xx' is not a chemical element"),
    ({"required": 3}, "required: 3 is not a list"),
    ({"required": None}, "required: None is not a list"),
    ({"required": ["He"]}, "required: He has no oxidation state"),
    ({"required": ["O"], "forbidden": ["O"]}, "required: O is also among the forbidden"),
    ({"required": ["O"], "elements": ["Na", "Cl"]}, r"required: O is not among the allowed elements \(Na, Cl\)"),
    ({"required": ["O", "S", "N"], "max_elements": 2}, r"required: 3 elements \(O, S, N\).*max_elements=2"),
    ({"forbidden": ["Xx"]}, "forbidden: 'Xx' is not a chemical element"),
    ({"forbidden": None}, "forbidden: None is not a list"),
    # numbers
    *(
        ({name: value}, f"{name}: {shown} is not a positive whole number")
        for name in ("min_elements", "max_elements", "max_atoms", "max_count")
        for value, shown in [("ten", "'ten'"), (0, "0"), (-1, "-1"), (True, "True"), (2.5, "2.5"), (None, "None")]
        if value is not None or "elements" in name  # None leaves the default of max_atoms and max_count
    ),
    ({"max_atoms": 10**9}, "max_atoms: 1000000000 is more than 1000"),
    ({"max_count": 10**9}, "max_count: 1000000000 is more than 200"),
    ({"max_elements": 10**9}, "max_elements: 1000000000 is more than 20"),
    ({"max_atoms": 500, "max_count": 100}, "tables would take .* GB.*max_elements=5, max_atoms=500"),
    ({"min_elements": 4, "max_elements": 3}, "min_elements: 4 is more than max_elements=3"),
    ({"elements": ["Na"]}, r"min_elements: 2 is more than the elements available \(Na\)"),
    ({"elements": ["Na", "Cl"], "min_elements": 3}, r"min_elements: 3 is more than the elements available \(Na, Cl\)"),
    ({"min_elements": 4, "max_atoms": 3}, "min_elements: 4 is more than max_atoms=3"),
    # count ranges
    ({"count_ranges": [("O", (1, 2))]}, "count_ranges: .* is not a mapping"),
    ({"count_ranges": "O:1-2"}, "count_ranges: 'O:1-2' is not a mapping"),
    ({"count_ranges": {"Xx": (1, 2)}}, "count_ranges: 'Xx' is not a chemical element"),
    ({"count_ranges": {8: (1, 2)}}, "count_ranges: 8 is not a chemical element"),
    *(
        ({"count_ranges": {"O": value}}, "count_ranges: O: .* is not a pair of counts, lowest and highest")
        for value in (2, "1-2", (1,), (1, 2, 3), (3, 2), (0, 2), (1, 2.0), (True, 2), (None, 2), {1, 2})
    ),
    ({"count_ranges": {"O": (1, 10**9)}}, "count_ranges: O: 1000000000 is more than 200"),
    ({"required": ["O"], "count_ranges": {"O": (30, 40)}}, r"required elements \(O\) take at least 30.*max_atoms=20"),
    ({"required": ["O", "F"], "count_ranges": {"O": (15, 20), "F": (6, 8)}}, "take at least 21 atoms"),
    # chemistry
    ({"oxidation_states": "icsd"}, r"oxidation_states: unknown set 'icsd' \(expected one of icsd24, smact14"),
    ({"oxidation_states": "icsd", "charge_neutral": False}, "oxidation_states: unknown set 'icsd'"),
    ({"oxidation_states": ["icsd24"]}, r"oxidation_states: \['icsd24'\] is not the name of a set \(icsd24"),
    ({"oxidation_states": None}, "oxidation_states: None is not the name of a set"),
    ({"icsd24_filter": {"consensus": 3}}, "icsd24_filter: .* is not an ICSD24FilterConfig"),
    ({"icsd24_filter": ICSD24FilterConfig(commonality="rare")}, "icsd24_filter: .*rare"),
    ({"icsd24_filter": ICSD24FilterConfig(commonality=[])}, "icsd24_filter: commonality"),  # type: ignore[arg-type]
    ({"icsd24_filter": ICSD24FilterConfig(consensus=10**9)}, "icsd24_filter: no oxidation state"),
    ({"icsd24_filter": ICSD24FilterConfig(), "oxidation_states": "wiki"}, "icsd24_filter: .*not 'wiki'"),
    ({"charge_neutral": "no"}, "charge_neutral: 'no' is neither true nor false"),
    ({"pauling": None}, "pauling: None is neither true nor false"),
]


@pytest.mark.parametrize(("limits", "message"), BAD, ids=[str(limits)[:60] for limits, _ in BAD])
def test_a_bad_limit_is_one_line_that_names_it(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}") as error:
        CompositionSpace(**limits)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("limits", "culprits"),
    [
        ({"elements": ["Na", "K"]}, ["elements=Na,K", "charge neutrality with icsd24 oxidation states"]),
        ({"required": ["Na", "K"], "max_elements": 2}, ["required=Na,K", "max_elements=2", "charge neutrality"]),
        (
            {"required": ["Al", "O"], "max_atoms": 4, "max_elements": 2, "oxidation_states": "pymatgen_sp"},
            ["required=Al,O", "max_atoms=4", "max_elements=2", "charge neutrality with pymatgen_sp"],
        ),
        (
            {"elements": ["Al", "O"], "max_count": 2, "oxidation_states": "pymatgen_sp"},
            ["elements=Al,O", "max_count=2"],
        ),
        ({"elements": ["Al", "F"], "count_ranges": {"F": (1, 2)}}, ["elements=Al,F", "count_ranges F=1-2"]),
        (
            {"required": ["Na", "Cl"], "max_elements": 2, "count_ranges": {"Na": (3, 4), "Cl": (1, 2)}},
            ["required=Na,Cl", "count_ranges Na=3-4", "max_elements=2"],
        ),
        ({"min_elements": 1, "max_elements": 1}, ["max_elements=1", "charge neutrality"]),
    ],
)
def test_limits_that_leave_nothing_are_named(limits: dict[str, Any], culprits: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^no composition satisfies all limits") as error:
        CompositionSpace(**limits)
    assert "\n" not in str(error.value)
    for culprit in culprits:
        assert culprit in str(error.value)


def test_only_limits_in_conflict_are_named() -> None:
    with pytest.raises(ValueError) as error:
        CompositionSpace(
            required=["Na", "K"], forbidden=["Pb"], count_ranges={"H": (1, 2)}, max_elements=2, max_count=7
        )
    assert str(error.value).split("in conflict: ")[1].split("; ") == [
        "required=Na,K",
        "max_elements=2",
        "charge neutrality with icsd24 oxidation states and the Pauling rule",
    ]


def test_a_conflict_is_named_even_where_relaxed_tables_would_be_too_large() -> None:
    with pytest.raises(ValueError, match=r"^no composition satisfies all limits"):
        CompositionSpace(elements=["Na", "K"], max_elements=10, max_atoms=200, max_count=30)


def test_numpy_numbers_and_lists_are_accepted() -> None:
    space = CompositionSpace(["Na", "Cl", "O"], max_atoms=np.int64(6), count_ranges={"O": [1, 3]})  # type: ignore[arg-type, dict-item]
    assert space.limits.as_json()["max_atoms"] == 6
    assert space.limits.as_json()["count_ranges"] == {"O": [1, 3]}


def test_elements_are_taken_from_any_iterable() -> None:
    assert CompositionSpace(symbol for symbol in ("Na", "Cl")).elements == ("Na", "Cl")
    assert CompositionSpace({"Na": 1, "Cl": 2}, required="Cl").limits.required == ("Cl",)


def test_available_elements_are_in_order_of_electronegativity() -> None:
    assert CompositionSpace(["O", "Se", "C", "Rb", "K"]).elements == ("K", "Rb", "C", "Se", "O")


def test_each_rule_asks_only_for_what_it_needs() -> None:
    assert "Pm" in CompositionSpace(["Pm", "O"], pauling=False).elements
    assert "He" in CompositionSpace(["He", "Ni"], charge_neutral=False).elements
    everything = CompositionSpace(charge_neutral=False, max_elements=2, max_atoms=4)
    assert len(everything.elements) == 103
