"""What does the seam cost? Labels through each executor against the same oracle in this process.

For an oracle that does nothing, the time of a call. For CHGNet relaxations with one worker, so that times compare, the
wall time of a batch against that in this process (the fastest of the repeats: it feels what else the machine does),
and the share of the batch's time that was spent outside the oracle (target: at most 5 %). The start of a worker and of
its oracle stands apart.

    python experiments/benchmarks/executors.py
    python experiments/benchmarks/executors.py --executors '["process"]' --repeats 5
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from jsonargparse import auto_cli

from agent.config import PlugIn
from agent.execution import open_executor, use_one_thread
from agent.labelling import LabelOptions, Task, label_tasks
from agent.oracle_source import OracleSource
from surrogates.base import Label

FORMULAS = ["NaCl", "MgO", "TiO2", "ZnO", "KBr", "CaF2", "LiF", "GaAs"]


@dataclass
class Options:
    """Settings of the benchmark."""

    executors: list[str] = field(default_factory=lambda: ["process", "dask"])
    calls: int = 300
    """Calls of the oracle that does nothing."""
    formulas: list[str] = field(default_factory=lambda: [*FORMULAS])
    """What CHGNet relaxes."""
    task_size: int = 1
    """Formulas in a call."""
    repeats: int = 3
    """Batches of CHGNet of each executor, in turns."""
    json: bool = False
    """Print one JSON object last."""


class NoOracle:
    """Says the same of everything."""

    name = "nothing"
    version = "1"
    cost = 0.0

    def label(self, materials: Sequence[Any]) -> list[Label]:
        """Return one label per material."""
        return [Label(material, {"energy": 0.0}) for material in materials]


def seconds_of(
    executor: Executor, source: OracleSource, materials: Sequence[str], options: LabelOptions
) -> tuple[float, float]:
    """Label a batch; return the wall time, and the time in the oracle as the worker measured it."""
    inside, failures = [], []

    def on_label(_: int, label: Label, seconds: float, attempts: int) -> None:
        inside.append(seconds)
        failures.extend([label] if label.failure is not None else [])

    tasks = [Task(row, material) for row, material in enumerate(materials)]
    began = time.perf_counter()
    label_tasks(tasks, source, executor, options, on_start=lambda _: None, on_label=on_label)
    if failures:
        raise RuntimeError(f"{failures[0].material}: {failures[0].failure}")
    return time.perf_counter() - began, sum(inside)


def main(options: Options) -> None:
    use_one_thread()
    nothing = OracleSource(NoOracle())
    chgnet = OracleSource(PlugIn("chgnet", {"check": False}))
    one_by_one = LabelOptions()
    batch = LabelOptions(task_size=options.task_size, in_flight=2)
    names = ["in-process", *options.executors]
    start, a_call = {}, {}
    wall: dict[str, list[float]] = {name: [] for name in names}
    outside: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        executors = {}
        for name in names:
            began = time.perf_counter()
            executors[name] = stack.enter_context(open_executor(name, 1, 600))
            whole, inside = seconds_of(executors[name], chgnet, options.formulas, batch)  # elements are relaxed once
            start[name] = time.perf_counter() - began - inside
            seconds_of(executors[name], nothing, ["NaCl"], one_by_one)
            a_call[name] = seconds_of(executors[name], nothing, ["NaCl"] * options.calls, one_by_one)[0] / options.calls
        for _ in range(options.repeats):  # in turns, because other work of the machine comes and goes
            for name in names:
                whole, inside = seconds_of(executors[name], chgnet, options.formulas, batch)
                wall[name].append(whole)
                outside[name].append((whole - inside) / inside)
    best = {name: min(wall[name]) for name in names}
    result = {
        name: {
            "start with CHGNet, s": start[name],
            "call that does nothing, ms": 1000 * a_call[name],
            f"CHGNet, {len(options.formulas)} formulas, s": best[name],
            "more than in-process, share": best[name] / best["in-process"] - 1,
            "outside the oracle, share (target 0.05)": statistics.median(outside[name]),
        }
        for name in names
    }
    print(f"{'':<42}" + "".join(f"{name:>12}" for name in names))
    for line in result["in-process"]:
        print(f"{line:<42}" + "".join(f"{result[name][line]:>12.4f}" for name in names))
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main(auto_cli(Options))
