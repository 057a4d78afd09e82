"""Space groups in the report: read from candidates.csv, written for people, compared and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from html import escape

import pandas as pd
from markupsafe import Markup

MOST_GROUPS = 12
"""Space groups with a bar of their own."""

_SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic")
_GROUP = re.compile(r"\S+ \((\d{1,3})\)")
_SYMBOL_PART = re.compile(r"-(\d)|_(\d)")


def space_groups(candidates: pd.DataFrame) -> list[str]:
    """Return the space group of each candidate, "R-3m (166)", from its text where there is no such column."""
    from envs.wyckoff import space_group

    if "space_group" in candidates.columns or "crystal" not in candidates.columns:
        return column_texts(candidates, "space_group")
    texts = []
    for crystal in column_texts(candidates, "crystal"):
        number = [*(part.strip() for part in crystal.split("|")), ""][1]
        known = re.fullmatch(r"\d{1,3}", number) and 1 <= int(number) <= 230
        texts.append(f"{space_group(int(number)).symbol} ({int(number)})" if known else "")
    return texts


def group_number(group: str) -> int | None:
    """Return 166 for "R-3m (166)", None for anything else."""
    found = _GROUP.fullmatch(group)
    return int(found[1]) if found and 1 <= int(found[1]) <= 230 else None


def group_html(group: str) -> Markup:
    """Write a space group with its bars and screw axes; as text it stays "P4_2/mnm", "R-3m"."""

    def part(found: re.Match[str]) -> str:
        if found[1]:
            return f'<span class="hidden">-</span><span class="bar">{found[1]}</span>'
        return f'<span class="hidden">_</span><sub>{found[2]}</sub>'

    return Markup(_SYMBOL_PART.sub(part, escape(group)))


def with_group(text: str, group: str) -> str:
    """Put a space group behind the formula, in bold, of an escaped hover text."""
    symbol = re.sub(r"_(\d)", r"<sub>\1</sub>", escape(group, quote=False))
    return text.replace("</b>", f"</b> {symbol}".rstrip(), 1)


def plain_material(material: str) -> str:
    """Return "KSbSe2 (space group 166)" for the text of a crystal, and any other text as it is."""
    parts = [part.strip() for part in material.split(" | ")]
    return f"{parts[0]} (space group {parts[1]})" if len(parts) > 2 else material


@lru_cache(maxsize=1)
def _numbers_of_symbols() -> dict[str, int]:
    from envs.wyckoff import all_space_groups

    return {group.symbol: group.number for group in all_space_groups()}


def compare_groups(built: int | None, relaxed: str) -> str:
    """Return what became of a space group in a relaxation.

    A relaxation keeps every symmetry, up to rounding, so another group is a supergroup where rounding did no harm.

    Returns:
        "kept", or by the operations of the point group "raised", "lowered", "changed" (as many); empty when a group is
        not known.
    """
    from envs.wyckoff import space_group

    number = _numbers_of_symbols().get(relaxed)
    if built is None or number is None:
        return ""
    if built == number:
        return "kept"
    before, after = (space_group(n).point_group_order for n in (built, number))
    return "raised" if after > before else "lowered" if after < before else "changed"


def crystal_systems(numbers: Sequence[int | None]) -> list[tuple[str, int]]:
    """Return the crystal systems that occur, from low to high symmetry, with their counts."""
    from envs.wyckoff import space_group

    counts = Counter(space_group(number).crystal_system for number in numbers if number)
    return [(system, counts[system]) for system in _SYSTEMS if counts[system]]


def frequent_groups(groups: Sequence[str], numbers: Sequence[int | None]) -> list[tuple[str, int]]:
    """Return the most frequent groups and, when there are more, the rest together."""
    counts = Counter(group for group, number in zip(groups, numbers, strict=True) if number)
    frequent = counts.most_common(MOST_GROUPS if len(counts) > MOST_GROUPS + 1 else None)
    n_others, rest = len(counts) - len(frequent), counts.total() - sum(n for _, n in frequent)
    return [*frequent, *([(f"{n_others} others", rest)] if rest else [])]


def column_texts(frame: pd.DataFrame, column: str) -> list[str]:
    """Return a column as text, empty when there is no such column."""
    return [str(value).strip() for value in frame[column]] if column in frame.columns else [""] * len(frame)
