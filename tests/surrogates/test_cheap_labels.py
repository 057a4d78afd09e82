from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from envs.formula import CompositionBatch
from surrogates.cheap_labels import CheapLabels, agreement, correlation, shrunk_correlation
from surrogates.compact_features import principal_components
from surrogates.features import composition_features
from surrogates.label_model import LabelModel
from tests.surrogates.test_label_model import gaps, known, shifted

Kind = Literal["gaussian-process", "forest"]
TRAIN, CHEAP, UNSEEN = known(25), known(80, start=100), known(200, start=600)
BOTH = [*TRAIN, *CHEAP]


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def truth(formulas: list[str]) -> Tensor:
    """Formation energies that differ from the embedded ones by what compositions tell, and by what they do not."""
    components = principal_components(composition_features(CompositionBatch.from_formulas(formulas)))
    own = torch.tensor([sum(map(ord, formula)) * 7919 % 100 / 500 for formula in formulas])
    return shifted(formulas) + 0.2 * components[:, 0].sin() + 0.15 * components[:, 1] + own


def fitted(kind: Kind, cheap: Tensor | None) -> LabelModel:
    given = [] if cheap is None else [CheapLabels(BOTH, cheap[:, None])]
    return LabelModel(["formation_energy"], kind=kind).fit(TRAIN, truth(TRAIN)[:, None], given)


def error(model: LabelModel, formulas: list[str]) -> float:
    return float((model.predict(formulas).mean[:, 0] - truth(formulas)).abs().mean())


@pytest.mark.parametrize("kind", ["gaussian-process", "forest"])
def test_informative_cheap_labels_improve_predictions(kind: Kind) -> None:
    alone, informed = fitted(kind, None), fitted(kind, 1.2 * truth(BOTH) + 0.3 + 0.05 * normal(105, 0))
    assert error(informed, UNSEEN) < 0.8 * error(alone, UNSEEN)
    assert error(informed, CHEAP) < 0.6 * error(alone, CHEAP)
    (found,) = informed.agreements["formation_energy"]
    assert found.pairs == 25 and found.slope == pytest.approx(1.2, abs=0.05) and found.share > 0.5
    predicted = informed.predict(CHEAP)
    within = ((predicted.mean[:, 0] - truth(CHEAP)).abs() < predicted.std[:, 0]).double().mean()
    assert 0.4 < within < 0.9
    members = informed.members(CHEAP)
    assert torch.allclose(members.mean(0), predicted.mean, atol=1e-4)
    assert torch.allclose(members.std(0, correction=0), predicted.std, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["gaussian-process", "forest"])
def test_noise_changes_nothing(kind: Kind) -> None:
    alone, informed = fitted(kind, None), fitted(kind, normal(105, 1))
    assert informed.agreements["formation_energy"][0].share == 0
    assert torch.equal(alone.predict(UNSEEN).mean, informed.predict(UNSEEN).mean)
    assert alone.reports == informed.reports


def test_what_features_tell_already_is_worth_nothing() -> None:
    predicted, new = normal(60, 0), 0.3 * normal(60, 1)
    assert agreement(predicted + new, predicted.clone(), predicted).share == 0
    assert agreement(predicted + new, 2 * (predicted + new) - 1, predicted).share > 0.99


def test_noise_of_a_cheap_label_is_found() -> None:
    predicted, new = normal(400, 0), 0.3 * normal(400, 1)
    found = agreement(predicted + new, predicted + new + 0.2 * normal(400, 2), predicted)
    assert found.share == pytest.approx(0.3**2 / (0.3**2 + 0.2**2), abs=0.1)
    assert found.noise == pytest.approx(0.2**2, rel=0.35)


def test_a_few_labels_that_are_far_off_do_not_decide() -> None:
    predicted, new = torch.zeros(40, dtype=torch.float64), 0.3 * normal(40, 1)
    cheap = new + 0.01 * normal(40, 2)
    cheap[:3] += 5
    assert agreement(new, cheap, predicted).share > 0.4


def test_correlations_shrink_with_few_pairs() -> None:
    assert shrunk_correlation(0.9, 3) == 0
    assert 0 < shrunk_correlation(0.9, 6) < shrunk_correlation(0.9, 30) < 0.9
    assert shrunk_correlation(0.2, 10) == 0 and shrunk_correlation(-0.9, 30) == -shrunk_correlation(0.9, 30)
    assert correlation(torch.ones(5), torch.arange(5.0)) == 0


def test_zeros_of_cheap_labels_tell_of_zeros() -> None:
    train, cheap = known(100), known(100, start=100)
    others = [CheapLabels([*train, *cheap], gaps([*train, *cheap])[:, None])]
    model = LabelModel(["band_gap"]).fit(train, gaps(train)[:, None], others)
    assert (model.predict(cheap).mean[:, 0] - gaps(cheap)).abs().max() < 0.05
    (found,) = model.agreements["band_gap"]
    assert found.share > 0.9 and found.share_of_zero > 0.9 and math.isfinite(found.noise)
