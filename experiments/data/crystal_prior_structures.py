"""The crystals that the embedded crystal prior learns from: low-energy entries of the reference table.

    crystals = low_energy_crystals(space)      # texts as `CrystalBatch` writes them

For each composition inside the space the structure types within `MARGIN` of its lowest energy are taken, if that lies
within `ABOVE_HULL` of the hull (CHGNet energies, not DFT): the relaxed structure where there is one, the decorated
prototype at its scanned volume elsewhere.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from importlib import resources
from typing import TYPE_CHECKING

import pandas as pd
import torch
from tqdm import tqdm

from envs.crystal import CrystalSpace
from envs.crystal_standard import standardise
from envs.formula import CompositionBatch
from surrogates.hull import ReferenceHull
from surrogates.prototype_library import prototype_library
from surrogates.prototypes import decorate
from surrogates.reference_table import RELAXED, SCANNED, mixed_element_energies, parse_prototype_entries

if TYPE_CHECKING:
    from pymatgen.core import Structure

MARGIN = 0.05
"""eV/atom above the lowest energy of the composition."""
ABOVE_HULL = 0.2
"""eV/atom."""


def low_energy_crystals(space: CrystalSpace) -> tuple[list[str], Counter[str]]:
    """Return texts of the crystals, and how many others lie outside the space, by the kind of rule."""
    table = _low_energy_entries(space)
    relaxed = _relaxed_structures()
    library = prototype_library()
    structures: list[Structure] = []
    for row in tqdm(table.itertuples(), total=len(table), desc="building"):
        structure = relaxed.get((row.formula, row.prototype))
        if structure is None:
            structure = decorate(row.formula, library[row.prototype]).structure
            structure.scale_lattice(row.volume_A3_per_atom * len(structure))
        structures.append(structure)
    texts: list[str] = []
    outside: Counter[str] = Counter()
    for start in tqdm(range(0, len(structures), 256), desc="standardising", unit="256 structures"):
        found = standardise(structures[start : start + 256])
        outside.update(reason.split(":")[0] for reason in found.reasons if reason is not None)
        batch = list(found.crystals)
        reasons = space.explain(batch)
        texts += [text for text, reason in zip(batch, reasons, strict=True) if reason is None]
        outside.update(reason.split(":")[0] for reason in reasons if reason is not None)
    return texts, outside


def _low_energy_entries(space: CrystalSpace) -> pd.DataFrame:
    content = resources.files("surrogates.data") / "reference.csv.gz"
    with content.open("rb") as file:
        empty = {SCANNED: [""], RELAXED: [""]}
        table = pd.read_csv(file, compression="gzip", keep_default_na=False, na_values=empty)
    materials = CompositionBatch.from_formulas(table["formula"])
    elements = parse_prototype_entries(table).element_energies()
    energy = torch.tensor(table[RELAXED].fillna(table[SCANNED]).to_numpy(dtype="float64"))
    table["formation"] = (energy - mixed_element_energies(materials, elements)).numpy()
    lowest = table.groupby("formula")["formation"].transform("min")
    formulas = sorted(set(table["formula"]))
    reasons = space.composition.explain(formulas)
    inside = [formula for formula, reason in zip(formulas, reasons, strict=True) if reason is None]
    best = table.groupby("formula")["formation"].min().loc[inside]
    above = ReferenceHull.default().e_above_hull(CompositionBatch.from_formulas(inside), torch.tensor(best.to_numpy()))
    near = {formula for formula, value in zip(inside, above.tolist(), strict=True) if value <= ABOVE_HULL}
    return table[table["formula"].isin(near) & (table["formation"] <= lowest + MARGIN)].reset_index(drop=True)


def _relaxed_structures() -> dict[tuple[str, str], Structure]:
    from pymatgen.core import Lattice, Structure

    content = (resources.files("surrogates.data") / "reference_structures.jsonl.gz").read_bytes()
    entries = map(json.loads, gzip.decompress(content).decode().splitlines())
    return {
        (entry["formula"], entry["prototype"]): Structure(
            Lattice(entry["lattice"]), entry["species"], entry["positions"]
        )
        for entry in entries
    }
