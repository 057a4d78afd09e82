"""Accurate but slow models of the band gap, from which the fast network learns.

Gap of a non-metal: the mean of a forest of extremely randomised trees (Geurts et al., Mach. Learn. 63, 3 (2006)) and a
Gaussian process with a Matern-3/2 kernel, which errs less than either.

Probability of a gap: a forest that knows the measured classes alone, and boosted trees that know the computed ones too.
The first calls wide-gap oxides and fluorides metals, for few of them have a measured gap; the second calls narrow-gap
semiconductors metals, for density-functional theory does. A material that either calls gapped mostly is, hence the
weighted noisy-or 1 - (1 - p_1)^w (1 - p_2)^(1 - w).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

MATERN_LENGTH = 1.0  # in root-mean-square standard deviations of the features
NOISE_VARIANCE = 0.02  # relative to the variance of the gaps
MEASURED_SHARE = 0.5  # w, the share of the model of the measured classes
_CHUNK = 4096
MEASURED_REPEATS = 3  # how much a measured class counts beside a computed one


@dataclass
class GapTeacher:
    """Forest and Gaussian process on standardised features."""

    seed: int
    trees: int

    def fit(self, features: Tensor, gaps: Tensor) -> Self:
        """Fit to features (N, F) and gaps (N,) in eV."""
        from sklearn.ensemble import ExtraTreesRegressor

        self._forest: Any = ExtraTreesRegressor(self.trees, max_features=0.5, n_jobs=1, random_state=self.seed)
        self._forest.fit(features.numpy(), gaps.numpy())
        self._inputs = features
        self._mean, self._scale = float(gaps.mean()), max(float(gaps.std()), 1e-6)
        kernel = _matern32(features.double(), features.double())
        kernel += NOISE_VARIANCE * torch.eye(len(gaps), dtype=torch.float64)
        factor = torch.linalg.cholesky(kernel)
        targets = (gaps.double() - self._mean) / self._scale
        self._weights = torch.cholesky_solve(targets.unsqueeze(1), factor).squeeze(1).float()
        self._factor = factor.float()
        return self

    def predict(self, features: Tensor) -> Tensor:
        """Return the gap in eV, (N,)."""
        return torch.cat(
            [(self._trees(part).mean(0) + self._process(part)) / 2 for part in _chunks(features)]
        ).clamp_min(0)

    def spread(self, features: Tensor) -> Tensor:
        """Return the uncertainty of the gap in eV up to a factor, (N,): spread of the trees and of the process."""
        return torch.cat([self._spread(part) for part in _chunks(features)])

    def _spread(self, features: Tensor) -> Tensor:
        kernel = _matern32(features, self._inputs)
        solved = torch.linalg.solve_triangular(self._factor, kernel.T, upper=False)
        process_variance = (1 - solved.square().sum(0)).clamp_min(0) * self._scale**2
        spread: Tensor = ((self._trees(features).var(0) + process_variance) / 2).sqrt()
        return spread

    def _trees(self, features: Tensor) -> Tensor:
        inputs = features.numpy()
        return torch.from_numpy(np.stack([tree.predict(inputs) for tree in self._forest.estimators_])).float()

    def _process(self, features: Tensor) -> Tensor:
        mean: Tensor = self._mean + self._scale * (_matern32(features, self._inputs) @ self._weights)
        return mean


@dataclass
class ClassTeacher:
    """Forest of the measured classes and boosted trees of all classes, on standardised features."""

    seed: int
    trees: int

    def fit(self, measured: Tensor, gapped: Tensor, computed: Tensor, shares: Tensor) -> Self:
        """Fit to features (N, F) with measured classes (N,) and features (M, F) with computed shares (M,)."""
        from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

        labels = gapped.numpy().astype(int)
        self._forest: Any = ExtraTreesClassifier(
            self.trees, max_features=0.2, min_samples_leaf=2, n_jobs=1, random_state=self.seed
        )
        self._forest.fit(measured.numpy(), labels)
        self._boosted: Any = None
        if len(computed):
            self._boosted = HistGradientBoostingClassifier(
                max_iter=self.trees, learning_rate=0.15, max_leaf_nodes=63, early_stopping=False, random_state=self.seed
            )
            # Repeated rows, for sample weights make the binning of the features slow.
            inputs = torch.cat([measured] * MEASURED_REPEATS + [computed]).numpy()
            classes = np.r_[np.tile(labels, MEASURED_REPEATS), (shares >= 0.5).numpy().astype(int)]
            with threadpool_limits(torch.get_num_threads()):  # boosted trees take every core otherwise
                self._boosted.fit(inputs, classes)
        return self

    def predict(self, features: Tensor) -> Tensor:
        """Return the probability of a gap, (N,)."""
        inputs = features.numpy()
        metal = 1 - self._forest.predict_proba(inputs)[:, 1]
        if self._boosted is not None:
            other = 1 - self._boosted.predict_proba(inputs)[:, 1]
            metal = metal**MEASURED_SHARE * other ** (1 - MEASURED_SHARE)
        return torch.from_numpy(1 - metal).float()


def _chunks(features: Tensor) -> tuple[Tensor, ...]:
    return torch.split(features, _CHUNK)


def _matern32(first: Tensor, second: Tensor) -> Tensor:
    distance = torch.cdist(first, second) / (MATERN_LENGTH * first.shape[1] ** 0.5) * 3**0.5
    kernel: Tensor = (1 + distance) * torch.exp(-distance)
    return kernel
