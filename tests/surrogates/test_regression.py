import pytest
import torch
from torch import Tensor

from surrogates.compact_features import COMPACT
from surrogates.regression import MEMBERS, Forest, GaussianProcess, Regression, ZeroGate


def smooth(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return features of which three matter, and a smooth function of these with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, COMPACT + 5, generator=generator, dtype=torch.float64)
    noise = 0.05 * torch.randn(n, generator=generator, dtype=torch.float64)
    return features, 2.0 + features[:, 0] + 0.5 * features[:, 1] * features[:, 2] + noise


@pytest.fixture(scope="module", params=[Forest, GaussianProcess])
def fitted(request: pytest.FixtureRequest) -> Regression:
    features, targets = smooth(120)
    model: Regression = request.param(features, targets, 0)
    return model


def test_a_smooth_function_is_learned(fitted: Regression) -> None:
    features, targets = smooth(200, seed=1)
    mean, _ = fitted.predict(features)
    assert (mean - targets).square().mean() < 0.6 * targets.var()


def test_draws_are_the_same_functions_at_every_call(fitted: Regression) -> None:
    features, _ = smooth(20, seed=2)
    drawn = fitted.draws(features)
    assert drawn.shape == (MEMBERS, 20)
    assert torch.allclose(fitted.draws(features[5:9]), drawn[:, 5:9], atol=1e-6)
    assert drawn.std(0).min() > 0


def test_draws_centre_on_the_mean(fitted: Regression) -> None:
    features, _ = smooth(50, seed=3)
    mean, std = fitted.predict(features)
    error = (fitted.draws(features).mean(0) - mean).abs()
    assert (error < 5 * std / MEMBERS**0.5 + 0.05).all()


def test_labels_held_out_are_harder_than_labels_seen(fitted: Regression) -> None:
    features, targets = smooth(120)
    held_out, _ = fitted.held_out(torch.arange(120))
    seen, _ = fitted.predict(features)
    assert (held_out - targets).abs().mean() > (seen - targets).abs().mean()


@pytest.mark.parametrize("kind", [Forest, GaussianProcess])
def test_held_out_never_sees_a_group_of_its_own(kind: type) -> None:
    """Every group has a label of its own, which only its other members could tell."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30, COMPACT, generator=generator, dtype=torch.float64).repeat_interleave(4, 0)
    targets = torch.randn(30, generator=generator, dtype=torch.float64).repeat_interleave(4)
    model = kind(features, targets, 0)
    apart, _ = model.held_out(torch.arange(30).repeat_interleave(4))
    mixed, _ = model.held_out(torch.arange(120))
    assert (mixed - targets).abs().mean() < 0.4 * (apart - targets).abs().mean()


def test_gate_learns_what_is_zero() -> None:
    features, targets = smooth(200)
    positive = targets > 2
    gate = ZeroGate(features, positive, 0)
    test, values = smooth(200, seed=1)
    probability = gate.probability(test)
    assert ((probability > 0.5) == (values > 2)).double().mean() > 0.75
    assert probability.min() > 0 and probability.max() < 1
    assert (gate.draws(test).double().mean(0) - probability).abs().max() < 0.15
    assert torch.equal(gate.draws(test[:7]), gate.draws(test)[:, :7])


@pytest.mark.parametrize("kind", [Forest, GaussianProcess])
def test_the_seed_decides(kind: type) -> None:
    features, targets = smooth(60)
    one, two, other = (kind(features, targets, seed) for seed in (0, 0, 1))
    assert torch.equal(one.draws(features), two.draws(features))
    assert not torch.equal(one.draws(features), other.draws(features))


def test_fitting_leaves_the_global_generator_alone() -> None:
    features, targets = smooth(30)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    GaussianProcess(features, targets, 0).draws(features)
    Forest(features, targets, 0)
    assert torch.equal(torch.rand(3), expected)
