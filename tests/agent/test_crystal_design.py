"""`matsmith` with crystals: whole runs on a tiny space, interruptions, samples, and one line for every mistake."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ase.io import read
from pymatgen.core import Composition, Structure
from ruamel.yaml import YAML

import agent.crystal_candidates
import agent.data_support
from agent import DesignAgent, Prior
from agent.config import CrystalConfig
from agent.crystal_candidates import RELAXED_HULL
from agent.prior import CRYSTAL_SHARPENING
from agent.report import write_report
from envs import CrystalBatch
from tests.agent.crystal_examples import CRYSTAL, LIMITS, Stiff, crystal_space
from tests.agent.examples import random_prior, space_named
from tests.agent.test_cli import assert_refused, folder, plain_report, run, tree, write_config  # noqa: F401

CONFIG: dict[str, Any] = {
    "objectives": [{"property": "toxicity", "high": 0.5}],
    "space": LIMITS,
    "crystal": {**CRYSTAL, "screen": 12, "relax": 4},
    "steps": 5,
    "candidates": 15,
    "samples": 60,
    "training": {"batch_size": 8},
    "seed": 1,
}
TWO: dict[str, Any] = {"objectives": [*CONFIG["objectives"], {"property": "plausibility", "low": 0.5}]}

PLUG_INS = """
import os, signal
import numpy as np
from pymatgen.core import Structure
from surrogates.base import Prediction
import torch

calls = []

def packing(structures):
    assert all(isinstance(structure, Structure) for structure in structures)
    return [len(structure) / structure.volume for structure in structures]

def interrupting(structures):
    calls.append(len(structures))
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGINT)
    return packing(structures)

def negative(structures):
    return [-1.0 for _ in structures]

class SpaceGroup:
    reads_crystals = True
    def fit(self, materials, labels):
        return self
    def members(self, materials):
        return self.predict(materials).mean[None]
    def predict(self, materials):
        mean = materials.space_group[:, None].float()
        return Prediction(mean, torch.ones_like(mean))
"""


@pytest.fixture(autouse=True)
def potential(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811
    """An analytic potential in place of CHGNet, and modules of the user's in the current folder."""
    (folder / "crystal_plug_ins.py").write_text(PLUG_INS)
    monkeypatch.setattr(agent.crystal_candidates, "CHGNetPotential", Stiff)
    monkeypatch.setattr(agent.data_support, "_SAMPLES", 128)
    yield
    sys.modules.pop("crystal_plug_ins", None)


def config(path: str = "config.yaml", /, **changes: Any) -> list[str]:
    return write_config(path, **(CONFIG | changes))


def crystal(**changes: Any) -> dict[str, Any]:
    return {"crystal": {**CONFIG["crystal"], **changes}}


def candidates(run_folder: str = "run") -> pd.DataFrame:
    return pd.read_csv(Path(run_folder) / "candidates.csv")


def assert_whole(run_folder: Path) -> None:
    assert not list(run_folder.rglob("*.part-*"))


# Whole runs


def test_a_run_leaves_structures_beside_the_candidates(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config()) == 0
    out = capsys.readouterr().out
    table = candidates()
    assert len(table) == 15 and table["crystal"].is_unique
    relaxed = table[table["converged"].notna()]
    assert 0 < len(relaxed) <= 4
    assert f"{len(relaxed)} relaxed" in out and "run/cifs" in out and "run/candidates.csv" in out
    cifs = sorted(path.stem for path in Path("run/cifs").glob("*.cif"))
    assert cifs == [f"{rank:04d}_{formula}" for rank, formula in zip(table["rank"], table["formula"], strict=True)]
    images = read("run/candidates.extxyz", index=":")
    assert [atoms.info["name"] for atoms in images] == cifs
    for row, name in zip(table.itertuples(), cifs, strict=True):
        structure = Structure.from_file(f"run/cifs/{name}.cif")
        assert structure.composition.reduced_formula == Composition(str(row.formula)).reduced_formula
        assert len(structure) == row.n_atoms <= 4
        built = CrystalBatch.from_texts([str(row.crystal)]).structures()[0]
        if pd.isna(row.converged):
            assert structure.volume == pytest.approx(built.volume, rel=1e-4)
        elif row.converged:
            assert structure.volume / len(structure) == pytest.approx(20.0, rel=0.02)
    assert json.loads(Path("run/environment.json").read_text())["seconds"] > 0
    assert_whole(Path("run"))


def test_the_stored_configuration_runs_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*config(), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    stored = YAML(typ="safe").load(Path("run/config.yaml").read_text())
    assert stored["crystal"]["space_groups"] == CRYSTAL["space_groups"] and stored["crystal"]["relax"] == 4
    assert run(["design", "--config", "run/config.yaml", "--output", "again", "--json", "true"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["best"] == first["best"] and first["candidates"] == 15
    assert Path("again/candidates.csv").read_text() == Path("run/candidates.csv").read_text()
    hulls = [entry[RELAXED_HULL] for entry in first["best"] if entry[RELAXED_HULL] is not None]
    assert hulls == sorted(hulls)


def test_a_run_without_relaxation_needs_no_potential(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(agent.crystal_candidates, "CHGNetPotential", None)
    assert run(config(**crystal(relax=0))) == 0
    table = candidates()
    assert RELAXED_HULL not in table and table["rung"].eq("surrogate").all()
    assert len(list(Path("run/cifs").glob("*.cif"))) == 15
    assert "relaxed" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_report_of_crystals_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent.report, "write_report", write_report)
    assert run(config(**TWO)) == 0
    before = Path("run/report.html").read_text()
    assert candidates()["formula"][0] in before
    Path("run/report.html").unlink()
    assert run(["report", "run"]) == 0
    assert len(Path("run/report.html").read_text()) == len(before)


@pytest.mark.slow
def test_chgnet_relaxes_what_a_run_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    os.chdir(Path(__file__).parents[2])
    from agent.config import DesignConfig, ObjectiveConfig, SpaceConfig
    from agent.crystal_candidates import collect_crystals
    from agent.design_parts import make_agent

    wanted = DesignConfig(
        objectives=[ObjectiveConfig("e_above_hull", "minimize", 0.0, 0.5, caution=0.0)],
        space=SpaceConfig(elements=["Na", "Cl"], count_ranges={"Na": [1, 1], "Cl": [1, 1]}),
        crystal=CrystalConfig(max_atoms=2, screen=50, relax=6),
    )
    found = collect_crystals(make_agent(wanted, False), 50, 200, 0, wanted.crystal or CrystalConfig())
    best = found.table.sort_values(RELAXED_HULL).iloc[0]
    assert best["relaxed_space_group"] == "Fm-3m" and abs(best[RELAXED_HULL]) < 0.01  # rocksalt


# Interruptions


def test_training_that_is_interrupted_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"objectives": ..., "reward": "crystal_plug_ins.packing"}
    assert run(config("whole.yaml", output="whole", **changes)) == 0
    assert run(config(**(changes | {"reward": "crystal_plug_ins.interrupting"}))) == 130
    err = capsys.readouterr().err
    assert "go on with: matsmith resume run" in err
    assert not Path("run/candidates.csv").exists() and not Path("run/cifs").exists()
    assert Path("run/checkpoints/agent.safetensors").exists()
    assert_whole(Path("run"))
    assert run(["resume", "run"]) == 0
    assert Path("run/candidates.csv").read_text() == Path("whole/candidates.csv").read_text()
    assert Path("run/candidates.extxyz").read_text() == Path("whole/candidates.extxyz").read_text()


class InterruptedOnce(Stiff):
    left = 3

    def evaluate(self, structures: Any) -> Any:
        InterruptedOnce.left -= 1
        if InterruptedOnce.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().evaluate(structures)


def test_relaxation_that_is_interrupted_is_done_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config("whole.yaml", output="whole")) == 0
    monkeypatch.setattr(agent.crystal_candidates, "CHGNetPotential", InterruptedOnce)
    assert run(config()) == 130
    assert "interrupted after step 5 of 5; go on with: matsmith resume run" in capsys.readouterr().err
    assert not Path("run/candidates.csv").exists() and not Path("run/cifs").exists()
    assert_whole(Path("run"))
    assert run(["resume", "run"]) == 0
    assert Path("run/candidates.csv").read_text() == Path("whole/candidates.csv").read_text()
    cifs = tree(Path("run/cifs")).keys()
    assert run(["resume", "run"]) == 0  # of a finished run: the same once more
    assert tree(Path("run/cifs")).keys() == cifs
    assert Path("run/candidates.csv").read_text() == Path("whole/candidates.csv").read_text()


# Samples


def test_samples_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config(**TWO, **crystal(relax=0))) == 0
    capsys.readouterr()
    assert run(["sample", "run", "--n", "12", "--seed", "4"]) == 0
    out = capsys.readouterr().out
    assert "positions" in out.splitlines()[0] and "12 samples" in out and "..." not in out
    assert run(["sample", "run", "--n", "12", "--seed", "4", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["samples"]
    assert run(["sample", "run", "--n", "12", "--seed", "4", "--output", "samples.csv"]) == 0
    table = pd.read_csv("samples.csv")
    assert table["material"].tolist() == [row["material"] for row in rows]
    batch = CrystalBatch.from_texts(table["material"])
    assert list(batch.compositions) == table["formula"].tolist()
    assert batch.space_group.tolist() == table["space_group"].tolist()
    capsys.readouterr()
    assert run(["sample", "run", "--n", "12", "--preference", "toxicity=1", "--beta", "4", "--corrected"]) == 0
    assert "beta 4" in capsys.readouterr().out


def test_a_sweep_over_preferences(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config(**TWO, **crystal(relax=0))) == 0
    front = pd.read_csv("run/front.csv")
    assert set(front["formula"]) <= {"NaCl", "KCl", "Na2O", "K2O", "NaO", "KO", "Cl2O", "ClO", "ClO2"}
    assert front["material"].is_unique
    capsys.readouterr()
    assert run(["sample", "run", "--n", "30", "--preference", "sweep", "--seed", "0"]) == 0
    out = capsys.readouterr().out
    assert "Pareto front" in out and "positions" in out.splitlines()[0]
    assert run(["sample", "run", "--n", "30", "--preference", "sweep", "--seed", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["front"]["n_front"] == len(told["samples"])


# Rewards and models of the user's own


def test_an_own_reward_is_given_structures() -> None:
    assert run(config(objectives=..., reward="crystal_plug_ins.packing", **crystal(relax=0))) == 0
    table = candidates()
    structures = CrystalBatch.from_texts(table["crystal"]).structures()
    packing = [len(structure) / structure.volume for structure in structures]
    assert table["reward"].tolist() == pytest.approx(packing, rel=1e-4)


def test_an_own_model_may_read_crystals() -> None:
    own = {"property": "group", "goal": "maximize", "low": 0, "high": 230, "model": "crystal_plug_ins.SpaceGroup"}
    assert run(config(objectives=[own], **crystal(relax=0))) == 0
    table = candidates()
    assert [float(text.split(" | ")[1]) for text in table["crystal"]] == table["group"].tolist()


def test_an_own_reward_that_is_wrong_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = config(objectives=..., reward="crystal_plug_ins.negative")
    assert_refused(arguments, capsys, "crystal_plug_ins.negative", "returned -1 for", "expected a finite value >= 0")


# Priors


def test_priors_of_every_kind(tmp_path: Path) -> None:
    random_prior(space_named()).save("compositions.safetensors")
    random_prior(crystal_space()).save("crystals.safetensors")
    for prior in ("compositions.safetensors", "crystals.safetensors"):
        assert run(config(prior=prior, prior_weight=0.5, output=prior.split(".")[0], **crystal(relax=0))) == 0
    loaded = DesignAgent.load("compositions/checkpoints/agent.safetensors")
    assert loaded.prior_weight == 0.5
    structures = loaded.base.network.parts[1]
    assert not bool(structures.output.weight.any())  # uniform to begin with
    loaded = DesignAgent.load("crystals/checkpoints/agent.safetensors")
    assert bool(loaded.base.network.parts[1].output.weight.any())


@pytest.mark.slow
def test_a_prior_fitted_to_a_folder_of_files() -> None:
    space = crystal_space()
    Path("known").mkdir()
    texts = [f"KCl | 225 | K a | Cl b | {a} {a} {a} 90 90 90" for a in (6.2, 6.3)]
    state = space.sample_uniform_policy(60)
    texts = list(dict.fromkeys([*texts, *space.materials(state)]))
    for number, structure in enumerate(CrystalBatch.from_texts(texts).structures()):
        structure.to(str(Path("known") / f"{number}.cif"))
    Path("known/broken.cif").write_text("data_x\n")
    assert run(config(prior="known", output="known_run", **crystal(relax=0))) == 0
    loaded = DesignAgent.load("known_run/checkpoints/agent.safetensors")
    assert loaded.prior is not None and loaded.prior.report.n_materials >= 20
    sharpened = Prior.default().sharpened(CRYSTAL_SHARPENING)  # compositions are those of `default`, sharpened
    ours, embedded = loaded.base.network.parts[0], sharpened.policy(space.composition).network.parts[0]
    assert (ours.output.weight - embedded.output.weight).abs().max() < 1e-6


def test_priors_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("few").mkdir()
    CrystalBatch.from_texts(["KCl | 225 | K a | Cl b | 6.2 6.2 6.2 90 90 90"]).structures()[0].to("few/kcl.cif")
    Path("broken.cif").write_text("data_x\n")
    Path("known.csv").write_text("formula\nKCl\n")
    assert_refused(config(prior="nowhere"), capsys, "prior: nowhere is not default, none, a prior file")
    assert_refused(config(prior="empty"), capsys, "prior: no structure could be read from empty", "no structure files")
    assert_refused(config(prior="broken.cif"), capsys, "prior: no structure could be read from broken.cif")
    assert_refused(config(prior="known.csv"), capsys, "prior: no structure could be read from known.csv", "format")
    assert_refused(config(prior="few"), capsys, "prior: few: a prior needs at least 20 distinct materials", "not 1")


# What the command line and YAML say


@pytest.mark.parametrize("given", ["{}", "{max_atoms: 20}"])
def test_an_empty_section_gives_the_defaults(given: str) -> None:
    from agent.command_parser import design_config, make_parser, read_config

    parser = make_parser()
    options = parser.parse_args([*write_config(crystal=...), "--crystal", given])
    assert design_config(parser, options["design"]).crystal == CrystalConfig()
    Path("y.yaml").write_text(f"crystal: {given}\nsteps: 3\n")
    assert read_config(Path("y.yaml")).crystal == CrystalConfig()
    Path("y.yaml").write_text("crystal: null\nsteps: 3\n")
    assert read_config(Path("y.yaml")).crystal is None


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"space_groups": ["Fm3m"]}, ["crystal: space_groups: 'Fm3m' is no space group", "did you mean Fm-3m?"]),
        ({"space_groups": [231]}, ["crystal: space_groups: 231 is not a number from 1 to 230"]),
        ({"space_groups": []}, ["crystal: space_groups: the list is empty"]),
        ({"space_groups": [230]}, ["crystal: no crystal satisfies all limits", "space_groups=230", "max_atoms=4"]),
        ({"crystal_systems": ["cubik"]}, ["crystal: crystal_systems: unknown system 'cubik'", "cubic"]),
        ({"crystal_systems": ["tetragonal"]}, ["crystal: space_groups: none of 166, 221, 225 is tetragonal"]),
        ({"formula_units": [7]}, ["crystal: no crystal satisfies all limits", "formula_units=7"]),
        ({"formula_units": [0]}, ["crystal: formula_units: 0 is not a positive whole number"]),
        ({"max_atoms": 0}, ["crystal: max_atoms: 0 is not a whole number from 1 to 24"]),
        ({"max_atoms": 25}, ["crystal: max_atoms: 25 is not a whole number from 1 to 24"]),
        ({"min_distance": 2.0}, ["crystal: min_distance: 2.0 is not between 0 and 1.2"]),
        ({"relax": -1}, ["crystal: relax: -1 is not 0 or more"]),
        ({"relax": 0, "elastic": 2}, ["crystal: elastic: only relaxed crystals"]),
        ({"relax": 1.5}, ["crystal: relax: expected int. Got value: 1.5"]),
        ({"space_groups": 225}, ["crystal: space_groups: expected list, or null. Got value: 225"]),
        ({"space_groups": [1.5]}, ["crystal: space_groups: expected int, or str. Got value: 1.5"]),
        ({"formula_units": ["two"]}, ["crystal: formula_units: expected int. Got value: two"]),
        ({"crystal_systems": "cubic"}, ["crystal: crystal_systems: expected list, or null. Got value: cubic"]),
        ({"relax": None}, ["crystal.relax: found null"]),
        ({"max_atom": 4}, ["crystal: ", "max_atom", "did you mean max_atoms?"]),
    ],
)
def test_mistakes_in_the_section_are_one_line(
    changes: dict[str, Any], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(config(**crystal(**changes)), capsys, *parts)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"crystal": 3}, ["crystal: expected mapping, or null. Got value: 3"]),
        ({"crystal": [1]}, ["crystal: expected mapping, or null. Got value: [1]"]),
        ({"crystal": "a"}, ["crystal: expected a mapping. Got value: a"]),
        ({"rounds": 2, "oracle": "chgnet"}, ["rounds: campaigns label compositions", "rounds: 0 with crystal"]),
        ({"reference": "known.csv"}, ["reference: ", "leave it out with crystal"]),
        ({"space": {**LIMITS, "min_elements": 2, "elements": ["Na"]}}, ["min_elements"]),
    ],
)
def test_what_does_not_go_with_crystals_is_one_line(
    changes: dict[str, Any], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(config(**changes), capsys, *parts)


def test_a_run_can_only_be_resumed_in_its_own_space(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config(**crystal(relax=0))) == 0
    path = Path("run/config.yaml")
    path.write_text(path.read_text().replace("max_atoms: 4", "max_atoms: 3"))
    capsys.readouterr()
    assert run(["resume", "run"]) == 2
    assert "another design space (differs in max_atoms)" in capsys.readouterr().err
