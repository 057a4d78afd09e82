"""Fit `GraphModel` to energies of decorated prototypes and write its weights into `surrogates/data/`.

The table is JSON lines, one structure a line:

    {"formula": ..., "relaxed": true, "formation_energy": eV/atom or null,
     "structure": {"lattice": 3x3 in Å, "species": [...], "positions": fractional, N x 3}}

A tenth of the chemical systems tests the model and another tenth picks the weights; the measures on the first travel
with the weights. The file always holds the best weights so far, so an interrupted run leaves usable ones (without
measures).

    python experiments/data/fit_graph.py --data prototypes.jsonl.gz
"""

from __future__ import annotations

import gzip
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import auto_cli
from pymatgen.core import Lattice, Structure

from surrogates.graph import DEFAULT_WEIGHTS, GraphModel
from surrogates.graph_options import GraphOptions
from surrogates.graph_structures import compositions
from surrogates.structure_checks import structure_problem
from surrogates.validation import grouped_folds


@dataclass
class Options:
    """Settings of the script."""

    data: Path
    output: Path = Path("surrogates/data") / DEFAULT_WEIGHTS
    seed: int = 0
    epochs: int = 20
    units: int = 32
    batch: int = 64
    highest_energy: float = 3.0
    """eV/atom; structures above are left out: nobody will make them, and their energies are the least reliable."""
    limit: int = 0
    """Read no more structures than this (0: all)."""


def read_structures(options: Options) -> tuple[list[Structure], torch.Tensor, torch.Tensor]:
    """Return structures, formation energies (N,) in eV/atom and whether each was relaxed (N,)."""
    structures: list[Structure] = []
    energies: list[float] = []
    relaxed: list[bool] = []
    unfit = 0
    opened = gzip.open if options.data.name.endswith(".gz") else open
    with opened(options.data, "rt", encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            energy, cell = entry["formation_energy"], entry["structure"]
            if energy is None or not -6 < energy < options.highest_energy:
                unfit += 1
                continue
            structure = Structure(Lattice(cell["lattice"]), cell["species"], cell["positions"])
            if structure_problem(structure) is not None:
                unfit += 1
                continue
            structures.append(structure)
            energies.append(energy)
            relaxed.append(bool(entry["relaxed"]))
            if len(structures) == options.limit:
                break
    print(f"{len(structures):,} structures, {sum(relaxed):,} of them relaxed; {unfit:,} left out", flush=True)
    return structures, torch.tensor(energies, dtype=torch.float64), torch.tensor(relaxed)


def main(options: Options) -> None:
    torch.set_num_threads(1)
    structures, energies, relaxed = read_structures(options)
    fold = grouped_folds(compositions(structures), 10, options.seed)
    rest, test = (fold != 0).nonzero()[:, 0], (fold == 0).nonzero()[:, 0]
    shape = GraphOptions(units=options.units, batch=options.batch, epochs=options.epochs, held_out=9)
    model = GraphModel(shape, options.seed)
    start = time.perf_counter()
    model.fit([structures[i] for i in rest], energies[rest], checkpoint=options.output, progress=True)
    print(f"fitted in {(time.perf_counter() - start) / 60:.1f} minutes")
    model.validation = model.validate([structures[i] for i in test], energies[test])
    model.save(options.output)
    print(model.validation)
    for name, rows in (("relaxed", test[relaxed[test]]), ("only scanned", test[~relaxed[test]])):
        if len(rows):
            print(f"{name}: {model.validate([structures[i] for i in rows], energies[rows])}")
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(auto_cli(Options, as_positional=False))
