"""Known compositions with elements exchanged, against counting by hand."""

from __future__ import annotations

import torch
from pymatgen.core import Composition

from agent.substitution import Substitutions
from envs import CompositionSpace

KNOWN = ["SrTiO3", "BaTiO3", "CaTiO3", "SrZrO3", "BaO", "SrO", "BaS", "NaCl", "LiF"]
SPACE = CompositionSpace(["Li", "Na", "Ca", "Sr", "Ba", "Ti", "Zr", "O", "S", "F", "Cl"], max_elements=3)


def substitutions(known: list[str] = KNOWN) -> Substitutions:
    return Substitutions(SPACE, SPACE.encode(known))


def likeness(one: str, other: str) -> float:
    at = SPACE.elements.index
    return float(substitutions().likeness[at(one), at(other)])


def test_likeness_counts_formulas_that_differ_in_nothing_else() -> None:
    # ?TiO3 has Sr, Ba, Ca; ?O has Ba, Sr; Sr?O3 has Ti, Zr; Ba? has O, S
    total = 2 / 3 + 1 / 2
    assert abs(likeness("Sr", "Ba") - (1 / 3 + 1 / 2) / total) < 1e-6
    assert abs(likeness("Sr", "Ca") - (1 / 3) / total) < 1e-6
    assert likeness("Ti", "Zr") == likeness("O", "S") == 1
    assert likeness("Na", "Li") == likeness("Sr", "Sr") == likeness("Sr", "Ti") == 0


def test_draws_are_inside_the_space_and_one_or_two_exchanges_from_a_known_formula() -> None:
    source = substitutions()
    actions = source.draw(2000, torch.Generator().manual_seed(0))
    formulas = set(SPACE.decode(SPACE.replay(actions)))
    torch.testing.assert_close(SPACE.encode(SPACE.decode(SPACE.replay(actions))), actions)
    assert {"CaZrO3", "CaO", "SrS", "BaZrO3"} <= formulas  # none of them known
    assert not formulas & {"NaCl", "LiF"}  # nothing is known in the place of these elements
    known = [Composition(formula) for formula in KNOWN]
    for formula in formulas:
        made = Composition(formula)
        amounts = sorted(made.values())
        assert any(
            sorted(other.values()) == amounts and len(set(other.elements) - set(made.elements)) <= 2 for other in known
        )


def test_likelier_exchanges_are_drawn_more_often() -> None:
    source = substitutions(["SrTiO3", "BaTiO3", "CaTiO3", "SrO", "BaO", "SrF2"])
    drawn = SPACE.decode(SPACE.replay(source.draw(4000, torch.Generator().manual_seed(1))))
    assert drawn.count("BaF2") > 1.5 * drawn.count("CaF2") > 0


def test_the_seed_decides_alone_and_nothing_to_exchange_gives_nothing() -> None:
    first, again = (substitutions().draw(50, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert len(substitutions(["NaCl", "SrTiO3"]).draw(50, torch.Generator().manual_seed(0))) == 0
