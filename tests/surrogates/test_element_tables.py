import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, Element

from envs.chemistry import ELECTRONEGATIVITY, SYMBOLS
from envs.formula import CompositionBatch
from surrogates.electronegativity import electronegativity_difference
from surrogates.supply import HIGHEST_INDEX, supply_risk
from surrogates.toxicity import RADIOACTIVE_ELEMENTS, TOXIC_ELEMENTS, toxicity

TABULATED = [s for s in SYMBOLS[:83] if ELECTRONEGATIVITY[s] is not None]
compositions = st.dictionaries(st.sampled_from(TABULATED), st.integers(1, 12), min_size=1, max_size=5)


def as_formula(entry: dict[str, int]) -> str:
    return "".join(f"{symbol}{n}" for symbol, n in entry.items())


def batch(*formulas: str) -> CompositionBatch:
    return CompositionBatch.from_formulas(formulas)


@given(compositions)
def test_supply_risk_is_weighted_by_mass(entry):
    weights = Composition(as_formula(entry)).as_weight_dict()
    indices = {symbol: supply_risk(batch(symbol)).item() for symbol in entry}
    expected = sum(weights[symbol] * indices[symbol] for symbol in entry)
    assert supply_risk(batch(as_formula(entry))).item() == pytest.approx(expected, rel=1e-3)


def test_supply_risk_of_elements_is_the_published_index():
    # Gaultois et al. 2013, table of HHI: production, reserves
    assert supply_risk(batch("Fe", "Si", "Pt")).tolist() == pytest.approx([1400, 1000, 9100])
    assert supply_risk(batch("Fe", "Si", "Pt"), "production").tolist() == pytest.approx([2400, 4700, 5500])
    assert supply_risk(batch("Tc", "Xe")).tolist() == pytest.approx([HIGHEST_INDEX] * 2)


def test_toxicity_is_the_share_of_listed_atoms():
    values = toxicity(batch("CsPbI3", "CdTe", "SrTiO3", "PuO2", "Pb2As2", "BiTc"))
    torch.testing.assert_close(values, torch.tensor([0.2, 0.5, 0.0, 1 / 3, 1.0, 0.5]))


def test_radioactive_elements_are_those_without_a_stable_isotope():
    assert set(RADIOACTIVE_ELEMENTS) == {"Tc", "Pm", *(Element.from_Z(z).symbol for z in range(84, 104))}
    assert {"Pb", "Cd", "Hg", "As", "Tl", "Be"} == set(TOXIC_ELEMENTS)


@given(compositions)
def test_electronegativity_difference_averages_over_unlike_pairs(entry):
    atoms = [symbol for symbol, n in entry.items() for _ in range(n)]
    value = {symbol: ELECTRONEGATIVITY[symbol] for symbol in entry}
    pairs = [(a, b) for i, a in enumerate(atoms) for b in atoms[:i] if a != b]
    expected = sum(abs(value[a] - value[b]) for a, b in pairs) / len(pairs) if pairs else 0.0
    assert electronegativity_difference(batch(as_formula(entry))).item() == pytest.approx(expected, abs=1e-4)


def test_electronegativity_difference_of_a_binary_is_the_plain_difference():
    values = electronegativity_difference(batch("NaCl", "TiO2", "Fe", "Sr2Sr"))
    torch.testing.assert_close(values, torch.tensor([3.16 - 0.93, 3.44 - 1.54, 0.0, 0.0]))


def test_properties_ignore_order_scale_and_padding():
    first, second = batch("SrTiO3"), batch("O6Ti2Sr2", "Cu2ZnSnS4")
    for function in (supply_risk, toxicity, electronegativity_difference):
        torch.testing.assert_close(function(first)[0], function(second)[0])
