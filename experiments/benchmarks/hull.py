"""How fast distances to the convex hull are, on new chemical systems, and whether they are right.

    python experiments/benchmarks/hull.py                         # the embedded table
    python experiments/benchmarks/hull.py --table my_phases.csv   # a table of formation or total energies
    python experiments/benchmarks/hull.py --json true             # one JSON object as the last line

The batched hull is timed on batches of compositions in chemical systems not seen before. pymatgen's `PhaseDiagram` is
timed cold (the diagram of each system is built from the table's entries of that system) and warm (it is at hand and
only asked). One core, processor time.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pymatgen.core import Composition
from torch import Tensor

from envs.formula import CompositionBatch, parse_formula
from surrogates.hull import ReferenceHull
from surrogates.reference_table import load_reference_table, read_reference_table

TOLERANCE = 1e-8  # eV/atom


def new_compositions(hull: ReferenceHull, count: int, size: int, generator: torch.Generator) -> CompositionBatch:
    """Random compositions of so many of the table's elements, counts 1-8."""
    materials = hull.table.materials
    pool = torch.unique(materials.atomic_numbers[materials.amounts > 0])
    numbers = torch.stack([pool[torch.randperm(len(pool), generator=generator)[:size]] for _ in range(count)])
    return CompositionBatch(numbers, torch.randint(1, 9, (count, size), generator=generator).float())


def rate(function: Callable[[CompositionBatch], Tensor], batches: list[CompositionBatch]) -> float:
    """Compositions a second of processor time, the median of the batches."""
    times = []
    for batch in batches:
        start = time.process_time()
        function(batch)
        times.append(time.process_time() - start)
    return len(batches[0]) / float(np.median(times))


def by_pymatgen(hull: ReferenceHull, batch: CompositionBatch, cold: bool) -> tuple[list[float], float]:
    """Hull energies by pymatgen, and compositions a second of processor time."""
    systems = [parse_formula(formula) for formula in batch]
    diagrams = None if cold else [hull.phase_diagram(amounts) for amounts in systems]
    start = time.process_time()
    energies = []
    for row, amounts in enumerate(systems):
        diagram = hull.phase_diagram(amounts) if diagrams is None else diagrams[row]
        energies.append(float(diagram.get_hull_energy_per_atom(Composition(amounts))))
    return energies, len(batch) / (time.process_time() - start)


def main(
    table: Path | None = None,
    sizes: tuple[int, ...] = (2, 3, 4, 5),
    batch_size: int = 4096,
    batches: int = 7,
    compared: int = 100,
    seed: int = 0,
    threads: int = 1,
    json: bool = False,
) -> None:
    """Measure the hull's speed and compare it with pymatgen.

    Args:
        table: Table of phases; the embedded one when left out.
        sizes: Numbers of elements of the compositions.
        batch_size: Compositions a batch.
        batches: Batches of each size.
        compared: Compositions of each size that pymatgen computes too, at most 128; each in a system of its own.
        seed: Seed of everything random.
        threads: Threads of torch.
        json: Print one JSON object as the last line.
    """
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the count of repeated formulas stands in the notes
        hull = ReferenceHull(read_reference_table() if table is None else load_reference_table(table))
    print(hull)
    for note in hull.table.notes:
        print(f"  {note}")
    hull.phase_diagram(parse_formula(hull.table.materials[0]))  # imports what pymatgen needs
    start = time.process_time()
    hull.hull_energy(hull.table.materials[:1])
    results: dict[str, float] = {"formulas": len(hull.table), "preparation_s": time.process_time() - start}
    results["own_formulas_per_s"] = rate(hull.e_above_hull, [hull.table.materials] * 3)
    results["own_formulas_excluded_per_s"] = rate(
        lambda batch: hull.hull_energy(batch, exclude_self=True), [hull.table.materials] * 3
    )
    print(
        f"preparation, once                          {results['preparation_s']:.3f} s\n"
        f"the table's own formulas                   {results['own_formulas_per_s']:>10,.0f} a second\n"
        f"the same, each without itself              {results['own_formulas_excluded_per_s']:>10,.0f} a second\n\n"
        "new compositions a second    batched   pymatgen cold       warm   ratio cold       warm   largest difference"
    )
    for size in sizes:
        new = [new_compositions(hull, batch_size, size, generator) for _ in range(batches)]
        hull.hull_energy(new[0][:16])
        batched = rate(hull.hull_energy, new)
        few = new_compositions(hull, min(compared, 128), size, generator)
        expected, cold = by_pymatgen(hull, few, cold=True)
        warm = by_pymatgen(hull, few, cold=False)[1]
        difference = float((hull.hull_energy(few) - torch.tensor(expected, dtype=torch.float64)).abs().max())
        results |= {
            f"batched_{size}_per_s": batched,
            f"pymatgen_cold_{size}_per_s": cold,
            f"pymatgen_warm_{size}_per_s": warm,
            f"difference_{size}_eV_per_atom": difference,
        }
        print(
            f"  {size} elements             {batched:>10,.0f}      {cold:>10,.0f} {warm:>10,.0f}   "
            f"{batched / cold:>10,.0f} {batched / warm:>10,.0f}   {difference:.1e} eV/atom"
        )
        if difference > TOLERANCE:
            raise SystemExit(f"the batched hull differs from pymatgen's by {difference:g} eV/atom")
    if json:
        print(as_json(results))


def as_json(results: dict[str, float]) -> str:
    return json.dumps(results)


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
