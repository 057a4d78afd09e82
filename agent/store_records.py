"""What a campaign's store holds: proposals, trials, rounds, events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from surrogates.base import Label

if TYPE_CHECKING:
    pass

STATES = ("proposed", "running", "done", "failed", "abandoned")
"""States of a trial; the last three are final."""


@dataclass(frozen=True)
class Proposal:
    """A material to be labelled, and what was thought of it before."""

    material: str
    """Reduced formula."""
    picked_by: str
    """"initial", "ehvi", "greedy", "random", ..."""
    predicted: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Mean and standard deviation by property, before the label."""
    training_distance: float | None = None


@dataclass(frozen=True)
class Trial:
    """A material that an oracle was asked to label."""

    id: int
    round: int
    material: str
    oracle: str
    version: str
    picked_by: str
    state: str
    """One of `STATES`."""
    attempts: int
    """Of the oracle, as told to `finish`; 0 before."""
    predicted: Mapping[str, tuple[float, float]]
    training_distance: float | None
    label: Label | None
    """Of a trial that is done or failed; its structure as rounded by `encode_structure` (1e-4 A, 1e-5 of the cell)."""
    seconds: float | None
    """Spent by the oracle."""
    owner: str | None
    """Who computes a running trial."""
    lease_until: float | None
    """When the owner of a running trial is given up, POSIX seconds."""


@dataclass(frozen=True)
class Round:
    """One turn of a campaign."""

    number: int
    seed: int
    state: str
    """open or done."""
    metrics: Mapping[str, Any]
    """As given to `finish_round`, numbers that are not finite as None; empty before."""
    started: str
    """UTC, ISO 8601."""
    finished: str | None


@dataclass(frozen=True)
class Event:
    """Something worth knowing of a campaign's course."""

    id: int
    time: str
    """UTC, ISO 8601."""
    kind: str
    detail: str


def label_columns(trials: Sequence[Trial]) -> dict[str, list[float]]:
    """Return the labelled values of N trials by property, NaN where there is none."""
    labels = [{} if trial.label is None else dict(trial.label.values) for trial in trials]
    names = sorted({name for entry in labels for name in entry})
    return {name: [float(entry.get(name, float("nan"))) for entry in labels] for name in names}
