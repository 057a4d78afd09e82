"""Training of the formation-energy network: an ensemble of small networks, and a spread that holds for unseen systems.

The networks learn the energies directly; nothing is distilled from a slower model. How far they err is
measured on chemical systems that they have not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from envs.chemistry import MAX_ATOMIC_NUMBER
from envs.formula import CompositionBatch
from surrogates.features import composition_features
from surrogates.mlp_ensemble import MLPEnsemble
from surrogates.pair_features import pair_features, pair_weight, seen_pairs, unseen_share
from surrogates.validation import grouped_folds

DILUTE = 0.08
"""Pair weight at which the damping of `damping` has reached 63 %; that of a 1:10 compound is about 0.08."""

SMALLEST_SPREAD = 0.01
"""eV/atom, smallest constant part of the spread."""

WITHIN_ONE_STD = 0.6827
"""Share of a normal distribution within one standard deviation."""


@dataclass(frozen=True)
class EnergyTrainingOptions:
    """How the network is trained; for refits within a campaign lower `steps` and `calibration_folds`."""

    members: int = 4
    hidden: tuple[int, ...] = (192, 128)
    steps: int = 4000
    batch: int = 64
    """Rows of a batch, a member."""
    learning_rate: float = 3e-3
    weight_decay: float = 0.2
    calibration_folds: int = 4
    """Folds of chemical systems on which the spread is measured."""


@dataclass(frozen=True)
class EnergySpread:
    """Standard deviation of the error, eV/atom: a constant, one part for disagreement and one for unseen pairs.

    sqrt(constant^2 + (disagreement * d)^2 + (unseen * u)^2), where d is the standard deviation over the ensemble in
    eV/atom and u the share of pairs of unlike atoms whose elements never occurred together in training.
    """

    constant: float
    disagreement: float
    unseen: float

    def __call__(self, disagreement: Tensor, unseen: Tensor) -> Tensor:
        """Return the standard deviations in eV/atom, (N,)."""
        variance = self.constant**2 + (self.disagreement * disagreement).square() + (self.unseen * unseen).square()
        return variance.sqrt()


@dataclass(frozen=True, eq=False)
class FittedEnergyNetwork:
    """A trained ensemble with what its inputs and outputs are scaled by."""

    network: MLPEnsemble
    input_mean: Tensor
    input_std: Tensor
    energy_mean: float
    energy_std: float
    seen: Tensor
    """Bool (104 * 104,), pairs of elements that occurred together in training, by `pair_features.element_pairs`."""
    spread: EnergySpread

    @torch.no_grad()
    def energies(self, materials: CompositionBatch) -> Tensor:
        """Return the formation energy by each member, (S, N), eV/atom; 0 for elements."""
        inputs = _standardise(energy_features(materials), self.input_mean, self.input_std)
        outputs: Tensor = self.network(inputs).squeeze(-1)
        return (outputs * self.energy_std + self.energy_mean) * damping(materials)

    def knows_elements(self, materials: CompositionBatch) -> Tensor:
        """Return whether each element of a composition occurred in training, bool (N,)."""
        trained = self.seen.view(MAX_ATOMIC_NUMBER + 1, -1).any(1)
        return (trained[materials.atomic_numbers] | (materials.amounts <= 0)).all(1)

    def predict(self, materials: CompositionBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the energies by member (S, N), their mean and its calibrated standard deviation (N,), eV/atom."""
        energies, factor = self.energies(materials), damping(materials)
        spread = self.spread(_disagreement(energies, factor), unseen_share(materials, self.seen))
        return energies, energies.mean(0), spread * factor


def energy_features(materials: CompositionBatch) -> Tensor:
    """Return the features that the network sees, (N, F)."""
    return torch.cat([composition_features(materials), pair_features(materials)], 1)


def damping(materials: CompositionBatch) -> Tensor:
    """Return the factor that takes energies and spread to zero where a composition nears a pure element, (N,).

    It is linear in the amount of a dilute component, as the formation energy is, and near one for ordinary compounds.
    """
    return 1 - torch.exp(-pair_weight(materials) / DILUTE)


def train_energy_network(
    materials: CompositionBatch, energies: Tensor, options: EnergyTrainingOptions, seed: int
) -> FittedEnergyNetwork:
    """Train the ensemble on formation energies (N,), eV/atom, and calibrate its spread on systems held out in turn."""
    spread = held_out_predictions(materials, energies, options, options.calibration_folds, seed).spread()
    return replace(_train(materials, energies, options, seed), spread=spread)


@dataclass(frozen=True, eq=False)
class HeldOutPredictions:
    """What networks say of chemical systems that they were not trained on; all tensors (N,)."""

    energies: Tensor
    """True formation energies, eV/atom."""
    mean: Tensor
    """Predicted formation energies, eV/atom."""
    factor: Tensor
    """What `damping` multiplied them by."""
    disagreement: Tensor
    unseen: Tensor
    """Inputs of `EnergySpread`."""
    folds: Tensor
    """Long, the fold in which a material was held out."""

    def spread(self, rows: Tensor | None = None) -> EnergySpread:
        """Return the spread calibrated on the compounds, or on those of them that a mask (N,) selects."""
        used = self.factor > 0 if rows is None else rows & (self.factor > 0)
        errors = (self.mean - self.energies).abs() / self.factor
        return calibrated_spread(errors[used], self.disagreement[used], self.unseen[used])

    def calibrated_std(self) -> Tensor:
        """Return the standard deviation of each prediction in eV/atom, (N,), calibrated on the other folds' errors."""
        result = torch.zeros_like(self.mean)
        for fold in torch.unique(self.folds):
            test = self.folds == fold
            result[test] = self.spread(~test)(self.disagreement[test], self.unseen[test]) * self.factor[test]
        return result


def held_out_predictions(
    materials: CompositionBatch,
    energies: Tensor,
    options: EnergyTrainingOptions,
    folds: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> HeldOutPredictions:
    """Train on all folds but one in turn and predict the one left out; chemical systems are never split.

    Args:
        materials: N compositions.
        energies: Formation energies in eV/atom, (N,).
        options: How to train.
        folds: Number of folds.
        seed: Seed of folds and networks.
        progress: Called after each fold with its number.
    """
    fold_of = grouped_folds(materials, folds, seed)
    mean, disagreement, unseen = torch.zeros(3, len(materials)).unbind()
    factor = damping(materials)
    for fold in range(folds):
        train, test = fold_of != fold, fold_of == fold
        if bool(train.any()) and bool(test.any()):
            fitted = _train(materials.rows(train), energies[train], options, seed + 1 + fold)
            held_out = materials.rows(test)
            predicted = fitted.energies(held_out)
            mean[test], disagreement[test] = predicted.mean(0), _disagreement(predicted, factor[test])
            unseen[test] = unseen_share(held_out, fitted.seen)
        if progress is not None:
            progress(fold)
    return HeldOutPredictions(energies, mean, factor, disagreement, unseen, fold_of)


def _disagreement(energies: Tensor, factor: Tensor) -> Tensor:
    """Return the standard deviation over the members' energies (S, N) before damping, (N,)."""
    return (energies - energies.mean(0)).square().mean(0).sqrt() / factor.clamp_min(1e-3)


def calibrated_spread(errors: Tensor, disagreement: Tensor, unseen: Tensor) -> EnergySpread:
    """Return the spread that explains errors best and holds 68.3 % of them.

    The parts maximise the likelihood under Student's t with 4 degrees of freedom, which outliers do not rule; they are
    then scaled together.

    Args:
        errors: (N,), absolute errors of held-out predictions, eV/atom.
        disagreement: (N,), standard deviation over the ensemble, eV/atom.
        unseen: (N,), share of pairs of elements that were not seen together.
    """
    parts = torch.tensor([errors.median().clamp_min(SMALLEST_SPREAD), 1.0, 0.1]).log().requires_grad_()
    optimizer = torch.optim.Adam([parts], lr=0.05)
    inputs = torch.stack([torch.ones_like(errors), disagreement, unseen], 1).square()
    for _ in range(400):
        variance = inputs @ (2 * parts).exp()
        loss = (0.5 * variance.log() + 2.5 * (1 + errors.square() / (4 * variance)).log()).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    std = (inputs @ (2 * parts.detach()).exp()).sqrt()
    scale = float((errors / std).quantile(WITHIN_ONE_STD))
    constant, per_disagreement, per_unseen = (scale * parts.detach().exp()).tolist()
    return EnergySpread(max(constant, SMALLEST_SPREAD), per_disagreement, per_unseen)


def _standardise(features: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return ((features - mean) / std).clamp_(-6.0, 6.0)


def _train(
    materials: CompositionBatch, energies: Tensor, options: EnergyTrainingOptions, seed: int
) -> FittedEnergyNetwork:
    """Minimise the absolute error, smoothed below 0.1 standard deviations; each member draws batches of its own."""
    generator = torch.Generator().manual_seed(seed)
    features, factor = energy_features(materials), damping(materials)
    input_mean, input_std = features.mean(0), features.std(0, correction=0).clamp_min(1e-3)
    inputs = _standardise(features, input_mean, input_std)
    energy_mean, energy_std = float(energies.mean()), max(float(energies.std(correction=0)), 1e-3)
    network = MLPEnsemble((inputs.shape[1], *options.hidden, 1), options.members, generator)
    groups = [
        {"params": list(network.weights), "weight_decay": options.weight_decay},
        {"params": list(network.biases), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=options.steps, pct_start=0.2
    )
    targets = energies / energy_std
    for _ in range(options.steps):
        rows = torch.randint(len(inputs), (options.members, options.batch), generator=generator)
        predicted = (network(inputs[rows]).squeeze(-1) + energy_mean / energy_std) * factor[rows]
        loss = smooth_l1_loss(predicted, targets[rows], beta=0.1, reduction="none").mean(1).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval().requires_grad_(False)
    uncalibrated = EnergySpread(SMALLEST_SPREAD, 1.0, 0.0)
    return FittedEnergyNetwork(
        network, input_mean, input_std, energy_mean, energy_std, seen_pairs(materials), uncalibrated
    )
