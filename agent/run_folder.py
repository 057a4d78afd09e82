"""The folder that a run leaves behind: what it was asked, where it ran, how it went, what came out.

    config.yaml  environment.json  support.json  metrics.jsonl  coverage.json  candidates.csv  report.html
    front.csv  front.json  known.csv (with several objectives)  checkpoints/agent.safetensors  tb/
    prior_weights.csv (with a range of them)
    candidates.extxyz  cifs/ (where crystals are built)
    campaign.db  campaign.json  labels.csv  labels_cheaper.csv  labels_ase.db  labels.extxyz  cifs/ (with rounds)

Every file appears whole or not at all, except metrics.jsonl and tb/, which grow line by line.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from agent.text_file import replace_text
from agent.trainer import StepReport

_PACKAGES = ("matsmith", "torch", "torchgfn", "gymnasium", "pymatgen", "smact", "scikit-learn", "numpy", "pandas")
_MARK = "environment.json"
"""The file by which a run is told from a folder of the user's, whose config.yaml must not be lost."""
_OTHERS = (
    "energy.safetensors", "support.json", "coverage.json", "front.csv", "front.json", "known.csv",
    "prior_weights.csv", "report.html", "tb", "campaign.db", "campaign.db-wal", "campaign.db-shm", "campaign.json",
    "labels.csv", "labels_cheaper.csv", "labels_ase.db", "labels.extxyz", "cifs", "candidates.extxyz",
)  # fmt: skip
_OURS = ("config.yaml", "environment.json", "metrics.jsonl", "candidates.csv", "checkpoints")


class RunFolder:
    """A run's folder.

    Args:
        path: Where it lies.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def checkpoint(self) -> Path:
        """The latest checkpoint."""
        return self.path / "checkpoints" / "agent.safetensors"

    @property
    def config(self) -> Path:
        """The configuration, which runs again as it is."""
        return self.path / "config.yaml"

    def check_free(self, overwrite: bool) -> None:
        """Make sure that a new run may use the folder.

        Raises:
            ValueError: It holds another run and `overwrite` is false, or it holds something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output: {self.path} is a file, expected a folder")
        parent = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not parent.is_dir():
            raise ValueError(f"output: cannot make {self.path}, because {parent} is a file")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise ValueError(f"output: cannot write into {parent}")
        entries = sorted(entry.name for entry in self.path.iterdir()) if self.path.exists() else []
        if not entries:
            return
        if _MARK not in entries:
            raise ValueError(f"output: {self.path} holds other files ({entries[0]}, ...); choose another folder")
        if not overwrite:
            raise ValueError(f"output: {self.path} holds another run; add --overwrite true, or choose another folder")

    def create(self) -> None:
        """Make the folder, emptied of a former run.

        Raises:
            ValueError: It cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"output: cannot make {str(self.path)!r} ({reason})") from None
        for name in (*_OURS, *_OTHERS):
            entry = self.path / name
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> Path:
        """Write a file that appears whole or not at all.

        Raises:
            OSError: It cannot be written; the message names the file.
        """
        target = self.path / name
        with _named(target):
            replace_text(target, text)
        return target

    def write_json(self, name: str, values: Mapping[str, Any]) -> Path:
        """Write values as JSON."""
        return self.write_text(name, json.dumps(values, indent=2) + "\n")

    def clear_parts(self) -> None:
        """Remove what a process that was killed left of files that were being written.

        Not for a report, which another process may be writing.
        """
        for name in (*_OURS, *_OTHERS):
            for left in self.path.glob(f"{name}.part-*") if name != "report.html" else ():
                left.unlink(missing_ok=True)
        for left in (*self.path.glob("checkpoints/*.part-*"), *self.path.glob("cifs/*.part-*")):
            left.unlink(missing_ok=True)

    def write_rounds(self, rounds: int) -> None:
        """Change the number of rounds in the stored configuration.

        Raises:
            ValueError: The configuration does not say how many there are.
        """
        text, changed = re.subn(r"(?m)^rounds: *\d+ *$", f"rounds: {rounds}", self.config.read_text(encoding="utf-8"))
        if changed != 1:
            raise ValueError(f"{self.config}: rounds: expected one line with their number")
        self.write_text(self.config.name, text)

    def open_metrics(self, step: int = 0) -> MetricsLog:
        """Open the metrics for appending; what lies beyond a step (of a resumed run) is cut off."""
        return MetricsLog(self.path, step)


class MetricsLog:
    """metrics.jsonl and TensorBoard events, one entry a step.

    Args:
        path: The run's folder.
        step: The last step that is kept of an earlier part of the run.
    """

    def __init__(self, path: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        file = path / "metrics.jsonl"
        kept = [line for line in _whole_lines(file) if json.loads(line)["step"] <= step]
        RunFolder(path).write_text(file.name, "".join(f"{line}\n" for line in kept))
        self._seconds = json.loads(kept[-1])["seconds"] if kept else 0.0
        self._started = datetime.now(UTC)
        self._file = file.open("a", encoding="utf-8", buffering=1)  # no step that a checkpoint has is lost with a kill
        self._path = file
        with _named(path / "tb"):
            self._events: Any = SummaryWriter(str(path / "tb"), purge_step=step + 1)

    def write(self, report: StepReport) -> None:
        """Append one step."""
        values = asdict(report)
        seconds = self._seconds + (datetime.now(UTC) - self._started).total_seconds()
        with _named(self._path):
            self._file.write(json.dumps(values | {"seconds": round(seconds, 2)}) + "\n")
        if report.step % 10 == 0:
            for name, value in values.items():
                if name != "step":
                    self._events.add_scalar(f"training/{name}", value, report.step)

    def close(self) -> None:
        """Write out what is buffered."""
        with _named(self._path):
            self._file.close()
        with _named(self._path.with_name("tb")):
            self._events.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have an error of writing name the file."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error


def _whole_lines(file: Path) -> list[str]:
    """Lines that a kill did not cut short."""
    if not file.exists():
        return []
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            json.loads(line)["step"], json.loads(line)["seconds"]
        except (ValueError, TypeError, KeyError):
            break
        lines.append(line)
    return lines


def describe_environment(seed: int) -> dict[str, Any]:
    """Return versions, machine and commit, as JSON-compatible values."""
    return {
        "matsmith": metadata.version("matsmith"),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in _PACKAGES},
        "seed": seed,
        "commit": _commit(),
        "platform": platform.platform(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree that is running, where there is one."""
    source = Path(__file__).resolve().parent.parent
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
    if not (source / ".git").exists():
        return None
    try:
        result = run(["git", "rev-parse", "HEAD"], cwd=source, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
