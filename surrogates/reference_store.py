"""Where results of a reference computation are kept as they come: one SQLite file, which survives a kill."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS results (
    stage TEXT NOT NULL,
    formula TEXT NOT NULL,
    prototype TEXT NOT NULL,
    energy REAL,
    volume REAL,
    steps INTEGER NOT NULL,
    failure TEXT,
    structure TEXT,
    space_group INTEGER,
    PRIMARY KEY (stage, formula, prototype)
);
"""


@dataclass(frozen=True)
class StoredResult:
    """What came out for one composition in one structure type."""

    stage: str
    """element_scan, element_relaxation, scan or relaxation."""
    formula: str
    prototype: str
    energy: float | None
    """eV/atom."""
    volume: float | None
    """A^3/atom."""
    steps: int
    failure: str | None
    structure: str | None
    """Relaxed structure as JSON: lattice, species, positions."""
    space_group: int | None


class ReferenceStore:
    """An SQLite file of results; each batch is written whole or not at all.

    Args:
        path: The file; made when it is not there.
        settings: What the results depend on; a file made with other settings is refused.

    Raises:
        ValueError: The file is something else, or was made with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        try:
            self._connection = sqlite3.connect(path)
        except sqlite3.Error as error:
            raise ValueError(f"{path}: not a file of reference results ({error})") from error
        try:
            self._open(settings)
        except BaseException:
            self.close()
            raise

    def _open(self, settings: dict[str, Any]) -> None:
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.executescript(_SCHEMA)
            with self._connection:
                self._connection.execute("INSERT OR IGNORE INTO meta VALUES ('settings', ?)", (json.dumps(settings),))
            row = self._connection.execute("SELECT value FROM meta WHERE key = 'settings'").fetchone()
            held: dict[str, Any] = json.loads(row[0])
        except (sqlite3.Error, json.JSONDecodeError) as error:
            raise ValueError(f"{self.path}: not a file of reference results ({error})") from error
        wanted = json.loads(json.dumps(settings))
        for name in sorted({*held, *wanted}):
            if held.get(name) != wanted.get(name):
                raise ValueError(
                    f"{self.path}: was started with another {name} (there {_short(held.get(name))}, now "
                    f"{_short(wanted.get(name))}); choose another output folder"
                )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise errors of SQLite as an OSError that names the file: a full disk, a file that was damaged."""
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(f"{self.path}: cannot be read or written ({error})") from error

    def add(self, results: Iterable[StoredResult]) -> None:
        """Store a batch of results in one transaction.

        Raises:
            OSError: The file cannot be written.
        """
        with self._explained(), self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [tuple(vars(result).values()) for result in results],
            )

    def done(self, stage: str) -> set[tuple[str, str]]:
        """Return formula and structure type of all results of a stage."""
        with self._explained():
            rows = self._connection.execute("SELECT formula, prototype FROM results WHERE stage = ?", (stage,))
            return {(formula, prototype) for formula, prototype in rows}

    def results(self, stage: str) -> list[StoredResult]:
        """Return all results of a stage, sorted by formula and structure type."""
        query = "SELECT * FROM results WHERE stage = ? ORDER BY formula, prototype"
        with self._explained():
            return [StoredResult(*row) for row in self._connection.execute(query, (stage,))]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
