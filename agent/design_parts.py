"""The parts of a design run, made from a configuration: space, objectives, reward, prior, models of energies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.config import ConstraintConfig, DesignConfig, ObjectiveConfig, PlugIn, SpaceConfig
from agent.design_agent import DesignAgent
from agent.objective import Objective
from agent.plug_in import load_plug_in
from agent.prior import CRYSTAL_SHARPENING, Prior
from agent.reference_option import make_energy_model
from agent.reward import FunctionReward, Reward
from envs import CompositionSpace, CrystalSpace, DesignSpace
from envs.crystal_standard import standardise
from surrogates import load_dataset
from surrogates.base import Surrogate
from surrogates.energy import ENERGY_PROPERTIES, EnergyModel
from surrogates.properties import PROPERTIES, SurrogateProperty


def plug_ins(config: DesignConfig) -> list[tuple[str, PlugIn]]:
    """Return everything of the user's own that a configuration names, with what it is for."""
    wanted: list[ObjectiveConfig | ConstraintConfig] = [*config.objectives, *config.constraints]
    found = [(f"objective {entry.property!r}: model", entry.model) for entry in wanted]
    found += [("reward", config.reward), ("oracle", config.oracle)]
    return [(what, plug_in) for what, plug_in in found if plug_in is not None]


def energy_model_of(config: DesignConfig, say: Callable[[str], None], stored: Path | None = None) -> EnergyModel | None:
    """Return the model of energies that the option `reference` asks for, None without it."""
    if config.reference is None:
        return None
    wanted: list[ObjectiveConfig | ConstraintConfig] = [*config.objectives, *config.constraints]
    if not any(entry.property in ENERGY_PROPERTIES and entry.model is None for entry in wanted):
        raise ValueError(f"reference: no objective uses it (expected one of {', '.join(ENERGY_PROPERTIES)})")
    elements = make_space(config.space).elements
    return make_energy_model(config.reference, elements, config.seed, say, stored)


def make_agent(config: DesignConfig, progress: bool, energies: EnergyModel | None = None) -> DesignAgent:
    """Build space, reward and prior of a configuration, check them, and put the agent together."""
    space = make_design_space(config)
    reward = make_reward(config, energies)
    prior = make_prior(config, space, progress)
    return DesignAgent(
        space, reward, prior, config.prior_weight, config.beta, config.seed, config.training, config.conditions
    )


def make_space(config: SpaceConfig) -> CompositionSpace:
    """Build the design space."""
    from smact.screening import ICSD24FilterConfig

    values: dict[str, Any] = dict(vars(config))
    if config.icsd24_filter is not None:
        values["icsd24_filter"] = ICSD24FilterConfig(**vars(config.icsd24_filter))
    return CompositionSpace(**values)


def make_design_space(config: DesignConfig) -> CompositionSpace | CrystalSpace:
    """Build the space of the compositions, or of the crystals where they are asked for.

    Raises:
        ValueError: A limit is wrong; the message names it.
    """
    composition = make_space(config.space)
    if config.crystal is None:
        return composition
    names = ("max_atoms", "formula_units", "space_groups", "crystal_systems", "min_distance")
    try:
        return CrystalSpace(composition, **{name: getattr(config.crystal, name) for name in names})
    except ValueError as error:
        raise ValueError(f"crystal: {error}") from None


def make_reward(config: DesignConfig, energies: EnergyModel | None = None) -> Reward | FunctionReward:
    """Build the reward: objectives, or a plug-in.

    Args:
        config: What is wanted.
        energies: What formation energies and distances to the hull come from; the embedded model when None.

    Raises:
        ValueError: Neither or both are given, or one of them is wrong.
    """
    if (config.reward is None) == (not config.objectives):
        given = "both are given" if config.objectives else "neither is given"
        raise ValueError(f"objectives, reward: {given} (expected either a list of objectives or a reward of your own)")
    if config.reward is not None and config.constraints:
        raise ValueError("constraints: a reward of your own knows none (expected objectives, or no constraints)")
    if config.reward is not None:
        found = load_plug_in(config.reward, "reward")
        if not callable(found):
            raise ValueError(f"reward: {config.reward.class_path!r} cannot be called with a list of materials")
        return FunctionReward(found, config.reward.class_path)
    objectives, constraints = make_objectives(config, energies)
    return Reward(objectives, config.scalarization, constraints)


def make_objectives(
    config: DesignConfig, energies: EnergyModel | None = None
) -> tuple[list[Objective], list[Objective]]:
    """Return the objectives and the constraints of a configuration."""
    objectives, constraints = (
        [_make_objective(entry, energies) for entry in part] for part in (config.objectives, config.constraints)
    )
    return objectives, constraints


def _make_objective(config: ObjectiveConfig | ConstraintConfig, energies: EnergyModel | None) -> Objective:
    values = dict(vars(config))
    if energies is not None and config.property in ENERGY_PROPERTIES:
        output = ENERGY_PROPERTIES.index(config.property)
        values["model"] = SurrogateProperty(PROPERTIES[config.property], energies, output)
    if config.model is not None:
        model = load_plug_in(config.model, f"objective {config.property!r}: model")
        if not isinstance(model, Surrogate):
            raise ValueError(
                f"objective {config.property!r}: {config.model.class_path!r} is no property model "
                "(expected the methods fit, members and predict)"
            )
        values["model"] = model
    return Objective(**values)


def make_prior(config: DesignConfig, space: DesignSpace, progress: bool) -> Prior | None:
    """Return the prior that a configuration names: default, none, a file, or one fitted to a table."""
    if config.prior == "none":
        return None
    if config.prior == "default":
        return Prior.default() if config.crystal is None else Prior.default_crystals()
    path = Path(config.prior)
    if path.suffix == ".safetensors":
        return Prior.load(path)
    if config.crystal is not None:
        return _crystal_prior(path, space, config.seed, progress)
    if path.suffix in (".csv", ".parquet") or path.exists():
        return Prior.fit(space, load_dataset(path, value_columns=[]).materials, seed=config.seed, progress=progress)
    raise ValueError(
        f"prior: {config.prior!r} is not default, none, a prior file (.safetensors) or a table (.csv, .parquet)"
    )


def _crystal_prior(path: Path, space: DesignSpace, seed: int, progress: bool) -> Prior:
    """Fit the part of a prior that decides structures to structure files of the user's."""
    from surrogates.structure_files import read_structures

    if not path.exists():
        raise ValueError(f"prior: {path} is not default, none, a prior file (.safetensors), a CIF or a folder of CIFs")
    entries = read_structures([path])
    found = standardise([entry.structure for entry in entries if entry.structure is not None])
    if not len(found.crystals):
        problems = [entry.problem for entry in entries] + found.reasons
        raise ValueError(f"prior: no structure could be read from {path} ({next(filter(None, problems))})")
    texts = list(found.crystals)
    try:
        kept = Prior.default().sharpened(CRYSTAL_SHARPENING)
        return Prior.fit(space, texts, seed=seed, kept=kept, temperature=1.0, progress=progress)
    except ValueError as error:
        raise ValueError(f"prior: {path}: {error}") from None
