"""Candidates that are crystals: distinct samples ranked by reward, the best of them screened, relaxed and validated.

Which crystals are relaxed: of the `screen` best, each composition's in ascending order of their energy as built
(CHGNet), the first of every composition in the order of its reward before the second of any, and not more than two of
one space group with the same positions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from agent.candidates import gather_evidence
from agent.config import CrystalConfig
from agent.design_agent import DesignAgent
from agent.structure_output import Frame
from envs import CrystalBatch
from envs.wyckoff import space_group
from surrogates.potential import CHGNetPotential, Potential
from surrogates.progress import progress_bar
from surrogates.structure_funnel import FunnelOptions, StructureFunnel

_SAME_SITES = 2
_BATCH = 32
_OF_FUNNEL = {
    "relaxed_space_group": "relaxed_space_group",
    "converged": "converged",
    "duplicate_of": "duplicate_of",
    "novel_structure": "novel_structure",
    "energy_eV_per_atom": "relaxed_energy_eV_per_atom",
    "formation_energy_eV_per_atom": "relaxed_formation_energy_eV_per_atom",
    "e_above_hull_eV_per_atom": "relaxed_e_above_hull_eV_per_atom",
    "bulk_modulus_GPa": "bulk_modulus_GPa",
    "shear_modulus_GPa": "shear_modulus_GPa",
    "lowest_frequency_THz": "lowest_frequency_THz",
    "reason": "reason",
}
"""Columns of the validation funnel, and what they are called beside predictions."""


@dataclass(frozen=True, eq=False)
class CrystalCandidates:
    """Ranked crystals and the structures that were relaxed."""

    table: pd.DataFrame
    """One row a candidate, best first."""
    frames: list[Frame]
    """Relaxed where that was done, as built elsewhere; named by rank and formula."""


def check_crystal_options(options: CrystalConfig) -> None:
    """Raise a ValueError that names a number out of range."""
    for name in ("screen", "relax", "elastic", "phonon"):
        if getattr(options, name) < 0:
            raise ValueError(f"crystal: {name}: {getattr(options, name)} is not 0 or more")


def collect_crystals(
    agent: DesignAgent,
    n: int,
    n_samples: int,
    seed: int,
    options: CrystalConfig,
    progress: bool = False,
    potential: Potential | None = None,
) -> CrystalCandidates:
    """Sample, keep distinct crystals, rank them by reward, and validate the best.

    Args:
        agent: A trained agent of a `CrystalSpace`.
        n: Candidates wanted; fewer when the samples hold fewer distinct crystals.
        n_samples: Samples drawn.
        seed: Of the sampling.
        options: How many are screened, relaxed, and judged further.
        progress: Whether to show progress bars.
        potential: What gives energies; CHGNet when None.
    """
    samples = agent.sample(n_samples, seed=seed)
    distinct = samples.drop_duplicates("material").sort_values("log_reward", ascending=False, kind="stable").head(n)
    table = distinct.rename(columns={"material": "crystal"}).reset_index(drop=True)
    table.insert(0, "rank", range(1, len(table) + 1))
    table.insert(2, "reward", table.pop("log_reward").map(lambda value: float(torch.tensor(value).exp())))
    batch = CrystalBatch.from_texts(table["crystal"])
    front = ["rank", "formula", "space_group"]
    table["space_group"] = [f"{space_group(number).symbol} ({number})" for number in batch.space_group.tolist()]
    table["n_atoms"] = batch.n_atoms.tolist()
    table = table[[*front, *(name for name in table if name not in front)]]
    table = pd.concat([table, gather_evidence(table["formula"].tolist())], axis=1)
    structures = batch.structures()
    names = [f"{rank:04d}_{formula}" for rank, formula in zip(table["rank"], table["formula"], strict=True)]
    frames = [Frame(name, s, {"formula": f}) for name, s, f in zip(names, structures, table["formula"], strict=True)]
    if not options.relax:
        return CrystalCandidates(table, frames)
    potential = potential or CHGNetPotential()
    screened = min(max(options.screen, options.relax), len(structures))
    energies = np.full(len(structures), np.nan)
    with progress_bar(progress, screened, "energies as built", "crystal") as advance:
        for start in range(0, screened, _BATCH):
            part = structures[start : min(start + _BATCH, screened)]
            energies[start : start + len(part)] = potential.energies(part)
            advance(len(part))
    table["built_energy_eV_per_atom"] = energies
    rows = choose(table[:screened], options.relax)
    funnel = StructureFunnel(
        potential=potential,
        options=FunnelOptions(
            elastic=options.elastic > 0,
            phonon=options.phonon > 0,
            top=max(options.elastic, options.phonon) or None,
        ),
    )
    result = funnel.run([structures[row] for row in rows], [names[row] for row in rows], progress)
    validated = result.table
    validated.index = pd.Index(rows)
    for own, name in _OF_FUNNEL.items():
        table[name] = validated[own].reindex(table.index)
    table["duplicate_of"] = table["duplicate_of"].map(
        lambda value: "" if pd.isna(value) else names[rows[int(value) - 1]]
    )
    table["rung"] = validated["rung"].reindex(table.index).fillna("surrogate")
    for row, relaxed in zip(rows, result.structures, strict=True):
        values = validated.loc[row].to_dict()
        frames[row] = Frame(names[row], structures[row] if relaxed is None else relaxed, values)
    return CrystalCandidates(table, frames)


def choose(table: pd.DataFrame, n: int) -> list[int]:
    """Return the rows that are relaxed, n at most; see the module.

    Args:
        table: Columns crystal, formula and built_energy_eV_per_atom, in the order of the reward.
        n: How many.
    """
    by_energy = table.sort_values("built_energy_eV_per_atom", kind="stable", na_position="last")
    taken: Counter[str] = Counter()
    queues: dict[str, list[int]] = {formula: [] for formula in table["formula"]}  # in the order of the reward
    for row, text, formula in zip(by_energy.index, by_energy["crystal"], by_energy["formula"], strict=True):
        sites = sites_of(text)
        taken[sites] += 1
        if taken[sites] <= _SAME_SITES:
            queues[formula].append(int(row))
    depth = max(map(len, queues.values()), default=0)
    order = [queue[level] for level in range(depth) for queue in queues.values() if level < len(queue)]
    return order[:n]


def sites_of(crystal: str) -> str:
    """Return composition, space group and occupied positions of a crystal's text, coordinates and cell left out."""
    return " | ".join(" ".join(part.split()[:2]) for part in crystal.split(" | ")[:-1])
