"""Where the calls of an expensive oracle run, behind one seam: `concurrent.futures.Executor`.

    with open_executor("process", workers=4, time_limit=600) as executor:
        future = executor.submit(function, argument)

in-process              in this process, when it is submitted; no time limit
process                 worker processes of this machine
dask                    a local Dask cluster
dask:tcp://host:port    a Dask cluster that runs already

A call that takes longer than the time limit ends with its worker and raises `TimeoutError`; a call whose worker dies
raises `WorkerLostError`. Either costs that call alone: another worker takes the place of the one that is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import multiprocessing
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from typing import Any

EXECUTORS = "in-process, process, dask or dask:tcp://host:port"
START_UP = 120.0
"""Seconds that a worker may take to start, and again to make its oracle; the time limit does not count them."""

_READY, _START_UP, _RUNNING, _ANSWER = b"ready", b"start-up", b"running", b"answer"


class WorkerLostError(RuntimeError):
    """The worker process ended before its call was finished."""


def check_executor(name: str) -> None:
    """Check the name of an executor without opening it.

    Raises:
        ValueError: It is unknown, names no address, or Dask is not installed.
    """
    kind, colon, address = name.partition(":")
    if name not in ("in-process", "process") and (kind != "dask" or bool(colon) != bool(address)):
        raise ValueError(f"executor: {name!r} is unknown (expected {EXECUTORS})")
    if address and not re.fullmatch(r"(tcp|tls|ucx|ws|wss)://\S+:\d+", address):
        raise ValueError(f"executor: {name!r} has no address of a scheduler (expected dask:tcp://host:port)")
    if kind == "dask" and not _has_dask():
        raise ValueError("executor: dask is not installed; pip install 'matsmith[cluster]'")


def _has_dask() -> bool:
    try:
        return find_spec("distributed") is not None
    except ValueError:  # a module without a specification
        return False


@contextmanager
def open_executor(name: str, workers: int = 1, time_limit: float = 3600.0) -> Iterator[Executor]:
    """Open an executor and close it at the end; an exception, Ctrl-C included, stops all its workers at once.

    Args:
        name: in-process, process, dask, or dask: and the address of a scheduler.
        workers: Processes, each with one thread; a cluster that is joined has as many as it has.
        time_limit: Seconds that one call may take from when it starts running; infinity for no limit.

    Raises:
        ValueError: An argument is wrong, Dask is not installed, or nobody answers at the address.
    """
    if not 1 <= workers <= 1024:
        raise ValueError(f"workers: {workers} is not in 1..1024")
    check_executor(name)
    if not time_limit > 0:
        raise ValueError(f"time_limit: {time_limit} is not a positive number of seconds")
    if name == "in-process":
        yield InProcessExecutor()
        return
    if name == "process":
        pool = ProcessExecutor(workers, time_limit)
        try:
            yield pool
        except BaseException:
            pool.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return
    address = name.partition(":")[2]
    from agent.execution_dask import open_dask

    with open_dask(address or None, workers, time_limit) as executor:
        yield executor


class InProcessExecutor(Executor):
    """Runs a call in this process when it is submitted; it cannot end one that is stuck."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a call and return its future, which is done; Ctrl-C passes through."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class ProcessExecutor(Executor):
    """Worker processes, each behind a pipe of its own, so that no end of one can disturb another.

    They are spawned when they are needed. They do not see Ctrl-C, and end, with the programs that their calls have
    started, when this process is gone. A script that opens one needs `if __name__ == "__main__":`.

    Args:
        workers: Most processes at a time.
        time_limit: Seconds that a call may take. The clock starts when a worker gets the call; it stands still while
            the call is within `start_up`.
        start_limit: Seconds that a worker may take to start, and a call within `start_up`.
    """

    def __init__(self, workers: int, time_limit: float = math.inf, start_limit: float = START_UP) -> None:
        self.time_limit, self.start_limit = time_limit, start_limit
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._killed = False
        # A thread waits for every worker; with Ctrl-C blocked, so that a process that it spawns inherits that.
        self._threads = ThreadPoolExecutor(
            workers, "oracle", signal.pthread_sigmask, (signal.SIG_BLOCK, [signal.SIGINT])
        )
        atexit.register(self.kill)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a call.

        Raises:
            RuntimeError: The executor is shut down.
            Exception: The call cannot be pickled.
        """
        return self._threads.submit(self._run, pickle.dumps((fn, args, kwargs)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; when told to wait, return after the last one with no worker left."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            for worker in self._idle:
                worker.connection.close()  # which ends it
            for worker in self._idle:
                worker.process.join(2.0)
            self.kill()

    def kill(self) -> None:
        """End all workers at once; their calls raise `WorkerLostError`, those in the queue are cancelled."""
        atexit.unregister(self.kill)
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._killed = True
            for worker in self._workers:
                worker.kill()

    def _run(self, payload: bytes) -> Any:
        worker = self._take()
        try:
            answer = worker.call(payload, self.time_limit, self.start_limit)
        except BaseException:
            self._end(worker)
            raise
        self._idle.append(worker)
        return read_answer(answer)

    def _take(self) -> _Worker:
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                worker = self._idle.pop()
                if worker.process.is_alive():
                    return worker
                self._end(worker)
        problem = ""
        for _ in range(3):
            with self._lock:
                if self._killed:
                    raise WorkerLostError("the executor was stopped")
                worker = _Worker()
                self._workers.append(worker)
            try:
                worker.receive(self.start_limit)
                return worker
            except (TimeoutError, WorkerLostError) as error:
                self._end(worker)
                problem = str(error)
        raise BrokenExecutor(
            f"no worker process can be started: {problem}; a script needs `if __name__ == '__main__':` around its work"
        )

    def _end(self, worker: _Worker) -> None:
        worker.kill()
        worker.connection.close()
        worker.process.join()
        with self._lock:
            self._workers.remove(worker)


class _Worker:
    """A process and the pipe to it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), name="oracle worker")
        self.process.start()
        theirs.close()

    def call(self, payload: bytes, time_limit: float, start_limit: float) -> bytes:
        """Return the pickled answer."""
        try:
            self.connection.send_bytes(payload)
        except OSError:
            raise WorkerLostError(self._describe_end()) from None
        limit = time_limit
        while (message := self.receive(limit)) in (_START_UP, _RUNNING):
            limit = start_limit if message == _START_UP else time_limit
        return message.removeprefix(_ANSWER)

    def receive(self, limit: float) -> bytes:
        """Return the next message.

        Raises:
            TimeoutError: There is none within the limit, in seconds.
            WorkerLostError: There will be none.
        """
        deadline = time.monotonic() + limit
        alive = True
        while alive:
            alive = self.process.is_alive()  # a child of the worker may hold the pipe open when the worker is dead
            if wait([self.connection], max(0.0, min(1.0, deadline - time.monotonic())) if alive else 0.0):
                with contextlib.suppress(EOFError, OSError):
                    return self.connection.recv_bytes()
                break
            if alive and time.monotonic() >= deadline:
                raise TimeoutError(f"timed out after {limit:g} s")
        raise WorkerLostError(self._describe_end())

    def kill(self) -> None:
        """End the process and what it has started."""
        pid = self.process.pid
        if pid is not None:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):  # it may not lead its group yet
                os.kill(pid, signal.SIGKILL) if self.process.exitcode is None else None

    def _describe_end(self) -> str:
        self.process.join(1.0)
        return f"the worker process was lost (exit code {self.process.exitcode})"


def run_pickled(payload: bytes) -> bytes:
    """Run a pickled call and return its pickled answer, whatever happens in it."""
    try:
        function, args, kwargs = pickle.loads(payload)
        return pickle.dumps((True, function(*args, **kwargs)))
    except BaseException as error:
        from agent.plug_in import describe_failure

        try:
            answer = pickle.dumps((False, error))
            pickle.loads(answer)  # many exceptions can be pickled and not be read again
            return answer
        except Exception:
            return pickle.dumps((False, RuntimeError(describe_failure(error))))


def read_answer(answer: bytes) -> Any:
    """Return what a call returned, or raise what it raised."""
    succeeded, result = pickle.loads(answer)
    if succeeded:
        return result
    raise result


@contextmanager
def start_up() -> Iterator[None]:
    """Keep what happens within from the time limit of the call that is running, up to the executor's start limit."""
    if _report is not None:
        _report(_START_UP)
    try:
        yield
    finally:
        if _report is not None:
            _report(_RUNNING)


def use_one_thread() -> None:
    """Give the numerical libraries of this process one thread each; programs that it starts inherit the setting."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # for libraries that are not loaded yet
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

    torch.set_num_threads(1)
    threadpool_limits(1)


_report: Callable[[bytes], None] | None = None  # in a worker of ProcessExecutor


def _work(connection: Connection) -> None:
    """Answer calls until the pipe is closed."""
    global _report
    os.setpgrp()  # Ctrl-C of the terminal reaches neither the worker nor what it starts; both can be killed together
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    os.dup2(2, 1)  # what an oracle prints is not a result of the command
    threading.Thread(target=_watch_parent, daemon=True).start()
    use_one_thread()
    _report = connection.send_bytes
    connection.send_bytes(_READY)
    while True:
        try:
            payload = connection.recv_bytes()
        except (EOFError, OSError):
            return
        connection.send_bytes(_ANSWER + run_pickled(payload))


def _watch_parent() -> None:
    """End, with everything that was started here, when the parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    while not wait([parent.sentinel], 1.0) and os.getppid() == parent.pid:
        pass
    os.killpg(0, signal.SIGKILL)
