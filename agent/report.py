"""The report of a run: one HTML file that shows what was designed, how sure that is, and where it came from."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from agent import report_figures as figures
from agent.report_campaign import CAMPAIGN_FILES, CampaignFiles, labelling
from agent.report_crystals import CRYSTAL_ROWS, crystals_in, rung_height
from agent.report_figures import NO_VALUE, Quantity, numbers
from agent.report_front import FRONT_FILES, MOST_POINTS, Front, trade_offs
from agent.report_prior_weight import PRIOR_WEIGHTS_FILE, prior_weights
from agent.report_properties import quantities_in, stated, wish
from agent.report_space_groups import group_html, group_number, plain_material, space_groups, with_group
from agent.text_file import replace_text

TABLE_ROWS = 200
"""Candidates in the table of the report; candidates.csv has all."""
LEAST_COVERED = 0.8
"""Share of the target below which the report warns."""
LEAST_EFFECTIVE_SHARE = 0.02
"""Effective sample size, as a share of the samples, below which the report warns."""


@dataclass(frozen=True)
class _Run:
    """What a run folder holds, read; `missing` names what could not be, in one line a file."""

    folder: Path
    candidates: pd.DataFrame
    """All columns as text, as written."""
    support: dict[str, Any]
    coverage: dict[str, Any]
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    config: str
    front: Front | None
    """None when the run left no file of a front: it has one objective, or is an old one."""
    campaign: CampaignFiles | None
    """None when the run had no rounds of labelling."""
    prior_weights: pd.DataFrame | None
    """None when the run has no range of prior weights."""
    missing: dict[str, str]

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name


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
    replace_text(path, text)
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
        materials = table_of("front.csv", "material")
        materials["material"] = materials["material"].map(plain_material)
        front = Front(materials, table_of("known.csv", "formula"), object_of("front.json"))
    campaign = None
    if any((run / name).exists() for name in CAMPAIGN_FILES):
        campaign = CampaignFiles(table_of("labels.csv", "material"), object_of("campaign.json"))
    swept = table_of(PRIOR_WEIGHTS_FILE, "prior_weight") if (run / PRIOR_WEIGHTS_FILE).exists() else None
    return _Run(
        run, candidates, object_of("support.json"), object_of("coverage.json"), object_of("environment.json"),
        metrics, text_of("config.yaml"), front, campaign, swept, missing,
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


def _novel(frame: pd.DataFrame) -> figures.BoolArray | None:
    if "novel" not in frame.columns:
        return None
    return np.array(
        [text.strip().lower() in ("true", "1", "1.0", "yes") for text in _texts(frame, "novel")], dtype=bool
    )


def _table_rows(run: _Run, quantities: list[Quantity]) -> list[dict[str, Any]]:
    frame = run.candidates.head(TABLE_ROWS)
    of_interest = ("rank", "reward", "nearest_distance", "training_distance", "n_atoms")
    columns = {name: numbers(frame, name) for name in of_interest}
    texts = {name: _texts(frame, name) for name in ("formula", "oxidation_states", "nearest_known", "rung")}
    novel, groups = _novel(frame), space_groups(frame)
    return [
        {name: column[i] for name, column in (texts | columns).items()}
        | {"novel": None if novel is None else bool(novel[i])}
        | {"space_group": groups[i], "space_group_number": group_number(groups[i])}
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
        hover = [with_group(text, group) for text, group in zip(hover, space_groups(frame), strict=True)]
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


def _read_template(name: str) -> str:
    return resources.files("agent.data").joinpath(name).read_text(encoding="utf-8")


def _render(run: _Run) -> str:
    from jinja2 import Environment, FunctionLoader
    from plotly.offline import get_plotlyjs

    objectives = stated(run.support, "objectives")
    quantities = quantities_in(run.candidates, objectives)
    front = None
    if run.front is not None:
        front = trade_offs(run.front, *(quantities_in(f, objectives) for f in (run.front.materials, run.front.known)))
    campaign = None if run.campaign is None else labelling(run.campaign, run.config)
    weights = None if run.prior_weights is None else prior_weights(run.prior_weights)
    crystals = crystals_in(run.candidates, quantities, run.folder)
    stated_warnings = run.support.get("warnings")
    novel = _novel(run.candidates)
    groups = figures.novelty_groups(novel, len(run.candidates))
    formulas = _texts(run.candidates, "formula")
    environment = Environment(
        loader=FunctionLoader(_read_template), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": _percent,
        "number": _number,
        "finite": _finite,
        "plain": lambda value: "" if _finite(value) is None else f"{value:.6g}",
        "label": figures.property_label,
        "duration": _duration,
        "wish": wish,
        "with_spread": figures.with_spread,
        "formula": lambda text: Markup(figures.formula_html(text)),
        "formulas": figures.formulas_in_text,
        "charges": figures.charges,
        "space_group": group_html,
        "words": figures.property_words,
        "hash": lambda text: base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode(),
    }
    return environment.get_template("report.html.jinja").render(
        run=run,
        objectives=objectives,
        constraints=stated(run.support, "constraints"),
        stated_warnings=stated_warnings if isinstance(stated_warnings, list) else [],
        formulas=formulas,
        share_novel=None if novel is None or not len(novel) else float(novel.mean()),
        quantities=quantities,
        rows=_table_rows(run, quantities),
        rungs=sorted(
            {rung for rung in _texts(run.candidates, "rung") if rung}, key=lambda rung: (rung_height(rung), rung)
        ),
        stability=[q.label for q in quantities if re.search("formation|hull|stability|decomposition", q.name)],
        elements=figures.element_cells(formulas),
        front=front,
        campaign=campaign,
        weights=weights,
        crystals=crystals,
        crystal_rows=CRYSTAL_ROWS,
        figures=_draw(run, quantities, groups)
        | ({} if front is None else front.figures)
        | ({} if campaign is None else campaign.figures)
        | ({} if weights is None else weights.figures)
        | ({} if crystals is None else crystals.figures),
        n_error_bars=figures.MOST_ERROR_BARS,
        most_points=MOST_POINTS,
        plotly_script=Markup(get_plotlyjs()),
        least_covered=LEAST_COVERED,
        least_effective_share=LEAST_EFFECTIVE_SHARE,
    )
