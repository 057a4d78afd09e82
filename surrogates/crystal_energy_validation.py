"""How well the energies of crystals are predicted, and how well the structures of one composition are ranked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from surrogates.energy_validation import rank_correlation

DISTINCT = 0.02
"""eV/atom, by which two structures must differ for their order to count."""


@dataclass(frozen=True)
class RankingMeasures:
    """Measures of held-out predictions; NaN where there is nothing to measure."""

    crystals: int
    mae_eV_per_atom: float  # noqa: N815
    """Mean absolute error of the formation energy."""
    spearman: float
    """Rank correlation of the formation energy."""
    formulas: int
    """Formulas with two structures or more; the measures that follow are over these."""
    pair_accuracy: float
    """Share of pairs of structures of one formula, at least 0.02 eV/atom apart, whose order is right."""
    regret_eV_per_atom: float  # noqa: N815
    """Mean energy of the structure predicted lowest, above the lowest of its formula."""
    chance_regret_eV_per_atom: float  # noqa: N815
    """The same of a structure drawn at random."""
    coverage_68: float
    """Share of energies within one predicted standard deviation (0.683 when calibrated)."""
    coverage_95: float
    """Share within 1.96 standard deviations."""

    @classmethod
    def from_predictions(cls, mean: Tensor, std: Tensor, energies: Tensor, formulas: Tensor) -> RankingMeasures:
        """Return the measures of N predictions.

        Args:
            mean: (N,), predicted formation energies, eV/atom.
            std: (N,), their standard deviations; NaN where there is none.
            energies: (N,), true ones.
            formulas: Long (N,), equal for crystals of one formula.
        """
        error = (mean - energies).double()
        right = pairs = 0
        regrets, chances = [], []
        order = formulas.argsort(stable=True)
        for rows in torch.split(order, torch.unique(formulas, return_counts=True)[1].tolist()):
            if len(rows) < 2:
                continue
            true, predicted = energies[rows], mean[rows]
            distinct = true[:, None] - true > DISTINCT
            pairs += int(distinct.sum())
            right += int((predicted[:, None] > predicted)[distinct].sum())
            regrets.append(float(true[predicted.argmin()] - true.min()))
            chances.append(float(true.mean() - true.min()))
        spread = ~torch.isnan(std)
        within = (error.abs() / std)[spread].double()
        return cls(
            crystals=len(mean),
            mae_eV_per_atom=float(error.abs().mean()),
            spearman=rank_correlation(mean, energies),
            formulas=len(regrets),
            pair_accuracy=right / pairs if pairs else float("nan"),
            regret_eV_per_atom=_mean(regrets),
            chance_regret_eV_per_atom=_mean(chances),
            coverage_68=float((within <= 1).double().mean()),
            coverage_95=float((within <= 1.96).double().mean()),
        )

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.crystals:,} crystals: MAE {self.mae_eV_per_atom:.3f} eV/atom   Spearman {self.spearman:.3f}   "
                f"intervals 68 %: {self.coverage_68:.3f}, 95 %: {self.coverage_95:.3f}",
                f"    {self.formulas:,} formulas with several: order right {self.pair_accuracy:.3f}   regret "
                f"{self.regret_eV_per_atom:.3f} eV/atom (at random {self.chance_regret_eV_per_atom:.3f})",
            ]
        )


@dataclass(frozen=True)
class CrystalValidation:
    """Measures on what the networks had not seen; prints as a table."""

    held_out: int
    folds: int
    """Trainings without one of so many parts of the chemical systems, and of the structure types."""
    new_systems: RankingMeasures
    """Chemical systems left out, in structure types that were trained on."""
    new_types: RankingMeasures
    """Structure types left out."""

    def as_dict(self) -> dict[str, Any]:
        """Return the measures by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CrystalValidation:
        """Return what `as_dict` gave."""
        systems, types = (RankingMeasures(**values[name]) for name in ("new_systems", "new_types"))
        return cls(values["held_out"], values["folds"], systems, types)

    def __str__(self) -> str:
        return (
            f"{self.held_out} of {self.folds} parts held out\n  new chemical systems: {self.new_systems}\n"
            f"  new structure types: {self.new_types}"
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
