"""Candidates that are crystals: distinct samples ranked by reward, the best of them screened, relaxed and validated.

Which crystals are relaxed: of the `screen` best, each composition's in ascending order of their energy as built
(CHGNet), the first of every composition in the order of its reward before the second of any, and not more than two of
one space group with the same positions (`sites_of`). What has no energy as built is not relaxed, and says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch

from agent.candidates import gather_evidence
from agent.config import CrystalConfig
from agent.design_agent import DesignAgent
from agent.structure_output import Frame
from envs import CrystalBatch, CrystalSpace
from envs.composition_limits import CompositionLimits
from envs.wyckoff import space_group
from surrogates.elasticity import check_matcalc
from surrogates.phonons import check_phonopy
from surrogates.potential import CHGNetPotential, Potential
from surrogates.progress import progress_bar
from surrogates.structure_funnel import FunnelOptions, FunnelResult, StructureFunnel

if TYPE_CHECKING:
    from pymatgen.core import Structure

RELAXED_HULL = "relaxed_e_above_hull_eV_per_atom"
"""Column of the distance to the hull after relaxation."""
_SAME_SITES = 2
_BATCH = 32
_NO_ENERGY = "the potential gives no energy for the crystal as built"
_OF_FUNNEL = {
    "relaxed_space_group": "relaxed_space_group",
    "converged": "converged",
    "novel_structure": "novel_structure",
    "energy_eV_per_atom": "relaxed_energy_eV_per_atom",
    "formation_energy_eV_per_atom": "relaxed_formation_energy_eV_per_atom",
    "e_above_hull_eV_per_atom": RELAXED_HULL,
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
    """Raise a ValueError that names a number out of range, or a package that is missing."""
    for name in ("screen", "relax", "elastic", "phonon"):
        if getattr(options, name) < 0:
            raise ValueError(f"crystal: {name}: {getattr(options, name)} is not 0 or more")
    for name, check_package in (("elastic", check_matcalc), ("phonon", check_phonopy)):
        if not getattr(options, name):
            continue
        if not options.relax:
            raise ValueError(f"crystal: {name}: only relaxed crystals can be judged, but relax is 0")
        try:
            check_package()
        except ValueError as error:
            raise ValueError(f"crystal: {error}") from None


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
    with progress_bar(progress, n_samples, "sampling", "sample") as advance:
        samples = agent.sample(n_samples, seed=seed)
        advance(n_samples)
    distinct = samples.drop_duplicates("material").sort_values("log_reward", ascending=False, kind="stable").head(n)
    table = distinct.rename(columns={"material": "crystal"}).reset_index(drop=True)
    screened = min(max(options.screen, options.relax), len(table)) if options.relax else 0
    if screened:
        potential = potential or CHGNetPotential()
        energies, problems = _built_energies(table["crystal"].tolist()[:screened], potential, progress)
        table["built_energy_eV_per_atom"] = pd.Series(energies, dtype=float).reindex(table.index)
        table["reason"] = pd.Series(problems, dtype=object).reindex(table.index, fill_value="")
        # the reward of a crystal does not tell its coordinates apart
        table = table.sort_values(["log_reward", "built_energy_eV_per_atom"], ascending=[False, True], kind="stable")
    assert isinstance(agent.space, CrystalSpace)
    table = _described(table.reset_index(drop=True), agent.space.composition.limits)
    structures = CrystalBatch.from_texts(table["crystal"]).structures()
    names = [f"{rank:04d}_{formula}" for rank, formula in zip(table["rank"], table["formula"], strict=True)]
    frames = [Frame(name, s, {"formula": f}) for name, s, f in zip(names, structures, table["formula"], strict=True)]
    if not screened:
        return CrystalCandidates(table, frames)
    rows = choose(table[table["built_energy_eV_per_atom"].notna()], options.relax)
    funnel = StructureFunnel(
        potential=potential,
        options=FunnelOptions(
            charge_rules=False,  # the space has seen to charges, by rules of its own
            elastic=options.elastic > 0,
            phonon=options.phonon > 0,
            top=max(options.elastic, options.phonon) or None,
        ),
    )
    result = funnel.run([structures[row] for row in rows], [names[row] for row in rows], progress)
    if result.interrupted:
        raise KeyboardInterrupt
    _add_validation(table, rows, result, names)
    for row, relaxed in zip(rows, result.structures, strict=True):
        values = {"rung": table["rung"][row], "formula": table["formula"][row]}
        if relaxed is not None:
            values |= {own: table[name][row] for own, name in _OF_FUNNEL.items()}
        frames[row] = Frame(names[row], structures[row] if relaxed is None else relaxed, values)
    return CrystalCandidates(table, frames)


def _built_energies(crystals: list[str], potential: Potential, progress: bool) -> tuple[list[float], list[str]]:
    """Energies of crystals as they were built, eV/atom, NaN where the potential cannot tell; and why it cannot."""
    structures = CrystalBatch.from_texts(crystals).structures()
    energies: list[float] = []
    with progress_bar(progress, len(structures), "energies as built", "crystal") as advance:
        for start in range(0, len(structures), _BATCH):
            part = structures[start : start + _BATCH]
            energies += _energies(part, potential)
            advance(len(part))
    pairs = zip(energies, structures, strict=True)
    return energies, [_problem(structure, potential) if math.isnan(energy) else "" for energy, structure in pairs]


def _energies(structures: Sequence[Structure], potential: Potential) -> list[float]:
    try:
        found = [float(energy) for energy in potential.energies(structures)]
        if len(found) != len(structures):
            raise ValueError(f"{len(found)} energies for {len(structures)} structures")
    except Exception:  # a potential of the user's may raise anything; one bad structure must not end a run
        if len(structures) == 1:
            return [math.nan]
        return [energy for structure in structures for energy in _energies([structure], potential)]
    return [energy if math.isfinite(energy) else math.nan for energy in found]


def _problem(structure: Structure, potential: Potential) -> str:
    """Why a potential has no energy for a structure, in a line."""
    try:
        (found,) = potential.evaluate([structure])
    except Exception as error:
        return f"the potential failed: {(str(error).splitlines() or [type(error).__name__])[0]}"
    return found if isinstance(found, str) else _NO_ENERGY


def _add_validation(table: pd.DataFrame, rows: Sequence[int], result: FunnelResult, names: Sequence[str]) -> None:
    """Add what the funnel found of some rows, in place."""
    validated = result.table.set_index(pd.Index(rows, dtype=int))
    not_tried = {"relaxed_space_group": pd.Series("", table.index), "reason": table.pop("reason")}
    for own, name in _OF_FUNNEL.items():
        column = validated[own].reindex(table.index)
        table[name] = column.where(column.notna(), not_tried[own]) if own in not_tried else column
    # the same after relaxation, or, where that failed, before
    equal = validated["relaxed_duplicate_of"].fillna(validated["duplicate_of"].where(validated["relaxed"] == "failed"))
    firsts = {row: names[rows[int(first) - 1]] for row, first in equal.dropna().items()}
    table["duplicate_of"] = [firsts.get(row, "") for row in table.index]
    table["rung"] = validated["rung"].reindex(table.index).fillna("surrogate")


def _described(table: pd.DataFrame, limits: CompositionLimits) -> pd.DataFrame:
    """Add rank, names of space groups, numbers of atoms, and the evidence on the compositions."""
    table.insert(0, "rank", range(1, len(table) + 1))
    table.insert(2, "reward", table.pop("log_reward").map(lambda value: float(torch.tensor(value).exp())))
    batch = CrystalBatch.from_texts(table["crystal"])
    table["space_group"] = [f"{space_group(number).symbol} ({number})" for number in batch.space_group.tolist()]
    table["n_atoms"] = batch.n_atoms.tolist()
    front = ["rank", "formula", "space_group"]
    table = table[[*front, *(name for name in table if name not in front)]]
    return pd.concat([table, gather_evidence(table["formula"].tolist(), limits)], axis=1)


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
    """Return composition, space group and occupied positions of a crystal's text, coordinates and cell left out.

    The same for positions that another origin or other axes make equal: "KCl | 225 | K a | Cl b" for K on b, Cl on a.
    """
    formula, number, *sites = crystal.split(" | ")[:-1]
    letters: dict[str, str] = {}
    for symbol, letter in (site.split()[:2] for site in sites):
        letters[symbol] = letters.get(symbol, "") + letter
    canonical = space_group(int(number)).canonical_letters(list(letters.values()))
    return " | ".join([formula, number, *map(" ".join, zip(letters, canonical, strict=True))])
