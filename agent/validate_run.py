"""`matsmith validate`: structure files through the validation funnel, and what it leaves behind.

validation.csv     one row a structure: the rung it reached, why no higher, and each rung's results
relaxed/*.cif      the structures that could be relaxed
relaxed.extxyz     the same in one file, with energies and distances to the hull
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from agent.config import ValidateConfig
from agent.structure_output import Frame, write_structures
from agent.text_file import replace_text
from surrogates.funnel_records import RUNGS
from surrogates.relaxation import RelaxationOptions
from surrogates.structure_files import StructureEntry, read_structures, structure_files
from surrogates.structure_funnel import FunnelOptions, FunnelResult, StructureFunnel

TABLE = "validation.csv"
FOLDER = "relaxed"
EXTENDED_XYZ = "relaxed.extxyz"

_SHORT = {
    "name": "name",
    "formula": "formula",
    "rung": "rung",
    "relaxed_space_group": "space_group",
    "formation_energy_eV_per_atom": "formation_energy",
    "e_above_hull_eV_per_atom": "e_above_hull",
    "bulk_modulus_GPa": "bulk_modulus_GPa",
    "lowest_frequency_THz": "lowest_THz",
    "reason": "reason",
}
_SHOWN = 30


@dataclass(frozen=True, eq=False)
class ValidationOutcome:
    """What a validation found and wrote."""

    table: pd.DataFrame
    source: str
    files: tuple[Path, ...]
    seconds: float
    interrupted: bool

    @property
    def unreadable(self) -> int:
        """Structures that could not be read or are unfit."""
        return int((self.table["failed_at"] == "built").sum())

    @property
    def reached(self) -> dict[str, int]:
        """How many structures passed each rung."""
        return {rung: int((self.table[rung] == "passed").sum()) for rung in RUNGS if (self.table[rung] != "").any()}

    def as_dict(self) -> dict[str, Any]:
        """Return what can be written as JSON; what is not known is null."""
        return {
            "structures": len(self.table),
            "unreadable": self.unreadable,
            "passed": self.reached,
            "source": self.source,
            "files": [str(file) for file in self.files],
            "seconds": round(self.seconds, 1),
            "interrupted": self.interrupted,
            "results": json.loads(self.table.to_json(orient="records")),
        }

    def short_table(self) -> pd.DataFrame:
        """Return the columns that fit on a screen, of the first structures; energies in eV/atom."""
        known = [name for name in _SHORT if name in ("name", "formula", "rung") or _has_values(self.table[name])]
        table = self.table[known].rename(columns=_SHORT).head(_SHOWN).round(4)
        return table.astype(object).where(table.notna(), "")

    def __str__(self) -> str:
        rungs = ", ".join(f"{rung} {count}" for rung, count in self.reached.items())
        lines = [f"{len(self.table)} structures, passed: {rungs}"]
        if len(self.table) > _SHOWN:
            lines.insert(0, f"the first {_SHOWN} of {len(self.table)}")
        bad = self.table[self.table["failed_at"] == "built"]
        if len(bad):
            first = bad.iloc[0]
            lines.append(f"{len(bad)} of them unfit or not readable, the first: {first['file']}: {first['reason']}")
        return "\n".join([*lines, f"energies in eV/atom: {self.source}"])


def run_validation(config: ValidateConfig, progress: bool = True) -> ValidationOutcome:
    """Validate the structures of files and write the results; Ctrl-C keeps what was finished.

    Raises:
        ValueError: A setting is wrong, a package is missing, no structure can be read, or the folder is taken.
    """
    began = time.monotonic()
    _check_output(config)
    funnel = StructureFunnel(options=_options(config))
    entries = _named_by_file(read_structures(config.files))
    readable = [entry for entry in entries if entry.structure is not None]
    if not readable:
        first = entries[0]
        others = f" (and {len(entries) - 1} more)" if len(entries) > 1 else ""
        raise ValueError(f"files: no structure could be read: {first.file}: {first.problem}{others}")
    result = funnel.run_entries(entries, progress)
    files = _write(config.output, result)
    return ValidationOutcome(result.table, result.source, files, time.monotonic() - began, result.interrupted)


def _options(config: ValidateConfig) -> FunnelOptions:
    if not config.fmax > 0:
        raise ValueError(f"fmax: {config.fmax:g} is not above 0")
    if config.max_steps < 1:
        raise ValueError(f"max_steps: {config.max_steps} is not at least 1")
    return FunnelOptions(
        charge_rules=config.charge_rules,
        closest_ratio=config.closest_ratio,
        relax=config.relax,
        relaxation=RelaxationOptions(fmax=config.fmax, max_steps=config.max_steps),
        max_atoms=config.max_atoms,
        max_e_above_hull=config.max_e_above_hull,
        elastic=config.elastic,
        phonon=config.phonon,
        top=config.top,
        skip_duplicates=config.skip_duplicates,
    )


def _named_by_file(entries: Sequence[StructureEntry]) -> list[StructureEntry]:
    """Show files of the current folder and below without the folder's own path."""
    here = f"{Path.cwd()}{os.sep}"
    return [replace(entry, file=entry.file.removeprefix(here)) for entry in entries]


def _has_values(column: pd.Series[Any]) -> bool:
    return bool((column.notna() & (column.astype(str) != "")).any())


# Files


def _check_output(config: ValidateConfig) -> None:
    folder = config.output
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output: {folder} is a file, expected a folder")
    parent = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not parent.is_dir():
        raise ValueError(f"output: cannot make {folder}, because {parent} is a file")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"output: cannot write into {parent}")
    present = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if not present:
        return
    if TABLE not in present:
        raise ValueError(f"output: {folder} holds other files ({present[0]}, ...); choose another folder")
    if not config.overwrite:
        raise ValueError(f"output: {folder} holds another validation; add --overwrite true, or choose another folder")
    for file in (file for path in config.files for file in structure_files(path)):
        if folder.resolve() in file.resolve().parents:
            raise ValueError(f"output: overwriting {folder} would delete {file}, which is to be validated")


def _write(folder: Path, result: FunnelResult) -> tuple[Path, ...]:
    """Write table and structures, each whole or not at all, in place of what the folder held."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = [
        Frame(str(row["name"]), structure, row.to_dict())
        for (_, row), structure in zip(result.table.iterrows(), result.structures, strict=True)
        if structure is not None
    ]
    written = write_structures(frames, folder / FOLDER, folder / EXTENDED_XYZ)
    replace_text(folder / TABLE, result.table.to_csv(index=False, float_format="%.6g"))
    return (folder / TABLE, *written)
