"""`matsmith reference`: whole computations with a potential that costs nothing, mistakes, and signals."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import agent.reference_run
import surrogates.reference_build
from agent.cli import main
from agent.config import ReferenceConfig
from surrogates.reference_export import STRUCTURES, TABLE
from surrogates.reference_plan import ReferenceOptions
from surrogates.reference_table import load_reference_table

ROOT = Path(__file__).parents[2]
SMALL = ["reference", "--elements", '["Na", "Cl"]', "--known_ternaries", "0", "--other_ternaries", "0"]

FAKE = '''
"""Batches without a potential; LOG is a folder that names the processes that computed, PAUSE how long a batch takes."""
import os, time, zlib
from pathlib import Path
from surrogates.reference_store import StoredResult

def compute_batch(stage, tasks, volumes, options):
    (Path(os.environ["LOG"]) / str(os.getpid())).touch()
    time.sleep(float(os.environ["PAUSE"]))
    structure = '{"lattice":[[3,0,0],[0,3,0],[0,0,3]],"species":["Na"],"positions":[[0,0,0]]}'
    return [
        StoredResult(stage, formula, name, -1 - zlib.crc32((formula + name).encode()) % 997 / 500, 20.0,
                     0, None, None if volumes is None else structure, 225)
        for formula, name in tasks
    ]
'''
COMMAND = """
import sys
import reference_fake
import surrogates.reference_build
surrogates.reference_build.compute_batch = reference_fake.compute_batch
from agent.cli import main
if __name__ == "__main__":
    main(sys.argv[1:])
"""


class Synchronous(Executor):
    """A pool that computes at once, or ends as it is told."""

    raises: BaseException | None = None

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take what a pool takes."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.raises is not None:
            raise self.raises
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with the fake of `compute_batch`, which takes the place of CHGNet."""
    (tmp_path / "reference_fake.py").write_text(FAKE)
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "log").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PAUSE", "0")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("reference_fake", None)
    import reference_fake  # type: ignore[import-not-found]

    monkeypatch.setattr(surrogates.reference_build, "compute_batch", reference_fake.compute_batch)
    monkeypatch.setattr(agent.reference_run, "_Pool", Synchronous)
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield tmp_path
    sys.modules.pop("reference_fake", None)
    for number, handler in handlers:
        signal.signal(number, handler)


def run(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def tree(folder: Path) -> dict[str, int]:
    found = (path for path in folder.rglob("*") if "__pycache__" not in str(path) and path.suffix not in (".db-shm",))
    return {str(path.relative_to(folder)): path.stat().st_size for path in found}


def assert_refused(arguments: list[str], capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """Exit 2, one line on standard error with all the parts, nothing on standard output, nothing written."""
    capsys.readouterr()
    before = tree(Path.cwd())
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("matsmith: error: ") and err.count("\n") == 1 and len(err) < 400
    for part in parts:
        assert part in err
    assert tree(Path.cwd()) == before


# Whole computations


def test_computation_leaves_both_files_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*SMALL, "--output", "run"]) == 0
    out, err = capsys.readouterr()
    assert "compositions" in out and f"run/{TABLE}" in out and f"run/{STRUCTURES}" in out
    assert "compounds: volume scans" in err
    assert {"NaCl", "Na", "Cl"} <= set(load_reference_table(Path("run") / TABLE).materials)
    assert gzip.decompress((Path("run") / STRUCTURES).read_bytes()).count(b"\n") >= 3
    assert {path.name for path in Path("run").iterdir()} == {TABLE, STRUCTURES, "reference.db"}


def test_json_is_one_object_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*SMALL, "--output", "run", "--json"]) == 0
    out, err = capsys.readouterr()
    values = json.loads(out)
    assert err == "" and out.count("\n") == 1
    assert {"entries", "relaxed", "formulas", "failed", "files"} <= values.keys()
    assert values["files"] == [f"run/{TABLE}", f"run/{STRUCTURES}"]


def test_second_run_computes_nothing_and_writes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run([*SMALL, "--output", "run", "--json"]) == 0
    before = [(Path("run") / name).read_bytes() for name in (TABLE, STRUCTURES)]
    monkeypatch.setattr(Synchronous, "raises", RuntimeError("nothing was to be computed"))
    assert run([*SMALL, "--output", "run", "--json", "--workers", "7"]) == 0
    assert [(Path("run") / name).read_bytes() for name in (TABLE, STRUCTURES)] == before


def test_printed_configuration_runs_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*SMALL, "--output", "run", "--print_config"]) == 0
    text = capsys.readouterr().out
    values = YAML(typ="safe", pure=True).load(io.StringIO(text))
    assert values["elements"] == ["Na", "Cl"] and values["known_ternaries"] == 0
    assert {field.name for field in fields(ReferenceConfig)} <= values.keys()
    Path("config.yaml").write_text(text)
    assert run(["reference", "--config", "config.yaml", "--json"]) == 0
    assert (Path("run") / TABLE).is_file()
    capsys.readouterr()
    assert run(["reference", "--config", "config.yaml", "--print_config"]) == 0
    assert YAML(typ="safe", pure=True).load(io.StringIO(capsys.readouterr().out)) == values


def test_defaults_are_those_of_the_options() -> None:
    config, options = ReferenceConfig(), ReferenceOptions()
    assert agent.reference_run._options(config) == options


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reference", "--help"]) == 0
    out = capsys.readouterr().out
    for field in fields(ReferenceConfig):
        assert f"--{field.name}" in out
    assert "goes on where it stopped" in " ".join(out.split())


def test_elements_that_look_like_other_yaml_are_elements(capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused([*SMALL, "--elements", "[No, Y]", "--output", "run"], capsys, "CHGNet does not know No")


# Mistakes

MISTAKES: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "unknown element": (["--elements", "[Na, Xx]"], ("reference: elements: 'Xx' is not a chemical element",)),
    "element too heavy": (["--elements", "[Na, Cm]"], ("CHGNet does not know Cm",)),
    "no elements": (["--elements", "[]"], ("elements: the list is empty",)),
    "elements a word": (["--elements", "NaCl"], ("elements", "NaCl")),
    "known ternaries": (["--known_ternaries", "-1"], ("known_ternaries: -1 is negative",)),
    "other ternaries": (["--other_ternaries", "-1"], ("other_ternaries: -1 is negative",)),
    "relaxations": (["--relaxations", "-5"], ("relaxations: -5 is negative",)),
    "relaxations a word": (["--relaxations", "many"], ("relaxations", "int", "many")),
    "relaxations null": (["--relaxations", "null"], ("relaxations",)),
    "relaxed per formula": (["--relaxed_per_formula", "0"], ("relaxed_per_formula: 0 is not a positive number",)),
    "fmax": (["--fmax", "-0.1"], ("fmax: -0.1 is not a positive number",)),
    "fmax nan": (["--fmax", "nan"], ("fmax",)),
    "max steps": (["--max_steps", "0"], ("max_steps: 0 is not a positive number",)),
    "seed": (["--seed", "-1"], ("seed: -1 is negative",)),
    "workers": (["--workers", "0"], ("workers: 0 is not in 1..1024",)),
    "workers many": (["--workers", "5000"], ("workers: 5000 is not in 1..1024",)),
    "weights": (["--weights", "9.9"], ("weights: CHGNet has none named '9.9' (expected 0.3.0, 0.2.0, r2scan)",)),
    "unknown option": (["--relaxation", "5"], ("relaxation",)),
    "output a file": (["--output", "command.py"], ("output: command.py is a file, expected a folder",)),
    "output below a file": (["--output", "command.py/x"], ("command.py",)),
    "config missing": (["--config", "none.yaml"], ("none.yaml",)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_nothing_is_written(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, parts = MISTAKES[name]
    assert_refused([*SMALL, "--output", "run", *arguments], capsys, *parts)


def test_unknown_key_of_a_file_has_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text("relaxation: 5\n")
    assert_refused(["reference", "--config", "config.yaml"], capsys, "'relaxation'", "did you mean relaxations?")


def test_folder_of_other_settings_is_refused_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*SMALL, "--output", "run", "--json"]) == 0
    assert_refused([*SMALL, "--output", "run", "--fmax", "0.5"], capsys, "run/reference.db", "fmax", "0.08", "0.5")
    changed = [*SMALL, "--elements", "[Na, K]", "--output", "run"]
    assert_refused(changed, capsys, "another elements", "choose another output folder")


def test_file_that_is_no_database_is_refused_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    Path("run/reference.db").write_text("formula,energy\n" * 100)
    assert_refused([*SMALL, "--output", "run"], capsys, "run/reference.db: not a file of reference results")


def test_worker_that_was_killed_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Synchronous, "raises", BrokenProcessPool("a process died"))
    assert run([*SMALL, "--output", "run", "--json"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "a worker process was killed" in err and "start again to go on" in err


def test_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Synchronous, "raises", KeyboardInterrupt())
        assert run([*SMALL, "--output", "run", "--json"]) == 130
    assert capsys.readouterr().err.strip() == "matsmith: interrupted; the same command goes on where it stopped"
    assert run([*SMALL, "--output", "run", "--json"]) == 0


# Signals

Start = Callable[..., subprocess.Popen[str]]


def interruptible() -> None:
    """Undo that a shell or a test runner in the background makes its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start the command with batches that take some seconds; what is left of it is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start_command(pause: float, *options: str) -> subprocess.Popen[str]:
        started.append(open_command(folder, pause, *options))
        return started[-1]

    yield start_command
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def open_command(folder: Path, pause: float, *options: str) -> subprocess.Popen[str]:
    environment = os.environ | {
        "PAUSE": str(pause),
        "LOG": str(folder / "log"),
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.Popen(
        [sys.executable, "command.py", *SMALL, "--output", "run", "--workers", "2", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=interruptible,
    )


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def members(session: int) -> list[str]:
    """Command lines of the processes of a session that are not zombies."""
    listing = subprocess.run(["ps", "-ww", "-eo", "sess=,stat=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
    return [row[2] for row in rows if int(row[0]) == session and not row[1].startswith("Z")]


def workers(session: int) -> list[str]:
    return [arguments for arguments in members(session) if "spawn_main" in arguments]


def computing(folder: Path) -> bool:
    return len(list((folder / "log").iterdir())) == 2


def assert_interrupted(process: subprocess.Popen[str], seconds: float) -> None:
    """Exit 130 soon, the last line says how to go on, no traceback, and no process is left."""
    began = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - began < seconds
    assert process.returncode == 130, err
    assert err.rstrip().splitlines()[-1] == "matsmith: interrupted; the same command goes on where it stopped"
    assert err.count("interrupted") == 1 and "Traceback" not in err
    wait_for(lambda: not members(process.pid), 10)


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False], ids=["group", "parent"])
def test_ctrl_c_ends_a_long_batch_at_once(folder: Path, start: Start, whole_group: bool) -> None:
    process = start(300)
    wait_for(lambda: computing(folder))
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    assert_interrupted(process, 15)


@pytest.mark.slow
def test_ctrl_c_while_the_workers_start_is_theirs_to_ignore(folder: Path, start: Start) -> None:
    process = start(300)
    wait_for(lambda: len(workers(process.pid)) == 2)
    os.killpg(process.pid, signal.SIGINT)
    assert_interrupted(process, 15)


@pytest.mark.slow
def test_termination_is_taken_like_ctrl_c(folder: Path, start: Start) -> None:
    process = start(300, "--json")
    wait_for(lambda: computing(folder))
    process.terminate()
    assert_interrupted(process, 15)


@pytest.mark.slow
def test_workers_are_gone_soon_after_the_parent_was_killed(folder: Path, start: Start) -> None:
    process = start(300)
    wait_for(lambda: computing(folder))
    assert len(workers(process.pid)) == 2
    process.kill()
    process.communicate(timeout=30)  # ends when no worker holds the pipes any more
    wait_for(lambda: not workers(process.pid), 10)


@pytest.mark.slow
def test_death_of_a_worker_is_one_line_and_the_next_run_goes_on(folder: Path, start: Start) -> None:
    process = start(300, "--json")
    wait_for(lambda: computing(folder))
    os.kill(int(next((folder / "log").iterdir()).name), signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert err.count("\n") == 1 and "a worker process was killed" in err
    again = start(0, "--json")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert json.loads(out)["entries"] > 50


@pytest.mark.slow
def test_killed_twice_ends_with_the_files_of_an_undisturbed_computation() -> None:
    """With CHGNet, through the benchmark that does it ten times."""
    script = ROOT / "experiments" / "benchmarks" / "reference_kills.py"
    options = [
        "--kills",
        "2",
        "--elements",
        '["Na", "Cl"]',
        "--relaxations",
        "10",
        "--max_steps",
        "20",
        "--json",
        "true",
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] == 2 and result["identical"] and result["results"] > 50
