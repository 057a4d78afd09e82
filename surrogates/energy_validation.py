"""How well formation energies and distances to the hull are predicted for chemical systems that were not seen.

A compound's own row must not be in the hull that its prediction is measured from: for a stable compound that hull is
its energy, the very answer. The distance is therefore predicted as the network's formation energy, which knows no row
of the chemical system, minus the energy of the hull of all *other* formulas. That is what happens in use, when the
design space proposes a formula that the table lacks; a ternary of a new system still finds the phases of its binaries
there. The truth is the usual distance, zero for stable compounds: the formation energy minus the energy of the hull
with the compound's own row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from surrogates.distribution import GaussianDistribution
from surrogates.validation import area_under_roc

NEARLY_STABLE = 0.05
"""eV/atom above the hull, within which a compound counts as one that might exist."""


@dataclass(frozen=True)
class EnergyValidation:
    """Measures of held-out predictions; prints as a table. NaN where no compound has a hull."""

    folds: int
    materials: int
    mae_eV_per_atom: float  # noqa: N815
    """Mean absolute error of the formation energy."""
    r2: float
    """Coefficient of determination of the formation energy."""
    spearman: float
    """Rank correlation of the formation energy."""
    hull_materials: int
    """Number of materials whose elements all have a reference energy; distances to the hull are over these."""
    hull_mae_eV_per_atom: float  # noqa: N815
    """Mean absolute error of the distance to the hull, where a prediction below the hull counts as on it."""
    hull_spearman: float
    """Rank correlation of the distance to the hull."""
    hull_auc: float
    """Area under the ROC curve of telling compounds within 0.05 eV/atom of the hull from others; NaN without both."""
    coverage_68: float
    """Share of formation energies within one predicted standard deviation (0.683 when calibrated)."""
    coverage_95: float
    """Share within 1.96 standard deviations."""

    @classmethod
    def from_predictions(
        cls, predicted: GaussianDistribution, labels: Tensor, hull_of_others: Tensor, folds: int
    ) -> EnergyValidation:
        """Return the measures of held-out predictions.

        Args:
            predicted: Formation energies, (N,), eV/atom.
            labels: True formation energies, (N,), eV/atom.
            hull_of_others: Energy of the hull of all other formulas, (N,), eV/atom; NaN where there is none.
            folds: Number of folds.
        """
        error = (predicted.mean - labels).double()
        has_hull = ~torch.isnan(hull_of_others)
        hull = hull_of_others[has_hull].double()
        distance = (labels[has_hull] - hull).clamp_min(0)
        predicted_distance = predicted.mean[has_hull] - hull
        near = distance <= NEARLY_STABLE
        both = bool(near.any()) and not bool(near.all())
        return cls(
            folds=folds,
            materials=len(labels),
            mae_eV_per_atom=float(error.abs().mean()),
            r2=float(1 - error.square().sum() / (labels - labels.mean()).double().square().sum()),
            spearman=rank_correlation(predicted.mean, labels),
            hull_materials=len(hull),
            hull_mae_eV_per_atom=float((predicted_distance.clamp_min(0) - distance).abs().mean()),
            hull_spearman=rank_correlation(predicted_distance, distance),
            hull_auc=area_under_roc(-predicted_distance, near) if both else float("nan"),
            coverage_68=float((error.abs() <= predicted.std).double().mean()),
            coverage_95=float((error.abs() <= 1.96 * predicted.std).double().mean()),
        )

    def as_dict(self) -> dict[str, float]:
        """Return the measures by name."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.folds}-fold cross-validation by chemical system: {self.materials:,} materials, "
                f"{self.hull_materials:,} with a hull",
                f"  formation energy    MAE {self.mae_eV_per_atom:.3f} eV/atom   R2 {self.r2:.3f}   "
                f"Spearman {self.spearman:.3f}",
                f"  distance to hull    MAE {self.hull_mae_eV_per_atom:.3f} eV/atom   Spearman {self.hull_spearman:.3f}"
                f"   AUC within {NEARLY_STABLE:g} eV/atom {self.hull_auc:.3f}",
                f"  intervals           68 %: {self.coverage_68:.3f}     95 %: {self.coverage_95:.3f}",
            ]
        )


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Return Spearman's rank correlation of two (N,) tensors, equal values sharing a mean rank; NaN for a constant."""
    ranks = torch.stack([_ranks(first), _ranks(second)])
    if ranks.shape[1] < 2:
        return float("nan")
    centred = ranks - ranks.mean(1, keepdim=True)
    return float((centred[0] * centred[1]).sum() / centred.square().sum(1).prod().sqrt())


def _ranks(values: Tensor) -> Tensor:
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ranks: Tensor = (counts.cumsum(0) - (counts - 1) / 2).double()[place]
    return ranks
