import torch

from envs.formula import CompositionBatch
from surrogates.band_gap import BandGapModel
from surrogates.compact_features import COMPACT, COMPONENTS, CompactFeatures, principal_components
from surrogates.datasets import read_known_formulas
from surrogates.energy import EnergyModel
from surrogates.features import composition_features

FORMULAS = ["NaCl", "SrTiO3", "CuInSe2", "Fe2O3", "MgZn2"]


def test_compact_columns_come_first_and_the_composition_features_after_them() -> None:
    described = CompactFeatures()(FORMULAS)
    composition = composition_features(CompositionBatch.from_formulas(FORMULAS)).double()
    assert torch.equal(described.features[:, COMPACT:], composition)
    assert torch.equal(described.features[:, :COMPONENTS], principal_components(composition.float()))


def test_compact_columns_have_unit_variance_over_known_materials() -> None:
    formulas = read_known_formulas()["formula"].to_list()[::40]
    compact = CompactFeatures()(formulas).features[:, :COMPACT]
    assert compact.mean(0).abs().max() < 0.15
    assert compact.std(0).min() > 0.7 and compact.std(0).max() < 1.4


def test_components_are_uncorrelated_over_known_materials() -> None:
    formulas = read_known_formulas()["formula"].to_list()[::10]
    components = principal_components(composition_features(CompositionBatch.from_formulas(formulas)))
    correlation = torch.corrcoef(components.T) - torch.eye(COMPONENTS)
    assert correlation.abs().max() < 0.15


def test_embedded_predictions_are_those_of_the_models() -> None:
    described = CompactFeatures()(FORMULAS)
    energies, gaps = EnergyModel.default().predict(FORMULAS), BandGapModel.default().distribution(FORMULAS)
    assert torch.allclose(described.embedded["formation_energy"], energies.mean[:, 0].double())
    assert torch.allclose(described.embedded_std["e_above_hull"], energies.std[:, 1].double())
    assert torch.allclose(described.embedded["band_gap"], gaps.mean.double())
    assert torch.allclose(described.embedded_if_positive["band_gap"], gaps.gap_mean.double())


def test_rows_do_not_depend_on_their_neighbours() -> None:
    together = CompactFeatures()(FORMULAS).features
    alone = torch.cat([CompactFeatures()([formula]).features for formula in FORMULAS])
    assert torch.allclose(together, alone, atol=1e-5)


def test_no_materials_make_no_rows() -> None:
    assert CompactFeatures()([]).features.shape[0] == 0
