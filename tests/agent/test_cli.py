"""`matsmith`: whole runs on a tiny space, interruptions, and one line for every mistake."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

import agent.design_run
import agent.report
from agent import DesignAgent, Prior
from agent.cli import main
from agent.report import write_report
from agent.run_folder import RunFolder
from surrogates.properties import PROPERTIES
from tests.agent.examples import RECIPE, SMALL, all_formulas, random_prior, small_agent, space_named

CONFIG: dict[str, Any] = {
    "output": "run",
    "objectives": [{"property": "toxicity", "high": 0.5}, {"property": "plausibility", "low": 0.5}],
    "space": SMALL,
    "prior": "none",
    "beta": 2.0,
    "steps": 6,
    "candidates": 15,
    "samples": 100,
    "training": {"batch_size": 16},
}
COMMAND = [sys.executable, "-m", "agent.cli"]
ROOT = Path(__file__).parents[2]

PLUG_INS = """
import math, time, os, signal

class Sized:
    def __init__(self, size):
        self.size = size
    def __call__(self, materials):
        return [self.size] * len(materials)

def strings(materials):
    return [str(len(m)) for m in materials]

def nans(materials):
    return [math.nan] * len(materials)

def negative(materials):
    return [-1.5] * len(materials)

def short(materials):
    return [1.0]

def raises(materials):
    return {}[materials[0]]

def nothing(materials):
    pass

def slow(materials):
    time.sleep(0.05)
    return [float(len(m)) for m in materials]

class NoModel:
    pass
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with modules of the user's."""
    (tmp_path / "cli_plug_ins.py").write_text(PLUG_INS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    save_time(monkeypatch)
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield tmp_path
    sys.modules.pop("cli_plug_ins", None)
    for number, handler in handlers:
        signal.signal(number, handler)


def save_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller certificate and a report without figures; `test_a_run_leaves_everything` has the real ones."""
    monkeypatch.setattr(DesignAgent.coverage, "__defaults__", (512, 0))
    monkeypatch.setattr(agent.report, "write_report", plain_report)


def plain_report(run: Path) -> Path:
    path = Path(run) / "report.html"
    path.write_text((Path(run) / "support.json").read_text() if (Path(run) / "support.json").exists() else "")
    return path


def write_config(path: Path | str = "config.yaml", /, **changes: Any) -> list[str]:
    """Write a configuration; `...` leaves a key out. Return the arguments that use it."""
    values = {name: value for name, value in (CONFIG | changes).items() if value is not ...}
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(values, text)
    Path(path).write_text(text.getvalue(), encoding="utf-8")
    return ["design", "--config", str(path)]


def run(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def tree(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if "__pycache__" not in str(path)
    }


def assert_refused(arguments: list[str], capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """Exit 2, one line on standard error with all the parts, nothing on standard output, nothing written."""
    capsys.readouterr()
    before = tree(Path.cwd())
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("matsmith: error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert len(err) < 500
    for part in parts:
        assert part in err
    assert tree(Path.cwd()) == before


# A run from end to end


def test_a_run_leaves_everything_and_its_configuration_runs_again(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.report, "write_report", write_report)
    assert run(write_config()) == 0
    out = capsys.readouterr().out
    names = {path.name for path in (folder / "run").iterdir()}
    assert names == {
        "config.yaml", "environment.json", "metrics.jsonl", "coverage.json", "support.json", "candidates.csv",
        "front.csv", "front.json", "known.csv", "report.html", "checkpoints", "tb",
    }  # fmt: skip
    candidates = pd.read_csv(folder / "run" / "candidates.csv", keep_default_na=False)
    assert candidates["rank"].tolist() == list(range(1, 16))
    assert set(candidates["formula"]) <= set(all_formulas(space_named()))
    assert {"reward", "toxicity_fraction", "plausibility", "novel", "oxidation_states", "nearest_known"} <= set(
        candidates
    )
    metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    coverage = json.loads((folder / "run" / "coverage.json").read_text())
    assert coverage["covered"] == pytest.approx(1.0, abs=0.2)
    assert len(json.loads((folder / "run" / "support.json").read_text())["objectives"]) == 2
    assert json.loads((folder / "run" / "environment.json").read_text())["seed"] == 0
    assert "What the data can tell" in out and "15 candidates" in out and "of the target covered" in out
    assert not list(folder.rglob("*.part-*"))

    again = ["design", "--config", "run/config.yaml", "--output", "again"]
    assert run(again) == 0
    for name in ("candidates.csv", "coverage.json", "support.json"):
        assert (folder / "again" / name).read_bytes() == (folder / "run" / name).read_bytes()
    assert_refused(again, capsys, "output: again holds another run", "--overwrite")
    assert run([*again, "--overwrite", "true", "--seed", "1"]) == 0
    assert (folder / "again" / "candidates.csv").read_bytes() != (folder / "run" / "candidates.csv").read_bytes()


def test_json_is_one_object_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*write_config(), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert out.count("\n") == 1 and err == ""
    assert found["candidates"] == 15 and found["folder"] == "run"
    assert len(found["best"]) == 10
    assert run(["sample", "run", "--n", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["samples"]) == 4 and found["n_drawn"] == 4
    assert run(["report", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": "run/report.html"}
    assert run(["resume", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["candidates"] == 15


def test_samples_of_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampler = small_agent(beta=2.0)
    write_config("config.yaml", objectives=..., reward={"class_path": "cli_plug_ins.slow"}, training=RECIPE)
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").rename(folder / "run" / "config.yaml")
    sampler.save(folder / "run" / "checkpoints" / "agent.safetensors")
    assert run(["sample", "run", "--n", "7", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    expected = sampler.sample(7, seed=5)["material"].tolist()
    assert [line.split()[0] for line in out.splitlines()[1:8]] == expected
    assert "7 samples; effective sample size" in out and "of 7 drawn" in out
    assert run(["sample", "run", "--n", "7", "--seed", "5", "--output", "samples.csv"]) == 0
    assert pd.read_csv("samples.csv")["material"].tolist() == expected
    assert run(["sample", "run", "--n", "7", "--seed", "5", "--corrected"]) == 0
    assert "of 4096 drawn" in capsys.readouterr().out
    for wrong, part in (
        (["--n", "0"], "n: 0 is not in 1..1,000,000"),
        (["--seed", "-1"], "seed: -1"),
        (["--output", "run"], "run is a folder"),
        (["--output", "no/x.csv"], "lies in no folder"),
    ):
        assert_refused(["sample", "run", *wrong], capsys, part)


def test_samples_under_any_condition(capsys: pytest.CaptureFixture[str]) -> None:
    gap = {"property": "band_gap", "low": 1.0, "high": 2.0, "target_range": [0.5, 3.0]}
    risk = {"property": "supply_risk", "goal": "minimize", "low": 1000, "high": 5000}
    constraint = {"property": "toxicity", "high": 0.9}
    assert run([*write_config(objectives=[gap, risk], constraints=[constraint], beta=4.0)]) == 0
    agent = DesignAgent.load("run/checkpoints/agent.safetensors")
    assert json.loads(Path("run/front.json").read_text())["n_samples"] == 100
    assert len(pd.read_csv("run/front.csv")) >= 1 and len(pd.read_csv("run/known.csv")) >= 1
    capsys.readouterr()
    asked = ["--preference", "band_gap=7, supply_risk=3", "--beta", "12", "--target", "band_gap=2.5", "--seed", "1"]
    assert run(["sample", "run", "--n", "9", *asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    condition = {"preference": {"band_gap": 0.7, "supply_risk": 0.3}, "beta": 12.0, "target": {"band_gap": 2.5}}
    assert found["condition"] == condition
    expected = agent.sample(
        9, preference={"band_gap": 0.7, "supply_risk": 0.3}, beta=12, target={"band_gap": 2.5}, seed=1
    )
    assert [row["material"] for row in found["samples"]] == expected["material"].tolist()
    assert run(["sample", "run", "--n", "9", *asked]) == 0
    assert "band_gap 0.7, supply_risk 0.3; beta 12; target band_gap 2.5" in capsys.readouterr().out
    assert run(["sample", "run", "--n", "42", "--preference", "sweep", "--seed", "1", "--output", "sweep.csv"]) == 0
    out = capsys.readouterr().out
    assert "42 samples under 21 preferences. Pareto front: " in out and "hypervolume" in out
    written = pd.read_csv("sweep.csv")
    assert written["material"].tolist() == agent.sample_front(42, seed=1)["material"].tolist()
    assert {"preference_band_gap", "preference_supply_risk"} <= set(written)
    assert run(["sample", "run", "--n", "42", "--preference", "sweep", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["front"]["n_front"] == len(found["samples"])
    for wrong, part in (
        (["--preference", "band_gap=-1"], "preference: band_gap=-1 is not a weight >= 0"),
        (["--preference", "band_gap=0"], "preference: all weights are 0"),
        (["--preference", "gap=1"], "preference: no objective 'gap' (expected band_gap, supply_risk)"),
        (["--preference", "band_gap"], "preference: 'band_gap' is not name=number"),
        (["--preference", "band_gap=x"], "preference: 'band_gap=x' is not name=number"),
        (["--preference", ""], "preference: '' is not name=number"),
        (["--preference", "band_gap=1,band_gap=2"], "preference: band_gap is given twice"),
        (["--target", "band_gap=4"], "target: band_gap=4 is outside the trained range 0.5 to 3"),
        (["--target", "supply_risk=4"], "target: the policy was trained for no target of 'supply_risk'"),
        (["--beta", "64"], "beta: 64 is outside the trained range 1 to 32"),
        (["--beta", "x"], "beta"),
        (["--preference", "sweep", "--n", "1"], "n: 1 is too few for a sweep"),
        (["--preference", "sweep", "--corrected"], "corrected: not for a sweep"),
    ):
        assert_refused(["sample", "run", *wrong], capsys, part)


def test_what_stays_close_to_a_material_may_leave_out_that_it_is_of_the_space(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("Na2O").mkdir()
    whole = [*write_config(), "--space.reference", "Na2O", "--space.max_edits=2"]
    short = [*write_config(), "--reference", "Na2O", "--max-edits=2"]
    tables = []
    for options in (whole, short):
        assert run([*options, "--overwrite", "true"]) == 0
        tables.append(Path("run/candidates.csv").read_text(encoding="utf-8"))
    assert tables[0] == tables[1] and "Na2O" in tables[0]
    assert_refused([*write_config(output="other"), "--complete", "Na? Cl9"], capsys, "complete: 'Na? Cl9' cannot be")
    Path("Na2O").rmdir()
    Path("Na2O").write_text("formula,other\nNaCl,1\n", encoding="utf-8")  # a file of that name is a table of energies
    assert_refused([*write_config(output="other"), "--reference", "Na2O"], capsys, "reference: no objective uses it")


def test_a_reference_may_be_pasted_with_subscripts() -> None:
    tables = []
    for formula in ("Na2O", "Na₂O"):
        assert run([*write_config(), "--reference", formula, "--max-edits=2", "--overwrite", "true"]) == 0
        tables.append(Path("run/candidates.csv").read_text(encoding="utf-8"))
    assert tables[0] == tables[1] and "Na2O" in tables[1]


def test_a_reader_that_has_gone_ends_a_command_quietly() -> None:
    """Also one whose output is so little that it would be written when Python ends."""
    script = "import agent.cli as c; c._COMMANDS['report'] = lambda *_: print('done'); c.main(['report', 'run'])"
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, stdout=writing, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_samples_at_any_prior_weight(capsys: pytest.CaptureFixture[str]) -> None:
    space_prior = random_prior(space_named())
    space_prior.save("prior.safetensors")
    changes = {"prior": "prior.safetensors", "conditions": {"beta_range": None, "prior_weight_range": [0, 1]}}
    assert run([*write_config(**changes), "--prior-weight", "0.75"]) == 0  # dashes do as well
    swept = pd.read_csv("run/prior_weights.csv")
    assert swept["prior_weight"].tolist() == [i / 8 for i in range(9)]
    agent = DesignAgent.load("run/checkpoints/agent.safetensors")
    assert agent.prior_weight == 0.75
    capsys.readouterr()
    for option in (["--prior-weight", "0.3"], ["--prior_weight", "0.3"], ["--prior-weight=0.3"]):
        assert run(["sample", "run", "--n", "9", *option, "--seed", "1", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["condition"]["prior_weight"] == 0.3
        expected = agent.sample(9, prior_weight=0.3, seed=1)["material"].tolist()
        assert [row["material"] for row in found["samples"]] == expected
    assert run(["sample", "run", "--n", "9", "--prior-weight", "0.3"]) == 0
    assert "; beta 2; prior weight 0.3\n" in capsys.readouterr().out
    asked = ["sample", "run", "--n", "40", "--prior-weight", "sweep", "--seed", "1", "--preference", "toxicity=1"]
    assert run(asked) == 0
    out = capsys.readouterr().out
    names = [
        "prior_weight",
        "mean_reward",
        "hits",
        "element_distance",
        "nearest_distance",
        "known",
        "distinct",
        "effective_sample_size",
    ]
    assert out.splitlines()[0].split() == names and len(out.splitlines()) == 11
    assert out.endswith("40 samples under each of 9 prior weights; toxicity 1, plausibility 0; beta 2\n")
    expected = agent.sample_prior_weights(40, preference={"toxicity": 1}, seed=1)
    assert run([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["hits"] for row in found["prior_weights"]] == pytest.approx(expected["hits"].tolist())
    assert run([*asked, "--output", "sweep.csv"]) == 0
    assert pd.read_csv("sweep.csv")["mean_reward"].tolist() == pytest.approx(expected["mean_reward"].tolist(), rel=1e-5)
    for wrong, part in (
        (["--prior-weight", "1.5"], "prior_weight: 1.5 is outside the trained range 0 to 1"),
        (["--prior-weight", "much"], "prior_weight: expected float, sweep, or null. Got value: much"),
        (["--prior-weight", "sweep", "--preference", "sweep"], "prior_weight: one sweep at a time"),
        (["--prior-weight", "sweep", "--corrected"], "corrected: not for a sweep"),
        (["--prior-weight", "sweep", "--n", "0"], "n: 0 is not in 1..1,000,000"),
    ):
        assert_refused(["sample", "run", *wrong], capsys, part)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"conditions": {"prior_weight_range": [1, 0]}}, "prior_weight_range: [1, 0] is not an interval within 0..1"),
        ({"conditions": {"prior_weight_range": [0, 1]}}, "prior_weight_range: there is no prior to be weighed"),
        ({"conditions": {"prior_weight_range": [0, 0.5]}, "prior": "default"},
         "prior_weight: 1 is outside prior_weight_range, 0 to 0.5"),
        ({"conditions": {"beta_range": [4, 1]}}, "beta_range: [4, 1]"),
        ({"conditions": {"beta_range": [4, 8]}}, "beta: 2 is outside beta_range, 4 to 8"),
        ({"conditions": {"own_share": 2}}, "own_share: 2 is not in 0..1"),
        ({"conditions": {"own": 2}}, "own"),
        ({"conditions": 3}, "conditions"),
        ({"conditions": {}, "training": {"loss": "lpv"}}, "loss: lpv knows no conditions"),
        ({"constraints": [{"property": "toxicity"}]}, "a window needs low, high or both"),
        ({"constraints": [{"property": "toxicity", "goal": "minimize"}]}, "goal"),
        ({"constraints": [{"property": "nothing", "low": 1}]}, "unknown property 'nothing'"),
        ({"constraints": [{"property": "toxicity", "high": 1}], "objectives": ..., "reward": "cli_plug_ins.slow"},
         "constraints: a reward of your own knows none"),
        ({"objectives": [{"property": "band_gap", "low": 1, "high": 2, "target_range": [3, 4]}]}, "leaves out"),
        ({"objectives": [{"property": "band_gap", "low": 1, "target_range": [0, 4]}]}, "needs a window with"),
    ],
)  # fmt: skip
def test_wrong_conditions_and_constraints(
    changes: dict[str, Any], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(write_config(**changes), capsys, part)


def test_conditions_can_be_narrowed_or_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_config(conditions={"preference": False, "beta_range": None}, training={"batch_size": 16})) == 0
    assert not Path("run/front.csv").exists()
    assert_refused(["sample", "run", "--beta", "3"], capsys, "beta: 3 was not trained for (expected 2, the only one)")
    assert_refused(
        ["sample", "run", "--prior-weight", "sweep"], capsys, "prior_weight: the policy answers its own only"
    )
    assert run([*write_config(output="other"), "--conditions.beta_range", "[1, 8]"]) == 0
    assert_refused(["sample", "other", "--beta", "9"], capsys, "beta: 9 is outside the trained range 1 to 8")
    assert run(["resume", "other"]) == 0


def test_a_reward_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    reward = {"class_path": "cli_plug_ins.Sized", "init_args": {"size": 2.5}}
    assert run([*write_config(objectives=..., reward=reward, steps=2), "--json"]) == 0
    assert {row["reward"] for row in json.loads(capsys.readouterr().out)["best"]} == {2.5}
    stored = YAML(typ="safe", pure=True).load(Path("run/config.yaml").read_text())
    assert stored["reward"] == reward
    assert run(["resume", "run"]) == 0 and run(["sample", "run", "--n", "2"]) == 0
    assert run([*write_config(objectives=..., output="other", steps=2), "--reward", "cli_plug_ins.slow"]) == 0
    assert not Path("run/support.json").exists()


def test_print_config_gives_a_file_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*write_config(), "--space.forbidden", "[No, Y, N]", "--steps", "2"]
    assert run([*arguments, "--print_config"]) == 0
    text = capsys.readouterr().out
    Path("printed.yaml").write_text(text)
    assert YAML(typ="safe", pure=True).load(text)["space"]["forbidden"] == ["No", "Y", "N"]
    assert run(["design", "--config", "printed.yaml"]) == 0


def test_a_prior_from_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "known.csv").write_text("formula\n" + "\n".join(all_formulas(space_named())[:60]) + "\nFe2O3\n")
    assert run(write_config(prior="known.csv", steps=2)) == 0
    (folder / "known.csv").unlink()
    capsys.readouterr()
    assert run(["sample", "run", "--n", "2"]) == 0  # the checkpoint holds the prior


# Help


@pytest.mark.parametrize("arguments", [["--help"], ["design", "--help"], ["sample", "--help"], ["--version"]])
def test_help_waits_for_no_library(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom agent.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n"
        "    heavy = [m for m in ('torch', 'smact', 'pandas', 'pymatgen', 'gfn') if m in sys.modules]\n"
        "    print(heavy, stop.code, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr.strip().splitlines()[-1] == "[] 0"
    assert done.stdout


# Interruptions


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGINT) -> None:
    """Send a signal in the middle of the step after `step`, once."""
    from agent.trainer import Trainer

    descend, sent = Trainer._descend, []

    def interrupting(self: Trainer, loss: Any) -> None:
        if self.step == step and not sent:
            sent.append(1)
            signal.raise_signal(number)
        descend(self, loss)

    monkeypatch.setattr(Trainer, "_descend", interrupting)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert run(write_config(output="whole")) == 0
    interrupt_at(2, monkeypatch, number)
    capsys.readouterr()
    assert run(write_config(output="cut")) == 130
    err = capsys.readouterr().err
    assert "interrupted at step 3 of 6; go on with: matsmith resume cut" in err
    assert not (folder / "cut" / "candidates.csv").exists()
    assert run(["sample", "cut", "--n", "2"]) == 0
    assert run(["resume", "cut"]) == 0
    for name in ("candidates.csv", "coverage.json"):
        assert (folder / "cut" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    steps = [json.loads(line)["step"] for line in (folder / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert json.loads((folder / "cut" / "environment.json").read_text())["seconds"] > 0


def test_an_interruption_after_training_can_be_resumed_too(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = agent.design_run.collect_candidates
    monkeypatch.setattr(agent.design_run, "collect_candidates", lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert run(write_config(steps=2)) == 130
    assert "interrupted after step 2 of 2; go on with: matsmith resume run" in capsys.readouterr().err
    monkeypatch.setattr(agent.design_run, "collect_candidates", collect)
    assert run(["resume", "run"]) == 0
    assert (folder / "run" / "report.html").exists()


def test_an_interruption_before_training_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.design_run, "examine", lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert run(write_config()) == 130
    assert capsys.readouterr().err == "matsmith design: interrupted; nothing was written\n"
    assert not (folder / "run").exists()


class Killed(BaseException):
    """Stands for a kill: no handler of the run may catch it."""


def test_a_run_killed_between_checkpoints_goes_on_from_the_last_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.trainer import Trainer

    assert run(write_config(output="whole")) == 0
    descend, save = Trainer._descend, DesignAgent.save

    def die(self: Trainer, loss: Any) -> None:
        if self.step == 4:
            raise Killed
        descend(self, loss)

    with monkeypatch.context() as patch:
        patch.setattr(agent.training_run, "_CHECKPOINT_SECONDS", -1.0)
        patch.setattr(Trainer, "_descend", die)
        patch.setattr(DesignAgent, "save", lambda self, path: self.trainer.step < 3 and save(self, path))
        with pytest.raises(Killed):
            run(write_config(output="killed"))
    checkpoint = DesignAgent.load(folder / "killed" / "checkpoints" / "agent.safetensors")
    assert checkpoint.trainer.step == 2  # metrics know of four
    assert run(["resume", "killed"]) == 0
    for name in ("candidates.csv", "coverage.json"):
        assert (folder / "killed" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    steps = [json.loads(line)["step"] for line in (folder / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"beta": 3.0}, "beta was 2.0 when the run was started, not 3.0"),
        ({"seed": 1}, "seed was 0"),
        ({"training": {"batch_size": 32}}, "training.batch_size was 16 when"),
        ({"objectives": [{"property": "toxicity", "high": 0.6}]}, "trained with another reward"),
        ({"space": SMALL | {"max_count": 2}}, "another design space (differs in max_count)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_configuration_changed_after_the_start_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], part: str
) -> None:
    from agent.command_parser import design_config, design_parser, make_parser
    from agent.design_parts import make_agent

    write_config("config.yaml", **change)
    RunFolder(folder / "run").path.mkdir()
    Path("config.yaml").rename("run/config.yaml")
    parser = make_parser()
    write_config("first.yaml")
    config = design_config(parser, design_parser(parser).parse_args(["--config", "first.yaml"]))
    make_agent(config, progress=False).save(RunFolder(folder / "run").checkpoint)
    for command in ("resume", "sample"):
        assert_refused([command, "run"], capsys, part)


@pytest.mark.slow
def test_a_killed_run_goes_on(folder: Path) -> None:
    arguments = write_config(objectives=..., reward={"class_path": "cli_plug_ins.slow"}, steps=18, output="killed")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    metrics = folder / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while (not metrics.exists() or metrics.stat().st_size == 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "killed" / "candidates.csv").exists()
    assert run(["resume", "killed"]) == 0
    assert run([*arguments, "--output", "whole"]) == 0
    assert (folder / "killed" / "candidates.csv").read_bytes() == (folder / "whole" / "candidates.csv").read_bytes()
    assert not list(folder.rglob("*.part-*"))


def interruptible() -> None:
    """Undo that jobs in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own(folder: Path) -> None:
    arguments = write_config(objectives=..., reward={"class_path": "cli_plug_ins.slow"}, steps=25)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible
    )
    metrics = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while (not metrics.exists() or metrics.stat().st_size == 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "stopping after this step" in err and "go on with: matsmith resume run" in err
    done = subprocess.run(
        [*COMMAND, "resume", "run", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["folder"] == "run"


# Mistakes

S = SMALL | {"elements": ["Na", "O"]}
MISTAKES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown key": ({"stepz": 3}, ("'stepz'", "did you mean steps?")),
    "unknown nested key": ({"training": {"batchsize": 3}}, ("training.batchsize", "did you mean batch_size?")),
    "unknown objective key": ({"objectives": [{"property": "toxicity", "hihg": 1}]}, ("objectives", "hihg", "high?")),
    "steps a word": ({"steps": "many"}, ("steps", "int", "many")),
    "steps a fraction": ({"steps": 2.5}, ("steps", "2.5")),
    "steps zero": ({"steps": 0}, ("steps: 0",)),
    "steps null": ({"steps": None}, ("steps: found null",)),
    "steps a list": ({"steps": [1]}, ("steps", "[1]")),
    "samples huge": ({"samples": 10**12}, ("samples", "1,000,000")),
    "candidates negative": ({"candidates": -1}, ("candidates: -1",)),
    "seed negative": ({"seed": -1}, ("seed: -1",)),
    "seed huge": ({"seed": 10**30}, ("seed: 1000",)),
    "threads zero": ({"threads": 0}, ("threads: 0",)),
    "threads huge": ({"threads": 10**9}, ("threads: 1000000000",)),
    "beta negative": ({"beta": -1}, ("beta: -1",)),
    "beta infinite": ({"beta": float("inf")}, ("beta: inf",)),
    "prior weight": ({"prior_weight": 1.1}, ("prior_weight: 1.1", "0..1")),
    "no objective": ({"objectives": []}, ("objectives, reward: neither is given",)),
    "both": ({"reward": {"class_path": "cli_plug_ins.slow"}}, ("objectives, reward: both are given",)),
    "objectives a mapping": ({"objectives": {"property": "toxicity"}}, ("objectives: expected list",)),
    "objectives words": ({"objectives": ["band_gap"]}, ("objectives: expected a mapping", "band_gap")),
    "objective without a property": ({"objectives": [{"low": 1}]}, ("objectives", "required: property")),
    "unknown property": ({"objectives": [{"property": "bandgap", "low": 1}]}, ("'bandgap'", "did you mean band_gap?")),
    "unknown goal": ({"objectives": [{"property": "toxicity", "goal": "min"}]}, ("goal", "minimize", "min")),
    "bound a word": ({"objectives": [{"property": "toxicity", "low": "zero"}]}, ("low: expected float", "zero")),
    "bounds reversed": ({"objectives": [{"property": "toxicity", "low": 2, "high": 1}]}, ("low=2", "high=1")),
    "bound nan": ({"objectives": [{"property": "toxicity", "low": float("nan")}]}, ("low is nan",)),
    "property twice": ({"objectives": [{"property": "toxicity", "low": 0}] * 2}, ("'toxicity' occurs more than once",)),
    "weight null": (
        {"objectives": [{"property": "toxicity", "low": 0, "weight": None}]},
        ("objectives.weight: found null",),
    ),
    "unknown element": ({"space": {**S, "elements": ["Na", "Xx"]}}, ("elements", "'Xx'")),
    "unknown required": ({"space": {**S, "required": ["Q"]}}, ("required", "'Q'")),
    "elements a word": ({"space": {**S, "elements": "NaO"}}, ("space.elements", "list", "NaO")),
    "elements numbers": ({"space": {**S, "elements": [11, 8]}}, ("space.elements", "11")),
    "required and forbidden": ({"space": {**S, "required": ["O"], "forbidden": ["O"]}}, ("required: O", "forbidden")),
    "nothing left": ({"space": {"elements": ["Na", "K"]}}, ("in conflict", "elements=Na,K")),
    "space null": ({"space": None}, ("space: found null",)),
    "space a list": ({"space": [1]}, ("space: expected a mapping",)),
    "atoms huge": ({"space": {**S, "max_atoms": 10**12}}, ("max_atoms: 1000000000000",)),
    "count range": ({"space": {**S, "count_ranges": {"O": [3]}}}, ("count_ranges: O: [3]",)),
    "oxidation set": ({"space": {**S, "oxidation_states": "icsd25"}}, ("'icsd25'", "icsd24")),
    "filter": ({"space": {**S, "icsd24_filter": {"commonality": "often"}}}, ("icsd24_filter", "often")),
    "loss": ({"training": {"loss": "mse"}}, ("training.loss", "mse", "subtb")),
    "batch": ({"training": {"batch_size": 1}}, ("batch_size: 1",)),
    "learning rate nan": ({"training": {"learning_rate": float("nan")}}, ("learning_rate: nan",)),
    "training null": ({"training": {"batch_size": None}}, ("training.batch_size: found null",)),
    "scalarization": ({"scalarization": "max"}, ("scalarization", "max", "tchebycheff")),
    "prior a word": ({"prior": "nonsense"}, ("prior: 'nonsense'",)),
    "prior missing": ({"prior": "none.csv"}, ("none.csv: there is no such file",)),
    "prior file missing": ({"prior": "none.safetensors"}, ("none.safetensors: no such file",)),
    "reward missing module": (
        {"objectives": ..., "reward": {"class_path": "nowhere.R"}},
        ("reward: class_path 'nowhere.R'", "cannot import"),
    ),
    "reward missing name": ({"objectives": ..., "reward": {"class_path": "cli_plug_ins.R"}}, ("has no 'R'",)),
    "reward without arguments": (
        {"objectives": ..., "reward": {"class_path": "cli_plug_ins.Sized"}},
        ("cli_plug_ins.Sized", "missing 1 required", "'size'"),
    ),
    "reward without path": ({"objectives": ..., "reward": {"init_args": {}}}, ("reward", "class_path")),
    "reward a number": ({"objectives": ..., "reward": 3}, ("reward", "class_path", "3")),
    "reward strings": (
        {"objectives": ..., "reward": "cli_plug_ins.strings"},
        ("cli_plug_ins.strings", "list of str", "numbers"),
    ),
    "reward nan": ({"objectives": ..., "reward": "cli_plug_ins.nans"}, ("cli_plug_ins.nans", "returned nan for")),
    "reward negative": ({"objectives": ..., "reward": "cli_plug_ins.negative"}, ("returned -1.5 for", ">= 0")),
    "reward short": ({"objectives": ..., "reward": "cli_plug_ins.short"}, ("shape (1,), expected (64,)",)),
    "reward raises": (
        {"objectives": ..., "reward": "cli_plug_ins.raises"},
        ("cli_plug_ins.raises", "KeyError", "cli_plug_ins.py, line"),
    ),
    "reward nothing": ({"objectives": ..., "reward": "cli_plug_ins.nothing"}, ("returned NoneType",)),
    "model that is none": (
        {"objectives": [{"property": "x", "low": 0, "model": {"class_path": "cli_plug_ins.NoModel"}}]},
        ("objective 'x'", "cli_plug_ins.NoModel", "predict"),
    ),
    "output a file": ({"output": "cli_plug_ins.py"}, ("output: cli_plug_ins.py is a file",)),
    "output below a file": ({"output": "cli_plug_ins.py/x"}, ("output: cannot make", "is a file")),
    "output with other files": ({"output": "."}, ("output: . holds other files",)),
    "output a list": ({"output": ["a"]}, ("output",)),
    "overwrite perhaps": ({"overwrite": "perhaps"}, ("overwrite", "bool", "perhaps")),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    changes, parts = MISTAKES[name]
    assert_refused(write_config(**changes), capsys, *parts)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "expected a mapping of options"),
        ("- a\n- b\n", "expected a mapping of options"),
        ("null", "expected a mapping of options"),
        ("steps: [1,\n", "Problems parsing config"),
        ("a:\n\t- b\n", "Problems parsing config"),
        ("steps: 1\nsteps: 2\n", "duplicate key"),
        ("\u0153uf: 1\n", "\u0153uf"),
        ("\x00", "Problems parsing config"),
    ],
    ids=["empty", "list", "null", "open", "tab", "twice", "unicode", "zero byte"],
)
def test_a_configuration_that_is_none_is_one_line(text: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text(text, encoding="utf-8")
    assert_refused(["design", "--config", "bad.yaml"], capsys, part)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ("subcommand", "design")),
        (["desing"], ("desing", "design")),
        (["design"], ("neither is given",)),
        (["design", "--config", "nowhere.yaml"], ("config", "nowhere.yaml")),
        (["design", "--config", "."], ("config", "not a file")),
        (["design", "--objectives", "nonsense"], ("objectives: expected list", "nonsense")),
        (["design", "--step", "x"], ("--step", "did you mean --steps?")),
        (["sample", "run", "--prior-weigth", "1"], ("--prior_weigth 1; did you mean --prior_weight?",)),
        (["--rounds=3", "resume", "run"], ("--rounds=3; it belongs behind its command",)),
        (
            ["design", "--objectives", "[]", "--reference", "Xx2O", "--max-edits", "2"],
            ("'Xx' is not a chemical element",),
        ),
        (["design", "--reference", "CuSO4.5H2O", "--max-edits", "2"], ("can be read in two ways",)),
        (["design", "--reference", "C" * 400, "--max-edits", "2"], ("reference",)),
        (["design", "--max-edits", "2"], ("max_edits: 2 without a reference formula",)),
        (["resume"], ("run",)),
        (["resume", "nowhere"], ("run: nowhere holds no run", "config.yaml")),
        (["sample", "cli_plug_ins.py"], ("holds no run",)),
        (["report", "nowhere"], ("nowhere",)),
        (["sample", ".", "--n", "x"], ("n: expected int", "x")),
        (["sample", ".", "--corrected", "perhaps"], ("corrected", "perhaps")),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_one_line(
    arguments: list[str], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(arguments, capsys, *parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ("empty",)),
        ("formula\n", ("no rows",)),
        ("name,gap\nNaCl,1\n", ("no formula column", "name, gap")),
        ("formula\nNaCl\nNaCl)2\n", ("row 2", "NaCl)2")),
        ("formula\nNaCl\n,\n", ("known.csv",)),
        ("formula,x\nNaCl,1\n,2\n", ("row 2", "no value")),
        ("formula\nNaCl\nXx2O\n", ("row 2", "Xx")),
        ("formula\nNaCl\nFe2O3\nK2O\n", ("at least 20", "not 2", "1 by element")),
        ("\x00\xff", ("known.csv",)),
    ],
)
def test_a_table_that_makes_no_prior_is_one_line(
    content: str, parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("known.csv").write_text(content, encoding="latin-1")
    assert_refused(write_config(prior="known.csv"), capsys, *parts)


def test_checkpoints_that_do_not_fit_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(folder / "config.yaml", objectives=..., reward="cli_plug_ins.slow", output="run")
    run_folder = RunFolder(folder / "run")
    run_folder.checkpoint.parent.mkdir(parents=True)
    (folder / "config.yaml").rename(run_folder.config)
    small_agent().save(run_folder.checkpoint)
    whole = run_folder.checkpoint.read_bytes()
    for command in ("resume", "sample"):
        run_folder.checkpoint.write_bytes(whole[: len(whole) // 2])
        assert_refused([command, "run"], capsys, "agent.safetensors", "cut short")
        run_folder.checkpoint.write_bytes(b"no safetensors at all")
        assert_refused([command, "run"], capsys, "agent.safetensors", "not a readable safetensors file")
        random_prior(space_named()).save(run_folder.checkpoint)
        assert_refused([command, "run"], capsys, "holds a prior, expected an agent")
        run_folder.checkpoint.unlink()
        assert_refused([command, "run"], capsys, "no such file (expected an agent")
        small_agent("larger").save(run_folder.checkpoint)
        assert_refused([command, "run"], capsys, "another design space (differs in elements)")
    small_agent().save(folder / "agent.safetensors")
    assert_refused(write_config(prior="agent.safetensors", output="other"), capsys, "holds an agent, expected a prior")


def test_the_last_of_two_options_counts(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = "[{property: toxicity, high: 0.5}]", "[{property: plausibility, low: 0.5}]"
    assert run([*write_config(), "--objectives", first, "--objectives", second, "--print_config"]) == 0
    printed = YAML(typ="safe", pure=True).load(capsys.readouterr().out)
    assert [entry["property"] for entry in printed["objectives"]] == ["plausibility"]


def test_every_embedded_property_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    objectives = [{"property": name, "low": 0.1} for name in PROPERTIES]
    assert run([*write_config(objectives=objectives, steps=1, samples=20), "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    assert all(f"{entry.column}_std" in best[0] for entry in PROPERTIES.values())


def test_a_target_outside_the_data_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    objectives = [{"property": "band_gap", "low": 20, "high": 30}]
    assert run([*write_config(objectives=objectives, steps=1, samples=20), "--json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert any("outside the measured range" in warning for warning in warnings)
    assert "outside the measured range" in Path("run/report.html").read_text()


def test_the_embedded_prior_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_config(prior=..., steps=1, samples=20, candidates=5)) == 0
    assert "of the prior's" in capsys.readouterr().out
    assert Prior.default().report.n_materials > 1000
