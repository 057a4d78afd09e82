import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from envs.formula import CompositionBatch
from surrogates.datasets import read_known_formulas
from surrogates.features import composition_features, element_property_names
from surrogates.known import distance_between, distance_to_training, is_known, nearest

FORMULAS = list(read_known_formulas()["formula"])


def batch(*formulas: str) -> CompositionBatch:
    return CompositionBatch.from_formulas(formulas)


@given(st.sampled_from(FORMULAS), st.integers(1, 4))
def test_every_listed_formula_is_known_in_any_multiple(formula, factor):
    once = batch(formula)
    assert is_known(CompositionBatch(once.atomic_numbers.flip(1), once.amounts.flip(1) * factor)).item()


def test_known_agrees_with_the_list():
    candidates = ["GaAs", "SrTiO3", "SrTi7O2", "KrO", "Ga0.5As0.5", "In0.123456Ga0.876544As"]
    listed = set(FORMULAS)
    expected = [formula in listed for formula in ("GaAs", "SrTiO3", "SrTi7O2", "KrO", "GaAs", "none")]
    assert is_known(batch(*candidates)).tolist() == expected == [True, True, False, False, True, False]


def test_a_known_material_is_its_own_nearest_with_its_measured_gap():
    found = nearest(batch("GaAs", "ZnO"), 2)
    assert [row[0] for row in found.formulas] == ["GaAs", "ZnO"]
    assert found.distances[:, 0].tolist() == [0, 0]
    assert (found.distances[:, 1] > 0).all()
    assert 1.3 < found.measured_gap[0, 0] < 1.6
    assert 3.0 < found.measured_gap[1, 0] < 3.6


def test_nearest_equals_a_search_over_all_distances():
    width = 2 * len(element_property_names())
    points = composition_features(batch(*FORMULAS))[:, :width].double()
    scale = points.std(0)
    queries = ["Zn2SnN2", "CsSnBrI2", "LiMg2Si5"]
    found = nearest(batch(*queries), 4)
    for row, point in enumerate(composition_features(batch(*queries))[:, :width].double()):
        distances = (((points - point) / scale) ** 2).mean(1).sqrt()
        smallest = distances.topk(4, largest=False).values
        torch.testing.assert_close(found.distances[row].double(), smallest, rtol=1e-3, atol=1e-4)
        index = [FORMULAS.index(formula) for formula in found.formulas[row]]
        torch.testing.assert_close(distances[index], smallest, rtol=1e-3, atol=1e-4)


def test_distance_to_training_is_zero_for_measured_gaps_only():
    distances = distance_to_training(batch("GaAs", "KrO"))
    assert distances[0] == 0
    assert distances[1] > 0.3


def test_empty_batch_and_bad_k():
    empty = CompositionBatch(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2))
    assert nearest(empty, 2).distances.shape == (0, 2)
    assert is_known(empty).shape == (0,)
    with pytest.raises(ValueError, match="k: expected 1 to"):
        nearest(batch("GaAs"), 0)


def test_distance_between_is_that_of_the_nearest_other():
    materials, others = batch("NaCl", "KBr", "Fe2O3"), batch("KCl", "Fe2O3", "GaAs")
    pairs = [distance_between(materials, batch(other)) for other in ("KCl", "Fe2O3", "GaAs")]
    assert torch.allclose(distance_between(materials, others), torch.stack(pairs).amin(0), atol=1e-6)
    assert distance_between(materials, others)[2] == pytest.approx(0, abs=1e-4)
    assert torch.isinf(distance_between(materials, batch())).all()
