"""Calls on a Dask cluster, as a `concurrent.futures.Executor`: `pip install 'matsmith[cluster]'`."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from agent.execution import START_UP, WorkerLostError, read_answer, run_pickled, use_one_thread

if TYPE_CHECKING:
    import distributed

_TICK = 0.25  # seconds between looks at the clock and at the cluster
_CONNECT = 10.0  # seconds in which a scheduler must answer
_ABSENT = 5.0  # seconds in which the scheduler notices that a worker is gone
_PATIENCE = 120.0  # seconds without any worker after which the cluster counts as gone


@contextmanager
def open_dask(address: str | None, workers: int, time_limit: float) -> Iterator[DaskExecutor]:
    """Open a local cluster of single-threaded processes, or join the one at an address, which stays open.

    Raises:
        ValueError: Nobody answers at the address.
    """
    import dask
    import distributed

    settings = {
        "distributed.scheduler.allowed-failures": 0,  # what is tried again is decided by who submits
        "distributed.worker.profile.enabled": False,  # it takes time from the oracle
        "distributed.comm.timeouts.connect": f"{_CONNECT:g}s",
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(dask.config.set(settings))
        if address is None:
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=None,
                memory_limit=0,
                silence_logs=logging.CRITICAL + 1,
            )
            stack.callback(_close, cluster)
            client = distributed.Client(cluster, set_as_default=False)
        else:
            try:
                client = distributed.Client(address, timeout=_CONNECT, set_as_default=False)
            except Exception as error:  # whatever reading a stranger's answer raises
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ValueError(
                    f"executor: no Dask scheduler answers at {address} within {_CONNECT:g} s ({reason})"
                ) from None
        stack.callback(client.close)
        executor = DaskExecutor(client, time_limit)
        try:
            yield executor
        finally:
            executor.kill()


class DaskExecutor(Executor):
    """Gives every thread of a cluster one call at a time, so that it is known which runs where and since when.

    A call whose worker leaves the cluster raises `WorkerLostError`. One that takes too long raises `TimeoutError`, and
    its worker is restarted by its nanny: a joined cluster should be this campaign's alone.

    Args:
        client: Of the cluster.
        time_limit: Seconds that a call may take.
        start_limit: Seconds that the first calls of a worker may take more, in which it makes the oracle.
    """

    def __init__(self, client: distributed.Client, time_limit: float = math.inf, start_limit: float = START_UP) -> None:
        self.client, self.time_limit, self.start_limit = client, time_limit, start_limit
        self._events: SimpleQueue[_Call | None] = SimpleQueue()
        self._queue: deque[_Call] = deque()
        self._running: list[_Call] = []
        self._workers: dict[str, int] = {}
        self._avoided: dict[str, float] = {}
        self._experienced: set[str] = set()
        self._seen = time.monotonic()
        self._next_look = 0.0
        self._closed = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="dask calls", daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a call.

        Raises:
            RuntimeError: The executor is shut down.
            Exception: The call cannot be pickled.
        """
        if self._closed:
            raise RuntimeError("the executor is shut down")
        call = _Call(pickle.dumps((fn, args, kwargs)))
        self._events.put(call)
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the cluster stays as it is."""
        self._closed = True
        if cancel_futures:
            for call in [*self._queue]:
                call.future.cancel()
        self._events.put(None)
        if wait:
            self._thread.join()

    def kill(self) -> None:
        """Stop without waiting for calls that are running."""
        self._stopping.set()
        self.shutdown(cancel_futures=True)

    def _serve(self) -> None:
        error: Exception = WorkerLostError("the executor was stopped")
        try:
            while not self._stopping.is_set() and not (self._closed and not self._queue and not self._running):
                with contextlib.suppress(Empty):
                    while (event := self._events.get(timeout=_TICK)) is not None:
                        if event.answer is None:
                            self._queue.append(event)
                        if self._events.empty():
                            break
                self._collect()
                if self._queue or self._running:
                    self._look()
                    self._assign()
        except Exception as problem:  # of the connection to the scheduler
            error = BrokenExecutor(f"the Dask cluster is gone: {type(problem).__name__}: {problem}")
        self._closed = True
        for call in [*self._running, *self._queue, *self._waiting()]:
            if not call.future.cancel() and not call.future.done():
                call.future.set_exception(error)

    def _waiting(self) -> Iterator[_Call]:
        with contextlib.suppress(Empty):
            while True:
                event = self._events.get_nowait()
                if event is not None and event.answer is None:
                    yield event

    def _collect(self) -> None:
        """Pass on what has ended, and end what is overdue."""
        for call in [*self._running]:
            if call.answer.done():
                result, error = _result(call.answer)
                if isinstance(error, WorkerLostError):
                    self._avoid(call.worker, _ABSENT)  # the scheduler may still list it
                else:
                    self._experienced.add(call.worker)
                self._end(call, result, error)
            elif time.monotonic() > call.deadline:
                self._avoid(call.worker, math.inf)
                threading.Thread(target=self._restart, args=(call.worker,), daemon=True).start()
                self._end(call, error=TimeoutError(f"timed out after {self.time_limit:g} s"))

    def _look(self) -> None:
        """Ask the scheduler which workers there are."""
        if time.monotonic() < self._next_look:
            return
        self._workers = dict(self.client.nthreads())
        now = time.monotonic()
        self._next_look = now + _TICK
        self._avoided = {worker: end for worker, end in self._avoided.items() if end > now and worker in self._workers}
        self._experienced &= self._workers.keys() - self._avoided.keys()
        for call in [*self._running]:
            if call.worker not in self._workers:
                self._end(call, error=WorkerLostError(f"the worker {call.worker} was lost"))
        if self._workers.keys() - self._avoided.keys():
            self._seen = now
        elif now > self._seen + _PATIENCE:
            raise RuntimeError(f"no workers for {_PATIENCE:g} s")

    def _avoid(self, worker: str, seconds: float) -> None:
        """Give a worker no calls until the scheduler has taken note that it is gone; another may get its address."""
        self._avoided[worker] = time.monotonic() + seconds

    def _assign(self) -> None:
        for worker, threads in self._workers.items():
            free = 0 if worker in self._avoided else threads - sum(call.worker == worker for call in self._running)
            while free > 0 and self._queue:
                call = self._queue.popleft()
                if not call.future.set_running_or_notify_cancel():
                    continue
                extra = 0.0 if worker in self._experienced else self.start_limit
                call.worker, call.deadline = worker, time.monotonic() + self.time_limit + extra
                call.answer = self.client.submit(
                    _run, call.payload, key=f"matsmith-{uuid4().hex}", workers=[worker], retries=0, pure=False
                )
                call.answer.add_done_callback(lambda _, call=call: self._events.put(call))
                self._running.append(call)
                free -= 1

    def _end(self, call: _Call, result: Any = None, error: BaseException | None = None) -> None:
        self._running.remove(call)
        with contextlib.suppress(Exception):  # it is forgotten on the cluster as well when it is collected
            call.answer.cancel()
        if error is not None:
            call.future.set_exception(error)
        else:
            call.future.set_result(result)

    def _restart(self, worker: str) -> None:
        """Have a worker killed by its nanny, which starts another one.

        `Client.restart_workers` asks the worker to close first, and loses nannies when that takes too long.
        """
        with contextlib.suppress(Exception):  # one without a nanny is not used again
            self.client.run(_kill_worker, workers=[worker], nanny=True)
            self._avoid(worker, _ABSENT)


@dataclass(eq=False)
class _Call:
    """A call, and where it runs."""

    payload: bytes
    future: Future[Any]
    worker: str = ""
    deadline: float = math.inf
    answer: Any = None  # distributed.Future, once it is submitted

    def __init__(self, payload: bytes) -> None:
        self.payload, self.future = payload, Future()


def _run(payload: bytes) -> bytes:
    """Run in a worker."""
    global _has_one_thread
    if not _has_one_thread:
        use_one_thread()
        _has_one_thread = True
    return run_pickled(payload)


_has_one_thread = False


def _kill_worker(dask_worker: distributed.Nanny) -> None:
    """Run in a nanny."""
    if dask_worker.pid is not None:
        os.kill(dask_worker.pid, signal.SIGKILL)


def _result(answer: Any) -> tuple[Any, BaseException | None]:
    """Return what a finished call returned, or what it raised."""
    import distributed

    try:
        pickled = answer.result(timeout=_CONNECT)
    except (distributed.scheduler.KilledWorker, distributed.client.FutureCancelledError, OSError) as error:
        return None, WorkerLostError(f"the worker was lost: {type(error).__name__}")  # OSError: its answer was not sent
    except Exception as error:  # the worker could not read the call
        return None, error
    try:
        return read_answer(pickled), None
    except BaseException as error:
        return None, error


def _close(cluster: distributed.LocalCluster) -> None:
    """Close a local cluster; its workers are killed, since a call may be stuck."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        if nanny.pid is not None:
            with contextlib.suppress(OSError):
                os.kill(nanny.pid, signal.SIGKILL)
    cluster.close(timeout=10)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Dask logs of lost workers and closed connections: it is reported as the outcome of calls."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
