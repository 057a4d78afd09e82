"""The page of an evaluation: one HTML file with every figure, its definition, and the distributions behind it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import metadata, resources
from typing import TYPE_CHECKING

from markupsafe import Markup

from agent import report_figures as figures
from agent.evaluation import MOST_REFUSED
from agent.evaluation_compositions import most_common_systems
from agent.evaluation_table import CHARGE_DEFINITIONS, charge_rows, figure_lines, percent, refused_elsewhere, remarks
from agent.report_figures import TEAL, Figure

if TYPE_CHECKING:
    from agent.evaluate_run import EvaluationOutcome

ELEMENT_BARS = 30
"""Elements in the figure of shares, those that differ most from the reference."""
GROUP_BARS = 20
"""Space groups in their figure, the most common."""

_ORANGE = "214, 122, 33"


def evaluation_page(outcome: EvaluationOutcome) -> str:
    """Return the page of an evaluation; scripts and styles are inside, nothing is loaded from anywhere."""
    from jinja2 import Environment, FunctionLoader
    from plotly.offline import get_plotlyjs

    found = outcome.evaluation
    compositions = outcome.materials.compositions
    environment = Environment(
        loader=FunctionLoader(_read_template), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": percent,
        "formulas": figures.formulas_in_text,
        "hash": lambda text: base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode(),
    }
    return environment.get_template("report_evaluation.html.jinja").render(
        files=outcome.files,
        found=found,
        lines=figure_lines(found),
        charges=charge_rows(found),
        charge_definitions=CHARGE_DEFINITIONS,
        remarks=remarks(found),
        refused=found.refused[:MOST_REFUSED],
        refused_elsewhere=refused_elsewhere(found),
        elements=figures.element_cells(compositions.formulas),
        systems=most_common_systems(compositions),
        figures=_draw(outcome),
        seconds=outcome.seconds,
        cpu_seconds=outcome.cpu_seconds,
        version=metadata.version("matsmith"),
        style=Markup(_style()),
        plotly_script=Markup(get_plotlyjs()),
    )


def _read_template(name: str) -> str:
    return resources.files("agent.data").joinpath(name).read_text(encoding="utf-8")


def _style() -> str:
    """Return the style sheet of the report of a run, which this page shares."""
    return _read_template("report.html.jinja").partition("<style>")[2].partition("</style>")[0]


def _draw(outcome: EvaluationOutcome) -> dict[str, Figure]:
    """Return the figures by the id of their place in the page."""
    found = outcome.evaluation.compositions
    differing = sorted(found.elements.items(), key=lambda entry: -abs(entry[1][0] - entry[1][1]))[:ELEMENT_BARS]
    differing.sort(key=lambda entry: entry[1][1] - entry[1][0])
    drawn = {
        "element-shares": _bars([name for name, _ in differing], [pair for _, pair in differing], "", 300),
        "arities": _bars(
            [str(n) for n in sorted(found.arities)],
            [found.arities[n] for n in sorted(found.arities)],
            "elements in the formula",
            260,
        ),
    }
    structures = outcome.evaluation.structures
    if structures is not None and structures.space_groups:
        common = list(structures.space_groups.items())[:GROUP_BARS]
        total = sum(structures.space_groups.values())
        names = [name for name, _ in common]
        drawn["space-groups"] = _bars(names, [(n / total, None) for _, n in common], "space group", 300)
    return drawn


def _bars(names: Sequence[str], shares: Sequence[tuple[float, float | None]], title: str, height: int) -> Figure:
    """Return bars of the shares of the list, and of the reference beside them where it has shares."""
    import plotly.graph_objects as go

    figure = go.Figure()
    series = [("this list", TEAL, [own for own, _ in shares])]
    if all(other is not None for _, other in shares):
        series.append(("reference", _ORANGE, [other or 0.0 for _, other in shares]))
    for name, colour, values in series:
        figure.add_bar(
            x=list(names),
            y=values,
            name=name,
            marker={"color": f"rgba({colour}, 0.85)"},
            hovertemplate="%{x}: %{y:.1%}<extra>" + name + "</extra>",
        )
    figure.update_layout(
        figures.layout(height),
        xaxis=figures.plain_axis(title) | {"type": "category", "showgrid": False},
        yaxis=figures.plain_axis("") | {"tickformat": ".0%", "rangemode": "tozero"},
        barmode="group",
        bargap=0.25,
        showlegend=len(series) > 1,
    )
    return figures.json_ready(figure)
