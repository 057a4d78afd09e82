"""What the data can tell about an objective, before any training: the model's error, known examples, reach.

A target that the data cannot judge is a warning here and in the report, not an error: the user may know better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agent.objective import Objective
from agent.policy import Policy
from agent.reward import Reward
from envs import CompositionSpace, CrystalSpace, DesignSpace
from surrogates.band_gap import BandGapModel
from surrogates.crystal_energy import CrystalEnergyModel
from surrogates.distribution import PropertyDistribution
from surrogates.energy import ENERGY_PROPERTIES, EnergyModel
from surrogates.properties import PROPERTIES, SurrogateProperty

_SAMPLES = 4096
_FEWEST_KNOWN = 20
_DILUTE = 0.1  # edits as a share of the reference's atoms


@dataclass(frozen=True)
class ObjectiveSupport:
    """What the data can tell about one objective."""

    objective: str
    property: str
    unit: str
    source: str
    error: str | None
    """The model's error under grouped cross-validation, in words; None where the property is exact."""
    known_in_target: int | None
    """Materials with a measured value within the objective; None where nothing is measured."""
    known_measured: int | None
    uniform_share: float
    """Share of uniform samples of the space predicted within the objective."""
    prior_share: float
    """The same for samples of the base measure."""


@dataclass(frozen=True)
class DataSupport:
    """What the data can tell about all objectives and constraints."""

    objectives: tuple[ObjectiveSupport, ...]
    warnings: tuple[str, ...]
    constraints: tuple[ObjectiveSupport, ...] = ()

    def __str__(self) -> str:
        lines = ["What the data can tell"]
        for entry in (*self.objectives, *self.constraints):
            kind = "constraint " if entry in self.constraints else ""
            lines.append(f"  {kind}{entry.objective}: {entry.error or 'computed exactly'}")
            if entry.known_measured is not None:
                lines.append(
                    f"    measured: {entry.known_in_target:,} of {entry.known_measured:,} known materials lie within"
                )
            shares = f"{entry.uniform_share:.1%} of uniform samples, {entry.prior_share:.1%} of the prior's"
            lines.append(f"    predicted within: {shares}")
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])


def examine(space: DesignSpace, reward: Reward, base: Policy, seed: int = 0) -> DataSupport:
    """Compare each objective and constraint with measured values and with predictions for samples of the space."""
    generator = torch.Generator().manual_seed(seed)
    uniform = reward.predict(space.materials(space.sample_uniform_policy(_SAMPLES, generator)))
    from_base = reward.predict(space.materials(base.sample_many(_SAMPLES, generator).state))
    wanted = (*reward.objectives, *reward.constraints)
    crystals = isinstance(space, CrystalSpace)
    entries = [_examine_one(o, uniform[o.property], from_base[o.property], crystals) for o in wanted]
    warnings = [warning for entry in entries for warning in _warnings(entry)]
    warnings += [text for o in reward.objectives for text in _too_cautious(o, from_base[o.property])]
    warnings += [
        warning
        for objective, entry in zip(wanted, entries, strict=True)
        if entry.known_measured is not None
        for warning in _beyond_the_data(objective)
    ]
    warnings += _dilute(space, wanted)
    n_objectives = len(reward.objectives)
    return DataSupport(tuple(entries[:n_objectives]), tuple(warnings), tuple(entries[n_objectives:]))


def _examine_one(
    objective: Objective, uniform: PropertyDistribution, from_base: PropertyDistribution, crystals: bool
) -> ObjectiveSupport:
    energies = energy_model(objective)
    embedded = objective.model is None or energies is not None
    known = PROPERTIES.get(objective.property) if embedded or isinstance(objective.model, SurrogateProperty) else None
    measured = measured_values(objective.property) if embedded else None
    by_structure = crystals and objective.model is None and objective.property in ENERGY_PROPERTIES
    return ObjectiveSupport(
        str(objective),
        objective.property,
        known.unit if known and known.unit != "1" else "",
        _source_of_crystals() if by_structure else _source(objective),
        _error_of_crystals() if by_structure else _error(objective),
        None if measured is None else int(objective.contains(measured).sum()),
        None if measured is None else len(measured),
        float(objective.contains(uniform.mean).float().mean()),
        float(objective.contains(from_base.mean).float().mean()),
    )


def energy_model(objective: Objective) -> EnergyModel | None:
    """Return the model of formation energies that an objective rests on; None where it rests on another."""
    if objective.property not in ENERGY_PROPERTIES:
        return None
    if objective.model is None:
        return EnergyModel.default()
    own = objective.model.surrogate if isinstance(objective.model, SurrogateProperty) else None
    return own if isinstance(own, EnergyModel) else None


def _source(objective: Objective) -> str:
    energies = energy_model(objective)
    if objective.model is None:
        embedded = PROPERTIES[objective.property].source
        return embedded if energies is None else f"{embedded}: {energies.hull.source}"
    if energies is not None:
        return f"networks fitted to energies {energies.hull.source}"
    own = objective.model
    return own.property.source if isinstance(own, SurrogateProperty) else type(own).__name__


def measured_values(name: str) -> Tensor | None:
    """Return the measured values that the embedded model of a property learned from, float (N,); None if exact."""
    if name != "band_gap":
        return None
    from surrogates.datasets import read_band_gaps

    return torch.tensor(read_band_gaps()["band_gap_eV"].to_numpy(), dtype=torch.float32)


def _error(objective: Objective) -> str | None:
    energies = energy_model(objective)
    if energies is not None:
        return _energy_error(energies, objective.property)
    if objective.model is not None:
        model = objective.model.surrogate if isinstance(objective.model, SurrogateProperty) else objective.model
        describe = getattr(model, "describe_error", None)
        return "a model of your own; its error is not known here" if describe is None else str(describe())
    if objective.property == "band_gap":
        found = BandGapModel.default().validation
        if found is None:
            return "predicted; how well is not known"
        return (
            f"{found.folds}-fold cross-validation by chemical system: mean absolute error {found.mae_eV:.2f} eV among "
            f"{found.gapped:,} materials with a gap; metal or not, area under the ROC curve {found.auc:.3f}"
        )
    return None


def _energy_error(model: EnergyModel, name: str) -> str:
    found, source = model.validation, model.hull.source
    if found is None:
        return f"predicted, {source}; how well is not known"
    text = f"{found.folds}-fold cross-validation by chemical system: "
    if name == "formation_energy":
        return text + f"mean absolute error {found.mae_eV_per_atom:.2f} eV/atom among {found.materials:,} compounds"
    return (
        f"{text}mean absolute error {found.hull_mae_eV_per_atom:.2f} eV/atom, rank correlation "
        f"{found.hull_spearman:.2f} among {found.hull_materials:,} compounds; {source}"
    )


def _source_of_crystals() -> str:
    hull = CrystalEnergyModel.default().hull
    return f"networks of composition, space group and positions, fitted to CHGNet energies (not DFT): {hull.source}"


def _error_of_crystals() -> str:
    model = CrystalEnergyModel.default()
    found, source = model.validation, model.hull.source
    if found is None:
        return f"predicted from composition, space group and positions, {source}; how well is not known"
    systems, types = found.new_systems, found.new_types
    return (
        f"predicted from composition, space group and positions: mean absolute error "
        f"{systems.mae_eV_per_atom:.2f} eV/atom in chemical systems held out ({systems.crystals:,} crystals), "
        f"{types.mae_eV_per_atom:.2f} in structure types held out; {source}"
    )


def _warnings(entry: ObjectiveSupport) -> Sequence[str]:
    warnings = []
    if entry.known_in_target is not None and entry.known_in_target < _FEWEST_KNOWN:
        warnings.append(
            f"{entry.objective}: only {entry.known_in_target} of {entry.known_measured:,} measured materials lie "
            "within, so the model can hardly judge it"
        )
    if entry.prior_share == 0 and entry.uniform_share == 0:
        warnings.append(
            f"{entry.objective}: no sample of {_SAMPLES:,} is predicted within; the target may be out of reach"
        )
    return warnings


def _too_cautious(objective: Objective, from_base: PropertyDistribution) -> Sequence[str]:
    """Warn where nearly all that is predicted within counts for nothing, because the predictions are distrusted."""
    if objective.goal == "window" or objective.caution <= 0:
        return []
    within = float(objective.contains(from_base.mean).float().mean())
    worth = float((objective.utility(from_base) > 0).float().mean())
    if within < 0.05 or worth > 0.1 * within:
        return []
    return [
        f"{objective}: {within:.1%} of the prior's samples are predicted within, but at caution {objective.caution:g} "
        f"only {worth:.1%} count, so uncertain are the predictions (caution: 0 trusts them)"
    ]


def _dilute(space: DesignSpace, wanted: Sequence[Objective]) -> Sequence[str]:
    """Warn of energies around a reference so large that its edits hardly change it."""
    if not isinstance(space, CompositionSpace) or space.limits.max_edits is None:
        return []
    atoms, edits = sum(space.limits.reference_counts.values()), space.limits.max_edits
    if not 0 < edits <= _DILUTE * atoms:
        return []
    return [
        f"{objective}: {edits} edit{'' if edits == 1 else 's'} among {atoms} atoms is doping so dilute that the model "
        "was not fitted to it; the order of such candidates means little"
        for objective in wanted
        if objective.property in ENERGY_PROPERTIES and objective.model is None
    ]


def _beyond_the_data(objective: Objective) -> Sequence[str]:
    measured = measured_values(objective.property)
    if measured is None or objective.goal != "window":
        return ()
    lowest, highest = float(measured.min()), float(measured.max())
    beyond = (objective.low is not None and objective.low > highest) or (
        objective.high is not None and objective.high < lowest
    )
    return (f"{objective}: outside the measured range {lowest:g} to {highest:g}",) if beyond else ()
