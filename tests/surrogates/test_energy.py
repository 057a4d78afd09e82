import math
import re

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import r2_score

from envs.formula import CompositionBatch
from surrogates.base import Surrogate
from surrogates.distribution import GaussianDistribution
from surrogates.electronegativity import electronegativity_difference
from surrogates.energy import (
    E_ABOVE_HULL,
    FORMATION_ENERGY,
    UNKNOWN_DISTANCE,
    UNKNOWN_STD,
    EnergyModel,
    training_table,
)
from surrogates.energy_training import (
    EnergyTrainingOptions,
    HeldOutPredictions,
    calibrated_spread,
    damping,
    train_energy_network,
)
from surrogates.energy_validation import EnergyValidation, rank_correlation
from surrogates.hull import ReferenceHull
from surrogates.pair_features import pair_feature_names, pair_features, pair_weight, seen_pairs, unseen_share
from surrogates.reference_table import ReferenceTable

CATIONS = ("Li", "Na", "K", "Rb", "Mg", "Ca", "Sr", "Ba", "Zn", "Al", "Ga", "Sc", "Y", "Ti", "Fe", "Mn")
ANIONS = ("O", "S", "Se", "F", "Cl", "Br", "N", "P")
SMALL = EnergyTrainingOptions(members=3, hidden=(24,), steps=100, batch=32, calibration_folds=2)
FORMULAS = ["NaCl", "MgO", "Fe", "SrTiO3", "Li3N", "CaF2", "AlPO4", "MgO2"]


def made_up_table() -> tuple[CompositionBatch, torch.Tensor]:
    """Binaries that bind by the electronegativity difference, in three stoichiometries."""
    formulas = [f"{c}{m}{a}{n}" for c in CATIONS for a in ANIONS for m, n in ((1, 1), (2, 1), (1, 3))]
    batch = CompositionBatch.from_formulas(formulas)
    generator = torch.Generator().manual_seed(0)
    noise = 0.03 * torch.randn(len(batch), generator=generator)
    return batch, -2.5 * pair_weight(batch) * electronegativity_difference(batch) + noise


def made_up_hull() -> ReferenceHull:
    batch, energies = made_up_table()
    elements = CompositionBatch.from_formulas([*CATIONS, *ANIONS])
    numbers = torch.zeros(len(elements), 2, dtype=torch.long)
    numbers[:, :1] = elements.atomic_numbers
    amounts = (numbers > 0).float()
    return ReferenceHull(
        ReferenceTable(
            CompositionBatch(
                torch.cat([batch.atomic_numbers, numbers]),
                torch.cat([batch.amounts / batch.amounts.amin(1, keepdim=True), amounts]),
            ),
            torch.cat([energies.double(), torch.zeros(len(elements), dtype=torch.float64)]),
            "of a made-up table",
            [""] * (len(batch) + len(elements)),
            torch.ones(len(batch) + len(elements), dtype=torch.bool),
        )
    )


@pytest.fixture(scope="module")
def hull() -> ReferenceHull:
    return made_up_hull()


@pytest.fixture(scope="module")
def model(hull) -> EnergyModel:
    return EnergyModel(SMALL, hull=hull).fit(*training_table(hull))


def test_training_table_leaves_the_elements_out(hull):
    batch, energies = training_table(hull)
    assert len(batch) == len(energies) == len(CATIONS) * len(ANIONS) * 3
    torch.testing.assert_close(energies, made_up_table()[1])


def test_model_learns_binding_and_measures_distance_from_the_hull(model, hull):
    assert isinstance(model, Surrogate)
    batch, energies = training_table(hull)
    prediction = model.predict(batch)
    assert (prediction.mean[:, FORMATION_ENERGY] - energies).abs().mean() < 0.15
    expected = prediction.mean[:, FORMATION_ENERGY] - hull.hull_energy(batch).float()
    torch.testing.assert_close(prediction.mean[:, E_ABOVE_HULL], expected)
    torch.testing.assert_close(prediction.std[:, E_ABOVE_HULL], prediction.std[:, FORMATION_ENERGY])


def test_shapes_and_agreement_of_all_views_of_a_prediction(model):
    prediction, members = model.predict(FORMULAS), model.members(FORMULAS)
    assert prediction.mean.shape == prediction.std.shape == (8, 2)
    assert prediction.mean.dtype == members.dtype == torch.float32
    assert members.shape == (3, 8, 2)
    torch.testing.assert_close(members.mean(0), prediction.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(members.std(0, correction=0), prediction.std, rtol=1e-2, atol=1e-3)
    for column, distribution in enumerate((model.formation_energy(FORMULAS), model.e_above_hull(FORMULAS))):
        assert isinstance(distribution, GaussianDistribution)
        torch.testing.assert_close(distribution.mean, prediction.mean[:, column])
        torch.testing.assert_close(distribution.std, prediction.std[:, column])


def test_prediction_depends_on_the_composition_only(model):
    first, second = model.predict(["SrTiO3"]), model.predict(["O6Ti2Sr2", "LiNaKRbO4"])
    torch.testing.assert_close(first.mean[0], second.mean[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.std[0], second.std[0], rtol=1e-4, atol=1e-4)
    empty = CompositionBatch(torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3))
    assert model.predict(empty).mean.shape == (0, 2)
    assert model.members(empty).shape == (3, 0, 2)


def test_pure_elements_have_no_formation_energy(model):
    prediction = model.predict(["Fe", "O2"])
    assert torch.equal(prediction.mean, torch.zeros(2, 2))
    assert prediction.std.max() < 1e-3
    dilute = model.predict([f"Mg{n}O" for n in (19, 99, 999)]).mean[:, 0].abs()
    assert dilute[0] > dilute[1] > dilute[2]
    assert dilute[2] < 0.02


def test_an_element_without_a_reference_gives_a_wide_finite_answer(model):
    unknown = model.predict(["UO2", "NaTl", "Xe"])
    assert torch.isfinite(unknown.mean).all()
    assert torch.equal(unknown.mean[:, E_ABOVE_HULL], torch.full((3,), UNKNOWN_DISTANCE))
    assert torch.equal(unknown.std[:, E_ABOVE_HULL], torch.full((3,), UNKNOWN_STD))
    assert (unknown.std[:2, FORMATION_ENERGY] >= UNKNOWN_STD).all()
    assert torch.isfinite(model.members(["UO2", "NaCl"])).all()


def test_spread_is_wider_where_elements_never_met(model):
    known, unknown = model.predict(["NaCl", "MgO", "CaS"]).std[:, 0], model.predict(["LiNa", "MgFe", "KBa"]).std[:, 0]
    assert unknown.mean() > known.mean()


def test_calibrated_spread_holds_its_share_and_finds_what_errors_depend_on():
    generator = torch.Generator().manual_seed(0)
    disagreement = torch.rand(4000, generator=generator) * 0.2
    unseen = (torch.rand(4000, generator=generator) < 0.3).float()
    true = (0.05**2 + (1.5 * disagreement) ** 2 + (0.2 * unseen) ** 2).sqrt()
    errors = (true * torch.randn(4000, generator=generator)).abs()
    spread = calibrated_spread(errors, disagreement, unseen)
    std = spread(disagreement, unseen)
    assert float((errors <= std).float().mean()) == pytest.approx(0.683, abs=0.005)
    assert float((errors <= 1.96 * std).float().mean()) == pytest.approx(0.95, abs=0.01)
    assert spread.disagreement == pytest.approx(1.5, rel=0.2)
    assert spread.unseen == pytest.approx(0.2, rel=0.2)


def test_a_fit_is_reproducible_and_survives_saving(model, hull, tmp_path):
    rows = torch.arange(120)
    batch, energies = training_table(hull)
    few = batch.rows(rows), energies[rows].unsqueeze(1)
    first, again = (EnergyModel(SMALL, hull=hull).fit(*few).predict(FORMULAS).mean for _ in range(2))
    other = EnergyModel(SMALL, seed=1, hull=hull).fit(*few).predict(FORMULAS).mean
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    path = tmp_path / "model.safetensors"
    saved = EnergyModel(hull=hull)
    saved._fitted = model._fitted
    saved.validation = EnergyValidation(5, 10, 0.1, 0.9, 0.9, 8, 0.1, 0.7, math.nan, 0.7, 0.95)
    saved.save(path)
    loaded = EnergyModel.load(path, hull)
    assert str(loaded.validation) == str(saved.validation)
    before, after = saved.predict(FORMULAS), loaded.predict(FORMULAS)
    torch.testing.assert_close(after.mean, before.mean, rtol=0.02, atol=0.02)
    torch.testing.assert_close(after.std, before.std, rtol=0.05, atol=0.02)
    loaded.save(tmp_path / "again.safetensors")
    assert torch.equal(
        EnergyModel.load(tmp_path / "again.safetensors", hull).predict(FORMULAS).mean, loaded.predict(FORMULAS).mean
    )


def test_a_file_that_is_no_model_is_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match="not a readable safetensors file"):
        EnergyModel.load(tmp_path / "none.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(b"\x10\x00\x00\x00")
    with pytest.raises(ValueError, match=re.escape(str(cut))):
        EnergyModel.load(cut)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, str(other))
    with pytest.raises(ValueError, match="not an energy model"):
        EnergyModel.load(other)


def test_unusable_labels_are_refused(hull):
    batch, energies = made_up_table()
    bad = energies.clone()
    bad[3] = math.nan
    with pytest.raises(
        ValueError, match=rf"formation energy of {batch[3]}: expected a finite value in eV/atom, not nan"
    ):
        EnergyModel(SMALL).fit(batch, bad)
    with pytest.raises(ValueError, match=r"one label for each of 2 materials, not \(3,\)"):
        EnergyModel(SMALL).fit(["NaCl", "MgO"], torch.ones(3))
    with pytest.raises(ValueError, match="at least 20 are needed, not 2"):
        EnergyModel(SMALL).fit(["NaCl", "MgO"], torch.ones(2))
    with pytest.raises(ValueError, match="labels are needed"):
        EnergyModel(SMALL, hull=hull).cross_validate(["NaCl"])


def test_an_unfitted_model_says_so(hull):
    with pytest.raises(RuntimeError, match="not fitted"):
        EnergyModel(hull=hull).predict(["GaAs"])


def test_cross_validation_never_sees_the_system_it_is_asked_about(hull):
    seen = []
    model = EnergyModel(SMALL, hull=hull)
    result = model.cross_validate(folds=2, progress=seen.append)
    assert seen == [0, 1]
    assert result.materials == result.hull_materials == 384
    assert model._fitted is None
    assert 0 < result.mae_eV_per_atom < 0.3
    assert result.spearman > 0.8
    assert 0.5 < result.coverage_68 < 0.9
    for word in ("MAE", "R2", "Spearman", "68 %", "95 %", "distance to hull"):
        assert word in str(result)


def test_a_fold_is_calibrated_on_the_others():
    spreads = torch.tensor([0.05, 0.2])
    folds = torch.arange(2).repeat_interleave(1000)
    errors = spreads[folds] * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    zeros, ones = torch.zeros(2000), torch.ones(2000)
    std = HeldOutPredictions(zeros, errors, ones, zeros, zeros, folds).calibrated_std()
    assert std[:1000].tolist() == pytest.approx([0.2] * 1000, rel=0.1)
    assert std[1000:].tolist() == pytest.approx([0.05] * 1000, rel=0.1)


def test_labels_that_mean_nothing_cannot_be_predicted(hull):
    batch, energies = training_table(hull)
    shuffled = energies[torch.randperm(len(energies), generator=torch.Generator().manual_seed(0))]
    result = EnergyModel(SMALL, hull=hull).cross_validate(batch, shuffled, folds=2)
    assert result.r2 < 0.2


def test_measures_agree_with_their_definitions():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(200, generator=generator)
    mean = truth + 0.3 * torch.randn(200, generator=generator)
    hull = torch.where(torch.arange(200) < 150, -torch.rand(200, generator=generator), torch.nan)
    std = torch.full((200,), 0.3)
    result = EnergyValidation.from_predictions(GaussianDistribution(mean, std), truth, hull, 5)
    assert result.r2 == pytest.approx(r2_score(truth, mean), abs=1e-5)
    assert result.spearman == pytest.approx(spearmanr(truth, mean).statistic, abs=1e-6)
    distance = (truth - hull)[:150].clamp_min(0)
    assert result.hull_materials == 150
    assert result.hull_spearman == pytest.approx(spearmanr(distance, (mean - hull)[:150]).statistic, abs=1e-6)
    assert result.coverage_68 == pytest.approx(float(((mean - truth).abs() <= 0.3).float().mean()))


def test_rank_correlation_shares_ranks_and_knows_no_answer_for_a_constant():
    first, second = torch.tensor([1.0, 2.0, 2.0, 3.0, 0.0]), torch.tensor([2.0, 2.0, 5.0, 7.0, 1.0])
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert math.isnan(rank_correlation(first, torch.ones(5)))
    assert math.isnan(rank_correlation(torch.ones(1), torch.ones(1)))


def test_pair_features_are_means_over_unlike_pairs():
    batch = CompositionBatch.from_formulas(["MgO", "O3Mg3", "SrTiO3", "Fe"])
    features = pair_features(batch)
    assert features.shape == (4, len(pair_feature_names()))
    torch.testing.assert_close(features[0], features[1])
    assert torch.equal(features[3], torch.zeros_like(features[3]))
    strontium, titanium, oxygen = pair_features(CompositionBatch.from_formulas(["SrTi", "SrO", "TiO"]))
    expected = (1 * strontium + 3 * titanium + 3 * oxygen) / 7
    torch.testing.assert_close(features[2], expected)
    assert pair_weight(batch).tolist() == pytest.approx([0.25, 0.25, 0.28, 0.0])
    assert float(damping(batch)[3]) == 0


def test_seen_pairs_are_symmetric_and_count_what_is_new():
    seen = seen_pairs(CompositionBatch.from_formulas(["MgO", "SrTiO3", "Fe"]))
    share = unseen_share(CompositionBatch.from_formulas(["OMg", "TiSr", "MgTi", "MgTiO", "Fe"]), seen)
    assert share.tolist() == pytest.approx([0, 0, 1, 1 / 3, 0])


def test_training_survives_a_fold_without_materials():
    batch = CompositionBatch.from_formulas(["NaCl"] * 20)
    fitted = train_energy_network(batch, torch.linspace(-2.1, -1.9, 20), SMALL, 0)
    energies, mean, std = fitted.predict(batch)
    assert torch.isfinite(energies).all()
    assert float(mean[0]) == pytest.approx(-2, abs=0.2)
    assert (std > 0).all()
