"""Oxidation states of compositions, against trying every choice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import pytest
import smact
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.chemistry import ELECTRONEGATIVITY, oxidation_states
from envs.oxidation import always_lowest, assign_oxidation_states, icsd_counts, write_ions

ICSD24 = oxidation_states("icsd24")
ELEMENTS = sorted(s for s in ICSD24 if ELECTRONEGATIVITY[s] is not None)


def icsd_entries(symbol: str, state: int) -> int:
    rows = json.loads((Path(smact.data_directory) / "oxidation_states_icsd24_counts.json").read_text(encoding="utf-8"))
    return sum(row["results_count"] or 0 for row in rows if (row["element"], row["oxidation_state"]) == (symbol, state))


def score(chosen: Mapping[str, int]) -> float:
    return sum(math.log(icsd_counts().get(ion, 0) + 0.5) for ion in chosen.items())


def choices(
    amounts: Mapping[str, int], states: Mapping[str, Sequence[int]], pauling: bool = True
) -> list[dict[str, int]]:
    """Every neutral choice."""
    found = []
    for values in product(*(states[symbol] for symbol in amounts)):
        chosen = dict(zip(amounts, values, strict=True))
        cations = [ELECTRONEGATIVITY[s] or 0.0 for s, q in chosen.items() if q > 0]
        anions = [ELECTRONEGATIVITY[s] or 0.0 for s, q in chosen.items() if q < 0]
        ordered = not pauling or not cations or not anions or max(cations) < min(anions)
        if ordered and sum(amounts[s] * q for s, q in chosen.items()) == 0:
            found.append(chosen)
    return found


@st.composite
def some_amounts(draw: st.DrawFn) -> dict[str, int]:
    symbols = draw(st.lists(st.sampled_from(ELEMENTS), min_size=1, max_size=4, unique=True))
    anion = draw(st.sampled_from(["O", "S", "F", "Cl", "N"]))  # else hardly anything is neutral
    return {symbol: draw(st.integers(1, 6)) for symbol in dict.fromkeys([*symbols, anion])}


def test_counts_are_those_of_smact() -> None:
    for symbol, state in (("Na", 1), ("O", -2), ("Fe", 3), ("S", 6)):
        assert icsd_counts()[symbol, state] == icsd_entries(symbol, state) > 100
    assert all(state for _, state in icsd_counts())


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [
        ({"Sr": 1, "Ti": 1, "O": 3}, {"Sr": 2, "Ti": 4, "O": -2}),
        ({"Na": 1, "Cl": 1}, {"Na": 1, "Cl": -1}),
        ({"Ca": 1, "S": 1, "O": 4}, {"Ca": 2, "S": 6, "O": -2}),
        ({"Zn": 1, "S": 1}, {"Zn": 2, "S": -2}),
        ({"Na": 1, "K": 1}, None),
        ({"Na": 2, "Cl": 1}, None),
    ],
)
def test_textbook_compounds(amounts: dict[str, int], expected: dict[str, int] | None) -> None:
    assert assign_oxidation_states(amounts, ICSD24) == expected


@settings(max_examples=120)
@given(some_amounts(), st.booleans())
def test_the_choice_is_neutral_and_the_most_common(amounts: dict[str, int], pauling: bool) -> None:
    every = choices(amounts, ICSD24, pauling)
    found = assign_oxidation_states(amounts, ICSD24, pauling)
    if not every:
        assert found is None
    else:
        assert found in every
        assert score(found) == pytest.approx(max(map(score, every)))


def test_the_choice_does_not_depend_on_the_order_of_the_elements() -> None:
    amounts = {"Fe": 3, "O": 4, "Cu": 1, "S": 2}
    reverse = dict(reversed(amounts.items()))
    assert assign_oxidation_states(amounts, ICSD24) == assign_oxidation_states(reverse, ICSD24) is not None


def test_zero_is_a_state_like_others() -> None:
    states = {"Na": [1], "Xe": [0], "Cl": [-1]}
    assert assign_oxidation_states({"Na": 1, "Xe": 2, "Cl": 1}, states) == {"Na": 1, "Xe": 0, "Cl": -1}
    assert assign_oxidation_states({"Xe": 2}, states) == {"Xe": 0}


# Elements that are always in their lowest state


def lowest_by_brute_force(amounts: Mapping[str, int], states: Mapping[str, Sequence[int]]) -> list[bool]:
    every = choices(amounts, states, pauling=False)
    return [all(chosen[symbol] == min(states[symbol]) for chosen in every) for symbol in amounts]


def as_tensors(
    rows: list[Mapping[str, int]], states: Mapping[str, Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width, most = max(map(len, rows)) + 1, max(map(len, states.values()))  # one slot is not used
    counts = torch.zeros(len(rows), width, dtype=torch.long)
    table, exists = torch.zeros(len(rows), width, most, dtype=torch.long), torch.zeros(len(rows), width, most) > 0
    for i, amounts in enumerate(rows):
        for j, (symbol, count) in enumerate(amounts.items()):
            counts[i, j] = count
            table[i, j, : len(states[symbol])] = torch.tensor(states[symbol])
            exists[i, j, : len(states[symbol])] = True
    return counts, table, exists


@settings(max_examples=80)
@given(st.lists(some_amounts(), min_size=1, max_size=4))
def test_always_lowest_agrees_with_brute_force(rows: list[dict[str, int]]) -> None:
    found = always_lowest(*as_tensors(rows, ICSD24)).tolist()  # type: ignore[arg-type]
    for amounts, verdict in zip(rows, found, strict=True):
        assert verdict == [*lowest_by_brute_force(amounts, ICSD24), *[False] * (len(verdict) - len(amounts))], amounts


@settings(max_examples=80)
@given(
    st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=4, unique=True), min_size=1, max_size=4),
    st.lists(st.integers(1, 40), min_size=4, max_size=4),
)
def test_always_lowest_agrees_with_brute_force_for_any_states(states: list[list[int]], counts: list[int]) -> None:
    named = {str(i): tuple(sorted(s)) for i, s in enumerate(states)}
    amounts = dict(zip(named, counts, strict=False))
    every = [
        dict(zip(amounts, values, strict=True))
        for values in product(*named.values())
        if sum(count * q for count, q in zip(amounts.values(), values, strict=True)) == 0
    ]
    expected = [all(chosen[name] == min(named[name]) for chosen in every) for name in amounts]
    assert always_lowest(*as_tensors([amounts], named))[0, : len(amounts)].tolist() == expected


def test_always_lowest_of_no_rows() -> None:
    assert always_lowest(torch.zeros(0, 3).long(), torch.zeros(0, 3, 2).long(), torch.ones(0, 3, 2) > 0).shape == (0, 3)


def test_ions_are_written_in_ascending_electronegativity() -> None:
    assert write_ions({"O": -2, "Ti": 4, "Sr": 2}) == "Sr2+ Ti4+ O2-"
    assert write_ions({"Fe": 0, "Na": 1, "Cl": -1}) == "Na1+ Fe0 Cl1-"
    assert write_ions({}) == ""
