"""How far off a network is on a structure, told from how unlike the training structures its last layer sees it.

The last layer is linear in its inputs φ, so Bayesian linear regression on them (Snoek et al., ICML 2015) gives the
leverage d² = n φᵀ (ΦᵀΦ + λ)⁻¹ φ of a structure, with Φ the inputs of n training structures. The spread is a power of d
whose two coefficients are fitted to the errors on held-out chemical systems.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt

import torch
from torch import Tensor

RIDGE = 1e-4
"""λ over the mean of the diagonal of ΦᵀΦ."""

SMALLEST_SPREAD = 0.005  # eV/atom
_ONE_SIGMA = 0.683


@dataclass(frozen=True, eq=False)
class GraphSpread:
    """Standard deviation of a prediction as a function of the inputs of the last layer."""

    moment: Tensor
    """ΦᵀΦ, float64 (F + 1, F + 1); the last row and column belong to the constant input 1."""

    count: int
    """n, the structures behind the moment."""

    scale: float = 0.1
    """eV/atom; the spread where the leverage has its mean, √(F + 1)."""

    power: float = 0.0
    """The spread grows with the leverage to this power."""

    @classmethod
    def from_features(cls, features: Tensor) -> GraphSpread:
        """Return an uncalibrated spread from the inputs of the last layer for training structures, (n, F)."""
        inputs = _with_constant(features)
        return cls(inputs.T @ inputs, len(inputs))

    def joined(self, features: Tensor) -> GraphSpread:
        """Return the spread after further training structures, with the calibration as it is."""
        inputs = _with_constant(features)
        return GraphSpread(self.moment + inputs.T @ inputs, self.count + len(inputs), self.scale, self.power)

    def calibrated(self, features: Tensor, errors: Tensor) -> GraphSpread:
        """Return the spread whose interval of one standard deviation holds 68 % of the errors.

        Args:
            features: Inputs of the last layer for structures of held-out chemical systems, (N, F).
            errors: Prediction minus truth, eV/atom, (N,).
        """
        size = errors.abs().double()
        distance = self.distance(features).log()
        centred = distance - distance.mean()
        logarithm = size.clamp_min(SMALLEST_SPREAD).log()
        # Ten structures' worth of belief that the spread grows with the square root of the distance.
        prior, belief = 0.5, 10 * 0.25
        slope = (centred @ (logarithm - logarithm.mean()) + prior * belief) / (centred @ centred + belief)
        power = float(slope.clamp(0.0, 2.0))
        scale = float((size / (power * distance).exp()).quantile(_ONE_SIGMA))
        return GraphSpread(self.moment, self.count, scale, power)

    def distance(self, features: Tensor) -> Tensor:
        """Return the leverage d of each structure over its mean, float64 (N,)."""
        length: Tensor = self._whitened(features).norm(dim=1)
        return length / sqrt(len(self.moment))

    def std(self, features: Tensor) -> Tensor:
        """Return the standard deviation of each prediction, float32 (N,), eV/atom."""
        spread = self.scale * self.distance(features) ** self.power
        return spread.clamp_min(SMALLEST_SPREAD).float()

    def deviations(self, features: Tensor, draws: int, seed: int = 0) -> Tensor:
        """Return S draws per structure with mean 0 and standard deviation 1 over the draws, float32 (S, N).

        They come from S draws of the last layer's weights, so similar structures deviate alike.
        """
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randn(draws, len(self.moment), generator=generator, dtype=torch.float64)
        drawn = weights @ self._whitened(features).T
        centred = drawn - drawn.mean(0)
        deviations = centred / centred.square().mean(0).sqrt().clamp_min(1e-12)
        return deviations.float()

    def _whitened(self, features: Tensor) -> Tensor:
        """Return √n L⁻¹ φ, (N, F + 1), with L Lᵀ = ΦᵀΦ + λ."""
        ridge = RIDGE * self.moment.diagonal().mean() * torch.eye(len(self.moment), dtype=self.moment.dtype)
        factor = torch.linalg.cholesky(self.moment + ridge)
        solved: Tensor = torch.linalg.solve_triangular(factor, _with_constant(features).T, upper=False)
        return solved.T * sqrt(self.count)


def _with_constant(features: Tensor) -> Tensor:
    return torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], 1)


@dataclass(frozen=True)
class GraphValidation:
    """How well the energies of structures from unseen chemical systems are predicted; prints as two lines."""

    structures: int
    chemical_systems: int
    mae_eV_per_atom: float  # noqa: N815
    rmse_eV_per_atom: float  # noqa: N815
    spread_of_labels_eV_per_atom: float  # noqa: N815
    """Standard deviation of the labels, the error of a constant."""
    coverage_68: float
    """Share of labels within one predicted standard deviation (0.683 when calibrated)."""
    coverage_95: float
    """Share within 1.96 standard deviations."""

    @classmethod
    def from_predictions(cls, mean: Tensor, std: Tensor, labels: Tensor, chemical_systems: int) -> GraphValidation:
        """Return the measures of predictions against labels, each (N,), eV/atom."""
        error = (mean - labels).double()
        return cls(
            structures=len(labels),
            chemical_systems=chemical_systems,
            mae_eV_per_atom=float(error.abs().mean()),
            rmse_eV_per_atom=float(error.square().mean().sqrt()),
            spread_of_labels_eV_per_atom=float(labels.double().std(correction=0)),
            coverage_68=float((error.abs() <= std).double().mean()),
            coverage_95=float((error.abs() <= 1.96 * std).double().mean()),
        )

    def as_dict(self) -> dict[str, float]:
        """Return the measures by name."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.structures:,} structures of {self.chemical_systems:,} held-out chemical systems: "
            f"MAE {self.mae_eV_per_atom:.3f}, RMSE {self.rmse_eV_per_atom:.3f} eV/atom "
            f"(labels spread {self.spread_of_labels_eV_per_atom:.2f})\n"
            f"  intervals  68 %: {self.coverage_68:.3f}   95 %: {self.coverage_95:.3f}"
        )
