"""The model of what an oracle labels: refitted as labels come in, corrected where it was found wrong.

    model = LabelModel(["e_above_hull", "hardness"]).fit(formulas, labels)      # labels (N, 2), NaN where missing
    model.predict(["SrTiO3"])                                                   # mean and calibrated std, (1, 2)
    print(model.reports["e_above_hull"])                                        # error of unseen chemical systems

Where an embedded model predicts the property, only the difference to it is learned: a few dozen labels correct it to
another method or to another chemistry. Everything else is learned from the labels alone. Where many labels are exactly
zero and none is negative, as with the gaps of metals, whether a value is zero is learned apart from its size.

Labels of cheaper oracles take part as observations with noise (see `surrogates.cheap_labels`), for which the materials
that they share with the target must speak; of a material that one has labelled, the prediction is made without its
chemical system and then sharpened by its label.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor

from envs.formula import CompositionBatch, reduced_formula
from surrogates.base import Prediction
from surrogates.cheap_labels import (
    LEAST_SHARE,
    NO_AGREEMENT,
    Agreement,
    CheapLabels,
    agreement,
    correlation,
    noise_of,
    shrunk_correlation,
)
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
_MARGIN = 0.5
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
    sharpened: dict[str, _Sharpened] = field(default_factory=dict)
    """What is known of the materials that a cheaper oracle has labelled, by reduced formula."""


@dataclass(frozen=True)
class _Sharpened:
    """Prediction of one value, or of its size if it is not zero, with the probability of that."""

    mean: float
    std: float
    p_positive: float | None


@dataclass(frozen=True, eq=False)
class _Noisy:
    """M materials that only cheaper oracles have labelled, and what their labels stand for."""

    batch: CompositionBatch
    values: Tensor
    """Of the property, float64 (M,)."""
    noise: Tensor
    """Variance of the values as labels of the target, (M,)."""
    gate_noise: Tensor
    """The same for whether they are zero, (M,)."""


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

    def rows(self, index: slice) -> _Size:
        return _Size(self.mean[index], self.std[index], None if self.p_positive is None else self.p_positive[index])

    def sharpened(self, known: Sequence[_Sharpened | None]) -> _Size:
        """Return what is known of each material in place of the prediction, where there is something."""
        mean, std = self.mean.clone(), self.std.clone()
        p = None if self.p_positive is None else self.p_positive.clone()
        for row, entry in enumerate(known):
            if entry is not None:
                mean[row], std[row] = entry.mean, entry.std
                if p is not None and entry.p_positive is not None:
                    p[row] = entry.p_positive
        return _Size(mean, std, p)


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
        self.agreements: dict[str, list[Agreement]] = {}
        """By property, one for each cheaper oracle in the last fit."""
        self._features = CompactFeatures(energies)
        self._last: tuple[CompositionBatch, DescribedMaterials] | None = None
        self._fitted: dict[str, _Fitted] = {}

    def fit(self, materials: Iterable[str], labels: Tensor, cheaper: Sequence[CheapLabels] = ()) -> Self:
        """Fit to labels.

        Args:
            materials: N formulas.
            labels: Float (N, m), NaN where a property was not labelled.
            cheaper: What cheaper oracles said, of these materials and of others.

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
        self.reports, self._fitted, self.agreements = {}, {}, {}
        for column, name in enumerate(self.names):
            labelled = ~values[:, column].isnan()
            of_property, known = batch.rows(labelled), values[labelled, column]
            self.reports[name], held_out = self._fit_one(name, of_property, known)
            found = [self._agreement(of_property, known, held_out, other, column) for other in cheaper]
            self.agreements[name] = found
            pairs = [(how, cheap) for how, cheap in zip(found, cheaper, strict=True) if how.share]
            noisy = _noisy(of_property, known, pairs, column)
            if noisy is not None:
                self.reports[name], _ = self._fit_one(name, of_property, known, noisy)
        return self

    def _fit_one(
        self, name: str, of_property: CompositionBatch, values: Tensor, noisy: _Noisy | None = None
    ) -> tuple[LabelReport, _Size | None]:
        """Fit one property; return as well how its labels were predicted without their chemical systems."""
        base, n = self._describe(of_property).embedded.get(name), len(values)
        embedded_error = None if base is None else float((values - base).abs().mean())
        if n < FEWEST_LABELS:
            if base is None:
                raise ValueError(f"{name}: {n} labels are too few to learn from (expected at least {FEWEST_LABELS})")
            return LabelReport(name, "embedded", n, float("nan"), embedded_error, float("nan"), 1.0), None
        gated, noise = _is_gated(values), None
        if noisy is not None:
            of_property = CompositionBatch.from_formulas([*of_property, *noisy.batch])
            values, noise = torch.cat([values, noisy.values]), torch.cat([torch.zeros_like(values), noisy.noise])
        described, groups = self._describe(of_property), chemical_system_groups(of_property)
        base = described.embedded.get(name)
        zero = values.abs() <= _ZERO
        learned = ~zero if gated else torch.ones(len(values), dtype=torch.bool)
        start = described.embedded_if_positive.get(name, base) if gated else base
        target = values if start is None else values - start
        kind = self._kind(int(learned.sum()))
        fitted, held_out, std = self._learn(
            kind,
            described.features[learned],
            target[learned],
            groups[learned],
            None if noise is None else noise[learned],
        )
        size_mean, size_std, p = held_out, std, None
        if gated:
            of_gate = None if noisy is None else torch.cat([torch.zeros(n, dtype=torch.float64), noisy.gate_noise])
            gate = ZeroGate(described.features, ~zero, self.seed, of_gate)
            fitted, p = _Fitted(fitted.regression, fitted.spread, gate), gate.held_out(groups)
            size_mean, size_std = fitted.regression.predict(described.features)  # of zeros, which it never saw
            size_mean[learned], size_std = held_out, size_std * fitted.spread
            size_std[learned] = std
        if start is not None:
            size_mean = size_mean + start
        size = _Size(size_mean, size_std, p)
        if noisy is not None:
            fitted = replace(fitted, sharpened=_sharpen(size.rows(slice(n, None)), noisy))
        self._fitted[name] = fitted
        held = size.rows(slice(n))
        mean, std = held.moments()
        within = float(((values[:n] - mean).abs() <= std).double().mean())
        error = float((values[:n] - mean).abs().mean())
        return LabelReport(name, kind, n, error, embedded_error, within, fitted.spread), held

    @staticmethod
    def _agreement(
        materials: CompositionBatch, values: Tensor, held_out: _Size | None, cheap: CheapLabels, column: int
    ) -> Agreement:
        """Return how a cheaper oracle's labels go with N labels of one property and with what was predicted of them."""
        if held_out is None:
            return NO_AGREEMENT
        given = dict(zip(map(reduced_formula, cheap.materials), cheap.values[:, column].tolist(), strict=True))
        found = [given.get(reduced_formula(material), float("nan")) for material in materials]
        others = torch.tensor(found, dtype=torch.float64)
        both = ~others.isnan()
        if not _is_gated(values):
            return agreement(values[both], others[both], held_out.mean[both])
        positive, others_positive = (column[both] > _ZERO for column in (values, others))
        on_zero = shrunk_correlation(correlation(positive.double(), others_positive.double()), int(both.sum()))
        share_of_zero = max(on_zero, 0.0) ** 2
        both &= (values > _ZERO) & (others > _ZERO)
        found_size = agreement(values[both], others[both], held_out.mean[both])
        if min(share_of_zero, found_size.share) < LEAST_SHARE:
            return replace(found_size, share=0.0)
        return replace(found_size, share=min(share_of_zero, found_size.share), share_of_zero=share_of_zero)

    def _kind(self, n: int) -> str:
        if self.kind != "auto":
            return self.kind
        return "gaussian-process" if n <= MOST_FOR_GAUSSIAN_PROCESS else "forest"

    def _learn(
        self, kind: str, features: Tensor, target: Tensor, groups: Tensor, noise: Tensor | None
    ) -> tuple[_Fitted, Tensor, Tensor]:
        """Fit, calibrate on labels held out; return the fit, and mean and standard deviation it had for these, (N,)."""
        regression: Regression = (Forest if kind == "forest" else GaussianProcess)(features, target, self.seed, noise)
        mean, std = regression.held_out(groups)
        std = std.clamp_min(1e-9)
        misses = (target - mean).abs() / std
        misses = misses if noise is None else misses[noise == 0]
        ratio = float(misses.quantile(0.683).clamp(0.2, 5.0))
        spread = (len(misses) * ratio + _PRIOR_LABELS) / (len(misses) + _PRIOR_LABELS)
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
        """Return the prediction of the batch that was described last."""
        base, fitted = described.embedded.get(name), self._fitted.get(name)
        if fitted is None:
            if name not in self.reports or base is None:
                raise RuntimeError("LabelModel: not fitted; call fit first")
            return _Size(base, described.embedded_std[name], None)
        gated = fitted.gate is not None
        mean, std = fitted.regression.predict(described.features)
        start = described.embedded_if_positive.get(name, base) if gated else base
        p = None if fitted.gate is None else fitted.gate.probability(described.features)
        size = _Size(mean if start is None else mean + start, std * fitted.spread, p)
        if fitted.sharpened:
            assert self._last is not None and self._last[1] is described
            size = size.sharpened([fitted.sharpened.get(reduced_formula(m)) for m in self._last[0]])
        return size

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


def _is_gated(values: Tensor) -> bool:
    """Return whether zeros among the labels are learned apart."""
    zeros, n = int((values.abs() <= _ZERO).sum()), len(values)
    enough = zeros >= max(_FEWEST_ZEROS, _SHARE_OF_ZEROS * n) and n - zeros >= FEWEST_LABELS
    return enough and bool((values >= -_ZERO).all())


def _noisy(
    labelled: CompositionBatch, labels: Tensor, cheaper: Sequence[tuple[Agreement, CheapLabels]], column: int
) -> _Noisy | None:
    """Return what cheaper oracles say of materials without a label of the target, of each the most telling one.

    No value counts as further outside the range of the target's labels than by half of it.
    """
    known = set(map(reduced_formula, labelled))
    found: dict[str, tuple[float, float, float]] = {}
    for how, cheap in sorted(cheaper, key=lambda pair: -pair[0].share):
        gate_noise = noise_of(how.share_of_zero, 0.25) if how.share_of_zero else 0.0
        for material, value in zip(
            map(reduced_formula, cheap.materials), cheap.values[:, column].tolist(), strict=True
        ):
            if material in known or math.isnan(value):
                continue
            is_zero = bool(how.share_of_zero) and abs(value) <= _ZERO
            stands_for = 0.0 if is_zero else (value - how.offset) / how.slope
            found.setdefault(material, (stands_for, how.noise, gate_noise))
    if not found:
        return None
    values, noise, gate_noises = torch.tensor(list(found.values()), dtype=torch.float64).unbind(1)
    low, high = float(labels.min()), float(labels.max())
    margin = _MARGIN * (high - low)
    values = torch.where(values == 0, values, values.clamp(low - margin, high + margin))
    return _Noisy(CompositionBatch.from_formulas(list(found)), values, noise, gate_noises)


def _sharpen(held_out: _Size, noisy: _Noisy) -> dict[str, _Sharpened]:
    """Return what is known of materials after their own cheap labels, by Bayes' rule for normal distributions."""
    weight = held_out.std.square() / (held_out.std.square() + noisy.noise)
    p = held_out.p_positive
    positive = noisy.values.abs() > _ZERO
    if p is not None:  # a zero says nothing about the size
        weight = weight * positive
        p_variance = p * (1 - p)
        p = p + p_variance / (p_variance + noisy.gate_noise) * (positive.double() - p)
    mean = held_out.mean + weight * (noisy.values - held_out.mean)
    std = held_out.std * (1 - weight).sqrt()
    ps = [None] * len(mean) if p is None else p.tolist()
    rows = zip(map(reduced_formula, noisy.batch), mean.tolist(), std.tolist(), ps, strict=True)
    return {material: _Sharpened(*entry) for material, *entry in rows}
