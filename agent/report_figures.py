"""Figures of the report: Plotly descriptions as JSON-ready dictionaries, and the cells of a periodic table.

Colours are chosen to read on white and on black; backgrounds are transparent, and the page colours the text. Every text
that comes from a file is escaped here, since Plotly reads a subset of HTML in titles and hover texts.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

Figure = dict[str, Any]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

NO_VALUE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
MOST_ERROR_BARS = 60
"""Candidates that get error bars in the scatter, from rank 1 on: more than that hides the points."""
MOST_STEPS = 1000
"""Points of a training curve; longer histories are thinned evenly."""

TEAL, _ORANGE = "19, 148, 133", "214, 122, 33"
_SUBSCRIPT = re.compile(r"(?<=[A-Za-z)\]])(\d+(?:\.\d+)?)")
_ELEMENT = re.compile(r"[A-Z][a-z]?")
_CHARGE = re.compile(r"^([A-Z][a-z]?)(\d*)([+-])$")
_FORMULA = re.compile(r"(?:[A-Z][a-z]?[\d.]*|[()\[\]]\d*)+")
_PERIODIC_TABLE = """
H  .  .  .  .  .  .  .  .  .  .  .  .  .  .  .  .  He
Li Be .  .  .  .  .  .  .  .  .  .  B  C  N  O  F  Ne
Na Mg .  .  .  .  .  .  .  .  .  .  Al Si P  S  Cl Ar
K  Ca Sc Ti V  Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y  Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I  Xe
Cs Ba .  Hf Ta W  Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn
Fr Ra .  Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
.  .  La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu .
.  .  Ac Th Pa U  Np Pu Am Cm Bk Cf Es Fm Md No Lr .
"""


@dataclass(frozen=True)
class Quantity:
    """One predicted property of N candidates."""

    name: str
    """As in the file, without the unit: band_gap."""
    unit: str
    """Ready to print: eV/atom; empty for a number without a unit."""
    means: FloatArray
    """(N,) predicted means in `unit`; NaN where there is none."""
    spread: FloatArray
    """(N,) standard deviations in `unit`; NaN where there is none."""
    utility: FloatArray | None = None
    """(N,) in [0, 1], or None when it is no objective."""
    window: tuple[float, float] | None = None
    """Target window in `unit`; an open end is infinite."""
    direction: str = ""
    """"lower is better", "higher is better" or nothing."""

    @property
    def label(self) -> str:
        """Name for people: "Band gap"."""
        return property_label(self.name)

    @property
    def title(self) -> str:
        """Name and unit for people: "Band gap (eV)"."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def at(self, i: int) -> tuple[float, float, float]:
        """Return value, spread and utility of one candidate."""
        return self.means[i], self.spread[i], math.nan if self.utility is None else self.utility[i]

    @property
    def summary(self) -> str:
        """One sentence on the distribution, for those who do not see the figure."""
        values = self.means[np.isfinite(self.means)]
        if not len(values):
            return "No values."
        low, middle, high = (with_spread(float(q)) for q in np.quantile(values, (0, 0.5, 1)))
        text = f"Median {middle}, from {low} to {high}{f' {self.unit}' if self.unit else ''}"
        if self.window is None:
            return f"{text}."
        inside = float(((values >= self.window[0]) & (values <= self.window[1])).mean())
        return f"{text}; {inside:.0%} predicted inside the target (shaded)."


@dataclass(frozen=True)
class Group:
    """Candidates that share a colour."""

    name: str
    members: BoolArray
    """(N,)"""
    colour: str
    """Red, green, blue, each 0 to 255."""
    symbol: str


@dataclass(frozen=True)
class ElementCell:
    """One element of the periodic table."""

    symbol: str
    row: int
    """1 to 7; 9 and 10 for the lanthanides and actinides below a gap."""
    column: int
    count: int
    """Candidates that contain it."""
    share: float
    """Of all candidates."""
    level: int
    """Colour step, 0 (absent) to 5."""


def novelty_groups(novel: BoolArray | None, n: int) -> list[Group]:
    """Return the groups of N candidates by novelty; one group of all when nothing tells it."""
    if novel is None:
        return [Group("candidates", np.ones(n, dtype=bool), TEAL, "circle")]
    groups = [Group("new formulas", novel, TEAL, "circle"), Group("known formulas", ~novel, _ORANGE, "diamond")]
    return [group for group in groups if group.members.any()]


def numbers(frame: pd.DataFrame, column: str | None) -> FloatArray:
    """Return a column as float (N,); NaN where it holds no finite number, or when there is no such column."""
    if column is None or column not in frame.columns:
        return np.full(len(frame), np.nan)
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def property_words(name: object) -> str:
    """Return a property's name within a sentence: "band gap" for band_gap, "energy above hull" for e_above_hull."""
    return re.sub("^e_", "energy_", str(name)).replace("_", " ").strip()


def property_label(name: object) -> str:
    """Return a property's name at the start of a line: "Band gap" for band_gap."""
    words = property_words(name)
    return words[:1].upper() + words[1:]


def formula_html(formula: str) -> str:
    """Return a formula with its numbers as subscripts, everything else escaped."""
    return _SUBSCRIPT.sub(r"<sub>\1</sub>", escape(formula, quote=False))


def formulas_in_text(text: str) -> Markup:
    """Give the words of a text that are formulas with numbers their subscripts; escape everything."""
    words = (
        formula_html(word) if _FORMULA.fullmatch(word.strip("(),;:")) and re.search(r"\d", word) else escape(word)
        for word in text.split()
    )
    return Markup(" ").join(Markup(word) for word in words)


def charges(text: str) -> Markup:
    """Write "Sr2+ O2-" with superscripts; escape everything."""
    ions = (_CHARGE.match(word) or word for word in text.split())
    return Markup(" ").join(
        ion if isinstance(ion, str)
        else Markup("{}<sup>{}{}</sup>").format(ion[1], ion[2], ion[3].replace("-", MINUS))
        for ion in ions
    )  # fmt: skip


def with_spread(value: float, spread: float = math.nan, unit: str = "") -> str:
    """Return "1.32 ± 0.21 eV": two digits of the spread, or three of the value when there is none; a dash for NaN."""
    if not math.isfinite(value):
        return NO_VALUE
    if math.isfinite(spread) and spread > 0:
        decimals = min(max(1 - math.floor(math.log10(spread)), 0), 6)
        text = f"{value:.{decimals}f} ± {spread:.{decimals}f}"
    else:
        text = f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
    return f"{text.replace('-', MINUS)} {unit}".rstrip()


def hover_texts(formulas: Sequence[str], quantities: Sequence[Quantity], notes: Sequence[str]) -> list[str]:
    """Return one escaped hover text a material: formula, predictions, and its note unless that is empty."""
    texts = []
    for i, formula in enumerate(formulas):
        lines = [f"<b>{formula_html(formula)}</b>"]
        for quantity in quantities:
            value = with_spread(quantity.means[i], quantity.spread[i], quantity.unit)
            lines.append(escape(f"{quantity.label} {value}", quote=False))
        if notes[i]:
            lines.append(escape(notes[i], quote=False))
        texts.append("<br>".join(lines))
    return texts


def scatter(x: Quantity, y: Quantity, groups: Sequence[Group], hover: Sequence[str]) -> Figure:
    """Return candidates over two properties: error bars of the first `MOST_ERROR_BARS`, target windows shaded."""
    import plotly.graph_objects as go

    ranked_first = np.arange(len(x.means)) < MOST_ERROR_BARS
    extents = [_extent_with_bars(quantity, ranked_first) for quantity in (x, y)]
    figure = go.Figure()
    for group in reversed(groups):

        def bars(quantity: Quantity, group: Group = group) -> dict[str, Any]:
            shown = np.where(ranked_first & (quantity.spread > 0), quantity.spread, np.nan)
            return {"array": shown[group.members], "color": f"rgba({group.colour}, 0.3)", "thickness": 1, "width": 0}

        figure.add_scatter(
            x=x.means[group.members],
            y=y.means[group.members],
            error_x=bars(x),
            error_y=bars(y),
            mode="markers",
            name=group.name,
            marker={"color": f"rgba({group.colour}, 0.85)", "symbol": group.symbol, "size": 8},
            hovertext=[text for text, member in zip(hover, group.members, strict=True) if member],
            hoverinfo="text",
        )
    shade(figure, x, "x", extents[0])
    shade(figure, y, "y", extents[1])
    axes = [axis_of(quantity) | {"range": ends} for quantity, ends in zip((x, y), extents, strict=True)]
    figure.update_layout(layout(470), xaxis=axes[0], yaxis=axes[1], showlegend=len(groups) > 1)
    return json_ready(figure)


def _extent_with_bars(quantity: Quantity, with_bars: BoolArray) -> list[float]:
    """Return the ends of an axis that shows every value and the error bars drawn."""
    bars = np.where(with_bars & (quantity.spread > 0), quantity.spread, 0.0)
    return axis_extent([*quantity.means, *(quantity.means - bars), *(quantity.means + bars)], quantity.window)


def axis_extent(shown: Iterable[float], window: tuple[float, float] | None = None) -> list[float]:
    """Return the ends of an axis that shows all finite values and the bounds of a target window, with a margin."""
    finite = [float(value) for value in (*shown, *(window or ())) if math.isfinite(value)]
    if not finite:
        return [0.0, 1.0]
    low, high = min(finite), max(finite)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return [low - margin, high + margin]


def histogram(quantity: Quantity, groups: Sequence[Group]) -> Figure:
    """Return the distribution of one property among the candidates, target window shaded."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for group in groups:
        figure.add_histogram(
            x=quantity.means[group.members],
            nbinsx=24,
            name=group.name,
            marker={"color": f"rgba({group.colour}, 0.8)"},
            hovertemplate="%{x}: %{y}<extra></extra>",
        )
    shade(figure, quantity, "x", axis_extent(quantity.means, quantity.window))
    figure.update_layout(
        layout(230), xaxis=axis_of(quantity), yaxis=plain_axis("candidates"), barmode="stack", bargap=0.06,
        showlegend=False,
    )  # fmt: skip
    return json_ready(figure)


def training_curve(
    metrics: Sequence[Mapping[str, Any]], key: str, *, share: bool, steps: bool = False
) -> Figure | None:
    """Return one column of the training history over the step, or None when no line has it.

    Args:
        metrics: The lines of metrics.jsonl.
        key: The column.
        share: Whether the values are shares of one; the axis is then 0 to 100 %.
        steps: Whether the value holds until the next line, as beta does.
    """
    import plotly.graph_objects as go

    points = [(line["step"], line[key]) for line in metrics if is_number(line.get("step")) and is_number(line.get(key))]
    if not points:
        return None
    thinned = points[:: math.ceil(len(points) / MOST_STEPS)]
    if thinned[-1] != points[-1]:
        thinned.append(points[-1])
    figure = go.Figure()
    figure.add_scatter(
        x=[point[0] for point in thinned],
        y=[point[1] for point in thinned],
        mode="lines+markers" if len(thinned) == 1 else "lines",
        line={"color": f"rgb({TEAL})", "width": 2, "shape": "hv" if steps else "linear"},
        hovertemplate=f"step %{{x}}: %{{y:{'.1%' if share else '.3~g'}}}<extra></extra>",
    )
    vertical = plain_axis("") | ({"range": [0, 1.04], "tickformat": ".0%"} if share else {"rangemode": "tozero"})
    figure.update_layout(layout(200), xaxis=plain_axis("step"), yaxis=vertical, showlegend=False)
    return json_ready(figure)


def element_cells(formulas: Sequence[str]) -> list[ElementCell]:
    """Return all elements at their places in the 18-column table, with how many formulas contain each."""
    counts = Counter(symbol for formula in formulas for symbol in set(_ELEMENT.findall(formula)))
    places = [
        (symbol, row if row < 8 else row + 1, column)
        for row, line in enumerate(_PERIODIC_TABLE.strip().splitlines(), start=1)
        for column, symbol in enumerate(line.split(), start=1)
        if symbol != "."
    ]
    most = max((counts[symbol] for symbol, _, _ in places), default=0) or 1
    return [
        ElementCell(
            symbol, row, column, counts[symbol], counts[symbol] / max(len(formulas), 1),
            math.ceil(5 * math.sqrt(counts[symbol] / most)),
        )
        for symbol, row, column in places
    ]  # fmt: skip


def is_number(value: object) -> bool:
    """Return whether a value read from JSON is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def shade(figure: Any, quantity: Quantity, axis: str, extent: Sequence[float]) -> None:
    """Shade the target window of one axis; an open end reaches the end of the axis."""
    if quantity.window is None:
        return
    low, high = max(quantity.window[0], extent[0]), min(quantity.window[1], extent[1])
    style = {"fillcolor": f"rgba({TEAL}, 0.10)", "line_width": 0, "layer": "below"}
    if axis == "x":
        figure.add_vrect(x0=low, x1=high, **style)
    else:
        figure.add_hrect(y0=low, y1=high, **style)


def axis_of(quantity: Quantity) -> dict[str, Any]:
    """Return the axis of a property."""
    return plain_axis(", ".join(filter(None, (quantity.title, quantity.direction))))


def plain_axis(title: str) -> dict[str, Any]:
    """Return an axis with a plain-text title."""
    quiet = "rgba(128, 128, 128, 0.18)"
    return {
        "title": {"text": escape(title, quote=False), "standoff": 10},
        "gridcolor": quiet,
        "linecolor": "rgba(128, 128, 128, 0.5)",
        "zeroline": False,
        "automargin": True,
    }


def layout(height: int) -> dict[str, Any]:
    """Return what all figures share."""
    family = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
    tip = {"color": "#f4f6f5", "family": family}
    return {
        "template": None,
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "font": {"family": family, "size": 13},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "reversed"},
        "modebar": {"bgcolor": "rgba(0, 0, 0, 0)", "color": "rgba(128, 128, 128, 0.7)", "activecolor": f"rgb({TEAL})"},
        "hoverlabel": {"bgcolor": "#1c2527", "bordercolor": "#1c2527", "font": tip, "align": "left"},
    }


def json_ready(figure: Any) -> Figure:
    """Return a Plotly figure as plain values."""
    described: Figure = json.loads(figure.to_json())
    return described
