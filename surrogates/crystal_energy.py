"""Formation energy and distance to the hull from composition, space group and Wyckoff positions, without coordinates.

    model = CrystalEnergyModel.default()
    model.predict(["NaCl | 225 | Na a | Cl b | 5.64 5.64 5.64 90 90 90"])     # mean and std (1, 1), eV/atom
    model.e_above_hull(crystals).probability_between(-1.0, 0.05)

The energy is that after relaxation, so lattice and free parameters play no part: a model for what is still being built,
and for choosing which structures to relax. Learned from decorated prototypes, in the manner of Wren (Goodall et al.,
Sci. Adv. 8, eabn4117 (2022)).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from envs.chemistry import MAX_ATOMIC_NUMBER
from envs.crystal_batch import CrystalBatch
from surrogates.base import Prediction
from surrogates.crystal_energy_network import CrystalInputs, CrystalNetwork, NetworkShape
from surrogates.crystal_energy_training import (
    CrystalTrainingOptions,
    FittedCrystalNetwork,
    HeldOutCrystals,
    Progress,
    train_crystal_networks,
)
from surrogates.crystal_energy_validation import CrystalValidation, RankingMeasures
from surrogates.distribution import GaussianDistribution
from surrogates.energy import UNKNOWN_DISTANCE, UNKNOWN_STD
from surrogates.energy_labels import checked_energies, standard_deviations
from surrogates.energy_training import EnergySpread
from surrogates.hull import ReferenceHull
from surrogates.reference_table import composition_keys
from surrogates.weights_file import read_weights, write_weights

DEFAULT_WEIGHTS = "crystal_energy.safetensors"
FORMAT = "matsmith crystal formation energy 1"


class CrystalEnergyModel:
    """Formation energy of crystals after relaxation, eV/atom; implements `Surrogate` with m = 1.

    The same crystal described from another origin or with its positions in another order has the same energy. The
    spread is measured on chemical systems that were held out, and for crystals whose structure type was not trained on
    on types that were held out (see `validation`). With an element that was never trained on, the standard deviation is
    at least 1 eV/atom.

    Args:
        options: How to train; defaults when None.
        seed: Seed of everything random in `fit`.
        hull: What distances are measured from; the embedded table's hull when None. Its energies and the labels of
            `fit` must come from the same method.
    """

    def __init__(
        self, options: CrystalTrainingOptions | None = None, seed: int = 0, hull: ReferenceHull | None = None
    ) -> None:
        self.options = options or CrystalTrainingOptions()
        self.seed = seed
        self.validation: CrystalValidation | None = None
        """Measures on what was held out in `fit`; travels with `save`. None where nothing could be held out."""
        self._given_hull = hull
        self._fitted: FittedCrystalNetwork | None = None

    @classmethod
    def default(cls, hull: ReferenceHull | None = None) -> CrystalEnergyModel:
        """Return a model fitted to the embedded table, ready to use; the weights are read once."""
        stored, model = _default_model(), cls(hull=hull)
        model._fitted, model.validation = stored._fitted, stored.validation
        return model

    @cached_property
    def hull(self) -> ReferenceHull:
        """What distances are measured from."""
        return ReferenceHull.default() if self._given_hull is None else self._given_hull

    def fit(
        self,
        materials: Iterable[str],
        labels: Tensor,
        progress: Progress | None = None,
    ) -> Self:
        """Fit to formation energies; takes minutes for tens of thousands of crystals.

        Args:
            materials: N crystals as texts or a `CrystalBatch`.
            labels: Formation energies after relaxation in eV/atom, (N,) or (N, 1).
            progress: Called now and then with what is being done and the share of it that is done.

        Raises:
            ValueError: A crystal cannot be read, the labels have another shape, one is not finite, or there are fewer
                than 20.
        """
        crystals = _checked(materials)
        energies = checked_energies(crystals, labels, "crystals")
        self._fitted, *held_out = train_crystal_networks(crystals, energies, self.options, self.seed, progress)
        formulas = torch.unique(composition_keys(crystals.compositions), return_inverse=True)[1]
        systems, types = (_measured(found, energies, formulas) for found in held_out)
        self.validation = None
        if systems and types:
            options = self.options
            self.validation = CrystalValidation(options.held_out, options.folds, systems, types)
        return self

    def predict(self, materials: Iterable[str]) -> Prediction:
        """Return mean and standard deviation of the formation energy in eV/atom, each (N, 1).

        Args:
            materials: N crystals as texts or a `CrystalBatch`.

        Raises:
            ValueError: A crystal cannot be read, or there is none.
        """
        _, mean, std = self._energies(_checked(materials))
        return Prediction(mean.unsqueeze(1), std.unsqueeze(1))

    def members(self, materials: Iterable[str]) -> Tensor:
        """Return S draws in eV/atom, (S, N, 1), whose mean and standard deviation over S are those of `predict`.

        The networks' energies, moved and stretched: the networks agree more closely than they err.
        """
        energies, mean, std = self._energies(_checked(materials))
        return (mean + standard_deviations(energies) * std).unsqueeze(-1)

    def formation_energy(self, materials: Iterable[str]) -> GaussianDistribution:
        """Return the predictive distribution of each formation energy after relaxation, eV/atom."""
        _, mean, std = self._energies(_checked(materials))
        return GaussianDistribution(mean, std)

    def e_above_hull(self, materials: Iterable[str]) -> GaussianDistribution:
        """Return the predictive distribution of each distance to the hull, eV/atom; negative below the hull.

        Where the hull has no energy of an element, the distance is 0.5 with a standard deviation of 1 eV/atom.
        """
        crystals = _checked(materials)
        _, mean, std = self._energies(crystals)
        hull = self.hull.hull_energy(crystals.compositions, missing="nan").float()
        known = ~torch.isnan(hull)
        return GaussianDistribution(
            torch.where(known, mean - hull, UNKNOWN_DISTANCE), torch.where(known, std, UNKNOWN_STD)
        )

    def save(self, path: str | Path) -> None:
        """Write the fitted model as float16 safetensors, its settings as JSON in the header; the hull is not in it."""
        fitted = self._network()
        tensors = {name: tensor.half() for name, tensor in fitted.network.state_dict().items()}
        settings = {
            "shape": asdict(fitted.network.shape),
            "energy_mean": fitted.energy_mean,
            "energy_std": fitted.energy_std,
            "spread": asdict(fitted.spread),
            "new_type_spread": asdict(fitted.new_type_spread),
            "validation": self.validation and self.validation.as_dict(),
        }
        write_weights(path, FORMAT, tensors | {"seen": fitted.seen, "types": fitted.types}, settings)

    @classmethod
    def load(cls, path: str | Path, hull: ReferenceHull | None = None) -> CrystalEnergyModel:
        """Read a model that `save` wrote; its distances are measured from `hull`, the embedded one when None.

        Raises:
            ValueError: The file is missing, cut short or holds something else; the message names it.
        """
        tensors, settings = read_weights(path, FORMAT, "a crystal energy model")
        model = cls(hull=hull)
        if settings["validation"]:
            model.validation = CrystalValidation.from_dict(settings["validation"])
        seen, types = tensors.pop("seen"), tensors.pop("types")
        network = CrystalNetwork(NetworkShape(**settings["shape"]), CrystalInputs.from_crystals(_ANY_CRYSTAL))
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        network.eval().requires_grad_(False)
        model._fitted = FittedCrystalNetwork(
            network,
            settings["energy_mean"],
            settings["energy_std"],
            seen,
            types,
            EnergySpread(**settings["spread"]),
            EnergySpread(**settings["new_type_spread"]),
        )
        return model

    def _network(self) -> FittedCrystalNetwork:
        if self._fitted is None:
            raise RuntimeError("CrystalEnergyModel: not fitted; call fit, load or default first")
        return self._fitted

    def _energies(self, crystals: CrystalBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return formation energies by member (S, N), their mean and standard deviation (N,)."""
        fitted = self._network()
        energies = fitted.energies(crystals)
        std = fitted.std(crystals, energies)
        return energies, energies.mean(0), torch.where(fitted.knows_elements(crystals), std, std.clamp_min(UNKNOWN_STD))


_ANY_CRYSTAL = CrystalBatch.from_texts(["NaCl | 225 | Na a | Cl b | 5.64 5.64 5.64 90 90 90"])


def _checked(materials: Iterable[str]) -> CrystalBatch:
    crystals = CrystalBatch.from_texts(materials)
    if not len(crystals):
        raise ValueError("CrystalEnergyModel: expected at least one crystal, not an empty batch")
    bad = ((crystals.element < 0) | (crystals.element > MAX_ATOMIC_NUMBER)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"crystal {row}: atomic number {int(crystals.element[row, column])} is not that of an element "
            f"(expected 1 to {MAX_ATOMIC_NUMBER})"
        )
    empty = (crystals.element > 0).any(1).logical_not().nonzero()
    if len(empty):
        raise ValueError(f"crystal {int(empty[0])}: expected at least one occupied position, not none")
    return crystals


def _measured(found: HeldOutCrystals, energies: Tensor, formulas: Tensor) -> RankingMeasures | None:
    if not len(found.rows):
        return None
    rows = found.rows
    return RankingMeasures.from_predictions(found.mean, found.calibrated_std(), energies[rows], formulas[rows])


@lru_cache(maxsize=1)
def _default_model() -> CrystalEnergyModel:
    with resources.as_file(resources.files("surrogates") / "data" / DEFAULT_WEIGHTS) as path:
        return CrystalEnergyModel.load(path)
