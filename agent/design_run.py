"""A design run from configuration to report: `matsmith design`, `resume` and `sample` without the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from agent.campaign import STORE, Campaign, CampaignInterrupted
from agent.campaign_run import add_labels, load_campaign, make_campaign, run_campaign
from agent.candidates import collect_candidates, predict_known
from agent.checks import check_prior_weight_range, check_settings
from agent.conditions import default_options
from agent.config import DesignConfig
from agent.coverage import Coverage
from agent.crystal_candidates import check_crystal_options, collect_crystals
from agent.data_support import DataSupport, examine
from agent.design_agent import DesignAgent
from agent.design_parts import energy_model_of, make_agent, make_design_space, make_reward, plug_ins
from agent.front import pareto_front
from agent.objective import Objective
from agent.plug_in import check_no_secret
from agent.report_prior_weight import PRIOR_WEIGHTS_FILE
from agent.reward import Reward
from agent.run_folder import RunFolder, describe_environment
from agent.store_file import held
from agent.structure_output import write_structures
from agent.training_run import train_to
from surrogates.progress import progress_bar

_MOST_SAMPLES = 1_000_000
_SWEPT = 1000
"""Samples under each prior weight of a sweep."""
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
    labels: int = 0
    """Materials that an oracle was asked to label."""


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
    energies = energy_model_of(config, say)
    if config.rounds:
        campaign = make_campaign(config, folder, energies, progress)
    else:
        agent = make_agent(config, progress, energies)
    support = None if config.rounds else _examine(agent, config)
    store = folder.path / STORE
    with held(store) if store.exists() else nullcontext():  # a campaign may be running there
        folder.create()
    if energies is not None:
        energies.save(folder.path / ENERGY_WEIGHTS)
    folder.write_json("environment.json", describe_environment(config.seed))
    folder.write_text("config.yaml", write_config())  # last, for it is what can be resumed
    if config.rounds:
        return _run_campaign(config, folder, campaign, say, progress)
    if support is not None:
        say(str(support))
        folder.write_json("support.json", asdict(support))
    agent.save(folder.checkpoint)  # a run that is killed at once can be resumed as well
    return _train_and_collect(agent, config, folder, support, progress)


def resume_design(
    config: DesignConfig, folder: RunFolder, progress: bool, say: Callable[[str], None] = print
) -> DesignResult:
    """Go on with a run from its checkpoint, or with a campaign from its store.

    Raises:
        ValueError: No checkpoint, or one that does not fit the configuration.
        Interrupted: As for `start_design`.
    """
    _check(config)
    if config.rounds:
        energies = energy_model_of(config, lambda _: None, folder.path / ENERGY_WEIGHTS)
        return _run_campaign(config, folder, make_campaign(config, folder, energies, progress), say, progress)
    agent = _load(config, folder)
    return _train_and_collect(agent, config, folder, _examine(agent, config), progress)


def _examine(agent: DesignAgent, config: DesignConfig) -> DataSupport | None:
    return examine(agent.space, agent.reward, agent.base, config.seed) if isinstance(agent.reward, Reward) else None


def _run_campaign(
    config: DesignConfig,
    folder: RunFolder,
    campaign: Campaign,
    say: Callable[[str], None],
    progress: bool,
) -> DesignResult:
    started = time.monotonic()
    where = ""
    try:
        result = run_campaign(campaign, folder, progress, say)
        where = " after the last round"
        support = _examine(result.agent, config)
        assert support is not None  # a campaign has objectives
        folder.write_json("support.json", asdict(support))
        coverage, candidates = _collect(
            result.agent, config, folder, started, progress, result.labels, result.wanted.labelled
        )
    except CampaignInterrupted as stop:
        raise Interrupted(str(stop)) from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted{where}") from None
    seconds = time.monotonic() - started
    return DesignResult(folder.path, candidates, coverage, support, seconds, len(result.labels))


def _load(config: DesignConfig, folder: RunFolder) -> DesignAgent:
    """Read the checkpoint of a run, and make sure that its configuration was not changed since."""
    energies = energy_model_of(config, lambda _: None, folder.path / ENERGY_WEIGHTS)
    if config.rounds:
        return load_campaign(config, folder, energies)[0]
    agent = DesignAgent.load(folder.checkpoint, space=make_design_space(config), reward=make_reward(config, energies))
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
        train_to(agent, config.steps, folder, progress)
        coverage, candidates = _collect(agent, config, folder, started, progress)
    except KeyboardInterrupt:
        at = f"step {agent.trainer.step} of {config.steps}"
        raise Interrupted(f"interrupted {'at' if agent.trainer.step < config.steps else 'after'} {at}") from None
    return DesignResult(folder.path, candidates, coverage, support, time.monotonic() - started)


def _collect(
    agent: DesignAgent,
    config: DesignConfig,
    folder: RunFolder,
    started: float,
    progress: bool,
    labels: pd.DataFrame | None = None,
    labelled: tuple[str, ...] = (),
) -> tuple[Coverage, pd.DataFrame]:
    """Judge the policy and write candidates and report."""
    with progress_bar(progress, 1, "coverage", "measure") as advance:
        coverage = agent.coverage(seed=config.seed)
        advance(1)
    folder.write_json("coverage.json", asdict(coverage))
    if config.crystal is None:
        candidates = collect_candidates(agent, config.candidates, config.samples, config.seed)
    else:
        found = collect_crystals(agent, config.candidates, config.samples, config.seed, config.crystal, progress)
        candidates = found.table
        write_structures(found.frames, folder.path / "cifs", folder.path / "candidates.extxyz")
    if labels is not None:
        candidates = add_labels(candidates, labels, labelled)
    folder.write_text("candidates.csv", candidates.to_csv(index=False, float_format="%.6g"))
    if agent.conditions.answers_preference:
        n_samples = max(config.samples, 100)
        with progress_bar(progress, n_samples, "Pareto front", "sample") as advance:
            front = pareto_front(agent.sample_front(n_samples, seed=config.seed), agent.reward.objectives)
            advance(n_samples)
        folder.write_text("front.csv", front.materials.to_csv(index=False, float_format="%.6g"))
        folder.write_json("front.json", asdict(front.measures))
        known = predict_known(agent, _MOST_KNOWN, config.seed)
        folder.write_text("known.csv", known.to_csv(index=False, float_format="%.6g"))
    if agent.conditions.prior_weight_range is not None:
        with progress_bar(progress, 1, "prior weights", "sweep") as advance:
            swept = agent.sample_prior_weights(_SWEPT, seed=config.seed)
            advance(1)
        folder.write_text(PRIOR_WEIGHTS_FILE, swept.to_csv(index=False, float_format="%.6g"))
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
    check_prior_weight_range(config.conditions, config.prior != "none")
    if not 0 <= config.rounds <= 10_000:
        raise ValueError(f"rounds: {config.rounds} is not in 0..10,000")
    if config.oracle is not None and not config.rounds:
        raise ValueError("oracle: it labels nothing while rounds is 0 (expected rounds: 1 or more)")
    if config.cheaper_oracles and not config.rounds:
        raise ValueError("cheaper_oracles: they label nothing while rounds is 0 (expected rounds: 1 or more)")
    if config.workers is not None and not 1 <= config.workers <= 1024:
        raise ValueError(f"workers: {config.workers} is not in 1..1024")
    config.campaign.check()
    if config.crystal is not None:
        _check_crystal(config)
    for what, plug_in in plug_ins(config):
        check_no_secret(plug_in, what)
    if not 1 <= config.threads <= 1024:
        raise ValueError(f"threads: {config.threads} is not in 1..1024")
    torch.set_num_threads(config.threads)


def _check_crystal(config: DesignConfig) -> None:
    assert config.crystal is not None
    check_crystal_options(config.crystal)
    if config.rounds:
        raise ValueError("rounds: campaigns label compositions (expected rounds: 0 with crystal)")
    if config.reference is not None:
        raise ValueError("reference: energies of crystals refer to the embedded hull (leave it out with crystal)")


def sample_run(
    config: DesignConfig,
    folder: RunFolder,
    n: int | None = None,
    *,
    preference: Mapping[str, float] | Literal["sweep"] | None = None,
    beta: float | None = None,
    target: Mapping[str, float] | None = None,
    prior_weight: float | Literal["sweep"] | None = None,
    corrected: bool = False,
    seed: int | None = None,
) -> tuple[pd.DataFrame, Sequence[Objective]]:
    """Sample from the policy of a run; see `DesignAgent.sample`, for sweeps `sample_front`, `sample_prior_weights`.

    Returns:
        The samples, or the figures of a sweep over prior weights, and the objectives of the run.

    Raises:
        ValueError: n out of range, a condition that the policy does not answer, no checkpoint, or one that does not
            fit the configuration.
    """
    if n is None:
        n = _SWEPT if prior_weight == "sweep" else 100
    if not 1 <= n <= _MOST_SAMPLES:
        raise ValueError(f"n: {n} is not in 1..{_MOST_SAMPLES:,}")
    if corrected and "sweep" in (preference, prior_weight):
        raise ValueError("corrected: not for a sweep (expected one condition, or no correction)")
    if preference == prior_weight == "sweep":
        raise ValueError("prior_weight: one sweep at a time (expected a number where preference is sweep)")
    agent = _load(config, folder)
    if prior_weight == "sweep":
        assert preference != "sweep"
        table = agent.sample_prior_weights(n, preference=preference, beta=beta, target=target, seed=seed)
        return table, agent.reward.objectives
    asked: dict[str, Any] = {"beta": beta, "target": target, "prior_weight": prior_weight, "seed": seed}
    if preference == "sweep":
        return agent.sample_front(n, **asked), agent.reward.objectives
    return agent.sample(n, preference=preference, corrected=corrected, **asked), agent.reward.objectives
