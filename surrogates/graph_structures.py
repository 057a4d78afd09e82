"""Crystal structures on their way into a graph network: checked, and brought to a volume that says nothing.

The energy after relaxation does not depend on the volume that a structure was guessed at. So that the network cannot
read anything from it, every structure is scaled until its nearest atoms touch as spheres of their covalent radii.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from envs.chemistry import SYMBOLS
from envs.formula import CompositionBatch
from surrogates.datasets import read_element_properties
from surrogates.structure_checks import structure_problem

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

Graph = tuple[Any, Tensor, Tensor, dict[str, Tensor]]
"""What MatGL collates: PyG graph, lattice (1, 3, 3) in Å, state attributes (2,), labels."""

_PERIODIC = np.ones(3, dtype=np.int64)
_SELF = 1e-8  # Å; an atom's distance to itself


def check_structures(structures: Sequence[Structure], elements: Collection[str], model: str) -> None:
    """Check that a network can judge each structure.

    Args:
        structures: What a caller passed.
        elements: The elements that the network knows.
        model: How errors name the model.

    Raises:
        ValueError: A structure has overlapping atoms, no volume, partial occupancy or an unknown element; the message
            is one line with its number, from 1, and its formula.
    """
    known = set(elements)
    for number, structure in enumerate(structures, start=1):
        problem = structure_problem(structure)
        if problem is None:
            unknown = [symbol for symbol in _symbols(structure) if symbol not in known]
            if unknown:
                verb = "is not an element" if len(unknown) == 1 else "are not elements"
                problem = f"{', '.join(unknown)} {verb} that the network was trained on"
        if problem is not None:
            raise ValueError(f"{model}: structure {number}{_formula(structure)}: {problem}")


def check_labels(structures: Sequence[Structure], labels: Tensor) -> Tensor:
    """Return energies of structures, eV/atom, as float64 (N,) after checking both.

    Raises:
        ValueError: A structure is unfit, or there is not one finite label for each.
    """
    check_structures(structures, SYMBOLS, "GraphModel")
    energies = torch.as_tensor(labels, dtype=torch.float64)
    if energies.shape not in ((len(structures),), (len(structures), 1)) or not len(structures):
        expected = f"one label for each of {len(structures)} structures (and at least one)"
        raise ValueError(f"GraphModel: expected {expected}, not {tuple(energies.shape)}")
    energies = energies.reshape(-1)
    bad = (~torch.isfinite(energies)).nonzero()
    if len(bad):
        row = int(bad[0])
        found = float(energies[row])
        raise ValueError(
            f"GraphModel: structure {row + 1}{_formula(structures[row])}: the label is {found}, not finite"
        )
    return energies


def _symbols(structure: Structure) -> list[str]:
    return sorted({site.specie.symbol for site in structure})


def _formula(structure: object) -> str:
    composition = getattr(structure, "composition", None)
    return f" ({composition.reduced_formula})" if composition else ""


def compositions(structures: Sequence[Structure]) -> CompositionBatch:
    """Return the compositions of ordered structures, oxidation states left out."""
    return CompositionBatch.from_formulas(
        "".join(f"{symbol}{amount:g}" for symbol, amount in s.composition.get_el_amt_dict().items()) for s in structures
    )


@lru_cache(maxsize=1)
def covalent_radii() -> dict[str, float]:
    """Return the covalent radius of each element 1-103 in Å (Cordero et al., Dalton Trans. 2008, 2832)."""
    radii = read_element_properties()["covalent_radius_pm"]
    return {str(symbol): float(radius) / 100 for symbol, radius in radii.items()}


def touching_ratio(structure: Structure) -> float:
    """Return the smallest distance between two atoms, periodic images included, over the sum of their radii."""
    radii = np.array([covalent_radii()[site.specie.symbol] for site in structure])
    cutoff = 1.2 * (structure.volume / len(structure)) ** (1 / 3)
    while True:
        first, second, distances = _neighbours(structure, cutoff)
        if not len(distances):
            cutoff *= 1.3
            continue
        ratio = float((distances / (radii[first] + radii[second])).min())
        if 2 * radii.max() * ratio <= cutoff:  # no pair beyond the cutoff can have a smaller ratio
            return ratio
        cutoff = 2.001 * float(radii.max()) * ratio


def _neighbours(structure: Structure, cutoff: float) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    from pymatgen.optimization.neighbors import find_points_in_spheres

    points, lattice = structure.cart_coords, np.array(structure.lattice.matrix)
    first, second, _, distances = find_points_in_spheres(
        points, points, r=cutoff, pbc=_PERIODIC, lattice=lattice, tol=_SELF
    )
    others = distances > _SELF
    return first[others], second[others], distances[others]


def touching_structure(structure: Structure) -> Structure:
    """Return the structure, as elements without charges, at the volume at which its nearest atoms touch."""
    from pymatgen.core import Lattice, Structure

    lattice = Lattice(structure.lattice.matrix / touching_ratio(structure))
    return Structure(lattice, [site.specie.symbol for site in structure], structure.frac_coords)


def batch_graphs(structures: Sequence[Structure], elements: Sequence[str], cutoff: float) -> Any:
    """Return the structures as one batch of MatGL graphs with positions (`pos`) and image offsets (`pbc_offshift`)."""
    from matgl.ext.pymatgen import Structure2Graph
    from matgl.graph.data import collate_fn_graph

    converter = Structure2Graph(tuple(elements), cutoff)
    items: list[Graph] = []
    for structure in structures:
        graph, lattice, state = converter.get_graph(structure)
        items.append((graph, lattice, torch.as_tensor(state), {"none": torch.zeros(())}))
    batch, _, _, _ = collate_fn_graph(items)
    lattices = torch.cat([lattice for _, lattice, _, _ in items])
    batch.pos = (batch.frac_coords.unsqueeze(-1) * lattices[batch.batch]).sum(1)
    batch.pbc_offshift = (batch.pbc_offset.unsqueeze(-1) * lattices[batch.batch[batch.edge_index[0]]]).sum(1)
    return batch
