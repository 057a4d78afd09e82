"""Computation of a reference table: elements, then volume scans of all compounds, then relaxation of the best.

Work is cut into the same batches whenever and wherever it runs, and a batch is stored whole: a computation that was
killed and started again ends with the same numbers as one that was not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from envs.formula import CompositionBatch
from surrogates.convex_hull import ConvexHull
from surrogates.reference_plan import ReferenceOptions, Task, compound_tasks, element_tasks
from surrogates.reference_store import ReferenceStore, StoredResult

if TYPE_CHECKING:
    from pymatgen.core import Structure

STORE = "reference.db"
_SCANS_OF_A_BATCH = 24
_RELAXATIONS_OF_A_BATCH = 12
_ELEMENT_STRUCTURES = 4
"""Structures of an element that are relaxed."""

Progress = Callable[[str, int, int, int], None]
"""Called with the stage, the number of results so far, of all, and of failures."""


def build_reference(
    folder: Path, options: ReferenceOptions, executor: Executor, workers: int, progress: Progress | None = None
) -> ReferenceStore:
    """Compute everything that the folder does not hold yet; returns the open store.

    Args:
        folder: Where `reference.db` lies or is made.
        options: What the table covers.
        executor: Where batches are computed; whoever made it shuts it down and cancels what is still waiting.
        workers: Batches under way at the same time.
        progress: Told of each batch.

    Raises:
        ValueError: The folder holds results of other options, or an element has no structure that could be relaxed.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = ReferenceStore(folder / STORE, options.as_dict())
    try:
        _run_stages(store, options, executor, workers, progress)
    except BaseException:
        store.close()
        raise
    return store


def _run_stages(
    store: ReferenceStore, options: ReferenceOptions, executor: Executor, workers: int, progress: Progress | None
) -> None:
    def run(stage: str, tasks: Sequence[Task], volumes: dict[Task, float] | None = None) -> None:
        _run_stage(store, stage, tasks, volumes, options, executor, workers, progress)

    run("element_scan", element_tasks(options))
    best = _best(store.results("element_scan"), _ELEMENT_STRUCTURES)
    run("element_relaxation", [(r.formula, r.prototype) for r in best], _volumes(best))
    references = _element_energies(store, options)
    run("scan", compound_tasks(options))
    chosen = choose_relaxations(store.results("scan"), references, options)
    run("relaxation", [(r.formula, r.prototype) for r in chosen], _volumes(chosen))


def choose_relaxations(
    scans: Sequence[StoredResult], references: dict[str, float], options: ReferenceOptions
) -> list[StoredResult]:
    """Return the scans to relax: the best few of each composition, those nearest to the hull of all scans first.

    Those of which symmetry leaves only the volume to relax come last: their scan has told it.
    """
    from surrogates.prototype_library import prototype_library

    best = _best(scans, options.relaxed_per_formula)
    if not best:
        return []
    batch = CompositionBatch.from_formulas([result.formula for result in best])
    elements = CompositionBatch.from_formulas(list(references))
    energies = torch.tensor([result.energy or 0.0 for result in best], dtype=torch.float64)
    table = torch.zeros(104, dtype=torch.float64)
    table[elements.atomic_numbers[:, 0]] = torch.tensor(list(references.values()), dtype=torch.float64)
    formation = energies - (batch.fractions.double() * table[batch.atomic_numbers]).sum(1)
    lowest: dict[str, float] = dict.fromkeys(references, 0.0)
    for result, energy in zip(best, formation.tolist(), strict=True):
        lowest[result.formula] = min(energy, lowest.get(result.formula, energy))
    hull = ConvexHull(CompositionBatch.from_formulas(list(lowest)), torch.tensor(list(lowest.values())).double())
    above = (formation - hull.energy(batch)).tolist()
    library = prototype_library()
    keyed = [
        ((library[result.prototype].fixed_by_symmetry, round(distance, 6), result.formula, result.prototype), result)
        for result, distance in zip(best, above, strict=True)
    ]
    return [result for _, result in sorted(keyed, key=lambda entry: entry[0])][: options.relaxations]


def _best(results: Sequence[StoredResult], count: int) -> list[StoredResult]:
    """Return up to `count` results of lowest energy of each formula, best first, equal energies once."""
    by_formula: dict[str, list[StoredResult]] = defaultdict(list)
    for result in results:
        if result.energy is not None:
            by_formula[result.formula].append(result)
    chosen = []
    for formula in sorted(by_formula):
        kept: list[StoredResult] = []
        for result in sorted(by_formula[formula], key=lambda entry: (entry.energy or 0.0, entry.prototype)):
            if all(abs((result.energy or 0.0) - (other.energy or 0.0)) > 1e-4 for other in kept):
                kept.append(result)
        chosen += kept[:count]
    return chosen


def _volumes(results: Sequence[StoredResult]) -> dict[Task, float]:
    return {(r.formula, r.prototype): r.volume for r in results if r.volume is not None}


def _element_energies(store: ReferenceStore, options: ReferenceOptions) -> dict[str, float]:
    energies: dict[str, float] = {}
    for result in store.results("element_relaxation"):
        if result.failure is None and result.energy is not None:
            energies[result.formula] = min(result.energy, energies.get(result.formula, result.energy))
    missing = sorted(set(options.elements) - energies.keys())
    if missing:
        raise ValueError(
            f"elements: no structure of {', '.join(missing)} could be relaxed (no hull without end members)"
        )
    return energies


def _run_stage(
    store: ReferenceStore,
    stage: str,
    tasks: Sequence[Task],
    volumes: dict[Task, float] | None,
    options: ReferenceOptions,
    executor: Executor,
    workers: int,
    progress: Progress | None,
) -> None:
    """Compute the batches that are not stored yet, a few in flight at a time."""
    size = _SCANS_OF_A_BATCH if volumes is None else _RELAXATIONS_OF_A_BATCH
    done = store.done(stage)
    batches = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    pending = iter([batch for batch in batches if not done.issuperset(batch)])
    finished = sum(len(batch) for batch in batches if done.issuperset(batch))
    failures = 0
    under_way: set[Future[list[StoredResult]]] = set()

    def submit(count: int) -> None:
        for _, batch in zip(range(count), pending, strict=False):
            given = None if volumes is None else [volumes[task] for task in batch]
            under_way.add(executor.submit(compute_batch, stage, list(batch), given, options))

    submit(2 * workers)
    while under_way:
        ready, _ = wait(under_way, return_when=FIRST_COMPLETED)
        for future in ready:
            under_way.discard(future)
            results = future.result()
            store.add(results)
            finished += len(results)
            failures += sum(result.failure is not None for result in results)
            if progress is not None:
                progress(stage, finished, len(tasks), failures)
        submit(2 * workers - len(under_way))


def compute_batch(
    stage: str, tasks: list[Task], volumes: list[float] | None, options: ReferenceOptions
) -> list[StoredResult]:
    """Scan (volumes None) or relax (from volumes in A^3/atom) a batch; runs in a worker process."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from surrogates.potential import CHGNetPotential
    from surrogates.prototype_library import prototype_library
    from surrogates.prototypes import decorate

    torch.set_num_threads(1)
    threadpool_limits(1)  # of NumPy's BLAS: the last digits depend on the number of threads
    library, potential = prototype_library(), CHGNetPotential(options.weights)
    structures = [decorate(formula, library[name]).structure for formula, name in tasks]
    if volumes is None:
        return list(_scan_batch(stage, tasks, structures, potential))
    for structure, volume in zip(structures, volumes, strict=True):
        structure.scale_lattice(volume * len(structure))
    return list(_relax_batch(stage, tasks, structures, potential, options))


def _scan_batch(stage: str, tasks: list[Task], structures: list[Structure], potential: Any) -> Iterator[StoredResult]:
    from surrogates.prototype_library import prototype_library
    from surrogates.volume_scan import scan_volumes

    for (formula, name), scan in zip(tasks, scan_volumes(structures, potential), strict=True):
        group = prototype_library()[name].space_group
        failed = scan.failure is not None
        yield StoredResult(
            stage,
            formula,
            name,
            None if failed else scan.energy,
            None if failed else scan.volume,
            0,
            scan.failure,
            None,
            group,
        )


def _relax_batch(
    stage: str, tasks: list[Task], structures: list[Structure], potential: Any, options: ReferenceOptions
) -> Iterator[StoredResult]:
    from surrogates.prototype_library import prototype_library
    from surrogates.relaxation import RelaxationOptions, relax

    settings = RelaxationOptions(
        options.fmax, options.max_steps, batch_size=len(tasks), time_limit=float("inf")
    )  # a limit of time would make the result depend on the machine's load
    for (formula, name), found in zip(tasks, relax(structures, potential, settings), strict=True):
        usable = found.structure is not None and found.failure is None
        yield StoredResult(
            stage,
            formula,
            name,
            found.energy if usable else None,
            found.structure.volume / len(found.structure) if usable and found.structure is not None else None,
            found.steps,
            found.failure,
            encode_structure(found.structure) if usable and found.structure is not None else None,
            prototype_library()[name].space_group,
        )


def encode_structure(structure: Structure) -> str:
    """Return lattice (A), species and fractional positions as compact JSON."""
    return json.dumps(
        {
            "lattice": [[round(float(x), 4) for x in row] for row in structure.lattice.matrix],
            "species": [site.specie.symbol for site in structure],
            "positions": [[round(float(x), 5) for x in row] for row in structure.frac_coords],
        },
        separators=(",", ":"),
    )


def decode_structure(text: str) -> Structure:
    """Return the structure that `encode_structure` wrote."""
    from pymatgen.core import Structure

    values = json.loads(text)
    return Structure(values["lattice"], values["species"], values["positions"])
