"""A design run from configuration to report: `matsmith design`, `resume` and `sample` without the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from agent.candidates import collect_candidates, predict_known
from agent.checks import check_settings
from agent.conditions import default_options
from agent.config import ConstraintConfig, DesignConfig, ObjectiveConfig, SpaceConfig
from agent.coverage import Coverage
from agent.data_support import DataSupport, examine
from agent.design_agent import DesignAgent
from agent.front import pareto_front
from agent.interruption import ForcedInterrupt
from agent.objective import Objective
from agent.plug_in import load_plug_in
from agent.prior import Prior
from agent.reference_option import make_energy_model
from agent.reward import FunctionReward, Reward
from agent.run_folder import RunFolder, describe_environment
from agent.trainer import StepReport
from envs import CompositionSpace
from surrogates import load_dataset
from surrogates.base import Surrogate
from surrogates.energy import ENERGY_PROPERTIES, EnergyModel
from surrogates.properties import PROPERTIES, SurrogateProperty

_CHECKPOINT_SECONDS = 20.0
_MOST_SAMPLES = 1_000_000
_MOST_KNOWN = 2000
"""Known materials behind the front in the report."""
ENERGY_WEIGHTS = "energy.safetensors"
"""Networks fitted to the option `reference`, in the run's folder."""


class Interrupted(Exception):  # noqa: N818 - not an error: the user's wish
    """Training was interrupted; a checkpoint was written."""


@dataclass(frozen=True)
class DesignResult:
    """What a run came to."""

    folder: Path
    candidates: pd.DataFrame
    coverage: Coverage
    support: DataSupport | None
    seconds: float


def start_design(
    config: DesignConfig, write_config: Callable[[], str], say: Callable[[str], None], progress: bool
) -> DesignResult:
    """Check everything, then make the folder, train, and write what came out.

    Args:
        config: What to do.
        write_config: Returns the configuration as YAML that runs again.
        say: Receives text for the user.
        progress: Whether to show progress bars.

    Raises:
        ValueError: Anything wrong with the configuration; nothing has been written.
        Interrupted: Ctrl-C while training; a checkpoint has been written.
    """
    folder = RunFolder(config.output)
    folder.check_free(config.overwrite)
    _check(config)
    energies = _energy_model(config, say)
    agent = make_agent(config, progress, energies)
    support = examine(agent.space, agent.reward, agent.base, config.seed) if isinstance(agent.reward, Reward) else None
    folder.create()
    if energies is not None:
        energies.save(folder.path / ENERGY_WEIGHTS)
    if support is not None:
        say(str(support))
    folder.write_text("config.yaml", write_config())
    folder.write_json("environment.json", describe_environment(config.seed))
    if support is not None:
        folder.write_json("support.json", asdict(support))
    agent.save(folder.checkpoint)  # a run that is killed at once can be resumed as well
    return _train_and_collect(agent, config, folder, support, progress)


def resume_design(config: DesignConfig, folder: RunFolder, progress: bool) -> DesignResult:
    """Go on with a run from its checkpoint.

    Raises:
        ValueError: No checkpoint, or one that does not fit the configuration.
        Interrupted: As for `start_design`.
    """
    _check(config)
    agent = _load(config, folder)
    support = examine(agent.space, agent.reward, agent.base, config.seed) if isinstance(agent.reward, Reward) else None
    return _train_and_collect(agent, config, folder, support, progress)


def _load(config: DesignConfig, folder: RunFolder) -> DesignAgent:
    """Read the checkpoint of a run, and make sure that its configuration was not changed since."""
    energies = _energy_model(config, lambda _: None, folder.path / ENERGY_WEIGHTS)
    agent = DesignAgent.load(folder.checkpoint, space=make_space(config.space), reward=make_reward(config, energies))
    weight = config.prior_weight if agent.prior is not None else 0.0
    wanted = {"beta": config.beta, "prior_weight": weight, "seed": config.seed}
    held = {"beta": agent.beta, "prior_weight": agent.prior_weight, "seed": agent.seed}
    wanted |= {f"training.{name}": value for name, value in asdict(config.training).items()}
    held |= {f"training.{name}": value for name, value in asdict(agent.options).items()}
    options = config.conditions or default_options(agent.reward.objectives, config.beta, config.training.loss)
    wanted |= {f"conditions.{name}": value for name, value in asdict(options).items()}
    held |= {f"conditions.{name}": value for name, value in asdict(agent.conditions.options).items()}
    for name, value in wanted.items():
        if value != held[name]:
            raise ValueError(
                f"{folder.config}: {name} was {held[name]} when the run was started, not {value}; start another run"
            )
    return agent


def _train_and_collect(
    agent: DesignAgent, config: DesignConfig, folder: RunFolder, support: DataSupport | None, progress: bool
) -> DesignResult:
    started = time.monotonic()
    try:
        _train(agent, config, folder, progress)
        coverage, candidates = _collect(agent, config, folder, started)
    except KeyboardInterrupt:
        at = f"step {agent.trainer.step} of {config.steps}"
        raise Interrupted(f"interrupted {'at' if agent.trainer.step < config.steps else 'after'} {at}") from None
    return DesignResult(folder.path, candidates, coverage, support, time.monotonic() - started)


def _train(agent: DesignAgent, config: DesignConfig, folder: RunFolder, progress: bool) -> None:
    """Train and leave a checkpoint, after an interruption too."""
    saved = time.monotonic()
    steps_left = config.steps - agent.trainer.step
    with folder.open_metrics(agent.trainer.step) as metrics:

        def after_step(report: StepReport) -> None:
            nonlocal saved
            metrics.write(report)
            if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                agent.save(folder.checkpoint)
                saved = time.monotonic()

        try:
            if steps_left > 0:
                agent.train(steps_left, progress=progress, callback=after_step)
        except ForcedInterrupt:
            raise  # in the middle of a step: the last checkpoint stays
        except KeyboardInterrupt:
            agent.save(folder.checkpoint)
            raise
    agent.save(folder.checkpoint)


def _collect(
    agent: DesignAgent, config: DesignConfig, folder: RunFolder, started: float
) -> tuple[Coverage, pd.DataFrame]:
    """Judge the policy and write candidates and report."""
    coverage = agent.coverage(seed=config.seed)
    folder.write_json("coverage.json", asdict(coverage))
    candidates = collect_candidates(agent, config.candidates, config.samples, config.seed)
    folder.write_text("candidates.csv", candidates.to_csv(index=False, float_format="%.6g"))
    if agent.conditions.answers_preference:
        front = pareto_front(agent.sample_front(max(config.samples, 100), seed=config.seed), agent.reward.objectives)
        folder.write_text("front.csv", front.materials.to_csv(index=False, float_format="%.6g"))
        folder.write_json("front.json", asdict(front.measures))
        known = predict_known(agent, _MOST_KNOWN, config.seed)
        folder.write_text("known.csv", known.to_csv(index=False, float_format="%.6g"))
    environment = json.loads((folder.path / "environment.json").read_text(encoding="utf-8"))
    environment["seconds"] = round(environment.get("seconds", 0.0) + time.monotonic() - started, 1)
    folder.write_json("environment.json", environment)
    from agent.report import write_report

    write_report(folder.path)
    return coverage, candidates


def _check(config: DesignConfig) -> None:
    for name in ("steps", "candidates", "samples"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: {getattr(config, name)} is not a positive number")
    if config.samples > _MOST_SAMPLES:
        raise ValueError(f"samples: {config.samples} is more than {_MOST_SAMPLES:,}")
    check_settings(config.prior_weight, config.beta, config.seed)
    if not 1 <= config.threads <= 1024:
        raise ValueError(f"threads: {config.threads} is not in 1..1024")
    torch.set_num_threads(config.threads)


def _energy_model(config: DesignConfig, say: Callable[[str], None], stored: Path | None = None) -> EnergyModel | None:
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
    space = make_space(config.space)
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
            raise ValueError(f"reward: {config.reward.class_path!r} cannot be called with a list of formulas")
        return FunctionReward(found, config.reward.class_path)
    objectives, constraints = (
        [_make_objective(entry, energies) for entry in part] for part in (config.objectives, config.constraints)
    )
    return Reward(objectives, config.scalarization, constraints)


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


def make_prior(config: DesignConfig, space: CompositionSpace, progress: bool) -> Prior | None:
    """Return the prior that a configuration names: default, none, a file, or one fitted to a table."""
    if config.prior == "none":
        return None
    if config.prior == "default":
        return Prior.default()
    path = Path(config.prior)
    if path.suffix == ".safetensors":
        return Prior.load(path)
    if path.suffix in (".csv", ".parquet") or path.exists():
        return Prior.fit(space, load_dataset(path, value_columns=[]).materials, seed=config.seed, progress=progress)
    raise ValueError(
        f"prior: {config.prior!r} is not default, none, a prior file (.safetensors) or a table (.csv, .parquet)"
    )


def sample_run(
    config: DesignConfig,
    folder: RunFolder,
    n: int,
    *,
    preference: Mapping[str, float] | Literal["sweep"] | None = None,
    beta: float | None = None,
    target: Mapping[str, float] | None = None,
    corrected: bool = False,
    seed: int | None = None,
) -> tuple[pd.DataFrame, Sequence[Objective]]:
    """Sample from the policy of a run; see `DesignAgent.sample`, and `sample_front` for a sweep.

    Returns:
        The samples, and the objectives of the run.

    Raises:
        ValueError: n out of range, a condition that the policy does not answer, no checkpoint, or one that does not
            fit the configuration.
    """
    if not 1 <= n <= _MOST_SAMPLES:
        raise ValueError(f"n: {n} is not in 1..{_MOST_SAMPLES:,}")
    if preference == "sweep" and corrected:
        raise ValueError("corrected: not for a sweep (expected one preference, or no correction)")
    agent = _load(config, folder)
    if preference == "sweep":
        return agent.sample_front(n, beta=beta, target=target, seed=seed), agent.reward.objectives
    frame = agent.sample(n, preference=preference, beta=beta, target=target, corrected=corrected, seed=seed)
    return frame, agent.reward.objectives
