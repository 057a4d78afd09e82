"""Tables of materials and properties: the embedded ones, and a user's CSV or Parquet."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from envs.formula import CompositionBatch, parse_formula, write_formula

if TYPE_CHECKING:
    from pymatgen.core import Structure


def open_data_file(name: str) -> IO[bytes]:
    """Return the contents of a file of `surrogates/data`; those of names ending in .gz are decompressed."""
    content = (resources.files("surrogates") / "data" / name).read_bytes()
    return BytesIO(gzip.decompress(content) if name.endswith(".gz") else content)


@lru_cache(maxsize=1)
def read_band_gaps() -> pd.DataFrame:
    """Return experimental band gaps: columns formula, band_gap_eV (median of the entries), entries.

    Source: Zhuo et al., J. Phys. Chem. Lett. 9, 1668 (2018).
    """
    with open_data_file("band_gaps.csv.gz") as file:
        return pd.read_csv(file, keep_default_na=False)


@lru_cache(maxsize=1)
def read_metal_classes() -> pd.DataFrame:
    """Return experimental classes: columns formula, gapped (1 for a non-metal, 0 for a metal).

    Source: Zhuo et al., J. Phys. Chem. Lett. 9, 1668 (2018).
    """
    with open_data_file("metal_classes.csv.gz") as file:
        return pd.read_csv(file, keep_default_na=False)


@lru_cache(maxsize=1)
def read_known_formulas() -> pd.DataFrame:
    """Return the known materials, one row a reduced formula, sorted.

    Columns: formula; entries (number of crystal structures in the transport table, 0 for formulas known from
    experimental tables only); and, empty where entries is 0: gapped (share of the structures whose Seebeck
    coefficients tell a gap: S_p > 100 and S_n < -100 uV/K), S_p and S_n (median, uV/K).

    Source: Ricci et al., Sci. Data 4, 170085 (2017) and Zhuo et al., J. Phys. Chem. Lett. 9, 1668 (2018).
    """
    with open_data_file("known_formulas.csv.gz") as file:
        return pd.read_csv(file, keep_default_na=False, na_values={"gapped": "", "S_p": "", "S_n": ""})


@lru_cache(maxsize=1)
def read_element_properties() -> pd.DataFrame:
    """Return numeric properties of the elements 1-103, indexed by symbol; no value is missing.

    Source: Ward et al., npj Comput. Mater. 2, 16028 (2016), and SMACT's oxidation-state counts for the common charges.
    """
    with open_data_file("element_properties.csv") as file:
        return pd.read_csv(file, keep_default_na=False, index_col="symbol")


FORMULA_COLUMNS: tuple[str, ...] = (
    "formula",
    "composition",
    "pretty_formula",
    "formula_pretty",
    "reduced_formula",
    "chemical_formula",
    "material",
)
"""Names under which a formula column is found, whatever their case; the first present is taken."""

STRUCTURE_COLUMN = "cif"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A user's table: one material per row with its values."""

    materials: CompositionBatch
    """N compositions, as written in the table (not reduced)."""

    properties: pd.DataFrame
    """N rows of float values, one column each."""


def load_dataset(
    path: str | Path, formula_column: str | None = None, value_columns: Sequence[str] | None = None
) -> Dataset:
    """Read a CSV (also .csv.gz) or Parquet table of materials.

    Args:
        path: The file.
        formula_column: Column with the formulas. When None, the first of `FORMULA_COLUMNS` that the table has, else the
            formulas of the structures in its `cif` column.
        value_columns: Columns to read as numbers; all numeric columns when None.

    Raises:
        ValueError: The file is missing, empty or not a table; a column is missing; a formula is unreadable; a value is
            not a finite number. The message is one line that names the file, the column, the data row (1 is the first
            below the header) and the value found.
    """
    file = Path(path)
    table = read_table(file)
    materials = read_materials(file, table, formula_column)
    if value_columns is None:
        numeric = [str(name) for name in table.columns if pd.api.types.is_numeric_dtype(table[name])]
        value_columns = [name for name in numeric if not name.startswith("Unnamed:")]
    values = {name: read_values(file, table, name) for name in value_columns}
    return Dataset(materials, pd.DataFrame(values, index=table.index))


def read_table(file: Path) -> pd.DataFrame:
    """Return a CSV (also .csv.gz) or Parquet table of at least one row, as it is.

    Raises:
        ValueError: The file is missing, empty or not a table; one line that names it.
    """
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    table = _read_table_file(file)
    if table.empty:
        raise ValueError(f"{file}: the table has no rows")
    return table


def _read_table_file(file: Path) -> pd.DataFrame:
    kind = file.name.lower().removesuffix(".gz").rpartition(".")[2]
    try:
        if kind == "csv":
            return pd.read_csv(file, keep_default_na=False, na_values=["", "nan", "NaN", "NULL", "null", "N/A", "None"])
        if kind in ("parquet", "pq"):
            return pd.read_parquet(file)
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{file}: the file is empty") from error
    except Exception as error:  # the readers raise many types for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file}: not a readable {kind} table ({reason})") from error
    raise ValueError(f"{file}: expected a table named *.csv, *.csv.gz or *.parquet")


def read_materials(
    file: Path,
    table: pd.DataFrame,
    formula_column: str | None = None,
    structure_problem: Callable[[Structure], str | None] | None = None,
) -> CompositionBatch:
    """Return the compositions of a table's rows, as written.

    Args:
        file: Where the table comes from, for messages.
        table: The table.
        formula_column: As for `load_dataset`.
        structure_problem: Says why a structure of the `cif` column is refused, None for a sound one.

    Raises:
        ValueError: There is no such column, or a row is unreadable; one line with file, column, row and value.
    """
    name = formula_column
    if name is None:
        by_lower_case = {str(column).lower(): str(column) for column in reversed(table.columns)}
        names = (*FORMULA_COLUMNS, STRUCTURE_COLUMN)
        name = next((by_lower_case[name] for name in names if name in by_lower_case), None)
    if name is None:
        expected = ", ".join((*FORMULA_COLUMNS, STRUCTURE_COLUMN))
        raise ValueError(f"{file}: no formula column (expected one of {expected}; there are {_listed(table)})")
    _check_column(file, table, name)
    structures = name.lower() == STRUCTURE_COLUMN
    formulas = []
    for row, text in enumerate(table[name], start=1):
        try:
            formulas.append(_formula_of_structure(text, structure_problem) if structures else _checked_formula(text))
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{file}: column {name!r}, row {row}: {reason}") from error
    return CompositionBatch.from_formulas(formulas)


def _checked_formula(text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError("expected a formula, found no value" if pd.isna(text) else f"expected a formula, not {text!r}")
    parse_formula(text)
    return text


def _formula_of_structure(text: Any, problem_of: Callable[[Structure], str | None] | None) -> str:
    import warnings

    from pymatgen.core import Structure

    if not isinstance(text, str):
        raise ValueError("expected a structure in CIF format, found no value")
    with warnings.catch_warnings(record=True) as comments:  # on rounded coordinates and the like
        warnings.simplefilter("always")
        try:
            structure = Structure.from_str(text, fmt="cif")
        except Exception as error:  # pymatgen raises several types for an unreadable CIF
            raise ValueError(_cif_problem(text, " ".join(str(comment.message) for comment in comments))) from error
    problem = problem_of(structure) if problem_of else None
    if problem:
        raise ValueError(f"{structure.composition.reduced_formula}: {problem}")
    return write_formula(structure.composition.element_composition.get_el_amt_dict())


def _cif_problem(text: str, comments: str) -> str:
    formula = re.search(r"^\s*_chemical_formula_sum\s+(['\"]?)(.+?)\1\s*$", text, re.MULTILINE)
    if formula is None:
        return f"not a readable CIF: {text.strip()[:40]!r}"
    name = formula[2].replace(" ", "")
    if "exceeded tolerance" in comments:
        return f"{name}: not a readable CIF (atoms overlap, or an occupancy is above 1)"
    if "Singular matrix" in comments or "thickness=" in comments:
        return f"{name}: not a readable CIF (the cell has no volume)"
    return f"{name}: not a readable CIF"


def read_values(file: Path, table: pd.DataFrame, name: str) -> pd.Series[float]:
    """Return a column as finite numbers.

    Raises:
        ValueError: The column is missing, or a value is not a finite number; one line with file, column, row and value.
    """
    _check_column(file, table, name)
    column = table[name]
    numbers: pd.Series[float] = pd.to_numeric(column, errors="coerce").astype("float64")
    bad = ~np.isfinite(numbers.to_numpy())
    if bad.any():
        row = int(bad.argmax())
        found = "no value" if pd.isna(column.iloc[row]) else repr(column.iloc[row])
        raise ValueError(f"{file}: column {name!r}, row {row + 1}: expected a finite number, found {found}")
    return numbers


def _check_column(file: Path, table: pd.DataFrame, name: str) -> None:
    if name not in table.columns:
        raise ValueError(f"{file}: no column {name!r} (there are {_listed(table)})")


def _listed(table: pd.DataFrame) -> str:
    return ", ".join(map(str, table.columns))
