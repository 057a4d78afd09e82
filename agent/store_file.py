"""The file behind a campaign's store: its tables, opened, locked against other processes, converted and checked."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    pass

_APPLICATION = 0x4D617453
"""SQLite's application_id of a campaign store, "MatS"."""

_MIGRATIONS: list[tuple[str, ...]] = [
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        """CREATE TABLE rounds (
            number INTEGER PRIMARY KEY,
            seed INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('open', 'done')),
            metrics TEXT NOT NULL,
            started TEXT NOT NULL,
            finished TEXT)""",
        "CREATE TABLE materials (formula TEXT PRIMARY KEY, first_round INTEGER NOT NULL REFERENCES rounds)",
        """CREATE TABLE trials (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            round INTEGER NOT NULL REFERENCES rounds,
            material TEXT NOT NULL REFERENCES materials,
            oracle TEXT NOT NULL,
            version TEXT NOT NULL,
            picked_by TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('proposed', 'running', 'done', 'failed', 'abandoned')),
            attempts INTEGER NOT NULL,
            training_distance REAL,
            seconds REAL,
            owner TEXT,
            lease_until REAL,
            failure TEXT,
            structure TEXT,
            steps INTEGER,
            converged INTEGER,
            prototype TEXT NOT NULL DEFAULT '',
            UNIQUE (material, oracle, version))""",
        "CREATE INDEX trials_by_round ON trials (round)",
        """CREATE TABLE trial_values (
            trial_id INTEGER NOT NULL REFERENCES trials,
            property TEXT NOT NULL,
            predicted_mean REAL,
            predicted_std REAL,
            value REAL,
            PRIMARY KEY (trial_id, property))""",
        "CREATE TABLE events (id INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL)",
        """CREATE VIEW labels AS
            SELECT t.id AS trial, t.material, t.round, t.state, t.oracle, t.version, t.picked_by, v.property,
                v.predicted_mean, v.predicted_std, v.value, t.failure
            FROM trials AS t LEFT JOIN trial_values AS v ON v.trial_id = t.id ORDER BY t.id, v.property""",
    ),
]
"""Entry k, statements of SQL, takes a store of version k to k + 1; each runs in a transaction. Append, never edit."""


class StoreFile:
    """The file: opened, locked, converted and checked; what `CampaignStore` says it raises is raised here."""

    def __init__(self, path: Path, settings: Mapping[str, Any], wait: float = 0.0) -> None:
        self.path = Path(path)
        self._lock: FileLock | None = None
        self._connection: sqlite3.Connection | None = None
        text = _canonical(settings)
        try:
            self._check_kind()
            self._lock = _acquire(self.path, wait)
            with self._explained():
                self._connection = _connect(self.path, "mode=rwc")
                self._open(text)
        except BaseException:
            self.close()
            raise

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open a store for reading only, whoever is writing; its writing methods refuse.

        Raises:
            ValueError: The file is no campaign store, or one of another version.
            OSError: The file is not there, cannot be read or is damaged.
        """
        store = cls.__new__(cls)
        store.path, store._lock, store._connection = Path(path), None, None
        if not store.path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        try:
            with store._explained():
                store._open_for_reading()
        except BaseException:
            store.close()
            raise
        return store

    def _check_kind(self) -> None:
        """Refuse a file of something else before a lock is put beside it.

        SQLite itself must look: closing a file that was opened otherwise drops this process's locks on it.
        """
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"{self.path}: its folder does not exist")
        if not self.path.exists():
            return
        if not self.path.is_file():
            raise OSError(f"{self.path}: is not a file")
        explained, later = self._explained(), suppress(sqlite3.OperationalError)  # which the opening will meet again
        with explained, later, closing(_connect(self.path, "mode=ro")) as database:
            self._version(database)

    def _open(self, settings: str) -> None:
        database = self._database
        version = self._version(database)
        if version:
            self._check_settings(settings)
        for (fault,) in database.execute("PRAGMA quick_check(1)").fetchall():
            if fault != "ok":
                raise OSError(f"{self.path}: is damaged ({' '.join(str(fault).split())})")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("PRAGMA foreign_keys=ON")
        for number in range(version, len(_MIGRATIONS)):
            with self._writing():
                for statement in _MIGRATIONS[number]:
                    database.execute(statement)
                database.execute(f"PRAGMA application_id={_APPLICATION}")
                database.execute("INSERT OR REPLACE INTO meta VALUES ('schema_version', ?)", (str(number + 1),))
                if number == 0:
                    digest = hashlib.sha256(settings.encode()).hexdigest()
                    rows = [("settings", settings), ("settings_sha256", digest), ("created", utc_now())]
                    database.executemany("INSERT INTO meta VALUES (?, ?)", rows)
        with self._writing():
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()}
            database.execute("INSERT OR REPLACE INTO meta VALUES ('holder', ?)", (json.dumps(holder),))

    def _open_for_reading(self) -> None:
        self._connection = _connect(self.path, "mode=ro")
        try:
            version = self._version(self._connection)
        except sqlite3.OperationalError:
            log = self.path.with_name(f"{self.path.name}-wal")
            if log.exists() and log.stat().st_size:
                raise
            self._connection.close()  # a folder without the right to write: nobody writes, so no index is needed
            self._connection = _connect(self.path, "mode=ro&immutable=1")
            version = self._version(self._connection)
        if version == 0:
            raise ValueError(f"{self.path}: not a campaign store (empty)")
        if version < len(_MIGRATIONS):
            raise ValueError(
                f"{self.path}: is of version {version}, this program reads version {len(_MIGRATIONS)}; "
                "resume the campaign once to convert it"
            )

    def _version(self, database: sqlite3.Connection) -> int:
        """Return the version of the schema, 0 of an empty file."""
        ((application,),) = database.execute("PRAGMA application_id").fetchall()
        ((tables,),) = database.execute("SELECT count(*) FROM sqlite_master").fetchall()
        if tables == 0 and application in (0, _APPLICATION):
            return 0
        if application != _APPLICATION:
            raise ValueError(f"{self.path}: not a campaign store (a database of something else)")
        ((text,),) = database.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchall()
        version = int(text)
        if version > len(_MIGRATIONS):
            raise ValueError(
                f"{self.path}: is of version {version}, this program knows versions up to {len(_MIGRATIONS)}; "
                "use a newer release of MatSmith"
            )
        return version

    def _check_settings(self, settings: str) -> None:
        different = _first_difference(self.settings, json.loads(settings))
        if different is not None:
            name, held, wanted = different
            raise ValueError(
                f"{self.path}: was started with another {name} (there {_short(held)}, now {_short(wanted)}); "
                "choose another output folder"
            )

    @property
    def _database(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ValueError(f"{self.path}: is closed")
        return self._connection

    @property
    def settings(self) -> dict[str, Any]:
        """What the campaign was started with."""
        with self._explained():
            ((text,),) = self._database.execute("SELECT value FROM meta WHERE key = 'settings'").fetchall()
        values: dict[str, Any] = json.loads(text)
        return values

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise errors of SQLite as an OSError that names the file: a full disk, a file that was damaged."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                raise ValueError(f"{self.path}: not a campaign store ({error})") from error
            raise OSError(f"{self.path}: cannot be read or written ({error})") from error
        except OverflowError as error:
            raise ValueError(f"{self.path}: a number does not fit into 64 bits ({error})") from error

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        database = self._database
        with self._explained():
            try:
                database.execute(begin)
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:  # SQLite may have rolled back by itself
                    with suppress(sqlite3.Error):
                        database.execute("ROLLBACK")
                raise

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if self._connection is not None and self._lock is None:
            raise ValueError(f"{self.path}: is open for reading only")
        with self._transaction("BEGIN IMMEDIATE") as database:
            yield database

    def close(self) -> None:
        """Close the file and let others have it."""
        connection, self._connection = self._connection, None
        lock, self._lock = self._lock, None
        try:
            if connection is not None:
                connection.close()
        finally:
            if lock is not None:
                lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep other processes from a store, while its files are replaced for instance.

    Raises:
        ValueError: Another process holds it.
        OSError: It cannot be locked.
    """
    with _acquire(path):
        yield


def _acquire(path: Path, wait: float = 0.0) -> FileLock:
    lock = FileLock(path.with_suffix(".lock"), thread_local=False)
    try:
        lock.acquire(timeout=max(wait, 0.0))
    except Timeout:
        raise ValueError(
            f"{path}: {_holder(path)}; wait for its end, stop it, or choose another output folder"
        ) from None
    except OSError as error:
        raise OSError(f"{path}: cannot be locked ({error})") from error
    return lock


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=30.0, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def _holder(path: Path) -> str:
    """Return who holds a store, as far as it can be read."""
    try:
        with closing(_connect(path, "mode=ro")) as database:
            ((text,),) = database.execute("SELECT value FROM meta WHERE key = 'holder'").fetchall()
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} has held it since {holder['since']}"
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return "another process is just opening it"


def utc_now() -> str:
    """Return the time as stored: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _canonical(settings: Mapping[str, Any]) -> str:
    try:
        return json.dumps(settings, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings: cannot be kept as JSON ({error})") from error


def _first_difference(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, object, object] | None:
    """Return name and both values of the first setting that differs, by name; None when all agree."""
    for name in sorted({*held, *wanted}):
        old, new = held.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = _first_difference(old, new)
            if inner is not None:
                return f"{name}.{inner[0]}", inner[1], inner[2]
        elif json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
            return name, old, new
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
