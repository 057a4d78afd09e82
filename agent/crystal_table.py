"""What the command line prints of crystals: a short table, and what relaxation came to in a line."""

from __future__ import annotations

import re
from collections import Counter

import pandas as pd

from agent.crystal_candidates import RELAXED_HULL, sites_of

_HIDDEN = (
    "crystal", "reward", "log_prob", "log_prior", "training_distance", "rung", "nearest_known", "nearest_distance",
    "oxidation_states", "built_energy_eV_per_atom", "converged", "relaxed_space_group", "duplicate_of",
    "relaxed_energy_eV_per_atom", "relaxed_formation_energy_eV_per_atom", "reason", "novel",
)  # fmt: skip
_NEAR = (0.1, 0.05)
"""Distances to the hull within which crystals are counted, each once, eV/atom."""


def short_table(candidates: pd.DataFrame, n: int = 10) -> pd.DataFrame:
    """Return what fits on a screen: relaxed candidates from the lowest distance to the hull, or else the best ranked.

    Of crystals that are the same after relaxation, and of those with the same composition and positions where nothing
    was relaxed, the first is shown.
    """
    table = candidates.assign(positions=candidates["crystal"].map(_positions))
    hidden = {*_HIDDEN, *(name for name in table if str(name).startswith("utility_") or str(name).endswith("_std"))}
    if RELAXED_HULL in table and table[RELAXED_HULL].notna().any():
        table = table[table[RELAXED_HULL].notna() & (table["duplicate_of"] == "")].sort_values(RELAXED_HULL)
        before = [symbol.split(" (")[0] for symbol in table["space_group"]]
        after = table["relaxed_space_group"]
        changed = ["" if old == new else new for old, new in zip(before, after, strict=True)]
        if any(changed):
            table = table.assign(relaxed_to=changed)
    else:
        table = table[~table["crystal"].map(sites_of).duplicated()]
        hidden.add("novel_structure")
    front = ["rank", "formula", "space_group", "positions"]
    others = [name for name in table if name not in (*hidden, *front) and table[name].notna().any()]
    return table.head(n)[[*front, *others]]


def summary_of(candidates: pd.DataFrame) -> str:
    """Say in a line what relaxation came to; empty where nothing was relaxed."""
    if "converged" not in candidates:
        return ""
    above, reasons = candidates[RELAXED_HULL], candidates["reason"]
    tried, same = candidates["converged"].notna(), candidates["duplicate_of"] != ""
    text = f"{int(tried.sum())} relaxed, {int(candidates['converged'].fillna(False).sum())} converged"
    text += f", {int(same.sum())} the same as another" if same.any() else ""
    counted = (f"{int((above[~same] <= near).sum())} within {near:g}" for near in _NEAR)
    text += f"; {' and '.join(counted)} eV/atom of the hull (CHGNet, not DFT)"
    kinds = Counter(map(_kind, reasons[above.isna() & (reasons != "")]))
    failed = [f"{count} not: {kind}" for kind, count in kinds.most_common(3)]
    return "; ".join([text, *failed])


def samples_table(samples: pd.DataFrame) -> pd.DataFrame:
    """Return samples with the occupied positions in place of the whole text, which no screen holds."""
    positions = samples["material"].map(_positions)
    front = pd.DataFrame({"formula": samples["formula"], "space_group": samples["space_group"], "positions": positions})
    return pd.concat([front, samples.drop(columns=["material", "formula", "space_group"])], axis=1)


def _positions(crystal: str) -> str:
    """The occupied positions of a crystal's text: "Ti a, O f"."""
    return ", ".join(" ".join(part.split()[:2]) for part in crystal.split(" | ")[2:-1])


def _kind(reason: str) -> str:
    """One text for reasons that differ in their numbers."""
    return re.sub(r"-?\d[\d,.]*(?<=\d)", "...", reason)
