"""Executors: names, time limits, workers that die, and what is left when the parent ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, wait
from pathlib import Path
from typing import Any

import pytest

from agent.execution import ProcessExecutor, WorkerLostError, open_executor

ROOT = Path(__file__).parents[2]
LIMIT = 0.7


def end_by(how: str) -> None:
    """Run in a worker: end it."""
    if how == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


def exit_politely() -> None:
    raise SystemExit("enough")


def note_and_hang(file: str) -> None:
    Path(file).write_text(str(os.getpid()))
    time.sleep(3600)


def start_a_program_and_hang(file: str) -> None:
    process = subprocess.Popen(["sleep", "3600"])
    Path(file).write_text(str(process.pid))
    process.wait()


def threads() -> tuple[int, set[int]]:
    import torch
    from threadpoolctl import threadpool_info

    return torch.get_num_threads(), {pool["num_threads"] for pool in threadpool_info()}


class Odd(Exception):  # noqa: N818
    """Can be pickled and not be read again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def raise_odd() -> None:
    raise Odd("three", "four")


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    if status.parent.parent.joinpath("self").exists():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return status.read_text().rpartition(")")[2].split()[0] != "Z"
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pid_in(file: Path) -> int:
    wait_for(lambda: file.exists() and file.read_text())
    return int(file.read_text())


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessExecutor]:
    """Two workers for all tests of this module."""
    with open_executor("process", 2, LIMIT) as executor:
        assert isinstance(executor, ProcessExecutor)
        yield executor


# Names


@pytest.mark.parametrize(
    ("name", "workers", "limit", "message"),
    [
        (
            "threads",
            1,
            1.0,
            "executor: 'threads' is unknown .expected in-process, process, dask or dask:tcp://host:port.",
        ),
        ("", 1, 1.0, "executor: '' is unknown"),
        ("dask:", 1, 1.0, "executor: 'dask:' is unknown"),
        ("dask:nonsense", 1, 1.0, "executor: 'dask:nonsense' has no address of a scheduler"),
        ("process", 0, 1.0, r"workers: 0 is not in 1\.\.1024"),
        ("process", 1, 0.0, "time_limit: 0.0 is not a positive number of seconds"),
        ("process", 1, float("nan"), "time_limit: nan is not a positive"),
    ],
)
def test_what_cannot_be_opened_is_named(name: str, workers: int, limit: float, message: str) -> None:
    with pytest.raises(ValueError, match=message), open_executor(name, workers, limit):
        raise AssertionError


def test_missing_dask_is_said_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ValueError, match=r"dask is not installed; pip install 'matsmith\[cluster\]'"),
        open_executor("dask"),
    ):
        raise AssertionError


# In this process


def test_in_process_runs_at_submission_and_lets_ctrl_c_through() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with open_executor("in-process") as executor:
        future = executor.submit(os.getpid)
        assert future.done() and future.result() == os.getpid()
        assert isinstance(executor.submit(int, "x").exception(), ValueError)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(interrupt)


# Worker processes


def test_calls_run_in_other_processes_with_one_thread(pool: ProcessExecutor) -> None:
    pids = {future.result() for future in [pool.submit(os.getpid) for _ in range(20)]}
    assert os.getpid() not in pids and 1 <= len(pids) <= 2
    torch_threads, others = pool.submit(threads).result()
    assert torch_threads == 1 and others <= {1}


def test_what_a_call_raises_comes_back(pool: ProcessExecutor) -> None:
    assert isinstance(pool.submit(int, "x").exception(), ValueError)
    assert isinstance(pool.submit(exit_politely).exception(), SystemExit)
    odd = pool.submit(raise_odd).exception()
    assert isinstance(odd, RuntimeError) and "Odd: three four" in str(odd)
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        pool.submit(lambda: 1)


@pytest.mark.parametrize("how", ["signal", "exit"])
def test_death_of_a_worker_costs_its_own_call_alone(pool: ProcessExecutor, how: str) -> None:
    futures = [pool.submit(end_by, how) if row == 3 else pool.submit(abs, -row) for row in range(8)]
    with pytest.raises(WorkerLostError, match=r"exit code -9|exit code 3"):
        futures.pop(3).result()
    assert [future.result() for future in futures] == [0, 1, 2, 4, 5, 6, 7]


def test_death_of_idle_workers_costs_nothing(pool: ProcessExecutor) -> None:
    for pid in {future.result() for future in [pool.submit(os.getpid) for _ in range(10)]}:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert [pool.submit(abs, -row).result() for row in range(3)] == [0, 1, 2]


def test_stuck_worker_ends_at_the_time_limit_with_what_it_started(pool: ProcessExecutor, tmp_path: Path) -> None:
    pool.submit(abs, 1).result()  # a worker is there
    for function in (note_and_hang, start_a_program_and_hang):
        file = tmp_path / function.__name__
        began = time.monotonic()
        future = pool.submit(function, str(file))
        with pytest.raises(TimeoutError, match=f"^timed out after {LIMIT:g} s$"):
            future.result()
        assert LIMIT <= time.monotonic() - began < LIMIT + 15  # a worker may have to start first
        wait_for(lambda file=file: not is_alive(pid_in(file)), 5)


def test_waiting_in_the_queue_does_not_count(pool: ProcessExecutor) -> None:
    futures = [pool.submit(time.sleep, 0.6 * LIMIT) for _ in range(4)]
    assert not wait(futures, timeout=60).not_done
    assert all(future.exception() is None for future in futures)


def test_error_within_stops_the_workers_at_once(tmp_path: Path) -> None:
    began = 0.0
    with pytest.raises(KeyboardInterrupt), open_executor("process", 1, 3600) as executor:
        running, queued = executor.submit(note_and_hang, str(tmp_path / "pid")), executor.submit(abs, 1)
        pid = pid_in(tmp_path / "pid")
        began = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - began < 3 and not is_alive(pid)
    assert isinstance(running.exception(), WorkerLostError)
    with pytest.raises(CancelledError):
        queued.result(timeout=5)
    with pytest.raises(RuntimeError):
        executor.submit(abs, 1)


# The end of the parent

SCRIPT = """
import os, sys
from pathlib import Path
from agent.execution import open_executor
from tests.agent.test_execution import note_and_hang

if __name__ == "__main__":
    with open_executor(sys.argv[1], 2, 3600) as executor:
        for future in [executor.submit(note_and_hang, f"{os.getcwd()}/pid{row}") for row in range(2)]:
            future.result()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
@pytest.mark.parametrize("name", ["process", "dask"])
def test_no_worker_outlives_its_parent(tmp_path: Path, name: str, number: signal.Signals) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "script.py", name],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a runner may have it ignored
    )
    try:
        pids = [pid_in(tmp_path / f"pid{row}") for row in range(2)]
        began = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as the terminal does
        else:
            process.kill()
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - began < 10
        wait_for(lambda: not any(map(is_alive, pids)), 5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if number == signal.SIGINT:
        assert err.count("Traceback") == 1 and err.rstrip().endswith("KeyboardInterrupt")


def open_address(address: str) -> contextlib.AbstractContextManager[Executor]:
    return open_executor(f"dask:{address}", 1, LIMIT)


def test_silent_address_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.execution_dask._CONNECT", 1.0)
    with pytest.raises(ValueError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 within 1 s") as caught:
        open_address("tcp://127.0.0.1:9").__enter__()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_joined_cluster_stays_open_and_a_stuck_worker_is_replaced(tmp_path: Path) -> None:
    import distributed

    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=60) as cluster,
        open_address(cluster.scheduler_address) as executor,
    ):
        executor.start_limit = 20.0  # type: ignore[attr-defined]
        assert executor.submit(abs, -1).result(timeout=60) == 1
        began = time.monotonic()
        stuck, queued = executor.submit(note_and_hang, str(tmp_path / "pid")), executor.submit(os.getpid)
        with pytest.raises(TimeoutError, match=f"^timed out after {LIMIT:g} s$"):
            stuck.result(timeout=60)
        assert time.monotonic() - began < LIMIT + 3
        wait_for(lambda: not is_alive(pid_in(tmp_path / "pid")), 10)
        assert queued.result(timeout=60) not in (os.getpid(), pid_in(tmp_path / "pid"))
        executor.__class__.kill(executor)  # type: ignore[attr-defined]
        assert cluster.scheduler.workers
