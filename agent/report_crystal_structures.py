"""Structures of a run for the pictures of its report, read from candidates.extxyz or, where that fails, from a CIF."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from agent.report_figures import FloatArray

MOST_ATOMS = 300
"""Atoms of the cell that is drawn; more would be a cloud."""

_ON_BOUNDARY = 0.02  # fractional coordinates of atoms that are repeated on the opposite face
_TOLERANCE = 0.1  # A, of the symmetry by which the conventional cell is found, as for the group after relaxation
_NAME = re.compile(r'(?:^|\s)name="?([^\s"]+)"?')


@dataclass(frozen=True, eq=False)
class DrawnCell:
    """A conventional cell and the atoms in it and on its boundary."""

    lattice: FloatArray
    """(3, 3), rows are vectors, A."""
    symbols: list[str]
    """Elements of B atoms, those on a face, edge or corner once for each place."""
    points: FloatArray
    """(B, 3), fractional coordinates."""
    description: str
    """Atoms and edges in words: "1 K, 1 Sb, 2 Se; edges 4.12, 4.12 and 23.8 Å"."""


def find_structures(run: Path, names: Sequence[str]) -> list[DrawnCell | str]:
    """Return the structure of each name or, as a sentence, why there is none."""
    blocks = _frames(run / "candidates.extxyz", set(names)) if names else {}
    return [_find(run, blocks, name) for name in names]


def _find(run: Path, blocks: dict[str, str] | str, name: str) -> DrawnCell | str:
    problems = []
    for read in (partial(_of_extended_xyz, blocks), partial(_of_cif, run)):
        try:
            return _drawn(*read(name))
        except ValueError as error:
            problems.append(str(error))
    return f"{'; '.join(problems)}."


def _frames(path: Path, names: Collection[str]) -> dict[str, str] | str:
    """Return the frames of an extended XYZ file that are asked for, by name, or why it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return f"{path.name} is missing from the run folder"
    except (OSError, UnicodeDecodeError) as error:
        return f"{path.name} cannot be read ({str(error).splitlines()[0]})"
    found, start = {}, 0
    while start + 1 < len(lines) and lines[start].strip().isdecimal():
        end = start + 2 + int(lines[start])
        name = _NAME.search(lines[start + 1])
        if name is not None and name[1] in names:
            found[name[1]] = "".join(lines[start:end])
        start = end
    return found


def _of_extended_xyz(blocks: dict[str, str] | str, name: str) -> tuple[FloatArray, list[int], FloatArray]:
    from ase.io import read

    if isinstance(blocks, str):
        raise ValueError(blocks)
    if name not in blocks:
        raise ValueError(f"candidates.extxyz has no {name}")
    try:
        atoms: Any = read(StringIO(blocks[name]), format="extxyz")
    except Exception as error:
        raise ValueError(f"{name} of candidates.extxyz cannot be read") from error
    return np.asarray(atoms.cell.array), atoms.numbers.tolist(), np.asarray(atoms.get_scaled_positions(wrap=False))


def _of_cif(run: Path, name: str) -> tuple[FloatArray, list[int], FloatArray]:
    from pymatgen.core import Structure

    path = run / "cifs" / f"{name}.cif"
    if path.resolve().parent != (run / "cifs").resolve():
        raise ValueError(f"{name} is no name of a file")
    if not path.is_file():
        raise ValueError(f"cifs/{path.name} is missing from the run folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on rounded coordinates
            structure = Structure.from_file(path)
        numbers = [int(site.specie.Z) for site in structure]
    except Exception as error:
        raise ValueError(f"cifs/{path.name} cannot be read") from error
    return np.asarray(structure.lattice.matrix), numbers, np.asarray(structure.frac_coords)


def _drawn(lattice: FloatArray, numbers: list[int], points: FloatArray) -> DrawnCell:
    """Return the conventional cell, as read where spglib finds none.

    Raises:
        ValueError: There is no cell, no atom, or a number that is not finite.
    """
    from ase.data import chemical_symbols

    sound = np.isfinite(lattice).all() and np.isfinite(points).all() and abs(np.linalg.det(lattice)) > 1e-3
    if not numbers or not sound or not all(1 <= number < len(chemical_symbols) for number in numbers):
        raise ValueError("the structure has no cell, no atoms, or coordinates that are not numbers")
    lattice, numbers, points = _conventional(lattice, numbers, points)
    if len(numbers) > MOST_ATOMS:
        raise ValueError(f"{len(numbers):,} atoms in the cell are too many to draw")
    elements = [chemical_symbols[number] for number in numbers]
    counts = ", ".join(f"{elements.count(symbol)} {symbol}" for symbol in dict.fromkeys(elements))
    a, b, c = np.linalg.norm(lattice, axis=1)
    symbols, places = [], []
    for symbol, point in zip(elements, (points + _ON_BOUNDARY) % 1.0 - _ON_BOUNDARY, strict=True):
        images = [(x, x + 1) if x < _ON_BOUNDARY else (x,) for x in point.tolist()]
        for image in product(*images):
            symbols.append(symbol)
            places.append(image)
    description = f"{counts}; edges {a:#.3g}, {b:#.3g} and {c:#.3g} Å"
    return DrawnCell(lattice, symbols, np.array(places, dtype=np.float64), description)


def _conventional(
    lattice: FloatArray, numbers: list[int], points: FloatArray
) -> tuple[FloatArray, list[int], FloatArray]:
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # spglib's own deprecations
        try:
            cell: Any = (lattice, points, numbers)
            found = spglib.standardize_cell(cell, to_primitive=False, no_idealize=False, symprec=_TOLERANCE)
        except Exception:  # spglib's errors are of its own, changing types
            found = None
    if found is None:
        return lattice, numbers, points
    return np.asarray(found[0]), [int(number) for number in found[2]], np.asarray(found[1])
