"""Do our dopant suggestions agree with SMACT's `Doper`?

`agent.dopants.suggest_dopants` ranks ions by the prior's probability of the neutral compounds near the host that hold
them, and by radii; `Doper` by substitution probabilities mined from the ICSD (Hautier et al. 2011). For each host and
each kind of aliovalent substitution, the best of both are printed, how many they share, and how many two lists drawn at
random from the ions that both know would. Doper suggests no isovalent dopants; ours are printed beside.

    python experiments/benchmarks/dopants.py
"""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import dataclass, field
from functools import cache

import pandas as pd
from jsonargparse import auto_cli

from agent.dopants import suggest_dopants

HOSTS = {
    "SrTiO3": ("Sr2+", "Ti4+", "O2-"),
    "ZnO": ("Zn2+", "O2-"),
    "TiO2": ("Ti4+", "O2-"),
    "GaN": ("Ga3+", "N3-"),
}


@dataclass
class Options:
    """Settings of the benchmark."""

    hosts: list[str] = field(default_factory=lambda: list(HOSTS))
    top: int = 10
    """Length of the lists."""
    json: bool = False
    """Print one JSON object last."""


def ion(element: str, charge: int) -> str:
    """Write "Ti4+"."""
    return f"{element}{abs(charge)}{'+' if charge > 0 else '-'}"


def first(ions: list[str], n: int) -> list[str]:
    """Return the first n distinct ions."""
    return list(dict.fromkeys(ions))[:n]


@cache
def doper(species: tuple[str, ...]) -> dict[str, dict[str, list[list[object]]]]:
    """Return all suggestions of SMACT's Doper."""
    from smact.dopant_prediction.doper import Doper

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: dict[str, dict[str, list[list[object]]]] = Doper(species).get_dopants(num_dopants=10_000)
    return found


def by_doper(species: tuple[str, ...], kind: str, site: str) -> list[str]:
    """Return all dopant ions of SMACT's Doper, best first."""
    return first([str(row[0]) for row in doper(species)[f"{kind} {site} substitutions"]["sorted"]], 10_000)


def by_prior(frame: pd.DataFrame, kind: str, site: str) -> list[str]:
    """Return all our dopant ions, best first."""
    signs = frame["host_charge"] > 0 if site == "cation" else frame["host_charge"] < 0
    rows = frame[(frame["kind"] == kind) & signs]
    return first([ion(e, q) for e, q in zip(rows["element"], rows["charge"], strict=True)], 10_000)


def main(options: Options) -> None:
    """Print the comparison."""
    records = []
    for host in options.hosts:
        started = time.perf_counter()
        ours = suggest_dopants(host)
        seconds = time.perf_counter() - started
        print(f"\n{host} ({seconds:.0f} s)")
        for site in ("cation", "anion"):
            print(f"  isovalent, {site}: ours {' '.join(by_prior(ours, 'isovalent', site)[: options.top])}")
            for kind in ("n-type", "p-type"):
                theirs, mine = by_doper(HOSTS[host], kind, site), by_prior(ours, kind, site)
                top_theirs, top_mine = theirs[: options.top], mine[: options.top]
                shared = [name for name in top_theirs if name in top_mine]
                pool = len(set(theirs) | set(mine))
                chance = len(top_theirs) * len(top_mine) / pool if pool else 0.0
                both = [name for name in top_theirs if name in mine]
                print(
                    f"  {kind}, {site}: {len(shared)} of {len(top_theirs)} shared ({chance:.1f} by chance among {pool})"
                )
                print(f"    Doper {' '.join(top_theirs)}\n    ours  {' '.join(top_mine)}")
                records.append(
                    {
                        "host": host,
                        "site": site,
                        "kind": kind,
                        "shared": len(shared),
                        "of": len(top_theirs),
                        "chance": chance,
                        "pool": pool,
                        "suggested_at_all": len(both),
                    }
                )
    telling = pd.DataFrame([record for record in records if record["pool"] > options.top])  # others must agree
    if len(telling):
        shared, of, chance = telling[["shared", "of", "chance"]].sum()
        print(
            f"\n{len(telling)} lists with more than {options.top} ions to choose from: {shared:.0f} of {of:.0f} shared"
        )
        print(f"({chance:.1f} by chance).")
    if options.json:
        print(json.dumps(records))


if __name__ == "__main__":
    main(auto_cli(Options, as_positional=False))
