"""Which materials of a finite pool to label next.

A table holds what the members of an ensemble (or posterior samples) say about every candidate; a batch is picked from
it one material at a time, so that its materials complement each other:

    table = MemberTable(utilities, feasible)                   # (S, N, m) and (S, N)
    batch = select_batch(table, 64, observed, score, generator)
    batch.rows, batch.picked_by                                # [17, 4021, ...], ["ehvi", ..., "greedy", "random"]

Improvements are exact for the table: no sampling beyond its members, no approximation of the hypervolume.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from agent.campaign_options import SelectionMethod
from agent.hypervolume_boxes import Boxes, cut, mean_improvements, open_boxes
from agent.reward import scalarize

_TIE = 1e-12  # gains that differ by less, as a share of the largest one of the pool, are equal
_BLOCK = 32  # candidates evaluated again at a time, at first
_LEADING = 256  # candidates kept up to date


@dataclass(frozen=True, eq=False)
class MemberTable:
    """What S ensemble members (or posterior samples) say about N materials.

    Raises:
        ValueError: Wrong shape or type, or utilities outside [0, 1] or NaN.
    """

    utilities: Tensor
    """Each objective's utility of the member's value, to be maximised, float (S, N, m) in [0, 1]."""
    feasible: Tensor | None
    """Whether the member's values satisfy all constraints, bool (S, N); None without constraints."""

    def __post_init__(self) -> None:
        shape = tuple(self.utilities.shape)
        if len(shape) != 3 or 0 in (shape[0], shape[2]):
            raise ValueError(f"utilities: found shape {shape}, expected (S, N, m) with S >= 1 and m >= 1")
        _check_unit_interval("utilities", self.utilities)
        if self.feasible is None:
            return
        if self.feasible.shape != shape[:2]:
            raise ValueError(f"feasible: found shape {tuple(self.feasible.shape)}, expected {shape[:2]}")
        if self.feasible.dtype != torch.bool:
            raise ValueError(f"feasible: found {self.feasible.dtype}, expected torch.bool")

    def __len__(self) -> int:
        return self.utilities.shape[1]

    @property
    def n_members(self) -> int:
        """S."""
        return self.utilities.shape[0]

    @property
    def n_objectives(self) -> int:
        """The number of objectives, m."""
        return self.utilities.shape[2]

    def rows(self, index: Tensor | slice) -> MemberTable:
        """Return some of the materials, in the order of the index."""
        return MemberTable(self.utilities[:, index], None if self.feasible is None else self.feasible[:, index])

    def feasible_utilities(self) -> Tensor:
        """Return the utilities, 0 wherever the member says infeasible, double (S, N, m)."""
        utilities = self.utilities.detach().cpu().double()
        return utilities if self.feasible is None else utilities * self.feasible.cpu()[..., None]


@dataclass(frozen=True, eq=False)
class Selection:
    """A batch of materials."""

    rows: list[int]
    """Of the table, in order of picking."""
    picked_by: list[str]
    """The method that picked each of them."""


def select_batch(
    table: MemberTable,
    n: int,
    observed: Tensor,
    score: Tensor,
    generator: torch.Generator,
    *,
    method: SelectionMethod = "ehvi",
    greedy_share: float = 0.25,
    random_picks: int = 1,
    pending: MemberTable | None = None,
    weights: Tensor | None = None,
    baseline: MemberTable | None = None,
    costs: Tensor | None = None,
) -> Selection:
    """Pick a batch: first by the method, then the highest scores, then at random, of what is not picked yet.

    - ehvi: expected hypervolume improvement, one pick after the other (Emmerich et al. 2006; exact for the members).
    - qlognehvi: the same by BoTorch (Daulton et al. 2021, Ament et al. 2023), where what is known of the labelled
      materials may be uncertain; slow.
    - qlogei: expected improvement of the scalarised utility, by BoTorch.
    - thompson: each pick is the best feasible one by the scalarised utility of one random member.
    - greedy, random: the whole batch by score, or at random.

    Ties go to the lower row: in a table sorted by score, candidates that improve nothing follow by score.

    Args:
        table: Of the N candidates.
        n: Size of the batch; fewer come back when there are fewer candidates.
        observed: Utilities of the labelled materials that satisfy the constraints, float (K, m) in [0, 1].
        score: What greedy picks maximise, the reward for instance, float (N,).
        generator: Of random and Thompson picks.
        method: See above.
        greedy_share: Share of the batch picked by score, in [0, 1], rounded to a whole number of picks.
        random_picks: How many are picked at random (at most what the greedy ones leave).
        pending: Materials that are being labelled; ehvi, qlognehvi and qlogei count them as observed with each
            member's values.
        weights: Preference for the scalarised (augmented Tchebycheff) utility, float (m,); None: equal.
        baseline: Member values of the labelled materials, in place of `observed` in qlognehvi; others ignore them.
        costs: Improvements are divided by them, float (N,) > 0; Thompson, greedy and random picks ignore them.

    Raises:
        ValueError: An argument has the wrong shape or value; the message names it.
    """
    _check_arguments(table, n, observed, score, method, greedy_share, random_picks)
    _check_options(table, pending, weights, baseline, costs)
    n = min(n, len(table))
    n_greedy = round(greedy_share * n)
    n_random = min(random_picks, n - n_greedy)
    counts = {method: n - n_greedy - n_random, "greedy": n_greedy, "random": n_random}
    if method in ("greedy", "random"):
        counts = {method: n}
    weights = torch.ones(table.n_objectives) if weights is None else weights.detach().cpu()
    rows: list[int] = []
    picked_by: list[str] = []
    for kind, count in counts.items():
        if not count:
            continue
        is_left = torch.ones(len(table), dtype=torch.bool)
        is_left[rows] = False
        left = is_left.nonzero()[:, 0]
        if kind == "greedy":
            order = score.detach().cpu().double()[left].argsort(descending=True, stable=True)
            found = left[order[:count]].tolist()
        elif kind == "random":
            found = left[torch.randperm(len(left), generator=generator)[:count]].tolist()
        elif kind == "thompson":
            found = _thompson_picks(table, count, weights.double(), generator)
        elif kind == "ehvi":
            found = _ehvi_picks(table, count, observed, pending, costs)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # linear_operator still calls torch.jit.script
                from agent.selection_botorch import botorch_picks  # importing BoTorch takes seconds

            found = botorch_picks(kind, table, count, observed, pending, weights.double(), baseline, costs)
        rows += found
        picked_by += [kind] * len(found)
    return Selection(rows, picked_by)


def expected_improvements(table: MemberTable, observed: Tensor, pending: MemberTable | None = None) -> Tensor:
    """Return the expected hypervolume improvement of each candidate alone, double (N,); reference point 0.

    It is the mean over the members of the volume that the candidate adds to what observed and pending materials
    dominate; with one objective it is the expected improvement.

    Args:
        table: Of the N candidates.
        observed: Utilities of the labelled materials that satisfy the constraints, float (K, m) in [0, 1].
        pending: Materials that count as observed with each member's values.

    Raises:
        ValueError: An argument has the wrong shape or value; the message names it.
    """
    _check_observed(table, observed)
    _check_members("pending", pending, table)
    return mean_improvements(_open_boxes(table, observed, pending), _points(table))


def _thompson_picks(table: MemberTable, n: int, weights: Tensor, generator: torch.Generator) -> list[int]:
    scores = scalarize(table.utilities.detach().cpu().double(), weights, "tchebycheff")
    if table.feasible is not None:
        scores = scores - 2 * ~table.feasible.cpu()  # scores lie in [0, 1]: below all feasible ones
    rows: list[int] = []
    for member in torch.randint(table.n_members, (n,), generator=generator).tolist():
        rows.append(int(scores[member].argmax()))
        scores[:, rows[-1]] = -torch.inf
    return rows


def _ehvi_picks(
    table: MemberTable, n: int, observed: Tensor, pending: MemberTable | None, costs: Tensor | None
) -> list[int]:
    """Pick by lazy greedy maximisation (Minoux 1978).

    Improvements only fall, so that outdated ones are upper bounds: only those that could still be the largest are
    evaluated again. Leading ones stay up to date at little cost, since a pick takes from the improvement of another
    candidate just what both would dominate: what of the boxes that the pick cuts off lies below the candidate.
    """
    points = _points(table)
    price = torch.ones(len(table), dtype=torch.float64) if costs is None else costs.detach().cpu().double()
    boxes = _open_boxes(table, observed, pending)
    gains = mean_improvements(boxes, points) / price
    tie = _TIE * float(gains.max())
    is_exact = torch.ones(len(gains), dtype=torch.bool)
    rows: list[int] = []
    for _ in range(n):
        width = _BLOCK
        while True:
            is_exact |= gains <= tie  # nothing left to lose
            best = gains.masked_fill(~is_exact, -torch.inf).max()
            bounds, block = gains.masked_fill(is_exact, -torch.inf).topk(min(width, len(gains)))
            block = block[(bounds >= best - tie) & bounds.isfinite()]
            if not len(block):
                break
            gains[block] = mean_improvements(boxes, points[:, :, block]) / price[block]
            is_exact[block] = True
            width *= 2
        rows.append(int((is_exact & (gains >= best - tie)).nonzero()[0, 0]))
        gains[rows[-1]] = -torch.inf
        boxes, cut_off = cut(boxes, points[:, :, rows[-1]])
        exact, leading = gains.masked_fill(~is_exact, -torch.inf).topk(min(_LEADING, len(gains)))
        leading = leading[exact.isfinite()]
        gains[leading] -= mean_improvements(cut_off, points[:, :, leading]) / price[leading]
        is_exact = torch.zeros_like(is_exact)
        is_exact[leading] = True
    return rows


def _points(table: MemberTable) -> Tensor:
    """Return the utilities as float (m, S, N)."""
    return table.feasible_utilities().permute(2, 0, 1).contiguous()


def _open_boxes(table: MemberTable, observed: Tensor, pending: MemberTable | None) -> Boxes:
    held = None if pending is None else _points(pending)
    return open_boxes(observed.detach().cpu().double(), table.n_members, held)


def _check_arguments(
    table: MemberTable,
    n: int,
    observed: Tensor,
    score: Tensor,
    method: SelectionMethod,
    greedy_share: float,
    random_picks: int,
) -> None:
    if n < 0:
        raise ValueError(f"n: found {n}, expected at least 0")
    _check_observed(table, observed)
    if score.shape != (len(table),):
        raise ValueError(f"score: found shape {tuple(score.shape)}, expected ({len(table)},)")
    if score.isnan().any():
        raise ValueError(f"score: found NaN in row {int(score.isnan().nonzero()[0, 0])}, expected numbers")
    if method not in get_args(SelectionMethod):
        raise ValueError(f"method: found {method!r}, expected one of {', '.join(get_args(SelectionMethod))}")
    if not 0 <= greedy_share <= 1:
        raise ValueError(f"greedy_share: found {greedy_share!r}, expected a number in [0, 1]")
    if random_picks < 0:
        raise ValueError(f"random_picks: found {random_picks}, expected at least 0")


def _check_observed(table: MemberTable, observed: Tensor) -> None:
    if observed.ndim != 2 or observed.shape[1] != table.n_objectives:
        raise ValueError(f"observed: found shape {tuple(observed.shape)}, expected (K, {table.n_objectives})")
    _check_unit_interval("observed", observed)


def _check_options(
    table: MemberTable,
    pending: MemberTable | None,
    weights: Tensor | None,
    baseline: MemberTable | None,
    costs: Tensor | None,
) -> None:
    _check_members("pending", pending, table)
    _check_members("baseline", baseline, table)
    m = table.n_objectives
    if weights is not None:
        if weights.shape != (m,):
            raise ValueError(f"weights: found shape {tuple(weights.shape)}, expected ({m},)")
        if not (weights.isfinite().all() and (weights >= 0).all() and (weights > 0).any()):
            raise ValueError(f"weights: found {weights.tolist()}, expected numbers >= 0, not all 0")
    if costs is not None:
        if costs.shape != (len(table),):
            raise ValueError(f"costs: found shape {tuple(costs.shape)}, expected ({len(table)},)")
        bad = ~(costs.isfinite() & (costs > 0))
        if bad.any():
            row = int(bad.nonzero()[0, 0])
            raise ValueError(f"costs: found {costs[row].item():g} in row {row}, expected finite numbers > 0")


def _check_members(name: str, members: MemberTable | None, table: MemberTable) -> None:
    if members is None:
        return
    found = (members.n_members, members.n_objectives)
    if found != (table.n_members, table.n_objectives):
        expected = f"{table.n_members} and {table.n_objectives} as in the table"
        raise ValueError(f"{name}: found {found[0]} members and {found[1]} objectives, expected {expected}")


def _check_unit_interval(name: str, values: Tensor) -> None:
    if not values.is_floating_point():
        raise ValueError(f"{name}: found {values.dtype}, expected floating-point numbers")
    outside = ~((values >= 0) & (values <= 1))
    if outside.any():
        position = outside.nonzero()[0].tolist()
        found = f"{values[tuple(position)].item():g} at {position}"
        raise ValueError(f"{name}: found {found}, expected numbers in [0, 1] ({int(outside.sum())} are not)")
