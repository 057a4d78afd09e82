"""How good and how varied a set of materials is under several objectives.

Utilities are float (n, m): n materials, m objectives, each in [0, 1] and to be maximised. A set without materials
counts as one material of utility 0 throughout.

    preferences = simplex_lattice(3, 100)    # (91, 3)
    hypervolume(utilities)                   # up: closer to the ideal, and more of the front
    r2(utilities, preferences)               # down: the same, seen by the preferences
    preference_entropy(utilities, preferences)  # up: the front is evenly populated
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

from envs.formula import CompositionBatch

_FRACTION_STEPS = 99_991  # a prime, so that no fraction of few atoms lies halfway between two steps


def is_non_dominated(utilities: Tensor) -> Tensor:
    """Return which materials no other one dominates, bool (n,); of equal rows all are kept.

    Args:
        utilities: Float (n, m) in [0, 1].

    Raises:
        ValueError: Wrong shape, or a value outside [0, 1] or NaN.
    """
    import moocore

    points = _checked(utilities, "utilities").numpy()
    return torch.from_numpy(moocore.is_nondominated(points, maximise=True, keep_weakly=True))


def hypervolume(utilities: Tensor, reference: float = 0.0) -> float:
    """Return the volume that the materials dominate within [reference, 1]^m (Zitzler and Thiele 1998).

    Args:
        utilities: Float (n, m) in [0, 1], m at most 31.
        reference: Worst utility that counts, in [0, 1], the same for all objectives.

    Raises:
        ValueError: Wrong shape, or a value outside [0, 1] or NaN.
    """
    import moocore

    points = _checked(utilities, "utilities").numpy()
    if not 0 <= reference <= 1:
        raise ValueError(f"reference: found {reference!r}, expected a number in [0, 1]")
    return float(moocore.hypervolume(points, ref=reference, maximise=True)) if len(points) else 0.0


def igd_plus(utilities: Tensor, front: Tensor) -> float:
    """Return the mean shortfall of the materials from a front, IGD+ (Ishibuchi et al. 2015); 0 is best.

    The shortfall from a point of the front is the least Euclidean distance over the objectives in which a material is
    worse than the point.

    Args:
        utilities: Float (n, m) in [0, 1].
        front: The front to reach, float (k, m) in [0, 1], k at least 1.

    Raises:
        ValueError: Wrong shape, or a value outside [0, 1] or NaN.
    """
    import moocore

    points = _or_worst(_checked(utilities, "utilities"))
    target = _checked(front, "front", points.shape[1], fewest=1)
    return float(moocore.igd_plus(points.numpy(), target.numpy(), maximise=True))


def r2(utilities: Tensor, preferences: Tensor) -> float:
    """Return the R2 indicator (Hansen and Jaszkiewicz 1998); 0 is best.

    It is the mean over the preferences w of the smallest weighted Tchebycheff distance max_i w_i (1 - u_i) of a
    material to the ideal point 1.

    Args:
        utilities: Float (n, m) in [0, 1].
        preferences: Weights, float (k, m) in [0, 1], no row all 0, k at least 1; see `simplex_lattice`.

    Raises:
        ValueError: Wrong shape, a value outside [0, 1] or NaN, or a preference that is 0 throughout.
    """
    points = _or_worst(_checked(utilities, "utilities"))
    weights = _checked_preferences(preferences, points.shape[1])
    shortfall = 1 - points[is_non_dominated(points)]
    return float(torch.stack([(shortfall * weight).amax(1).amin() for weight in weights]).mean())


def preference_entropy(utilities: Tensor, preferences: Tensor) -> float:
    """Return how evenly the non-dominated materials spread over the preferences, 0 (one direction only) to 1.

    Every non-dominated material belongs to the preference nearest in angle, the first one of equals; returned is the
    entropy of the shares, divided by log k. It follows the Pareto-clusters entropy of Roy et al. (2023,
    arXiv:2306.04620), which assigns all samples to the nearest point of a reference front.

    Args:
        utilities: Float (n, m) in [0, 1].
        preferences: Directions, float (k, m) in [0, 1], no row all 0, k at least 1; see `simplex_lattice`.

    Raises:
        ValueError: Wrong shape, a value outside [0, 1] or NaN, or a preference that is 0 throughout.
    """
    points = _or_worst(_checked(utilities, "utilities"))
    directions = torch.nn.functional.normalize(_checked_preferences(preferences, points.shape[1]))
    if len(directions) == 1:
        return 0.0
    nearest = (points[is_non_dominated(points)] @ directions.T).argmax(1)
    shares = nearest.bincount() / len(nearest)
    return float(torch.special.entr(shares).sum()) / math.log(len(directions))


def top_k_diversity(materials: CompositionBatch, scores: Tensor, k: int = 100) -> float:
    """Return the mean distance between two of the k best materials, 0 (fewer than two of them) to 1.

    The distance is half the L1 distance of the atomic fractions: 0 for the same composition, 1 for no element in
    common. Of equal compositions the best one counts; of equal scores the first.

    Args:
        materials: N compositions.
        scores: Float (N,), to be maximised.
        k: How many compositions to compare, at least 1.

    Raises:
        ValueError: k below 1, or scores of the wrong shape or NaN.
    """
    if k < 1:
        raise ValueError(f"k: found {k}, expected at least 1")
    if scores.shape != (len(materials),):
        raise ValueError(f"scores: found shape {tuple(scores.shape)}, expected ({len(materials)},)")
    if scores.isnan().any():
        raise ValueError(f"scores: found NaN in row {int(scores.isnan().nonzero()[0, 0])}, expected numbers")
    best_first = materials.rows(scores.argsort(descending=True, stable=True))
    fractions = best_first.dense_fractions().double()
    kinds, kind = torch.unique((fractions * _FRACTION_STEPS).round(), dim=0, return_inverse=True)
    first = torch.full((len(kinds),), len(kind)).scatter_reduce(0, kind, torch.arange(len(kind)), "amin")
    distances = torch.pdist(fractions[first.sort().values[:k]], p=1) / 2
    return float(distances.mean()) if len(distances) else 0.0


def simplex_lattice(m: int, n: int) -> Tensor:
    """Return evenly spread preferences, float (k, m), rows sum to one (Das and Dennis 1998).

    k is the largest size of a lattice that does not exceed n. The corners are included; the rows ascend
    lexicographically, so that for m = 2 they walk along the front.

    Args:
        m: Objectives, at least 1.
        n: Most preferences, at least m.

    Raises:
        ValueError: m below 1 or n below m.
    """
    if not 1 <= m <= n:
        raise ValueError(f"lattice: found m={m} and n={n}, expected 1 <= m <= n")
    divisions = 1
    while m > 1 and math.comb(divisions + m, m - 1) <= n:
        divisions += 1
    bars = [(-1, *places, divisions + m - 1) for places in combinations(range(divisions + m - 1), m - 1)]
    return (torch.tensor(bars).diff(dim=1) - 1) / divisions


def _checked(values: Tensor, name: str, columns: int | None = None, fewest: int = 0) -> Tensor:
    """Return values in [0, 1] as double (n, m) on the CPU."""
    shape = tuple(values.shape)
    if len(shape) != 2 or shape[0] < fewest or shape[1] == 0 or columns not in (None, shape[1]):
        expected = f"(n, {columns or 'm'})" + (f" with n >= {fewest}" if fewest else "")
        raise ValueError(f"{name}: found shape {shape}, expected {expected}")
    values = values.detach().cpu().double()
    outside = ~((values >= 0) & (values <= 1))
    if outside.any():
        row, column = outside.nonzero()[0].tolist()
        found = f"{values[row, column].item():g} in row {row}"
        raise ValueError(f"{name}: found {found}, expected numbers in [0, 1] ({int(outside.sum())} are not)")
    return values


def _checked_preferences(preferences: Tensor, columns: int) -> Tensor:
    preferences = _checked(preferences, "preferences", columns, fewest=1)
    empty = ~preferences.any(1)
    if empty.any():
        raise ValueError(f"preferences: found only 0 in row {int(empty.nonzero()[0, 0])}, expected a positive weight")
    return preferences


def _or_worst(utilities: Tensor) -> Tensor:
    return utilities if len(utilities) else utilities.new_zeros(1, utilities.shape[1])
