"""The limits of a crystal space: what is refused, and what compositions they leave, against plain enumeration."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from envs.composition import CompositionSpace
from envs.crystal import CrystalSpace
from envs.crystal_limits import MOST_ATOMS
from envs.formula import parse_formula
from envs.wyckoff import CRYSTAL_SYSTEMS, space_group
from envs.wyckoff_counts import multisets_fit


def small_composition(**limits: Any) -> CompositionSpace:
    return CompositionSpace(["Na", "Mg", "Al", "O", "Cl"], **{"max_elements": 3, "max_atoms": 8, **limits})


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "group 0": ({"space_groups": [0]}, r"space_groups: 0 is not a number from 1 to 230"),
    "group 231": ({"space_groups": [225, 231]}, r"space_groups: 231 is not a number from 1 to 230"),
    "symbol": ({"space_groups": ["Fm-3n"]}, r"space_groups: 'Fm-3n' is no space group .*did you mean F"),
    "symbol in small letters": ({"space_groups": ["fm-3m"]}, r"space_groups: 'fm-3m' is no .*did you mean \w*m-3m\?"),
    "nonsense": ({"space_groups": ["???"]}, r"space_groups: '\?\?\?' is no space group \(expected a number or"),
    "number as text": ({"space_groups": ["225"]}, r"space_groups: '225' is no space group"),
    "half a group": ({"space_groups": [1.5]}, r"space_groups: 1.5 is no space group"),
    "true": ({"space_groups": [True]}, r"space_groups: True is no space group"),
    "nested": ({"space_groups": [[1, 2]]}, r"space_groups: \[1, 2\] is no space group"),
    "no groups": ({"space_groups": []}, r"space_groups: the list is empty \(leave it out"),
    "one group": ({"space_groups": 225}, r"space_groups: 225 is not a list"),
    "a text of groups": ({"space_groups": "Fm-3m"}, r"space_groups: 'Fm-3m' is not a list"),
    "no systems": ({"crystal_systems": []}, r"crystal_systems: the list is empty"),
    "one system": ({"crystal_systems": "cubic"}, r"crystal_systems: 'cubic' is not a list"),
    "unknown system": (
        {"crystal_systems": ["qubic"]},
        r"crystal_systems: unknown system 'qubic' \(expected one of tri",
    ),
    "contradiction": (
        {"crystal_systems": ["cubic", "hexagonal"], "space_groups": [62, "P-1"]},
        r"space_groups: none of 62, P-1 is cubic or hexagonal",
    ),
    "no units": ({"formula_units": []}, r"formula_units: the list is empty"),
    "zero units": ({"formula_units": [0]}, r"formula_units: 0 is not a positive whole number"),
    "half a unit": ({"formula_units": [1, 0.5]}, r"formula_units: 0.5 is not a positive whole number"),
    "true units": ({"formula_units": [True]}, r"formula_units: True is not a positive"),
    "too many units": ({"formula_units": [11]}, r"no crystal satisfies.*formula_units=11; max_atoms=20"),
    "units that fit no group": (
        {"formula_units": [1], "space_groups": [19], "max_atoms": 6},
        r"no crystal satisfies all limits; in conflict: space_groups=19; formula_units=1; max_atoms=6",
    ),
    "no atoms": ({"max_atoms": 0}, r"max_atoms: 0 is not a whole number from 1 to"),
    "many atoms": ({"max_atoms": MOST_ATOMS + 1}, rf"max_atoms: {MOST_ATOMS + 1} is not a whole number from 1 to"),
    "broken atoms": ({"max_atoms": 7.0}, r"max_atoms: 7.0 is not a whole number"),
    "one atom": ({"max_atoms": 1}, r"min_elements: 2 is more than max_atoms=1"),
    "far apart": ({"min_distance": 1.3}, r"min_distance: 1.3 is not between 0 and 1.2"),
    "negative": ({"min_distance": -0.1}, r"min_distance: -0.1 is not between"),
    "not a number": ({"min_distance": float("nan")}, r"min_distance: nan is not between"),
    "a text": ({"min_distance": "0.75"}, r"min_distance: '0.75' is not a number"),
    "true distance": ({"min_distance": True}, r"min_distance: True is not a number"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_wrong_is_named_in_one_line(mistake: str) -> None:
    arguments, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as error:
        CrystalSpace(small_composition(), **arguments)
    assert "\n" not in str(error.value)


def test_a_composition_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"composition: \['Na'\] is not a CompositionSpace"):
        CrystalSpace(["Na"])  # type: ignore[arg-type]


def test_a_composition_too_large_for_the_cell_is_refused() -> None:
    composition = small_composition(count_ranges={"O": (5, 6)}, required=["O"])
    with pytest.raises(ValueError, match=r"take at least 5 atoms, more than max_atoms=4"):
        CrystalSpace(composition, max_atoms=4)


def test_compositions_that_fit_no_group_are_named_as_such() -> None:
    only = CompositionSpace(["Al", "O"], required=["O"], count_ranges={"O": (3, 3), "Al": (2, 2)})  # Al2O3
    with pytest.raises(ValueError, match=r"no .* satisfies all limits.*Wyckoff positions of the allowed space groups"):
        CrystalSpace(only, space_groups=[225], max_atoms=9)


def test_groups_are_read_by_number_or_symbol_in_any_order() -> None:
    space = CrystalSpace(small_composition(), space_groups=["Fm-3m", 136, "P2_1/c", 225, np.int64(194)])
    assert space.limits.groups == (14, 136, 194, 225)
    json.dumps(space.identity)


def test_systems_and_groups_restrict_each_other() -> None:
    space = CrystalSpace(small_composition(), crystal_systems=["cubic", "hexagonal"], space_groups=[1, 194, 225])
    assert space.limits.groups == (194, 225)
    for last, name in CRYSTAL_SYSTEMS:
        groups = CrystalSpace(small_composition(), crystal_systems=[name]).limits.groups
        assert groups[-1] == last
        assert {space_group(n).crystal_system for n in groups} == {name}
    assert CrystalSpace(small_composition()).limits.groups == tuple(range(1, 231))


def test_the_identity_is_json_and_rebuilds_the_space() -> None:
    arguments: dict[str, Any] = {
        "max_atoms": np.int64(12),
        "formula_units": [np.int64(1), 2],
        "space_groups": range(100, 231),
        "crystal_systems": ("cubic", "tetragonal"),
        "min_distance": 1,
    }
    space = CrystalSpace(small_composition(), **arguments)
    identity = json.loads(json.dumps(space.identity))
    del identity["composition"]
    again = CrystalSpace(small_composition(), **identity)
    assert again.identity == space.identity
    assert again.action_names == space.action_names
    assert CrystalSpace(small_composition()).identity != space.identity


RESTRICTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "rocksalt's group": {"space_groups": [225]},
    "rocksalt's group, one unit": {"space_groups": [225], "formula_units": [1]},
    "two groups": {"space_groups": [19, 227], "max_atoms": 12},
    "cubic": {"crystal_systems": ["cubic"], "formula_units": [1, 3], "max_atoms": 10},
    "two units": {"formula_units": [2], "max_atoms": 6, "space_groups": [62, 136, 194]},
}


@pytest.mark.parametrize("name", RESTRICTIONS)
def test_the_compositions_are_exactly_those_that_an_allowed_group_can_hold(name: str) -> None:
    arguments = {"max_atoms": 20, **RESTRICTIONS[name]}
    space = CrystalSpace(small_composition(), **arguments)
    composition = small_composition()
    expected = set()
    for formula in composition.decode(composition.enumerate()):
        counts = [int(n) for n in parse_formula(formula).values()]
        every = range(1, arguments["max_atoms"] // sum(counts) + 1)
        for units in set(every) & set(arguments.get("formula_units", every)):
            if any(multisets_fit([units * n for n in counts], number) for number in space.limits.groups):
                expected.add(formula)
    assert expected
    assert sorted(space.composition.decode(space.composition.enumerate())) == sorted(expected)


def test_formula_units_are_those_that_can_fit() -> None:
    assert CrystalSpace(small_composition(), max_atoms=9).limits.units == (1, 2, 3, 4)
    assert CrystalSpace(small_composition(min_elements=3), max_atoms=9).limits.units == (1, 2, 3)
    assert CrystalSpace(small_composition(), max_atoms=9, formula_units=[4, 2, 2, 7]).limits.units == (2, 4)
