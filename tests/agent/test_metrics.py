"""`agent.metrics`, against brute force, enumeration, pymatgen and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import moocore
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition
from torch import Tensor

from agent.metrics import (
    hypervolume,
    igd_plus,
    is_non_dominated,
    preference_entropy,
    r2,
    simplex_lattice,
    top_k_diversity,
)
from envs.formula import CompositionBatch

STEPS = 4
FRONT = torch.tensor([[1.0, 0.0], [0.75, 0.5], [0.5, 0.75], [0.0, 1.0]])
CORNERS = torch.eye(2)


@st.composite
def utility_sets(draw: st.DrawFn, fewest: int = 0) -> Tensor:
    """Up to 9 materials under 1 to 4 objectives, on a grid of quarters: ties and equal rows are frequent."""
    m = draw(st.integers(1, 4))
    row = st.lists(st.integers(0, STEPS), min_size=m, max_size=m)
    rows = draw(st.lists(row, min_size=fewest, max_size=9))
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), m) / STEPS


def random_utilities(n: int, m: int, seed: int = 0) -> Tensor:
    return torch.rand(n, m, generator=torch.Generator().manual_seed(seed))


def dominates(a: list[float], b: list[float]) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))


@given(utility_sets())
def test_non_dominated_are_those_that_no_row_dominates(utilities: Tensor) -> None:
    rows = utilities.tolist()
    assert is_non_dominated(utilities).tolist() == [not any(dominates(other, row) for other in rows) for row in rows]


def test_non_dominated_of_many_rows() -> None:
    utilities = (random_utilities(300, 4) * 6).round() / 6
    rows = utilities.tolist()
    found = is_non_dominated(utilities)
    assert found.dtype == torch.bool
    assert found.tolist() == [not any(dominates(other, row) for other in rows) for row in rows]


@given(utility_sets(), st.integers(0, STEPS))
def test_hypervolume_counts_the_dominated_cells(utilities: Tensor, reference: int) -> None:
    """On a grid the volume is a number of cells, each dominated when a row reaches its upper corner."""
    rows = (utilities * STEPS).tolist()
    corners = product(range(reference + 1, STEPS + 1), repeat=utilities.shape[1])
    cells = sum(any(all(u >= c for u, c in zip(row, cell, strict=True)) for row in rows) for cell in corners)
    assert hypervolume(utilities, reference / STEPS) == pytest.approx(cells / STEPS ** utilities.shape[1], abs=1e-12)


def test_hypervolume_of_five_objectives_by_monte_carlo() -> None:
    utilities = random_utilities(30, 5)
    darts = torch.rand(200_000, 5, generator=torch.Generator().manual_seed(1))
    hit = torch.zeros(len(darts), dtype=torch.bool)
    for row in utilities:
        hit |= (darts <= row).all(1)
    assert hypervolume(utilities) == pytest.approx(float(hit.double().mean()), abs=5 * math.sqrt(0.25 / len(darts)))


def test_hypervolume_of_a_staircase() -> None:
    """n steps of width 1 / (n + 1) under the diagonal, of heights 1 / (n + 1) to n / (n + 1)."""
    n = 50
    steps = torch.arange(1, n + 1) / (n + 1)
    assert hypervolume(torch.stack([steps, 1 - steps], 1)) == pytest.approx(n / (2 * (n + 1)), abs=1e-6)


def test_igd_plus_by_the_example_of_its_authors() -> None:
    """Ishibuchi et al. 2015, example 4 (there minimised on a scale of 10): A dominates B, and is nearer by IGD+."""
    front = 1 - torch.tensor([[10, 0], [6, 1], [2, 2], [1, 6], [0, 10]]) / 10
    a, b = (1 - torch.tensor(rows) / 10 for rows in ([[4, 2], [3, 3], [2, 4]], [[8, 2], [4, 4], [2, 8]]))
    assert igd_plus(a, front) == pytest.approx((2 + 1 + math.sqrt(2) + 1 + 2) / 50, abs=1e-6)
    assert igd_plus(b, front) == pytest.approx((2 + math.sqrt(5) + math.sqrt(8) + math.sqrt(5) + 2) / 50, abs=1e-6)
    assert igd_plus(front, front) == 0


@given(utility_sets(fewest=1), st.integers(0, 100))
def test_igd_plus_is_the_mean_shortfall(utilities: Tensor, seed: int) -> None:
    front = random_utilities(5, utilities.shape[1], seed)
    shortfalls = [
        min(math.hypot(*(max(z - u, 0) for z, u in zip(point, row, strict=True))) for row in utilities.tolist())
        for point in front.tolist()
    ]
    assert igd_plus(utilities, front) == pytest.approx(sum(shortfalls) / len(shortfalls), abs=1e-12)


@given(utility_sets(fewest=1), st.integers(0, 100))
def test_r2_is_the_mean_of_the_best_tchebycheff_distances(utilities: Tensor, seed: int) -> None:
    preferences = random_utilities(6, utilities.shape[1], seed)
    best = [
        min(max(w * (1 - u) for w, u in zip(weights, row, strict=True)) for row in utilities.tolist())
        for weights in preferences.tolist()
    ]
    assert r2(utilities, preferences) == pytest.approx(sum(best) / len(best), abs=1e-12)


def test_r2_approaches_the_exact_one_of_two_objectives() -> None:
    utilities = random_utilities(40, 2) ** 2
    exact = moocore.r2_exact(utilities.double().numpy(), ref=1, maximise=True)
    assert r2(utilities, simplex_lattice(2, 2001)) == pytest.approx(exact, rel=1e-3)


def test_r2_by_hand() -> None:
    preferences = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    assert r2(torch.ones(1, 2), preferences) == 0
    assert r2(torch.zeros(1, 2), preferences) == pytest.approx((1 + 0.5 + 1) / 3)
    assert r2(FRONT, preferences) == pytest.approx((0 + 0.25 + 0) / 3)


def test_a_front_along_the_preferences_has_entropy_one() -> None:
    directions = simplex_lattice(3, 10)
    on_sphere = torch.nn.functional.normalize(directions)
    assert preference_entropy(on_sphere * 0.9, directions) == pytest.approx(1.0, abs=1e-6)
    assert preference_entropy(torch.cat([on_sphere, on_sphere * 0.5]), directions) == pytest.approx(1.0, abs=1e-6)


def test_entropy_by_hand() -> None:
    quarters = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [2.0, 1.0], [1.0, 2.0], [0.0, 1.0]]))
    assert preference_entropy(quarters[:2], quarters) == pytest.approx(0.5)
    assert preference_entropy(quarters[[0, 0, 0, 3]], CORNERS) == pytest.approx(
        -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    )
    dominated = torch.tensor([[0.1, 0.9], [0.0, 0.5]])
    assert preference_entropy(torch.cat([torch.tensor([[0.9, 0.9]]), dominated[1:]]), CORNERS) == 0
    assert preference_entropy(torch.cat([torch.tensor([[0.9, 0.1]]), dominated]), CORNERS) == pytest.approx(1.0)


def test_entropy_is_zero_in_one_direction() -> None:
    assert preference_entropy(FRONT, torch.ones(1, 2)) == 0
    assert preference_entropy(torch.tensor([[0.9, 0.2]]), CORNERS) == 0
    assert preference_entropy(torch.zeros(3, 2), CORNERS) == 0


@given(utility_sets(fewest=1), st.integers(0, 100))
def test_entropy_is_that_of_the_smallest_angles(utilities: Tensor, seed: int) -> None:
    preferences = random_utilities(4, utilities.shape[1], seed)
    rows = utilities.tolist()
    counts = [0] * 4
    for row in rows:
        if any(dominates(other, row) for other in rows):
            continue
        cosines = [
            sum(u * w for u, w in zip(row, weights, strict=True)) / math.hypot(*weights)
            for weights in preferences.tolist()
        ]
        counts[cosines.index(max(cosines))] += 1
    shares = [count / sum(counts) for count in counts if count]
    expected = -sum(share * math.log(share) for share in shares) / math.log(4)
    assert preference_entropy(utilities, preferences) == pytest.approx(expected, abs=1e-6)


def test_a_tie_in_angle_goes_to_the_first_preference() -> None:
    tied = torch.tensor([[0.5, 0.5]])
    assert preference_entropy(torch.cat([tied, torch.tensor([[0.75, 0.25]])]), CORNERS) == 0
    assert preference_entropy(torch.cat([tied, torch.tensor([[0.25, 0.75]])]), CORNERS) == pytest.approx(1.0)


def half_l1(a: str, b: str) -> float:
    first, second = Composition(a), Composition(b)
    elements = {*first.elements, *second.elements}
    return float(sum(abs(first.get_atomic_fraction(e) - second.get_atomic_fraction(e)) for e in elements) / 2)


def diversity(formulas: list[str], scores: list[float], k: int = 100) -> float:
    return top_k_diversity(CompositionBatch.from_formulas(formulas), torch.tensor(scores), k)


def test_diversity_by_hand() -> None:
    assert diversity(["NaCl", "MgO"], [0.1, 0.2]) == pytest.approx(1.0)
    assert diversity(["NaCl", "KCl"], [0.1, 0.2]) == pytest.approx(0.5)
    assert diversity(["NaCl", "KCl", "MgO"], [0.1, 0.2, 0.3]) == pytest.approx((0.5 + 1 + 1) / 3)


def test_diversity_against_pymatgen() -> None:
    formulas = ["SrTiO3", "BaTiO3", "TiO2", "Ti2O3", "Li0.5CoO2", "CaH2O2", "Fe", "NaCl"]
    scores = [0.3, 0.9, 0.1, 0.8, 0.5, 0.7, 0.2, 0.6]
    for k in (2, 5, 8, 100):
        best = sorted(formulas, key=lambda formula: -scores[formulas.index(formula)])[:k]
        distances = [half_l1(a, b) for a, b in combinations(best, 2)]
        assert diversity(formulas, scores, k) == pytest.approx(sum(distances) / len(distances), abs=1e-6)


def test_diversity_takes_equal_compositions_once_and_the_first_of_equal_scores() -> None:
    assert diversity(["NaCl", "Na2Cl2", "ClNa", "KCl"], [0.9, 0.8, 0.7, 0.1], k=2) == pytest.approx(0.5)
    assert diversity(["Li0.7Fe0.1Mn0.1Co0.1O2", "MgO2", "Li7FeMnCoO20"], [0.9, 0.8, 0.7]) == pytest.approx(1 / 3)
    assert diversity(["NaCl", "KCl", *["MgO", "SiC"] * 50], [0.5] * 102, k=2) == pytest.approx(0.5)
    assert diversity(["Fe0.001Mg0.333O", "Fe0.002Mg0.332O"], [0.5, 0.5]) == pytest.approx(0.001 / 1.334, rel=1e-3)


def test_diversity_of_fewer_than_two() -> None:
    assert diversity([], []) == 0
    assert diversity(["NaCl"], [1.0]) == 0
    assert diversity(["NaCl", "MgO"], [1.0, 0.5], k=1) == 0
    assert diversity(["NaCl", "Na2Cl2"], [1.0, 0.5]) == 0


def test_lattice_walks_along_the_front_of_two_objectives() -> None:
    assert simplex_lattice(2, 5).tolist() == [[0, 1], [0.25, 0.75], [0.5, 0.5], [0.75, 0.25], [1, 0]]
    assert simplex_lattice(1, 7).tolist() == [[1.0]]
    assert simplex_lattice(3, 3).tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


@given(st.integers(1, 5), st.integers(1, 80))
def test_lattice_is_the_largest_grid_of_the_simplex(m: int, n: int) -> None:
    def grid(divisions: int) -> list[tuple[int, ...]]:
        return [point for point in product(range(divisions + 1), repeat=m) if sum(point) == divisions]

    if n < m:
        with pytest.raises(ValueError, match=f"found m={m} and n={n}, expected 1 <= m <= n"):
            simplex_lattice(m, n)
        return
    lattice = simplex_lattice(m, n)
    divisions = round(float(1 / lattice[lattice > 0].min()))
    assert (lattice * divisions).round().int().tolist() == [list(point) for point in grid(divisions)]
    assert torch.allclose(lattice.sum(1), torch.ones(len(lattice)))
    assert len(lattice) <= n
    assert m == 1 or math.comb(divisions + m, m - 1) > n


def test_no_materials_count_as_the_worst() -> None:
    nothing, worst = torch.zeros(0, 2), torch.zeros(1, 2)
    assert is_non_dominated(nothing).shape == (0,)
    assert hypervolume(nothing) == 0
    assert preference_entropy(nothing, CORNERS) == 0
    assert r2(nothing, CORNERS) == r2(worst, CORNERS) == 1
    assert igd_plus(nothing, FRONT) == igd_plus(worst, FRONT) > 0


@given(utility_sets(fewest=2))
def test_a_further_material_never_harms(utilities: Tensor) -> None:
    front = preferences = simplex_lattice(utilities.shape[1], 10)
    assert hypervolume(utilities) >= hypervolume(utilities[1:]) - 1e-12
    assert igd_plus(utilities, front) <= igd_plus(utilities[1:], front) + 1e-12
    assert r2(utilities, preferences) <= r2(utilities[1:], preferences) + 1e-12


def test_inputs_stay_as_they_are_whatever_their_memory() -> None:
    utilities = random_utilities(2, 20).double().T.requires_grad_()
    before, compact = utilities.detach().clone(), utilities.detach().contiguous()
    front = random_utilities(4, 2)
    for metric in (is_non_dominated, hypervolume):
        assert torch.equal(torch.as_tensor(metric(utilities)), torch.as_tensor(metric(compact)))
    for compare in (igd_plus, r2, preference_entropy):
        assert compare(utilities, front) == compare(compact, front)
    assert torch.equal(utilities, before)


@pytest.mark.parametrize(
    ("metric", "others"),
    [
        (is_non_dominated, []),
        (hypervolume, []),
        (igd_plus, [FRONT]),
        (r2, [CORNERS]),
        (preference_entropy, [CORNERS]),
    ],
)
@pytest.mark.parametrize(
    ("utilities", "message"),
    [
        (torch.zeros(3), r"utilities: found shape \(3,\), expected \(n, m\)"),
        (torch.zeros(3, 0), r"utilities: found shape \(3, 0\), expected \(n, m\)"),
        (torch.tensor([[0.5, 0.5], [math.nan, 0.5]]), r"utilities: found nan in row 1, expected numbers in \[0, 1\]"),
        (torch.tensor([[0.5, 1.5]]), r"utilities: found 1.5 in row 0, .* \(1 are not\)"),
        (torch.tensor([[-0.5, 0.5]]), "utilities: found -0.5 in row 0"),
    ],
)
def test_bad_utilities_are_refused(
    metric: Callable[..., Any], others: list[Tensor], utilities: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metric(utilities, *others)


@pytest.mark.parametrize("metric", [r2, preference_entropy])
@pytest.mark.parametrize(
    ("preferences", "message"),
    [
        (torch.ones(2, 3), r"preferences: found shape \(2, 3\), expected \(n, 2\) with n >= 1"),
        (torch.ones(0, 2), r"preferences: found shape \(0, 2\), expected \(n, 2\) with n >= 1"),
        (torch.tensor([[0.5, 0.5], [0.0, 0.0]]), "preferences: found only 0 in row 1, expected a positive weight"),
        (torch.tensor([[2.0, 0.5]]), r"preferences: found 2 in row 0, expected numbers in \[0, 1\]"),
    ],
)
def test_bad_preferences_are_refused(
    metric: Callable[[Tensor, Tensor], float], preferences: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metric(FRONT, preferences)


def test_other_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"front: found shape \(0, 2\), expected \(n, 2\) with n >= 1"):
        igd_plus(FRONT, torch.zeros(0, 2))
    for reference in (math.nan, -0.1, 2.0):
        with pytest.raises(ValueError, match=rf"reference: found {reference}, expected a number in \[0, 1\]"):
            hypervolume(FRONT, reference)
    with pytest.raises(ValueError, match="k: found 0, expected at least 1"):
        diversity(["NaCl"], [1.0], k=0)
    with pytest.raises(ValueError, match=r"scores: found shape \(1,\), expected \(2,\)"):
        diversity(["NaCl", "MgO"], [1.0])
    with pytest.raises(ValueError, match="scores: found NaN in row 1, expected numbers"):
        diversity(["NaCl", "MgO"], [1.0, math.nan])
    with pytest.raises(ValueError, match="found m=0 and n=5"):
        simplex_lattice(0, 5)
