"""Does `matsmith reference`, killed at random, end with the same files as when it was left alone?

    python experiments/benchmarks/reference_kills.py                             # ten kills
    python experiments/benchmarks/reference_kills.py --kills 2 --relaxations 4   # a quick check

Each kill is a SIGKILL to the command alone; its worker processes have to notice. It comes a random time after the
command has stored new results, so that the kills lie all over the computation and not in its imports. A computation
that ends between two kills is compared as well, and begun anew.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

from surrogates.reference_build import STORE
from surrogates.reference_export import STRUCTURES, TABLE


@dataclass
class Options:
    """Settings of the benchmark."""

    kills: int = 10
    elements: list[str] = field(default_factory=lambda: ["Na", "Mg", "Al", "Cl", "O"])
    relaxations: int = 60
    max_steps: int = 100
    workers: int = 2
    seed: int = 0
    """Of the moments of the kills."""
    json: bool = False
    """Print one JSON object last."""


def start(folder: Path, options: Options) -> subprocess.Popen[bytes]:
    """Start the command, in a session of its own."""
    values = {
        "elements": json.dumps(options.elements),
        "known_ternaries": 0,
        "other_ternaries": 0,
        "relaxations": options.relaxations,
        "max_steps": options.max_steps,
        "workers": options.workers,
        "output": folder,
    }
    arguments = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "agent.cli", "reference", *arguments, "--json"]
    environment = os.environ | {"PYTHONWARNINGS": "ignore:resource_tracker"}  # it tells of what a kill left behind
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)


def stored(folder: Path) -> Counter[str]:
    """Results that the folder holds, by stage."""
    path = folder / STORE
    if not path.exists():
        return Counter()
    connection = sqlite3.connect(path)
    try:
        return Counter(dict(connection.execute("SELECT stage, count(*) FROM results GROUP BY stage")))
    except sqlite3.OperationalError:  # the table is not there yet, or just being made
        return Counter()
    finally:
        connection.close()


def members(session: int) -> list[int]:
    """Processes of a session that are not zombies."""
    listing = subprocess.run(["ps", "-eo", "pid=,sess=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listing.stdout.splitlines()]
    return [int(pid) for pid, sess, state in rows if int(sess) == session and not state.startswith("Z")]


def wait_for_results(process: subprocess.Popen[bytes], folder: Path) -> float:
    """Wait until the command has stored new results, or has ended; seconds that it took."""
    began, before = time.monotonic(), stored(folder).total()
    while stored(folder).total() == before and process.poll() is None:
        time.sleep(0.1)
    return time.monotonic() - began


def kill_after(process: subprocess.Popen[bytes], delay: float) -> bool:
    """Kill the command after some seconds; False when it ended before."""
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return process.returncode == -signal.SIGKILL
    return False


def last_worker_gone(session: int, limit: float = 60.0) -> float:
    """Seconds until no process of a killed command is left."""
    began = time.monotonic()
    while members(session):
        if time.monotonic() - began > limit:
            os.killpg(session, signal.SIGKILL)
            raise SystemExit(f"worker processes were still there {limit:g} s after the command was killed")
        time.sleep(0.1)
    return time.monotonic() - began


def finish(process: subprocess.Popen[bytes]) -> None:
    """Let the command run to its end."""
    status = process.wait()
    if status:
        raise SystemExit(f"matsmith reference ended with status {status}")


def differences(first: Path, second: Path) -> list[str]:
    """Files that differ, to the byte, and stages whose stored results differ."""
    found = [name for name in (TABLE, STRUCTURES) if (first / name).read_bytes() != (second / name).read_bytes()]
    contents = []
    for folder in (first, second):
        connection = sqlite3.connect(folder / STORE)
        query = "SELECT * FROM results ORDER BY stage, formula, prototype"
        contents.append(connection.execute(query).fetchall())
        connection.close()
    if contents[0] != contents[1]:
        stages = {row[0] for row in set(contents[0]) ^ set(contents[1])}
        found.append(f"results of {', '.join(sorted(stages))}")
    return found


def check_identical(whole: Path, killed: Path) -> None:
    found = differences(whole, killed)
    if found:
        raise SystemExit(f"not identical: {'; '.join(found)}")


def main(options: Options) -> None:
    generator = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = Path(temporary) / "whole", Path(temporary) / "killed-1"
        began = time.monotonic()
        process = start(whole, options)
        first = wait_for_results(process, whole)
        finish(process)
        held = stored(whole)
        print(f"undisturbed: {held.total()} results in {time.monotonic() - began:.0f} s {dict(held)}", flush=True)
        kills, computations, slowest = 0, 1, 0.0
        while kills < options.kills:
            process = start(killed, options)
            wait_for_results(process, killed)
            if kill_after(process, generator.uniform(0, 0.5 * first)):
                kills += 1
                slowest = max(slowest, gone := last_worker_gone(process.pid))
                held = stored(killed)
                what = f"computation {computations}, {held.total():>3} results {dict(held)}"
                print(f"kill {kills:>2}: {what}, workers gone after {gone:.1f} s", flush=True)
            else:
                finish(process)
                check_identical(whole, killed)
                computations += 1
                killed = Path(temporary) / f"killed-{computations}"
        finish(start(killed, options))
        check_identical(whole, killed)
        total = stored(whole).total()
    print(
        f"{kills} kills, {computations} computations: identical, {TABLE} and {STRUCTURES} to the byte, "
        f"and all {total} stored results"
    )
    if options.json:
        values = {"kills": kills, "computations": computations, "results": total, "identical": True}
        print(json.dumps(values | {"slowest_worker_s": round(slowest, 1)}))


if __name__ == "__main__":
    main(auto_cli(Options))
