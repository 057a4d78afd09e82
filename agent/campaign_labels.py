"""Labels of a campaign: computed, committed one by one as they come, and read back as columns."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import pandas as pd
from tqdm import tqdm

from agent.campaign_options import CampaignOptions
from agent.execution import open_executor
from agent.fidelities import trials_of
from agent.labelled_objectives import LabelledObjectives
from agent.labelling import LabelOptions, Task, label_tasks
from agent.oracle_source import OracleSource
from agent.store import CampaignStore
from agent.store_records import Trial, label_columns
from surrogates.base import Label

_LEASE_SECONDS = 24 * 3600.0
_LARGEST = 1e30
"""No property in any unit is larger; an exploded relaxation is."""


class Workers:
    """An executor that is opened when it is first needed and stays open, its workers with their oracle, to the end.

    Args:
        executor: Name of one (see `agent.execution`), or one that is open and stays so.
        count: Processes, or calls under way in an executor of the caller's.
        time_limit: Seconds of a call.
    """

    def __init__(self, executor: str | Executor, count: int, time_limit: float) -> None:
        self.count = count
        self._given, self._time_limit = executor, time_limit
        self._opened: Executor | None = executor if isinstance(executor, Executor) else None
        self._stack = ExitStack()

    @property
    def executor(self) -> Executor:
        """The open executor."""
        if self._opened is None:
            assert isinstance(self._given, str)
            self._opened = self._stack.enter_context(open_executor(self._given, self.count, self._time_limit))
        return self._opened

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def label_trials(
    store: CampaignStore,
    waiting: Sequence[Trial],
    source: OracleSource,
    workers: Workers,
    options: CampaignOptions,
    title: str | None,
) -> None:
    """Label proposed trials with their oracle, committing every label as it comes.

    Args:
        store: Where they are kept.
        waiting: The trials.
        source: Of the oracle.
        workers: Where it runs.
        options: Settings of the campaign.
        title: Of the progress bar; None for none.
    """
    if not waiting:
        return
    owner = f"{socket.gethostname()}:{os.getpid()}"
    with tqdm(total=len(waiting), desc=title, unit="label", disable=title is None) as bar:
        failures = 0

        def keep(trial: int, label: Label, seconds: float, attempts: int) -> None:
            nonlocal failures
            try:
                _check_size(label)
                store.finish(trial, label, seconds, attempts)
            except OSError:
                raise
            except Exception as error:  # what an oracle of the user's put into it cannot be stored
                reason = " ".join(str(error).removeprefix(f"{store.path}: ").split())
                label = Label(label.material, failure=f"malformed answer: {source.redact(reason)}")
                store.finish(trial, label, seconds, attempts)
            failures += label.failure is not None
            bar.set_postfix({"failed": failures}, refresh=False)
            bar.update()

        label_tasks(
            [Task(trial.id, trial.material) for trial in waiting],
            source,
            workers.executor,
            LabelOptions(options.task_size, options.retries, workers.count + 1),
            on_start=lambda trials: store.lease(trials, owner, _LEASE_SECONDS),
            on_label=keep,
        )


def fit_to(wanted: LabelledObjectives, trials: Sequence[Trial], settings: Mapping[str, Any]) -> None:
    """Fit models to the labels of all oracles of a campaign with these settings (see `Campaign.settings`)."""
    name, version = settings["oracle"]
    target = trials_of(trials, name, version)
    cheaper = [trials_of(trials, name, version) for name, version, _ in settings.get("cheaper", ())]
    others = [([trial.material for trial in found], label_columns(found)) for found in cheaper]
    wanted.fit([trial.material for trial in target], label_columns(target), others)


def split_labels(labels: pd.DataFrame, oracle: str, version: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the labels of an oracle and those of all others."""
    is_of_oracle = (labels["oracle"] == oracle) & (labels["version"] == version)
    return labels[is_of_oracle].reset_index(drop=True), labels[~is_of_oracle].reset_index(drop=True)


def _check_size(label: Label) -> None:
    """Raise a ValueError for a value that models in single precision cannot be fitted to."""
    for name, value in dict(label.values).items():
        if abs(value) > _LARGEST:
            raise ValueError(f"{name} of {label.material} is {value:g}")
