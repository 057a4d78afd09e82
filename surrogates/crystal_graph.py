"""The graph network as a property model of crystals: it sees the coordinates that `CrystalEnergyModel` does not.

    Objective("e_above_hull", "minimize", 0.0, 0.3, model=CrystalGraphModel("e_above_hull"))

In a configuration, as the model of an objective: class_path surrogates.crystal_graph.CrystalGraphModel. It is some
hundred times slower than the model without coordinates, so a policy learns from fewer crystals in the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from envs.crystal_batch import CrystalBatch
from surrogates.base import Prediction
from surrogates.energy import ENERGY_PROPERTIES
from surrogates.graph import GraphModel
from surrogates.hull import ReferenceHull


class CrystalGraphModel:
    """Formation energy or distance to the hull of crystals after relaxation, by a `GraphModel` of the built structure.

    Args:
        property: formation_energy or e_above_hull.
        model: The network; the embedded one when None.

    Raises:
        ValueError: Another property.
    """

    reads_crystals = True
    """Crystals are passed rather than their compositions."""

    def __init__(self, property: str = "e_above_hull", model: GraphModel | None = None) -> None:
        if property not in ENERGY_PROPERTIES:
            raise ValueError(f"property: {property!r} (expected one of {', '.join(ENERGY_PROPERTIES)})")
        self.property = property
        self._model = model

    @property
    def model(self) -> GraphModel:
        """The network."""
        if self._model is None:
            self._model = GraphModel.default()
        return self._model

    def fit(self, materials: Sequence[str], labels: Tensor) -> Self:
        """Fit the network to formation energies of crystals, (N, 1), eV/atom, and return the model."""
        self._model = GraphModel().fit(CrystalBatch.from_texts(materials).structures(), labels)
        return self

    def members(self, materials: Sequence[str]) -> Tensor:
        """Return (S, N, 1) predictions, eV/atom."""
        batch = CrystalBatch.from_texts(materials)
        return self.model.members(batch.structures()) - self._hull(batch)

    def predict(self, materials: Sequence[str]) -> Prediction:
        """Return mean and standard deviation, (N, 1) each, eV/atom; the hull counts as exact."""
        batch = CrystalBatch.from_texts(materials)
        found = self.model.predict(batch.structures())
        return Prediction(found.mean - self._hull(batch), found.std)

    def _hull(self, batch: CrystalBatch) -> Tensor:
        """Energy of the hull at each composition, (N, 1); 0 where formation energies are wanted."""
        if self.property == "formation_energy":
            return torch.zeros(len(batch), 1)
        return ReferenceHull.default().hull_energy(batch.compositions)[:, None]
