"""A campaign: rounds of training, sampling, selecting, labelling with an expensive oracle, and refitting.

    campaign = Campaign(space, objectives, TableOracle("measured.csv"), "runs/mine", rounds=5)
    result = campaign.run()          # interrupted or killed: the same call goes on where it stopped
    result.labels                    # every label, with what was predicted before

Round 0 labels materials drawn from the prior. Every other round fits models to all labels so far, trains the policy on
them from where it was, selects a batch from its samples, commits the proposals, and labels them. After the last round
models and policy are refitted once more. Everything lies in the run's folder: campaign.db (see `agent.store`) and the
latest checkpoint of the policy; no label that was committed is lost or asked for again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from tqdm import tqdm

from agent.campaign_batch import draw_initial, propose_batch
from agent.campaign_options import CampaignOptions
from agent.campaign_round import judge_round
from agent.condition_options import ConditionOptions
from agent.config import PlugIn
from agent.design_agent import DesignAgent
from agent.execution import open_executor
from agent.labelled_objectives import LabelledObjectives
from agent.labelling import LabelOptions, Task, label_tasks
from agent.objective import Objective
from agent.oracle_source import OracleSource, cached_oracle
from agent.prior import Prior
from agent.run_folder import RunFolder
from agent.store import CampaignStore, Proposal, Trial
from agent.training_options import TrainingOptions
from agent.training_run import train_to
from envs import DesignSpace
from surrogates.base import Label, Oracle
from surrogates.energy import EnergyModel

STORE = "campaign.db"
_LEASE_SECONDS = 24 * 3600.0
_LARGEST = 1e30
"""No property in any unit is larger; an exploded relaxation is."""


class CampaignInterrupted(KeyboardInterrupt):
    """Ctrl-C in a campaign; the message says how far it had come."""


@dataclass(frozen=True, eq=False)
class CampaignResult:
    """What a campaign came to."""

    agent: DesignAgent
    """The policy, trained on all labels."""
    wanted: LabelledObjectives
    """The objectives, with models fitted to all labels."""
    labels: pd.DataFrame
    """See `CampaignStore.labels`."""
    rounds: list[dict[str, Any]]
    """Measures of each round, see `agent.campaign_round`."""


class Campaign:
    """Rounds of labelling over a design space.

    Args:
        space: What may be built.
        objectives: What is wanted; the oracle labels at least one of their properties, the others keep their models.
        oracle: Who labels: an `Oracle`, or a `PlugIn` from which workers make one.
        folder: Where everything is kept; a campaign that it holds is continued.
        constraints: Windows that are not traded off.
        scalarization: See `agent.reward.scalarize`.
        prior: The base measure; None: the uniform masked policy.
        prior_weight: Exponent of the prior in the target.
        beta: Inverse temperature of the reward.
        rounds: Batches that are selected; can be raised later.
        steps: Training steps in the first round.
        options: How batches are selected and labelled.
        training: Settings of the training.
        conditions: What can be asked of the policy; None: see `default_options`.
        energies: The embedded model of energies that corrections start from; None: the default.
        seed: Source of all randomness.
        executor: in-process, process, dask or dask:tcp://host:port (see `agent.execution`), or any
            `concurrent.futures.Executor`, which stays open.
        workers: Processes; the number of calls under way in an executor of your own. None: one a core.

    Raises:
        ValueError: A setting is wrong, or the oracle cannot be made.
    """

    def __init__(
        self,
        space: DesignSpace,
        objectives: Sequence[Objective],
        oracle: Oracle | PlugIn,
        folder: str | Path,
        *,
        constraints: Sequence[Objective] = (),
        scalarization: Literal["tchebycheff", "sum", "product"] = "tchebycheff",
        prior: Prior | None = None,
        prior_weight: float = 1.0,
        beta: float = 8.0,
        rounds: int = 5,
        steps: int = 1000,
        options: CampaignOptions | None = None,
        training: TrainingOptions | None = None,
        conditions: ConditionOptions | None = None,
        energies: EnergyModel | None = None,
        seed: int = 0,
        executor: str | Executor = "process",
        workers: int | None = None,
    ) -> None:
        self.space, self.objectives, self.constraints = space, tuple(objectives), tuple(constraints)
        self.folder = RunFolder(folder)
        self.scalarization = scalarization
        self.prior, self.prior_weight, self.beta = prior, prior_weight, beta
        self.rounds, self.steps, self.seed = rounds, steps, seed
        self.options = options or CampaignOptions()
        self.options.check()
        if rounds < 1:
            raise ValueError(f"rounds: {rounds} is not a positive number")
        if not objectives:
            raise ValueError("objectives: none given (expected at least one)")
        self.training = training or TrainingOptions()
        self.conditions, self.energies = conditions, energies
        self.executor = executor
        self.workers = workers if workers is not None else _cores()
        self.source = OracleSource(oracle)
        self.oracle = cached_oracle(self.source)
        self.has_begun = False
        """Whether `run` got hold of the folder, which it does not when another process has it."""

    def run(self, progress: bool = True, say: Callable[[str], None] | None = None) -> CampaignResult:
        """Run or go on to the end.

        Args:
            progress: Whether to show progress bars.
            say: Receives one line a round for the user.

        Raises:
            ValueError: Another process runs this campaign, it was started with other settings, all first labels
                failed, or nothing is left to label.
            OSError: The folder cannot be read or written.
            CampaignInterrupted: Ctrl-C; what was done is kept.
        """
        self.folder.path.mkdir(parents=True, exist_ok=True)
        where = "before round 0"
        with CampaignStore(self.folder.path / STORE, self.settings) as store:
            self.has_begun = True
            try:
                self.folder.clear_parts()
                store.release()
                rounds = max([self.rounds, *(entry.number for entry in store.rounds())])  # added by an earlier call
                where = f"in round 0 of {rounds}"
                self._label_initial(store, progress)
                agent, wanted = None, self._wanted(store)
                for number in range(1, rounds + 2):
                    where = f"in round {number} of {rounds}" if number <= rounds else "after the last round"
                    if number <= rounds and _state(store, number) == "done":
                        continue
                    self._fit(wanted, store, number)
                    agent = self._trained(agent, wanted, number, progress)
                    if number <= rounds:
                        self._label_batch(store, agent, wanted, number, progress)
                        if say is not None:
                            say(describe_round(number, store.rounds()[-1].metrics))
            except KeyboardInterrupt as stop:
                raise CampaignInterrupted(
                    f"interrupted {where}, {len(store.trials(states=['done']))} labels kept"
                ) from stop
            assert agent is not None
            return CampaignResult(agent, wanted, store.labels(), [dict(entry.metrics) for entry in store.rounds()])

    @property
    def settings(self) -> dict[str, Any]:
        """What labels and candidates depend on, as JSON-compatible values; the number of rounds does not count."""
        described = [
            [{**vars(entry), "model": None if entry.model is None else type(entry.model).__name__} for entry in part]
            for part in (self.objectives, self.constraints)
        ]
        free = ("task_size", "retries", "time_limit")
        return {
            "space": {"class": type(self.space).__name__, **self.space.identity},
            "objectives": described[0],
            "constraints": described[1],
            "scalarization": self.scalarization,
            "oracle": [self.oracle.name, self.oracle.version],
            "beta": self.beta,
            "prior_weight": self.prior_weight if self.prior is not None else 0.0,
            "steps": self.steps,
            "campaign": {name: value for name, value in asdict(self.options).items() if name not in free},
            "training": asdict(self.training),
            "conditions": None if self.conditions is None else asdict(self.conditions),
            "seed": self.seed,
        }

    # The parts of a round

    def _label_initial(self, store: CampaignStore, progress: bool) -> None:
        if _state(store, 0) == "done":
            return
        store.begin_round(0, self._seed(0))
        if not store.trials(0):
            formulas = draw_initial(self.space, self.prior, self.oracle, self.options, self._seed(0))
            proposals = [Proposal(formula, "initial") for formula in formulas]
            store.propose(0, proposals, self.oracle.name, self.oracle.version)
        self._label(store, 0, progress)
        trials = store.trials(0)
        good = [trial for trial in trials if trial.state == "done"]
        if not good:
            first = trials[0].label.failure if trials and trials[0].label else "nothing to label"
            raise ValueError(f"oracle: all {len(trials)} first labels failed; the first: {first}")
        properties = list(label_columns(good))
        store.finish_round(0, {"labelled": len(good), "failed": len(trials) - len(good), "properties": properties})

    def _wanted(self, store: CampaignStore) -> LabelledObjectives:
        labelled = store.rounds()[0].metrics["properties"]
        kind, seed = self.options.model, self.seed
        name = f"{self.oracle.name} {self.oracle.version}"
        return LabelledObjectives(
            self.objectives, labelled, self.constraints, self.scalarization, self.energies, kind, seed, name
        )

    @staticmethod
    def _fit(wanted: LabelledObjectives, store: CampaignStore, number: int) -> None:
        """Fit to the labels of all rounds before this one."""
        trials = [trial for trial in store.trials(states=["done"]) if trial.round < number]
        wanted.fit([trial.material for trial in trials], label_columns(trials))

    def _trained(
        self, agent: DesignAgent | None, wanted: LabelledObjectives, number: int, progress: bool
    ) -> DesignAgent:
        """Return the policy trained on the present models, going on from where it is in memory or on the disk."""
        start = 0 if number == 1 else self.steps + (number - 2) * self.options.steps
        if agent is None and self.folder.checkpoint.is_file():
            agent = DesignAgent.load(self.folder.checkpoint, space=self.space, reward=wanted.reward)
        if agent is None:
            agent = DesignAgent(
                self.space,
                wanted.reward,
                self.prior,
                self.prior_weight,
                self.beta,
                self.seed,
                self.training,
                self.conditions,
            )
        elif agent.trainer.step == start:
            agent.change_reward(wanted.reward)
        train_to(agent, self.steps + (number - 1) * self.options.steps, self.folder, progress)
        return agent

    def _label_batch(
        self, store: CampaignStore, agent: DesignAgent, wanted: LabelledObjectives, number: int, progress: bool
    ) -> None:
        seed = self._seed(number)
        store.begin_round(number, seed)
        if not store.trials(number):
            earlier = [trial for trial in store.trials(states=["done"]) if trial.round < number]
            proposals = propose_batch(agent, wanted, earlier, store.known(), self.oracle, self.options, seed)
            if not proposals:
                raise ValueError(
                    f"round {number}: nothing is left to label among {self.options.pool} samples (raise campaign.pool, "
                    "or widen the space)"
                )
            if len(proposals) < self.options.batch:
                store.add_event("short batch", f"round {number}: {len(proposals)} new materials in the pool")
            store.propose(number, proposals, self.oracle.name, self.oracle.version)
        self._label(store, number, progress)
        metrics = judge_round(store.trials(), number, wanted)
        if metrics["alarm"]:
            store.add_event("alarm", f"round {number}: {metrics['alarm']}")
        store.finish_round(number, metrics)

    def _label(self, store: CampaignStore, number: int, progress: bool) -> None:
        """Label what is proposed, committing every label as it comes."""
        waiting = store.trials(number, states=["proposed"])
        if not waiting:
            return
        owner = f"{socket.gethostname()}:{os.getpid()}"
        options = LabelOptions(self.options.task_size, self.options.retries, self.workers + 1)
        with (
            self._open_executor() as executor,
            tqdm(total=len(waiting), desc=f"round {number}: labels", unit="label", disable=not progress) as bar,
        ):
            failures = 0

            def keep(trial: int, label: Label, seconds: float, attempts: int) -> None:
                nonlocal failures
                try:
                    _check_size(label)
                    store.finish(trial, label, seconds, attempts)
                except OSError:
                    raise
                except Exception as error:  # what an oracle of the user's put into it cannot be stored
                    reason = " ".join(str(error).removeprefix(f"{store.path}: ").split())
                    label = Label(label.material, failure=f"malformed answer: {self.source.redact(reason)}")
                    store.finish(trial, label, seconds, attempts)
                failures += label.failure is not None
                bar.set_postfix({"failed": failures}, refresh=False)
                bar.update()

            label_tasks(
                [Task(trial.id, trial.material) for trial in waiting],
                self.source,
                executor,
                options,
                on_start=lambda trials: store.lease(trials, owner, _LEASE_SECONDS),
                on_label=keep,
            )

    @contextmanager
    def _open_executor(self) -> Iterator[Executor]:
        if isinstance(self.executor, Executor):
            yield self.executor
            return
        limit = self.options.time_limit
        with open_executor(self.executor, workers=self.workers, time_limit=limit) as executor:
            yield executor

    def _seed(self, number: int) -> int:
        return round_seed(self.seed, number)


def round_seed(seed: int, number: int) -> int:
    """Return the seed of a round of a campaign."""
    return (seed + 1_000_003 * (number + 1)) % 2**62


def label_columns(trials: Sequence[Trial]) -> dict[str, list[float]]:
    """Return the labelled values of N trials by property, NaN where there is none."""
    labels = [{} if trial.label is None else dict(trial.label.values) for trial in trials]
    names = sorted({name for entry in labels for name in entry})
    return {name: [float(entry.get(name, float("nan"))) for entry in labels] for name in names}


def _check_size(label: Label) -> None:
    """Raise a ValueError for a value that models in single precision cannot be fitted to."""
    for name, value in dict(label.values).items():
        if abs(value) > _LARGEST:
            raise ValueError(f"{name} of {label.material} is {value:g}")


def _state(store: CampaignStore, number: int) -> str | None:
    return next((entry.state for entry in store.rounds() if entry.number == number), None)


def describe_round(number: int, metrics: Any) -> str:
    """Return one line on a round for the user."""
    parts = [f"round {number}: {metrics['labelled']} labels, {metrics['failed']} failed"]
    parts += [f"{metrics['hits_total']} hits so far", f"hypervolume {metrics['hypervolume']:.3f}"]
    for name, entry in metrics["properties"].items():
        if entry["n"]:
            parts.append(f"{name} off by {entry['mae']:.3g} ({entry['within_one_std']:.0%} within one std)")
    return ", ".join(parts) + (f"; ALARM: {metrics['alarm']}" if metrics["alarm"] else "")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
