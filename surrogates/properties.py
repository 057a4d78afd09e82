"""The properties that can be asked for, by name, each as a predictive distribution over a batch.

    gaps = evaluate_properties(["band_gap", "supply_risk"], batch)
    gaps["band_gap"].probability_between(1.1, 1.6)

A surrogate of your own supplies a property through `surrogates={"band_gap": my_model}`, or a new one when its
`Property` is given to `SurrogateProperty`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from envs.crystal_batch import CrystalBatch
from envs.formula import CompositionBatch
from surrogates.band_gap import BandGapModel
from surrogates.base import Surrogate
from surrogates.distribution import ExactDistribution, GaussianDistribution, PropertyDistribution
from surrogates.electronegativity import electronegativity_difference
from surrogates.energy import EnergyModel
from surrogates.plausibility import plausibility
from surrogates.supply import supply_risk
from surrogates.toxicity import toxicity


@dataclass(frozen=True)
class Property:
    """What a property is called and measured in."""

    name: str
    unit: str
    """Unit in plain text; "1" for a number without a unit."""
    description: str
    source: str
    """Where its values come from."""
    column: str
    """Column name in result tables, unit included."""


PROPERTIES: Mapping[str, Property] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Property(
                "band_gap",
                "eV",
                "band gap, 0 for a metal",
                "classifier x regressor on measured gaps (Zhuo et al. 2018) and computed transport (Ricci et al. 2017)",
                "band_gap_eV",
            ),
            Property(
                "formation_energy",
                "eV/atom",
                "energy of the best known structure type relative to the elements",
                "networks fitted to CHGNet energies of decorated prototypes (CHGNet, not DFT)",
                "formation_energy_eV_per_atom",
            ),
            Property(
                "e_above_hull",
                "eV/atom",
                "distance to the convex hull of the reference phases, negative below it",
                "formation energy of these networks, hull within the CHGNet prototype library (CHGNet, not DFT)",
                "e_above_hull_eV_per_atom",
            ),
            Property(
                "supply_risk",
                "1",
                "Herfindahl-Hirschman index of the elements' reserves, weighted by mass, 0 to 10,000",
                "Gaultois et al., Chem. Mater. 25, 2911 (2013)",
                "supply_risk_hhi",
            ),
            Property(
                "toxicity",
                "1",
                "share of atoms of toxic (Be, As, Cd, Hg, Tl, Pb) or radioactive elements, 0 to 1",
                "element list, see surrogates.toxicity",
                "toxicity_fraction",
            ),
            Property(
                "electronegativity_difference",
                "1",
                "mean Pauling electronegativity difference of unlike atoms",
                "CRC Handbook of Chemistry and Physics, as tabulated by SMACT",
                "electronegativity_difference_pauling",
            ),
            Property(
                "plausibility",
                "1",
                "how common the ions of the best charge-neutral assignment of oxidation states are, 0 to 1",
                "ICSD counts of SMACT 4.0, see surrogates.plausibility",
                "plausibility",
            ),
        )
    }
)
"""The embedded properties by name."""


_OTHER_COLUMNS = {"energy": "energy_eV_per_atom", "volume": "volume_A3_per_atom"}
"""Columns of what the embedded oracles tell beside the properties."""


def column_of(name: str) -> str:
    """Return the column of a property in result tables; a property of your own has its name."""
    return PROPERTIES[name].column if name in PROPERTIES else _OTHER_COLUMNS.get(name, name)


@dataclass(frozen=True, eq=False)
class SurrogateProperty:
    """A `Surrogate` object as the source of one property."""

    property: Property
    surrogate: Surrogate
    output: int = 0
    """Which of the surrogate's m outputs."""

    def distribution(self, materials: CompositionBatch | CrystalBatch) -> PropertyDistribution:
        """Return the distribution; normal, unless the surrogate has a `distribution` method of its own.

        Raises:
            ValueError: The prediction has the wrong shape or is not finite; the message names the surrogate's class.
        """
        own: Any = getattr(self.surrogate, "distribution", None)
        if callable(own):
            distribution: PropertyDistribution = own(materials)
            return distribution
        prediction = self.surrogate.predict(materials)
        return GaussianDistribution(
            self._column(prediction.mean, "mean", len(materials)), self._column(prediction.std, "std", len(materials))
        )

    def _column(self, values: Tensor, what: str, n: int) -> Tensor:
        name = type(self.surrogate).__name__
        if values.ndim != 2 or len(values) != n or values.shape[1] <= self.output:
            raise ValueError(
                f"{name}.predict: {what} of {self.property.name} must have the shape ({n}, m > {self.output}), "
                f"not {tuple(values.shape)}"
            )
        column = values[:, self.output]
        if not bool(torch.isfinite(column).all()) or (what == "std" and bool((column < 0).any())):
            raise ValueError(f"{name}.predict: {what} of {self.property.name} must be finite and a std not negative")
        return column


def property_named(name: str, known: Iterable[str] = ()) -> Property:
    """Return an embedded property.

    Args:
        name: One of `PROPERTIES`.
        known: Names that the message should list beside them.

    Raises:
        ValueError: Unknown name; the message lists the known ones.
    """
    if name in PROPERTIES:
        return PROPERTIES[name]
    names = sorted({*PROPERTIES, *known})
    close = get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(f"unknown property {name!r} (expected one of {', '.join(names)}){hint}")


def evaluate_properties(
    names: Iterable[str],
    materials: Iterable[str],
    surrogates: Mapping[str, Surrogate | SurrogateProperty] | None = None,
) -> dict[str, PropertyDistribution]:
    """Return the distribution of each named property over N materials.

    Args:
        names: Names of `PROPERTIES` or keys of `surrogates`.
        materials: Formulas, a `CompositionBatch`, or a `CrystalBatch`, whose energies then come from the model of
            crystals and whose other properties from the compositions.
        surrogates: Models that supply a property instead of the embedded one, or a property that is not embedded. Of
            crystals they are given the compositions, unless they have a true attribute `reads_crystals`.

    Raises:
        ValueError: Unknown property, or a surrogate whose prediction is not usable.
    """
    crystals = materials if isinstance(materials, CrystalBatch) else None
    batch = CompositionBatch.from_formulas(materials) if crystals is None else crystals.compositions
    own = surrogates or {}
    result: dict[str, PropertyDistribution] = {}
    for name in names:
        source = own.get(name)
        if source is not None:
            if not isinstance(source, SurrogateProperty):
                described = PROPERTIES.get(name) or Property(name, "1", name, type(source).__name__, name)
                source = SurrogateProperty(described, source)
            reads_crystals = crystals is not None and getattr(source.surrogate, "reads_crystals", False)
            result[name] = source.distribution(crystals if crystals is not None and reads_crystals else batch)
        elif crystals is not None and name in _OF_CRYSTALS:
            result[name] = _OF_CRYSTALS[name](crystals)
        else:
            result[name] = _EMBEDDED[property_named(name, own).name](batch)
    return result


def _exact(function: Callable[[CompositionBatch], Tensor]) -> Callable[[CompositionBatch], PropertyDistribution]:
    return lambda materials: ExactDistribution(function(materials))


def _band_gap(materials: CompositionBatch) -> PropertyDistribution:
    return BandGapModel.default().distribution(materials)


def _formation_energy(materials: CompositionBatch) -> PropertyDistribution:
    return EnergyModel.default().formation_energy(materials)


def _e_above_hull(materials: CompositionBatch) -> PropertyDistribution:
    return EnergyModel.default().e_above_hull(materials)


def _formation_energy_of_crystals(materials: CrystalBatch) -> PropertyDistribution:
    from surrogates.crystal_energy import CrystalEnergyModel

    return CrystalEnergyModel.default().formation_energy(materials)


def _e_above_hull_of_crystals(materials: CrystalBatch) -> PropertyDistribution:
    from surrogates.crystal_energy import CrystalEnergyModel

    return CrystalEnergyModel.default().e_above_hull(materials)


_EMBEDDED: Mapping[str, Callable[[CompositionBatch], PropertyDistribution]] = MappingProxyType(
    {
        "band_gap": _band_gap,
        "formation_energy": _formation_energy,
        "e_above_hull": _e_above_hull,
        "supply_risk": _exact(supply_risk),
        "toxicity": _exact(toxicity),
        "electronegativity_difference": _exact(electronegativity_difference),
        "plausibility": _exact(plausibility),
    }
)

_OF_CRYSTALS: Mapping[str, Callable[[CrystalBatch], PropertyDistribution]] = MappingProxyType(
    {"formation_energy": _formation_energy_of_crystals, "e_above_hull": _e_above_hull_of_crystals}
)
"""Properties that depend on the structure."""
