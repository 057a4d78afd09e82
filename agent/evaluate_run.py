"""`matsmith evaluate`: files in, figures out, and a page when asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.config import EvaluateConfig
from agent.evaluation import Evaluation, check_readable, evaluate_lists
from agent.text_file import replace_text
from surrogates.material_lists import MaterialList, read_materials_of_files


@dataclass(frozen=True, eq=False)
class EvaluationOutcome:
    """What an evaluation found and wrote."""

    evaluation: Evaluation
    materials: MaterialList
    files: tuple[str, ...]
    """What was measured, as given."""
    seconds: float
    cpu_seconds: float
    """Of this process, reading included."""
    report: Path | None
    """None when no page was asked for."""

    def as_dict(self) -> dict[str, Any]:
        """Return what can be written as JSON; what does not apply is null."""
        return {
            "files": list(self.files),
            **self.evaluation.as_dict(),
            "seconds": round(self.seconds, 2),
            "cpu_seconds": round(self.cpu_seconds, 2),
            "report": None if self.report is None else str(self.report),
        }

    def __str__(self) -> str:
        took = f"{self.evaluation.given:,} materials in {self.seconds:.1f} s (processor {self.cpu_seconds:.1f} s)"
        return "\n".join([str(self.evaluation), "", took, *([f"report: {self.report}"] if self.report else [])])


def run_evaluation(config: EvaluateConfig, progress: bool = True) -> EvaluationOutcome:
    """Measure the materials of files, and write the page when one is asked for.

    Raises:
        ValueError: Nothing can be read, a file is missing or of an unknown kind, or the page cannot be written there.
    """
    began, processor = time.monotonic(), time.process_time()
    inputs = [*config.files, *(path for path in (config.reference, config.holdout) if path is not None)]
    if config.output is not None:
        _check_output(config.output, inputs)
    materials = _read("files", config.files, config.column)
    reference = None if config.reference is None else _read("reference", [config.reference], None)
    holdout = None if config.holdout is None else _read("holdout", [config.holdout], None)
    found = evaluate_lists(
        materials,
        reference=reference,
        reference_name="" if config.reference is None else config.reference.name,
        holdout=holdout,
        relax=config.relax,
        progress=progress,
    )
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - processor
    outcome = EvaluationOutcome(found, materials, tuple(map(str, config.files)), seconds, cpu_seconds, config.output)
    if config.output is not None:
        from agent.report_evaluation import evaluation_page

        _write(config.output, evaluation_page(outcome))
    return outcome


def _read(name: str, paths: Sequence[Path], column: str | None) -> MaterialList:
    try:
        found = read_materials_of_files(paths, column)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    check_readable(name, found)
    return found


def _check_output(path: Path, inputs: Sequence[Path]) -> None:
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"output: {path} is not named *.html")
    if path.is_dir():
        raise ValueError(f"output: {path} is a folder, expected the path of an HTML file")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"output: there is no folder {folder} to write {path.name} into")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"output: cannot write into {folder}")
    if any(path.resolve() == other.resolve() for other in inputs):
        raise ValueError(f"output: {path} is one of the files that are read")


def _write(path: Path, page: str) -> None:
    try:
        replace_text(path, page)
    except OSError as error:
        raise ValueError(f"output: {path} cannot be written ({error.strerror or error})") from error
