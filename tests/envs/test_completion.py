"""Partial formulas: what they say, and which compositions complete them."""

from __future__ import annotations

from typing import Any

import pytest

from envs import CompositionSpace
from envs.completion import read_completion
from tests.envs.strategies import amounts_of, compositions_by_brute_force, compositions_by_masks

ELEMENTS = ["Li", "Na", "Mn", "Ti", "S", "O", "F"]


@pytest.mark.parametrize(
    ("text", "counts", "blanks"),
    [
        ("Li ? O", {"Li": 1, "O": 1}, 1),
        ("Li₂ ? O₃", {"Li": 2, "O": 3}, 1),
        ("Li2 ? O?", {"Li": 2, "O": None}, 1),
        ("? Ti O3", {"Ti": 1, "O": 3}, 1),
        ("  ?   TiO3 ", {"Ti": 1, "O": 3}, 1),
        ("Li ? ?", {"Li": 1}, 2),
        ("Li2O2 ?", {"Li": 2, "O": 2}, 1),
        ("Li? O?", {"Li": None, "O": None}, 0),
        ("? ? ?", {}, 3),
    ],
)
def test_a_partial_formula_is_read(text: str, counts: dict[str, int | None], blanks: int) -> None:
    partial = read_completion(text)
    assert (partial.counts, partial.blanks) == (counts, blanks)
    assert partial.n_elements == len(counts) + blanks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Li ? O", {"required": ["Li", "O"], "count_ranges": {"Li": (1, 1), "O": (1, 1)}, "n": 3}),
        ("Li2 ? O?", {"required": ["Li", "O"], "count_ranges": {"Li": (2, 2)}, "n": 3}),
        ("? TiO3", {"required": ["Ti", "O"], "count_ranges": {"Ti": (1, 1), "O": (3, 3)}, "n": 3}),
        ("Li ? ?", {"required": ["Li"], "count_ranges": {"Li": (1, 1)}, "n": 3}),
        ("Mn? O?", {"required": ["Mn", "O"], "n": 2}),
        ("? ?", {"n": 2}),
    ],
)
def test_completions_are_those_of_brute_force(text: str, expected: dict[str, Any]) -> None:
    n = expected.pop("n")
    reached = compositions_by_masks(CompositionSpace(ELEMENTS, complete=text, max_atoms=9, max_count=4))
    valid = set(
        compositions_by_brute_force(ELEMENTS, min_elements=n, max_elements=n, max_atoms=9, max_count=4, **expected)
    )
    assert valid
    assert set(reached) == valid
    assert len(reached) == len(valid)


def test_other_limits_hold_as_well() -> None:
    space = CompositionSpace(["Na", "Mn"], complete="Li? ? O?", required=["Mn"], count_ranges={"O": (3, 4)})
    found = list(map(dict, map(amounts_of, space.decode(space.enumerate()))))
    assert found
    assert all(set(amounts) == {"Li", "Mn", "O"} and 3 <= amounts["O"] <= 4 for amounts in found)


def test_the_identity_holds_the_limits_that_were_meant() -> None:
    space = CompositionSpace(complete="Li ? O?")
    assert space.identity["required"] == ["Li", "O"]
    assert space.identity["count_ranges"] == {"Li": [1, 1]}
    assert space.identity["min_elements"] == space.identity["max_elements"] == 3
    assert CompositionSpace(**space.identity).identity == space.identity  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "limits", "message"),
    [
        ("", {}, "complete: '' is not a partial formula"),
        ("   ", {}, "complete: '   ' is not a partial formula"),
        (3, {}, "complete: 3 is not a partial formula"),
        ("SrTiO3", {}, "complete: 'SrTiO3' has no blank"),
        ("Li?O", {}, "complete: 'Li\\?O' in 'Li\\?O' can be read in two ways .*blanks apart"),
        ("?2 Ti O3", {}, "complete: '\\?2' in '\\?2 Ti O3' sets a count for a blank element"),
        ("Li * O", {}, "complete: '\\*' in 'Li \\* O' is no element and no blank"),
        ("nonsense", {}, "complete: 'nonsense' in 'nonsense' is no element and no blank"),
        ("Li ? O-2", {}, "complete: 'O-2' .*no element"),
        ("Li1.5 ? O", {}, "complete: 'Li1.5' .*no element"),
        ("Xx ? O", {}, "complete: 'Xx' is not a chemical element"),
        ("Li ? Li2", {}, "complete: Li occurs twice"),
        ("Li0 ? O", {}, "complete: 'Li0 \\? O' has 0 atoms of Li"),
        ("Li ? O", {"forbidden": ["O"]}, "complete: O in 'Li \\? O' is among the forbidden"),
        ("Li ? O", {"count_ranges": {"O": (1, 2)}}, "complete: the count of O .*set by count_ranges as well"),
        ("Li ? O", {"required": ["Na", "K"]}, "complete: the required Na, K cannot fill .*'Li \\? O': it has 1"),
        ("Li? O?", {"required": ["Na"]}, "complete: the required Na cannot fill .*: it has none"),
        ("Li ? O30", {}, "complete: 'Li \\? O30' takes at least 32 atoms, more than max_atoms=20: raise max_atoms"),
        ("He ? O", {}, "required: He has no oxidation state"),
        ("Na K?", {}, "complete: 'Na K\\?' cannot be filled: no composition satisfies all limits; in conflict: req"),
        ("Li4 Ti? O12", {}, "cannot be filled: .*; max_atoms=20;"),  # Li4Ti5O12 has 21
        ("Na ? O14 H?", {"max_atoms": 30, "max_count": 1}, "cannot be filled: .*; max_count=1;"),
        ("Li O?", {"elements": ["Ti"], "oxidation_states": "pymatgen_sp"}, "cannot be filled: .*count_ranges Li=1-1"),
        (" ".join("?" * 21), {}, "complete: 21 elements are more than 20"),
        ("Li ? O", {"count_ranges": 3}, "count_ranges: 3 is not a mapping"),
        ("Li ? O", {"max_atoms": "many"}, "max_atoms: 'many' is not a positive whole number"),
    ],
)
def test_a_blank_that_cannot_be_filled_is_one_line(text: Any, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        CompositionSpace(**limits, complete=text)
    assert "\n" not in str(error.value)
