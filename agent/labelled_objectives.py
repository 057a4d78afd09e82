"""Objectives whose properties an oracle labels: what the labels so far make of them.

    wanted = LabelledObjectives(objectives, ["band_gap"], constraints)
    wanted.fit(formulas, labels)                 # labels: a table with one column a labelled property
    wanted.reward                                # what the policy is trained on
    wanted.members(candidates)                   # what a batch is selected by
    wanted.achieved(formulas, labels)            # what was reached

A property that no oracle labels keeps its embedded model, or its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from agent.objective import Objective
from agent.reward import Reward
from agent.selection import MemberTable
from envs.formula import CompositionBatch
from surrogates.base import Prediction
from surrogates.cheap_labels import CheapLabels
from surrogates.distribution import ExactDistribution, PropertyDistribution
from surrogates.energy import EnergyModel
from surrogates.label_model import LabelModel, RegressionKind
from surrogates.properties import PROPERTIES, Property, SurrogateProperty, evaluate_properties


@dataclass(frozen=True, eq=False)
class Achieved:
    """What K labelled materials reached."""

    utilities: Tensor
    """Float (K, m), those of the labels, or predicted where a property is not labelled."""
    feasible: Tensor
    """Bool (K,), whether all constraints hold; where a property is not labelled, whether that is likely."""
    hits: Tensor
    """Bool (K,), whether the value of every objective and constraint lies within its bounds."""


class _OneProperty:
    """One property of a model of labels, as a `Surrogate` with m = 1."""

    def __init__(self, model: LabelModel, name: str) -> None:
        self._model, self._name, self._column = model, name, model.names.index(name)

    def fit(self, materials: Iterable[str], labels: Tensor) -> Self:
        """Refuse: all properties are fitted together."""
        raise RuntimeError(f"{self._name}: fitted with the other labelled properties (LabelledObjectives.fit)")

    def members(self, materials: Iterable[str]) -> Tensor:
        """Return draws, (S, N, 1)."""
        return self._model.members(materials)[:, :, self._column : self._column + 1]

    def predict(self, materials: Iterable[str]) -> Prediction:
        """Return mean and standard deviation, (N, 1) each."""
        both = self._model.predict(materials)
        one = slice(self._column, self._column + 1)
        return Prediction(both.mean[:, one], both.std[:, one])

    def describe_error(self) -> str:
        """Return in one line how well unseen chemical systems are predicted."""
        report = self._model.reports[self._name]
        if report.kind == "embedded":
            return f"only {report.labels} labels so far: the embedded model as it is"
        text = f"cross-validation by chemical system: mean absolute error {report.mae:.3g} over {report.labels} labels"
        return text if report.embedded_mae is None else f"{text} (embedded model, before: {report.embedded_mae:.3g})"

    def distribution(self, materials: Iterable[str]) -> PropertyDistribution:
        """Return the predictive distribution."""
        return self._model.distribution(self._name, materials)


class LabelledObjectives:
    """Objectives and constraints with the models of what is labelled.

    Args:
        objectives: What is wanted.
        labelled: The properties among them that the oracle labels.
        constraints: What must hold.
        scalarization: See `agent.reward.scalarize`.
        energies: The embedded model of energies that corrections start from; None: the default.
        kind: See `LabelModel`.
        seed: Of everything random in the models.
        oracle: Name and version of who labels, for reports.

    Raises:
        ValueError: None of the properties is labelled.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        labelled: Sequence[str],
        constraints: Sequence[Objective] = (),
        scalarization: Literal["tchebycheff", "sum", "product"] = "tchebycheff",
        energies: EnergyModel | None = None,
        kind: RegressionKind = "auto",
        seed: int = 0,
        oracle: str = "the oracle",
    ) -> None:
        wanted = list(dict.fromkeys(o.property for o in (*objectives, *constraints)))
        self.labelled = tuple(name for name in wanted if name in set(labelled))
        if not self.labelled:
            given = ", ".join(labelled) or "nothing"
            raise ValueError(f"oracle: it labels {given}, and none of the objectives ({', '.join(wanted)})")
        self.others = tuple(name for name in wanted if name not in self.labelled)
        self.model = LabelModel(self.labelled, energies, kind, seed)
        self.oracle = oracle
        self._objectives, self._constraints, self._scalarization = tuple(objectives), tuple(constraints), scalarization
        self._reward: Reward | None = None
        self._own_models = {o.property: o.model for o in (*objectives, *constraints) if o.model is not None}

    def fit(
        self,
        materials: Sequence[str],
        labels: Mapping[str, Sequence[float]],
        cheaper: Sequence[tuple[Sequence[str], Mapping[str, Sequence[float]]]] = (),
    ) -> None:
        """Fit the models to N materials.

        Args:
            materials: N formulas.
            labels: Values by property, NaN where there is none; properties that are not asked for do not matter.
            cheaper: The same of each cheaper oracle; models are of the labels above, about which these tell something.
        """
        others = [CheapLabels(formulas, self._columns(formulas, values)) for formulas, values in cheaper]
        self.model.fit(materials, self._columns(materials, labels), others)
        self._reward = Reward(
            [self._with_model(objective) for objective in self._objectives],
            self._scalarization,
            [self._with_model(constraint) for constraint in self._constraints],
        )

    def _columns(self, materials: Sequence[str], labels: Mapping[str, Sequence[float]]) -> Tensor:
        missing = [float("nan")] * len(materials)
        columns = [torch.as_tensor(list(labels.get(name, missing)), dtype=torch.float64) for name in self.labelled]
        return torch.stack(columns, 1)

    def share(self, position: int) -> float:
        """Return the squared correlation of a cheaper oracle's labels with the others, the mean over the properties.

        It is of what both add to what was predicted, as of the last fit; a property that it does not label counts as 0.
        """
        shares = [found[position].share for found in self.model.agreements.values()]
        return sum(shares) / len(shares)

    @property
    def reward(self) -> Reward:
        """The reward with the models as they were fitted last."""
        if self._reward is None:
            raise RuntimeError("LabelledObjectives: not fitted; call fit first")
        return self._reward

    def _with_model(self, objective: Objective) -> Objective:
        if objective.property not in self.labelled:
            return objective
        name = objective.property
        source = f"models fitted to labels of {self.oracle}"
        embedded = PROPERTIES.get(name)
        described = replace(embedded, source=source) if embedded else Property(name, "1", name, source, name)
        return replace(objective, model=SurrogateProperty(described, _OneProperty(self.model, name)))

    def members(self, materials: Sequence[str]) -> MemberTable:
        """Return the utilities of N materials by each of S functions that the labels leave possible."""
        batch = CompositionBatch.from_formulas(materials)
        drawn = self.model.members(batch)
        others = self._predict_others(batch)
        n_members = len(drawn)
        utilities = []
        for objective in self._objectives:
            if objective.property in self.labelled:
                values = drawn[:, :, self.labelled.index(objective.property)]
                utilities.append(objective.utility(ExactDistribution(values.flatten())).view_as(values))
            else:
                utilities.append(objective.utility(others[objective.property]).expand(n_members, -1))
        if not self._constraints:
            return MemberTable(torch.stack(utilities, 2), None)
        feasible = torch.ones(n_members, len(batch), dtype=torch.bool)
        shares = (torch.arange(n_members)[:, None] + 0.5) / n_members
        for constraint in self._constraints:
            if constraint.property in self.labelled:
                feasible &= constraint.contains(drawn[:, :, self.labelled.index(constraint.property)])
            else:
                feasible &= constraint.utility(others[constraint.property]) > shares
        return MemberTable(torch.stack(utilities, 2), feasible)

    def achieved(self, materials: Sequence[str], labels: Mapping[str, Sequence[float]]) -> Achieved:
        """Return what K labelled materials reached; where a label is missing, the model's mean stands in for it."""
        batch = CompositionBatch.from_formulas(materials)
        predicted = self.model.predict(batch).mean
        others = self._predict_others(batch)
        values: dict[str, Tensor] = {}
        for column, name in enumerate(self.labelled):
            given = torch.as_tensor(list(labels.get(name, [float("nan")] * len(batch))), dtype=torch.float32)
            values[name] = torch.where(given.isnan(), predicted[:, column], given)
        exact: dict[str, PropertyDistribution] = {name: ExactDistribution(value) for name, value in values.items()}
        distributions = {**others, **exact}
        values |= {name: distribution.mean for name, distribution in others.items()}
        utilities = [objective.utility(distributions[objective.property]) for objective in self._objectives]
        feasible, hits = (torch.ones(len(batch), dtype=torch.bool) for _ in range(2))
        for constraint in self._constraints:
            feasible &= constraint.utility(distributions[constraint.property]) > 0.5
        for entry in (*self._objectives, *self._constraints):
            hits &= entry.contains(values[entry.property])
        return Achieved(torch.stack(utilities, 1).float(), feasible, hits)

    def _predict_others(self, batch: CompositionBatch) -> dict[str, PropertyDistribution]:
        own = {name: model for name, model in self._own_models.items() if name in self.others}
        return evaluate_properties(self.others, batch, own)
