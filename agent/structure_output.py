"""Structures on disk: a folder of CIFs and one extended XYZ file, each file whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from agent.text_file import replace_text
from surrogates.potential import plain_atoms

if TYPE_CHECKING:
    from pymatgen.core import Structure

_TOLD = ("formula", "rung", "energy_eV_per_atom", "formation_energy_eV_per_atom", "e_above_hull_eV_per_atom")


@dataclass(frozen=True, eq=False)
class Frame:
    """A structure with what is known about it."""

    name: str
    """Also the name of its CIF."""
    structure: Structure
    told: Mapping[Any, Any]
    """A row of a validation; formula, rung and energies are written beside the atoms."""


def write_structures(frames: Sequence[Frame], folder: Path, extended_xyz: Path) -> tuple[Path, ...]:
    """Write each structure as a CIF and all of them as extended XYZ, in place of what was there; return the paths.

    Nothing is written, and nothing of an earlier run is left, when there are no structures.
    """
    from pymatgen.io.cif import CifWriter

    if frames:
        folder.mkdir(exist_ok=True)
        for frame in frames:
            replace_text(folder / f"{frame.name}.cif", str(CifWriter(frame.structure)))
        replace_text(extended_xyz, "".join(map(_as_text, frames)))
    else:
        extended_xyz.unlink(missing_ok=True)
    new = {f"{frame.name}.cif" for frame in frames}
    for old in folder.glob("*.cif"):
        if old.name not in new:
            old.unlink(missing_ok=True)
    return (extended_xyz, folder) if frames else ()


def _as_text(frame: Frame) -> str:
    from ase.io import write

    atoms = plain_atoms(frame.structure)
    atoms.info = {"name": frame.name} | {key: frame.told[key] for key in _TOLD if pd.notna(frame.told.get(key))}
    text = StringIO()
    write(text, atoms, format="extxyz")
    return text.getvalue()
