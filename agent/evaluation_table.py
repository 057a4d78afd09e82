"""The figures of an evaluation as lines: what, how much, and how it is defined."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.evaluation_structures import MOST_COMPARED, NEAR_HULL, StructureFigures
from surrogates.charge_balance import CHARGE_SETTINGS

if TYPE_CHECKING:
    from agent.evaluation import Evaluation

REFUSED_SHOWN = 5
"""Materials that could not be read which are listed on the screen."""
GROUPS_SHOWN = 5
"""Space groups listed on the screen."""

_WIDTH = 118


@dataclass(frozen=True)
class FigureLine:
    """One figure."""

    figure: str
    value: str
    definition: str
    """One sentence; for charges, what the set of oxidation states is."""


CHARGE_DEFINITIONS = {
    "neutral": "some choice of one oxidation state per element sums to zero (an element alone passes)",
    "balanced": "some choice has cation and anion, and each cation is less electronegative (Pauling) than each anion",
    "both": "one choice does both: SMACT's smact_validity(include_alloys=False)",
}
"""What the three columns of the table of charges are."""


def percent(share: float | None) -> str:
    """Return "84.5 %"; a dash for None."""
    if share is None:
        return "-"
    text = f"{100 * share:.3g}" if share < 0.0995 else f"{100 * share:.1f}"
    if 0 < share < 1 and text in ("0", "100.0"):
        text = f"{100 * share:.2g}" if share < 0.5 else "99.95+"
    return f"{text} %"


def figure_lines(evaluation: Evaluation) -> list[FigureLine]:
    """Return all figures but those on charges, in the order of reading."""
    found = evaluation.compositions
    lines = [
        FigureLine("materials read", f"{found.n:,} of {evaluation.given:,}", "the others are in no figure"),
        FigureLine(
            "valid (CDVAE)",
            percent(found.cdvae_valid),
            "compositions: neutral and balanced under smact14, or an element, or metals only (Xie et al. 2022)",
        ),
        FigureLine(
            "unique", percent(found.unique), f"distinct reduced formulas ({found.distinct:,}) of all materials read"
        ),
        FigureLine("novel", percent(found.novel), f"of the distinct formulas, those not among {found.reference}"),
        FigureLine(
            "valid, unique, novel",
            percent(found.valid_unique_novel),
            "distinct formulas that are novel, neutral and balanced (icsd24), of all materials read",
        ),
    ]
    if found.recovery is not None:
        lines.append(
            FigureLine(
                "recovered",
                percent(found.recovery.share),
                f"of the hold-out's distinct formulas, those found again: "
                f"{found.recovery.found:,} of {found.recovery.held_out:,}",
            )
        )
    other = "the known formulas" if "embedded" in found.reference else found.reference
    lines += [
        FigureLine(
            "element distance",
            f"{found.element_distance:.3f}",
            f"Jensen-Shannon distance (0 equal, 1 nothing in common) of how often elements occur, to {other}",
        ),
        FigureLine(
            "arity distance",
            f"{found.arity_distance:.3f}",
            f"the same of the number of elements in a formula, to {other}",
        ),
        FigureLine("chemical systems", f"{found.chemical_systems:,}", "distinct sets of elements"),
        FigureLine(
            "systems covered",
            percent(found.systems_covered),
            f"of the {found.n_reference_systems:,} chemical systems of {other}, those that occur",
        ),
    ]
    return lines + (_structure_lines(evaluation.structures) if evaluation.structures is not None else [])


def _structure_lines(found: StructureFigures) -> list[FigureLine]:
    lines = [
        FigureLine(
            "structures",
            f"{found.n:,}",
            f"measured; disordered or unsound, so not measured: {found.not_measured:,}",
        ),
        FigureLine(
            "valid structures (CDVAE)",
            percent(found.valid),
            "all pairs of sites at least 0.5 Å apart and a volume of at least 0.1 Å3",
        ),
        FigureLine(
            "valid both (CDVAE)", percent(found.valid_with_composition), "valid structures of valid composition"
        ),
    ]
    if found.closest_distance is not None:
        low, middle, high = found.closest_distance
        lines.append(
            FigureLine(
                "closest distance",
                f"{middle:.2f} Å",
                f"median over the valid structures of the nearest two atoms, with images; {low:.2f} to {high:.2f} Å",
            )
        )
    common = ", ".join(f"{name}: {n}" for name, n in list(found.space_groups.items())[:GROUPS_SHOWN])
    compared = f"of {found.compared:,} valid structures of up to {MOST_COMPARED} atoms"
    lines += [
        FigureLine("in P1", percent(found.p1), "of the valid structures, by spglib at 0.01 Å"),
        FigureLine("space groups", f"{len(found.space_groups)}", f"distinct; most common {common or 'none'}"),
        FigureLine("unique structures", percent(found.unique), f"{compared}, by pymatgen's StructureMatcher"),
        FigureLine(
            "novel structures", percent(found.novel), f"of the unique ones, those equal to none of {found.reference}"
        ),
    ]
    if found.recovery is not None:
        lines.append(
            FigureLine(
                "recovered structures",
                percent(found.recovery.share),
                f"of the hold-out's distinct structures, those found again: "
                f"{found.recovery.found:,} of {found.recovery.held_out:,}",
            )
        )
    if found.relaxed is not None:
        lines += [
            FigureLine("relaxed", percent(found.relaxed.converged), f"converged, of all; {found.relaxed.source}"),
            FigureLine("near the hull", percent(found.relaxed.near_hull), f"within {NEAR_HULL:g} eV/atom, of all"),
        ]
    return lines


def definitions(evaluation: Evaluation) -> dict[str, str]:
    """Return one sentence for each figure, and for each set of oxidation states."""
    return (
        {line.figure: line.definition for line in figure_lines(evaluation)}
        | {"neutral and balanced" if name == "both" else name: text for name, text in CHARGE_DEFINITIONS.items()}
        | {name: f"oxidation states: {text}" for name, text in CHARGE_SETTINGS.items()}
        | {"elements, arities": "share of the materials read, and of the reference, with each"}
    )


def charge_rows(evaluation: Evaluation) -> list[tuple[str, tuple[str, str, str], str]]:
    """Return a row for each set of oxidation states: its name, the three shares, and what it is."""
    return [
        (
            name,
            (percent(shares.neutral), percent(shares.balanced), percent(shares.neutral_and_balanced)),
            CHARGE_SETTINGS[name],
        )
        for name, shares in evaluation.compositions.charges.items()
    ]


def remarks(evaluation: Evaluation) -> list[str]:
    """Return what a reader should know about how materials were read."""
    lines = []
    if evaluation.heavy_hydrogen:
        lines.append(f"{evaluation.heavy_hydrogen:,} with deuterium or tritium, read as hydrogen")
    if evaluation.compositions.not_integer:
        n = evaluation.compositions.not_integer
        lines.append(f"{n:,} with amounts of more than three decimals, which cannot be neutral")
    return lines


def refused_elsewhere(evaluation: Evaluation) -> list[str]:
    """Return a line for each of the other lists, reference and hold-out, of which something could not be read."""
    return [
        f"{len(refused):,} of the {name} could not be read, the first: {refused[0]}"
        for name, refused in (("reference", evaluation.reference_refused), ("hold-out", evaluation.holdout_refused))
        if refused
    ]


def as_text(evaluation: Evaluation) -> str:
    """Return the figures as a table for the screen, each with its definition."""
    lines = figure_lines(evaluation)
    name_width = max(len(line.figure) for line in lines)
    text = _wrapped(lines[:1], name_width)
    text += ["", f"{'charges of all read':<{name_width}}  {'neutral':>9}{'balanced':>10}{'both':>9}"]
    for name, values, meaning in charge_rows(evaluation):
        text.append(f"  {name:<{name_width - 2}}  {values[0]:>9}{values[1]:>10}{values[2]:>9}  {meaning}")
    for name, definition in CHARGE_DEFINITIONS.items():
        text += textwrap.wrap(f"{name}: {definition}", _WIDTH, initial_indent="  ", subsequent_indent="    ")
    text += ["", *_wrapped(lines[1:], name_width)]
    notes = remarks(evaluation)
    if evaluation.refused:
        notes.append(f"{len(evaluation.refused):,} could not be read:")
        notes += [f"  {entry}" for entry in evaluation.refused[:REFUSED_SHOWN]]
        if len(evaluation.refused) > REFUSED_SHOWN:
            notes.append(f"  and {len(evaluation.refused) - REFUSED_SHOWN:,} more")
    notes += refused_elsewhere(evaluation)
    return "\n".join([*text, *([""] if notes else []), *notes])


def _wrapped(lines: Sequence[FigureLine], name_width: int) -> list[str]:
    value_width = max(9, *(len(line.value) for line in lines))
    result = []
    for line in lines:
        start = f"{line.figure:<{name_width}}  {line.value:>{value_width}}  "
        result += textwrap.wrap(
            line.definition, _WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False
        )
    return result
