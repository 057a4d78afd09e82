"""How long does it take to pick a batch from a pool by expected hypervolume improvement?

The pool is synthetic: mean utilities fill the space below and a little above a front of labelled materials, members
scatter about the mean, and some members say infeasible. Compared on the same table, in the same run:

- lazy: `select_batch(method="ehvi")`;
- plain greedy: every candidate evaluated at every pick, by `expected_improvements`;
- qLogNEHVI: `select_batch(method="qlognehvi")`, BoTorch's acquisition function, a pick.

    python experiments/benchmarks/selection.py
    python experiments/benchmarks/selection.py --members 30 --objectives 2
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jsonargparse import auto_cli
from torch import Tensor

from agent.selection import MemberTable, SelectionMethod, expected_improvements, select_batch


@dataclass
class Options:
    """Settings of the benchmark."""

    candidates: int = 5000
    members: int = 64
    objectives: int = 3
    observed: int = 50
    """Labelled materials, none of which dominates another."""
    picks: int = 64
    botorch_picks: int = 2
    """Picks by qLogNEHVI, which takes seconds each; 0: leave it out."""
    scatter: float = 0.1
    """Standard deviation of the members' utilities about the mean."""
    feasible: float = 0.8
    """Share of the members' values that satisfy the constraints."""
    repeats: int = 3
    """Of the lazy selection; the median counts."""
    seed: int = 0
    json: bool = False
    """Print one JSON object last."""


def on_sphere(n: int, m: int, generator: torch.Generator) -> Tensor:
    directions = torch.randn(n, m, generator=generator, dtype=torch.float64).abs()
    return torch.nn.functional.normalize(directions)


def make_problem(options: Options) -> tuple[MemberTable, Tensor]:
    """Return the pool, and labelled materials at distance 0.7 from the origin."""
    generator = torch.Generator().manual_seed(options.seed)
    m, n = options.objectives, options.candidates
    radius = 0.85 * torch.rand(n, 1, generator=generator, dtype=torch.float64) ** (1 / m)
    scatter = torch.randn(options.members, n, m, generator=generator, dtype=torch.float64)
    utilities = (radius * on_sphere(n, m, generator) + options.scatter * scatter).clamp(0, 1)
    feasible = torch.rand(options.members, n, generator=generator) < options.feasible
    return MemberTable(utilities, feasible), 0.7 * on_sphere(options.observed, m, generator)


def picks_by(method: SelectionMethod, table: MemberTable, observed: Tensor, n: int) -> list[int]:
    score, generator = torch.zeros(len(table)), torch.Generator()
    return select_batch(table, n, observed, score, generator, method=method, greedy_share=0, random_picks=0).rows


def plain_greedy(table: MemberTable, observed: Tensor, n: int) -> list[int]:
    rows: list[int] = []
    for _ in range(n):
        picked = table.rows(torch.tensor(rows, dtype=torch.long))
        gains = expected_improvements(table, observed, picked)
        gains[rows] = -torch.inf
        rows.append(int(gains.argmax()))
    return rows


def timed(run: Callable[[], list[int]], repeats: int = 1) -> tuple[float, list[int]]:
    """Return the median seconds of a selection, and its rows."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        rows = run()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[repeats // 2], rows


def main(options: Options) -> None:
    torch.set_num_threads(1)
    table, observed = make_problem(options)
    picks_by("ehvi", table, observed, 1)
    lazy, rows = timed(lambda: picks_by("ehvi", table, observed, options.picks), options.repeats)
    plain, plain_rows = timed(lambda: plain_greedy(table, observed, options.picks))
    result = {
        f"lazy, {options.picks} of {options.candidates:,}, s (target 1)": lazy,
        "plain greedy, s": plain,
        "ratio": plain / lazy,
        "same picks, share": sum(a == b for a, b in zip(rows, plain_rows, strict=True)) / len(rows),
    }
    if options.botorch_picks:
        picks_by("qlognehvi", table.rows(slice(5)), observed, 1)  # imports BoTorch, which compiles its kernel once
        botorch, botorch_rows = timed(lambda: picks_by("qlognehvi", table, observed, options.botorch_picks))
        result |= {
            "qLogNEHVI, s a pick": botorch / options.botorch_picks,
            "ratio a pick": botorch / options.botorch_picks / (lazy / options.picks),
            "same picks as qLogNEHVI, share": sum(a == b for a, b in zip(rows, botorch_rows, strict=False))
            / options.botorch_picks,
        }
    for name, value in result.items():
        print(f"{name:<40} {value:>10,.3f}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main(auto_cli(Options))
