"""Structure types: the AFLOW prototypes that pymatgen ships, and common ionic ones that are not among them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

# Published structures, as space group, lattice parameters (A, degrees), and sites with fractional coordinates.
_FURTHER: tuple[tuple[str, int, tuple[float, ...], tuple[tuple[str, float, float, float], ...]], ...] = (
    ("K2PtCl6", 225, (9.75,), (("K", 0.25, 0.25, 0.25), ("Pt", 0, 0, 0), ("Cl", 0.24, 0, 0))),
    (
        "elpasolite",
        225,
        (10.7,),
        (("Cs", 0.25, 0.25, 0.25), ("Na", 0.5, 0, 0), ("Y", 0, 0, 0), ("Cl", 0.245, 0, 0)),
    ),
    ("delafossite", 166, (3.03, 17.17), (("Cu", 0, 0, 0), ("Fe", 0, 0, 0.5), ("O", 0, 0, 0.1066))),
    (
        "olivine",
        62,
        (10.22, 5.99, 4.76),
        (
            ("Mg", 0, 0, 0),
            ("Mg", 0.2774, 0.25, 0.9915),
            ("Si", 0.094, 0.25, 0.4262),
            ("O", 0.0913, 0.25, 0.7657),
            ("O", 0.4474, 0.25, 0.2215),
            ("O", 0.1628, 0.0331, 0.2776),
        ),
    ),
    ("scheelite", 88, (5.243, 11.376), (("Ca", 0, 0, 0.5), ("W", 0, 0, 0), ("O", 0.2413, 0.1511, 0.0861))),
    ("Th3P4", 220, (8.6,), (("Th", 0.375, 0, 0.25), ("P", 0.083, 0.083, 0.083))),
    ("UCl3", 176, (7.44, 4.32), (("U", 1 / 3, 2 / 3, 0.25), ("Cl", 0.3874, 0.3016, 0.25))),
    (
        "BaNiO3",
        194,
        (5.63, 4.80),
        (("Ba", 1 / 3, 2 / 3, 0.75), ("Ni", 0, 0, 0), ("O", 0.1462, 0.2924, 0.25)),
    ),
    (
        "TiNiSi",
        62,
        (6.15, 3.67, 7.02),
        (("Ti", 0.0212, 0.25, 0.1803), ("Ni", 0.1421, 0.25, 0.5609), ("Si", 0.7651, 0.25, 0.6229)),
    ),
    (
        "ZrNiAl",
        189,
        (6.92, 3.47),
        (("Zr", 0.59, 0, 0.5), ("Al", 0.25, 0, 0), ("Ni", 1 / 3, 2 / 3, 0), ("Ni", 0, 0, 0.5)),
    ),
    ("La2O3", 164, (3.94, 6.13), (("La", 1 / 3, 2 / 3, 0.2467), ("O", 1 / 3, 2 / 3, 0.647), ("O", 0, 0, 0))),
    ("CaC2", 139, (3.89, 6.38), (("Ca", 0, 0, 0), ("C", 0, 0, 0.406))),
    ("alpha hydrogen", 205, (5.34,), (("H", 0.04, 0.04, 0.04),)),
    ("alpha nitrogen type", 205, (5.04,), (("F", 0.0813, 0.0813, 0.0813),)),
    ("ThCr2Si2", 139, (4.04, 10.58), (("Th", 0, 0, 0), ("Cr", 0, 0.5, 0.25), ("Si", 0, 0, 0.374))),
    ("CaAl2Si2", 164, (4.13, 7.14), (("Ca", 0, 0, 0), ("Al", 1 / 3, 2 / 3, 0.63), ("Si", 1 / 3, 2 / 3, 0.27))),
)


@dataclass(frozen=True, eq=False)
class Prototype:
    """A structure type, with the compound that it is named after."""

    name: str
    """AFLOW label or common name, and the compound: "AB3C_cP5_221_a_c_b CaTiO3"."""
    space_group: int
    structure: Structure
    """Primitive cell of that compound, without oxidation states."""

    @cached_property
    def elements(self) -> tuple[str, ...]:
        """Symbols of the compound, in alphabetical order."""
        return tuple(sorted(self.structure.composition.get_el_amt_dict()))

    @cached_property
    def amounts(self) -> tuple[int, ...]:
        """Smallest integer amounts in the order of `elements`."""
        found = self.structure.composition.get_el_amt_dict()
        counts = [round(found[symbol]) for symbol in self.elements]
        divisor = int(np.gcd.reduce(counts))
        return tuple(count // divisor for count in counts)

    @cached_property
    def closest(self) -> NDArray[np.float64]:
        """(k, k), shortest distance between atoms of two elements (periodic images included), A; inf beyond 8 A."""
        kind = np.array([self.elements.index(site.specie.symbol) for site in self.structure])
        centres, neighbours, _, distances = self.structure.get_neighbor_list(8.0)
        shortest = np.full((len(self.elements), len(self.elements)), np.inf)
        np.minimum.at(shortest, (kind[centres], kind[neighbours]), distances)
        return shortest

    @cached_property
    def fixed_by_symmetry(self) -> bool:
        """Whether only the volume is free: a cubic lattice, and no site with a coordinate that symmetry leaves open."""
        if self.space_group < 195:
            return False
        from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # spglib's own deprecations
            operations = SpacegroupAnalyzer(self.structure).get_symmetry_operations()
        for position in self.structure.frac_coords:
            moved = [operation.operate(position) - position for operation in operations]
            stabiliser = [
                operation.rotation_matrix
                for operation, shift in zip(operations, moved, strict=True)
                if np.abs(shift - shift.round()).max() < 1e-2
            ]
            if np.abs(np.mean(stabiliser, axis=0)).max() > 1e-6:
                return False
        return True


@lru_cache(maxsize=1)
def prototype_library() -> dict[str, Prototype]:
    """Return all structure types by name."""
    found = [*_aflow_prototypes(), *_further_prototypes()]
    return {prototype.name: prototype for prototype in found}


def _aflow_prototypes() -> list[Prototype]:
    """Mehl et al., Comput. Mater. Sci. 136, S1 (2017), as distributed with pymatgen (MIT)."""
    import gzip
    import json
    from importlib.util import find_spec
    from pathlib import Path

    from pymatgen.core import Structure

    package = find_spec("pymatgen.analysis")
    assert package is not None and package.submodule_search_locations is not None
    (folder, *_) = package.submodule_search_locations
    content = (Path(folder) / "prototypes" / "aflow_prototypes.json.gz").read_bytes()
    entries: list[dict[str, Any]] = json.loads(gzip.decompress(content))
    result = []
    for entry in entries:
        label: str = entry["tags"]["aflow"]
        structure = Structure.from_dict(entry["snl"])  # not as the class it was saved as, which parses BibTeX
        structure.remove_oxidation_states()
        parts = label.split("_")
        if len(parts) < 3 or not parts[2].isdigit():
            continue  # the sigma phase, whose Wyckoff positions are told apart by five elements
        name = f"{label} {structure.composition.reduced_formula}"
        result.append(Prototype(name, int(parts[2]), structure))
    return result


def _further_prototypes() -> list[Prototype]:
    from pymatgen.core import Structure

    result = []
    for name, group, lengths, sites in _FURTHER:
        species, coordinates = [site[0] for site in sites], [site[1:] for site in sites]
        structure = Structure.from_spacegroup(group, _lattice(group, lengths), species, coordinates, tol=0.02)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # spglib's own deprecations
            primitive = structure.get_primitive_structure()
        result.append(Prototype(f"{name} {primitive.composition.reduced_formula}", group, primitive))
    return result


def _lattice(group: int, lengths: tuple[float, ...]) -> Any:
    from pymatgen.core import Lattice

    if group >= 195:
        return Lattice.cubic(*lengths)
    if group >= 143:
        return Lattice.hexagonal(*lengths)
    return Lattice.tetragonal(*lengths) if group >= 75 else Lattice.orthorhombic(*lengths)
