"""The graph model: from an unrelaxed crystal structure to its formation energy after relaxation.

model = GraphModel.default()
model.predict([structure]).mean                          # (1, 1), eV/atom
model.fit(structures, labels, warm_start=True)           # goes on from the present weights
GraphModel.from_matgl("folder/with/matgl/weights")       # anybody's MatGL network instead
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from surrogates.base import Prediction
from surrogates.graph_file import read_graph, write_graph
from surrogates.graph_network import FittedGraph, fit_element_energies, new_network
from surrogates.graph_options import GraphOptions
from surrogates.graph_replay import rehearsed_structures
from surrogates.graph_spread import GraphSpread, GraphValidation
from surrogates.graph_structures import check_labels, check_structures, compositions, touching_structure
from surrogates.validation import chemical_system_groups, grouped_folds

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from surrogates.matgl_models import PretrainedGraph

DEFAULT_WEIGHTS = "graph_model.safetensors"
DRAWS = 16
"""S of `GraphModel.members`."""

FEWEST = 20
"""Structures that a fit from scratch needs, and that a warm start needs to hold some back."""

MOMENT_STRUCTURES = 4000
"""Training structures behind the leverage, drawn at random from larger sets."""


class GraphModel:
    """Formation energy (eV/atom) after relaxation of a crystal structure; `Surrogate` for structures with m = 1.

    A MatGL TensorNet. The volume of a structure does not matter: the network sees it scaled until its atoms touch.

    Args:
        options: Shape and training of the network; defaults when None.
        seed: Seed of everything random in `fit`.
    """

    def __init__(self, options: GraphOptions | None = None, seed: int = 0) -> None:
        self.options = options or GraphOptions()
        self.seed = seed
        self.validation: GraphValidation | None = None
        """Measures on held-out chemical systems; travels with `save` and is set for `default()`."""
        self._fitted: FittedGraph | PretrainedGraph | None = None

    @classmethod
    def default(cls) -> GraphModel:
        """Return a model fitted to CHGNet energies of decorated prototypes; the weights are read once."""
        stored, model = _default_model(), cls()
        model.options, model._fitted, model.validation = stored.options, stored._fitted, stored.validation
        return model

    @classmethod
    def from_matgl(cls, name_or_path: str | Path, *, spread: float = 0.1) -> GraphModel:
        """Return a model around a network for the formation energy that others trained with MatGL.

        It takes structures as they are, so they should be near equilibrium. It cannot be refitted; `calibrate` can
        replace the spread.

        Args:
            name_or_path: A name on MatGL's hub such as "MEGNet-MP-2018.6.1-Eform", or a folder with its files.
            spread: Standard deviation of its predictions, eV/atom.

        Raises:
            ValueError: There are no such weights offline, they cannot be read, or they give wrong energies for NaCl,
                MgO or Al2O3, as weights of older MatGL releases do; the message tells the figures.
        """
        from surrogates.matgl_models import load_pretrained

        if not 0 < spread < float("inf"):
            raise ValueError(f"from_matgl: spread must be positive and finite, not {spread!r}")
        model = cls()
        model._fitted = load_pretrained(name_or_path, spread)
        return model

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols of the elements that the network was trained on."""
        return self._model().elements

    def fit(
        self,
        structures: Sequence[Structure],
        labels: Tensor,
        *,
        epochs: int | None = None,
        warm_start: bool = False,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> Self:
        """Fit to formation energies; a tenth of the chemical systems is held back to pick and to calibrate.

        Args:
            structures: N structures, unrelaxed.
            labels: Formation energies after relaxation, eV/atom, (N,) or (N, 1).
            epochs: Passes over the structures; those of the options when None.
            warm_start: Go on from the present weights, with their linear part and scale.
            checkpoint: File that always holds the best weights so far.
            progress: Show a bar.

        Raises:
            ValueError: A structure is unfit or a label not finite, their numbers differ, there are fewer than 20
                without a warm start, epochs is not positive, or the network is somebody else's.
            RuntimeError: A warm start of a model that was never fitted.
        """
        energies = check_labels(structures, labels)
        if epochs is not None and epochs < 1:
            raise ValueError(f"GraphModel: epochs must be at least 1, not {epochs!r}")
        if not warm_start and len(structures) < FEWEST:
            raise ValueError(f"GraphModel: at least {FEWEST} structures are needed, not {len(structures)}")
        from surrogates.graph_training import train

        touching = [touching_structure(structure) for structure in structures]
        training, held_out = self._split(touching)
        start = self._copied() if warm_start else self._untrained(touching, energies, training)
        elements = {*start.elements, *(site.specie.symbol for s in structures for site in s)}
        fitted = replace(start, elements=tuple(sorted(elements)))
        judging = held_out if len(held_out) else training
        judged = [touching[i] for i in judging.tolist()]
        learnt, targets = [touching[i] for i in training.tolist()], energies[training]
        if warm_start:
            rehearsed = rehearsed_structures(learnt, start.elements, self.seed)
            times = max(1, len(rehearsed) // len(learnt))  # new structures make at least half of a batch
            learnt, targets = learnt * times + rehearsed, targets.repeat(times)
            targets = torch.cat([targets, start.evaluate_touching(rehearsed)[0].double()])
        if epochs is None:
            epochs = self.options.default_epochs(len(learnt), warm_start)

        def keep() -> None:
            self._fitted = self._with_spread(fitted, touching, energies, training, held_out)
            if checkpoint is not None:
                self.save(checkpoint)

        self.validation = None
        train(
            fitted.network,
            (learnt, fitted.standardised(learnt, targets)),
            (judged, fitted.standardised(judged, energies[judging])),
            self.options,
            epochs=epochs,
            learning_rate=self.options.warm_learning_rate if warm_start else self.options.learning_rate,
            seed=self.seed,
            on_improvement=keep if checkpoint is not None else None,
            progress=progress,
        )
        keep()
        return self

    def predict(self, structures: Sequence[Structure]) -> Prediction:
        """Return the formation energy after relaxation and its standard deviation in eV/atom, each (N, 1).

        Raises:
            ValueError: A structure has overlapping atoms, no volume, partial occupancy or an element that the network
                was not trained on; the message tells its number and formula.
        """
        mean, std, _ = self._evaluated(structures)
        return Prediction(mean.unsqueeze(1), std.unsqueeze(1))

    def members(self, structures: Sequence[Structure]) -> Tensor:
        """Return S draws, (S, N, 1), eV/atom, whose mean and standard deviation over S are those of `predict`."""
        mean, std, deviations = self._evaluated(structures)
        return (mean + std * deviations).unsqueeze(-1)

    def calibrate(self, structures: Sequence[Structure], labels: Tensor) -> Self:
        """Fit the spread of the predictions to labelled structures that the network has not seen (eV/atom)."""
        energies = check_labels(structures, labels)
        model = self._model()
        check_structures(structures, model.elements, "GraphModel")
        if not isinstance(model, FittedGraph):
            error = (model.energies(structures) - energies).abs()
            self._fitted = replace(model, spread=max(float(error.quantile(0.683)), 1e-3))
            return self
        mean, features = model.evaluate(structures)
        self._fitted = replace(model, spread=_spread_of(model).calibrated(features, mean - energies))
        return self

    def validate(self, structures: Sequence[Structure], labels: Tensor) -> GraphValidation:
        """Return the measures of the predictions against labels (eV/atom) of structures not in the fit."""
        energies = check_labels(structures, labels)
        prediction = self.predict(structures)
        systems = int(chemical_system_groups(compositions(structures)).max()) + 1
        return GraphValidation.from_predictions(prediction.mean[:, 0], prediction.std[:, 0], energies, systems)

    def save(self, path: str | Path) -> None:
        """Write the fitted model as safetensors, its settings as JSON in the header."""
        write_graph(path, self._own_network("save"), self.validation)

    @classmethod
    def load(cls, path: str | Path) -> GraphModel:
        """Read a model that `save` wrote.

        Raises:
            ValueError: The file is missing, cut short or holds something else, or its network gives other energies with
                the installed MatGL than when it was saved; the message names it.
        """
        fitted, validation = read_graph(path)
        model = cls(fitted.options)
        model._fitted, model.validation = fitted, validation
        return model

    def _model(self) -> FittedGraph | PretrainedGraph:
        if self._fitted is None:
            raise RuntimeError("GraphModel: not fitted; call fit, load, default or from_matgl first")
        return self._fitted

    def _own_network(self, what: str) -> FittedGraph:
        model = self._model()
        if not isinstance(model, FittedGraph):
            raise ValueError(f"GraphModel: cannot {what} {model.name!r}, which was trained elsewhere")
        return model

    def _evaluated(self, structures: Sequence[Structure]) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean (N,), standard deviation (N,) and standardised draws (S, N)."""
        model = self._model()
        check_structures(structures, model.elements, "GraphModel")
        if isinstance(model, FittedGraph):
            mean, features = model.evaluate(structures)
            spread = _spread_of(model)
            return mean, spread.std(features), spread.deviations(features, DRAWS)
        mean = model.energies(structures)
        ranks = (torch.arange(DRAWS) - (DRAWS - 1) / 2) / ((DRAWS**2 - 1) / 12) ** 0.5
        return mean, torch.full_like(mean, model.spread), ranks.unsqueeze(1).expand(DRAWS, len(mean))

    def _copied(self) -> FittedGraph:
        model = self._own_network("refit")
        return replace(model, network=copy.deepcopy(model.network).requires_grad_(True))

    def _untrained(self, structures: Sequence[Structure], energies: Tensor, training: Tensor) -> FittedGraph:
        known = [structures[i] for i in training.tolist()]
        element_energies = fit_element_energies(known, energies[training])
        network = new_network(self.options, self.seed)
        fitted = FittedGraph(network, self.options, (), element_energies, 0.0, 1.0)
        rest = energies[training] - fitted.linear(known)
        return replace(fitted, mean=float(rest.mean()), std=max(float(rest.std()), 1e-3))

    def _split(self, structures: Sequence[Structure]) -> tuple[Tensor, Tensor]:
        """Return the rows to train on and those held back, none of too few structures."""
        rows, parts = torch.arange(len(structures)), self.options.held_out
        if len(structures) < FEWEST:
            return rows, rows[:0]
        batch = compositions(structures)
        systems = int(chemical_system_groups(batch).max()) + 1
        held = grouped_folds(batch, min(parts, systems), self.seed) == 0 if systems > 1 else rows % parts == 0
        return rows[~held], rows[held]

    def _with_spread(
        self, fitted: FittedGraph, structures: Sequence[Structure], energies: Tensor, training: Tensor, held_out: Tensor
    ) -> FittedGraph:
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(self.seed))
        some = training[order[:MOMENT_STRUCTURES]]
        features = fitted.evaluate_touching([structures[i] for i in some.tolist()])[1]
        joined = GraphSpread.from_features(features) if fitted.spread is None else fitted.spread.joined(features)
        if len(held_out):
            mean, features = fitted.evaluate_touching([structures[i] for i in held_out.tolist()])
            joined = joined.calibrated(features, mean - energies[held_out])
        return replace(fitted, spread=joined)


def _spread_of(model: FittedGraph) -> GraphSpread:
    if model.spread is None:
        raise RuntimeError("GraphModel: the network has no spread; fit it first")
    return model.spread


@lru_cache(maxsize=1)
def _default_model() -> GraphModel:
    with resources.as_file(resources.files("surrogates") / "data" / DEFAULT_WEIGHTS) as path:
        return GraphModel.load(path)
