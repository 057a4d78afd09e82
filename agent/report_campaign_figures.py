"""Figures of the report on labels: what was reached over the oracle calls, and predictions against labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from agent import report_figures as figures
from agent.report_figures import Figure, FloatArray, Quantity
from agent.report_front import MOST_POINTS

_SYMBOLS = {"ehvi": "circle", "greedy": "square", "random": "diamond"}
_SCALE = [[0, "rgb(247, 196, 108)"], [0.5, "rgb(72, 168, 140)"], [1, "rgb(16, 88, 116)"]]
"""Monotone in lightness, so that it reads in grey as well."""


def curve(calls: Sequence[float], values: Sequence[float | None], rounds: Sequence[int]) -> Figure:
    """Return what was reached in each round over the oracle calls so far; rounds without a value are left out."""
    import plotly.graph_objects as go

    points = [(x, y, number) for x, y, number in zip(calls, values, rounds, strict=True) if y is not None]
    figure = go.Figure()
    figure.add_scatter(
        x=[x for x, _, _ in points],
        y=[y for _, y, _ in points],
        mode="lines+markers",
        line={"color": f"rgb({figures.TEAL})", "width": 2},
        marker={"size": 7},
        cliponaxis=False,
        hovertext=[f"round {number}, {x:,.0f} calls: {figures.with_spread(y)}" for x, y, number in points],
        hoverinfo="text",
    )
    axes = [figures.plain_axis(title) | {"rangemode": "tozero"} for title in ("oracle calls", "")]
    figure.update_layout(figures.layout(230), xaxis=axes[0], yaxis=axes[1], showlegend=False)
    return figures.json_ready(figure)


def parity(
    value: Quantity, predicted: Quantity, materials: Sequence[str], rounds: FloatArray, picked_by: Sequence[str]
) -> Figure | None:
    """Return predictions over labels, at most `MOST_POINTS`, coloured by round; None when no material has both.

    Args:
        value: Labels of N materials; its window is shaded.
        predicted: What was predicted of them before.
        materials: N formulas.
        rounds: In which each was labelled, float (N,).
        picked_by: How each was picked.
    """
    import plotly.graph_objects as go

    rows = np.flatnonzero(np.isfinite(value.means) & np.isfinite(predicted.means))
    if not len(rows):
        return None
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_POINTS)).round().astype(np.intp))]
    x, y = (
        replace(quantity, name=name, means=quantity.means[rows], spread=quantity.spread[rows])
        for name, quantity in (("labelled", value), ("predicted", predicted))
    )
    picked = [picked_by[i] for i in rows]
    notes = [f"round {rounds[i]:.0f}, picked by {picked_by[i]}" for i in rows]
    extent = figures.axis_extent([*x.means, *y.means])
    figure = go.Figure()
    grey = {"color": "rgba(128, 128, 128, 0.8)", "width": 1, "dash": "dash"}
    figure.add_scatter(x=extent, y=extent, mode="lines", line=grey, name="equal", hoverinfo="skip")
    figure.add_scatter(
        x=x.means,
        y=y.means,
        error_y={"array": y.spread, "color": "rgba(128, 128, 128, 0.45)", "thickness": 1, "width": 0},
        mode="markers",
        name="labels",
        marker=_marker(rounds[rows], picked),
        hovertext=figures.hover_texts([materials[i] for i in rows], [x, y], notes),
        hoverinfo="text",
    )
    figures.shade(figure, x, "x", extent)
    titles = [f"{word} ({value.unit})" if value.unit else word for word in ("labelled", "predicted before labelling")]
    axes = [figures.plain_axis(title) | {"range": extent} for title in titles]
    figure.update_layout(figures.layout(470), xaxis=axes[0], yaxis=axes[1], showlegend=False)
    return figures.json_ready(figure)


def _marker(rounds: FloatArray, picked: Sequence[str]) -> dict[str, Any]:
    marker: dict[str, Any] = {
        "size": 9,
        "symbol": [_SYMBOLS.get(text, "cross") for text in picked],
        "line": {"color": "rgb(128, 128, 128)", "width": 1},
    }
    numbers = np.unique(rounds[np.isfinite(rounds)]).tolist()
    if len(numbers) < 2:
        return marker | {"color": f"rgb({figures.TEAL})"}
    ticks = numbers[:: 1 + (len(numbers) - 1) // 10]
    bar = {"title": {"text": "round", "side": "right"}, "thickness": 12, "outlinewidth": 0, "tickvals": ticks}
    return marker | {
        "color": rounds, "colorscale": _SCALE, "cmin": numbers[0], "cmax": numbers[-1],
        "showscale": True, "colorbar": bar,
    }  # fmt: skip
