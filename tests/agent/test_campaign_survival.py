"""Campaigns survive kills, faulty oracles, full disks, Ctrl-C and a second process, without losing a label."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

import agent.campaign
import agent.design_run
import agent.report
import agent.training_run
from agent import DesignAgent
from agent.campaign import STORE
from agent.campaign_options import CampaignOptions
from agent.cli import main
from agent.config import DesignConfig, PlugIn
from agent.network_file import read_tensors
from agent.run_folder import RunFolder
from agent.store import CampaignStore
from agent.trainer import StepReport, Trainer
from surrogates.base import Label
from tests.agent.campaign_driver import (
    Child,
    Watch,
    brief_config,
    calls,
    differences,
    finished,
    forked,
    full_config,
    kill_campaigns,
    outcome,
    quicken,
    run_campaign,
)
from tests.agent.faulty_oracles import KINDS, FaultyOracle

HERE = "tests.agent.test_campaign_survival"
WRITE_REPORT = agent.report.write_report  # before it is replaced


class FaultyGaps(FaultyOracle):
    """A faulty oracle of band gaps."""

    def label(self, materials: Sequence[Any]) -> list[Label]:
        labels = super().label(materials)
        for row, label in enumerate(labels):
            if isinstance(label, Label):
                labels[row] = replace(label, values={"band_gap": -dict(label.values)["energy"]})
        return labels


class OddAnswers(FaultyOracle):
    """Labels that look right, of which five in six cannot be stored."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def label(self, materials: Sequence[Any]) -> list[Label]:
        from pymatgen.core import Lattice, Structure

        exploded = Structure(Lattice.cubic(4.0), ["Na"], [[float("nan"), 0.0, 0.0]])
        odd: list[dict[str, Any]] = [
            {},
            {"structure": exploded},
            {"prototype": None},
            {"steps": "many"},
            {"values": {"band_gap": 1.0, "seconds": 2.0}},
            {"values": {"band_gap": -1e300}},
        ]
        (material,), changes = materials, odd[self.asked % len(odd)]
        self.asked += 1
        return [replace(Label(material, {"band_gap": 1.0}), **changes)]


class WithoutLabel:
    """No oracle, for it has no method label."""

    name = "lacking"
    version = "1"
    cost = 0.0


class Failing(WithoutLabel):
    """Fails on everything, and tells its key where it should not."""

    def __init__(self, api_key: str = "") -> None:
        self.api_key = api_key

    def label(self, materials: Sequence[Any]) -> list[Label]:
        return [Label(material, failure=f"https://example.org?key={self.api_key}: 403") for material in materials]


class Keyed(FaultyGaps):
    """Needs a key; what goes wrong names it."""

    name = "keyed"

    def __init__(self, api_key: str) -> None:
        super().__init__(rate=0.4, kinds=["exception"])
        self.api_key = api_key

    def label(self, materials: Sequence[Any]) -> list[Label]:
        try:
            return super().label(materials)
        except RuntimeError as error:
            raise ConnectionError(f"https://example.org?key={self.api_key}: {error}") from error


class Hardness(FaultyOracle):
    """Labels what nobody asked for."""

    def label(self, materials: Sequence[Any]) -> list[Label]:
        return [Label(material, {"hardness": 1.0}) for material in materials]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch.setattr)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    kept = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in kept:
        signal.signal(number, handler)


@dataclass
class Whole:
    """A campaign that was left alone."""

    folder: Path
    seconds: dict[tuple[int, str], float]
    result: dict[str, Any]


def _undisturbed(config: DesignConfig) -> Whole:
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch.setattr)
        watch.install(patch.setattr)
        run_campaign(config)
        watch.enter("start")
    return Whole(config.output, watch.seconds, outcome(config.output))


@pytest.fixture(scope="module")
def botorch_imported() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # linear_operator still calls torch.jit.script
        import botorch.fit  # noqa: F401


@pytest.fixture(scope="module")
def whole(botorch_imported: None, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return _undisturbed(full_config(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return _undisturbed(brief_config(tmp_path_factory.mktemp("brief")))


def with_oracle(config: DesignConfig, name: str, **arguments: Any) -> DesignConfig:
    return replace(config, oracle=PlugIn(f"{HERE}.{name}", arguments))


def write_config(config: DesignConfig, path: Path) -> Path:
    path.write_text(json.dumps(asdict(config), default=str))  # JSON is YAML
    return path


@dataclass
class Answer:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line that a mistake is."""
        assert self.status == 2 and self.out == "", (self.status, self.out, self.err)
        assert self.err.startswith("matsmith: error: ") and self.err.count("\n") == 1, self.err
        return self.err


def command(folder: Path, *arguments: object, prepare: Callable[[], object] = lambda: None) -> Answer:
    """Run `matsmith` in a process of its own."""
    with forked(lambda: (prepare(), main([str(part) for part in arguments])), folder / "output") as child:
        child.wait()
    return Answer(child.status or 0, child.printed(), child.complained())


def design(config: DesignConfig, folder: Path, prepare: Callable[[], object] = lambda: None) -> Answer:
    return command(
        folder, "design", "--config", write_config(config, folder / "config.yaml"), "--json", prepare=prepare
    )


def assert_same(config: DesignConfig, expected: Whole) -> None:
    assert not (found := differences(outcome(config.output), expected.result)), found
    assert not list(config.output.rglob("*.part-*"))


# Kills


@pytest.mark.slow
def test_campaign_that_is_killed_thirty_times_comes_out_as_if_left_alone(whole: Whole, tmp_path: Path) -> None:
    found = kill_campaigns(whole.folder, whole.seconds, tmp_path, kills=30, per_campaign=15, seed=1)
    assert len(found.places) == 30 and found.campaigns == 2
    stages = Counter(stage for _, stage in found.places)
    assert {"fit", "train", "select", "label"} <= {*stages} and {"write", "collect"} & {*stages}
    assert found.resumed_training >= 1


@pytest.mark.slow
def test_campaign_killed_before_its_folder_is_described_goes_on(brief: Whole, tmp_path: Path) -> None:
    config = brief_config(tmp_path)

    def die(_: int) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    def start() -> None:
        agent.design_run.describe_environment = die
        run_campaign(config)

    with forked(start, tmp_path / "log") as child:
        assert child.wait() == -signal.SIGKILL
    run_campaign(config)
    assert_same(config, brief)


@pytest.mark.slow
def test_what_a_kill_left_of_a_checkpoint_is_cleared_away(brief: Whole, tmp_path: Path) -> None:
    config = brief_config(tmp_path)

    replace_by = Path.replace

    def die(path: Path, target: Path) -> Path:
        if target.name == "agent.safetensors":
            os.kill(os.getpid(), signal.SIGKILL)
        return replace_by(path, target)

    def start() -> None:
        Path.replace = die  # type: ignore[method-assign]
        run_campaign(config)

    with forked(start, tmp_path / "log") as child:
        assert child.wait() == -signal.SIGKILL
    assert list(config.output.rglob("*.part-*"))
    run_campaign(config)
    assert_same(config, brief)


# Oracles that go wrong


def assert_all_ended(config: DesignConfig, oracle: FaultyOracle) -> Counter[str | None]:
    """Every trial of a finished campaign is done, or failed by its fault and with its reason; returns the faults."""
    with CampaignStore.read(config.output / STORE) as store:
        trials, rounds = store.trials(), store.rounds()
    assert [(entry.number, entry.state) for entry in rounds] == [(n, "done") for n in range(config.rounds + 1)]
    sizes = Counter(trial.round for trial in trials)
    assert sizes == {0: config.campaign.initial, **dict.fromkeys(range(1, config.rounds + 1), config.campaign.batch)}
    reasons = {
        "exception": "RuntimeError: no luck with {}",
        "nan": "band_gap is nan",
        "hang": "timed out after",
        "kill": "the worker process was lost",
        "malformed": "malformed answer: expected a Label, not dict",
    }
    for trial in trials:
        fault = oracle.fault_of(trial.material)
        assert trial.label is not None
        assert trial.state == ("done" if fault is None else "failed"), (trial, fault)
        if fault is not None:
            assert reasons[fault].format(trial.material) in (trial.label.failure or ""), trial
            assert "\n" not in str(trial.label.failure)
    return Counter(oracle.fault_of(trial.material) for trial in trials)


def test_campaign_in_process_finishes_with_a_faulty_oracle(tmp_path: Path) -> None:
    faults: dict[str, Any] = {"rate": 0.3, "seed": 7, "kinds": ["exception", "nan", "malformed"]}
    campaign = CampaignOptions(batch=3, initial=6, steps=2, pool=60, label_known=True)
    config = with_oracle(brief_config(tmp_path, campaign=campaign), "FaultyGaps", **faults)
    run_campaign(config)
    assert {*assert_all_ended(config, FaultyGaps(**faults))} == {None, *faults["kinds"]}


@pytest.mark.slow
def test_campaign_in_worker_processes_finishes_with_a_faulty_oracle(botorch_imported: None, tmp_path: Path) -> None:
    faults: dict[str, Any] = {"rate": 0.2, "seed": 45}  # each kind once in the first 24
    campaign = CampaignOptions(batch=4, initial=24, steps=2, pool=60, label_known=True, retries=1, time_limit=2.0)
    config = brief_config(tmp_path, campaign=campaign, executor="process")
    config = with_oracle(config, "FaultyGaps", **faults)
    run_campaign(config)
    assert {*assert_all_ended(config, FaultyGaps(**faults))} == {None, *KINDS}


def test_label_that_cannot_be_stored_costs_its_material_alone(tmp_path: Path) -> None:
    config = with_oracle(brief_config(tmp_path), "OddAnswers")
    run_campaign(config)
    with CampaignStore.read(config.output / STORE) as store:
        labels = store.labels()
    reasons = [
        None,
        r"malformed answer: the structure of \w+ has coordinates that are not finite",
        r"malformed answer: the prototype of \w+ is None, not a text",
        r"malformed answer: the steps of \w+ are 'many', not a whole number",
        "malformed answer: a property cannot be called seconds, .*",
        r"malformed answer: band_gap of \w+ is -1e\+300",
    ]
    for reason, state, failure in zip(reasons, labels["state"], labels["failure"], strict=True):
        assert state == ("done" if reason is None else "failed")
        assert failure is None if reason is None else re.fullmatch(reason, failure)


# Disks that are full or closed


def full_at(size: int) -> None:
    """Let no file of this process grow beyond a size."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "name", "labels"),
    [(300, "environment.json", 0), (30_000, STORE, 0), (110_000, STORE, 1)],
    ids=["folder", "store", "labels"],
)
def test_full_disk_is_one_line_and_the_campaign_goes_on(
    size: int, name: str, labels: int, brief: Whole, tmp_path: Path
) -> None:
    config = brief_config(tmp_path)
    answer = design(config, tmp_path, prepare=lambda: full_at(size))
    assert f"{name}: cannot be " in answer.line
    held = finished(config.output)
    assert len(held) >= labels
    run_campaign(config)
    assert held.items() <= finished(config.output).items()
    assert_same(config, brief)


def test_disk_that_fills_up_under_a_checkpoint_leaves_the_last_one_whole(brief: Whole, tmp_path: Path) -> None:
    config = brief_config(tmp_path)
    save = DesignAgent.save

    def save_while_there_is_room(self: DesignAgent, path: str | Path) -> None:
        if self.trainer.step == 3:
            full_at(100_000)
        save(self, path)

    def prepare() -> None:
        agent.training_run._CHECKPOINT_SECONDS = -1.0
        DesignAgent.save = save_while_there_is_room  # type: ignore[method-assign]

    answer = design(config, tmp_path, prepare)
    assert "agent.safetensors: cannot be written" in answer.line
    checkpoint = RunFolder(config.output).checkpoint
    assert read_tensors(checkpoint, "agent")[1]["training"]["step"] == 2
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
    run_campaign(config)
    assert_same(config, brief)


def as_a_guest() -> None:
    if os.geteuid() == 0:
        os.setuid(65534)  # root may write everywhere


@pytest.mark.slow
def test_closed_folder_is_one_line_and_the_campaign_goes_on(brief: Whole, tmp_path: Path) -> None:
    if any(not folder.stat().st_mode & 0o001 for folder in Path(main.__code__.co_filename).resolve().parents):
        pytest.skip("others may not read the source from where it lies")
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, which is closed to others than its owner
        config = brief_config(Path(name))
        Path(name).chmod(0o755)
        with forked(lambda: run_by_command(config, tmp_path), tmp_path / "log") as child, holding(config):
            assert child.wait_until(lambda: len(calls(Path(name) / "calls")) == 1)
        before = finished(config.output)
        config.output.chmod(0o555)
        answer = command(tmp_path, "resume", config.output, "--json", prepare=as_a_guest)
        assert str(config.output) in answer.line
        config.output.chmod(0o755)
        assert finished(config.output) == before
        run_campaign(config)
        assert_same(config, brief)


# Two processes


@contextmanager
def holding(config: DesignConfig) -> Iterator[Path]:
    """Let the oracle give no answer for the time being."""
    assert config.oracle is not None
    hold = Path(f"{config.oracle.init_args['log']}.hold")
    hold.touch()
    try:
        yield hold
    finally:
        hold.unlink(missing_ok=True)


def run_by_command(config: DesignConfig, folder: Path) -> None:
    main(["design", "--config", str(write_config(config, folder / "config.yaml")), "--json"])


def test_second_process_is_refused_and_disturbs_nothing(brief: Whole, tmp_path: Path) -> None:
    config = brief_config(tmp_path)
    with forked(lambda: run_by_command(config, tmp_path), tmp_path / "log") as child:
        with holding(config):
            assert child.wait_until(lambda: len(calls(tmp_path / "calls")) == 1)
            before = sorted(config.output.rglob("*"))
            again = tmp_path / "config.yaml", "--overwrite", "true"
            for arguments in (("resume", config.output), ("design", "--config", *again)):
                answer = command(tmp_path, *arguments, "--json")
                assert f"campaign.db: process {child.pid} on " in answer.line and "has held it since" in answer.line
            assert sorted(config.output.rglob("*")) == before
        assert child.wait() == 0, child.complained()
    assert len(calls(tmp_path / "calls")) == 6
    assert_same(config, brief)


# The command line


def slow_steps(watch: Watch) -> Callable[[], None]:
    """Count the steps of training in the memory that is shared with a child, which takes its time over them."""
    take = Trainer.take_step

    def take_step(self: Trainer) -> StepReport:
        watch.shared[2] += 1
        time.sleep(0.05)
        return take(self)

    return lambda: setattr(Trainer, "take_step", take_step)


def assert_interrupted(child: Child, where: str, folder: Path) -> None:
    assert child.wait() == 130, child.complained()
    err = child.complained()
    assert f"matsmith: interrupted {where}; go on with: matsmith resume {folder}\n" in err
    assert "Traceback" not in err and child.printed() == ""


def test_ctrl_c_while_labelling_keeps_what_there_is(brief: Whole, tmp_path: Path) -> None:
    config, watch = brief_config(tmp_path), Watch()

    def start() -> None:
        watch.install()
        run_by_command(config, tmp_path)

    with forked(start, tmp_path / "log") as child:
        assert child.wait_until(lambda: watch.place >= (1, "select"))
        with holding(config):
            assert child.wait_until(lambda: len(calls(tmp_path / "calls")) == 5)
            sampled = command(tmp_path, "sample", config.output, "--n", "7", "--json")  # reads what is being written
            assert sampled.status == 0 and len(json.loads(sampled.out)["samples"]) == 7, sampled.err
            child.send(signal.SIGINT)
            assert_interrupted(child, "in round 1 of 1, 4 labels kept", config.output)
    assert len(pd.read_csv(config.output / "labels.csv")) == 6
    answer = command(tmp_path, "resume", config.output, "--json")
    assert (answer.status, answer.err) == (0, "") and json.loads(answer.out)["labels"] == 6
    assert len(calls(tmp_path / "calls")) == 7
    assert_same(config, brief)


@pytest.mark.slow
def test_ctrl_c_while_training_keeps_what_there_is(brief: Whole, tmp_path: Path) -> None:
    config, watch = brief_config(tmp_path), Watch()
    prepare = slow_steps(watch)

    def start() -> None:
        prepare()
        run_by_command(config, tmp_path)

    with forked(start, tmp_path / "log") as child:
        assert child.wait_until(lambda: watch.shared[2] >= 2)
        child.send(signal.SIGINT)
        assert_interrupted(child, "in round 1 of 1, 4 labels kept", config.output)
    assert 1 <= read_tensors(RunFolder(config.output).checkpoint, "agent")[1]["training"]["step"] <= 4
    answer = command(tmp_path, "resume", config.output, "--json")
    assert (answer.status, answer.err) == (0, "")
    assert_same(config, brief)


@pytest.mark.slow
def test_ctrl_c_of_a_terminal_ends_the_worker_processes_too(brief: Whole, tmp_path: Path) -> None:
    config = brief_config(tmp_path, executor="process")

    def start() -> None:
        os.setsid()
        run_by_command(config, tmp_path)

    with forked(start, tmp_path / "log") as child, holding(config):
        assert child.wait_until(lambda: len(calls(tmp_path / "calls")) == 1)
        worker = int((tmp_path / "calls").read_text().split()[0])
        os.killpg(child.pid, signal.SIGINT)
        assert_interrupted(child, "in round 0 of 1, 0 labels kept", config.output)
        assert not Path(f"/proc/{worker}").exists()
    answer = command(tmp_path, "resume", config.output, "--executor", "in-process", "--json")
    assert (answer.status, answer.err) == (0, "")
    assert_same(config, brief)


@pytest.fixture(scope="module")
def by_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a brief campaign that `matsmith design` made."""
    folder = tmp_path_factory.mktemp("command")
    config = brief_config(folder)
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch.setattr)
        answer = design(config, folder)
    assert (answer.status, answer.err) == (0, "")
    return config.output


def copied(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "run"))


@pytest.mark.slow
def test_rounds_can_be_added_and_not_be_taken_back(by_command: Path, tmp_path: Path) -> None:
    run = copied(by_command, tmp_path)
    answer = command(tmp_path, "resume", run, "--rounds", "2", "--json")
    assert (answer.status, answer.err) == (0, "") and json.loads(answer.out)["labels"] == 8
    twice = brief_config(tmp_path / "twice", rounds=2)
    (tmp_path / "twice").mkdir()
    run_campaign(twice)
    assert not differences(outcome(run), outcome(twice.output))
    before = finished(run)
    assert "rounds: 0 is less than the 2 that" in command(tmp_path, "resume", run, "--rounds", "0", "--json").line
    plain = command(tmp_path, "resume", run, "--json")
    assert (plain.status, plain.err) == (0, "") and json.loads(plain.out)["labels"] == 8
    assert finished(run) == before
    assert not differences(outcome(run), outcome(twice.output))


@pytest.mark.parametrize(
    ("changes", "oracle", "part"),
    [
        ({"oracle": None}, None, "oracle: none given"),
        ({"rounds": 0}, None, "oracle: it labels nothing while rounds is 0"),
        ({}, "WithoutLabel", "is no oracle, it has no label"),
        ({}, "Hardness", "oracle: it labels hardness, and none of the objectives (band_gap, toxicity)"),
        ({}, "Failing", "oracle: all 4 first labels failed; the first: https://example.org?key=: 403"),
        ({}, "Nobody", "has no 'Nobody'"),
    ],
    ids=["no oracle", "no rounds", "no label", "other labels", "no good label", "no class"],
)
def test_wrong_setting_is_one_line(changes: dict[str, Any], oracle: str | None, part: str, tmp_path: Path) -> None:
    config = brief_config(tmp_path, **changes)
    config = config if oracle is None else with_oracle(config, oracle)
    assert part in design(config, tmp_path).line


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"beta": 3.0}, "another beta (there 2.0, now 3.0)"),
        ({"seed": 1}, "another seed"),
        ({"steps": 5}, "another steps"),
        ({"campaign": {"batch": 3}}, "another campaign.batch"),
        ({"training": {"batch_size": 32}}, "another training.batch_size"),
        ({"space": {"max_count": 2}}, "another space.max_count"),
        ({"objectives": [{"property": "band_gap", "low": 1.5}]}, "another objectives"),
        ({"conditions": {"preference": True}}, "another conditions"),
        ({"oracle": {"class_path": f"{HERE}.FaultyGaps"}}, "another oracle"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configuration_changed_after_the_start_is_refused(
    changes: dict[str, Any], part: str, by_command: Path, tmp_path: Path
) -> None:
    run = copied(by_command, tmp_path)
    values = read_yaml(run / "config.yaml")
    for name, value in changes.items():
        values[name] = values[name] | value if isinstance(values[name], dict) and name != "oracle" else value
    (run / "config.yaml").write_text(json.dumps(values))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.csv")}
    assert f"campaign.db: was started with {part}" in command(tmp_path, "resume", run, "--json").line
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*.csv")}


def read_yaml(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_text())
    return values


# What lies in the folder


def test_nothing_in_the_folder_is_unpickled(by_command: Path, tmp_path: Path) -> None:
    run = copied(by_command, tmp_path)
    RunFolder(run).checkpoint.unlink()  # so that models are fitted and the policy is trained again

    def start() -> None:
        found: list[object] = []
        sys.addaudithook(lambda event, values: found.append(values) if event == "pickle.find_class" else None)
        for arguments in (["resume", str(run)], ["sample", str(run), "--n", "5"], ["report", str(run)]):
            main([*arguments, "--json"])
        print("unpickled:", found)

    with forked(start, tmp_path / "log") as child:
        assert child.wait() == 0, child.complained()
    assert child.printed().splitlines()[-1] == "unpickled: []"


KEY = "sk-2b7e151628aed2a6"


def test_key_of_an_oracle_reaches_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_MINE", KEY)
    config = with_oracle(brief_config(tmp_path), "Keyed", api_key="${KEY_OF_MINE}")
    answer = design(config, tmp_path)
    assert answer.status == 0 and KEY not in answer.out + answer.err
    with CampaignStore.read(config.output / STORE) as store:
        failures = [trial.label.failure for trial in store.trials(states=["failed"]) if trial.label is not None]
    assert failures and all("https://example.org?key=***" in str(failure) for failure in failures)
    files = [path for path in config.output.rglob("*") if path.is_file()]
    assert (config.output / "report.html") in files
    assert not [path.name for path in files if KEY.encode() in path.read_bytes()]


def test_key_in_the_configuration_is_refused(tmp_path: Path) -> None:
    config = with_oracle(brief_config(tmp_path), "Keyed", api_key=KEY)
    answer = design(config, tmp_path)
    assert answer.status == 2 and KEY not in answer.out + answer.err
    assert "init_args.api_key: keys are not written into files" in answer.err and not config.output.exists()


def test_key_that_is_not_in_the_environment_is_named(tmp_path: Path) -> None:
    config = with_oracle(brief_config(tmp_path), "Keyed", api_key="${NO_SUCH_KEY}")
    answer = design(config, tmp_path)
    assert answer.status == 2 and "the environment variable NO_SUCH_KEY is not set" in answer.err
