import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score, roc_auc_score

from envs.formula import CompositionBatch, chemical_system
from surrogates.distribution import BandGapDistribution
from surrogates.validation import BandGapValidation, area_under_roc, chemical_system_groups, grouped_folds

FORMULAS = ["GaAs", "Ga2As3", "AsGa", "SrTiO3", "Ti2SrO", "Sr", "Fe2O3", "FeO", "O2Fe1", "LiFeO2"]


def test_groups_are_chemical_systems():
    groups = chemical_system_groups(CompositionBatch.from_formulas(FORMULAS)).tolist()
    systems = [chemical_system(formula) for formula in FORMULAS]
    for i in range(len(FORMULAS)):
        for j in range(i):
            assert (groups[i] == groups[j]) == (systems[i] == systems[j])


def test_folds_never_split_a_system_and_are_balanced():
    formulas = [f"Li{a}{x}{b}" for a in (1, 2) for b in (1, 3) for x in ("F", "Cl", "Br", "I", "O", "S", "Se", "Te")]
    batch = CompositionBatch.from_formulas(formulas)
    folds = grouped_folds(batch, 4, seed=1)
    assert torch.equal(folds, grouped_folds(batch, 4, seed=1))
    assert folds.bincount().tolist() == [8, 8, 8, 8]
    groups = chemical_system_groups(batch)
    assert all(len(folds[groups == group].unique()) == 1 for group in groups.unique())


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_area_under_roc_equals_scikit_learns(pairs):
    scores, positive = torch.tensor([float(s) for s, _ in pairs]), torch.tensor([p for _, p in pairs])
    if positive.all() or not positive.any():
        with pytest.raises(ValueError, match="at least one positive"):
            area_under_roc(scores, positive)
        return
    assert area_under_roc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_measures_of_a_validation():
    labels = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0])
    mean = torch.tensor([9.0, 1.5, 2.0, 2.0, 9.0])
    result = BandGapValidation.from_predictions(
        BandGapDistribution(torch.tensor([0.1, 0.9, 0.8, 0.4, 0.6]), mean, torch.full((5,), 0.6)), labels, 5
    )
    assert (result.materials, result.gapped) == (5, 3)
    assert result.mae_eV == pytest.approx(0.5)
    assert result.r2 == pytest.approx(r2_score([1, 2, 3], [1.5, 2, 2]))
    assert result.auc == pytest.approx(5 / 6)
    assert result.accuracy == pytest.approx(3 / 5)
    assert result.coverage_68 == pytest.approx(2 / 3)
    assert result.coverage_95 == pytest.approx(1.0)
