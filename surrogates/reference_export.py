"""Compact files of a finished reference computation: a table of all entries, and the best structure of each formula."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from envs.formula import CompositionBatch
from surrogates.datasets import open_data_file
from surrogates.reference_build import decode_structure
from surrogates.reference_store import ReferenceStore, StoredResult
from surrogates.reference_table import RELAXED, SCANNED, lowest_of_each_formula, mixed_element_energies

if TYPE_CHECKING:
    from pymatgen.core import Structure

TABLE = "reference.csv.gz"
STRUCTURES = "reference_structures.jsonl.gz"
HIGHEST_FORMATION_ENERGY = 2.0
"""eV/atom; above, entries are left out: nobody will make them, and most are close contacts that CHGNet cannot judge."""


@dataclass(frozen=True)
class ReferenceSummary:
    """What a reference table holds."""

    entries: int
    """Structures with an energy."""
    relaxed: int
    formulas: int
    failed: int
    """Structures without a usable energy, and relaxations that did not end well."""

    def __str__(self) -> str:
        return (
            f"{self.entries:,} entries of {self.formulas:,} compositions, {self.relaxed:,} of them relaxed; "
            f"{self.failed:,} without a usable energy"
        )


@dataclass(frozen=True, eq=False)
class ReferenceStructure:
    """The relaxed structure of lowest energy of a composition."""

    prototype: str
    structure: Structure


def export_reference(store: ReferenceStore, folder: Path) -> ReferenceSummary:
    """Write `reference.csv.gz` and `reference_structures.jsonl.gz`, the same bytes for the same results."""
    scans = [*store.results("element_scan"), *store.results("scan")]
    relaxations = [*store.results("element_relaxation"), *store.results("relaxation")]
    relaxed = {(r.formula, r.prototype): r for r in relaxations if r.energy is not None}
    failed = sum(r.energy is None for r in (*scans, *relaxations))
    rows = [_row(scan, relaxed.get((scan.formula, scan.prototype))) for scan in scans if scan.energy is not None]
    table = pd.DataFrame(rows).sort_values(["formula", "prototype"]).reset_index(drop=True)
    credible = _formation_energies(table) <= HIGHEST_FORMATION_ENERGY
    failed += int((~credible).sum())
    table = table[credible].reset_index(drop=True)
    kept = set(zip(table["formula"], table["prototype"], strict=True))
    relaxed = {task: result for task, result in relaxed.items() if task in kept}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / TABLE, table.to_csv(index=False))
    best: dict[str, StoredResult] = {}
    for result in relaxed.values():
        held = best.get(result.formula)
        if held is None or (result.energy, result.prototype) < (held.energy, held.prototype):
            best[result.formula] = result
    lines = [
        json.dumps(
            {"formula": formula, "prototype": best[formula].prototype} | json.loads(best[formula].structure or "")
        )
        for formula in sorted(best)
    ]
    _write(folder / STRUCTURES, "".join(f"{line}\n" for line in lines).replace(", ", ",").replace(": ", ":"))
    return ReferenceSummary(len(table), len(relaxed), table["formula"].nunique(), failed)


def _formation_energies(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the formation energy of each entry, eV/atom."""
    energies = pd.to_numeric(table[RELAXED]).fillna(pd.to_numeric(table[SCANNED]))
    materials = CompositionBatch.from_formulas(table["formula"])
    elements = lowest_of_each_formula(materials, energies.to_numpy(dtype="float64"), "").element_energies()
    mixed: npt.NDArray[np.float64] = mixed_element_energies(materials, elements).numpy()
    return energies.to_numpy(dtype="float64") - mixed


def _row(scan: StoredResult, relaxed: StoredResult | None) -> dict[str, object]:
    assert scan.energy is not None and scan.volume is not None
    volume = relaxed.volume if relaxed is not None and relaxed.volume is not None else scan.volume
    return {
        "formula": scan.formula,
        "prototype": scan.prototype,
        "space_group": scan.space_group,
        SCANNED: f"{scan.energy:.4f}",
        RELAXED: f"{relaxed.energy:.4f}" if relaxed is not None and relaxed.energy is not None else "",
        "volume_A3_per_atom": f"{volume:.3f}",
        "converged": int(relaxed is not None),
    }


def _write(path: Path, text: str) -> None:
    """Write a compressed file that appears whole or not at all; the time is left out of it."""
    temporary = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        temporary.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def read_reference_structures() -> Mapping[str, ReferenceStructure]:
    """Return the embedded relaxed structures by reduced formula, elements included."""
    result = {}
    with open_data_file(STRUCTURES) as file:
        for line in file.read().decode().splitlines():
            values = json.loads(line)
            result[values["formula"]] = ReferenceStructure(values["prototype"], decode_structure(line))
    return result
