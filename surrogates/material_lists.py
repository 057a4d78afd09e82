"""Lists of materials from anywhere, as compositions and structures; what cannot be read is counted, not an exception.

    found = read_materials_of_files([Path("generated.csv"), Path("cifs")])
    found.compositions        # N compositions
    found.structures          # N structures, None where only a formula is known
    found.refused             # where, what and why of the rest

Tables (*.csv, *.txt, *.parquet; also .gz) hold formulas, or structures in a column named cif; other files are read as
structures, see `surrogates.structure_files`. Formulas are read as pymatgen reads them: brackets and decimals are fine,
and subscripts; D and T are hydrogen; charges (Fe3+) and hydrates with a dot (CuSO4.5H2O) are not understood.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from envs.chemistry import ATOMIC_NUMBERS, formula_order
from envs.formula import CompositionBatch, hydrate_problem, parse_formula
from surrogates.formula_tables import LONGEST_FORMULA, is_table, read_cells
from surrogates.structure_files import read_structures, structure_files

if TYPE_CHECKING:
    from pymatgen.core import Structure

MOST_ATOMS = 100_000
"""Atoms in a formula, or in a cell, above which it is refused."""
LEAST_AMOUNT = 1e-4
"""Amount of an element below which a formula is refused."""

_HEAVY_HYDROGEN = re.compile(r"[DT](?![a-z])")


@dataclass(frozen=True)
class Refused:
    """A material that could not be read."""

    where: str
    """Row 1 is the first below the header: "samples.csv, row 3"."""
    what: str
    """The text, cut short; empty for a file."""
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, eq=False)
class MaterialList:
    """N materials that could be read, in order, and those that could not."""

    compositions: CompositionBatch
    structures: tuple[Structure | None, ...]
    refused: tuple[Refused, ...] = ()
    heavy_hydrogen: int = 0
    """How many of the N were written with deuterium or tritium, and count as hydrogen."""

    @property
    def given(self) -> int:
        """How many there were, readable or not."""
        return len(self.compositions) + len(self.refused)


@dataclass(frozen=True, eq=False)
class _Item:
    where: str
    material: object
    problem: str | None = None


def read_materials_of_files(paths: Iterable[Path], column: str | None = None) -> MaterialList:
    """Return the materials of tables, structure files and folders of structure files.

    Args:
        paths: At least one.
        column: Column of the tables; when None, the first with a usual name, or the only one.

    Raises:
        ValueError: A file is missing, empty, too large, of an unknown kind or damaged as a whole, or has no such
            column; one line that names it.
    """
    return _collect(item for path in paths for item in _items_of(path, column))


def collect_materials(materials: Iterable[object]) -> MaterialList:
    """Return the materials of a sequence of formulas, pymatgen compositions and pymatgen structures.

    A `CompositionBatch` and a `CrystalBatch` are such sequences.
    """
    from envs.crystal_batch import CrystalBatch

    if isinstance(materials, CrystalBatch):
        materials = materials.structures(primitive=True)
    return _collect(_Item(f"material {number}", material) for number, material in enumerate(materials, start=1))


def _items_of(path: Path, column: str | None) -> Iterator[_Item]:
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder")
    if not path.is_dir() and is_table(path):
        cells = read_cells(path, column)
        read: Callable[[str], object] = structure_of_cif if cells.structures else str
        for row, text in zip(cells.rows, cells.texts, strict=True):
            where = f"{path}, row {row}"
            try:
                yield _Item(where, read(text))
            except ValueError as error:
                yield _Item(where, text, str(error))
        return
    if path.is_dir() and not structure_files(path):
        raise ValueError(f"{path}: the folder holds no structure files (expected *.cif, *.extxyz, POSCAR, ...)")
    for entry in read_structures([path]):
        yield _Item(entry.file, entry.structure if entry.problem is None else "", entry.problem)


def structure_of_cif(text: str) -> Structure:
    """Return the structure of a CIF.

    Raises:
        ValueError: The text is no readable CIF.
    """
    from pymatgen.core import Structure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on rounded coordinates and the like
        try:
            return Structure.from_str(text, fmt="cif")
        except Exception as error:  # pymatgen raises several types for an unreadable CIF
            raise ValueError("not a readable CIF" if text.strip() else "no value") from error


def _collect(items: Iterable[_Item]) -> MaterialList:
    formulas: list[str] = []
    structures: list[Structure | None] = []
    refused: list[Refused] = []
    heavy = 0
    known: dict[str, tuple[str, bool] | ValueError] = {}
    for item in items:
        shown = item.material if isinstance(item.material, str) else ""
        if item.problem is not None:
            refused.append(Refused(item.where, _short(shown), item.problem))
            continue
        try:
            formula, is_heavy, structure = _read(item.material, known)
        except ValueError as error:
            refused.append(Refused(item.where, _short(shown), str(error)))
            continue
        formulas.append(formula)
        structures.append(structure)
        heavy += is_heavy
    return MaterialList(CompositionBatch.from_formulas(formulas), tuple(structures), tuple(refused), heavy)


def _short(text: str) -> str:
    line = " ".join(text[:200].split())
    return line if len(line) <= 40 else f"{line[:39]}…"


def _read(material: object, known: dict[str, tuple[str, bool] | ValueError]) -> tuple[str, bool, Structure | None]:
    """Return a formula that needs no further parsing, whether it had heavy hydrogen, and the structure if there is one.

    Raises:
        ValueError: Not a material.
    """
    if isinstance(material, str):
        found = known.get(material)
        if found is None:
            try:
                found = _plain_formula(material)
            except ValueError as error:
                found = error
            known[material] = found
        if isinstance(found, ValueError):
            raise found
        return (*found, None)
    from pymatgen.core import Composition, Structure

    if not isinstance(material, Structure | Composition):
        raise ValueError(f"expected a formula or a structure, found {type(material).__name__}")
    composition = material.composition if isinstance(material, Structure) else material
    amounts: dict[str, float] = {}
    for species, amount in composition.items():
        symbol = str(getattr(species, "symbol", species))  # of deuterium, H
        amounts[symbol] = amounts.get(symbol, 0.0) + float(amount)
    if not amounts:
        raise ValueError("no atoms")
    unknown = next((symbol for symbol in amounts if symbol not in ATOMIC_NUMBERS), None)
    if unknown is not None:
        raise ValueError(f"{unknown!r} is not a chemical element")  # a dummy species
    formula = _written(amounts)
    heavy = any(getattr(species, "name", "") in ("D", "T") for species in composition)
    return formula, heavy, material if isinstance(material, Structure) else None


def _plain_formula(text: str) -> tuple[str, bool]:
    if not text.strip():
        raise ValueError("no value")
    if len(text) > LONGEST_FORMULA:
        raise ValueError(f"{len(text):,} characters, expected a formula of at most {LONGEST_FORMULA}")
    problem = hydrate_problem(text)
    if problem is not None:
        raise ValueError(f"{_short(text)!r} {problem}")
    heavy = bool(_HEAVY_HYDROGEN.search(text))
    try:
        amounts = parse_formula(_HEAVY_HYDROGEN.sub("H", text) if heavy else text)
    except (ValueError, OverflowError) as error:
        reason = f"{_short(text)!r} is not a chemical formula"
        if re.search(r"\d?[+-]\d*\)?\s*$|[+]", text.strip()):
            reason += " (charges are not understood)"
        known = re.search(r": (.*(?:is not a chemical element|must be positive).*)$", str(error))
        raise ValueError(f"{_short(text)!r}: {known[1]}" if known else reason) from error
    return _written(amounts), heavy


def _written(amounts: dict[str, float]) -> str:
    """Return a formula without brackets, to ten digits; in ascending electronegativity, which is no hydrate's."""
    total = sum(amounts.values())
    if not total <= MOST_ATOMS:
        raise ValueError(f"{total:.3g} atoms, expected at most {MOST_ATOMS:,}")
    if min(amounts.values()) < LEAST_AMOUNT:
        raise ValueError(f"an amount of {min(amounts.values()):.3g} atoms, expected at least {LEAST_AMOUNT:g}")
    return "".join(
        f"{symbol}{'' if amounts[symbol] == 1 else format(amounts[symbol], '.10g')}"
        for symbol in sorted(amounts, key=formula_order)
    )
