"""Training of the band-gap network: slow, accurate models are distilled into one fast ensemble of small networks.

The network learns the teachers' answers on the known formulas and on random substitutions of them, and the measured
gaps themselves. Unlike them it is smooth in composition and fast enough for a training loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

from envs.formula import CompositionBatch
from surrogates.band_gap_data import LabelledMaterials
from surrogates.band_gap_teacher import ClassTeacher, GapTeacher
from surrogates.features import composition_features
from surrogates.mlp_ensemble import MLPEnsemble
from surrogates.validation import grouped_folds

GAP, LOG_SPREAD, GAPPED = range(3)
"""Outputs of the network: gap (standardised), log of its spread (eV), logit of the probability of a gap."""

SMALLEST_SPREAD = 0.02  # eV


@dataclass(frozen=True)
class TrainingOptions:
    """How the network is trained."""

    members: int = 4
    hidden: tuple[int, ...] = (192, 128)
    steps: int = 9000
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    gap_batch: int = 24
    """Rows of a batch, a member: with a measured gap above zero."""
    known_batch: int = 64
    """Rows that are known materials."""
    substituted_batch: int = 256
    """Rows that are substitutions."""
    class_weight: float = 6.0
    """Weight of the cross-entropy beside the absolute error of the gap in standard deviations."""
    trees: int = 200
    """Trees of each teacher."""
    calibration_folds: int = 4
    substitutions: int = 120_000
    """Compositions one element away from a known one; half of them from materials with a measured label."""
    spread_rows: int = 30_000
    """How many of all compositions the teacher gives a spread, which is slow."""


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
    """Train the ensemble on measured gaps (eV, 0 for metals) and computed classes (share of gapped structures, 0 to 1).

    Computed classes of formulas with a measured label are not used.
    """
    computed = computed.without(set(measured.materials))
    generator = torch.Generator().manual_seed(seed)
    half = options.substitutions // 2
    everything = [
        measured.materials,
        computed.materials,
        _substitutions([measured.materials, computed.materials], options.substitutions - half, generator),
        _substitutions([measured.materials], half, generator),
    ]
    inputs = torch.cat([composition_features(materials) for materials in everything])
    n_measured, n_known = len(measured), len(measured) + len(computed)
    mean, std = inputs[:n_known].mean(0), inputs[:n_known].std(0).clamp_min(1e-3)
    inputs = standardise(inputs, mean, std)

    gapped = measured.labels > 0
    gap_rows, metal_rows = gapped.nonzero().squeeze(1), (~gapped).nonzero().squeeze(1)
    gaps = measured.labels[gap_rows]
    gap_mean, gap_std = float(gaps.mean()), float(gaps.std())
    gap, spread = _teach_gaps(inputs, gap_rows, gaps, measured.materials.rows(gap_rows), options, seed)
    gap[gap_rows], gap[metal_rows] = gaps, torch.nan
    classes = ClassTeacher(seed, options.trees)
    classes.fit(inputs[:n_measured], gapped, inputs[n_measured:n_known], computed.labels)
    targets = torch.stack([(gap - gap_mean) / gap_std, spread.log(), classes.predict(inputs)], 1)
    pools = (gap_rows, torch.arange(n_known), torch.arange(n_known, len(inputs)))
    network = _fit_ensemble(inputs, targets, pools, options, generator)
    return FittedNetwork(network, mean, std, gap_mean, gap_std)


def _substitutions(sources: list[CompositionBatch], count: int, generator: torch.Generator) -> CompositionBatch:
    """Return up to `count` compositions that differ from a known one in one element; elements as frequent as known."""
    width = max(source.atomic_numbers.shape[1] for source in sources)
    padded = [_padded(source, width) for source in sources]
    numbers, amounts = (torch.cat([pair[side] for pair in padded]) for side in (0, 1))
    elements = numbers[numbers > 0]
    rows = torch.randint(len(numbers), (count,), generator=generator)
    numbers, amounts = numbers[rows], amounts[rows]
    slot = (torch.rand(numbers.shape, generator=generator) * (numbers > 0)).argmax(1, keepdim=True)
    new = elements[torch.randint(len(elements), (count, 1), generator=generator)]
    distinct = ~(numbers == new).any(1)
    return CompositionBatch(numbers.scatter(1, slot, new)[distinct], amounts[distinct])


def _padded(materials: CompositionBatch, width: int) -> tuple[Tensor, Tensor]:
    missing = (0, width - materials.atomic_numbers.shape[1])
    return (
        torch.nn.functional.pad(materials.atomic_numbers, missing),
        torch.nn.functional.pad(materials.amounts, missing),
    )


def _teach_gaps(
    inputs: Tensor, gap_rows: Tensor, gaps: Tensor, materials: CompositionBatch, options: TrainingOptions, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the teacher's gap and spread (eV) for all inputs; the spread is scaled to hold 68 % of unseen systems.

    Rows with a measured gap get the spread that a teacher had which did not know them; of the others only a random part
    gets one, the rest NaN.
    """
    folds = grouped_folds(materials, options.calibration_folds, seed)
    unseen, ratio = torch.zeros(len(gaps)), torch.zeros(len(gaps))
    for fold in range(options.calibration_folds):
        train, test = (folds != fold).nonzero().squeeze(1), (folds == fold).nonzero().squeeze(1)
        teacher = GapTeacher(seed, max(options.trees // 4, 2)).fit(inputs[gap_rows[train]], gaps[train])
        unseen[test] = teacher.spread(inputs[gap_rows[test]])
        error = (teacher.predict(inputs[gap_rows[test]]) - gaps[test]).abs()
        ratio[test] = error / unseen[test].clamp_min(1e-3)
    teacher = GapTeacher(seed, options.trees).fit(inputs[gap_rows], gaps)
    spread = torch.full((len(inputs),), torch.nan)
    some = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[: options.spread_rows]
    spread[some] = teacher.spread(inputs[some])
    spread[gap_rows] = unseen
    return teacher.predict(inputs), (float(ratio.quantile(0.683)) * spread).clamp_min(SMALLEST_SPREAD)


def _fit_ensemble(
    inputs: Tensor,
    targets: Tensor,
    pools: tuple[Tensor, Tensor, Tensor],
    options: TrainingOptions,
    generator: torch.Generator,
) -> MLPEnsemble:
    """Minimise absolute errors of gap and spread and the cross-entropy of the class; each member draws its batches."""
    network = MLPEnsemble((inputs.shape[1], *options.hidden, 3), options.members, generator)
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
    sizes = (options.gap_batch, options.known_batch, options.substituted_batch)
    for _ in range(options.steps):
        draws = [
            pool[torch.randint(len(pool), (options.members, size), generator=generator)]
            for pool, size in zip(pools, sizes, strict=True)
        ]
        rows = torch.cat(draws, 1)
        loss = _loss(network(inputs[rows]), targets[rows], options.class_weight)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def _loss(outputs: Tensor, targets: Tensor, class_weight: float) -> Tensor:
    """Return the sum over members of the mean loss of each output over the rows that have a target."""
    known = targets.isfinite()
    weights = known / known.sum(1, keepdim=True).clamp_min(1)
    filled = targets.nan_to_num()
    regression = smooth_l1_loss(outputs[..., :GAPPED], filled[..., :GAPPED], beta=0.1, reduction="none")
    classes = binary_cross_entropy_with_logits(outputs[..., GAPPED:], filled[..., GAPPED:], reduction="none")
    return (torch.cat([regression, class_weight * classes], -1) * weights).sum()
