"""Formation energy and distance to the hull from the composition alone.

    model = EnergyModel.default()
    model.e_above_hull(["SrTiO3", "Na3Cl"]).probability_between(-1.0, 0.05)
    model.predict(["SrTiO3"])                        # mean and std (1, 2): formation energy, distance to the hull

An ensemble of small networks predicts the formation energy of the best known prototype; the distance is that energy
minus the energy of the convex hull of a table of phases, which is exact. It is negative where a compound is predicted
to lie below the phases known so far, and means something only together with `hull.source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from envs.formula import CompositionBatch
from surrogates.base import Prediction
from surrogates.distribution import GaussianDistribution
from surrogates.energy_labels import checked_energies, standard_deviations
from surrogates.energy_training import (
    EnergySpread,
    EnergyTrainingOptions,
    FittedEnergyNetwork,
    held_out_predictions,
    train_energy_network,
)
from surrogates.energy_validation import EnergyValidation
from surrogates.hull import ReferenceHull
from surrogates.mlp_ensemble import MLPEnsemble
from surrogates.weights_file import read_weights, write_weights

DEFAULT_WEIGHTS = "energy.safetensors"
FORMAT = "matsmith formation energy 1"

ENERGY_PROPERTIES = ("formation_energy", "e_above_hull")
FORMATION_ENERGY, E_ABOVE_HULL = range(2)
"""Columns of `EnergyModel.predict`, in the order of `ENERGY_PROPERTIES`."""

UNKNOWN_DISTANCE, UNKNOWN_STD = 0.5, 1.0
"""eV/atom: what is said of the distance to the hull where an element has no reference, and hence no hull."""


class EnergyModel:
    """Formation energy and distance to the hull, both in eV/atom; implements `Surrogate` with m = 2.

    Where the hull has no energy of an element, the distance is 0.5 with a standard deviation of 1 eV/atom, whatever the
    network says; the formation energy of a material with an element that was never trained on has a standard deviation
    of at least 1 eV/atom. Nothing is ever NaN.

    The spread holds the share of one standard deviation; errors have heavier tails than a normal distribution, so two
    hold less than theirs (see `validation`). It is measured on the numbers of elements that the training data have: for
    the embedded weights two and three.

    Args:
        options: How to train; defaults when None.
        seed: Seed of everything random in `fit`.
        hull: What distances are measured from; the embedded table's hull when None. Its energies and the labels of
            `fit` must come from the same method.
    """

    def __init__(
        self, options: EnergyTrainingOptions | None = None, seed: int = 0, hull: ReferenceHull | None = None
    ) -> None:
        self.options = options or EnergyTrainingOptions()
        self.seed = seed
        self.validation: EnergyValidation | None = None
        """Cross-validation of a model fitted like this one; travels with `save` and is set for `default()`."""
        self._given_hull = hull
        self._fitted: FittedEnergyNetwork | None = None

    @classmethod
    def default(cls, hull: ReferenceHull | None = None) -> EnergyModel:
        """Return a model fitted to the embedded table, ready to use; the weights are read once."""
        stored, model = _default_model(), cls(hull=hull)
        model._fitted, model.validation = stored._fitted, stored.validation
        return model

    @cached_property
    def hull(self) -> ReferenceHull:
        """What distances are measured from."""
        return ReferenceHull.default() if self._given_hull is None else self._given_hull

    def fit(self, materials: Iterable[str], labels: Tensor) -> Self:
        """Fit to formation energies; takes minutes with the default options.

        Args:
            materials: N formulas or a `CompositionBatch`.
            labels: Formation energies in eV/atom of the best structure of each, (N,) or (N, 1).

        Raises:
            ValueError: The labels have another shape, one is not finite, or there are fewer than 20.
        """
        batch, energies = _checked(materials, labels)
        self.validation = None
        self._fitted = train_energy_network(batch, energies, self.options, self.seed)
        return self

    def formation_energy(self, materials: Iterable[str]) -> GaussianDistribution:
        """Return the predictive distribution of each formation energy, eV/atom."""
        batch = CompositionBatch.from_formulas(materials)
        _, mean, std = self._energies(batch)
        return GaussianDistribution(mean, std)

    def e_above_hull(self, materials: Iterable[str]) -> GaussianDistribution:
        """Return the predictive distribution of each distance to the hull, eV/atom; negative below the hull."""
        prediction = self.predict(materials)
        return GaussianDistribution(prediction.mean[:, E_ABOVE_HULL], prediction.std[:, E_ABOVE_HULL])

    def predict(self, materials: Iterable[str]) -> Prediction:
        """Return mean and standard deviation of formation energy and distance to the hull in eV/atom, each (N, 2)."""
        return self._predict(CompositionBatch.from_formulas(materials))[1]

    def members(self, materials: Iterable[str]) -> Tensor:
        """Return S draws in eV/atom, (S, N, 2), whose mean and standard deviation over S are those of `predict`.

        The networks' energies, moved and stretched: the networks agree more closely than they err. A member that puts
        the formation energy high puts the distance to the hull high.
        """
        energies, prediction = self._predict(CompositionBatch.from_formulas(materials))
        return prediction.mean + standard_deviations(energies).unsqueeze(-1) * prediction.std

    def cross_validate(
        self,
        materials: Iterable[str] | None = None,
        labels: Tensor | None = None,
        *,
        folds: int = 5,
        progress: Callable[[int], object] | None = None,
    ) -> EnergyValidation:
        """Fit to all folds but one in turn and compare with the one left out; chemical systems are never split.

        The spread of a fold is calibrated on the errors in the others. What counts as the distance to the hull is told
        in `surrogates.energy_validation`. The model itself stays as it is.

        Args:
            materials: N formulas; the compounds of the hull's table when None.
            labels: Formation energies in eV/atom, (N,) or (N, 1); needed with `materials`.
            folds: Number of folds.
            progress: Called after each fold with its number.
        """
        if materials is None:
            batch, energies = training_table(self.hull)
        elif labels is not None:
            batch, energies = _checked(materials, labels)
        else:
            raise ValueError("cross_validate: labels are needed with materials")
        held_out = held_out_predictions(batch, energies, self.options, folds, self.seed, progress)
        predicted = GaussianDistribution(held_out.mean, held_out.calibrated_std())
        hull_of_others = self.hull.hull_energy(batch, exclude_self=True, missing="nan")
        return EnergyValidation.from_predictions(predicted, energies, hull_of_others, folds)

    def save(self, path: str | Path) -> None:
        """Write the fitted model as float16 safetensors, its settings as JSON in the header; the hull is not in it."""
        fitted = self._network()
        tensors = {name: tensor.half() for name, tensor in fitted.network.state_dict().items()}
        tensors |= {"input_mean": fitted.input_mean, "input_std": fitted.input_std, "seen": fitted.seen}
        settings = {
            "sizes": fitted.network.sizes,
            "members": fitted.network.members,
            "energy_mean": fitted.energy_mean,
            "energy_std": fitted.energy_std,
            "spread": asdict(fitted.spread),
            "validation": self.validation and self.validation.as_dict(),
        }
        write_weights(path, FORMAT, tensors, settings)

    @classmethod
    def load(cls, path: str | Path, hull: ReferenceHull | None = None) -> EnergyModel:
        """Read a model that `save` wrote; its distances are measured from `hull`, the embedded one when None.

        Raises:
            ValueError: The file is missing, cut short or holds something else; the message names it.
        """
        tensors, settings = read_weights(path, FORMAT, "an energy model")
        model = cls(hull=hull)
        model.validation = EnergyValidation(**settings["validation"]) if settings.get("validation") else None
        network = MLPEnsemble(settings["sizes"], settings["members"])
        seen = tensors.pop("seen")
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
        input_mean, input_std = tensors.pop("input_mean"), tensors.pop("input_std")
        network.load_state_dict(tensors)
        network.eval().requires_grad_(False)
        model._fitted = FittedEnergyNetwork(
            network,
            input_mean,
            input_std,
            settings["energy_mean"],
            settings["energy_std"],
            seen,
            EnergySpread(**settings["spread"]),
        )
        return model

    def _network(self) -> FittedEnergyNetwork:
        if self._fitted is None:
            raise RuntimeError("EnergyModel: not fitted; call fit, load or default first")
        return self._fitted

    def _energies(self, batch: CompositionBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return formation energies by member (S, N), their mean and standard deviation (N,)."""
        fitted = self._network()
        energies, mean, std = fitted.predict(batch)
        compound = (batch.amounts > 0).sum(1) > 1
        std = torch.where(fitted.knows_elements(batch) | ~compound, std, std.clamp_min(UNKNOWN_STD))
        return energies, mean, std

    def _predict(self, batch: CompositionBatch) -> tuple[Tensor, Prediction]:
        """Return formation energies by member, (S, N), and the prediction of both properties."""
        energies, mean, std = self._energies(batch)
        hull = self.hull.hull_energy(batch, missing="nan").float()
        known = ~torch.isnan(hull)
        distance = torch.where(known, mean - hull, UNKNOWN_DISTANCE)
        distance_std = torch.where(known, std, UNKNOWN_STD)
        return energies, Prediction(torch.stack([mean, distance], 1), torch.stack([std, distance_std], 1))


def _checked(materials: Iterable[str], labels: Tensor) -> tuple[CompositionBatch, Tensor]:
    batch = CompositionBatch.from_formulas(materials)
    return batch, checked_energies(batch, labels, "materials")


def training_table(hull: ReferenceHull) -> tuple[CompositionBatch, Tensor]:
    """Return the compounds of a hull's table and their formation energies in eV/atom, (N,)."""
    energies = hull.table.formation_energies()
    usable = torch.isfinite(energies) & ((hull.table.materials.amounts > 0).sum(1) > 1)
    return hull.table.materials.rows(usable), energies[usable].float()


@lru_cache(maxsize=1)
def _default_model() -> EnergyModel:
    with resources.as_file(resources.files("surrogates") / "data" / DEFAULT_WEIGHTS) as path:
        return EnergyModel.load(path)


def fit_default(
    seed: int = 0, options: EnergyTrainingOptions | None = None, hull: ReferenceHull | None = None
) -> EnergyModel:
    """Return a new model fitted to the compounds of the embedded table, or of another hull's (takes minutes)."""
    model = EnergyModel(options, seed, hull)
    return model.fit(*training_table(model.hull))
