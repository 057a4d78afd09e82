"""Figures of the report on crystals: cells in three dimensions, energies before and after relaxation, space groups."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from agent import report_figures as figures
from agent.report_crystal_structures import DrawnCell
from agent.report_figures import Figure, FloatArray, Quantity

_HEIGHT = 330  # pixels, of a picture of a cell
_BALL = 0.3  # size of a marker in units of the diameter of the atom; Plotly draws markers larger than it says
_SMALLEST, _LARGEST = 5.0, 32.0  # sizes of markers
_FILLED = 0.75  # share of the height that the longest diagonal of the cell takes
_TOWARDS = (0.55, -1.75, 0.6)
"""From the cell to the viewer."""
_ZOOM = 1.75  # at which `_FILLED` holds
_EDGE, _OUTLINE = "rgba(128, 128, 128, 0.9)", "rgba(90, 90, 90, 0.9)"


def picture(cell: DrawnCell) -> Figure:
    """Return a cell that can be turned: edges as lines, atoms as balls in Jmol's colours, sized by covalent radius."""
    import plotly.graph_objects as go
    from ase.data import atomic_numbers, covalent_radii
    from ase.data.colors import jmol_colors

    centre = cell.lattice.sum(0) / 2
    at = cell.points @ cell.lattice - centre
    corners = np.array([[i >> axis & 1 for axis in range(3)] for i in range(8)]) @ cell.lattice - centre
    diagonal = float(np.linalg.norm(corners[:, None] - corners[None], axis=-1).max())
    figure = go.Figure()
    ends = [
        value
        for i in range(8)
        for bit in (1, 2, 4)
        if not i & bit
        for value in (corners[i], corners[i | bit], (None,) * 3)
    ]
    x, y, z = ([point[axis] for point in ends] for axis in range(3))
    figure.add_scatter3d(
        x=x, y=y, z=z, mode="lines", line={"color": _EDGE, "width": 3}, name="cell", showlegend=False, hoverinfo="skip"
    )
    for symbol in dict.fromkeys(cell.symbols):
        number = atomic_numbers[symbol]
        own = np.array([other == symbol for other in cell.symbols])
        colour = ", ".join(str(round(255 * part)) for part in jmol_colors[number].tolist())
        size = 2 * _BALL * float(covalent_radii[number]) / diagonal * _HEIGHT * _FILLED
        figure.add_scatter3d(
            x=at[own, 0],
            y=at[own, 1],
            z=at[own, 2],
            mode="markers",
            name=symbol,
            marker={
                "size": float(np.clip(size, _SMALLEST, _LARGEST)),
                "color": f"rgb({colour})",
                "opacity": 1,
                "line": {"color": _OUTLINE, "width": 1},
            },
            hovertext=[
                f"<b>{symbol}</b> at {', '.join(f'{part:.3f}' for part in point)}" for point in cell.points[own]
            ],
            hoverinfo="text",
        )
    reach = diagonal / 2
    hidden = {"visible": False, "range": [-reach, reach]}
    eye = dict(zip("xyz", _TOWARDS, strict=True))
    figure.update_layout(
        figures.layout(_HEIGHT) | {"margin": {"l": 0, "r": 0, "t": 0, "b": 0}},
        scene={
            "xaxis": hidden,
            "yaxis": hidden,
            "zaxis": hidden,
            "aspectmode": "manual",
            "aspectratio": dict.fromkeys("xyz", _ZOOM),
            "dragmode": "orbit",
            "domain": {"x": [0, 1], "y": [0.1, 1]},
            "camera": {"eye": eye, "projection": {"type": "orthographic"}},
        },
        legend={
            "orientation": "h",
            "x": 0.5,
            "xanchor": "center",
            "y": 0,
            "yanchor": "bottom",
            "itemsizing": "constant",
        },
    )
    return figures.json_ready(figure)


def predicted_and_relaxed(
    names: Sequence[str], predicted: FloatArray, spread: FloatArray, relaxed: FloatArray, new: Sequence[bool]
) -> Figure | None:
    """Return distances to the hull after relaxation over those predicted; None when no crystal has both.

    Args:
        names: Of N crystals, escaped.
        predicted: eV/atom, (N,).
        spread: Standard deviations of the predictions, eV/atom, (N,).
        relaxed: eV/atom, (N,).
        new: Whether the formula is new.
    """
    import plotly.graph_objects as go

    both = np.isfinite(predicted) & np.isfinite(relaxed)
    if not both.any():
        return None
    extent = figures.axis_extent([*predicted[both], *relaxed[both], 0.0])
    figure = go.Figure()
    grey = {"color": "rgba(128, 128, 128, 0.8)", "width": 1, "dash": "dash"}
    figure.add_scatter(x=extent, y=extent, mode="lines", line=grey, name="equal", showlegend=False, hoverinfo="skip")
    groups = [
        group for group in figures.novelty_groups(np.array(new, dtype=bool), len(names)) if (group.members & both).any()
    ]
    for group in reversed(groups):
        shown = np.flatnonzero(group.members & both)
        figure.add_scatter(
            x=predicted[shown],
            y=relaxed[shown],
            error_x={
                "array": np.where(spread[shown] > 0, spread[shown], np.nan),
                "color": f"rgba({group.colour}, 0.35)",
                "thickness": 1,
                "width": 0,
            },
            mode="markers",
            name=group.name,
            marker={"color": f"rgba({group.colour}, 0.9)", "symbol": group.symbol, "size": 9},
            hovertext=[
                f"{names[i]}<br>predicted {figures.with_spread(predicted[i], spread[i], 'eV/atom')}"
                f"<br>relaxed {figures.with_spread(relaxed[i], unit='eV/atom')}"
                for i in shown
            ],
            hoverinfo="text",
        )
    axes = [
        figures.axis_of(Quantity(name, "eV/atom", relaxed, spread)) | {"range": extent}
        for name in ("predicted_energy_above_hull", "energy_above_hull_after_relaxation")
    ]
    figure.update_layout(figures.layout(470), xaxis=axes[0], yaxis=axes[1], showlegend=len(groups) > 1)
    return figures.json_ready(figure)


def bars(counts: Sequence[tuple[str, int]], *, horizontal: bool = False) -> Figure:
    """Return how many candidates there are of each kind, in the order given, from below where bars are horizontal."""
    import plotly.graph_objects as go

    names = [re.sub(r"_(\d)", r"<sub>\1</sub>", escape(name, quote=False)) for name, _ in counts]
    numbers = [number for _, number in counts]
    style: dict[str, Any] = {
        "marker": {"color": f"rgba({figures.TEAL}, 0.8)"},
        "text": [f"{number:,}" for number in numbers],
        "textposition": "outside",
        "textangle": 0,
        "textfont": {"color": "rgb(128, 128, 128)"},
        "cliponaxis": False,
        "hovertext": [f"{name}: {number:,} candidates" for name, number in zip(names, numbers, strict=True)],
        "hoverinfo": "text",
    }
    figure = go.Figure()
    kinds = figures.plain_axis("") | {"type": "category", "showgrid": False}
    amounts = figures.plain_axis("candidates") | {"rangemode": "tozero"}
    if horizontal:
        figure.add_bar(x=numbers, y=names, orientation="h", **style)
        x, y = amounts, kinds
    else:
        figure.add_bar(x=names, y=numbers, **style)
        x, y = kinds, amounts
    figure.update_layout(figures.layout(330), xaxis=x, yaxis=y, bargap=0.25, showlegend=False)
    return figures.json_ready(figure)
