"""What the columns and the objectives of a run's files say: properties with their units, targets in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from agent.report_figures import MINUS, Quantity, numbers

_UNITS = {
    "eV_per_atom": "eV/atom", "meV_per_atom": "meV/atom", "eV": "eV", "meV": "meV", "GPa": "GPa", "K": "K",
    "g_per_cm3": "g/cm³", "A3_per_atom": "Å³/atom", "A": "Å", "uV_per_K": "µV/K", "percent": "%",
}  # fmt: skip
_BETTER = {"minimize": "lower", "maximize": "higher"}
_MONOTONE = re.compile(r"(minimize|maximize) between (\S+) and (\S+)$")


def stated(support: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the objectives or the constraints of a run."""
    described = support.get(kind)
    return [item for item in described if isinstance(item, dict)] if isinstance(described, list) else []


def quantities_in(frame: pd.DataFrame, objectives: list[dict[str, Any]]) -> list[Quantity]:
    """Return the properties among the columns: those with a spread or a utility, objectives first."""
    columns = [str(column) for column in frame.columns]
    described = {str(item.get("property")): item for item in objectives}
    useful = [column.removeprefix("utility_") for column in columns if column.startswith("utility_")]
    found: dict[str, Quantity] = {}
    for column in columns:
        if column.startswith("utility_") or column.endswith("_std"):
            continue
        name, unit = name_and_unit(column, {*described, *useful})
        spread = next((std for std in (f"{column}_std", f"{name}_std") if std in columns), None)
        if name in found or (spread is None and name not in useful):
            continue
        objective = described.get(name, {})
        text = str(objective.get("objective", ""))
        found[name] = Quantity(
            name,
            unit or str(objective.get("unit") or ""),
            numbers(frame, column),
            numbers(frame, spread),
            numbers(frame, f"utility_{name}") if name in useful else None,
            target_window(text),
            next((f"{word} is better" for goal, word in _BETTER.items() if f" {goal} " in text), ""),
        )
    order = [name for name in (*described, *useful) if name in found]
    return [found[name] for name in dict.fromkeys([*order, *found])]


def name_and_unit(column: str, names: set[str]) -> tuple[str, str]:
    """Split band_gap_eV into the property and its printed unit; known property names take precedence."""
    if column in names:
        return column, ""
    for suffix, unit in _UNITS.items():
        if column.endswith(f"_{suffix}"):
            return column.removesuffix(f"_{suffix}"), unit
    for name in sorted(names, key=len, reverse=True):
        if column.startswith(f"{name}_"):
            return name, column.removeprefix(f"{name}_").replace("_per_", "/").replace("_", " ")
    return column, ""


def target_window(objective: str) -> tuple[float, float] | None:
    """Return the bounds in "band_gap in 1.1..1.6", or None when it is no window."""
    low, dots, high = objective.rpartition(" in ")[2].partition("..")
    try:
        bounds = float(low), float(high)
    except ValueError:
        return None
    return bounds if dots and bounds[0] < bounds[1] and any(map(math.isfinite, bounds)) else None


def wish(objective: Mapping[str, Any]) -> str:
    """Say in words what is wanted: "between 1.1 and 1.6 eV"."""
    text, unit = str(objective.get("objective", "")), str(objective.get("unit") or "")
    window, monotone = target_window(text), _MONOTONE.search(text)
    if window is not None:
        low, high = window
        if math.isinf(low):
            words = f"at most {high:g}"
        elif math.isinf(high):
            words = f"at least {low:g}"
        else:
            words = f"between {low:g} and {high:g}"
        return f"{words} {unit}".replace("-", MINUS).rstrip()
    if monotone is not None:
        goal, low_text, high_text = monotone.groups()
        best, worst = (low_text, high_text) if goal == "minimize" else (high_text, low_text)
        size = "low" if goal == "minimize" else "high"
        return f"as {size} as possible (fully met at {best}{f' {unit}' if unit else ''}, worthless at {worst})"
    return text.removeprefix(str(objective.get("property", ""))).strip() or text
