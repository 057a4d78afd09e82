"""`agent.selection`, against hypervolumes by moocore, plain greedy selection and BoTorch."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from agent.metrics import hypervolume
from agent.reward import scalarize
from agent.selection import MemberTable, Selection, SelectionMethod, expected_improvements, select_batch

STEPS = 4
METHODS: tuple[SelectionMethod, ...] = ("ehvi", "qlognehvi", "qlogei", "thompson", "greedy", "random")


def random_table(
    n: int, n_members: int, m: int, seed: int, *, grid: bool = False, feasible: float = 1.0
) -> MemberTable:
    """Members scatter about a random mean; on a grid of quarters, ties, zeros and ones are frequent."""
    generator = torch.Generator().manual_seed(seed)
    utilities = torch.rand(1, n, m, generator=generator) + 0.2 * torch.randn(n_members, n, m, generator=generator)
    utilities = utilities.clamp(0, 1).double()
    if grid:
        utilities = (utilities * STEPS).round() / STEPS
    satisfied = torch.rand(n_members, n, generator=generator) < feasible
    return MemberTable(utilities, satisfied if feasible < 1 else None)


@dataclass(frozen=True)
class Case:
    """A selection problem."""

    table: MemberTable
    observed: Tensor
    pending: MemberTable | None = None
    costs: Tensor | None = None


def make_case(
    n: int, n_members: int, m: int, seed: int, *, n_observed: int = 4, n_pending: int = 0, **options: Any
) -> Case:
    return Case(
        random_table(n, n_members, m, seed, **options),
        random_table(n_observed, 1, m, seed + 1, grid=options.get("grid", False)).utilities[0] * 0.75,
        random_table(n_pending, n_members, m, seed + 2, **options) if n_pending else None,
        torch.tensor([0.5, 1.0, 2.0])[torch.arange(n) % 3] if seed % 2 else None,
    )


cases = st.builds(
    make_case,
    n=st.integers(1, 7),
    n_members=st.integers(1, 3),
    m=st.integers(1, 4),
    seed=st.integers(0, 999),
    n_observed=st.integers(0, 5),
    n_pending=st.integers(0, 2),
    grid=st.booleans(),
    feasible=st.sampled_from([1.0, 0.6]),
)


def member_sets(members: MemberTable | None) -> list[Tensor]:
    """The feasible utilities according to each member, float (n, m)."""
    assert members is not None
    feasible = torch.ones(members.utilities.shape[:2], dtype=torch.bool)
    feasible = feasible if members.feasible is None else members.feasible
    return [utilities[satisfied] for utilities, satisfied in zip(members.utilities, feasible, strict=True)]


def hypervolumes(case: Case, rows: list[int]) -> Tensor:
    """What observed and pending materials and some candidates dominate, by member."""
    parts = [[case.observed] * case.table.n_members, member_sets(case.table.rows(torch.tensor(rows, dtype=torch.long)))]
    parts += [] if case.pending is None else [member_sets(case.pending)]
    return torch.tensor([hypervolume(torch.cat(sets)) for sets in zip(*parts, strict=True)], dtype=torch.float64)


def brute_force_gains(case: Case, rows: list[int]) -> Tensor:
    """The gain of each candidate after some picks, minus infinity for those picked."""
    before = hypervolumes(case, rows)
    gains = [
        -math.inf if row in rows else float((hypervolumes(case, [*rows, row]) - before).mean())
        for row in range(len(case.table))
    ]
    return torch.tensor(gains, dtype=torch.float64)


def rates(gains: Tensor, case: Case) -> Tensor:
    return gains if case.costs is None else gains / case.costs


def pick(case: Case, n: int, method: SelectionMethod, **options: Any) -> list[int]:
    """The rows picked by the method alone."""
    selection = select_batch(
        case.table,
        n,
        case.observed,
        torch.zeros(len(case.table)),
        torch.Generator().manual_seed(0),
        method=method,
        greedy_share=0,
        random_picks=0,
        pending=case.pending,
        costs=case.costs,
        **options,
    )
    assert set(selection.picked_by) <= {method}
    return selection.rows


@given(cases)
def test_improvements_are_the_hypervolumes_gained(case: Case) -> None:
    found = expected_improvements(case.table, case.observed, case.pending)
    assert found.dtype == torch.float64
    assert torch.allclose(found, brute_force_gains(case, []), rtol=0, atol=1e-12)


def test_improvements_of_many_materials() -> None:
    case = make_case(700, 5, 3, 0, n_observed=60, n_pending=3, feasible=0.8)
    found = expected_improvements(case.table, case.observed, case.pending)
    some = Case(case.table.rows(slice(0, None, 70)), case.observed, case.pending)
    assert torch.allclose(found[::70], brute_force_gains(some, []), rtol=0, atol=1e-12)


def test_improvement_of_one_objective_is_the_expected_improvement() -> None:
    table = random_table(20, 6, 1, 0)
    expected = (table.utilities[..., 0] - 0.4).clamp_min(0).mean(0)
    assert torch.allclose(expected_improvements(table, torch.tensor([[0.4], [0.1]])), expected, atol=1e-7)


@given(cases, st.integers(1, 7))
def test_every_pick_gains_the_most_hypervolume(case: Case, n: int) -> None:
    expected: list[int] = []
    for _ in range(min(n, len(case.table))):
        worth = rates(brute_force_gains(case, expected), case)
        expected.append(int((worth >= worth.max() - 1e-9).nonzero()[0, 0]))
    assert pick(case, n, "ehvi") == expected


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("block", "leading"), [(1, 2), (1, 128), (32, 256)])
def test_lazy_picks_are_those_of_plain_greedy(
    m: int, seed: int, block: int, leading: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.selection._BLOCK", block)
    monkeypatch.setattr("agent.selection._LEADING", leading)
    case = make_case(300, 8, m, seed, n_observed=10, grid=seed == 3, feasible=0.8)
    expected: list[int] = []
    for _ in range(25):
        picked = case.table.rows(torch.tensor(expected, dtype=torch.long))
        worth = rates(expected_improvements(case.table, case.observed, picked), case)
        worth[expected] = -torch.inf
        expected.append(int((worth >= worth.max() - 1e-12).nonzero()[0, 0]))
    assert pick(case, 25, "ehvi") == expected


@pytest.fixture
def no_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """BoTorch stays with its Python code instead of compiling a kernel, which takes longer than all of this file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # linear_operator still calls torch.jit.script
        from botorch.acquisition.multi_objective import logei

    monkeypatch.setattr(logei, "_load_attempted", True)


@pytest.mark.usefixtures("no_compilation")
class TestAgainstBoTorch:
    @pytest.mark.parametrize("m", [2, 3, 4])
    @pytest.mark.parametrize("feasible", [1.0, 0.7])
    @pytest.mark.parametrize("n_pending", [0, 2])
    def test_same_picks(self, m: int, feasible: float, n_pending: int) -> None:
        for seed in range(2):
            case = make_case(25, 6, m, seed, n_pending=n_pending, feasible=feasible)
            expected = pick(case, 4, "ehvi")
            assert brute_force_gains(case, expected[:-1]).max() > 1e-6
            assert pick(case, 4, "qlognehvi") == expected

    def test_same_picks_without_observed(self) -> None:
        case = make_case(25, 6, 3, 4, n_observed=0, feasible=0.7)
        assert pick(case, 4, "qlognehvi") == pick(case, 4, "ehvi")

    def test_same_picks_for_one_objective(self) -> None:
        case = make_case(25, 6, 1, 2, n_pending=1, feasible=0.7)
        n = 0
        while brute_force_gains(case, pick(case, n, "ehvi")).max() > 1e-6:
            n += 1
        assert n >= 2
        assert pick(case, n, "qlognehvi") == pick(case, n, "ehvi")

    @pytest.mark.parametrize("seed", range(6))
    def test_picks_among_ties_gain_the_most(self, seed: int) -> None:
        case = make_case(12, 3, 2 + seed % 2, seed, n_pending=seed % 3, grid=True, feasible=0.7)
        rows = pick(case, 3, "qlognehvi")
        for n, row in enumerate(rows):
            worth = rates(brute_force_gains(case, rows[:n]), case)
            assert worth[row] == pytest.approx(float(worth.max()), abs=1e-6)

    def test_a_baseline_stands_for_uncertain_labels(self) -> None:
        case = make_case(25, 6, 2, 8, feasible=0.7)
        baseline = random_table(5, 6, 2, 9, feasible=0.7)
        by_member = Case(case.table, torch.zeros(0, 2), pending=baseline)
        assert pick(case, 4, "qlognehvi", baseline=baseline) == pick(by_member, 4, "ehvi")

    @pytest.mark.parametrize("seed", range(4))
    def test_improvement_of_the_scalarised_utility(self, seed: int) -> None:
        case = make_case(25, 6, 3, seed, n_pending=seed % 3, feasible=0.7)
        weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)

        def score(members: MemberTable) -> Tensor:
            scores = scalarize(members.utilities, weights, "tchebycheff")
            return scores if members.feasible is None else scores.masked_fill(~members.feasible, 0)

        best = score(MemberTable(case.observed.expand(6, -1, -1), None)).amax(1)
        if case.pending is not None:
            best = torch.maximum(best, score(case.pending).amax(1))
        candidates, expected = score(case.table), list[int]()
        while len(expected) < 5:
            gains = rates((candidates - best[:, None]).clamp_min(0).mean(0), case)
            if gains.max() < 1e-6:
                break
            expected.append(int(gains.argmax()))
            best = torch.maximum(best, candidates[:, expected[-1]])
        assert len(expected) >= 2
        assert pick(case, len(expected), "qlogei", weights=weights) == expected

    def test_every_evaluation_sees_all_members(self) -> None:
        from agent.selection_botorch import AllMembers, MemberModel

        values = random_table(7, 5, 2, 0).utilities
        rows = torch.tensor([[3, 1], [3, 1], [6, 0]])
        samples = AllMembers(5)(MemberModel(values).posterior(rows[..., None].double()))
        assert torch.equal(samples, values[:, rows])

    @pytest.mark.slow
    @pytest.mark.parametrize("m", [2, 3])
    def test_same_picks_from_a_larger_pool(self, m: int) -> None:
        for seed in range(2):
            case = make_case(200, 16, m, seed, n_observed=20, n_pending=3, feasible=0.8)
            assert pick(case, 6, "qlognehvi") == pick(case, 6, "ehvi")


def test_thompson_picks_the_best_of_one_member() -> None:
    table = random_table(30, 5, 3, 0)
    weights = torch.tensor([0.6, 0.3, 0.1])
    scores = scalarize(table.utilities, weights.double(), "tchebycheff")
    rows = pick(Case(table, torch.zeros(0, 3)), 12, "thompson", weights=weights)
    assert len(set(rows)) == 12
    for row in rows:
        assert row in scores.argmax(1)
        scores[:, row] = -1
    assert len(set(pick(Case(table, torch.zeros(0, 3)), 12, "thompson", weights=torch.eye(3)[2])) - set(rows)) > 0


def test_thompson_asks_every_member() -> None:
    best = torch.eye(4, dtype=torch.float64)[..., None]  # member s says that material s is the only good one
    rows = [pick_one(MemberTable(best, None), seed) for seed in range(200)]
    assert all(30 < count < 70 for count in Counter(rows).values())
    assert set(rows) == {0, 1, 2, 3}


def pick_one(table: MemberTable, seed: int) -> int:
    generator = torch.Generator().manual_seed(seed)
    observed, score = torch.zeros(0, 1), torch.zeros(len(table))
    return select_batch(table, 1, observed, score, generator, method="thompson", random_picks=0).rows[0]


def test_thompson_picks_infeasible_ones_last() -> None:
    utilities = torch.tensor([[[1.0], [0.2], [0.9], [0.1], [0.2]]])
    table = MemberTable(utilities, torch.tensor([[False, True, False, True, True]]))
    assert pick(Case(table, torch.zeros(0, 1)), 5, "thompson") == [1, 4, 3, 0, 2]


def test_ties_go_to_the_lower_row() -> None:
    utilities = torch.tensor([[0.2, 0.2], [0.5, 0.5], [0.5, 0.5], [0.3, 0.7], [0.3, 0.7]]).expand(3, -1, -1)
    case = Case(MemberTable(utilities, None), torch.zeros(0, 2))
    assert pick(case, 5, "ehvi") == [1, 3, 0, 2, 4]
    assert pick(case, 3, "thompson") == [1, 2, 3]
    tied = select_batch(
        case.table, 3, case.observed, torch.tensor([0.0, 1, 0, 1, 1]), torch.Generator(), method="greedy"
    )
    assert tied.rows == [1, 3, 4]


def test_cheaper_materials_come_first() -> None:
    table = MemberTable(torch.tensor([[[0.5], [0.8], [0.6]]]), None)
    observed = torch.tensor([[0.4]])
    assert pick(Case(table, observed), 1, "ehvi") == [1]
    for method in ("ehvi", "qlognehvi", "qlogei"):
        assert pick(Case(table, observed, costs=torch.tensor([1.0, 5.0, 1.0])), 1, method) == [2]


def random_scores(n: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(5))


def batch(n: int, seed: int = 0, n_candidates: int = 40, **options: Any) -> Selection:
    case = make_case(n_candidates, 4, 2, 0, feasible=0.8)
    score = random_scores(n_candidates)
    return select_batch(case.table, n, case.observed, score, torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("method", ["ehvi", "qlogei", "thompson"])
def test_a_batch_is_shared_out(method: SelectionMethod) -> None:
    found = batch(10, method=method, greedy_share=0.3, random_picks=2)
    assert found.picked_by == [method] * 5 + ["greedy"] * 3 + ["random"] * 2
    assert len(set(found.rows)) == 10
    assert found.rows[:5] == batch(5, method=method, greedy_share=0, random_picks=0).rows
    best_first = random_scores(40).argsort(descending=True).tolist()
    assert found.rows[5:8] == [row for row in best_first if row not in found.rows[:5]][:3]


def test_shares_are_whole_numbers() -> None:
    for n, share, picks, expected in [(8, 0.25, 1, (5, 2, 1)), (1, 0.25, 1, (0, 0, 1)), (3, 1.0, 1, (0, 3, 0))]:
        counts = Counter(batch(n, method="thompson", greedy_share=share, random_picks=picks).picked_by)
        assert (counts["thompson"], counts["greedy"], counts["random"]) == expected


def test_greedy_and_random_batches() -> None:
    best_first = random_scores(40).argsort(descending=True).tolist()
    assert batch(6, method="greedy").rows == best_first[:6]
    assert batch(6, method="greedy").picked_by == ["greedy"] * 6
    assert batch(6, method="random").picked_by == ["random"] * 6
    drawn = Counter(row for seed in range(200) for row in batch(4, seed, 10, method="random").rows)
    assert all(50 < drawn[row] < 110 for row in range(10))


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides(method: SelectionMethod) -> None:
    n = 4 if method.startswith("qlog") else 12
    assert batch(n, 3, method=method).rows == batch(n, 3, method=method).rows
    draws = {tuple(batch(n, seed, method=method).rows) for seed in range(5)}
    assert (len(draws) == 1) == (method == "greedy")


@pytest.mark.parametrize("method", METHODS)
def test_a_small_pool_is_picked_whole(method: SelectionMethod) -> None:
    found = batch(9, n_candidates=5, method=method)
    assert sorted(found.rows) == [0, 1, 2, 3, 4]
    assert len(found.picked_by) == 5
    assert batch(0, method=method).rows == []
    empty = select_batch(
        random_table(0, 2, 2, 0), 3, torch.zeros(0, 2), torch.zeros(0), torch.Generator(), method=method
    )
    assert (empty.rows, empty.picked_by) == ([], [])


def test_inputs_stay_as_they_are_whatever_their_type() -> None:
    case = make_case(60, 4, 2, 0, n_pending=2, feasible=0.8)
    single = MemberTable(case.table.utilities.float().requires_grad_(), case.table.feasible)
    double = MemberTable(single.utilities.detach().double(), case.table.feasible)
    before = single.utilities.detach().clone()
    for method in ("ehvi", "thompson"):
        assert pick(Case(single, case.observed), 20, method) == pick(Case(double, case.observed), 20, method)
    assert torch.equal(single.utilities, before)


def test_rows_of_a_table() -> None:
    table = random_table(6, 3, 2, 0, feasible=0.5)
    some = table.rows(torch.tensor([4, 1]))
    assert (len(table), table.n_members, table.n_objectives, len(some)) == (6, 3, 2, 2)
    assert torch.equal(some.utilities, table.utilities[:, [4, 1]])
    assert torch.equal(cast(Tensor, some.feasible), cast(Tensor, table.feasible)[:, [4, 1]])
    assert random_table(6, 3, 2, 0).rows(slice(2)).feasible is None


@pytest.mark.parametrize(
    ("utilities", "feasible", "message"),
    [
        (torch.zeros(2, 3), None, r"utilities: found shape \(2, 3\), expected \(S, N, m\)"),
        (torch.zeros(0, 3, 2), None, r"utilities: found shape \(0, 3, 2\)"),
        (torch.zeros(2, 3, 0), None, r"utilities: found shape \(2, 3, 0\)"),
        (torch.zeros(2, 3, 1).int(), None, "utilities: found torch.int32, expected floating-point numbers"),
        (torch.full((2, 3, 1), math.nan), None, r"utilities: found nan at \[0, 0, 0\], .* \(6 are not\)"),
        (torch.full((2, 3, 1), 1.5), None, r"utilities: found 1.5 at \[0, 0, 0\], expected numbers in \[0, 1\]"),
        (torch.zeros(2, 3, 1), torch.ones(3, 2).bool(), r"feasible: found shape \(3, 2\), expected \(2, 3\)"),
        (torch.zeros(2, 3, 1), torch.ones(2, 3), "feasible: found torch.float32, expected torch.bool"),
    ],
)
def test_bad_tables_are_refused(utilities: Tensor, feasible: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemberTable(utilities, feasible)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("n", -1, "n: found -1, expected at least 0"),
        ("observed", torch.zeros(3, 1), r"observed: found shape \(3, 1\), expected \(K, 2\)"),
        ("observed", torch.full((1, 2), -0.5), r"observed: found -0.5 at \[0, 0\]"),
        ("score", torch.zeros(3), r"score: found shape \(3,\), expected \(5,\)"),
        ("score", torch.full((5,), math.nan), "score: found NaN in row 0"),
        ("method", "best", "method: found 'best', expected one of ehvi, qlognehvi"),
        ("greedy_share", 1.5, r"greedy_share: found 1.5, expected a number in \[0, 1\]"),
        ("greedy_share", math.nan, "greedy_share: found nan"),
        ("random_picks", -1, "random_picks: found -1, expected at least 0"),
        ("pending", random_table(1, 4, 2, 0), "pending: found 4 members and 2 objectives, expected 3 and 2"),
        ("baseline", random_table(1, 3, 1, 0), "baseline: found 3 members and 1 objectives, expected 3 and 2"),
        ("weights", torch.ones(3), r"weights: found shape \(3,\), expected \(2,\)"),
        ("weights", torch.zeros(2), r"weights: found \[0.0, 0.0\], expected numbers >= 0, not all 0"),
        ("weights", torch.tensor([1.0, math.inf]), r"weights: found \[1.0, inf\]"),
        ("costs", torch.ones(4), r"costs: found shape \(4,\), expected \(5,\)"),
        ("costs", torch.tensor([1.0, 1, 0, 1, 1]), "costs: found 0 in row 2, expected finite numbers > 0"),
    ],
)
def test_bad_arguments_are_refused(argument: str, value: Any, message: str) -> None:
    arguments: dict[str, Any] = {
        "table": random_table(5, 3, 2, 0),
        "n": 2,
        "observed": torch.zeros(0, 2),
        "score": torch.zeros(5),
        "generator": torch.Generator(),
    }
    with pytest.raises(ValueError, match=message):
        select_batch(**{**arguments, argument: value})


def test_bad_arguments_of_improvements_are_refused() -> None:
    table = random_table(5, 3, 2, 0)
    with pytest.raises(ValueError, match="observed: found shape"):
        expected_improvements(table, torch.zeros(2))
    with pytest.raises(ValueError, match="pending: found 2 members"):
        expected_improvements(table, torch.zeros(0, 2), random_table(1, 2, 2, 0))
