"""The part of the report on crystals: space groups, what relaxation made of the best, and pictures of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from agent import report_figures as figures
from agent.report_crystal_figures import bars, picture, predicted_and_relaxed
from agent.report_crystal_structures import find_structures
from agent.report_figures import BoolArray, Figure, Quantity
from agent.report_space_groups import (
    column_texts,
    compare_groups,
    crystal_systems,
    frequent_groups,
    group_number,
    space_groups,
    with_group,
)
from surrogates.funnel_records import RUNGS

CRYSTAL_ROWS = 100
"""Crystals in the table of those that were relaxed; candidates.csv has all."""
MOST_PICTURES = 6
"""Relaxed structures that are drawn: a browser keeps only some three-dimensional figures alive."""
MOST_REASONS = 5
"""Reasons of failures that are named, the most frequent first."""
NEAR_HULL = (0.1, 0.05)
"""Distances to the hull that are counted, eV/atom."""

_ABOVE = re.compile(r"\S+ eV/atom above the hull, more than (\S+)")
_LONGEST_REASON = 120


@dataclass(frozen=True)
class CrystalRow:
    """One crystal whose relaxation was tried; NaN and empty texts where candidates.csv does not tell."""

    rank: float
    formula: str
    built: str
    """Space group as built, "R-3m (166)"."""
    relaxed: str
    """Symbol of the space group after relaxation, "R-3m"."""
    symmetry: str
    """"kept", "raised", "lowered", "changed" or nothing."""
    predicted: float
    """Distance to the hull, eV/atom, as are spread, e_above_hull and formation_energy."""
    spread: float
    e_above_hull: float
    formation_energy: float
    novel_formula: bool | None
    novel_structure: bool | None
    same_as: str
    """The candidate whose structure it has, "rank 3"."""
    rung: str
    bulk_modulus: float
    """GPa."""
    shear_modulus: float
    """GPa."""
    lowest_frequency: float
    """THz; negative for an imaginary mode."""
    reason: str
    is_relaxed: bool
    """Whether its relaxation ended well."""

    @property
    def height(self) -> int:
        """How high the rung is."""
        return rung_height(self.rung)


@dataclass(frozen=True)
class CrystalPicture:
    """The place of a picture."""

    id: str
    row: CrystalRow
    description: str
    """For those who do not see it; empty when there is no picture."""
    missing: str
    """Why there is no picture."""


@dataclass(frozen=True)
class Crystals:
    """What the report shows of candidates that are crystals."""

    n_candidates: int
    n_formulas: int
    n_groups: int
    """Distinct space groups as built."""
    systems: list[tuple[str, int]]
    """Crystal systems that occur, from low to high symmetry, with the number of candidates."""
    n_tried: int
    """Candidates whose relaxation was tried."""
    n_relaxed: int
    n_near: list[tuple[float, int]]
    """Relaxed ones within each distance of `NEAR_HULL`."""
    n_below: int
    """Relaxed ones below the hull."""
    symmetry: dict[str, int]
    """Relaxed ones by what became of their space group."""
    failures: list[tuple[str, int]]
    """Why relaxations failed, the most frequent reasons first."""
    stops: list[tuple[str, int]]
    """Why relaxed ones climbed no further."""
    rows: list[CrystalRow]
    """All that were tried, by distance to the hull, those without one last."""
    pictures: list[CrystalPicture]
    figures: dict[str, Figure]

    @property
    def n_same(self) -> int:
        """Relaxed ones whose structure another candidate has."""
        return sum(bool(row.same_as) for row in self.rows if row.is_relaxed)

    @property
    def n_failed(self) -> int:
        """Relaxations that did not end well."""
        return self.n_tried - self.n_relaxed

    @property
    def has_elastic(self) -> bool:
        """Whether any crystal has elastic moduli."""
        return any(np.isfinite([row.bulk_modulus, row.shear_modulus]).any() for row in self.rows)

    @property
    def has_phonons(self) -> bool:
        """Whether any crystal has vibrations."""
        return any(np.isfinite(row.lowest_frequency) for row in self.rows)


def crystals_in(candidates: pd.DataFrame, quantities: Sequence[Quantity], run: Path) -> Crystals | None:
    """Return what to show of crystals, or None when the candidates are none.

    Args:
        candidates: candidates.csv, all columns as text, as written by `agent.crystal_candidates`.
        quantities: Predicted properties of the candidates; `e_above_hull` is compared with that after relaxation.
        run: The folder with candidates.extxyz and cifs.
    """
    if "crystal" not in candidates.columns:
        return None
    groups = space_groups(candidates)
    numbers = [group_number(group) for group in groups]
    rows = _rows(candidates, quantities, groups, numbers)
    relaxed = [row for row in rows if row.is_relaxed]
    distances = np.array([row.e_above_hull for row in relaxed], dtype=np.float64)
    systems = crystal_systems(numbers)
    drawn = {}
    if systems:
        drawn["crystal-systems"] = bars(systems)
        drawn["crystal-groups"] = bars(frequent_groups(groups, numbers)[::-1], horizontal=True)
    compared = predicted_and_relaxed(
        [with_group(f"<b>{figures.formula_html(row.formula)}</b>", row.built) for row in relaxed],
        np.array([row.predicted for row in relaxed], dtype=np.float64),
        np.array([row.spread for row in relaxed], dtype=np.float64),
        distances,
        [bool(row.novel_formula) for row in relaxed],
    )
    if compared is not None:
        drawn["crystal-parity"] = compared
    pictures, drawings = _pictures([row for row in relaxed if np.isfinite(row.e_above_hull)] or relaxed, run)
    return Crystals(
        n_candidates=len(candidates),
        n_formulas=len(set(column_texts(candidates, "formula"))),
        n_groups=len({number for number in numbers if number}),
        systems=systems,
        n_tried=len(rows),
        n_relaxed=len(relaxed),
        n_near=[(limit, int((distances <= limit).sum())) for limit in NEAR_HULL],
        n_below=int((distances < 0).sum()),
        symmetry=Counter(row.symmetry for row in relaxed if row.symmetry),
        failures=_counted([row.reason for row in rows if not row.is_relaxed]),
        stops=_counted([row.reason for row in relaxed if row.reason]),
        rows=rows,
        pictures=pictures,
        figures=drawn | drawings,
    )


def rung_height(rung: str) -> int:
    """Return the place of a rung of validation, from 1; 0 for any other text."""
    return 1 + RUNGS.index(rung) if rung in RUNGS else 0


# What was relaxed


def _rows(
    frame: pd.DataFrame, quantities: Sequence[Quantity], groups: Sequence[str], numbers: Sequence[int | None]
) -> list[CrystalRow]:
    """Return the crystals whose relaxation was tried, by distance to the hull, then rank."""
    nothing = np.full(len(frame), np.nan)
    predicted = next((q for q in quantities if q.name == "e_above_hull"), Quantity("", "", nothing, nothing))
    texts = {
        name: column_texts(frame, name) for name in ("formula", "relaxed_space_group", "converged", "rung", "reason")
    }
    names = (
        "rank", "relaxed_energy_eV_per_atom", "relaxed_e_above_hull_eV_per_atom",
        "relaxed_formation_energy_eV_per_atom", "bulk_modulus_GPa", "shear_modulus_GPa", "lowest_frequency_THz",
    )  # fmt: skip
    rank, energy, hull, formation, bulk, shear, frequency = (figures.numbers(frame, name) for name in names)
    novel, novel_structure = (_flags(frame, name) for name in ("novel", "novel_structure"))
    same = [re.sub(r"^0*(\d+)_.*", r"rank \1", text) for text in column_texts(frame, "duplicate_of")]
    done: BoolArray = np.isfinite(energy) | np.isfinite(hull)
    tried = [i for i in range(len(frame)) if done[i] or texts["converged"][i] or texts["reason"][i]]
    return [
        CrystalRow(
            rank=float(rank[i]),
            formula=texts["formula"][i],
            built=groups[i],
            relaxed=texts["relaxed_space_group"][i],
            symmetry=compare_groups(numbers[i], texts["relaxed_space_group"][i]),
            predicted=predicted.means[i],
            spread=predicted.spread[i],
            e_above_hull=hull[i],
            formation_energy=formation[i],
            novel_formula=novel[i],
            novel_structure=novel_structure[i],
            same_as=same[i],
            rung=texts["rung"][i],
            bulk_modulus=bulk[i],
            shear_modulus=shear[i],
            lowest_frequency=frequency[i],
            reason=texts["reason"][i],
            is_relaxed=bool(done[i]),
        )
        for i in sorted(tried, key=lambda i: (_last(float(hull[i])), _last(float(rank[i]))))
    ]


def _last(value: float) -> float:
    return value if np.isfinite(value) else np.inf


def _counted(reasons: Sequence[str]) -> list[tuple[str, int]]:
    """Return kinds of reasons with their counts, numbers that differ from crystal to crystal left out."""
    counts = Counter(_kind(reason) for reason in reasons)
    frequent = counts.most_common(MOST_REASONS)
    rest = counts.total() - sum(n for _, n in frequent)
    return [*frequent, *([("other reasons", rest)] if rest else [])]


def _kind(reason: str) -> str:
    above = _ABOVE.fullmatch(reason)
    if above is not None:
        return f"more than {above[1]} eV/atom above the hull"
    short = re.sub(r"\d+\.\d+", "\N{HORIZONTAL ELLIPSIS}", re.split(r": | \(|(?<=time-out) after ", reason)[0])
    return short[:_LONGEST_REASON].strip() or "no reason given"


def _pictures(rows: Sequence[CrystalRow], run: Path) -> tuple[list[CrystalPicture], dict[str, Figure]]:
    """Return the places of the first `MOST_PICTURES`, and the figures that could be drawn."""
    shown = rows[:MOST_PICTURES]
    names = [f"{int(_known(row.rank)):04d}_{row.formula}" for row in shown]
    pictures, drawn = [], {}
    for i, (row, found) in enumerate(zip(shown, find_structures(run, names), strict=True)):
        id = f"crystal-{i}"
        if isinstance(found, str):
            pictures.append(CrystalPicture(id, row, "", found))
        else:
            drawn[id] = picture(found)
            pictures.append(CrystalPicture(id, row, found.description, ""))
    return pictures, drawn


def _known(rank: float) -> float:
    return rank if np.isfinite(rank) and abs(rank) < 1e9 else 0


def _flags(frame: pd.DataFrame, column: str) -> list[bool | None]:
    values = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    return [values.get(text.lower()) for text in column_texts(frame, column)]
