"""How good and how fast the band-gap model is.

    python experiments/benchmarks/band_gap.py                # cross-validation, Materials Project, throughput
    python experiments/benchmarks/band_gap.py --folds 0      # without the cross-validation, which takes long
    python experiments/benchmarks/band_gap.py --json true    # one JSON object as the last line

Everything runs on one core unless --threads says otherwise.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from envs.formula import CompositionBatch, reduced_formula
from surrogates.band_gap import BandGapModel
from surrogates.band_gap_data import computed_classes, measured_gaps
from surrogates.features import composition_features
from surrogates.validation import area_under_roc

MP20 = Path("../shared/data/mp20_val.csv.gz")
GAPPED_ABOVE = 0.1  # eV, PBE: what counts as gapped in the Materials Project table
WIDE_ABOVE = 0.3  # eV: gaps whose order is compared
BATCH = 4096


def cross_validate(folds: int, seed: int) -> dict[str, float]:
    def progress(fold: int, so_far: object) -> None:
        print(f"after fold {fold + 1} of {folds}:\n{so_far}", flush=True)

    result = BandGapModel(seed=seed).cross_validate(folds=folds, progress=progress)
    print(f"\n{result}\n")
    return result.as_dict()


def compare_with_materials_project(path: Path, seed: int) -> dict[str, float]:
    """Fit without the table's formulas and predict them; each formula's lowest entry above the hull counts."""
    table = pd.read_csv(path, usecols=["pretty_formula", "band_gap", "e_above_hull"])
    table["formula"] = [reduced_formula(formula) for formula in table["pretty_formula"]]
    table = table.sort_values("e_above_hull").drop_duplicates("formula")
    left_out = set(table["formula"])
    measured, computed = measured_gaps().without(left_out), computed_classes().without(left_out)
    model = BandGapModel(seed=seed).fit(measured.materials, measured.labels, computed=computed)
    predicted = model.distribution(table["formula"])
    gap = torch.tensor(table["band_gap"].to_numpy())
    wide = gap > WIDE_ABOVE
    orders = pd.DataFrame({"predicted": predicted.mean[wide].numpy(), "computed": gap[wide].numpy()})
    result = {
        "formulas": len(table),
        "auc_gapped": area_under_roc(predicted.p_gapped, gap > GAPPED_ABOVE),
        "spearman": float(orders.rank().corr().iloc[0, 1]),
    }
    print(
        f"Materials Project, {len(table):,} formulas left out of training\n"
        f"  gapped (PBE gap > {GAPPED_ABOVE} eV)             AUC {result['auc_gapped']:.3f}\n"
        f"  order of gaps above {WIDE_ABOVE} eV ({int(wide.sum()):,})      Spearman {result['spearman']:.3f}\n"
    )
    return result


def new_compositions(count: int, generator: torch.Generator) -> CompositionBatch:
    """Random compositions of five elements, never seen before."""
    numbers = torch.stack([torch.randperm(94, generator=generator)[:5] + 1 for _ in range(count)])
    return CompositionBatch(numbers, torch.randint(1, 9, (count, 5), generator=generator).float())


def rate(function: Callable[[CompositionBatch], object], seconds: float) -> float:
    """Compositions a second of processor time, each batch a new one; the median of the batches."""
    generator = torch.Generator().manual_seed(0)
    function(new_compositions(BATCH, generator))
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        batch = new_compositions(BATCH, generator)
        start = time.process_time()
        function(batch)
        times.append(time.process_time() - start)
    return BATCH / float(np.median(times))


def measure_throughput(seconds: float) -> dict[str, float]:
    from sklearn.ensemble import ExtraTreesRegressor

    measured = measured_gaps()
    gapped = measured.rows(measured.labels > 0)
    forest = ExtraTreesRegressor(200, max_features=0.5, n_jobs=1, random_state=0)
    forest.fit(composition_features(gapped.materials).numpy(), gapped.labels.numpy())
    model = BandGapModel.default()
    result = {
        "features": rate(composition_features, seconds),
        "band_gap_model": rate(lambda batch: model.distribution(batch).probability_between(1.1, 1.6), seconds),
        "extra_trees_200": rate(lambda batch: forest.predict(composition_features(batch).numpy()), seconds),
    }
    print(f"new compositions a second of processor time, batches of {BATCH:,}")
    print(f"  features alone                         {result['features']:>10,.0f}")
    print(f"  BandGapModel, features included        {result['band_gap_model']:>10,.0f}")
    print(f"  scikit-learn ExtraTrees-200, the same  {result['extra_trees_200']:>10,.0f}")
    result["speed_up"] = result["band_gap_model"] / result["extra_trees_200"]
    print(f"  ratio                                  {result['speed_up']:>10.1f}")
    return result


def main(
    folds: int = 5, mp20: Path = MP20, seconds: float = 5.0, seed: int = 0, threads: int = 1, json: bool = False
) -> None:
    """Measure accuracy and speed of the band-gap model.

    Args:
        folds: Folds of the cross-validation; 0 leaves it out.
        mp20: Table of Materials Project gaps; left out when there is none.
        seconds: Time for each throughput measurement.
        seed: Seed of everything random.
        threads: Threads of torch.
        json: Print one JSON object as the last line.
    """
    torch.set_num_threads(threads)
    results: dict[str, dict[str, float]] = {}
    if folds:
        results["cross_validation"] = cross_validate(folds, seed)
    if mp20.is_file():
        results["materials_project"] = compare_with_materials_project(mp20, seed)
    else:
        print(f"Materials Project comparison left out: there is no {mp20}\n")
    results["throughput"] = measure_throughput(seconds)
    if json:
        print(as_json(results))


def as_json(results: dict[str, dict[str, float]]) -> str:
    return json.dumps(results)


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
