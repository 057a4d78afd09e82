"""`matsmith reference`: a reference table computed over several processes, with progress, going on after a kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields
from typing import Any

from tqdm import tqdm

from agent.config import ReferenceConfig
from surrogates.reference_build import build_reference
from surrogates.reference_export import ReferenceSummary, export_reference
from surrogates.reference_plan import DEFAULT_ELEMENTS, ReferenceOptions

_STAGES = {
    "element_scan": "elements: volume scans",
    "element_relaxation": "elements: relaxation",
    "scan": "compounds: volume scans",
    "relaxation": "compounds: relaxation",
}


def run_reference(config: ReferenceConfig, progress: bool = True) -> ReferenceSummary:
    """Compute what the folder does not hold yet and write `reference.csv.gz` and `reference_structures.jsonl.gz`.

    Raises:
        ValueError: A setting is wrong, or the folder holds results of other settings.
        KeyboardInterrupt: Ctrl-C; what was computed is kept.
    """
    options = _options(config)
    workers = config.workers if config.workers is not None else _cores()
    if not 1 <= workers <= 1024:
        raise ValueError(f"workers: {workers} is not in 1..1024")
    if config.output.exists() and not config.output.is_dir():
        raise ValueError(f"output: {config.output} is a file, expected a folder")
    others = multiprocessing.active_children()
    executor = _Pool(workers, multiprocessing.get_context("spawn"), initializer=_prepare_worker)
    bars = _Bars() if progress else None
    try:
        store = build_reference(config.output, options, executor, workers, bars)
        try:
            return export_reference(store, config.output)
        finally:
            store.close()
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process was killed (memory?); start again to go on, with fewer workers if it happens again"
        ) from error
    except BaseException:  # Ctrl-C as well: a batch may take minutes
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        if bars is not None:
            bars.close()
        executor.shutdown(wait=True, cancel_futures=True)


def _options(config: ReferenceConfig) -> ReferenceOptions:
    values: dict[str, Any] = {field.name: getattr(config, field.name, None) for field in fields(ReferenceOptions)}
    values["elements"] = DEFAULT_ELEMENTS if config.elements is None else tuple(dict.fromkeys(config.elements))
    return ReferenceOptions(**values)


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Pool(ProcessPoolExecutor):
    """Its processes never see Ctrl-C, not even while they start."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call; a process that is started for it inherits the mask of signals."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Bars:
    """One progress bar a stage."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, finished: int, total: int, failures: int) -> None:
        if stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = tqdm(total=total, desc=_STAGES[stage], unit="structure", initial=0)
        self._bar.n = finished
        self._bar.set_postfix({"no result": failures}, refresh=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _prepare_worker() -> None:
    """End when the parent is gone."""
    import threading
    from multiprocessing import connection, parent_process

    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
