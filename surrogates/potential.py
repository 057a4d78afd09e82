"""Interatomic potentials: energies, forces and stresses of batches of crystal structures.

A potential of your own is a class with `name`, `version` and these methods:

    class MyPotential:
        def energies(self, structures): ...   # array (N,), eV/atom
        def evaluate(self, structures): ...   # N values of PotentialValues
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from surrogates.structure_checks import structure_problem

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

_EDGES_OF_A_BATCH = 2500
"""Edges of a batch above which the processor's cache no longer holds what a layer works on."""
_CHGNET_ELEMENTS = 94
"""CHGNet knows hydrogen to plutonium."""


@dataclass(frozen=True, eq=False)
class PotentialValues:
    """What a potential says of one structure of n atoms."""

    energy: float
    """eV/atom."""
    forces: NDArray[np.float64]
    """(n, 3), eV/A."""
    stress: NDArray[np.float64]
    """(3, 3), eV/A^3, positive under tension."""


class Potential(Protocol):
    """A model of the energy of atoms."""

    name: str
    version: str

    def energies(self, structures: Sequence[Structure]) -> NDArray[np.float64]:
        """Return the energy of each structure, eV/atom (N,); NaN where the potential cannot tell."""
        ...

    def evaluate(self, structures: Sequence[Structure]) -> list[PotentialValues | str]:
        """Return energy, forces and stress of each structure, or the reason why the potential cannot tell."""
        ...


class CHGNetPotential:
    """CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031 (2023)) with the weights inside its package.

    Its energies already carry the corrections of the Materials Project (MP2020).

    Args:
        weights: Version of the weights: 0.3.0, 0.2.0 or r2scan.

    Raises:
        ValueError: The package holds no such weights.
    """

    name = "CHGNet"

    def __init__(self, weights: str = "0.3.0") -> None:
        self.version = weights
        self._model, self._batched_graph = _load_chgnet(weights)

    def energies(self, structures: Sequence[Structure]) -> NDArray[np.float64]:
        """Return the energy of each structure, eV/atom (N,); NaN where CHGNet cannot tell."""
        import torch

        result = np.full(len(structures), np.nan)
        for rows, graphs in self._batches([self._graph(structure) for structure in structures]):
            if graphs:
                with torch.no_grad():
                    result[rows] = self._model(graphs, task="e")["e"].double().numpy()
        return result

    def evaluate(self, structures: Sequence[Structure]) -> list[PotentialValues | str]:
        """Return energy, forces and stress of each structure, or the reason why CHGNet cannot tell.

        Forces and stress come from one backward pass, which takes half the time of `CHGNet.predict_structure`.
        """
        import torch

        found_graphs = [self._graph(structure) for structure in structures]
        result: list[PotentialValues | str] = [graph if isinstance(graph, str) else "" for graph in found_graphs]
        for rows, graphs in self._batches(found_graphs):
            if not graphs:
                continue
            model = self._model
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # CHGNet turns tensors with gradients into volumes
                batch = self._batched_graph.from_graphs(
                    graphs,
                    bond_basis_expansion=model.bond_basis_expansion,
                    angle_basis_expansion=model.angle_basis_expansion,
                    compute_stress=True,
                )
            found = model._compute(batch)
            energies = (found["e"] + model.composition_model(graphs)).detach().double().numpy()
            total = (found["e"] * found["atoms_per_graph"]).sum()
            tensors = torch.autograd.grad(total, [*batch.atom_positions, *batch.strains])
            gradients = [tensor.double().numpy() for tensor in tensors]
            for place, row in enumerate(rows):
                strain = gradients[len(rows) + place] / structures[row].volume
                result[row] = PotentialValues(float(energies[place]), -gradients[place], (strain + strain.T) / 2)
        return result

    def _batches(self, found_graphs: Sequence[Any]) -> Any:
        """Yield the rows and graphs of batches with a bounded number of edges."""
        rows: list[int] = []
        graphs: list[Any] = []
        edges = 0
        for row, graph in enumerate(found_graphs):
            if isinstance(graph, str):
                continue
            size = len(graph.atom_graph) + len(graph.bond_graph)
            if graphs and edges + size > _EDGES_OF_A_BATCH:
                yield rows, graphs
                rows, graphs, edges = [], [], 0
            rows.append(row)
            graphs.append(graph)
            edges += size
        yield rows, graphs

    def _graph(self, structure: Structure) -> Any:
        """Return CHGNet's graph, or the reason why there is none."""
        try:
            graph = self._model.graph_converter(structure)
        except Exception as error:  # ValueError for an isolated atom, many types for what is no sound structure
            isolated = "an atom has no neighbour within 6 A"
            return structure_problem(structure) or (isolated if isinstance(error, ValueError) else _first_line(error))
        if int(graph.atomic_number.max()) > _CHGNET_ELEMENTS:
            unknown = {site.specie.symbol for site in structure if site.specie.Z > _CHGNET_ELEMENTS}
            return f"CHGNet does not know {', '.join(sorted(unknown))}"
        return graph


class MatGLPotential:
    """A potential of MatGL by its name on the model hub or its path; evaluated one structure after the other.

    Args:
        model: Name such as "TensorNet-MatPES-PBE-v2025.1-PES", or a folder.

    Raises:
        ValueError: It cannot be loaded, for instance because it is neither here nor can be fetched.
    """

    name = "MatGL"

    def __init__(self, model: str | Path) -> None:
        self.version = str(model)
        try:
            self._calculator: Any = _load_matgl(str(model))
        except Exception as error:  # the hub client raises many types
            reason = _first_line(error.__cause__ or error)[:200]
            if Path(model).exists():
                raise ValueError(f"model {str(model)!r}: not a readable MatGL potential ({reason})") from error
            raise ValueError(
                f"model {str(model)!r}: no weights found (expected the folder of a MatGL potential, or a name on its "
                f"model hub with the network at hand): {reason}"
            ) from error

    def energies(self, structures: Sequence[Structure]) -> NDArray[np.float64]:
        """Return the energy of each structure, eV/atom (N,); NaN where the potential fails."""
        values = self.evaluate(structures)
        return np.array([value.energy if isinstance(value, PotentialValues) else np.nan for value in values])

    def evaluate(self, structures: Sequence[Structure]) -> list[PotentialValues | str]:
        """Return energy, forces and stress of each structure, or the reason why the potential cannot tell."""
        return [self._evaluate_one(structure) for structure in structures]

    def _evaluate_one(self, structure: Structure) -> PotentialValues | str:
        from ase.stress import voigt_6_to_full_3x3_stress as full_stress

        try:
            atoms = plain_atoms(structure)
            atoms.calc = self._calculator
            energy = float(atoms.get_potential_energy()) / len(atoms)
            stress = full_stress(atoms.get_stress())
            return PotentialValues(energy, np.asarray(atoms.get_forces(), dtype=float), np.asarray(stress, dtype=float))
        except Exception as error:  # a graph without edges, an element without weights
            return structure_problem(structure) or _first_line(error)


def plain_atoms(structure: Structure) -> Any:
    """Return an ordered structure as ASE atoms without charges, moments or constraints, which ASE would heed."""
    from ase import Atoms

    numbers = [site.specie.Z for site in structure]
    return Atoms(numbers, cell=structure.lattice.matrix, scaled_positions=structure.frac_coords, pbc=True)


def _load_matgl(model: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the packages, and MatGL's guess about versions
        import matgl
        from matgl.ext.ase import PESCalculator

        return PESCalculator(matgl.load_model(model), stress_unit="eV/A3")


@lru_cache(maxsize=2)
def _load_chgnet(weights: str) -> tuple[Any, Any]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # CHGNet prints what it loads
        warnings.simplefilter("ignore")  # deprecations inside the packages that CHGNet imports
        from chgnet.model import CHGNet
        from chgnet.model.model import BatchedGraph

        try:
            model = CHGNet.load(model_name=weights, use_device="cpu", verbose=False)
        except (ValueError, OSError, KeyError) as error:
            raise ValueError(f"CHGNet weights {weights!r}: expected one of 0.3.0, 0.2.0 and r2scan") from error
    return model.eval().requires_grad_(False), BatchedGraph


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
