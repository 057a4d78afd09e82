"""How good and how fast the energies are: reference hull, composition model, structure model.

    python experiments/benchmarks/energies.py                     # everything but the oracle
    python experiments/benchmarks/energies.py --oracle true       # relaxes every compound of the experimental table too
    python experiments/benchmarks/energies.py --table mine.csv    # columns as in the Materials Project table below

1. Against experimental standard enthalpies of formation (surrogates/data/standard_enthalpies.csv), always.
2. Against a table of computed energies with structures, when it is there: columns pretty_formula,
   formation_energy_per_atom, e_above_hull (eV/atom) and cif.
3. Reward with and without the distance to the hull, new compositions a second on one core.

What is not there (a model without weights, a table) is left out with one line.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pandas as pd
import torch
from jsonargparse import auto_cli
from torch import Tensor

from agent import Objective, Reward
from envs import CompositionSpace
from envs.formula import CompositionBatch, parse_formula, reduced_formula
from surrogates.standard_enthalpies import read_standard_enthalpies

if TYPE_CHECKING:
    from surrogates.energy import EnergyModel
    from surrogates.graph import GraphModel
    from surrogates.hull import ReferenceHull

MUST_BE_STABLE = ("TiO2", "Al2O3", "MgO", "NaCl", "ZnO", "SrTiO3")
STABLE_WITHIN = 0.03  # eV/atom
NEAR_HULL = 0.1  # eV/atom
TARGET_MAE = 0.15  # eV/atom, oracle against experiment
TARGET_RATE = 5000  # new compositions a second, reward with all three properties


T = TypeVar("T")


@dataclass
class Options:
    """Settings of the benchmark."""

    table: Path = Path("../shared/data/mp20_val.csv.gz")
    """Table of computed energies; left out when there is none."""
    reference: Path | None = None
    """Table of phases for the hull instead of the embedded one."""
    structures: int = 1000
    """Rows of the table whose structures `GraphModel` predicts."""
    oracle: bool = False
    """Relax the experimental compounds with CHGNet as well."""
    compounds: int = 0
    """How many of them; those that must be stable come first; 0: all."""
    batch_size: int = 4096
    repeats: int = 7
    """Rounds of the speed measurement; the medians are reported."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Energies:
    """What one source says about N materials; NaN where it says nothing."""

    source: str
    formation_energy: Tensor
    """Double (N,), eV/atom."""
    e_above_hull: Tensor
    """Double (N,), eV/atom."""


def available(name: str, make: Callable[[], T]) -> T | None:
    """Return what is made, or None after one line when a file, a package or a property is not there."""
    try:
        return make()
    except (ImportError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(f"{name} left out: {reason}")
        return None


def reference_hull(path: Path | None) -> ReferenceHull:
    from surrogates.hull import ReferenceHull
    from surrogates.reference_table import load_reference_table

    hull = ReferenceHull.default() if path is None else ReferenceHull(load_reference_table(path))
    print(hull)
    return hull


def default_energy_model() -> EnergyModel:
    from surrogates.energy import EnergyModel

    return EnergyModel.default()


def default_graph_model() -> GraphModel:
    from surrogates.graph import GraphModel

    return GraphModel.default()


def of_hull(hull: ReferenceHull, materials: CompositionBatch) -> Energies:
    formation = hull.formation_energy(materials, missing="nan")
    return Energies(hull.source, formation, hull.e_above_hull(materials, missing="nan"))


def of_model(model: EnergyModel, materials: CompositionBatch) -> Energies:
    mean = model.predict(materials).mean.double()
    return Energies("EnergyModel", mean[:, 0], mean[:, 1])


def of_oracle(materials: CompositionBatch) -> Energies:
    from surrogates.oracle import CHGNetOracle

    started = time.perf_counter()
    oracle = CHGNetOracle()
    labels = oracle.label(list(materials))
    for label in labels:
        if label.failure is not None:
            print(f"  oracle failed on {label.material}: {label.failure}")
    print(f"oracle: {len(labels)} compounds in {time.perf_counter() - started:,.0f} s")
    formation, above = (
        torch.tensor([dict(label.values).get(name, torch.nan) for label in labels], dtype=torch.double)
        for name in ("formation_energy", "e_above_hull")
    )
    return Energies(f"{oracle.name} {oracle.version}, not DFT", formation, above)


# Figures


def spearman(first: Tensor, second: Tensor) -> float:
    ranks = pd.DataFrame({"first": first.numpy(), "second": second.numpy()}).rank()
    return float(ranks.corr().to_numpy()[0, 1])


def deviation_line(predicted: Tensor, truth: Tensor) -> str:
    """Return number of values, mean absolute error, mean error (eV/atom) and rank correlation, as one line."""
    known = ~(predicted.isnan() | truth.isnan())
    error = (predicted - truth)[known]
    if len(error) < 3:
        return f"{len(error):>7,} of {len(truth):,} known"
    return (
        f"{len(error):>7,} of {len(truth):<7,} MAE {error.abs().mean():z.3f}   mean error {error.mean():+z.3f}   "
        f"Spearman {spearman(predicted[known], truth[known]):z.3f}"
    )


def share_line(distance: Tensor) -> str:
    """Return which share of the known distances to the hull, eV/atom, is at most `NEAR_HULL`."""
    known = distance[~distance.isnan()]
    if not len(known):
        return "nothing known"
    return f"{(known <= NEAR_HULL).double().mean():.1%} of {len(known):,} known ({len(distance):,} in all)"


# 1. Experiment


def selected_compounds(count: int, seed: int) -> pd.DataFrame:
    """Return the experimental compounds, those that must be stable first; a random choice of the others."""
    table = read_standard_enthalpies()
    first = table["formula"].isin(MUST_BE_STABLE)
    if not count:
        return pd.concat([table[first], table[~first]], ignore_index=True)
    others = table[~first].sample(frac=1, random_state=seed)
    return pd.concat([table[first], others], ignore_index=True).head(count)


def compare_with_experiment(hull: ReferenceHull | None, model: EnergyModel | None, options: Options) -> None:
    table = selected_compounds(options.compounds, options.seed)
    materials = CompositionBatch.from_formulas(table["formula"])
    truth = torch.tensor(table["formation_energy_eV_per_atom"].to_numpy())
    sources: dict[str, Energies] = {}
    if hull is not None:
        sources["hull"] = of_hull(hull, materials)
    if model is not None:
        sources["model"] = of_model(model, materials)
    if options.oracle and (labels := available("oracle", lambda: of_oracle(materials))) is not None:
        sources["oracle"] = labels
    print(f"\nExperiment: standard enthalpies of formation of {len(table)} compounds, 298 K (eV/atom)")
    for name, energies in sources.items():
        print(f"  {name:<7}{deviation_line(energies.formation_energy, truth)}   ({energies.source})")
    if hull is not None:
        found = dict(zip(hull.table.materials, hull.table.prototypes, strict=True))
        table = table.assign(lowest_prototype=[found.get(formula, "-") for formula in table["formula"]])
    print_compounds(table, truth, sources)
    judge(table["formula"].tolist(), truth, sources)


def print_compounds(table: pd.DataFrame, truth: Tensor, sources: Mapping[str, Energies]) -> None:
    """Print every compound, the worst first: measured energy, deviations and distances to the hull in eV/atom."""
    shown = table.drop(columns=["formation_energy_eV_per_atom", "source"]).assign(measured=truth.numpy())
    for name, energies in sources.items():
        shown[f"{name}_error"] = (energies.formation_energy - truth).numpy()
        shown[f"{name}_above_hull"] = energies.e_above_hull.numpy()
    if sources:
        shown = shown.sort_values(f"{next(iter(sources))}_error", key=lambda column: -column.abs())
    print(shown.to_string(index=False, float_format=lambda value: f"{value:z.3f}", na_rep="-"))


def judge(formulas: list[str], truth: Tensor, sources: Mapping[str, Energies]) -> None:
    """Print whether the targets are met."""
    for name in ("hull", "oracle"):
        if name not in sources:
            continue
        energies = sources[name]
        rows = {formula: row for row, formula in enumerate(formulas) if formula in MUST_BE_STABLE}
        distance = {formula: float(energies.e_above_hull[row]) for formula, row in rows.items()}
        listed = ", ".join(f"{formula} {value:z.3f}" for formula, value in distance.items())
        met = all(value <= STABLE_WITHIN for value in distance.values())
        print(f"{name}: within {STABLE_WITHIN} eV/atom of the hull: {'yes' if met else 'NO'} ({listed})")
        error = (energies.formation_energy - truth).abs()
        mae, n = float(error.nanmean()), int((~error.isnan()).sum())
        print(
            f"{name}: MAE <= {TARGET_MAE} eV/atom: {'yes' if mae <= TARGET_MAE else 'NO'} ({mae:z.3f}, {n} compounds)"
        )


# 2. A table of computed energies


def compare_with_table(
    hull: ReferenceHull | None, model: EnergyModel | None, graph: GraphModel | None, options: Options
) -> None:
    rows = pd.read_csv(
        options.table, usecols=["pretty_formula", "formation_energy_per_atom", "e_above_hull", "cif"]
    ).assign(formula=lambda table: [reduced_formula(formula) for formula in table["pretty_formula"]])
    lowest = rows.sort_values("e_above_hull").drop_duplicates("formula").reset_index(drop=True)
    materials = CompositionBatch.from_formulas(lowest["formula"])
    print(
        f"\n{options.table.name}: {len(rows):,} entries, {len(lowest):,} formulas; the lowest entry of a formula counts"
    )
    truth = torch.tensor(lowest["formation_energy_per_atom"].to_numpy())
    above = torch.tensor(lowest["e_above_hull"].to_numpy())
    stable = above == 0
    looked_up: Tensor | None = None
    if hull is not None:
        energies = of_hull(hull, materials)
        looked_up = energies.formation_energy
        print_by_elements(f"reference table ({energies.source})", looked_up, truth, materials)
        own = hull.e_above_hull(materials, truth, missing="nan")
        print(
            f"  stable in the table, table's energy within {NEAR_HULL} eV/atom of our hull: {share_line(own[stable])}"
        )
        below = own[stable & ~own.isnan()] < -NEAR_HULL
        print(f"  more than {NEAR_HULL} eV/atom below our hull, which lacks such a phase: {below.double().mean():.1%}")
    if model is not None:
        predicted = of_model(model, materials)
        print_by_elements("EnergyModel", predicted.formation_energy, truth, materials)
        print(
            f"  stable in the table, predicted within {NEAR_HULL} eV/atom: {share_line(predicted.e_above_hull[stable])}"
        )
        print(f"  distance to the hull, all formulas {deviation_line(predicted.e_above_hull, above)}")
        if looked_up is not None:
            unseen = looked_up.isnan()
            print(f"  formulas that the reference table has not, formation energy "
                  f"{deviation_line(predicted.formation_energy[unseen], truth[unseen])}")  # fmt: skip
            print(f"  the same, distance to the hull {deviation_line(predicted.e_above_hull[unseen], above[unseen])}")
    if graph is not None:
        compare_structures(graph, rows, options)


def print_by_elements(name: str, predicted: Tensor, truth: Tensor, materials: CompositionBatch) -> None:
    n_elements = (materials.amounts > 0).sum(1)
    print(f"  {name}: formation energy (eV/atom)")
    for count in sorted(set(n_elements.tolist())):
        chosen = n_elements == count
        print(f"    {count} elements {deviation_line(predicted[chosen], truth[chosen])}")
    print(f"    all        {deviation_line(predicted, truth)}")


def compare_structures(graph: GraphModel, rows: pd.DataFrame, options: Options) -> None:
    from pymatgen.core import Structure

    trained = set(graph.elements)
    judged = rows[[parse_formula(formula).keys() <= trained for formula in rows["formula"]]]
    chosen = judged.sample(min(options.structures, len(judged)), random_state=options.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen comments on rounded coordinates
        structures = [Structure.from_str(cif, fmt="cif") for cif in chosen["cif"]]
    started = time.perf_counter()
    predicted = graph.predict(structures).mean[:, 0].double()
    seconds = time.perf_counter() - started
    truth = torch.tensor(chosen["formation_energy_per_atom"].to_numpy())
    print_by_elements("GraphModel", predicted, truth, CompositionBatch.from_formulas(chosen["formula"]))
    print(f"    {len(structures) / seconds:,.0f} structures a second")


# 3. Speed


def measure_rewards(options: Options) -> None:
    """Print new compositions a second of processor time, features included, of two rewards that take turns."""
    plain = [Objective("band_gap", "window", 1.1, 1.6), Objective("supply_risk", "minimize", 1000, 5000, weight=0.5)]
    full = [*plain, Objective("e_above_hull", "minimize", 0.0, NEAR_HULL)]
    rewards = {"band_gap + supply_risk": Reward(plain)}
    three = available("reward with e_above_hull", lambda: Reward(full))
    if three is not None:
        rewards["band_gap + supply_risk + e_above_hull"] = three
    space = CompositionSpace()
    generator = torch.Generator().manual_seed(options.seed)
    times: dict[str, list[float]] = {name: [] for name in rewards}
    for _ in range(options.repeats + 1):
        for name, reward in rewards.items():
            batch = space.materials(space.sample_uniform_policy(options.batch_size, generator))
            started = time.process_time()
            reward(batch)
            times[name].append(time.process_time() - started)
    rates = [options.batch_size / statistics.median(taken[1:]) for taken in times.values()]  # the first warms up
    print(f"\nReward, new compositions a second of processor time, batches of {options.batch_size:,}")
    for name, rate in zip(rewards, rates, strict=True):
        print(f"  {name:<40} {rate:>10,.0f}")
    if len(rates) == 2:
        met = "yes" if rates[1] >= TARGET_RATE else "NO"
        print(f"  ratio {rates[1] / rates[0]:.2f}; at least {TARGET_RATE:,}: {met}")


def main(options: Options) -> None:
    torch.set_num_threads(1)
    hull = available("reference hull", lambda: reference_hull(options.reference))
    model = available("EnergyModel", default_energy_model)
    compare_with_experiment(hull, model, options)
    if options.table.is_file():
        compare_with_table(hull, model, available("GraphModel", default_graph_model), options)
    else:
        print(f"\nTable of computed energies left out: there is no {options.table}")
    measure_rewards(options)


if __name__ == "__main__":
    main(auto_cli(Options))
