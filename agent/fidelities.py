"""Oracles that cost less than the one that counts, and which of them is asked for which material.

A label's gain is the improvement that the material promises, times the squared correlation between that oracle's labels
and the target's, and is weighed against its cost (as in Huang, Allen, Notz and Miller, Struct. Multidiscip. Optim. 32,
369 (2006)). The correlation is found by `surrogates.cheap_labels`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agent.store_records import Trial
from surrogates.base import Oracle

_LEAST_COST = 0.01
"""Share of the target's cost that a label is taken to cost at least; a free table would take the whole budget."""


@dataclass(frozen=True, eq=False)
class Fidelity:
    """A cheaper oracle as it stands before a round."""

    oracle: Oracle
    share: float
    """Squared correlation of its labels with the target's, 0 where they tell nothing."""
    known: Collection[str]
    """Materials with a trial of this oracle, whatever came of it."""
    labelled: Collection[str]
    """Those that it labelled."""


@dataclass(frozen=True, eq=False)
class Prices:
    """Which oracle is to be asked for each of N materials, if any."""

    choice: list[int]
    """Position among the cheaper oracles, -1 for the target."""
    cost: Tensor
    """Core-seconds of that label, double (N,)."""
    per_gain: Tensor
    """Cost divided by the share of the gain that the label brings, double (N,)."""


def check_cheaper(target: Oracle, cheaper: Sequence[Oracle], method: str) -> None:
    """Check that oracles are different ones and cheaper than the target, and that the method weighs costs.

    Raises:
        ValueError: One line.
    """
    if cheaper and method not in ("ehvi", "qlognehvi", "qlogei"):
        raise ValueError(f"campaign.method: {method} does not weigh costs, as cheaper_oracles need (expected ehvi)")
    taken = {(target.name, target.version)}
    for oracle in cheaper:
        key = (oracle.name, oracle.version)
        if key in taken:
            other = "oracle" if key == (target.name, target.version) else "another one"
            raise ValueError(f"cheaper_oracles: {' '.join(key)} has the same name and version as {other}")
        taken.add(key)
        if oracle.cost >= target.cost:
            raise ValueError(
                f"cheaper_oracles: {' '.join(key)} costs {oracle.cost:g} core-seconds a label, no less than "
                f"{target.name} {target.version} with {target.cost:g}"
            )


def cost_of(fidelity: Fidelity, target: Oracle) -> float:
    """Return what a label of a cheaper oracle is taken to cost, core-seconds."""
    return max(fidelity.oracle.cost, _LEAST_COST * target.cost)


def pays(fidelity: Fidelity, target: Oracle) -> bool:
    """Return whether a label of a cheaper oracle brings more for its cost than one of the target."""
    return fidelity.share * target.cost > cost_of(fidelity, target)


def price(materials: Sequence[str], target: Oracle, cheaper: Sequence[Fidelity]) -> Prices:
    """Choose for each material the oracle that brings the most for its cost.

    A material that an oracle was asked for is not given to it again, nor to one that tells less of the target.
    """
    choice, cost = [-1] * len(materials), torch.full((len(materials),), float(target.cost), dtype=torch.float64)
    per_gain = cost.clone()
    known_share = [max((f.share for f in cheaper if m in f.labelled), default=0.0) for m in materials]
    for position, fidelity in enumerate(cheaper):
        if not pays(fidelity, target):
            continue
        of_this = cost_of(fidelity, target)
        for row, taken in enumerate(takes(fidelity.oracle, materials)):
            is_new = taken and materials[row] not in fidelity.known and fidelity.share > known_share[row]
            if is_new and of_this / fidelity.share < float(per_gain[row]):
                choice[row], cost[row], per_gain[row] = position, of_this, of_this / fidelity.share
    return Prices(choice, cost, per_gain)


def takes(oracle: Oracle, materials: Sequence[str]) -> list[bool]:
    """Return for each material whether an oracle can label it, as far as it tells."""
    listed, refuses = getattr(oracle, "materials", None), getattr(oracle, "refuses", None)
    of_list = None if listed is None else set(listed)
    inside = [of_list is None or material in of_list for material in materials]
    if refuses is None or not materials:
        return inside
    return [good and reason is None for good, reason in zip(inside, refuses(materials), strict=True)]


def trials_of(trials: Sequence[Trial], oracle: str, version: str) -> list[Trial]:
    """Return the trials of one oracle."""
    return [trial for trial in trials if (trial.oracle, trial.version) == (oracle, version)]
