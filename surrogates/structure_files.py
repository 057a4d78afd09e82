"""Crystal structures read from files of several formats; what cannot be read is a reason in one line, not an exception.

    for entry in read_structures(["rutile.cif", "POSCAR", "samples.extxyz", "my_folder"]):
        print(entry.name, entry.structure or entry.problem)

Formats, told by the name and also with .gz behind it: *.cif; POSCAR*, CONTCAR*, *.poscar and *.vasp; *.extxyz and *.xyz
with a lattice. Each data block of a CIF and each frame of an extended XYZ file is a structure of its own; blocks
without any crystal data, as journals add them, are left out when the file has others.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymatgen.core import Structure

LARGEST_FILE = 256_000_000
"""Bytes, after decompression, above which a file is not read."""

_BLOCK = re.compile(r"data_(\S*)", re.IGNORECASE)
_CRYSTAL_DATA = re.compile(r"^\s*_(cell_length_a|cell\.length_a|atom_site)", re.IGNORECASE | re.MULTILINE)
_NO_NUMBER = re.compile(r"(?:string to float|int\(\) with base 10): '(.*?)(?:\\n)?'")
_UNEVEN_LOOP = re.compile(r"len\(items\)=(\d+) is not a multiple")
_ABOUT_THE_FILE = re.compile(r"Frame has \d.*|Got info item .*|Unknown property type.*|Empty POSCAR")
_EXPECTED = "expected *.cif, POSCAR, *.vasp, *.extxyz or *.xyz, each also with .gz"


@dataclass(frozen=True, eq=False)
class StructureEntry:
    """One structure of a file, or why there is none."""

    name: str
    """Short and unique among the entries that were read together; safe as the name of a file."""
    file: str
    """The file as it was given, with "#" and the name of the block or the number of the frame when it has several."""
    structure: Structure | None
    problem: str | None
    """One line when there is no structure."""
    note: str = ""
    """What the reader found odd, for instance hydrogen atoms without positions."""


def read_structures(paths: Iterable[str | Path]) -> list[StructureEntry]:
    """Return the structures of files, in order; of a folder those of the files in it, sorted by name.

    Within a folder only files whose names tell a known format are read, and no folders further down.
    """
    entries = [entry for path in paths for file in _files(Path(path)) for entry in _read_file(file)]
    return [
        replace(entry, name=name)
        for entry, name in zip(entries, _unique([entry.name for entry in entries]), strict=True)
    ]


def structure_files(path: Path) -> list[Path]:
    """Return the files of a folder that `read_structures` reads, or the file itself."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and _format(file) is not None)


def _files(path: Path) -> list[Path]:
    return structure_files(path) or [path]  # an empty folder is named as what cannot be read


def _unique(names: list[str]) -> list[str]:
    """Number names that occur more than once, capitals or not: not every file system tells these apart."""
    counts = Counter(name.lower() for name in names)
    taken = {name for name, count in counts.items() if count == 1}
    result = []
    numbers: Counter[str] = Counter()
    for name in names:
        key = name.lower()
        chosen = name
        while counts[key] > 1 and (chosen == name or chosen.lower() in taken):
            numbers[key] += 1
            chosen = f"{name}_{numbers[key]}"
        taken.add(chosen.lower())
        result.append(chosen)
    return result


def _format(file: Path) -> str | None:
    name = file.name.lower().removesuffix(".gz")
    if name.endswith((".cif", ".extxyz", ".xyz")):
        return "cif" if name.endswith(".cif") else "extxyz"
    if name.startswith(("poscar", "contcar")) or name.endswith((".vasp", ".poscar")):
        return "poscar"
    return None


def _read_file(file: Path) -> list[StructureEntry]:
    name = re.sub(r"\.(cif|extxyz|xyz|vasp|poscar)$", "", re.sub(r"\.gz$", "", file.name, flags=re.I), flags=re.I)
    name = re.sub(r"[^\w.+-]+", "_", name).lstrip(".") or "structure"
    entries: list[StructureEntry] = []
    try:
        for label, found in _parse(file):
            several = f"{file}#{label}" if label else str(file)
            own_name = re.sub(r"[^\w.+-]+", "_", f"{name}_{label}" if label else name)[:100]
            structure, problem = (None, found) if isinstance(found, str) else (found[0], None)
            note = "" if isinstance(found, str) else found[1]
            entries.append(StructureEntry(own_name, several, structure, problem, note))
    except (ValueError, OSError) as error:
        entries.append(StructureEntry(name, str(file), None, _one_line(error)))
    return entries


_Found = tuple["Structure", str] | str
"""A structure with what is odd about it, or why there is none."""


def _parse(file: Path) -> Iterator[tuple[str, _Found]]:
    kind = _format(file)
    if file.is_dir():
        raise ValueError("the folder holds no structure files (" + _EXPECTED + ")")
    if not file.is_file():
        raise ValueError("there is no such file")
    if kind is None:
        raise ValueError("the name tells no known format (" + _EXPECTED + ")")
    text = _read_text(file)
    if kind == "cif":
        yield from _parse_cif(text)
    elif kind == "poscar":
        yield "", _parse_poscar(text)
    else:
        yield from _parse_extended_xyz(text)


def _read_text(file: Path) -> str:
    try:
        with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError("not a gzip file, or a damaged one") from error
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from error
    if len(content) > LARGEST_FILE:
        raise ValueError(f"larger than {LARGEST_FILE / 1e6:.0f} MB")
    if not content.strip():
        raise ValueError("the file is empty")
    if b"\0" in content:
        raise ValueError(no_text(content))
    return content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def no_text(content: bytes) -> str:
    """Return what is said of a file with zero bytes in it."""
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return f"not a text file (expected UTF-8{', found UTF-16' if utf_16 else ''})"


def _parse_cif(text: str) -> Iterator[tuple[str, _Found]]:
    blocks = _cif_blocks(text)
    crystals = [(label, block) for label, block in blocks if _CRYSTAL_DATA.search(block)]
    if not crystals:
        raise ValueError("not a CIF: no data block" if not blocks else "no data block holds a crystal structure")
    for number, (label, block) in enumerate(crystals, start=1):
        yield (label or str(number)) if len(crystals) > 1 else "", _parse_block(block)


def _cif_blocks(text: str) -> list[tuple[str, str]]:
    """Return name and text of each data block; text fields between lines that begin with ";" may hold anything."""
    blocks: list[tuple[str, list[str]]] = []
    in_field = False
    for line in text.splitlines(keepends=True):
        start = None if in_field else _BLOCK.match(line.lstrip())
        if line.startswith(";"):
            in_field = not in_field
        if start is not None:
            blocks.append((start[1], []))
        if blocks:
            blocks[-1][1].append(line)
    return [(label, "".join(lines)) for label, lines in blocks]


def _parse_block(block: str) -> _Found:
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings(record=True) as caught:  # on rounded coordinates and much else
        warnings.simplefilter("always")
        try:
            structure = CifParser(io.StringIO(block)).parse_structures(primitive=False, on_error="raise")[0]
        except Exception as error:  # pymatgen raises many types for an unreadable CIF
            return f"not a readable CIF{_in_brackets(_cif_reason(error, caught))}"
    comments = " ".join(" ".join(str(comment.message).split()) for comment in caught)
    odd = [what for sign, what in _ODD.items() if sign in comments]
    return structure, "; ".join(odd)


_ODD = {
    "implicit hydrogens": "hydrogen atoms without positions are missing",
    "Incorrect stoichiometry": "the atoms do not add up to the formula in the file",
    "do not match": "the atoms do not add up to the formula in the file",
}


def _cif_reason(error: Exception, caught: list[warnings.WarningMessage]) -> str:
    comments = " ".join([str(error), *(str(comment.message) for comment in caught)])
    if "exceeded tolerance" in comments or "occupancy" in comments.lower():
        return "atoms overlap, or an occupancy is above 1"
    if "Singular matrix" in comments or "thickness=" in comments:
        return "the cell has no volume"
    missing = re.search(r"No structure parsed.*?'(_\w+)'", comments, re.DOTALL)
    if missing:
        return f"{missing[1]} is missing"
    if "Invalid CIF file with no structures" in comments:
        return "no atoms with positions and a cell"
    return _reason(error)


def _parse_poscar(text: str) -> _Found:
    from pymatgen.io.vasp import Poscar
    from pymatgen.io.vasp.inputs import BadPoscarWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", BadPoscarWarning)  # as for made-up elements where the file names none
        try:
            return Poscar.from_str(text).structure, ""
        except BadPoscarWarning as error:
            missing = "the elements are not named" if "Elements in POSCAR" in str(error) else _one_line(error)
            return f"not a readable POSCAR ({missing})"
        except Exception as error:  # many types for an unreadable POSCAR
            return f"not a readable POSCAR{_in_brackets(_reason(error))}"


def _parse_extended_xyz(text: str) -> Iterator[tuple[str, _Found]]:
    from ase.io import iread

    frames: list[Any] = []
    problem = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for atoms in iread(io.StringIO(text), index=":", format="extxyz"):
                frames.append(atoms)
        except Exception as error:  # many types for an unreadable file
            unknown = error.args[0] if isinstance(error, KeyError) and error.args else ""
            is_symbol = re.fullmatch("[A-Z][a-z]?", str(unknown))
            reason = f"{unknown!r} is not a chemical element" if is_symbol else _reason(error)
            problem = f"not a readable extended XYZ file{_in_brackets(reason)}"
    count = len(frames) + bool(problem)
    for number, atoms in enumerate(frames, start=1):
        yield str(number) if count > 1 else "", _from_atoms(atoms)
    if problem:
        yield str(count) if count > 1 else "", problem
    if not count:
        raise ValueError("no frame in the file")


def _from_atoms(atoms: Any) -> _Found:
    from pymatgen.core import Structure

    if not (atoms.pbc.all() and abs(atoms.cell.volume) > 0):
        return "not periodic in three directions (expected an extended XYZ file with a Lattice)"
    symbols = atoms.get_chemical_symbols()
    if "X" in symbols:
        return "an atom is no chemical element (X)"
    return Structure(atoms.cell.array, symbols, atoms.get_scaled_positions(wrap=False)), ""


def _reason(error: Exception) -> str:
    """Return what an exception of a reader says about the file; empty when it only says where the reader broke."""
    text = _one_line(error)
    if number := _NO_NUMBER.search(text):
        return f"{number[1]!r} is not a number"
    if loop := _UNEVEN_LOOP.search(text):
        return f"the {loop[1]} values of a loop do not fill its columns"
    about = _ABOUT_THE_FILE.search(text)
    return about[0] if about else ""


def _in_brackets(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _one_line(error: BaseException) -> str:
    return " ".join((str(error).strip() or type(error).__name__).split())[:200]
