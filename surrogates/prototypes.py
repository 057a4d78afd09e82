"""From a composition to plausible crystal structures: known structure types, decorated with its elements.

for decorated in decorated_prototypes("SrTiO3"):
    decorated.prototype.name, decorated.structure   # at a volume guessed from radii
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from envs.formula import CompositionBatch, anonymous_formula, parse_formula, reduce_amounts
from surrogates.plausibility import best_oxidation_states
from surrogates.prototype_library import Prototype, prototype_library

if TYPE_CHECKING:
    from pymatgen.core import Structure

LARGEST_CELL = 20
"""Atoms of a primitive cell above which a structure type is left out, unless asked for."""
_LIKE_CHARGES = 0.88
"""Ions of like charge may come this much closer than the sum of their radii."""
_ATOMS = 0.95
"""Atoms of metals and covalent solids come closer than the sum of their radii by this factor."""
_ANION_RADII = {
    "H": 1.3, "B": 1.6, "C": 1.5, "Si": 1.95, "Ge": 2.0, "Sn": 2.2, "Pb": 2.25,
    "P": 1.8, "As": 1.9, "Sb": 2.1, "Bi": 2.2,
}  # fmt: skip
"""A; estimates for anions that Shannon does not list. They only start the volume scan, which corrects them."""


@dataclass(frozen=True, eq=False)
class DecoratedPrototype:
    """A structure type with the elements of a composition on its sites."""

    formula: str
    prototype: Prototype
    structure: Structure
    """Unrelaxed, at a volume guessed from radii."""


@dataclass(frozen=True)
class _Ion:
    symbol: str
    amount: int
    anion: bool
    radius: float
    """A: ionic where the composition has oxidation states, metallic or covalent elsewhere."""
    ionic: bool


def decorated_prototypes(
    formula: str, largest_cell: int = LARGEST_CELL, names: Sequence[str] | None = None
) -> list[DecoratedPrototype]:
    """Return the structure types with the anonymous formula of a composition, decorated; empty when there is none.

    Elements of equal amount are put on sites by the sign of their oxidation state and then by radius, as in the
    compound that the structure type is named after.

    Args:
        formula: A composition with integer amounts.
        largest_cell: Most atoms of the primitive cell.
        names: Only the structure types of these names.

    Raises:
        ValueError: The formula cannot be read.
    """
    found = [
        prototype
        for prototype in _prototypes_by_formula().get(anonymous_formula(formula), ())
        if len(prototype.structure) <= largest_cell and (names is None or prototype.name in names)
    ]
    return [decorate(formula, prototype) for prototype in found]


def decorate(formula: str, prototype: Prototype) -> DecoratedPrototype:
    """Put the elements of a composition on the sites of a structure type of the same anonymous formula.

    Raises:
        ValueError: The anonymous formulas differ.
    """
    ions = _ions(formula)
    model = _ions_of_prototype(prototype)
    if sorted(ion.amount for ion in ions) != sorted(ion.amount for ion in model):
        raise ValueError(f"{formula}: the structure type {prototype.name!r} has another anonymous formula")
    partner = {old.symbol: new for old, new in zip(_ranked(model), _ranked(ions), strict=True)}
    placed = [partner[symbol] for symbol in prototype.elements]
    structure = prototype.structure.copy()
    structure.replace_species({old: new.symbol for old, new in partner.items()})
    if not _same_elements(formula, prototype):
        structure.scale_lattice(structure.volume * _length_ratio(placed, prototype) ** 3)
    return DecoratedPrototype(formula, prototype, structure)


def _same_elements(formula: str, prototype: Prototype) -> bool:
    return set(parse_formula(formula)) == set(prototype.elements)


def _length_ratio(placed: Sequence[_Ion], prototype: Prototype) -> float:
    """Ratio of lengths at which the first pair of atoms touches."""
    radius = np.array([ion.radius for ion in placed])
    contact = radius[:, None] + radius[None, :]
    anion = np.array([ion.anion for ion in placed])
    if all(ion.ionic for ion in placed):
        contact = np.where(anion[:, None] == anion[None, :], _LIKE_CHARGES * contact, contact)
    else:
        contact = _ATOMS * contact
    return float((contact / prototype.closest).max())


def _ranked(ions: Sequence[_Ion]) -> list[_Ion]:
    """By amount; equal amounts cations first, larger ions first."""
    return sorted(ions, key=lambda ion: (ion.amount, ion.anion, -ion.radius, ion.symbol))


def describe_missing(formula: str) -> str:
    """Return in one line that no structure type fits a composition."""
    return f"no prototype of the anonymous formula {anonymous_formula(formula)} in the library"


def has_prototype(formula: str, largest_cell: int = LARGEST_CELL) -> bool:
    """Return whether `decorated_prototypes` finds a structure type, without building it.

    Raises:
        ValueError: The formula cannot be read.
    """
    found = _prototypes_by_formula().get(anonymous_formula(formula), ())
    return any(len(prototype.structure) <= largest_cell for prototype in found)


@lru_cache(maxsize=1)
def _prototypes_by_formula() -> dict[str, list[Prototype]]:
    result: dict[str, list[Prototype]] = defaultdict(list)
    for prototype in prototype_library().values():
        result[anonymous_formula(prototype.structure.composition.reduced_formula)].append(prototype)
    return dict(result)


@lru_cache(maxsize=1024)
def _ions_of_prototype(prototype: Prototype) -> tuple[_Ion, ...]:
    amounts = dict(zip(prototype.elements, prototype.amounts, strict=True))
    return _ions("".join(f"{symbol}{amount}" for symbol, amount in amounts.items()))


@lru_cache(maxsize=4096)
def _ions(formula: str) -> tuple[_Ion, ...]:
    amounts = reduce_amounts(parse_formula(formula))
    if any(amount != int(amount) for amount in amounts.values()):
        raise ValueError(f"{formula}: a crystal needs integer amounts")
    (charges,) = best_oxidation_states(CompositionBatch.from_formulas([formula]))
    if any(charge < 0 and _is_metal(symbol) for symbol, charge in charges.items()):
        charges = {}  # gold and bismuth are no ions in an alloy
    return tuple(
        _Ion(symbol, int(amount), charges.get(symbol, 0) < 0, _radius(symbol, charges.get(symbol)), symbol in charges)
        for symbol, amount in amounts.items()
    )


def _is_metal(symbol: str) -> bool:
    from pymatgen.core import Element

    return bool(Element(symbol).is_metal)


@lru_cache(maxsize=1024)
def _radius(symbol: str, charge: int | None) -> float:
    """Shannon's radius for sixfold coordination where there is one, else pymatgen's radius of the ion or atom (A)."""
    import warnings

    from pymatgen.core import Element, Species

    element = Element(symbol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns when it takes another coordination or spin
        if charge and charge < 0 and symbol in _ANION_RADII:
            return _ANION_RADII[symbol]
        if charge:
            try:
                return max(float(Species(symbol, charge).get_shannon_radius("VI")), 0.1)
            except (KeyError, ValueError, TypeError):
                found = Species(symbol, charge).ionic_radius or element.average_ionic_radius
                if found:
                    return max(float(found), 0.1)
        for candidate in (element.metallic_radius, element.atomic_radius, element.atomic_radius_calculated):
            if candidate is not None and np.isfinite(candidate) and candidate > 0:
                return float(candidate)
    return 1.5
