"""Where a campaign keeps what it proposed and what the oracle said: one SQLite file, which survives a kill.

    with CampaignStore(Path("campaign.db"), settings) as store:
        store.begin_round(0, seed=1)
        (trial,) = store.propose(0, [Proposal("SrTiO3", "ehvi", {"band_gap": (3.1, 0.2)})], oracle.name, oracle.version)
        store.finish(trial, oracle.label(["SrTiO3"])[0], seconds=12.0)

Every method is one transaction: whole or not at all, and on the disk when it returns. One process writes at a time
(it holds `campaign.lock` beside the file); any number may read meanwhile, by `CampaignStore.read` or by plain SQL. The
view `labels` has one row a trial and property, and one without a property for a trial that has no number at all.
Errors of SQLite are an OSError that names the file.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from agent.store_file import StoreFile, utc_now
from agent.store_records import STATES, Event, Proposal, Round, Trial
from envs.formula import reduced_formula
from surrogates.base import Label
from surrogates.reference_build import decode_structure, encode_structure

if TYPE_CHECKING:
    from pymatgen.core import Structure

_COLUMNS = (
    "material", "round", "state", "picked_by", "oracle", "version", "training_distance", "seconds", "failure",
)  # fmt: skip
"""Columns of `CampaignStore.labels` that are no property; no property may have such a name."""


class CampaignStore(StoreFile):
    """The store of one campaign, open for writing; held against other processes until it is closed.

    Args:
        path: The file; made when it is not there. Its folder must exist.
        settings: What the labels depend on, as JSON-compatible values; a store made with other settings is refused.
        wait: Seconds to wait for another process that holds the store.

    Raises:
        ValueError: Another process holds the store; it was made with other settings or by a newer program; the file is
            something else; the settings are not JSON.
        OSError: The file cannot be made, read or written, or is damaged.
    """

    def begin_round(self, number: int, seed: int) -> None:
        """Start a round; nothing happens when it was started before with this seed.

        Raises:
            ValueError: It was started with another seed.
        """
        with self._writing() as database:
            row = database.execute("SELECT seed FROM rounds WHERE number = ?", (int(number),)).fetchone()
            if row is None:
                values = (int(number), int(seed), "open", "{}", utc_now(), None)
                database.execute("INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?)", values)
            elif row[0] != seed:
                raise ValueError(f"{self.path}: round {number} was started with seed {row[0]}, not {seed}")

    def finish_round(self, number: int, metrics: Mapping[str, Any]) -> None:
        """Mark a round as done and keep its metrics as JSON.

        Raises:
            ValueError: The round is not open.
        """
        text = json.dumps(_plain(metrics), allow_nan=False)
        with self._writing() as database:
            self._check_open(number)
            database.execute(
                "UPDATE rounds SET state = 'done', metrics = ?, finished = ? WHERE number = ?",
                (text, utc_now(), int(number)),
            )

    def _check_open(self, number: int) -> None:
        row = self._database.execute("SELECT state FROM rounds WHERE number = ?", (int(number),)).fetchone()
        if row is None or row[0] != "open":
            raise ValueError(f"{self.path}: round {number} {'was not begun' if row is None else 'is done'}")

    def propose(self, round: int, proposals: Sequence[Proposal], oracle: str, version: str) -> list[int]:
        """Commit proposals of an open round for one oracle; returns the ids of their trials, in order.

        Raises:
            ValueError: The round is not open, this oracle and version have a trial of one of the materials already, or
                a prediction is not finite.
        """
        with self._writing() as database:
            self._check_open(round)
            return [self._propose(database, int(round), proposal, oracle, version) for proposal in proposals]

    def _propose(self, database: sqlite3.Connection, round: int, new: Proposal, oracle: str, version: str) -> int:
        key = (new.material, oracle, version)
        query = "SELECT id, round, state FROM trials WHERE material = ? AND oracle = ? AND version = ?"
        row = database.execute(query, key).fetchone()
        if row is not None:
            raise ValueError(
                f"{self.path}: {oracle} {version} has {new.material} already "
                f"(trial {row['id']} of round {row['round']}, {row['state']})"
            )
        database.execute("INSERT OR IGNORE INTO materials VALUES (?, ?)", (new.material, round))
        distance = None if new.training_distance is None else float(new.training_distance)
        trial = database.execute(
            "INSERT INTO trials (round, material, oracle, version, picked_by, state, attempts, training_distance) "
            "VALUES (?, ?, ?, ?, ?, 'proposed', 0, ?)",
            (round, *key, new.picked_by, distance),
        ).lastrowid
        assert trial is not None
        for name, (mean, std) in new.predicted.items():
            self._check_value(new.material, name, mean, std)
            database.execute(
                "INSERT INTO trial_values VALUES (?, ?, ?, ?, NULL)", (trial, name, float(mean), float(std))
            )
        return trial

    def _check_value(self, material: str, name: str, *numbers: float) -> None:
        if not all(math.isfinite(number) for number in numbers):
            shown = ", ".join(str(float(number)) for number in numbers)
            raise ValueError(f"{self.path}: {name} of {material} is {shown}, expected finite numbers")
        if name in _COLUMNS or name.endswith(("_predicted", "_predicted_std")):
            raise ValueError(f"{self.path}: a property cannot be called {name}, which is a column of the labels")

    def _check_state(self, trial: int, allowed: Sequence[str], wanted: str) -> str:
        """Return the trial's material."""
        row = self._database.execute("SELECT material, state FROM trials WHERE id = ?", (int(trial),)).fetchone()
        if row is None:
            raise ValueError(f"{self.path}: there is no trial {trial}")
        if row[1] not in allowed:
            raise ValueError(f"{self.path}: trial {trial} of {row[0]} is {row[1]} and cannot be {wanted}")
        return str(row[0])

    def lease(self, trials: Sequence[int], owner: str, seconds: float) -> None:
        """Mark proposed trials as running, until an owner has not come back for this many seconds.

        Raises:
            ValueError: One of them is not proposed.
        """
        until = time.time() + float(seconds)
        with self._writing() as database:
            for trial in trials:
                self._check_state(trial, ("proposed",), "leased")
                database.execute(
                    "UPDATE trials SET state = 'running', owner = ?, lease_until = ? WHERE id = ?",
                    (owner, until, int(trial)),
                )

    def release(self, now: float | None = None) -> int:
        """Put running trials whose lease is over at `now` (POSIX seconds; all when None) back; returns how many."""
        with self._writing() as database:
            return database.execute(
                "UPDATE trials SET state = 'proposed', owner = NULL, lease_until = NULL "
                "WHERE state = 'running' AND (? IS NULL OR lease_until <= ?)",
                (now, now),
            ).rowcount

    def abandon(self, trials: Sequence[int], reason: str) -> None:
        """Give up trials that are proposed or running; the reason stands where failures stand.

        Raises:
            ValueError: One of them has ended already.
        """
        with self._writing():
            for trial in trials:
                self._check_state(trial, ("proposed", "running"), "abandoned")
                self._end(trial, state="abandoned", failure=reason)

    def finish(self, trial: int, label: Label, seconds: float, attempts: int = 1) -> None:
        """Store a label: the trial is done, or failed when the label names a failure.

        A failed trial keeps no values, and its structure only when it is finite.

        Raises:
            ValueError: The trial has ended already, the label is of another material, it has no values and no failure,
                a value or the structure is not finite, or something else in it is not what it should be.
        """
        failed = label.failure is not None
        given: Mapping[str, float] = {} if failed else dict(label.values)
        finite = _is_finite(label.structure)
        with self._writing() as database:
            material = self._check_state(trial, ("proposed", "running"), "finished")
            if label.material != material and reduced_formula(label.material) != reduced_formula(material):
                raise ValueError(f"{self.path}: trial {trial} is of {material}, its label of {label.material}")
            if not failed and not given:
                raise ValueError(f"{self.path}: the label of {material} has neither values nor a failure")
            if not failed and not finite:
                raise ValueError(f"{self.path}: the structure of {material} has coordinates that are not finite")
            if not isinstance(label.prototype, str):
                raise ValueError(f"{self.path}: the prototype of {material} is {label.prototype!r}, not a text")
            steps: object = label.steps  # an oracle of the user's may give anything
            if steps is not None and not isinstance(steps, Integral):
                raise ValueError(f"{self.path}: the steps of {material} are {label.steps!r}, not a whole number")
            for name, value in given.items():
                self._check_value(material, name, value)
                database.execute(
                    "INSERT INTO trial_values (trial_id, property, value) VALUES (?, ?, ?) "
                    "ON CONFLICT (trial_id, property) DO UPDATE SET value = excluded.value",
                    (int(trial), name, float(value)),
                )
            self._end(
                trial,
                state="failed" if failed else "done",
                failure=label.failure,
                structure=None if label.structure is None or not finite else encode_structure(label.structure),
                steps=None if label.steps is None else int(label.steps),
                converged=None if label.converged is None else bool(label.converged),
                prototype=label.prototype,
                seconds=float(seconds),
                attempts=int(attempts),
            )

    def _end(self, trial: int, **columns: object) -> None:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        self._database.execute(
            f"UPDATE trials SET {assignments}, owner = NULL, lease_until = NULL WHERE id = ?",
            (*columns.values(), int(trial)),
        )

    def add_event(self, kind: str, detail: str) -> None:
        """Note something."""
        with self._writing() as database:
            database.execute("INSERT INTO events (time, kind, detail) VALUES (?, ?, ?)", (utc_now(), kind, detail))

    def events(self) -> list[Event]:
        """Return all events in order."""
        with self._transaction("BEGIN") as database:
            return [Event(**dict(row)) for row in database.execute("SELECT * FROM events ORDER BY id")]

    def rounds(self) -> list[Round]:
        """Return all rounds by number."""
        with self._transaction("BEGIN") as database:
            rows = database.execute("SELECT * FROM rounds ORDER BY number").fetchall()
        return [Round(**{**row, "metrics": json.loads(row["metrics"])}) for row in map(dict, rows)]

    def known(self, oracle: str | None = None, version: str | None = None) -> set[str]:
        """Return all materials with a trial, whatever its state, by this oracle and version or by any."""
        query = "SELECT material FROM trials WHERE oracle = ifnull(?, oracle) AND version = ifnull(?, version)"
        with self._transaction("BEGIN") as database:
            return {material for (material,) in database.execute(query, (oracle, version))}

    def trials(self, round: int | None = None, states: Sequence[str] | None = None) -> list[Trial]:
        """Return the trials of a round (or all) in these states (or any), by id.

        Raises:
            ValueError: There is no such state.
        """
        chosen = STATES if states is None else tuple(states)
        if not set(chosen) <= set(STATES):
            raise ValueError(f"states: expected some of {', '.join(STATES)}, got {states!r}")
        number = None if round is None else int(round)
        where = f"WHERE t.round = ifnull(?, t.round) AND t.state IN ({', '.join('?' * len(chosen))})"
        query = f"SELECT t.* FROM trials AS t {where} ORDER BY t.id"
        of_values = (
            "SELECT v.trial_id, v.property, v.predicted_mean, v.predicted_std, v.value "
            f"FROM trial_values AS v JOIN trials AS t ON t.id = v.trial_id {where} ORDER BY v.trial_id, v.property"
        )
        predicted: dict[int, dict[str, tuple[float, float]]] = defaultdict(dict)
        values: dict[int, dict[str, float]] = defaultdict(dict)
        with self._transaction("BEGIN") as database:
            rows = database.execute(query, (number, *chosen)).fetchall()
            for trial, name, mean, std, value in database.execute(of_values, (number, *chosen)):
                if mean is not None:
                    predicted[trial][name] = (mean, std)
                if value is not None:
                    values[trial][name] = value
        return [_trial(row, predicted.get(row["id"], {}), values.get(row["id"], {})) for row in rows]

    def labels(self) -> pd.DataFrame:
        """Return all trials by id, one a row.

        Columns: material, round, state, picked_by, oracle, version, training_distance, seconds, failure, and for each
        property its value, <property>_predicted and <property>_predicted_std; NaN where there is none.
        """
        with self._transaction("BEGIN") as database:
            rows = database.execute(f"SELECT id, {', '.join(_COLUMNS)} FROM trials ORDER BY id").fetchall()
            entries = database.execute(
                "SELECT property, trial_id, value, predicted_mean, predicted_std FROM trial_values ORDER BY property"
            ).fetchall()
        columns = {name: pd.Series([row[n] for row in rows], dtype=object) for n, name in enumerate(_COLUMNS, 1)}
        columns["round"] = columns["round"].astype("int64")
        for name in ("training_distance", "seconds"):
            columns[name] = columns[name].astype("float64")
        position = {row[0]: n for n, row in enumerate(rows)}
        numbers: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
        for name, trial, *found in entries:
            for suffix, number in zip(("", "_predicted", "_predicted_std"), found, strict=True):
                column = numbers.setdefault(f"{name}{suffix}", np.full(len(rows), np.nan))
                column[position[trial]] = np.nan if number is None else number
        return pd.DataFrame({**columns, **numbers})


def _trial(row: sqlite3.Row, predicted: Mapping[str, tuple[float, float]], values: Mapping[str, float]) -> Trial:
    label = None
    if row["state"] in ("done", "failed"):
        label = Label(
            material=row["material"],
            values=values,
            failure=row["failure"],
            structure=None if row["structure"] is None else decode_structure(row["structure"]),
            steps=row["steps"],
            converged=None if row["converged"] is None else bool(row["converged"]),
            prototype=row["prototype"],
        )
    names = (entry.name for entry in fields(Trial) if entry.name not in ("predicted", "label"))
    return Trial(**{name: row[name] for name in names}, predicted=predicted, label=label)


def _is_finite(structure: Structure | None) -> bool:
    return structure is None or bool(
        np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()
    )


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; numbers that are not finite become None, arrays lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return _plain(value.tolist()) if hasattr(value, "tolist") else value
