import math

import pytest
import torch
from torch import Tensor

from surrogates.base import Surrogate
from surrogates.datasets import read_known_formulas
from surrogates.distribution import BandGapDistribution, GaussianDistribution
from surrogates.energy import EnergyModel
from surrogates.label_model import FEWEST_LABELS, LabelModel
from surrogates.regression import MEMBERS


def known(n: int, start: int = 0) -> list[str]:
    """Return n known formulas of many chemical systems."""
    formulas = read_known_formulas()["formula"].to_list()
    order = torch.randperm(len(formulas), generator=torch.Generator().manual_seed(3)).tolist()
    return [formulas[row] for row in order[start : start + n]]


def shifted(formulas: list[str]) -> Tensor:
    """Another method's formation energies: those of the embedded model, stretched and shifted."""
    return EnergyModel.default().predict(formulas).mean[:, 0].double() * 1.1 - 0.2


def test_it_is_a_surrogate() -> None:
    assert isinstance(LabelModel(["formation_energy"]), Surrogate)


@pytest.mark.parametrize("kind", ["gaussian-process", "forest"])
def test_a_few_labels_correct_the_embedded_model(kind: str) -> None:
    train, test = known(60), known(200, start=60)
    model = LabelModel(["formation_energy"], kind=kind)  # type: ignore[arg-type]
    model.fit(train, shifted(train)[:, None])
    before = (EnergyModel.default().predict(test).mean[:, 0] - shifted(test)).abs().mean()
    after = (model.predict(test).mean[:, 0] - shifted(test)).abs().mean()
    assert after < 0.5 * before
    report = model.reports["formation_energy"]
    assert report.kind == kind and report.labels == 60
    assert report.embedded_mae == pytest.approx(
        float((EnergyModel.default().predict(train).mean[:, 0] - shifted(train)).abs().mean()), abs=1e-6
    )


def test_a_property_without_an_embedded_model_is_learned_from_its_labels() -> None:
    train, test = known(150), known(100, start=200)
    labels = EnergyModel.default().predict(train).mean[:, :1].double().exp()
    model = LabelModel(["hardness"]).fit(train, labels)
    truth = EnergyModel.default().predict(test).mean[:, 0].double().exp()
    assert (model.predict(test).mean[:, 0] - truth).abs().mean() < 0.5 * (truth - labels.mean()).abs().mean()
    assert model.reports["hardness"].embedded_mae is None


def test_spread_is_calibrated_on_unseen_materials() -> None:
    train, test = known(200), known(400, start=200)
    noise = 0.15 * torch.randn(600, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = LabelModel(["formation_energy"]).fit(train, (shifted(train) + noise[:200])[:, None])
    predicted = model.predict(test)
    within = ((predicted.mean[:, 0] - shifted(test) - noise[200:]).abs() < predicted.std[:, 0]).double().mean()
    assert 0.55 < within < 0.85


def test_members_have_the_mean_and_spread_of_the_prediction() -> None:
    train, test = known(80), known(60, start=100)
    model = LabelModel(["formation_energy", "hardness"])
    model.fit(train, torch.stack([shifted(train), shifted(train).square()], 1))
    members, predicted = model.members(test), model.predict(test)
    assert members.shape == (MEMBERS, 60, 2)
    assert torch.allclose(members.mean(0), predicted.mean, atol=1e-4)
    assert torch.allclose(members.std(0, correction=0), predicted.std, rtol=1e-3, atol=1e-5)


def test_missing_labels_do_not_matter_to_other_properties() -> None:
    train = known(60)
    values = torch.stack([shifted(train), torch.full((60,), math.nan, dtype=torch.float64)], 1)
    values[:20, 1] = shifted(train)[:20] + 1
    both = LabelModel(["formation_energy", "hardness"]).fit(train, values)
    one = LabelModel(["formation_energy"]).fit(train, values[:, :1])
    test = known(20, start=300)
    assert torch.allclose(both.predict(test).mean[:, 0], one.predict(test).mean[:, 0])
    assert both.reports["hardness"].labels == 20


def test_too_few_labels_leave_the_embedded_model_as_it_is() -> None:
    train, test = known(FEWEST_LABELS - 1), known(10, start=50)
    model = LabelModel(["formation_energy"]).fit(train, shifted(train)[:, None])
    assert model.reports["formation_energy"].kind == "embedded"
    embedded = EnergyModel.default().predict(test)
    assert torch.allclose(model.predict(test).mean[:, 0], embedded.mean[:, 0])
    assert torch.allclose(model.predict(test).std[:, 0], embedded.std[:, 0])
    assert torch.isfinite(model.members(test)).all()


def test_too_few_labels_of_a_property_without_an_embedded_model_are_an_error() -> None:
    train = known(FEWEST_LABELS - 1)
    with pytest.raises(ValueError, match="hardness: 9 labels are too few"):
        LabelModel(["hardness"]).fit(train, shifted(train)[:, None])


def gaps(formulas: list[str]) -> Tensor:
    """A gap that is zero for half of the materials."""
    energy = EnergyModel.default().predict(formulas).mean[:, 0].double()
    return torch.where(energy < -0.7, 1.0 - energy, 0.0)


def test_zeros_are_learned_apart() -> None:
    train, test = known(200), known(300, start=200)
    model = LabelModel(["band_gap"]).fit(train, gaps(train)[:, None])
    distribution = model.distribution("band_gap", test)
    assert isinstance(distribution, BandGapDistribution)
    assert ((distribution.p_gapped > 0.5) == (gaps(test) > 0)).double().mean() > 0.85
    predicted = model.predict(test)
    assert torch.allclose(distribution.mean, predicted.mean[:, 0], atol=1e-5)
    members = model.members(test)[:, :, 0]
    assert (members >= 0).all()
    share, p_zero = (members == 0).double().mean(0), 1 - distribution.p_gapped
    clear = distribution.gap_mean > 3 * distribution.gap_std  # else sizes below zero are zeros, too
    assert (share - p_zero)[clear].abs().max() < 0.05 and (share - p_zero).min() > -0.05
    assert (members.mean(0) - predicted.mean[:, 0]).abs().mean() < 0.15


def test_negative_labels_are_no_gaps() -> None:
    train = known(60)
    values = torch.where(torch.arange(60) % 2 == 0, shifted(train), 0.0)
    model = LabelModel(["formation_energy"]).fit(train, values[:, None])
    assert isinstance(model.distribution("formation_energy", train), GaussianDistribution)


def test_the_same_seed_gives_the_same_model() -> None:
    train, test = known(50), known(20, start=50)
    one, two = (LabelModel(["formation_energy"], seed=4).fit(train, shifted(train)[:, None]) for _ in range(2))
    assert torch.equal(one.members(test), two.members(test))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(3, 2), r"labels: expected the shape \(3, 1\), not \(3, 2\)"),
        (torch.tensor([[0.0], [math.inf], [1.0]]), "labels: one is infinite"),
    ],
)
def test_wrong_labels_are_named(labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelModel(["formation_energy"]).fit(["NaCl", "MgO", "ZnO"], labels)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="model: unknown 'spline'"):
        LabelModel(["formation_energy"], kind="spline")  # type: ignore[arg-type]


def test_predicting_before_fitting_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="not fitted"):
        LabelModel(["formation_energy"]).predict(["NaCl"])
