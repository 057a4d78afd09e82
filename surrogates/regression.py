"""Regression of one number on features from few labels, with an uncertainty: Gaussian process or forest of trees.

Both tell mean and standard deviation, draw S functions that are consistent from call to call, and predict each label
from all others but those of its group, by which they are compared and their spread is calibrated.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from surrogates.compact_features import COMPACT

MEMBERS = 64
"""S, functions drawn."""
_TREES_OF_A_MEMBER = 2
_FOLDS = 5
_GP_ITERATIONS = 100


class Regression(Protocol):
    """A fitted model of one number."""

    def predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, float64 (N,) each."""
        ...

    def draws(self, features: Tensor) -> Tensor:
        """Return S functions at N points, float64 (S, N); the same functions at every call."""
        ...

    def held_out(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of every training label, predicted without its group, (N,) each.

        Args:
            groups: Number of each training label's group, long (N,).
        """
        ...


class GaussianProcess:
    """A Gaussian process with one length a feature (BoTorch's `SingleTaskGP`), targets standardised.

    Args:
        features: Float64 (N, D); it looks at the compact ones, which come first.
        targets: Float64 (N,).
        seed: Of the drawn functions.
    """

    def __init__(self, features: Tensor, targets: Tensor, seed: int) -> None:
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from botorch.settings import validate_input_scaling
        from gpytorch.mlls import ExactMarginalLogLikelihood

        features = features[:, :COMPACT]
        self._features, self._targets, self._seed = features, targets, seed
        self._location = targets.mean()
        self._scale = targets.std().clamp_min(1e-6) if len(targets) > 1 else torch.ones((), dtype=torch.float64)
        standardised = ((targets - self._location) / self._scale)[:, None]
        with validate_input_scaling(False):  # standardised over known materials, not scaled to a cube
            model = SingleTaskGP(features, standardised, outcome_transform=None)
        fit_gpytorch_mll(
            ExactMarginalLogLikelihood(model.likelihood, model),
            optimizer_kwargs={"options": {"maxiter": _GP_ITERATIONS}},
        )
        self._model = model.requires_grad_(False)
        self._paths: object = None

    @torch.no_grad()
    def predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of a new label, float64 (N,) each."""
        posterior = self._model.posterior(features[:, :COMPACT], observation_noise=True)
        mean, std = posterior.mean.squeeze(-1), posterior.variance.squeeze(-1).sqrt()
        return mean * self._scale + self._location, std * self._scale

    @torch.no_grad()
    def draws(self, features: Tensor) -> Tensor:
        """Return S functions of the posterior at N points, float64 (S, N) (Wilson et al. 2020, pathwise)."""
        from botorch.sampling.pathwise import draw_matheron_paths

        if self._paths is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed)
                self._paths = draw_matheron_paths(self._model, torch.Size([MEMBERS]))
        values: Tensor = self._paths(features[:, :COMPACT])  # type: ignore[operator]
        return values.reshape(MEMBERS, len(features)) * self._scale + self._location

    @torch.no_grad()
    def held_out(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Predict every label without its group in closed form, the hyperparameters kept (Sundararajan and Keerthi)."""
        model = self._model
        model.train()
        prior = model.forward(self._features)
        noise = model.likelihood.noise
        covariance = prior.covariance_matrix + noise * torch.eye(len(self._features), dtype=torch.float64)
        residual = (self._targets - self._location) / self._scale - prior.mean
        model.eval()
        precision = torch.linalg.inv(covariance)
        weighted = precision @ residual
        mean, variance = torch.empty_like(residual), torch.empty_like(residual)
        for group in torch.unique(groups):
            rows = (groups == group).nonzero().flatten()
            block = torch.linalg.inv(precision[rows][:, rows])
            mean[rows] = residual[rows] - block @ weighted[rows] + prior.mean[rows]
            variance[rows] = block.diagonal()
        return mean * self._scale + self._location, variance.clamp_min(1e-12).sqrt() * self._scale


class Forest:
    """Extremely randomised trees (scikit-learn) in S small forests, whose spread is the uncertainty.

    Args:
        features: Float64 (N, D).
        targets: Float64 (N,).
        seed: Of the trees.
    """

    def __init__(self, features: Tensor, targets: Tensor, seed: int) -> None:
        self._features, self._targets, self._seed = features, targets, seed
        self._trees = _grow(features, targets, seed)

    def predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation over the small forests, float64 (N,) each."""
        members = self.draws(features)
        return members.mean(0), members.std(0)

    def draws(self, features: Tensor) -> Tensor:
        """Return the means of the S small forests, float64 (S, N)."""
        points = np.ascontiguousarray(features.numpy(), dtype=np.float32)
        if not len(points):
            return torch.zeros(MEMBERS, 0, dtype=torch.float64)
        each = np.stack([tree.tree_.predict(points)[:, 0] for tree in self._trees])
        return torch.from_numpy(each).reshape(MEMBERS, _TREES_OF_A_MEMBER, len(points)).mean(1)

    def held_out(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the labels of every fold of groups from trees grown on the others."""
        mean, std = torch.empty_like(self._targets), torch.empty_like(self._targets)
        for test in _folds(groups, self._seed):
            if bool(test.all()):
                mean[test], std[test] = self._targets.mean(), self._targets.std().clamp_min(1e-6)
                continue
            other = Forest(self._features[~test], self._targets[~test], self._seed)
            mean[test], std[test] = other.predict(self._features[test])
        return mean, std


class ZeroGate:
    """The probability that a value is not exactly zero, such as a band gap: extremely randomised trees.

    Args:
        features: Float64 (N, D).
        positive: Bool (N,), both values occurring.
        seed: Of the trees.
    """

    def __init__(self, features: Tensor, positive: Tensor, seed: int) -> None:
        self._features, self._positive, self._seed = features, positive, seed
        self._forest = Forest(features, positive.double(), seed)
        generator = torch.Generator().manual_seed(seed)
        self._thresholds = torch.rand(MEMBERS, 1, generator=generator, dtype=torch.float64)

    def probability(self, features: Tensor) -> Tensor:
        """Return the probability of N values not to be zero, float64 (N,); never quite 0 or 1."""
        n = len(self._features)
        return (self._forest.predict(features)[0] * n + 0.5) / (n + 1)

    def draws(self, features: Tensor) -> Tensor:
        """Return S functions that tell whether N values are not zero, bool (S, N); the same at every call."""
        return self.probability(features) > self._thresholds

    def held_out(self, groups: Tensor) -> Tensor:
        """Return the probability of every training value not to be zero, told without its group, (N,)."""
        return self._forest.held_out(groups)[0]


def _folds(groups: Tensor, seed: int) -> list[Tensor]:
    """Return which of N rows each fold holds, bool (N,) each; a group is never split."""
    numbers: Tensor = torch.unique(groups, return_inverse=True)[1]
    order = torch.randperm(int(numbers.max()) + 1, generator=torch.Generator().manual_seed(seed))
    fold = order[numbers] % _FOLDS
    return [fold == number for number in torch.unique(fold).tolist()]


def _grow(features: Tensor, targets: Tensor, seed: int) -> list[Any]:
    from sklearn.ensemble import ExtraTreesRegressor

    forest = ExtraTreesRegressor(
        MEMBERS * _TREES_OF_A_MEMBER, min_samples_leaf=2, max_features=0.5, random_state=seed % 2**32, n_jobs=1
    )
    return list(forest.fit(features.numpy(), targets.numpy()).estimators_)
