"""What a warm start rehearses so that a few new labels do not overwrite what the network knew.

The training structures are not kept with the weights. In their place stand the new structures with random known
elements on their sites, labelled by the network itself before the fit (Li and Hoiem, IEEE Trans. Pattern Anal. Mach.
Intell. 40, 2935 (2018)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from surrogates.graph_structures import touching_structure

if TYPE_CHECKING:
    from pymatgen.core import Structure

FEWEST, MOST = 128, 1000
"""Structures rehearsed; as many as there are new ones in between."""


def rehearsed_structures(structures: Sequence[Structure], elements: Sequence[str], seed: int) -> list[Structure]:
    """Return structures, scaled until their atoms touch, with random elements in place of the given ones.

    Args:
        structures: The new structures.
        elements: The elements that the network was trained on.
        seed: Seed of the draws.
    """
    from pymatgen.core import Structure

    random = np.random.default_rng(seed)
    rehearsed = []
    for _ in range(min(max(len(structures), FEWEST), MOST)):
        given = structures[random.integers(len(structures))]
        present = sorted({site.specie.symbol for site in given})
        drawn = random.choice(elements, len(present), replace=len(present) > len(elements)).tolist()
        new = dict(zip(present, drawn, strict=True))
        species = [new[site.specie.symbol] for site in given]
        rehearsed.append(touching_structure(Structure(given.lattice, species, given.frac_coords)))
    return rehearsed
