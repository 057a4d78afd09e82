"""Cross-validation that keeps all compositions of a chemical system in the same fold, and its measures."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from envs.chemistry import MAX_ATOMIC_NUMBER
from envs.formula import CompositionBatch
from surrogates.distribution import BandGapDistribution


def chemical_system_groups(materials: CompositionBatch) -> Tensor:
    """Return a group number per composition, long (N,); equal numbers mean the same set of elements."""
    present = torch.zeros(len(materials), MAX_ATOMIC_NUMBER + 1)
    present.scatter_add_(1, materials.atomic_numbers, (materials.amounts > 0).float())
    groups: Tensor = torch.unique(present > 0, dim=0, return_inverse=True)[1]
    return groups


def grouped_folds(materials: CompositionBatch, folds: int, seed: int) -> Tensor:
    """Return the fold of each composition, long (N,), 0 to folds - 1; a chemical system is never split."""
    groups = chemical_system_groups(materials)
    generator = torch.Generator().manual_seed(seed)
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    fold_of_group = torch.randperm(n_groups, generator=generator) % folds
    return fold_of_group[groups]


def area_under_roc(scores: Tensor, positive: Tensor) -> float:
    """Return the probability that a positive scores higher than a negative, ties counted half.

    Args:
        scores: Float (N,).
        positive: Bool (N,).

    Raises:
        ValueError: There is no positive or no negative.
    """
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        raise ValueError("area under the ROC curve: at least one positive and one negative are needed")
    _, place, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    ranks = (last - (counts - 1) / 2).double()[place]  # mean rank of equal scores, from 1
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


@dataclass(frozen=True)
class BandGapValidation:
    """How well gaps of unseen chemical systems are predicted; prints as a table."""

    folds: int
    materials: int
    gapped: int
    """Number of materials with a measured gap above zero; gap errors are over these."""
    mae_eV: float  # noqa: N815
    """Mean absolute error of the regressor's gap."""
    r2: float
    """Coefficient of determination of the regressor's gap."""
    auc: float
    """Area under the ROC curve of the probability of a gap, over all materials."""
    accuracy: float
    """Share of materials on the right side of probability 0.5."""
    coverage_68: float
    """Share of measured gaps within one predicted standard deviation (0.683 when calibrated)."""
    coverage_95: float
    """Share within 1.96 standard deviations."""

    @classmethod
    def from_predictions(cls, distribution: BandGapDistribution, labels: Tensor, folds: int) -> BandGapValidation:
        """Return the measures of held-out predictions against labels in eV, (N,), 0 for metals."""
        gapped = labels > 0
        truth, mean, std = labels[gapped], distribution.gap_mean[gapped], distribution.gap_std[gapped]
        error = mean - truth
        return cls(
            folds=folds,
            materials=len(labels),
            gapped=int(gapped.sum()),
            mae_eV=float(error.abs().mean()),
            r2=float(1 - error.square().sum() / (truth - truth.mean()).square().sum()),
            auc=area_under_roc(distribution.p_gapped, gapped),
            accuracy=float(((distribution.p_gapped > 0.5) == gapped).float().mean()),
            coverage_68=float((error.abs() <= std).float().mean()),
            coverage_95=float((error.abs() <= 1.96 * std).float().mean()),
        )

    def as_dict(self) -> dict[str, float]:
        """Return the measures by name."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.folds}-fold cross-validation by chemical system: {self.materials:,} materials, "
                f"{self.gapped:,} with a gap",
                f"  gap of non-metals   MAE {self.mae_eV:.3f} eV   R2 {self.r2:.3f}",
                f"  metal or non-metal  AUC {self.auc:.3f}      accuracy {self.accuracy:.3f}",
                f"  intervals           68 %: {self.coverage_68:.3f}     95 %: {self.coverage_95:.3f}",
            ]
        )
