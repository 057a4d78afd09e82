import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from envs.chemistry import ELECTRONEGATIVITY, SYMBOLS
from envs.formula import CompositionBatch
from envs.oxidation import icsd_counts, write_ions
from surrogates.plausibility import best_oxidation_states, ion_plausibilities, plausibility

compositions = st.dictionaries(st.sampled_from(SYMBOLS), st.integers(1, 6), min_size=1, max_size=4)


def as_batch(*entries: dict[str, int]) -> CompositionBatch:
    return CompositionBatch.from_formulas("".join(f"{s}{n}" for s, n in entry.items()) for entry in entries)


def all_assignments(entry: dict[str, int]):
    """Every charge-neutral, Pauling-consistent assignment, by enumeration."""
    if any(ELECTRONEGATIVITY[symbol] is None for symbol in entry):
        return
    states = [[charge for symbol, charge in ion_plausibilities() if symbol == element] for element in entry]
    for charges in itertools.product(*states):
        if sum(q * n for q, n in zip(charges, entry.values(), strict=True)):
            continue
        cations = [ELECTRONEGATIVITY[s] for s, q in zip(entry, charges, strict=True) if q > 0]
        anions = [ELECTRONEGATIVITY[s] for s, q in zip(entry, charges, strict=True) if q < 0]
        if cations and anions and max(cations) < min(anions):
            yield dict(zip(entry, charges, strict=True))


def weakest_link(assignment: dict[str, int]) -> float:
    return min(ion_plausibilities()[ion] for ion in assignment.items())


@given(st.lists(compositions, min_size=1, max_size=3))
def test_plausibility_is_the_best_weakest_link_of_all_assignments(entries):
    expected = [max(map(weakest_link, all_assignments(entry)), default=0.0) for entry in entries]
    torch.testing.assert_close(plausibility(as_batch(*entries)), torch.tensor(expected))


@given(compositions)
def test_best_states_are_an_assignment_as_plausible_as_the_maximum(entry):
    (chosen,) = best_oxidation_states(as_batch(entry))
    assignments = list(all_assignments(entry))
    if not assignments:
        assert chosen == {}
        return
    best = max(map(weakest_link, assignments))

    def count(assignment: dict[str, int]) -> float:
        return sum(math.log(icsd_counts()[ion]) for ion in assignment.items())

    assert chosen in assignments
    assert weakest_link(chosen) == best
    most_common = max(count(a) for a in assignments if weakest_link(a) == best)
    assert count(chosen) == pytest.approx(most_common)


@pytest.mark.parametrize(
    ("formula", "states"),
    [
        ("SrTiO3", "Sr2+ Ti4+ O2-"),
        ("MnO2", "Mn4+ O2-"),
        ("CuO", "Cu2+ O2-"),
        ("AlPO4", "Al3+ P5+ O2-"),
        ("Cu2ZnSnS4", "Zn2+ Cu1+ Sn4+ S2-"),
        ("In2O3", "In3+ O2-"),
    ],
)
def test_ordinary_ions_are_not_punished(formula, states):
    batch = CompositionBatch.from_formulas([formula])
    assert [write_ions(ions) for ions in best_oxidation_states(batch)] == [states]
    assert plausibility(batch).item() == pytest.approx(1.0)


@pytest.mark.parametrize("formula", ["KrO", "PuPo", "O2F2", "Ta3N5Cl3O3", "Rn2O", "Fe", "NaK"])
def test_odd_ions_and_unbalanced_formulas_are_punished(formula):
    assert plausibility(CompositionBatch.from_formulas([formula])).item() < 0.5


def test_scale_order_and_padding_do_not_matter():
    batch = CompositionBatch.from_formulas(["SrTiO3", "O6Ti2Sr2", "Cu2ZnSnS4Cl0.0001", "Ga0.5As0.5"])
    values = plausibility(batch)
    assert values[0] == values[1]
    assert values[3] == plausibility(CompositionBatch.from_formulas(["GaAs"]))[0]
    assert values[2] == 0


def test_equal_electronegativities_cannot_be_cation_and_anion():
    assert ELECTRONEGATIVITY["C"] == ELECTRONEGATIVITY["Se"]
    assert plausibility(CompositionBatch.from_formulas(["CSe2"])).item() == 0


def test_empty_batch():
    empty = CompositionBatch(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2))
    assert plausibility(empty).shape == (0,)
    assert best_oxidation_states(empty) == []
