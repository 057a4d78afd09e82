"""The model of what an oracle labels: refitted as labels come in, corrected where it was found wrong.

    model = LabelModel(["e_above_hull", "hardness"]).fit(formulas, labels)      # labels (N, 2), NaN where missing
    model.predict(["SrTiO3"])                                                   # mean and calibrated std, (1, 2)
    print(model.reports["e_above_hull"])                                        # error of unseen chemical systems

Where an embedded model predicts the property, only the difference to it is learned: a few dozen labels correct it to
another method or to another chemistry. Everything else is learned from the labels alone. Where many labels are exactly
zero and none is negative, as with the gaps of metals, whether a value is zero is learned apart from its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from envs.formula import CompositionBatch
from surrogates.base import Prediction
from surrogates.compact_features import CompactFeatures, DescribedMaterials
from surrogates.distribution import BandGapDistribution, GaussianDistribution, PropertyDistribution
from surrogates.energy import EnergyModel
from surrogates.regression import MEMBERS, Forest, GaussianProcess, Regression, ZeroGate
from surrogates.validation import chemical_system_groups

RegressionKind = Literal["auto", "gaussian-process", "forest"]
MOST_FOR_GAUSSIAN_PROCESS = 500
"""Labels beyond which a Gaussian process takes too long to fit."""
FEWEST_LABELS = 10
_ZERO = 1e-6
_FEWEST_ZEROS, _SHARE_OF_ZEROS = 5, 0.1
"""From when on zeros are learned apart."""
_PRIOR_LABELS = 10.0
"""Weight, in labels, of a spread that is right as it is."""


@dataclass(frozen=True)
class LabelReport:
    """How well labels of unseen chemical systems are predicted (grouped cross-validation)."""

    property: str
    kind: str
    """gaussian-process, forest, or embedded when there are too few labels to learn from."""
    labels: int
    mae: float
    """Mean absolute error, in the unit of the property."""
    embedded_mae: float | None
    """That of the embedded model, which never saw the labels; None where there is none."""
    within_one_std: float
    """Share of labels within one calibrated standard deviation; 0.68 would be right."""
    spread: float
    """Factor by which the model's own standard deviation was calibrated."""


@dataclass(frozen=True, eq=False)
class _Fitted:
    regression: Regression
    """Of the difference to the embedded prediction where there is one; of the values that are not zero with a gate."""
    spread: float
    gate: ZeroGate | None = None


@dataclass(frozen=True, eq=False)
class _Size:
    """Normal prediction of N values, or of their size if they are not zero, with the probability of that."""

    mean: Tensor
    std: Tensor
    p_positive: Tensor | None

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the values themselves, (N,) each."""
        if self.p_positive is None:
            return self.mean, self.std
        p, mean = self.p_positive, self.mean.clamp_min(0)
        return p * mean, (p * self.std.square() + p * (1 - p) * mean.square()).sqrt()


class LabelModel:
    """Models of m properties, each fitted to the labels that there are; implements `Surrogate`.

    Args:
        names: The m properties.
        energies: The embedded model of energies to start from, of a reference table of yours for instance.
        kind: auto is a Gaussian process up to 500 labels, and a forest beyond.
        seed: Of everything random.

    Raises:
        ValueError: Unknown kind.
    """

    def __init__(
        self,
        names: Sequence[str],
        energies: EnergyModel | None = None,
        kind: RegressionKind = "auto",
        seed: int = 0,
    ) -> None:
        if kind not in ("auto", "gaussian-process", "forest"):
            raise ValueError(f"model: unknown {kind!r} (expected auto, gaussian-process or forest)")
        self.names, self.kind, self.seed = tuple(names), kind, seed
        self.reports: dict[str, LabelReport] = {}
        self._features = CompactFeatures(energies)
        self._last: tuple[CompositionBatch, DescribedMaterials] | None = None
        self._fitted: dict[str, _Fitted] = {}

    def fit(self, materials: Iterable[str], labels: Tensor) -> Self:
        """Fit to labels.

        Args:
            materials: N formulas.
            labels: Float (N, m), NaN where a property was not labelled.

        Raises:
            ValueError: Wrong shape, an infinite label, or fewer than 10 labels of a property that no embedded model
                predicts.
        """
        batch = CompositionBatch.from_formulas(materials)
        values = torch.as_tensor(labels, dtype=torch.float64)
        if values.shape != (len(batch), len(self.names)):
            raise ValueError(f"labels: expected the shape {(len(batch), len(self.names))}, not {tuple(values.shape)}")
        if bool(values.isinf().any()):
            raise ValueError("labels: one is infinite (expected finite values, or NaN where missing)")
        self.reports, self._fitted = {}, {}
        for name, column in zip(self.names, values.unbind(1), strict=True):
            labelled = ~column.isnan()
            of_property = batch.rows(labelled)
            described = self._describe(of_property)
            self.reports[name] = self._fit_one(name, described, column[labelled], chemical_system_groups(of_property))
        return self

    def _fit_one(self, name: str, described: DescribedMaterials, values: Tensor, groups: Tensor) -> LabelReport:
        base, n = described.embedded.get(name), len(values)
        embedded_error = None if base is None else float((values - base).abs().mean())
        if n < FEWEST_LABELS:
            if base is None:
                raise ValueError(f"{name}: {n} labels are too few to learn from (expected at least {FEWEST_LABELS})")
            return LabelReport(name, "embedded", n, float("nan"), embedded_error, float("nan"), 1.0)
        zero = values.abs() <= _ZERO
        gated = int(zero.sum()) >= max(_FEWEST_ZEROS, _SHARE_OF_ZEROS * n) and bool((values >= -_ZERO).all())
        gated = gated and int((~zero).sum()) >= FEWEST_LABELS
        learned = ~zero if gated else torch.ones(n, dtype=torch.bool)
        start = described.embedded_if_positive.get(name, base) if gated else base
        target = values if start is None else values - start
        kind = self._kind(int(learned.sum()))
        fitted, held_out, std = self._learn(kind, described.features[learned], target[learned], groups[learned])
        size_mean, size_std, p = held_out, std, None
        if gated:
            gate = ZeroGate(described.features, ~zero, self.seed)
            fitted, p = _Fitted(fitted.regression, fitted.spread, gate), gate.held_out(groups)
            size_mean, size_std = fitted.regression.predict(described.features)  # of zeros, which it never saw
            size_mean[learned], size_std = held_out, size_std * fitted.spread
            size_std[learned] = std
        if start is not None:
            size_mean = size_mean + start
        mean, std = _Size(size_mean, size_std, p).moments()
        self._fitted[name] = fitted
        within = float(((values - mean).abs() <= std).double().mean())
        error = float((values - mean).abs().mean())
        return LabelReport(name, kind, n, error, embedded_error, within, fitted.spread)

    def _kind(self, n: int) -> str:
        if self.kind != "auto":
            return self.kind
        return "gaussian-process" if n <= MOST_FOR_GAUSSIAN_PROCESS else "forest"

    def _learn(self, kind: str, features: Tensor, target: Tensor, groups: Tensor) -> tuple[_Fitted, Tensor, Tensor]:
        """Fit, calibrate on labels held out; return the fit, and mean and standard deviation it had for these, (N,)."""
        regression: Regression = (Forest if kind == "forest" else GaussianProcess)(features, target, self.seed)
        mean, std = regression.held_out(groups)
        std = std.clamp_min(1e-9)
        ratio = float(((target - mean).abs() / std).quantile(0.683).clamp(0.2, 5.0))
        spread = (len(target) * ratio + _PRIOR_LABELS) / (len(target) + _PRIOR_LABELS)
        return _Fitted(regression, spread), mean, spread * std

    def predict(self, materials: Iterable[str]) -> Prediction:
        """Return mean and calibrated standard deviation of the label, float (N, m) each."""
        described = self._describe(materials)
        means, stds = zip(*(self._size(name, described).moments() for name in self.names), strict=True)
        return Prediction(torch.stack(means, 1).float(), torch.stack(stds, 1).float())

    def distribution(self, name: str, materials: Iterable[str]) -> PropertyDistribution:
        """Return the predictive distribution of one property: normal, or a mixture with zero."""
        size = self._size(name, self._describe(materials))
        mean, std = size.mean.float(), size.std.float()
        if size.p_positive is None:
            return GaussianDistribution(mean, std)
        return BandGapDistribution(size.p_positive.float(), mean.clamp_min(0), std.clamp_min(1e-6))

    def members(self, materials: Iterable[str]) -> Tensor:
        """Return S functions drawn from what the labels leave open, float (S, N, m).

        Mean and standard deviation over S are those of `predict`, in so far as S are enough to tell.
        """
        described = self._describe(materials)
        columns = []
        for name in self.names:
            size, fitted = self._size(name, described), self._fitted.get(name)
            drawn = size.mean + self._deviations(fitted, described) * size.std
            if fitted is not None and fitted.gate is not None:
                drawn = drawn.clamp_min(0) * fitted.gate.draws(described.features)
            columns.append(drawn)
        return torch.stack(columns, 2).float()

    def _describe(self, materials: Iterable[str]) -> DescribedMaterials:
        """Return the features of N materials; those of the batch described last are kept, for its other properties."""
        if self._last is not None and self._last[0] is materials:
            return self._last[1]
        batch = CompositionBatch.from_formulas(materials)
        self._last = (batch, self._features(batch))
        return self._last[1]

    def _size(self, name: str, described: DescribedMaterials) -> _Size:
        base, fitted = described.embedded.get(name), self._fitted.get(name)
        if fitted is None:
            if name not in self.reports or base is None:
                raise RuntimeError("LabelModel: not fitted; call fit first")
            return _Size(base, described.embedded_std[name], None)
        gated = fitted.gate is not None
        mean, std = fitted.regression.predict(described.features)
        start = described.embedded_if_positive.get(name, base) if gated else base
        p = None if fitted.gate is None else fitted.gate.probability(described.features)
        return _Size(mean if start is None else mean + start, std * fitted.spread, p)

    def _deviations(self, fitted: _Fitted | None, described: DescribedMaterials) -> Tensor:
        """Return how far S functions lie from their mean, in standard deviations, (S, N)."""
        n = len(described.features)
        if fitted is None:  # nothing is known of how the embedded model's errors hang together: one shift for all
            generator = torch.Generator().manual_seed(self.seed)
            drawn = torch.randn(MEMBERS, 1, generator=generator, dtype=torch.float64).expand(MEMBERS, n)
        else:
            drawn = fitted.regression.draws(described.features)
        deviation = drawn - drawn.mean(0)
        result: Tensor = deviation / deviation.square().mean(0).sqrt().clamp_min(1e-9)
        return result
