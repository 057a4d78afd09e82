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
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from agent.campaign_batch import draw_initial, propose_batch
from agent.campaign_labels import Workers, fit_to, label_trials, split_labels
from agent.campaign_options import CampaignOptions
from agent.campaign_round import describe_round, judge_cheaper, judge_round
from agent.checks import check_loss, check_prior_weight_range
from agent.condition_options import ConditionOptions
from agent.conditions import ConditionSpace
from agent.config import PlugIn
from agent.design_agent import DesignAgent
from agent.execution import check_executor
from agent.fidelities import Fidelity, check_cheaper, takes, trials_of
from agent.labelled_objectives import LabelledObjectives
from agent.objective import Objective
from agent.oracle_source import OracleSource, cached_oracle
from agent.prior import Prior
from agent.run_folder import RunFolder
from agent.store import CampaignStore
from agent.store_records import Proposal, Trial, label_columns
from agent.training_options import TrainingOptions
from agent.training_run import train_to
from envs import DesignSpace
from surrogates.base import Oracle
from surrogates.energy import EnergyModel
from surrogates.label_model import FEWEST_LABELS
from surrogates.properties import PROPERTIES

STORE = "campaign.db"
_MOST_WAVES = 3
"""Times that first materials are drawn while too many of their labels fail."""
_SUSPICIOUS = 3
"""Labels of a batch whose failure, all together, stops a campaign."""


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
    """Of the oracle that counts, see `CampaignStore.labels`."""
    rounds: list[dict[str, Any]]
    """Measures of each round, see `agent.campaign_round`."""
    cheaper_labels: pd.DataFrame
    """Those of the cheaper oracles, in the same columns."""


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
        cheaper: Oracles that cost less, from whose labels those of `oracle` can be told better: a batch may hold more
            materials, some only for these, and costs no more. What was reached is judged by `oracle` alone.

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
        cheaper: Sequence[Oracle | PlugIn] = (),
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
        if conditions is not None:  # a range that leaves out the campaign's own settings is refused before any label
            check_prior_weight_range(conditions, prior is not None)
            check_loss(self.training.loss, ConditionSpace(self.objectives, beta, conditions, prior_weight))
        self.executor = executor
        if isinstance(executor, str):
            check_executor(executor)
        self.workers = workers if workers is not None else _cores()
        self.source = OracleSource(oracle)
        self.oracle = cached_oracle(self.source)
        self.cheaper_sources = [OracleSource(entry) for entry in cheaper]
        self.cheaper = [cached_oracle(entry) for entry in self.cheaper_sources]
        check_cheaper(self.oracle, self.cheaper, self.options.method)
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
        with (
            CampaignStore(self.folder.path / STORE, self.settings) as store,
            Workers(self.executor, self.workers, self.options.time_limit) as workers,
        ):
            self.has_begun = True
            try:
                self.folder.clear_parts()
                store.release()
                rounds = max([self.rounds, *(entry.number for entry in store.rounds())])  # added by an earlier call
                where = f"in round 0 of {rounds}"
                self._label_initial(store, workers, progress)
                agent, wanted = None, self._wanted(store)
                for number in range(1, rounds + 2):
                    where = f"in round {number} of {rounds}" if number <= rounds else "after the last round"
                    if number <= rounds and _state(store, number) == "done":
                        continue
                    self._fit(wanted, store, number)
                    agent = self._trained(agent, wanted, number, progress)
                    if number <= rounds:
                        self._label_batch(store, workers, agent, wanted, number, progress)
                        if say is not None:
                            say(describe_round(number, store.rounds()[-1].metrics))
            except KeyboardInterrupt as stop:
                raise CampaignInterrupted(
                    f"interrupted {where}, {len(store.trials(states=['done']))} labels kept"
                ) from stop
            assert agent is not None
            rounds_done = [dict(entry.metrics) for entry in store.rounds()]
            counts, others = split_labels(store.labels(), self.oracle.name, self.oracle.version)
            return CampaignResult(agent, wanted, counts, rounds_done, others)

    @property
    def settings(self) -> dict[str, Any]:
        """What labels and candidates depend on, as JSON-compatible values; the number of rounds does not count."""
        described = [
            [{**vars(entry), "model": None if entry.model is None else type(entry.model).__name__} for entry in part]
            for part in (self.objectives, self.constraints)
        ]
        free = ("task_size", "retries", "time_limit")
        cheaper = {"cheaper": [[oracle.name, oracle.version, oracle.cost] for oracle in self.cheaper]}
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
            "conditions": None if self.conditions is None else self.conditions.as_dict(),
            "seed": self.seed,
            **(cheaper if self.cheaper else {}),
        }

    # The parts of a round

    def _label_initial(self, store: CampaignStore, workers: Workers, progress: bool) -> None:
        if _state(store, 0) == "done":
            return
        store.begin_round(0, self._seed(0))
        good: list[Trial] = []
        for wave in range(_MOST_WAVES):
            if len(self._of_target(store.trials(0))) <= wave * self.options.initial:
                self._propose_initial(store, self._seed(0) + wave)
            self._label(store, workers, 0, progress)
            good = self._of_target(store.trials(0, states=["done"]))
            if not good or len(good) >= self._fewest_labels:
                break
        trials = self._of_target(store.trials(0))
        if not good:
            first = trials[0].label.failure if trials[0].label else ""
            raise ValueError(f"oracle: all {len(trials)} first labels failed; the first: {first}")
        if len(good) < self._fewest_labels:
            raise ValueError(
                f"oracle: {len(trials) - len(good)} of {len(trials)} first labels failed, {len(good)} are too few to "
                f"learn from (expected {self._fewest_labels})"
            )
        properties = list(label_columns(good))
        metrics = {"labelled": len(good), "failed": len(trials) - len(good), "properties": properties}
        store.finish_round(0, metrics | self._judge_cheaper(store, 0))

    def _propose_initial(self, store: CampaignStore, seed: int) -> None:
        known = {trial.material for trial in self._of_target(store.trials())}
        formulas = draw_initial(self.space, self.prior, self.oracle, self.options, seed, known)
        each = [formulas]
        for oracle in self.cheaper:
            before = store.known(oracle.name, oracle.version)  # of a wave that was cut short
            can = zip(formulas, takes(oracle, formulas), strict=True)
            each.append([formula for formula, taken in can if taken and formula not in before])
        self._propose(store, 0, [[Proposal(formula, "initial") for formula in of_oracle] for of_oracle in each])

    def _propose(self, store: CampaignStore, number: int, proposals: Sequence[Sequence[Proposal]]) -> None:
        """Commit proposals for the target and for each cheaper oracle.

        The target's come last, so that they tell whether all are there: else those that are missing are made again.
        """
        for oracle, of_oracle in reversed(list(zip([self.oracle, *self.cheaper], proposals, strict=True))):
            if of_oracle:
                store.propose(number, of_oracle, oracle.name, oracle.version)

    def _of_target(self, trials: Sequence[Trial]) -> list[Trial]:
        return trials_of(trials, self.oracle.name, self.oracle.version)

    def _judge_cheaper(self, store: CampaignStore, number: int, shares: Sequence[float] = ()) -> dict[str, Any]:
        return {"cheaper": judge_cheaper(store.trials(), number, self.cheaper, shares)} if self.cheaper else {}

    @property
    def _fewest_labels(self) -> int:
        """Labels without which no model can be fitted: a property that no embedded model predicts needs some."""
        own = [o for o in (*self.objectives, *self.constraints) if o.property not in PROPERTIES and o.model is None]
        return FEWEST_LABELS if own else 1

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
        fit_to(wanted, [trial for trial in store.trials(states=["done"]) if trial.round < number], store.settings)

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
        self,
        store: CampaignStore,
        workers: Workers,
        agent: DesignAgent,
        wanted: LabelledObjectives,
        number: int,
        progress: bool,
    ) -> None:
        seed = self._seed(number)
        store.begin_round(number, seed)
        if not self._of_target(store.trials(number)):
            earlier = [trial for trial in store.trials() if trial.round < number]
            proposals, *others = self._select(agent, wanted, earlier, seed)
            if not proposals:
                raise ValueError(
                    f"round {number}: nothing is left to label among {self.options.pool} samples (raise campaign.pool, "
                    "or widen the space)"
                )
            if len(proposals) + sum(map(len, others)) < self.options.batch:
                store.add_event("short batch", f"round {number}: {len(proposals)} new materials in the pool")
            present = [bool(trials_of(store.trials(number), o.name, o.version)) for o in self.cheaper]
            missing = [[] if done else rest for rest, done in zip(others, present, strict=True)]
            self._propose(store, number, [proposals, *missing])
        self._label(store, workers, number, progress)
        metrics = judge_round(self._of_target(store.trials()), number, wanted)
        metrics |= self._judge_cheaper(store, number, [wanted.share(n) for n in range(len(self.cheaper))])
        if metrics["alarm"]:
            store.add_event("alarm", f"round {number}: {metrics['alarm']}")
        store.finish_round(number, metrics)
        if not metrics["labelled"] and metrics["failed"] >= _SUSPICIOUS:
            failed = self._of_target(store.trials(number, states=["failed"]))[0]
            reason = failed.label.failure if failed.label else ""
            raise ValueError(
                f"round {number}: all {metrics['failed']} labels failed, the first with: {reason}; what is labelled is "
                "kept, and matsmith resume goes on with the next round"
            )

    def _select(
        self, agent: DesignAgent, wanted: LabelledObjectives, earlier: Sequence[Trial], seed: int
    ) -> list[list[Proposal]]:
        """Return what is proposed to the target and to each cheaper oracle; the same from the same earlier trials."""
        of_target = self._of_target(earlier)
        done = [trial for trial in of_target if trial.state == "done"]
        known = {trial.material for trial in of_target}
        fidelities = []
        for position, oracle in enumerate(self.cheaper):
            own = trials_of(earlier, oracle.name, oracle.version)
            labelled = {trial.material for trial in own if trial.state == "done"}
            fidelities.append(Fidelity(oracle, wanted.share(position), {trial.material for trial in own}, labelled))
        return propose_batch(agent, wanted, done, known, self.oracle, self.options, seed, fidelities)

    def _label(self, store: CampaignStore, workers: Workers, number: int, progress: bool) -> None:
        """Label what is proposed, committing every label as it comes; cheap labels first."""
        pairs = reversed(list(zip([self.source, *self.cheaper_sources], [self.oracle, *self.cheaper], strict=True)))
        for source, oracle in pairs:
            trials = store.trials(number, states=["proposed"])
            waiting = trials_of(trials, oracle.name, oracle.version)
            title = f"round {number}: labels"
            label_trials(store, waiting, source, workers, self.options, title if progress else None)

    def _seed(self, number: int) -> int:
        return round_seed(self.seed, number)


def round_seed(seed: int, number: int) -> int:
    """Return the seed of a round of a campaign."""
    return (seed + 1_000_003 * (number + 1)) % 2**62


def _state(store: CampaignStore, number: int) -> str | None:
    return next((entry.state for entry in store.rounds() if entry.number == number), None)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
