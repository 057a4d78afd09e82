"""Write the training data of the graph model: decorated prototypes before relaxation, and their formation energies.

    python experiments/data/make_graph_dataset.py --output graph_dataset.jsonl.gz

One JSON object a line: formula, prototype, relaxed, formation_energy (eV/atom), and the structure (lattice in A,
species, fractional positions) at the volume guessed from radii. Taken are entries that were relaxed, and scanned ones
whose structure type leaves nothing but the volume to relax; entries more than 3 eV/atom above the elements are not.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

from tqdm import tqdm

from surrogates.prototype_library import prototype_library
from surrogates.prototypes import decorate
from surrogates.reference_build import encode_structure
from surrogates.reference_table import RELAXED, SCANNED, mixed_element_energies, parse_prototype_entries


def main() -> None:
    import pandas as pd
    import torch

    from envs.formula import CompositionBatch

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", type=Path, default=Path("surrogates/data/reference.csv.gz"))
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    empty = {SCANNED: [""], RELAXED: [""]}
    table = pd.read_csv(options.table, keep_default_na=False, na_values=empty)
    materials = CompositionBatch.from_formulas(table["formula"])
    elements = parse_prototype_entries(table).element_energies()
    energies = torch.tensor(table[RELAXED].fillna(table[SCANNED]).to_numpy(dtype="float64"))
    formation = (energies - mixed_element_energies(materials, elements)).tolist()
    library = prototype_library()
    with gzip.open(options.output, "wt", encoding="utf-8") as file:
        for row, energy in zip(tqdm(table.itertuples(), total=len(table)), formation, strict=True):
            prototype = library[row.prototype]
            if energy > 3.0 or not (row.converged or prototype.fixed_by_symmetry):
                continue
            structure = decorate(row.formula, prototype).structure
            entry = {
                "formula": row.formula,
                "prototype": row.prototype,
                "relaxed": bool(row.converged),
                "formation_energy": round(energy, 4),
                "structure": json.loads(encode_structure(structure)),
            }
            file.write(json.dumps(entry, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
