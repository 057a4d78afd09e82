"""The report of a run: one HTML file that shows what was designed, how sure that is, and where it came from."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from agent import report_figures as figures
from agent.report_figures import MINUS, NO_VALUE, Quantity, numbers
from agent.report_front import FRONT_FILES, MOST_POINTS, Front, trade_offs

TABLE_ROWS = 200
"""Candidates in the table of the report; candidates.csv has all."""
LEAST_COVERED = 0.8
"""Share of the target below which the report warns."""
LEAST_EFFECTIVE_SHARE = 0.02
"""Effective sample size, as a share of the samples, below which the report warns."""

_UNITS = {
    "eV_per_atom": "eV/atom", "meV_per_atom": "meV/atom", "eV": "eV", "meV": "meV", "GPa": "GPa", "K": "K",
    "g_per_cm3": "g/cm³", "A3_per_atom": "Å³/atom", "A": "Å", "uV_per_K": "µV/K", "percent": "%",
}  # fmt: skip
_MONOTONE = re.compile(r"(minimize|maximize) between (\S+) and (\S+)$")


@dataclass(frozen=True)
class _Run:
    """What a run folder holds, read; `missing` names what could not be, in one line a file."""

    name: str
    candidates: pd.DataFrame
    """All columns as text, as written."""
    support: dict[str, Any]
    coverage: dict[str, Any]
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    config: str
    front: Front | None
    """None when the run left no file of a front: it has one objective, or is an old one."""
    missing: dict[str, str]


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    The file stands alone: scripts and styles are inside, nothing is loaded from anywhere. Files of the run that are
    missing or unreadable, other than candidates.csv, are named in their place in the report.

    Raises:
        ValueError: The folder or its candidates.csv is missing or not readable; the message names the path.
    """
    run = Path(run)
    text = _render(_read_run(run))
    path = run / "report.html"
    temporary = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _read_run(run: Path) -> _Run:
    if not run.is_dir():
        raise ValueError(f"{run}: no such folder (expected the folder of a run, with candidates.csv)")
    candidates = _read_candidates(run / "candidates.csv")
    missing: dict[str, str] = {}

    def text_of(name: str) -> str:
        try:
            return (run / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            missing[name] = f"{name} is missing from the run folder."
        except (OSError, UnicodeDecodeError) as error:
            missing[name] = f"{name} cannot be read ({str(error).splitlines()[0]})."
        return ""

    def object_of(name: str) -> dict[str, Any]:
        text = text_of(name)
        if name in missing:
            return {}
        try:
            described = json.loads(text)
        except ValueError as error:
            missing[name] = f"{name} is not valid JSON ({error})."
            return {}
        if not isinstance(described, dict):
            missing[name] = f"{name} holds a {type(described).__name__} (expected an object)."
            return {}
        return described

    def table_of(name: str, column: str) -> pd.DataFrame:
        try:
            return _read_table(run / name, column)
        except FileNotFoundError:
            missing[name] = f"{name} is missing from the run folder."
        except ValueError as error:
            missing[name] = f"{name} cannot be read ({error})."
        return pd.DataFrame({column: []}, dtype=str)

    metrics, n_unreadable = [], 0
    for line in text_of("metrics.jsonl").splitlines():
        try:
            described = json.loads(line)
        except ValueError:  # the last line of a run that was killed is cut short
            described = None
        if isinstance(described, dict):
            metrics.append(described)
        elif line.strip():
            n_unreadable += 1
    if n_unreadable:
        missing["metrics.jsonl"] = f"{n_unreadable} unreadable line(s) of metrics.jsonl left out."
    front = None
    if any((run / name).exists() for name in FRONT_FILES):
        front = Front(table_of("front.csv", "material"), table_of("known.csv", "formula"), object_of("front.json"))
    return _Run(
        run.resolve().name, candidates, object_of("support.json"), object_of("coverage.json"),
        object_of("environment.json"), metrics, text_of("config.yaml"), front, missing,
    )  # fmt: skip


def _read_candidates(path: Path) -> pd.DataFrame:
    expected = "expected the candidates of a run: a CSV file with a formula column"
    try:
        return _read_table(path, "formula")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file ({expected})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error} ({expected})") from None


def _read_table(path: Path, column: str) -> pd.DataFrame:
    """Return a CSV file as text, which must have a column; as text, since pandas takes the formula NaN for no value."""
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"not a readable CSV file: {str(error).splitlines()[0]}") from None
    if column not in frame.columns:
        raise ValueError(f"no column {column!r} among {', '.join(map(str, frame.columns))}")
    return frame.fillna("")


def _texts(frame: pd.DataFrame, column: str) -> list[str]:
    return [str(value) for value in frame[column]] if column in frame.columns else [""] * len(frame)


def _stated(support: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the objectives or the constraints of a run."""
    described = support.get(kind)
    return [item for item in described if isinstance(item, dict)] if isinstance(described, list) else []


def _quantities(frame: pd.DataFrame, objectives: list[dict[str, Any]]) -> list[Quantity]:
    """Return the properties among the columns: those with a spread or a utility, objectives first."""
    columns = [str(column) for column in frame.columns]
    stated = {str(item.get("property")): item for item in objectives}
    useful = [column.removeprefix("utility_") for column in columns if column.startswith("utility_")]
    found: dict[str, Quantity] = {}
    for column in columns:
        if column.startswith("utility_") or column.endswith("_std"):
            continue
        name, unit = _name_and_unit(column, {*stated, *useful})
        spread = next((std for std in (f"{column}_std", f"{name}_std") if std in columns), None)
        if name in found or (spread is None and name not in useful):
            continue
        objective = stated.get(name, {})
        text = str(objective.get("objective", ""))
        found[name] = Quantity(
            name,
            unit or str(objective.get("unit") or ""),
            numbers(frame, column),
            numbers(frame, spread),
            numbers(frame, f"utility_{name}") if name in useful else None,
            _window(text),
            next((f"{word} is better" for goal, word in _BETTER.items() if f" {goal} " in text), ""),
        )
    order = [name for name in (*stated, *useful) if name in found]
    return [found[name] for name in dict.fromkeys([*order, *found])]


_BETTER = {"minimize": "lower", "maximize": "higher"}


def _name_and_unit(column: str, names: set[str]) -> tuple[str, str]:
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


def _window(objective: str) -> tuple[float, float] | None:
    """Return the bounds in "band_gap in 1.1..1.6", or None when it is no window."""
    low, dots, high = objective.rpartition(" in ")[2].partition("..")
    try:
        bounds = float(low), float(high)
    except ValueError:
        return None
    return bounds if dots and bounds[0] < bounds[1] and any(map(math.isfinite, bounds)) else None


def _wish(objective: Mapping[str, Any]) -> str:
    """Say in words what is wanted: "between 1.1 and 1.6 eV"."""
    text, unit = str(objective.get("objective", "")), str(objective.get("unit") or "")
    window, monotone = _window(text), _MONOTONE.search(text)
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


def _novel(frame: pd.DataFrame) -> figures.BoolArray | None:
    if "novel" not in frame.columns:
        return None
    return np.array(
        [text.strip().lower() in ("true", "1", "1.0", "yes") for text in _texts(frame, "novel")], dtype=bool
    )


def _table_rows(run: _Run, quantities: list[Quantity]) -> list[dict[str, Any]]:
    frame = run.candidates.head(TABLE_ROWS)
    columns = {name: numbers(frame, name) for name in ("rank", "reward", "nearest_distance", "training_distance")}
    texts = {name: _texts(frame, name) for name in ("formula", "oxidation_states", "nearest_known", "rung")}
    novel = _novel(frame)
    return [
        {name: column[i] for name, column in (texts | columns).items()}
        | {"novel": None if novel is None else bool(novel[i])}
        | {"predictions": [quantity.at(i) for quantity in quantities]}
        for i in range(len(frame))
    ]


def _draw(run: _Run, quantities: list[Quantity], groups: list[figures.Group]) -> dict[str, figures.Figure]:
    """Return the figures by the id of their place in the page."""
    drawn: dict[str, figures.Figure] = {}
    measured = [quantity for quantity in quantities if np.isfinite(quantity.means).any()]
    frame = run.candidates
    if measured:
        x, y = [*measured, Quantity("reward", "", numbers(frame, "reward"), numbers(frame, None))][:2]
        nearest = [text and f"nearest known: {text}" for text in _texts(frame, "nearest_known")]
        hover = figures.hover_texts(_texts(frame, "formula"), measured, nearest)
        drawn["scatter"] = figures.scatter(x, y, groups, hover)
    for i, quantity in enumerate(quantities):
        if np.isfinite(quantity.means).any():
            drawn[f"histogram-{i}"] = figures.histogram(quantity, groups)
    for key in ("mean_reward", "effective_share", "covered", "beta"):
        curve = figures.training_curve(
            run.metrics, key, share=key in ("effective_share", "covered"), steps=key == "beta"
        )
        if curve is not None:
            drawn[key] = curve
    return drawn


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _number(value: object) -> str:
    number = _finite(value)
    return NO_VALUE if number is None else figures.with_spread(number)


def _percent(value: object) -> str:
    share = _finite(value)
    if share is None:
        return NO_VALUE
    return f"{share:.0%}" if share == 0 or share >= 0.0995 else f"{100 * share:.2g}%"


def _duration(seconds: object) -> str:
    number = _finite(seconds)
    if number is None:
        return NO_VALUE
    minutes, rest = divmod(round(number), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _render(run: _Run) -> str:
    from jinja2 import Environment
    from plotly.offline import get_plotlyjs

    objectives = _stated(run.support, "objectives")
    quantities = _quantities(run.candidates, objectives)
    front = None
    if run.front is not None:
        front = trade_offs(run.front, *(_quantities(f, objectives) for f in (run.front.materials, run.front.known)))
    stated_warnings = run.support.get("warnings")
    novel = _novel(run.candidates)
    groups = figures.novelty_groups(novel, len(run.candidates))
    formulas = _texts(run.candidates, "formula")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": _percent,
        "number": _number,
        "finite": _finite,
        "plain": lambda value: "" if _finite(value) is None else f"{value:.6g}",
        "label": figures.property_label,
        "duration": _duration,
        "wish": _wish,
        "with_spread": figures.with_spread,
        "formula": lambda text: Markup(figures.formula_html(text)),
        "formulas": figures.formulas_in_text,
        "charges": figures.charges,
        "words": figures.property_words,
        "hash": lambda text: base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode(),
    }
    template = resources.files("agent.data").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        run=run,
        objectives=objectives,
        constraints=_stated(run.support, "constraints"),
        stated_warnings=stated_warnings if isinstance(stated_warnings, list) else [],
        formulas=formulas,
        share_novel=None if novel is None or not len(novel) else float(novel.mean()),
        quantities=quantities,
        rows=_table_rows(run, quantities),
        rungs=sorted({rung for rung in _texts(run.candidates, "rung") if rung}),
        stability=[q.label for q in quantities if re.search("formation|hull|stability|decomposition", q.name)],
        elements=figures.element_cells(formulas),
        front=front,
        figures=_draw(run, quantities, groups) | ({} if front is None else front.figures),
        n_error_bars=figures.MOST_ERROR_BARS,
        most_points=MOST_POINTS,
        plotly_script=Markup(get_plotlyjs()),
        least_covered=LEAST_COVERED,
        least_effective_share=LEAST_EFFECTIVE_SHARE,
    )
