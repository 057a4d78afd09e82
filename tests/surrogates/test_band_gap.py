import re

import pytest
import torch

from envs.formula import CompositionBatch
from surrogates import BandGapModel, Surrogate
from surrogates.band_gap_data import LabelledMaterials, computed_classes, measured_gaps
from surrogates.band_gap_training import TrainingOptions
from surrogates.validation import BandGapValidation

FORMULAS = ["GaAs", "NaCl", "Fe", "SrTiO3", "MgO", "Cu3Au", "ZnS", "LiF"]
SMALL = TrainingOptions(
    members=2, hidden=(16,), steps=60, trees=8, calibration_folds=2, substitutions=200, spread_rows=100
)


@pytest.fixture(scope="module")
def default() -> BandGapModel:
    return BandGapModel.default()


def some_rows(table: LabelledMaterials, count: int) -> LabelledMaterials:
    return table.rows(torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:count])


def small_fit(seed: int = 0) -> BandGapModel:
    measured, computed = some_rows(measured_gaps(), 200), some_rows(computed_classes(), 200)
    return BandGapModel(SMALL, seed).fit(measured.materials, measured.labels, computed=computed)


def test_default_model_knows_metals_and_insulators(default):
    assert isinstance(default, Surrogate)
    probability = dict(zip(FORMULAS, default.probability_gapped(FORMULAS).tolist(), strict=True))
    assert min(probability[f] for f in ("GaAs", "NaCl", "SrTiO3", "MgO", "ZnS")) > 0.6
    assert max(probability[f] for f in ("Fe", "Cu3Au")) < 0.2
    gap = dict(zip(FORMULAS, default.distribution(FORMULAS).gap_mean.tolist(), strict=True))
    assert 1.0 < gap["GaAs"] < 2.0
    assert gap["GaAs"] < gap["ZnS"] < gap["NaCl"]


def test_shapes_and_agreement_of_all_views_of_a_prediction(default):
    distribution, prediction = default.distribution(FORMULAS), default.predict(FORMULAS)
    members = default.members(FORMULAS)
    assert prediction.mean.shape == prediction.std.shape == (8, 1)
    assert members.shape[1:] == (8, 1)
    torch.testing.assert_close(prediction.mean[:, 0], distribution.mean)
    torch.testing.assert_close(members.mean(0), prediction.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(members.std(0, correction=0), prediction.std, rtol=1e-2, atol=1e-3)
    window = default.probability_between(FORMULAS, 1.0, 2.0)
    assert torch.equal(window, distribution.probability_between(1.0, 2.0))
    assert (prediction.std > 0).all()


def test_prediction_depends_on_the_composition_only(default):
    first = default.predict(["SrTiO3"]).mean[0]
    second = default.predict(["O6Ti2Sr2", "Cu2ZnSnS4"]).mean[0]
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    empty = CompositionBatch(torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3))
    assert default.predict(empty).mean.shape == (0, 1)


def test_prediction_is_smooth_in_composition(default):
    amounts = torch.stack([torch.linspace(0.3, 0.7, 101), torch.linspace(0.7, 0.3, 101), torch.ones(101)], 1)
    alloy = CompositionBatch(torch.tensor([[13, 31, 33]]).expand(101, 3), amounts)
    assert default.distribution(alloy).gap_mean.diff().abs().max() < 0.05


def test_a_fit_is_reproducible_and_survives_saving(tmp_path):
    model, again, other = small_fit(), small_fit(), small_fit(seed=1)
    assert torch.equal(model.predict(FORMULAS).mean, again.predict(FORMULAS).mean)
    assert not torch.equal(model.predict(FORMULAS).mean, other.predict(FORMULAS).mean)
    path = tmp_path / "model.safetensors"
    assert model.validation is None
    model.validation = BandGapValidation(5, 10, 4, 0.4, 0.8, 0.9, 0.9, 0.7, 0.95)
    model.save(path)
    loaded = BandGapModel.load(path)
    assert loaded.validation == model.validation
    torch.testing.assert_close(loaded.predict(FORMULAS).mean, model.predict(FORMULAS).mean, rtol=0.02, atol=0.02)
    loaded.save(tmp_path / "again.safetensors")
    assert torch.equal(
        BandGapModel.load(tmp_path / "again.safetensors").predict(FORMULAS).mean, loaded.predict(FORMULAS).mean
    )


def test_a_file_that_is_no_model_is_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match="not a readable safetensors file"):
        BandGapModel.load(tmp_path / "none.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(b"\x10\x00\x00\x00")
    with pytest.raises(ValueError, match=re.escape(str(cut))):
        BandGapModel.load(cut)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, str(other))
    with pytest.raises(ValueError, match="not a band-gap model"):
        BandGapModel.load(other)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_impossible_labels_name_the_material(value):
    with pytest.raises(ValueError, match="band gap of MgO: expected a finite value >= 0 eV"):
        BandGapModel(SMALL).fit(["GaAs", "MgO"], torch.tensor([1.4, value]))


def test_too_few_gaps_are_refused():
    with pytest.raises(ValueError, match="at least 20 materials with a gap above 0 eV are needed, not 1"):
        BandGapModel(SMALL).fit(["GaAs", "Fe"], torch.tensor([1.4, 0.0]))


def test_labels_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"one label for each of 2 materials, not \(3,\)"):
        BandGapModel(SMALL).fit(["GaAs", "Fe"], torch.ones(3))


def test_refitting_a_default_model_leaves_the_next_one_as_it_was():
    before = BandGapModel.default().predict(FORMULAS).mean
    model = BandGapModel.default()
    model.options = SMALL
    measured = some_rows(measured_gaps(), 200)
    model.fit(measured.materials, measured.labels, computed=some_rows(computed_classes(), 0))
    assert model.validation is None
    assert not torch.equal(model.predict(FORMULAS).mean, before)
    assert torch.equal(BandGapModel.default().predict(FORMULAS).mean, before)


def test_an_unfitted_model_says_so():
    with pytest.raises(RuntimeError, match="not fitted"):
        BandGapModel().predict(["GaAs"])


def test_cross_validation_reports_every_measure():
    measured, computed = some_rows(measured_gaps(), 250), some_rows(computed_classes(), 200)
    seen = []
    result = BandGapModel(SMALL).cross_validate(
        measured.materials, measured.labels, computed=computed, folds=2, progress=lambda fold, _: seen.append(fold)
    )
    assert seen == [0, 1]
    assert result.materials == 250
    assert result.gapped == int((measured.labels > 0).sum())
    assert 0.5 < result.auc <= 1
    assert 0 < result.mae_eV < 2
    for word in ("MAE", "R2", "AUC", "68 %"):
        assert word in str(result)
