"""Regression of one number on features from few labels, with an uncertainty: Gaussian process or forest of trees.

Both tell mean and standard deviation, draw S functions that are consistent from call to call, and predict each label
from a fit to other groups of labels, by which their spread is calibrated.
"""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from surrogates.compact_features import COMPACT

MEMBERS = 64
"""S, functions drawn."""
_TREES_OF_A_MEMBER = 2
_FOLDS = 5
_GP_ITERATIONS = 20
"""Of the optimiser of hyperparameters; more fit the labels better and unseen materials worse."""


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
        noise: Variance with which a target is known worse than a label, float64 (N,), 0 for labels; None: all are.
    """

    def __init__(self, features: Tensor, targets: Tensor, seed: int, noise: Tensor | None = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # BoTorch still calls torch.jit.script
            from botorch.fit import fit_gpytorch_mll
            from botorch.models import SingleTaskGP
            from botorch.settings import validate_input_scaling
            from gpytorch.mlls import ExactMarginalLogLikelihood

        self._given, self._targets, self._seed, self._noise = features, targets, seed, noise
        labels = targets if noise is None or int((noise == 0).sum()) < 2 else targets[noise == 0]
        self._location = labels.mean()
        self._scale = labels.std().clamp_min(1e-6) if len(labels) > 1 else torch.ones((), dtype=torch.float64)
        standardised = ((targets - self._location) / self._scale)[:, None]
        extra = None if noise is None else noise / self._scale.square()
        with validate_input_scaling(False):  # of the right variance, but not within a cube
            points = self._scaled(features)
            likelihood = None if extra is None else _noisier(extra)
            model = SingleTaskGP(points, standardised, likelihood=likelihood, outcome_transform=None)
            fit_gpytorch_mll(
                ExactMarginalLogLikelihood(model.likelihood, model),
                optimizer_kwargs={"options": {"maxiter": _GP_ITERATIONS}},
            )
            self._label_noise: Tensor | None = None
            if extra is not None:  # the same process, its noise all fixed: paths are drawn of no other
                self._label_noise = model.likelihood.second_noise.detach()
                fitted = (extra + self._label_noise)[:, None]
                fixed = SingleTaskGP(points, standardised, fitted, outcome_transform=None)
                fixed.mean_module, fixed.covar_module = model.mean_module, model.covar_module
                model = fixed.eval()
        self._model = model.requires_grad_(False)
        self._paths: object = None

    @staticmethod
    def _scaled(features: Tensor) -> Tensor:
        """Return the compact features with the variance of a unit cube, which BoTorch's priors of lengths are for."""
        return features[:, :COMPACT] * 12**-0.5

    @torch.no_grad()
    def predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of a new label, float64 (N,) each."""
        of_label: bool | Tensor = True
        if self._label_noise is not None:
            of_label = self._label_noise.expand(len(features))[:, None]
        posterior = self._model.posterior(self._scaled(features), observation_noise=of_label)
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
        values: Tensor = self._paths(self._scaled(features))  # type: ignore[operator]
        return values.reshape(MEMBERS, len(features)) * self._scale + self._location

    def held_out(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the labels of every fold of groups from a process fitted to the others, hyperparameters included."""
        return _held_out(GaussianProcess, self._given, self._targets, groups, self._seed, self._noise)


class Forest:
    """Extremely randomised trees (scikit-learn) in S small forests, whose spread is the uncertainty.

    Args:
        features: Float64 (N, D).
        targets: Float64 (N,).
        seed: Of the trees.
        noise: As for a Gaussian process; a noisy target weighs less.
    """

    def __init__(self, features: Tensor, targets: Tensor, seed: int, noise: Tensor | None = None) -> None:
        self._features, self._targets, self._seed, self._noise = features, targets, seed, noise
        self._trees = _grow(features, targets, seed, noise)

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
        return _held_out(Forest, self._features, self._targets, groups, self._seed, self._noise)


class ZeroGate:
    """The probability that a value is not exactly zero, such as a band gap: extremely randomised trees.

    Args:
        features: Float64 (N, D).
        positive: Bool (N,), both values occurring.
        seed: Of the trees.
        noise: As for a Gaussian process.
    """

    def __init__(self, features: Tensor, positive: Tensor, seed: int, noise: Tensor | None = None) -> None:
        self._features, self._positive, self._seed = features, positive, seed
        self._forest = Forest(features, positive.double(), seed, noise)
        generator = torch.Generator().manual_seed(seed)
        self._thresholds = (torch.randperm(MEMBERS, generator=generator).double()[:, None] + 0.5) / MEMBERS

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


def _noisier(extra: Tensor) -> Any:
    """Return a likelihood of known noise and, beside it, the noise of all targets, learned as without the former."""
    from botorch.models.utils.gpytorch_modules import get_gaussian_likelihood_with_lognormal_prior
    from gpytorch.likelihoods import FixedNoiseGaussianLikelihood

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have no noise of exactly 0
        likelihood = FixedNoiseGaussianLikelihood(extra, learn_additional_noise=True)
    likelihood.second_noise_covar = get_gaussian_likelihood_with_lognormal_prior().noise_covar
    return likelihood


def _held_out(
    kind: type[GaussianProcess] | type[Forest],
    features: Tensor,
    targets: Tensor,
    groups: Tensor,
    seed: int,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of N labels, each told by a fit without its fold, (N,) each."""
    mean, std = torch.empty_like(targets), torch.empty_like(targets)
    for test in _folds(groups, seed):
        if bool(test.all()):
            mean[test], std[test] = targets.mean(), targets.std().clamp_min(1e-6)
            continue
        train = kind(features[~test], targets[~test], seed, None if noise is None else noise[~test])
        mean[test], std[test] = train.predict(features[test])
    return mean, std


def _folds(groups: Tensor, seed: int) -> list[Tensor]:
    """Return which of N rows each fold holds, bool (N,) each; a group is never split."""
    numbers: Tensor = torch.unique(groups, return_inverse=True)[1]
    order = torch.randperm(int(numbers.max()) + 1, generator=torch.Generator().manual_seed(seed))
    fold = order[numbers] % _FOLDS
    return [fold == number for number in torch.unique(fold).tolist()]


def _grow(features: Tensor, targets: Tensor, seed: int, noise: Tensor | None) -> list[Any]:
    from sklearn.ensemble import ExtraTreesRegressor

    forest = ExtraTreesRegressor(
        MEMBERS * _TREES_OF_A_MEMBER, min_samples_leaf=2, max_features=0.5, random_state=seed % 2**32, n_jobs=1
    )
    weights = None
    if noise is not None:
        variance = targets.var().clamp_min(1e-12) if len(targets) > 1 else torch.ones((), dtype=torch.float64)
        weights = (variance / (variance + noise)).numpy()
    return list(forest.fit(features.numpy(), targets.numpy(), sample_weight=weights).estimators_)
