"""Fast campaigns in forked children, which can be watched, interrupted and killed at any moment.

    python -m tests.agent.campaign_driver --kills 100 --seed 1      # kill and resume more often than the tests do

A child is forked from a process that has everything in memory, so that starting one costs milliseconds.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pandas as pd
import torch
from tqdm import tqdm

import agent.campaign
import agent.campaign_run
import agent.design_run
import agent.report
import agent.training_run
from agent import DesignAgent, PolicyNetwork, TrainingOptions
from agent.campaign import STORE, Campaign
from agent.campaign_options import CampaignOptions
from agent.condition_options import ConditionOptions
from agent.config import DesignConfig, ObjectiveConfig, PlugIn, SpaceConfig
from agent.network_file import read_tensors
from agent.run_folder import RunFolder
from agent.store import CampaignStore
from surrogates.base import Label
from tests.agent.examples import LARGER, RECIPE

STAGES = ("start", "open", "initial", "fit", "train", "select", "label", "judge", "write", "collect")
"""Of a campaign; those from fit to judge come in every round."""
_ROUND = slice(STAGES.index("fit"), STAGES.index("judge") + 1)


class LoggedOracle:
    """Deterministic band gaps, and a log of every call that is on the disk before the answer is given.

    While there is a file of the log's name that ends in .hold, no answer is given.

    Args:
        log: File that gets a line "process material" a call.
        pause: Seconds that a material takes.
    """

    name = "logged"
    version = "1"
    cost = 0.0

    def __init__(self, log: str, pause: float = 0.0) -> None:
        self.log, self.pause = Path(log), pause

    def label(self, materials: Sequence[Any]) -> list[Label]:
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, "".join(f"{os.getpid()} {material}\n" for material in materials).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        time.sleep(self.pause * len(materials))
        while self.log.with_name(f"{self.log.name}.hold").exists():
            time.sleep(0.005)
        return [Label(material, {"band_gap": crc32(material.encode()) % 5000 / 1000}) for material in materials]


def full_config(output: Path, **changes: Any) -> DesignConfig:
    """Three rounds of five materials after six, of some 280; models are learned from the second round on."""
    config = DesignConfig(
        output=output / "run",
        objectives=[
            ObjectiveConfig("band_gap", low=1.0, high=3.0),
            ObjectiveConfig("toxicity", high=0.5),
        ],
        space=SpaceConfig(**LARGER),
        prior="none",
        beta=2.0,
        steps=24,
        rounds=3,
        oracle=PlugIn("tests.agent.campaign_driver.LoggedOracle", {"log": str(output / "calls"), "pause": 0.02}),
        campaign=CampaignOptions(batch=5, initial=6, steps=12, pool=120, label_known=True, time_limit=60.0),
        executor="in-process",
        workers=1,
        training=TrainingOptions(**RECIPE),
        candidates=15,
        samples=100,
    )
    return replace(config, **changes)


def brief_config(output: Path, **changes: Any) -> DesignConfig:
    """One round of two materials after four, too few to learn from; one condition."""
    brief = {
        "steps": 4,
        "rounds": 1,
        "campaign": CampaignOptions(batch=2, initial=4, steps=2, pool=40, label_known=True, time_limit=60.0),
        "conditions": ConditionOptions(preference=False, beta_range=None),
    }
    return full_config(output, **(brief | changes))


def quicken(assign: Callable[[Any, str, Any], None] = setattr) -> None:
    """Narrow networks, small certificates, no figures, and checkpoints in the middle of training."""

    def plain_report(run: Path) -> Path:
        return RunFolder(run).write_text("report.html", "")

    assign(PolicyNetwork.for_space.__func__, "__defaults__", (32, 1, "mlp"))  # type: ignore[attr-defined]
    assign(DesignAgent.coverage, "__defaults__", (512, 0))
    assign(agent.report, "write_report", plain_report)
    assign(agent.design_run, "_MOST_KNOWN", 50)
    assign(agent.training_run, "_CHECKPOINT_SECONDS", 0.1)
    assign(tqdm, "monitor_interval", 0)  # no thread in a process that is forked


def run_campaign(config: DesignConfig) -> None:
    """Start a campaign, or go on with the one that the folder holds."""
    folder = RunFolder(config.output)
    if folder.config.is_file():
        agent.design_run.resume_design(config, folder, progress=False, say=lambda _: None)
    else:
        config = replace(config, overwrite=True)  # nothing was labelled yet
        agent.design_run.start_design(config, lambda: "", lambda _: None, progress=False)


# Where a campaign is


@dataclass
class Watch:
    """Memory shared with a child, in which it notes round and stage.

    Numbers of rounds go on after the last one, with the training on all labels, writing and collecting.
    """

    shared: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 16))
    seconds: dict[tuple[int, str], float] = field(default_factory=lambda: defaultdict(float))
    """Spent in every stage, in this process."""
    _entered: float = field(default_factory=time.monotonic)

    @property
    def place(self) -> tuple[int, str]:
        """Round and stage that were entered last."""
        return self.shared[0], STAGES[self.shared[1]]

    def enter(self, stage: str, number: int | None = None) -> None:
        now = time.monotonic()
        self.seconds[self.place] += now - self._entered
        self._entered = now
        self.shared[0] = self.shared[0] if number is None else number
        self.shared[1] = STAGES.index(stage)

    def install(self, assign: Callable[[Any, str, Any], None] = setattr) -> None:
        """Note the stages of the campaigns of this process."""

        def noted(where: Any, name: str, stage: str, number: Callable[..., int] | None = None) -> None:
            function = getattr(where, name)

            def call(*arguments: Any, **options: Any) -> Any:
                self.enter(stage, None if number is None else number(*arguments))
                return function(*arguments, **options)

            assign(where, name, staticmethod(call) if stage == "fit" else call)

        noted(agent.design_run, "start_design", "start", lambda *_: 0)
        noted(agent.design_run, "resume_design", "start", lambda *_: 0)
        noted(agent.campaign, "CampaignStore", "open", lambda *_: 0)
        noted(agent.campaign, "draw_initial", "initial", lambda *_: 0)
        noted(Campaign, "_fit", "fit", lambda _, __, number: number)
        noted(agent.campaign, "train_to", "train")
        noted(agent.campaign, "propose_batch", "select")
        noted(Campaign, "_label", "label", lambda _, __, ___, number, ____: number)
        noted(agent.campaign, "judge_round", "judge")
        noted(agent.campaign_run, "write_labels", "write")
        noted(agent.design_run, "_collect", "collect")


def order(place: tuple[int, str]) -> int:
    """Position of a stage in the course of a campaign."""
    return place[0] * len(STAGES) + STAGES.index(place[1])


def course(rounds: int) -> list[tuple[int, str]]:
    """All stages of a campaign in order."""
    first = [(0, stage) for stage in ("start", "open", "initial", "label")]
    middle = [(number, stage) for number in range(1, rounds + 1) for stage in STAGES[_ROUND]]
    return [*first, *middle, *((rounds + 1, stage) for stage in ("fit", "train", "write", "collect"))]


# Children


class Child:
    """A forked process that does one thing.

    Args:
        action: What it does; its exit status is that of a Python program that does it.
        output: File that gets what it prints; another one beside it, ending in .err, gets what it complains of.
    """

    def __init__(self, action: Callable[[], object], output: Path) -> None:
        self.output, self.errors = output, output.with_name(f"{output.name}.err")
        self.status: int | None = None
        sys.stdout.flush(), sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._do(action)

    def _do(self, action: Callable[[], object]) -> None:
        status: Any = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number, path in ((1, self.output), (2, self.errors)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
            action()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status if isinstance(status, int) else 1)

    @property
    def is_running(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def wait(self, limit: float = 120.0) -> int:
        """Wait for its end; return the exit status, or minus the number of the signal that ended it."""
        if not self.wait_until(lambda: False, limit) and self.is_running:
            self.kill()
            raise TimeoutError(f"a child was still running after {limit:g} s: {self.complained()}")
        assert self.status is not None
        return self.status

    def wait_until(self, condition: Callable[[], bool], limit: float = 120.0) -> bool:
        """Wait for something; False when the child ended first, or nothing happened."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if condition():
                return True
            if not self.is_running:
                return False
            time.sleep(0.002)
        return False

    def send(self, number: int) -> None:
        if self.is_running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.send(signal.SIGKILL)
        while self.is_running:
            time.sleep(0.001)

    def printed(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def complained(self) -> str:
        return self.errors.read_text() if self.errors.exists() else ""


@contextmanager
def forked(action: Callable[[], object], output: Path) -> Iterator[Child]:
    """A child that is gone afterwards, whatever happens."""
    child = Child(action, output)
    try:
        yield child
    finally:
        child.kill()


# What it left


def finished(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return what is committed of every material that was labelled; the files are copied, not opened.

    Raises:
        AssertionError: SQLite finds fault with the store.
    """
    if not (folder / STORE).is_file():
        return {}
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / STORE
        for ending in ("", "-wal"):
            source = folder / f"{STORE}{ending}"
            if source.exists():
                shutil.copyfile(source, copy.with_name(source.name))
        database = sqlite3.connect(copy)
        try:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return {}
            query = "SELECT material, round, picked_by, state, property, value, predicted_mean, predicted_std, failure "
            query += "FROM labels WHERE state IN ('done', 'failed') ORDER BY trial, property"
            rows = database.execute(query).fetchall()
        finally:
            database.close()
    assert len(rows) == len({row[0] for row in rows})
    return {row[0]: row[1:] for row in rows}


def calls(log: Path) -> list[str]:
    """Return the materials that the oracle was asked for, in order."""
    return [line.split()[1] for line in log.read_text().splitlines()] if log.exists() else []


def outcome(folder: Path) -> dict[str, Any]:
    """Return everything that a campaign came to, as values that can be compared; times are left out."""
    with CampaignStore.read(folder / STORE) as store:
        labels = store.labels().drop(columns="seconds")
        rounds = [(entry.number, entry.seed, entry.state, dict(entry.metrics)) for entry in store.rounds()]
    tensors, description = read_tensors(RunFolder(folder).checkpoint, "agent")
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = [name for name in ("candidates.csv", "front.csv", "known.csv", "coverage.json") if (folder / name).exists()]
    assert "candidates.csv" in names
    return {
        "labels": labels,
        "rounds": rounds,
        "tensors": tensors,
        "description": description,
        "steps": steps,
        **{name: (folder / name).read_text() for name in names},
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of what is not the same, bit for bit."""
    found = [name for name in one if name not in ("labels", "tensors") and one[name] != other[name]]
    try:
        pd.testing.assert_frame_equal(one["labels"], other["labels"], check_exact=True)
    except AssertionError:
        found.append("labels")
    names = {*one["tensors"], *other["tensors"]}
    for name in sorted(names):
        pair = [part["tensors"].get(name) for part in (one, other)]
        if pair[0] is None or pair[1] is None or not torch.equal(*pair):
            found.append(f"tensor {name}")
    return found


# Killing


@dataclass
class Kills:
    """What came of killing campaigns."""

    places: list[tuple[int, str]] = field(default_factory=list)
    """Round and stage of each kill."""
    campaigns: int = 0
    """That were brought to their end."""
    resumed_training: int = 0
    """Kills after which training went on from a checkpoint in the middle of a round."""
    asked_twice: int = 0
    """Calls whose answer a kill took away before it was committed."""


def kill_campaigns(
    whole: Path, seconds: dict[tuple[int, str], float], base: Path, kills: int, per_campaign: int, seed: int
) -> Kills:
    """Kill campaigns at random moments and resume them to their end, checking everything in between.

    Args:
        whole: Folder of the undisturbed run, with the oracle's log beside it.
        seconds: What its stages took.
        base: Where the folders of the campaigns are made.
        kills: How many in all.
        per_campaign: How many in each, at moments drawn evenly from its stages.
        seed: Of the moments.

    Raises:
        AssertionError: Something was lost, asked for twice, or came out differently.
    """
    generator, result, expected = random.Random(seed), Kills(), outcome(whole)
    while len(result.places) < kills:
        folder = base / f"campaign-{result.campaigns + 1}"
        folder.mkdir()
        plan = sorted(generator.choices(course(rounds=3), k=min(per_campaign, kills - len(result.places))), key=order)
        config, held, asked = full_config(folder), {}, []
        for target in [*plan, None]:
            watch = Watch()
            delay = generator.uniform(0.0, 0.0 if target is None else seconds[target])
            with forked(
                lambda watch=watch, config=config: (watch.install(), run_campaign(config)), folder / "log"
            ) as child:
                if target is None:
                    assert child.wait() == 0, child.complained()
                    before = {}
                else:
                    reached = child.wait_until(lambda watch=watch, target=target: order(watch.place) >= order(target))
                    if reached:
                        child.wait_until(lambda: False, delay)
                    before = finished(config.output)
                    child.kill()
                    assert child.status == -signal.SIGKILL, f"{target}: {child.status} {child.complained()}"
                    result.places.append(watch.place)
            after, asked_before = finished(config.output), len(asked)
            for earlier in (held, before):
                assert all(after.get(material) == label for material, label in earlier.items())
            asked = calls(folder / "calls")
            new = asked[asked_before:]
            assert not {*new} & {*held}, "asked again for a material whose label was committed"
            assert len(new) == len({*new})
            held = after
            if target is not None:
                result.resumed_training += _is_in_the_middle(config)
        different = differences(outcome(config.output), expected)
        assert not different, f"not as in the undisturbed run: {', '.join(different)}"
        assert {*asked} == {*held} == {*calls(whole.parent / "calls")}
        assert not list(config.output.rglob("*.part-*"))
        result.asked_twice += len(asked) - len(held)
        result.campaigns += 1
    return result


def _is_in_the_middle(config: DesignConfig) -> bool:
    """Whether the checkpoint lies within the training of a round."""
    checkpoint = RunFolder(config.output).checkpoint
    if not checkpoint.is_file():
        return False
    step = read_tensors(checkpoint, "agent")[1]["training"]["step"]
    return step < config.steps or (step - config.steps) % config.campaign.steps > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--per_campaign", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quicken()
    with tempfile.TemporaryDirectory() as name:
        base, watch = Path(name), Watch()
        (base / "whole").mkdir()
        config = full_config(base / "whole")
        watch.install()
        began = time.monotonic()
        run_campaign(config)
        watch.enter("start")
        print(f"undisturbed: {time.monotonic() - began:.1f} s", {str(k): round(v, 2) for k, v in watch.seconds.items()})
        began = time.monotonic()
        found = kill_campaigns(config.output, watch.seconds, base, options.kills, options.per_campaign, options.seed)
    print(f"{len(found.places)} kills in {time.monotonic() - began:.0f} s, {found.campaigns} campaigns: identical")
    print("stages:", dict(Counter(stage for _, stage in found.places)))
    print("rounds:", dict(sorted(Counter(number for number, _ in found.places).items())))
    print(f"{found.resumed_training} times in the middle of training, {found.asked_twice} answers lost with a kill")


if __name__ == "__main__":
    main()
