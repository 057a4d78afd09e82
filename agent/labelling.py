"""Labels of many materials from an oracle that may raise, hang, die or talk nonsense.

    with open_executor("process", workers=4, time_limit=600) as executor:
        label_tasks(tasks, OracleSource(PlugIn("chgnet")), executor, LabelOptions(), on_start=..., on_label=...)

Any other `concurrent.futures.Executor` will do as well. What goes wrong costs the material that causes it, never the
others: a call of several materials that goes wrong is done again one by one.
"""

from __future__ import annotations

import math
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from agent.execution import WorkerLostError
from agent.oracle_source import OracleError, OracleSource, cached_oracle
from agent.plug_in import describe_failure

if TYPE_CHECKING:
    from surrogates.base import Label

_LONGEST = 500  # characters of a reason


@dataclass(frozen=True)
class Task:
    """A material to label."""

    id: int
    """The caller's; of a trial, for instance."""
    material: str


@dataclass(frozen=True)
class LabelOptions:
    """How the materials are given to the executor."""

    task_size: int = 1
    """Materials in one call; the executor's time limit is for the call."""
    retries: int = 2
    """How often a material is tried again after its call timed out or lost its worker; after an exception or a
    malformed answer once, unless this is 0."""
    in_flight: int = 4
    """Calls that are submitted at the same time; the number of workers, or a few more."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: One is too small.
        """
        for name, least in (("task_size", 1), ("retries", 0), ("in_flight", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is less than {least}")


def label_tasks(
    tasks: Sequence[Task],
    source: OracleSource,
    executor: Executor,
    options: LabelOptions | None = None,
    *,
    on_start: Callable[[Sequence[int]], None],
    on_label: Callable[[int, Label, float, int], None],
) -> None:
    """Label materials, each exactly once, whatever the oracle does.

    Both callbacks run in the thread of the caller. With an executor that runs calls when they are submitted, the
    labels of a call are delivered before the next one starts, in the order of the tasks but for those in a call that
    are tried again, which come right after the others of it.

    Args:
        tasks: What to label.
        source: What the workers make the oracle from.
        executor: Where it runs.
        options: How; the defaults when None.
        on_start: Gets the ids of a call's tasks right before they are submitted for the first time.
        on_label: Gets id, label, seconds of the oracle per material of the call (those since the submission when the
            call did not come back), and how often the material was tried; in the order of completion.

    Raises:
        OracleError: The oracle cannot be made or sent.
        RuntimeError: The executor is broken for good. What was delivered before any of these stays delivered.
    """
    options = options or LabelOptions()
    trials = [_Trial(task) for task in tasks]
    queue = deque(trials[at : at + options.task_size] for at in range(0, len(trials), options.task_size))
    running: dict[Future[bytes], _Call] = {}
    done: SimpleQueue[Future[bytes]] = SimpleQueue()
    try:
        while queue or running:
            if queue and len(running) < options.in_flight and done.empty():
                call = _Call(queue.popleft())
                if new := [trial.task.id for trial in call.trials if not trial.attempts]:
                    on_start(new)
                future = _submit(executor, source, call)
                running[future] = call
                future.add_done_callback(done.put)
            while running and (not done.empty() or not queue or len(running) >= options.in_flight):
                future = done.get()
                again = _deliver(running.pop(future), future, options, on_label)
                queue.extendleft([trial] for trial in reversed(again))
    except BrokenExecutor as error:
        for future, call in running.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                _deliver(call, future, replace(options, retries=0), on_label, only_labels=True)
        raise RuntimeError(
            f"the executor is broken, no more labels can be computed with it: {_describe(error)}; "
            "those that were finished are kept"
        ) from error
    finally:
        for future in running:
            future.cancel()


@dataclass
class _Trial:
    task: Task
    attempts: int = 0
    errors: int = 0
    """Attempts that ended with an exception or a malformed answer."""


@dataclass
class _Call:
    trials: list[_Trial]
    submitted: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class _Fault:
    reason: str
    is_error: bool = True
    """Whether the oracle is to blame, which will probably do it again; else the call timed out or was lost."""
    counted: bool = False
    """Whether the reason should say how often it was tried."""


@dataclass(frozen=True)
class _Answer:
    """What comes back from a worker."""

    found: Sequence[Label | _Fault]
    seconds: float = 0.0
    oracle_problem: str | None = None


def _submit(executor: Executor, source: OracleSource, call: _Call) -> Future[bytes]:
    for trial in call.trials:
        trial.attempts += 1
    try:
        return executor.submit(label_call, source, tuple(trial.task.material for trial in call.trials))
    except BrokenExecutor:
        raise
    except RuntimeError as error:  # it is shut down
        raise BrokenExecutor(str(error)) from error


def _deliver(
    call: _Call,
    future: Future[bytes],
    options: LabelOptions,
    on_label: Callable[[int, Label, float, int], None],
    only_labels: bool = False,
) -> list[_Trial]:
    """Hand out the labels of a call that has ended; return what is to be tried again."""
    from surrogates.base import Label

    answer = _answer(future, len(call.trials), time.perf_counter() - call.submitted)
    if answer.oracle_problem is not None:
        raise OracleError(answer.oracle_problem)
    again = []
    for trial, found in zip(call.trials, answer.found, strict=True):
        if isinstance(found, _Fault):
            trial.errors += found.is_error
            tried_alone = len(call.trials) == 1
            tries = min(options.retries, 1) if found.is_error else options.retries
            used = trial.errors if found.is_error else trial.attempts
            if only_labels or not tried_alone or used <= tries:
                again.append(trial)
                continue
            attempts = f" ({trial.attempts} attempt{'s' * (trial.attempts > 1)})" if found.counted else ""
            found = Label(trial.task.material, failure=found.reason + attempts)
        on_label(trial.task.id, found, answer.seconds / len(call.trials), trial.attempts)
    return again


def _answer(future: Future[bytes], n: int, seconds: float) -> _Answer:
    """Return what came back, or the same fault for all n materials.

    Raises:
        BrokenExecutor: The executor cannot be used any more.
        OracleError: The oracle could not be sent.
    """
    error = CancelledError("the call was cancelled") if future.cancelled() else future.exception()
    if isinstance(error, BrokenExecutor | OracleError):
        raise error
    if isinstance(error, TimeoutError):
        fault = _Fault(str(error) or "timed out", is_error=False)
    elif isinstance(error, WorkerLostError):
        fault = _Fault("the worker process was lost", is_error=False, counted=True)
    elif error is not None:  # whatever other executors raise when a call does not come back
        fault = _Fault(_describe(error), is_error=False, counted=True)
    else:
        try:
            answer = pickle.loads(future.result())
            assert isinstance(answer, _Answer)
            return answer
        except Exception as problem:  # an object of the oracle's that cannot be read here
            fault = _Fault(f"the label cannot be read here: {_describe(problem)}")
    return _Answer([fault] * n, seconds)


def label_call(source: OracleSource, materials: Sequence[str]) -> bytes:
    """Label materials, in a worker, and return the answer pickled, so that nothing in it can break an executor."""
    try:
        oracle = cached_oracle(source)
    except OracleError as error:
        return pickle.dumps(_Answer((), oracle_problem=str(error)))
    found: Sequence[Label | _Fault]
    began = time.perf_counter()
    try:
        found = list(_checked(oracle.label(list(materials)), materials))
    except (Exception, SystemExit) as error:  # an oracle may raise anything
        found = [_Fault(source.redact(_describe(error)))] * len(materials)
    seconds = time.perf_counter() - began
    try:
        return pickle.dumps(_Answer([_redacted(entry, source) for entry in found], seconds))
    except Exception as error:
        fault = _Fault(f"the label cannot be pickled: {source.redact(_describe(error))}")
        return pickle.dumps(_Answer([fault] * len(materials), seconds))


def _checked(found: Any, materials: Sequence[str]) -> Iterator[Label | _Fault]:
    """Yield a clean label, or what is wrong with it, for each material."""
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        found = [found] if found is None or isinstance(found, str | bytes) else list(found)
    if len(found) != len(materials):
        fault = _Fault(f"malformed answer: {len(found)} labels for {len(materials)} materials")
        yield from [fault] * len(materials)
        return
    for label, material in zip(found, materials, strict=True):
        checked = _clean(label, material)
        yield _Fault(f"malformed answer: {checked}") if isinstance(checked, str) else checked


def _clean(label: Any, material: str) -> Label | str:
    """Return the label with plain floats and a reason of one line, or what is wrong with it."""
    from surrogates.base import Label

    if not isinstance(label, Label):
        return f"expected a Label, not {type(label).__name__}"
    if label.material != material:
        return f"a label of {label.material!r} for {material!r}"
    if label.structure is not None:
        from pymatgen.core import Structure

        if not isinstance(label.structure, Structure):
            return f"structure: expected a pymatgen Structure, not {type(label.structure).__name__}"
    if label.failure is not None:
        return replace(label, values={}, failure=_one_line(str(label.failure)) or "failed without a reason")
    given: Any = label.values
    if not isinstance(given, Mapping) or not given:
        return "neither values nor a failure"
    values = {}
    for name, value in given.items():
        try:
            if isinstance(value, str | bytes):
                raise TypeError("a text")
            values[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several elements
            return f"{name} is {_one_line(repr(value))[:80]}, not a number"
        if not math.isfinite(values[str(name)]):
            return f"{name} is {_one_line(repr(value))[:80]}"
    return replace(label, values=values)


def _redacted(entry: Label | _Fault, source: OracleSource) -> Label | _Fault:
    if isinstance(entry, _Fault) or entry.failure is None:
        return entry
    return replace(entry, failure=source.redact(entry.failure))


def _describe(error: BaseException) -> str:
    try:
        return _one_line(describe_failure(error))
    except Exception:  # its text cannot be made
        return type(error).__name__


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
