"""The band-gap model: is the material gapped, and how wide is the gap.

Most known materials are metals, so the gap is a mixture: a classifier tells the probability of a gap, a regressor its
width. Both are heads of one ensemble of small networks on composition features, so that a batch takes one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from envs.formula import CompositionBatch
from surrogates.band_gap_data import LabelledMaterials, computed_classes, measured_gaps
from surrogates.band_gap_training import (
    GAP,
    GAPPED,
    LOG_SPREAD,
    FittedNetwork,
    TrainingOptions,
    standardise,
    train_network,
)
from surrogates.base import Prediction
from surrogates.distribution import BandGapDistribution
from surrogates.features import composition_features
from surrogates.mlp_ensemble import MLPEnsemble
from surrogates.validation import BandGapValidation, grouped_folds
from surrogates.weights_file import read_weights, write_weights

DEFAULT_WEIGHTS = "band_gap.safetensors"
FORMAT = "matsmith band gap 2"


class BandGapModel:
    """Band gap in eV of a composition, with the probability that there is one; implements `Surrogate` with m = 1.

    Args:
        options: How to train; defaults when None.
        seed: Seed of everything random in `fit`.
    """

    def __init__(self, options: TrainingOptions | None = None, seed: int = 0) -> None:
        self.options = options or TrainingOptions()
        self.seed = seed
        self.validation: BandGapValidation | None = None
        """Cross-validation of a model fitted like this one; travels with `save` and is set for `default()`."""
        self._fitted: FittedNetwork | None = None

    @classmethod
    def default(cls) -> BandGapModel:
        """Return a model fitted to the embedded tables, ready to use; the weights are read once."""
        stored, model = _default_model(), cls()
        model._fitted, model.validation = stored._fitted, stored.validation
        return model

    def fit(self, materials: Iterable[str], labels: Tensor, *, computed: LabelledMaterials | None = None) -> Self:
        """Fit to measured band gaps; takes minutes with the default options.

        Args:
            materials: N formulas or a `CompositionBatch`.
            labels: Band gaps in eV, (N,) or (N, 1); 0 means metal.
            computed: Formulas with the share of their structures that are gapped by computation; the embedded
                transport table when None.

        Raises:
            ValueError: The labels have another shape, one is negative or not finite, or fewer than 20 are above zero.
        """
        batch = CompositionBatch.from_formulas(materials)
        gaps = torch.as_tensor(labels, dtype=torch.float32)
        if gaps.shape not in ((len(batch),), (len(batch), 1)):
            raise ValueError(
                f"band gaps: expected one label for each of {len(batch)} materials, not {tuple(gaps.shape)}"
            )
        gaps = gaps.reshape(len(batch))
        bad = (~torch.isfinite(gaps) | (gaps < 0)).nonzero()
        if len(bad):
            row = int(bad[0])
            raise ValueError(f"band gap of {batch[row]}: expected a finite value >= 0 eV, not {float(gaps[row]):g}")
        if int((gaps > 0).sum()) < 20:
            raise ValueError(
                f"band gaps: at least 20 materials with a gap above 0 eV are needed, not {int((gaps > 0).sum())}"
            )
        self.validation = None
        other = computed_classes() if computed is None else computed
        self._fitted = train_network(LabelledMaterials(batch, gaps), other, self.options, self.seed)
        return self

    def distribution(self, materials: Iterable[str]) -> BandGapDistribution:
        """Return the predictive distribution of each band gap; `predict` and the probabilities come from it."""
        return self._distribution(self._outputs(materials))

    def predict(self, materials: Iterable[str]) -> Prediction:
        """Return the expected gap and its standard deviation in eV, each (N, 1), the chance of a metal included."""
        distribution = self.distribution(materials)
        return Prediction(distribution.mean.unsqueeze(1), distribution.std.unsqueeze(1))

    def members(self, materials: Iterable[str]) -> Tensor:
        """Return S draws of the gap in eV, (S, N, 1), whose mean and standard deviation over S are those of `predict`.

        The networks' expected gaps, moved and stretched: the networks agree more closely than they err.
        """
        outputs, fitted = self._outputs(materials), self._network()
        gap = outputs[..., GAP] * fitted.gap_std + fitted.gap_mean
        expected = gap * torch.sigmoid(outputs[..., GAPPED])
        distribution = self._distribution(outputs)
        deviation = (expected - expected.mean(0)) / expected.std(0, correction=0).clamp_min(1e-6)
        return (distribution.mean + deviation * distribution.std).unsqueeze(-1)

    def probability_gapped(self, materials: Iterable[str]) -> Tensor:
        """Return the probability that each material has a gap, (N,)."""
        return self.distribution(materials).p_gapped

    def probability_between(self, materials: Iterable[str], low: float, high: float) -> Tensor:
        """Return the probability that each gap lies between low and high (eV), (N,); metals have gap 0."""
        return self.distribution(materials).probability_between(low, high)

    def cross_validate(
        self,
        materials: Iterable[str] | None = None,
        labels: Tensor | None = None,
        *,
        computed: LabelledMaterials | None = None,
        folds: int = 5,
        progress: Callable[[int, BandGapValidation], None] | None = None,
    ) -> BandGapValidation:
        """Fit to all folds but one in turn and compare with the one left out; chemical systems are never split.

        Computed classes of the chemical systems in the fold left out are left out too. The model itself stays as it is.

        Args:
            materials: N formulas; those of the embedded table when None.
            labels: Band gaps in eV, (N,), 0 for metals; needed with `materials`.
            computed: As in `fit`.
            folds: Number of folds.
            progress: Called after each fold with its number and the measures over all folds so far.
        """
        if materials is None:
            measured = measured_gaps()
        elif labels is not None:
            measured = LabelledMaterials(CompositionBatch.from_formulas(materials), torch.as_tensor(labels).flatten())
        else:
            raise ValueError("cross_validate: labels are needed with materials")
        other = computed_classes() if computed is None else computed
        fold_of = grouped_folds(
            CompositionBatch.from_formulas([*measured.materials, *other.materials]), folds, self.seed
        )
        fold_of_measured, fold_of_other = fold_of[: len(measured)], fold_of[len(measured) :]
        p_gapped, mean, std = torch.zeros(3, len(measured)).unbind()
        for fold in range(folds):
            train, test = measured.rows(fold_of_measured != fold), fold_of_measured == fold
            model = BandGapModel(self.options, self.seed)
            model.fit(train.materials, train.labels, computed=other.rows(fold_of_other != fold))
            predicted = model.distribution(measured.materials.rows(test))
            p_gapped[test], mean[test], std[test] = predicted.p_gapped, predicted.gap_mean, predicted.gap_std
            if progress is not None:
                done = fold_of_measured <= fold
                so_far = BandGapDistribution(p_gapped[done], mean[done], std[done])
                progress(fold, BandGapValidation.from_predictions(so_far, measured.labels[done], fold + 1))
        return BandGapValidation.from_predictions(BandGapDistribution(p_gapped, mean, std), measured.labels, folds)

    def save(self, path: str | Path) -> None:
        """Write the fitted model as float16 safetensors, its settings as JSON in the header."""
        fitted = self._network()
        tensors = {name: tensor.half() for name, tensor in fitted.network.state_dict().items()}
        tensors |= {"input_mean": fitted.input_mean, "input_std": fitted.input_std}
        settings = {
            "sizes": fitted.network.sizes,
            "members": fitted.network.members,
            "gap_mean": fitted.gap_mean,
            "gap_std": fitted.gap_std,
            "validation": self.validation and self.validation.as_dict(),
        }
        write_weights(path, FORMAT, tensors, settings)

    @classmethod
    def load(cls, path: str | Path) -> BandGapModel:
        """Read a model that `save` wrote.

        Raises:
            ValueError: The file is missing, cut short or holds something else; the message names it.
        """
        stored, settings = read_weights(path, FORMAT, "a band-gap model")
        tensors = {name: tensor.float() for name, tensor in stored.items()}
        model = cls()
        model.validation = BandGapValidation(**settings["validation"]) if settings.get("validation") else None
        network = MLPEnsemble(settings["sizes"], settings["members"])
        input_mean, input_std = tensors.pop("input_mean"), tensors.pop("input_std")
        network.load_state_dict(tensors)
        network.eval().requires_grad_(False)
        model._fitted = FittedNetwork(network, input_mean, input_std, settings["gap_mean"], settings["gap_std"])
        return model

    def _network(self) -> FittedNetwork:
        if self._fitted is None:
            raise RuntimeError("BandGapModel: not fitted; call fit, load or default first")
        return self._fitted

    @torch.no_grad()
    def _outputs(self, materials: Iterable[str]) -> Tensor:
        """Return the raw outputs of each network, (S, N, 3)."""
        fitted = self._network()
        features = composition_features(CompositionBatch.from_formulas(materials))
        outputs: Tensor = fitted.network(standardise(features, fitted.input_mean, fitted.input_std))
        return outputs

    def _distribution(self, outputs: Tensor) -> BandGapDistribution:
        fitted = self._network()
        mean = outputs.mean(0)
        gap = (mean[:, GAP] * fitted.gap_std + fitted.gap_mean).clamp_min(0.0)
        return BandGapDistribution(torch.sigmoid(mean[:, GAPPED]), gap, mean[:, LOG_SPREAD].clamp(-4.0, 2.0).exp())


@lru_cache(maxsize=1)
def _default_model() -> BandGapModel:
    with resources.as_file(resources.files("surrogates") / "data" / DEFAULT_WEIGHTS) as path:
        return BandGapModel.load(path)


def fit_default(seed: int = 0, options: TrainingOptions | None = None) -> BandGapModel:
    """Return a new model fitted to the embedded tables (takes minutes)."""
    measured = measured_gaps()
    return BandGapModel(options, seed).fit(measured.materials, measured.labels)
