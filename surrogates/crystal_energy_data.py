"""The reference table as crystals: decorated prototypes with their space groups, Wyckoff positions and energies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import pandas as pd
import torch
from torch import Tensor

from envs.chemistry import ATOMIC_NUMBERS, MAX_ATOMIC_NUMBER
from envs.crystal_batch import CrystalBatch
from envs.crystal_standard import standardise
from envs.formula import CompositionBatch
from surrogates.crystal_site_features import structure_type_keys
from surrogates.datasets import open_data_file
from surrogates.prototype_library import prototype_library
from surrogates.prototypes import decorate
from surrogates.reference_table import RELAXED, SCANNED, mixed_element_energies, parse_prototype_entries

HIGHEST_ENERGY = 3.0
"""eV/atom; entries above are left out: nobody will make them, and their energies are the least reliable."""


def reference_crystals(highest_energy: float = HIGHEST_ENERGY) -> tuple[CrystalBatch, Tensor]:
    """Return the entries of the embedded table as crystals, and their formation energies in eV/atom, float32 (N,).

    The energy is that after relaxation; of an entry that was not relaxed the lowest of its volume scan, an upper bound.
    Lattices and free parameters are those of the compound that the prototype is named after. Of entries with the same
    elements on the same positions the lowest is kept.
    """
    with open_data_file("reference.csv.gz") as file:
        table = pd.read_csv(file, keep_default_na=False, na_values={SCANNED: [""], RELAXED: [""]})
    materials = CompositionBatch.from_formulas(table["formula"])
    energies = torch.tensor(table[RELAXED].fillna(table[SCANNED]).to_numpy(dtype="float64"))
    energies = energies - mixed_element_energies(materials, parse_prototype_entries(table).element_energies())
    kept = (energies < highest_energy).nonzero()[:, 0]  # and so none without an energy
    formulas, prototypes = table["formula"].to_numpy()[kept], table["prototype"].to_numpy()[kept]
    crystals = decorated_crystals(materials.rows(kept), formulas, prototypes)
    lowest = _lowest_of_each(structure_type_keys(crystals, with_elements=True), energies[kept])
    return crystals.rows(lowest), energies[kept][lowest].float()


def decorated_crystals(materials: CompositionBatch, formulas: Sequence[str], prototypes: Sequence[str]) -> CrystalBatch:
    """Return prototypes, by name, with the elements of formulas on their positions, as `decorate` places them.

    Args:
        materials: N compositions.
        formulas: The same as text.
        prototypes: N names.

    Raises:
        ValueError: A structure type cannot be described by a space group and positions.
    """
    names = list(dict.fromkeys(prototypes))
    library = prototype_library()
    standard = standardise([library[name].structure for name in names])
    for name, reason in zip(names, standard.reasons, strict=True):
        if reason is not None:
            raise ValueError(f"structure type {name!r}: {reason}")
    place = {name: row for row, name in enumerate(names)}
    rows = torch.tensor([place[name] for name in prototypes])
    partners = torch.zeros(len(rows), MAX_ATOMIC_NUMBER + 1, dtype=torch.long)
    for row, (formula, name) in enumerate(zip(formulas, prototypes, strict=True)):
        for old, new in _partners(formula, name).items():
            partners[row, old] = new
    chosen = standard.crystals.rows(rows)
    element = partners.gather(1, chosen.element)
    return CrystalBatch(materials, chosen.space_group, element, chosen.position, chosen.free, chosen.lattice)


@lru_cache(maxsize=1 << 17)
def _partners(formula: str, name: str) -> dict[int, int]:
    """Atomic number put in the place of each of a prototype."""
    prototype = prototype_library()[name]
    new = decorate(formula, prototype).structure
    pairs = zip(prototype.structure, new, strict=True)
    return {ATOMIC_NUMBERS[old.specie.symbol]: ATOMIC_NUMBERS[site.specie.symbol] for old, site in pairs}


def _lowest_of_each(keys: Tensor, energies: Tensor) -> Tensor:
    """Return the row of the lowest energy of each key, ascending."""
    frame = pd.DataFrame({"key": keys.numpy(), "energy": energies.numpy()})
    return torch.tensor(frame.groupby("key")["energy"].idxmin().sort_values().to_numpy())
