"""The one column of a table that names materials, as text: formulas, or structures as CIF."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

from envs.formula import hydrate_problem, parse_formula
from surrogates.datasets import FORMULA_COLUMNS, STRUCTURE_COLUMN, read_table
from surrogates.structure_files import LARGEST_FILE, no_text

LONGEST_FORMULA = 500
"""Characters above which a text is not tried as a formula."""
_TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq")


@dataclass(frozen=True)
class Cells:
    """A column of N rows."""

    rows: list[int]
    """Numbers of the rows; 1 is the first below the header, or the first of all where there is none."""
    texts: list[str]
    """Empty where there is no value."""
    structures: bool
    """Whether the texts are CIFs."""


def is_table(file: Path) -> bool:
    """Return whether the name is that of a table."""
    return file.name.lower().removesuffix(".gz").endswith(_TABLES)


def read_cells(file: Path, column: str | None = None) -> Cells:
    """Return the column with the materials.

    A table of one column needs no header; its blank lines do not count.

    Args:
        file: CSV, text with one formula a line, or Parquet; CSV and text also with .gz.
        column: Its name; when None, the first of `FORMULA_COLUMNS`, else cif, else the only column.

    Raises:
        ValueError: The file is empty, too large or not a table, or has no such column; one line that names it.
    """
    if file.name.lower().endswith((".parquet", ".pq")):
        table = read_table(file)
        name = _chosen(file, [str(name) for name in table.columns], column)
        values = table[table.columns[[str(name) for name in table.columns].index(name)]]
        texts = [value if isinstance(value, str) else "" for value in values]
        return Cells(list(range(1, len(texts) + 1)), texts, name.lower() == STRUCTURE_COLUMN)
    lines = _lines(file)
    header = [cell.strip() for cell in lines[0]]
    if column is None and len(header) == 1 and _is_formula(header[0]):
        number, place, start = 1, 0, 0
        name = ""
    else:
        name = _chosen(file, header, column)
        number, place, start = 1, header.index(name), 1
    alone = len(header) == 1
    rows, texts = [], []
    for row, cells in enumerate(lines[start:], start=number):
        text = cells[place] if place < len(cells) else ""
        if text.strip() or not alone:
            rows.append(row)
            texts.append(text)
    if not texts:
        raise ValueError(f"{file}: the table has no rows")
    return Cells(rows, texts, name.lower() == STRUCTURE_COLUMN)


def _chosen(file: Path, names: list[str], column: str | None) -> str:
    listed = ", ".join(names[:12])
    by_lower_case = {name.lower(): name for name in reversed(names)}
    if column is not None:
        if column in names:
            return column
        if column.lower() in by_lower_case:
            return by_lower_case[column.lower()]
        raise ValueError(f"{file}: no column {column!r} (there are {listed})")
    usual = (*FORMULA_COLUMNS, STRUCTURE_COLUMN)
    found = next((by_lower_case[name] for name in usual if name in by_lower_case), None)
    if found is not None:
        return found
    if len(names) == 1:
        return names[0]
    raise ValueError(f"{file}: no formula column (expected one of {', '.join(usual)}, or --column; there are {listed})")


def _is_formula(text: str) -> bool:
    if len(text) > LONGEST_FORMULA:
        return False
    try:
        parse_formula(text)
    except ValueError:
        return hydrate_problem(text) is not None  # refused, but no header
    return True


def _lines(file: Path) -> list[list[str]]:
    """Return the rows of a text file, header included; empty lines as rows without cells."""
    text = _text(file)
    first = text.lstrip().partition("\n")[0]
    plain = file.name.lower().removesuffix(".gz").endswith(".txt")
    delimiter = next((sign for sign in ("\t", ";") if sign in first and "," not in first), ",")
    if plain and not any(sign in first for sign in ",;\t"):
        return [[line] for line in text.strip("\r\n").splitlines()]
    limit = csv.field_size_limit(LARGEST_FILE)  # a CIF is longer than the default
    try:
        lines = list(csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ValueError(f"{file}: not a readable csv table ({error})") from error
    finally:
        csv.field_size_limit(limit)
    return lines


def _text(file: Path) -> str:
    try:
        with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: not a gzip file, or a damaged one") from error
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror or error})") from error
    if len(content) > LARGEST_FILE:
        raise ValueError(f"{file}: larger than {LARGEST_FILE / 1e6:.0f} MB; split it")
    if not content.strip():
        raise ValueError(f"{file}: the file is empty")
    if b"\0" in content:
        raise ValueError(f"{file}: {no_text(content)}")
    return content.decode("utf-8-sig", errors="replace")
