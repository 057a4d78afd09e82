"""Training of the band-gap network: slow, accurate models are distilled into one fast ensemble of small networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

from envs.formula import CompositionBatch
from surrogates.band_gap_data import LabelledMaterials
from surrogates.band_gap_teacher import BandGapTeacher
from surrogates.features import composition_features
from surrogates.mlp_ensemble import MLPEnsemble
from surrogates.validation import grouped_folds

GAP, LOG_SPREAD, MEASURED, COMPUTED = range(4)
"""Outputs of the network: gap (standardised), log of its spread (eV), logits of the measured and the computed class."""


@dataclass(frozen=True)
class TrainingOptions:
    """How the network is trained."""

    members: int = 6
    hidden: tuple[int, ...] = (128, 128)
    steps: int = 2500
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1
    gap_batch: int = 64
    """Rows of a batch, a member: with a measured gap."""
    class_batch: int = 96
    """Rows with a measured class."""
    computed_batch: int = 160
    """Rows with a computed class; their gaps are the teacher's."""
    teacher_trees: int = 200
    calibration_folds: int = 5


@dataclass(frozen=True, eq=False)
class FittedNetwork:
    """A trained network with what its inputs and outputs are scaled by."""

    network: MLPEnsemble
    input_mean: Tensor
    input_std: Tensor
    gap_mean: float
    gap_std: float


def standardise(features: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return features in standard deviations, limited to +-6, (N, F)."""
    return ((features - mean) / std).clamp_(-6.0, 6.0)


def train_network(
    measured: LabelledMaterials, computed: LabelledMaterials, options: TrainingOptions, seed: int
) -> FittedNetwork:
    """Train the ensemble on measured gaps (eV, 0 for metals) and computed classes (0 to 1)."""
    raw = torch.cat([composition_features(measured.materials), composition_features(computed.materials)])
    mean, std = raw.mean(0), raw.std(0).clamp_min(1e-3)
    inputs = standardise(raw, mean, std)
    n_measured = len(measured)
    gapped = measured.labels > 0
    gap_rows = gapped.nonzero().squeeze(1)
    gaps = measured.labels[gap_rows]
    teacher_mean, teacher_spread = _teach(inputs, gap_rows, gaps, measured.materials.rows(gap_rows), options, seed)

    gap_mean, gap_std = float(gaps.mean()), float(gaps.std())
    targets = torch.full((len(inputs), 4), torch.nan)
    targets[gap_rows, GAP] = (gaps - gap_mean) / gap_std
    targets[n_measured:, GAP] = (teacher_mean[n_measured:] - gap_mean) / gap_std
    targets[gap_rows, LOG_SPREAD] = teacher_spread[gap_rows].log()
    targets[n_measured:, LOG_SPREAD] = teacher_spread[n_measured:].log()
    targets[:n_measured, MEASURED] = gapped.float()
    targets[n_measured:, COMPUTED] = computed.labels
    pools = (gap_rows, torch.arange(n_measured), torch.arange(n_measured, len(inputs)))
    network = _fit_ensemble(inputs, targets, pools, options, seed)
    return FittedNetwork(network, mean, std, gap_mean, gap_std)


def _teach(
    inputs: Tensor, gap_rows: Tensor, gaps: Tensor, materials: CompositionBatch, options: TrainingOptions, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the teacher's mean and spread (eV) for all inputs; the spread is scaled to hold 68 % of unseen systems.

    Rows with a measured gap get the spread that a teacher had which did not know them.
    """
    teacher_inputs = inputs
    folds = grouped_folds(materials, options.calibration_folds, seed)
    unseen_spread, ratio = torch.zeros(len(gaps)), torch.zeros(len(gaps))
    for fold in range(options.calibration_folds):
        train, test = (folds != fold).nonzero().squeeze(1), (folds == fold).nonzero().squeeze(1)
        teacher = BandGapTeacher(seed, options.teacher_trees // 2).fit(teacher_inputs[gap_rows[train]], gaps[train])
        mean, spread = teacher.predict(teacher_inputs[gap_rows[test]])
        unseen_spread[test] = spread
        ratio[test] = (mean - gaps[test]).abs() / spread.clamp_min(1e-3)
    scale = float(ratio.quantile(0.683))
    mean, spread = (
        BandGapTeacher(seed, options.teacher_trees).fit(teacher_inputs[gap_rows], gaps).predict(teacher_inputs)
    )
    spread[gap_rows] = unseen_spread
    return mean.clamp_min(0.0), (scale * spread).clamp_min(0.02)


def _fit_ensemble(
    inputs: Tensor, targets: Tensor, pools: tuple[Tensor, Tensor, Tensor], options: TrainingOptions, seed: int
) -> MLPEnsemble:
    """Minimise absolute errors of the gaps and cross-entropies of the classes; each member draws its own batches."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (inputs.shape[1], *options.hidden, 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout draws from the global generator
        network = MLPEnsemble(sizes, options.members, generator, options.dropout).train()
        optimizer = torch.optim.AdamW(
            [
                {"params": list(network.weights), "weight_decay": options.weight_decay},
                {"params": list(network.biases), "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, options.learning_rate, total_steps=options.steps, pct_start=0.2
        )
        sizes_of_batch = (options.gap_batch, options.class_batch, options.computed_batch)
        for _ in range(options.steps):
            rows = torch.cat(
                [
                    pool[torch.randint(len(pool), (options.members, size), generator=generator)]
                    for pool, size in zip(pools, sizes_of_batch, strict=True)
                ],
                1,
            )
            loss = _loss(network(inputs[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval().requires_grad_(False)


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the sum over members of the mean loss of each head over the rows that have a target."""
    known = targets.isfinite()
    weights = known / known.sum(1, keepdim=True).clamp_min(1)
    filled = targets.nan_to_num()
    regression = smooth_l1_loss(outputs[..., :MEASURED], filled[..., :MEASURED], beta=0.3, reduction="none")
    classes = binary_cross_entropy_with_logits(outputs[..., MEASURED:], filled[..., MEASURED:], reduction="none")
    return (torch.cat([regression, classes], -1) * weights).sum()
