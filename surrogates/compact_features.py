"""Few features for models that learn from few labels: principal components and what the embedded models say.

First come sixteen principal components of the composition features over the known materials, the mean and standard
deviation of the embedded predictions of band gap, formation energy and distance to the hull, and the probability that
there is a gap and its size. A model of a few dozen labels gains most from the predictions: another method's energies
are close to a function of these. After them come the composition features themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from envs.formula import CompositionBatch
from surrogates.band_gap import BandGapModel
from surrogates.datasets import read_known_formulas
from surrogates.energy import ENERGY_PROPERTIES, EnergyModel
from surrogates.features import composition_features

COMPONENTS = 16
EMBEDDED = ("band_gap", *ENERGY_PROPERTIES)
"""Properties whose embedded predictions are features."""
COMPACT = COMPONENTS + 2 * len(EMBEDDED) + 2
"""Columns that a model of few labels should look at; those after them are for models that choose."""
_SAMPLE = 4000
"""Known materials over which location, scale and components are found."""


@dataclass(frozen=True, eq=False)
class DescribedMaterials:
    """Features of N materials and the embedded predictions that they contain."""

    features: Tensor
    """Float64 (N, D): `COMPACT` columns, of mean 0 and standard deviation 1 over the known materials, and the rest."""
    embedded: dict[str, Tensor]
    """Embedded prediction (mean) by property, float64 (N,)."""
    embedded_std: dict[str, Tensor]
    """Standard deviation of that prediction, float64 (N,)."""
    embedded_if_positive: dict[str, Tensor]
    """What the prediction is if the value is not zero: of the band gap, its size in a material that has one, (N,)."""


class CompactFeatures:
    """Turns compositions into compact features.

    Args:
        energies: Where formation energy and distance to the hull are taken from; the embedded model when None.
    """

    def __init__(self, energies: EnergyModel | None = None) -> None:
        self._energies = energies

    def __call__(self, materials: Iterable[str]) -> DescribedMaterials:
        """Return the features of N materials."""
        batch = CompositionBatch.from_formulas(materials)
        predictions = self._predict(batch)
        location, scale = self._scaling
        composition = composition_features(batch)
        compact = [principal_components(composition), (predictions - location) / scale]
        mean, std, gap = predictions.split([len(EMBEDDED), len(EMBEDDED), 2], 1)  # type: ignore[no-untyped-call]
        return DescribedMaterials(
            torch.cat([*compact, composition.double()], 1),
            dict(zip(EMBEDDED, mean.unbind(1), strict=True)),
            dict(zip(EMBEDDED, std.unbind(1), strict=True)),
            {"band_gap": gap[:, 1]},
        )

    def _predict(self, batch: CompositionBatch) -> Tensor:
        """Return embedded means, standard deviations, and probability and size of a gap, float64 (N, 8)."""
        gap = BandGapModel.default().distribution(batch)
        energy = (self._energies or EnergyModel.default()).predict(batch)
        columns = [gap.mean[:, None], energy.mean, gap.std[:, None], energy.std, gap.p_gapped[:, None]]
        return torch.cat([*columns, gap.gap_mean[:, None]], 1).double()

    @cached_property
    def _scaling(self) -> tuple[Tensor, Tensor]:
        predictions = self._predict(_known_sample())
        return predictions.mean(0), predictions.std(0).clamp_min(1e-6)


def principal_components(composition: Tensor) -> Tensor:
    """Return principal components of composition features (N, F), float64 (N, 16), of unit variance when known."""
    location, scale, axes = _components()
    return ((composition.double() - location) / scale) @ axes


@lru_cache(maxsize=1)
def _known_sample() -> CompositionBatch:
    formulas = read_known_formulas()["formula"].to_list()
    rows = torch.randperm(len(formulas), generator=torch.Generator().manual_seed(0))[:_SAMPLE].tolist()
    return CompositionBatch.from_formulas([formulas[row] for row in rows])


@lru_cache(maxsize=1)
def _components() -> tuple[Tensor, Tensor, Tensor]:
    """Return location and scale of the composition features, (F,), and the axes of the components, (F, 16)."""
    values = composition_features(_known_sample()).double()
    location, scale = values.mean(0), values.std(0).clamp_min(1e-3)
    standardised = (values - location) / scale
    _, singular, axes = torch.linalg.svd(standardised, full_matrices=False)
    deviations = singular[:COMPONENTS] / (len(values) - 1) ** 0.5
    return location, scale, axes[:COMPONENTS].T / deviations
