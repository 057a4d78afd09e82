"""Compositions within some edits of a reference formula: the masks against plain enumeration."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from itertools import product
from math import gcd
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from smact.screening import ICSD24FilterConfig

from envs import CompositionSpace, CrystalSpace
from envs.edit_budget import edit_distance, formula_units
from envs.formula import parse_formula, write_formula
from tests.envs.strategies import Amounts, compositions_by_masks, random_states, smact_accepts


def edits_by_search(amounts: dict[str, int], reference: dict[str, int]) -> int:
    """Fewest exchanges, additions and removals of single atoms, by breadth-first search."""
    symbols = sorted({*amounts, *reference})
    goal = tuple(amounts.get(symbol, 0) for symbol in symbols)
    reached = {tuple(reference.get(symbol, 0) for symbol in symbols)}
    edits = 0
    while goal not in reached:
        grown = set(reached)
        for counts in reached:
            for taken, given_ in product([None, *range(len(symbols))], repeat=2):
                changed = list(counts)
                if taken is not None:
                    changed[taken] -= 1
                if given_ is not None:
                    changed[given_] += 1
                if min(changed) >= 0:
                    grown.add(tuple(changed))
        reached, edits = grown, edits + 1
    return edits


def units_by_search(reference_atoms: int, atoms: int) -> int:
    return min(range(1, reference_atoms + 2), key=lambda units: (abs(units * atoms - reference_atoms), units))


def neighbours_by_brute_force(
    reference: str,
    max_edits: int,
    elements: list[str],
    keep: tuple[str, ...] = (),
    required: tuple[str, ...] = (),
    forbidden: tuple[str, ...] = (),
    min_elements: int = 2,
    max_elements: int = 5,
    max_atoms: int | None = None,
    max_count: int | None = None,
    count_ranges: dict[str, tuple[int, int]] | None = None,
    charge_neutral: bool = True,
    **chemistry: Any,
) -> set[Amounts]:
    """All compositions of the space, by trying every count near the reference's."""
    wanted = {symbol: int(count) for symbol, count in parse_formula(reference).items()}
    total = sum(wanted.values())
    usable = [symbol for symbol in dict.fromkeys([*elements, *wanted]) if symbol not in forbidden]
    options = [
        range(max(0, wanted.get(symbol, 0) - max_edits), wanted.get(symbol, 0) + max_edits + 1) for symbol in usable
    ]
    found = set()
    for counts in product(*options):
        amounts = {symbol: count for symbol, count in zip(usable, counts, strict=True) if count}
        ranges = dict.fromkeys(amounts, (1, max_count or 10**6)) | (count_ranges or {})
        differences = [amounts.get(symbol, 0) - wanted.get(symbol, 0) for symbol in {*amounts, *wanted}]
        if not (
            min_elements <= len(amounts) <= max_elements
            and sum(d for d in differences if d > 0) <= max_edits
            and sum(-d for d in differences if d < 0) <= max_edits
            and sum(amounts.values()) <= (max_atoms or 10**6)
            and set(required) <= set(amounts)
            and all(amounts.get(symbol, 0) == wanted[symbol] for symbol in keep)
            and all(ranges[symbol][0] <= count <= ranges[symbol][1] for symbol, count in amounts.items())
        ):
            continue
        divisor = reduce(gcd, amounts.values())
        if divisor != units_by_search(total, sum(amounts.values()) // divisor):
            continue
        if not charge_neutral or smact_accepts(amounts, **chemistry):
            found.add(frozenset(amounts.items()))
    return found


CASES: dict[str, dict[str, Any]] = {
    "perovskite": {"reference": "SrTiO3", "max_edits": 2, "elements": ["Ca", "La", "Nb", "F"]},
    "supercell": {
        "reference": "Sr8Ti8O24",
        "max_edits": 2,
        "elements": ["La", "Nb", "Ba"],
        "icsd24_filter": ICSD24FilterConfig(commonality="medium"),
    },
    "supercell, oxygen kept": {"reference": "Sr8Ti8O24", "max_edits": 2, "elements": ["La", "Al"], "keep": ("O",)},
    "half the cell": {"reference": "Na4Cl4", "max_edits": 4, "elements": ["K", "Br"]},
    "ties": {"reference": "K2Se", "max_edits": 3, "elements": ["Rb", "C", "O"]},
    "tied zeros": {"reference": "SiCu", "max_edits": 2, "elements": ["Bi", "Ag", "Na"], "oxidation_states": "wiki"},
    "without Pauling": {"reference": "KSe", "max_edits": 2, "elements": ["C", "H", "Pm"], "pauling": False},
    "intermetallic": {"reference": "Ni3Al", "max_edits": 3, "elements": ["Fe", "Ti"], "charge_neutral": False},
    "a host element forbidden": {
        "reference": "PbTiO3",
        "max_edits": 2,
        "elements": ["Ba", "Bi", "Fe"],
        "forbidden": ("Pb",),
    },
    "reference not neutral": {"reference": "Fe3O4", "max_edits": 2, "elements": ["Ni", "Li"]},
    "required and ranges": {
        "reference": "Li2MnO3",
        "max_edits": 3,
        "elements": ["Na", "F", "Ni"],
        "required": ("F",),
        "count_ranges": {"Li": (1, 2), "Na": (2, 3)},
    },
    "sizes": {"reference": "Ti2O4", "max_edits": 3, "elements": ["N", "Nb"], "max_atoms": 6, "max_count": 4},
    "number of elements": {
        "reference": "NaCl",
        "max_edits": 3,
        "elements": ["K", "Br", "Li"],
        "min_elements": 3,
        "max_elements": 3,
    },
    "no edits": {"reference": "Sr2Ti2O6", "max_edits": 0, "elements": ["Ba"]},
    "all exchanged": {"reference": "NaCl", "max_edits": 4, "elements": ["K", "O"]},
}


@pytest.mark.parametrize("case", CASES)
def test_masks_reach_exactly_the_neighbours_of_the_reference(case: str) -> None:
    limits = CASES[case]
    reached = compositions_by_masks(CompositionSpace(**limits))
    expected = neighbours_by_brute_force(**limits)
    assert expected
    assert set(reached) == expected
    assert len(reached) == len(expected)


@st.composite
def small_neighbourhoods(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of spaces around a reference that are small enough to enumerate; some leave nothing."""
    pool = ["K", "Rb", "C", "Se", "Si", "Cu", "O", "F", "Na", "Ti", "La", "N"]
    counts = draw(st.dictionaries(st.sampled_from(pool), st.integers(1, 4), min_size=1, max_size=3))
    elements = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=2, unique=True))
    min_elements = draw(st.integers(1, 3))
    limits: dict[str, Any] = {
        "reference": write_formula({symbol: float(count) for symbol, count in counts.items()}),
        "max_edits": draw(st.integers(0, 3)),
        "elements": elements,
        "min_elements": min_elements,
        "max_elements": draw(st.integers(max(min_elements, len(counts)), 4)),
    }
    host = st.sampled_from(sorted(counts))
    anything = st.sampled_from(sorted({*counts, *elements}))
    forbidden = draw(st.lists(host, max_size=1))
    limits["forbidden"] = tuple(forbidden)
    limits["keep"] = tuple(symbol for symbol in draw(st.lists(host, max_size=1)) if symbol not in forbidden)
    limits["required"] = tuple(symbol for symbol in draw(st.lists(anything, max_size=1)) if symbol not in forbidden)
    if draw(st.booleans()):
        limits["max_atoms"] = sum(counts.values()) + draw(st.integers(0, 2))
        limits["max_count"] = max(counts.values()) + draw(st.integers(0, 2))
    if draw(st.booleans()) and not limits["keep"]:
        low = draw(st.integers(1, 3))
        limits["count_ranges"] = {draw(anything): (low, low + draw(st.integers(0, 2)))}
    chemistries: list[dict[str, Any]] = [
        {},
        {"icsd24_filter": ICSD24FilterConfig(commonality="medium")},
        {"oxidation_states": "smact14"},
        {"oxidation_states": "wiki"},
        {"pauling": False},
        {"charge_neutral": False},
    ]
    return limits | draw(st.sampled_from(chemistries))


def _check_neighbourhood(limits: dict[str, Any]) -> None:
    expected = neighbours_by_brute_force(**limits)
    single_elements = {material for material in expected if len(material) == 1}
    try:
        space = CompositionSpace(**limits)
    except ValueError as error:
        assert not expected - single_elements, f"{limits} refused: {error}"
        assert "\n" not in str(error)
        return
    reached = compositions_by_masks(space)
    if limits.get("charge_neutral", True):  # SMACT calls every single element valid
        expected = {material for material in expected if len(material) > 1}
        reached = [material for material in reached if len(material) > 1]
    assert set(reached) == expected
    assert len(reached) == len(expected)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(small_neighbourhoods())
def test_random_neighbourhoods_are_those_of_brute_force_or_refused(limits: dict[str, Any]) -> None:
    _check_neighbourhood(limits)


@pytest.mark.slow
@settings(max_examples=300, derandomize=False, suppress_health_check=[HealthCheck.too_slow])
@given(small_neighbourhoods())
def test_many_random_neighbourhoods_are_those_of_brute_force_or_refused(limits: dict[str, Any]) -> None:
    _check_neighbourhood(limits)


@given(
    st.dictionaries(st.sampled_from("ABCD"), st.integers(1, 2), min_size=1),
    st.dictionaries(st.sampled_from("ABCD"), st.integers(1, 2), min_size=1),
)
@settings(max_examples=40)
def test_edits_are_the_fewest_changes_of_single_atoms(amounts: dict[str, int], reference: dict[str, int]) -> None:
    assert max(edit_distance(amounts, reference)) == edits_by_search(amounts, reference)


@given(st.integers(1, 60), st.integers(1, 80))
def test_formula_units_come_closest_to_the_atoms_of_the_reference(reference_atoms: int, atoms: int) -> None:
    assert formula_units(reference_atoms, atoms) == units_by_search(reference_atoms, atoms)


# The space around a reference


def test_a_supercell_gives_dopants_without_raising_any_limit() -> None:
    space = CompositionSpace(
        ["Ca", "Ba", "Zr", "La", "Nb"],
        reference="Sr8Ti8O24",
        max_edits=1,
        keep=["O"],
        icsd24_filter=ICSD24FilterConfig(commonality="high"),
    )
    found = set(space.decode(space.enumerate()))
    # Nb4+ has less than half of the reports of niobium, La2+ of lanthanum
    assert found == {"Sr8Ti8O24", "BaSr7Ti8O24", "Sr7CaTi8O24", "Sr8ZrTi7O24"}


def test_an_aliovalent_dopant_comes_with_its_compensation_or_without_charge_rules() -> None:
    common = ICSD24FilterConfig(commonality="high")
    limits: dict[str, Any] = {"reference": "Sr8Ti8O24", "elements": ["La", "Al"], "icsd24_filter": common}
    single = {"Sr7LaTi8O24", "Sr8Ti7AlO24"}
    one = CompositionSpace(**limits, max_edits=1)
    assert not single & set(one.decode(one.enumerate()))
    two = CompositionSpace(**limits, max_edits=2)
    assert "Sr7LaTi7AlO24" in two.decode(two.enumerate())
    free = CompositionSpace(**limits, max_edits=1, charge_neutral=False)
    assert single <= set(free.decode(free.enumerate()))
    vacancy = CompositionSpace(**limits, max_edits=3)
    assert "Sr5La2Ti8O24" in vacancy.decode(vacancy.enumerate())


def test_a_formula_is_taken_with_the_units_of_the_reference() -> None:
    space = CompositionSpace(reference="Sr8Ti8O24", max_edits=2)
    actions = space.encode(["SrTiO3", "Sr8Ti8O24", "Sr3BaTi4O12"])
    assert space.decode(space.replay(actions)) == ["Sr8Ti8O24", "Sr8Ti8O24", "Ba2Sr6Ti8O24"]
    assert actions[0].equal(actions[1])


def test_decoded_materials_encode_to_the_actions_that_built_them() -> None:
    for limits in ({"reference": "SrTiO3", "max_edits": 3}, {"reference": "Ga4N4", "max_edits": 3}):
        space = CompositionSpace(**limits)  # type: ignore[arg-type]
        state = space.sample_uniform_policy(300, torch.Generator().manual_seed(0))
        assert space.encode(space.decode(state)).equal(space.actions_of(state))
        assert space.explain(space.decode(state)) == [None] * 300
        halfway = random_states(space, 20, seed=1)
        every_action = torch.arange(space.n_actions).repeat(20)
        allowed = space.allowed(halfway.repeat_interleave(space.n_actions, dim=0), every_action)
        assert allowed.reshape(20, -1).equal(space.mask(halfway))
        features, (low, high) = space.features(halfway), space.feature_bounds
        assert ((features >= low) & (features <= high)).all()


@pytest.mark.parametrize(
    ("formula", "rule"),
    [
        ("BaZrO3", "edits: 2 atoms more and 2 fewer than SrTiO3 are more than 1 edits"),
        ("PbTiO3", "element: Pb"),
        ("SrTiO2", "count: 2 of O is not in 3-3"),
        ("SrTiO2.9", "count: 2.9 of O is not a whole number"),
        ("NaTiO3", "charge:"),
    ],
)
def test_a_formula_too_far_away_is_explained(formula: str, rule: str) -> None:
    space = CompositionSpace(
        reference="SrTiO3",
        max_edits=1,
        forbidden=["Pb"],
        keep=["O"],
        icsd24_filter=ICSD24FilterConfig(commonality="high"),
    )
    reason = space.explain([formula])[0]
    assert reason is not None
    assert reason.startswith(rule)


def test_identity_rebuilds_the_space_and_has_nothing_new_without_a_reference() -> None:
    space = CompositionSpace(reference=" Sr2Ti2O6", max_edits=2, keep=["O"], forbidden=["Pb"])
    assert space.identity["reference"] == "Sr2Ti2O6"
    assert space.identity["max_atoms"] == 12
    twin = CompositionSpace(**space.identity)  # type: ignore[arg-type]
    assert twin.identity == space.identity
    assert twin.mask(twin.initial(1)).equal(space.mask(space.initial(1)))
    plain = CompositionSpace(["Na", "Cl"]).identity
    assert not {"reference", "max_edits", "keep", "complete"} & set(plain)
    assert (plain["max_atoms"], plain["max_count"]) == (20, 8)


def test_edits_of_edits_wander_through_the_whole_space() -> None:
    space = CompositionSpace(["Ca", "Zr", "S"], reference="Sr4Ti4O12", max_edits=1, keep=[])
    whole = set(space.decode(space.enumerate()))
    assert len(whole) > 5
    generator = torch.Generator().manual_seed(0)
    found: Counter[str] = Counter()
    actions = space.encode(["SrTiO3"] * 500)
    for _ in range(6):
        actions = space.edit(actions, generator)
        state = space.replay(actions)
        assert space.is_finished(state).all()
        assert space.encode(space.decode(state)).equal(actions)
        found.update(space.decode(state))
    assert set(found) == whole


# What a user may get wrong


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_edits": 2}, r"max_edits: 2 without a reference formula"),
        ({"keep": ["O"]}, r"keep: \('O',\) without a reference formula"),
        ({"reference": "SrTiO3"}, r"max_edits: missing .*around SrTiO3"),
        ({"reference": "SrTiO3", "max_edits": -1}, "max_edits: -1 is not a whole number from 0 to 20"),
        ({"reference": "SrTiO3", "max_edits": 21}, "max_edits: 21 is not a whole number from 0 to 20"),
        ({"reference": "SrTiO3", "max_edits": 1.5}, "max_edits: 1.5 is not a whole number"),
        ({"reference": "SrTiO3", "max_edits": True}, "max_edits: True is not a whole number"),
        ({"reference": "SrTiO3", "max_edits": "two"}, "max_edits: 'two' is not a whole number"),
        ({"reference": "", "max_edits": 1}, "reference: '' is not a chemical formula"),
        ({"reference": "Strontium", "max_edits": 1}, "reference: .*Strontium"),
        ({"reference": 3, "max_edits": 1}, "reference: 3 is not a chemical formula such as"),
        ({"reference": "SrTiO2.5", "max_edits": 1}, "reference: 2.5 of O in SrTiO2.5 is not a whole number.*supercell"),
        ({"reference": "Sr300O300", "max_edits": 1}, "reference: the 300 atoms of one element .* more than 200"),
        ({"reference": "HeO", "max_edits": 1}, "reference: He has no oxidation state"),
        ({"reference": "PmO", "max_edits": 1}, "reference: Pm has no tabulated electronegativity"),
        (
            {"reference": "Sr8Ti8O24", "max_edits": 1, "max_atoms": 20},
            "reference: Sr8Ti8O24 has 40 atoms, more than max_atoms=20: raise it to 40",
        ),
        (
            {"reference": "Sr8Ti8O24", "max_edits": 1, "max_count": 8},
            "reference: Sr8Ti8O24 has 24 atoms of one element, more than max_count=8: raise it to 24",
        ),
        (
            {"reference": "SrTiO3", "max_edits": 1, "max_elements": 2},
            "reference: SrTiO3 has 3 elements, more than max_elements=2: raise it to 3",
        ),
        ({"reference": "SrTiO3", "max_edits": 1, "keep": ["N"]}, r"keep: N is not in the reference \(expected some of"),
        ({"reference": "SrTiO3", "max_edits": 1, "keep": "Q"}, "keep: 'Q'"),
        ({"reference": "SrTiO3", "max_edits": 1, "keep": ["O"], "forbidden": ["O"]}, "keep: O is also among"),
        (
            {"reference": "SrTiO3", "max_edits": 1, "keep": ["O"], "count_ranges": {"O": (1, 2)}},
            "keep: the reference has 3 of O, which count_ranges limits to 1-2",
        ),
        (
            {"reference": "Sr8Ti8O24", "max_edits": 1, "forbidden": ["Sr"]},
            "no composition satisfies all limits; in conflict: forbidden=Sr; max_edits=1 around reference=Sr8Ti8O24$",
        ),
        (
            {"reference": "SrTiO3", "max_edits": 1, "required": ["Na", "K"]},
            "in conflict: required=Na,K; max_edits=1 around reference=SrTiO3",
        ),
        (
            {"reference": "SrTiO3", "max_edits": 2, "keep": ["Sr", "Ti", "O"], "min_elements": 4, "max_atoms": 5},
            "in conflict: keep=Sr,Ti,O; min_elements=4; max_atoms=5",
        ),
        ({"reference": "SrTiO3", "max_edits": 1, "complete": "Sr ? O"}, "complete, reference: both are given"),
    ],
)
def test_a_bad_reference_is_one_line_that_names_what_is_wrong(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        CompositionSpace(**limits)
    assert "\n" not in str(error.value)


def test_elements_of_the_reference_need_not_be_listed() -> None:
    space = CompositionSpace(["Ba"], reference="SrTiO3", max_edits=1, required=["Ti"])
    assert space.elements == ("Ba", "Sr", "Ti", "O")


def test_a_crystal_space_around_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="reference"):
        CrystalSpace(CompositionSpace(["Ba"], reference="Sr2Ti2O6", max_edits=1), max_atoms=10, space_groups=[221])
