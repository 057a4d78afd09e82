"""Accurate but slow models of experimental band gaps, from which the fast network learns.

The mean of a forest of extremely randomised trees (Geurts et al., Mach. Learn. 63, 3 (2006)) and a Gaussian process
with a Matern-3/2 kernel errs less than either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

MATERN_LENGTH = 1.0  # in root-mean-square standard deviations of the features
NOISE_VARIANCE = 0.02  # relative to the variance of the gaps


@dataclass
class BandGapTeacher:
    """Forest and Gaussian process on standardised features."""

    seed: int = 0
    trees: int = 200

    def fit(self, features: Tensor, gaps: Tensor) -> Self:
        """Fit to features (N, F) and gaps (N,) in eV."""
        from sklearn.ensemble import ExtraTreesRegressor

        self._forest: Any = ExtraTreesRegressor(self.trees, max_features=0.5, n_jobs=1, random_state=self.seed)
        self._forest.fit(features.numpy(), gaps.numpy())
        self._inputs = features.double()
        self._mean, self._scale = gaps.double().mean(), gaps.double().std().clamp_min(1e-6)
        kernel = _matern32(self._inputs, self._inputs) + NOISE_VARIANCE * torch.eye(len(gaps), dtype=torch.float64)
        self._factor = torch.linalg.cholesky(kernel)
        self._weights = torch.cholesky_solve(((gaps.double() - self._mean) / self._scale).unsqueeze(1), self._factor)
        return self

    def predict(self, features: Tensor, chunk: int = 4096) -> tuple[Tensor, Tensor]:
        """Return mean and spread of the gap in eV, float32, each (N,)."""
        parts = [self._predict(part) for part in torch.split(features, chunk)]
        return torch.cat([mean for mean, _ in parts]), torch.cat([spread for _, spread in parts])

    def _predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        inputs = features.numpy().astype(np.float32)
        trees = torch.from_numpy(np.stack([tree.predict(inputs) for tree in self._forest.estimators_]))
        kernel = _matern32(features.double(), self._inputs)
        process_mean = self._mean + self._scale * (kernel @ self._weights).squeeze(1)
        solved = torch.linalg.solve_triangular(self._factor, kernel.T, upper=False)
        process_variance = (1 - solved.square().sum(0)).clamp_min(0) * self._scale**2
        spread = ((trees.var(0) + process_variance) / 2).sqrt()
        return ((trees.mean(0) + process_mean) / 2).float(), spread.float()


def _matern32(first: Tensor, second: Tensor) -> Tensor:
    distance = torch.cdist(first, second) / (MATERN_LENGTH * first.shape[1] ** 0.5) * 3**0.5
    kernel: Tensor = (1 + distance) * torch.exp(-distance)
    return kernel
