"""Which dopants suit a host? Ranked by the prior over known chemistry and by the radii of the ions.

    suggest_dopants("SrTiO3")       # element, charge, host, host_charge, kind, score; best first

For each further element D, all neutral compositions within some edits of a cell of the host that hold D are enumerated.
Each adds its probability under the prior to the ion that D is in it, on the sites of host ions of the same sign that
the composition lacks, as far as the radii are alike; in the end those of a site are divided by their sum. So an
aliovalent dopant is judged by the compounds in which something compensates it.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Mapping
from functools import cache

import pandas as pd
from smact.screening import ICSD24FilterConfig

from agent.prior import EMBEDDED_TEMPERATURE, Prior
from envs import CompositionSpace
from envs.chemistry import ELECTRONEGATIVITY, oxidation_states
from envs.formula import parse_formula, reduce_amounts, write_formula
from envs.oxidation import assign_oxidation_states

Ion = tuple[str, int]
"""Element and charge."""

_COMMON = ICSD24FilterConfig(commonality="medium")
"""Oxidation states with a tenth of an element's reports or more: with all of them, calcium would be 1+ as well."""

_RADIUS_TOLERANCE = 0.15
"""Relative difference of radii at which a dopant counts exp(-1/2) as much (the 15 % of Hume-Rothery)."""

_CELL_ATOMS = 8
"""The cell of the host has at least as many."""


def suggest_dopants(host: str, prior: Prior | None = None, max_edits: int = 6) -> pd.DataFrame:
    """Return dopant ions of a host, best first, each on its best site.

    Args:
        host: A formula that is neutral with common oxidation states, one for each element.
        prior: The prior over known compositions; the embedded one when None, as sharp as it was fitted.
        max_edits: Edits of the cell within which compounds of the host's elements with the dopant count.

    Returns:
        A row an ion and site: element, charge, host (element), host_charge, kind ("isovalent", "n-type" for a charge
        above the host ion's, "p-type" below), radius_ratio (NaN where a radius is not tabulated) and score, from 0 to
        1: the share of the ion among all on the same site.

    Raises:
        ValueError: The host cannot be read, or is not neutral.
    """
    prior = prior or Prior.default().sharpened(EMBEDDED_TEMPERATURE)
    amounts = {symbol: int(amount) for symbol, amount in reduce_amounts(parse_formula(host)).items()}
    states = oxidation_states("icsd24", _COMMON)
    known = set(amounts) <= set(states)
    charges = assign_oxidation_states(amounts, states) if known else None
    if charges is None:
        raise ValueError(f"host: {host!r} is not neutral with one common oxidation state for each element")
    units = math.ceil(_CELL_ATOMS / sum(amounts.values()))
    cell = {symbol: units * amount for symbol, amount in amounts.items()}
    found = _probabilities(cell, max_edits, prior)
    scores: dict[tuple[Ion, Ion], float] = defaultdict(float)
    for compound, probability in found:
        assigned = assign_oxidation_states(compound, states)
        dopant = next(symbol for symbol in compound if symbol not in cell)
        if assigned is None:  # never: the space holds neutral compositions only
            continue
        ion = (dopant, assigned[dopant])
        weights = _sites(ion, charges, cell, compound)
        for site, weight in weights.items():
            scores[ion, site] += probability * weight
    of_site: dict[Ion, float] = defaultdict(float)
    for (_, site), score in scores.items():
        of_site[site] += score
    rows = [
        {
            "element": ion[0],
            "charge": ion[1],
            "host": site[0],
            "host_charge": site[1],
            "kind": "isovalent" if ion[1] == site[1] else "n-type" if ion[1] > site[1] else "p-type",
            "radius_ratio": _radius(ion) / _radius(site),
            "score": score / of_site[site],
        }
        for (ion, site), score in scores.items()
    ]
    columns = ["element", "charge", "host", "host_charge", "kind", "radius_ratio", "score"]
    frame = pd.DataFrame(rows, columns=columns).sort_values("score", ascending=False, kind="stable")
    return frame.reset_index(drop=True)


def _probabilities(cell: Mapping[str, int], max_edits: int, prior: Prior) -> list[tuple[dict[str, int], float]]:
    """Amounts and prior probability of each neutral composition with one further element, close to the cell."""
    reference = write_formula({symbol: float(amount) for symbol, amount in cell.items()})
    formulas = []
    for element in oxidation_states("icsd24", _COMMON):
        if element in cell or ELECTRONEGATIVITY[element] is None:
            continue
        try:
            near = CompositionSpace(
                [element],
                required=[element],
                max_elements=len(cell) + 1,
                icsd24_filter=_COMMON,
                reference=reference,
                max_edits=max_edits,
            )
        except ValueError:  # nothing with this element is neutral
            continue
        formulas += near.decode(near.enumerate())
    everything = CompositionSpace(max_elements=max(5, len(cell) + 1))
    reasons = everything.explain(formulas)
    within = [formula for formula, reason in zip(formulas, reasons, strict=True) if reason is None]
    compounds = [{symbol: int(amount) for symbol, amount in parse_formula(formula).items()} for formula in within]
    probability = prior.log_prob(everything, everything.encode(within)).double().exp().tolist()
    return list(zip(compounds, probability, strict=True))


def _sites(
    ion: Ion, charges: Mapping[str, int], cell: Mapping[str, int], compound: Mapping[str, int]
) -> dict[Ion, float]:
    """How much an ion in a compound counts for each ion of the host; at most 1 in all."""
    alike = [symbol for symbol, charge in charges.items() if charge * ion[1] > 0]
    missing = {symbol: max(0, cell[symbol] - compound.get(symbol, 0)) for symbol in alike}
    total = sum(missing.values())
    shares = {symbol: missing[symbol] / total if total else 1 / len(alike) for symbol in alike}
    return {
        (symbol, charges[symbol]): share * _similarity(ion, (symbol, charges[symbol]))
        for symbol, share in shares.items()
        if share
    }


def _similarity(ion: Ion, site: Ion) -> float:
    """From 0 to 1 by the ratio of radii; where one is not tabulated, that of a difference of twice the tolerance."""
    ratio = _radius(ion) / _radius(site)
    return math.exp(-2.0) if math.isnan(ratio) else math.exp(-0.5 * (math.log(ratio) / _RADIUS_TOLERANCE) ** 2)


@cache
def _radius(ion: Ion) -> float:
    """Ionic radius in A (Shannon 1976, averaged over coordinations), NaN where it is not tabulated."""
    from pymatgen.core import Species

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ions without a radius, and of the choice between spin states
        radius = Species(*ion).ionic_radius
    return math.nan if radius is None else float(radius)
