"""The part of the report on prior weights: hits against closeness to known chemistry, as a figure and rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from agent import report_figures as figures
from agent.report_figures import Figure, FloatArray

PRIOR_WEIGHTS_FILE = "prior_weights.csv"
"""What a run with a range of prior weights leaves; see `agent.prior_weights`."""
FIGURE = "prior-weights"
"""Id of the figure's place in the page."""

_COLUMNS = (
    "prior_weight", "hits", "mean_reward", "element_distance", "nearest_distance", "known", "distinct",
    "effective_sample_size",
)  # fmt: skip
_SHARES = ("hits", "known", "distinct")


@dataclass(frozen=True)
class PriorWeights:
    """What the report shows of a sweep over prior weights."""

    rows: list[dict[str, float]]
    """The columns of the file, one row a weight; NaN where there is no number."""
    has_hits: bool
    """Whether hits were counted; else the figure shows the mean reward."""
    figures: dict[str, Figure]
    """By id; none when nothing can be drawn."""


def prior_weights(table: pd.DataFrame) -> PriorWeights:
    """Return what to show of prior_weights.csv, all columns as text or numbers."""
    columns = {name: figures.numbers(table, name) for name in _COLUMNS}
    has_hits = bool(np.isfinite(columns["hits"]).any())
    drawable = np.isfinite(columns["nearest_distance"] + columns["hits" if has_hits else "mean_reward"])
    drawn = {FIGURE: figures.json_ready(hits_against_closeness(table))} if drawable.any() else {}
    rows = [{name: float(column[i]) for name, column in columns.items()} for i in range(len(table))]
    return PriorWeights(rows, has_hits, drawn)


def hits_against_closeness(table: pd.DataFrame, others: pd.DataFrame | None = None) -> Any:  # plotly ships no types
    """Return a Plotly figure: hits over the mean distance to the nearest known formula, labelled by prior weight.

    The elements of samples are no measure of closeness there: goals that few elements meet take samples away from the
    elements of all known formulas, known or not.

    Args:
        table: One row a weight, as `DesignAgent.sample_prior_weights` returns it.
        others: Further policies to compare with, the same columns and `name`.
    """
    import plotly.graph_objects as go

    height, words = "hits", "share of hits"
    if not np.isfinite(figures.numbers(table, "hits")).any():
        height, words = "mean_reward", "mean reward"
    figure = go.Figure()
    distance, values = figures.numbers(table, "nearest_distance"), figures.numbers(table, height)
    weights = [f"{weight:.4g}" for weight in figures.numbers(table, "prior_weight")]
    figure.add_scatter(
        x=distance,
        y=values,
        mode="lines+markers+text",
        name="prior weight",
        text=weights,
        textposition="top center",
        marker={"color": f"rgb({figures.TEAL})", "size": 9},
        line={"color": f"rgba({figures.TEAL}, 0.4)", "width": 1},
        hovertext=_hover(table, [f"prior weight {weight}" for weight in weights]),
        hoverinfo="text",
        cliponaxis=False,
    )
    if others is not None:
        names = [str(name) for name in others["name"]]
        figure.add_scatter(
            x=figures.numbers(others, "nearest_distance"),
            y=figures.numbers(others, height),
            mode="markers+text",
            name="policies of one prior weight",
            text=names,
            textposition="bottom center",
            marker={"color": "rgb(128, 128, 128)", "size": 8, "symbol": "diamond"},
            hovertext=_hover(others, names),
            hoverinfo="text",
            cliponaxis=False,
        )
    across = figures.plain_axis("mean distance to the nearest known formula, left is closer")
    share = {"tickformat": ".0%"} if height in _SHARES else {}
    up = figures.plain_axis(words) | share | {"rangemode": "tozero"}
    figure.update_layout(figures.layout(430), xaxis=across, yaxis=up, showlegend=others is not None)
    return figure


def _hover(table: pd.DataFrame, names: list[str]) -> list[str]:
    columns: dict[str, FloatArray] = {name: figures.numbers(table, name) for name in _COLUMNS[1:]}
    texts = []
    for i, name in enumerate(names):
        lines = [f"<b>{name}</b>"]
        for column, values in columns.items():
            if np.isfinite(values[i]):
                value = f"{values[i]:.1%}" if column in _SHARES else f"{values[i]:.3g}"
                lines.append(f"{figures.property_words(column)} {value}")
        texts.append("<br>".join(lines))
    return texts
