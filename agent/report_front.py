"""The part of the report on trade-offs: the Pareto front over pairs of objectives, as figures, rows and a command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from agent import report_figures as figures
from agent.report_figures import Figure, FloatArray, Quantity

FRONT_FILES = ("front.csv", "front.json", "known.csv")
"""What a run with several objectives leaves; see `agent.front` and `agent.candidates.predict_known`."""
FRONT_ROWS = 50
"""Materials in the table of the front; front.csv has all."""
MOST_SMALL_PAIRS = 6
"""Pairs of objectives that get a small figure, after the first pair, which gets the large one."""
MOST_POINTS, MOST_SMALL_POINTS = 2000, 500
"""Materials of the front, and known ones, in the large figure and in each small one; more are thinned evenly."""

_SCALE = [[0, "rgb(247, 196, 108)"], [0.5, "rgb(72, 168, 140)"], [1, "rgb(16, 88, 116)"]]
"""Monotone in lightness, so that it reads in grey as well."""
_CENTRAL = (0.05, 0.95)
"""Quantiles of the known materials that the axes show at least; far outliers would squeeze the front."""

_Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Front:
    """What a run folder holds of the front, as read; empty where a file is missing or not readable."""

    materials: pd.DataFrame
    """front.csv, all columns as text, as written by `agent.front.pareto_front`."""
    known: pd.DataFrame
    """known.csv, all columns as text, as written by `agent.candidates.predict_known`."""
    measures: dict[str, Any]
    """front.json: `agent.front.FrontMeasures`."""


@dataclass(frozen=True)
class Pair:
    """Two objectives over which the front is drawn."""

    id: str
    """Of the place in the page."""
    x: Quantity
    y: Quantity
    coloured: bool
    """Whether the points have the colour of the weight of x; else the file holds no weights."""


@dataclass(frozen=True)
class TradeOffs:
    """What the report shows of a front."""

    objectives: list[Quantity]
    """Of the N materials on the front, in the order of the run."""
    pairs: list[Pair]
    """Those drawn, the one of the large figure first; none when fewer than two objectives have values."""
    n_pairs: int
    """Pairs that there are."""
    figures: dict[str, Figure]
    """By the id of their pair."""
    rows: list[dict[str, Any]]
    """The first `FRONT_ROWS` materials: formula, predictions (value, spread, utility), preference."""
    n_materials: int
    n_known: int
    measures: dict[str, Any]
    hits: tuple[float, float] | None
    """Smallest and largest share of hits under one preference."""
    n_preferences: int
    """0 when front.json does not tell."""
    command: str
    """Asks the run for a trade-off between its first two objectives; empty with fewer."""


def trade_offs(front: Front, on_front: Sequence[Quantity], of_known: Sequence[Quantity]) -> TradeOffs:
    """Return what to show of a front.

    Args:
        front: The files.
        on_front: Properties of `front.materials`, objectives first; those without a utility are left out.
        of_known: Properties of `front.known`, in any order.
    """
    objectives = [quantity for quantity in on_front if quantity.utility is not None]
    names = [quantity.name for quantity in objectives]
    formulas = [str(formula) for formula in front.materials["material"]]
    preferences = _preferences(front.materials, names)
    possible = [(x, y) for x, y in combinations(objectives, 2) if len(_drawable(x, y, 1))]
    pairs, drawn = [], {}
    for i, (x, y) in enumerate(possible[: 1 + MOST_SMALL_PAIRS]):
        rows = _drawable(x, y, MOST_SMALL_POINTS if i else MOST_POINTS)
        weights = figures.numbers(front.materials, f"preference_{x.name}")
        pair = Pair(f"front-{i}", x, y, bool(np.isfinite(weights).any()))
        shown = [_take(quantity, rows) for quantity in ((x, y) if i else objectives)]
        hover = figures.hover_texts(
            [formulas[row] for row in rows],
            shown,
            [preferences[row] and f"sampled under {preferences[row]}" for row in rows],
        )
        at = replace(pair, x=_take(x, rows), y=_take(y, rows))
        behind = _known_points(pair, front.known, of_known, MOST_SMALL_POINTS if i else MOST_POINTS)
        drawn[pair.id] = _scatter(at, weights[rows], hover, behind, small=i > 0)
        pairs.append(pair)
    stated = front.measures.get("hits")
    hits = [float(share) for share in stated if figures.is_number(share)] if isinstance(stated, list) else []
    return TradeOffs(
        objectives=objectives,
        pairs=pairs,
        n_pairs=len(possible),
        figures=drawn,
        rows=[
            {
                "formula": formulas[i],
                "predictions": [quantity.at(i) for quantity in objectives],
                "preference": preferences[i],
            }
            for i in range(min(len(formulas), FRONT_ROWS))
        ],
        n_materials=len(formulas),
        n_known=len(front.known),
        measures=front.measures,
        hits=(min(hits), max(hits)) if hits else None,
        n_preferences=len(hits),
        command=_command(names[0], names[1]) if len(names) > 1 else "",
    )


def _preferences(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return each row's weights above 0 in words, "band gap 0.67, plausibility 0.33", or nothing."""
    weights = {figures.property_words(name): figures.numbers(frame, f"preference_{name}") for name in names}
    return [
        ", ".join(f"{words} {column[i]:.2g}" for words, column in weights.items() if column[i] > 0)
        for i in range(len(frame))
    ]


def _command(first: str, second: str) -> str:
    return f"matsmith sample RUN --preference {shlex.quote(f'{first}=0.7,{second}=0.3')}"


def _drawable(x: Quantity, y: Quantity, most: int) -> _Rows:
    """Return the numbers of the rows that have both properties, at most `most`, evenly spaced."""
    both = np.flatnonzero(np.isfinite(x.means) & np.isfinite(y.means))
    return both[np.unique(np.linspace(0, len(both) - 1, min(len(both), most)).round().astype(np.intp))]


def _take(quantity: Quantity, rows: _Rows) -> Quantity:
    return replace(quantity, means=quantity.means[rows], spread=quantity.spread[rows])


@dataclass(frozen=True)
class _KnownPoints:
    """Known materials behind a front."""

    formulas: list[str]
    x: Quantity
    y: Quantity


def _known_points(pair: Pair, known: pd.DataFrame, of_known: Sequence[Quantity], most: int) -> _KnownPoints | None:
    """Return known materials that have both properties of a pair, None without any."""
    by_name = {quantity.name: quantity for quantity in of_known}
    if pair.x.name not in by_name or pair.y.name not in by_name:
        return None
    x, y = by_name[pair.x.name], by_name[pair.y.name]
    rows = _drawable(x, y, most)
    formulas = [str(formula) for formula in known["formula"].iloc[rows]]
    return _KnownPoints(formulas, _take(x, rows), _take(y, rows)) if formulas else None


def _scatter(
    pair: Pair, weights: FloatArray, hover: Sequence[str], known: _KnownPoints | None, *, small: bool
) -> Figure:
    """Return a front over two objectives: coloured by the weight of x, known materials behind, targets shaded.

    Args:
        pair: The objectives, with the values of the N points.
        weights: Of x in the preference that each point was sampled under, float (N,).
        hover: N escaped texts.
        known: The points behind.
        small: Whether the figure stands in the grid: lower, without a colour bar, known materials without texts.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    if known is not None:
        notes = ["known material"] * len(known.formulas)
        texts = {} if small else {"hovertext": figures.hover_texts(known.formulas, [known.x, known.y], notes)}
        figure.add_scatter(
            x=known.x.means,
            y=known.y.means,
            mode="markers",
            name="known materials",
            marker={"color": "rgba(128, 128, 128, 0.38)", "size": 3 if small else 4},
            hoverinfo="skip" if small else "text",
            **texts,
        )
    figure.add_scatter(
        x=pair.x.means,
        y=pair.y.means,
        mode="markers",
        name="front",
        marker=_marker(pair, weights, small),
        hovertext=list(hover),
        hoverinfo="text",
    )
    extents = [_extent(pair.x, known.x if known else None), _extent(pair.y, known.y if known else None)]
    figures.shade(figure, pair.x, "x", extents[0])
    figures.shade(figure, pair.y, "y", extents[1])
    axes = [
        (figures.plain_axis(quantity.title) if small else figures.axis_of(quantity)) | {"range": extent}
        for quantity, extent in zip((pair.x, pair.y), extents, strict=True)
    ]
    figure.update_layout(figures.layout(280 if small else 470), xaxis=axes[0], yaxis=axes[1], showlegend=False)
    return figures.json_ready(figure)


def _marker(pair: Pair, weights: FloatArray, small: bool) -> Mapping[str, Any]:
    outline = {"color": "rgb(128, 128, 128)", "width": 1}  # keeps both ends of the scale visible on white and on black
    marker: dict[str, Any] = {"size": 6 if small else 9, "line": outline}
    if not pair.coloured:
        return marker | {"color": f"rgb({figures.TEAL})"}
    title = figures.plain_axis(f"weight of {figures.property_words(pair.x.name)}")["title"]["text"]
    bar = {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0, "tickformat": ".1f"}
    return marker | {
        "color": weights, "colorscale": _SCALE, "cmin": 0, "cmax": 1, "showscale": not small,
        "colorbar": bar,
    }  # fmt: skip


def _extent(quantity: Quantity, known: Quantity | None) -> list[float]:
    """Return the ends of an axis that shows the whole front, the bounds of the target, and most known materials."""
    central = [] if known is None else list(np.quantile(known.means, _CENTRAL))
    return figures.axis_extent([*quantity.means, *central], quantity.window)
