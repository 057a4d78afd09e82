"""Design around a reference formula and by partial formulas, from the configuration to samples of the prior."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from smact.screening import ICSD24FilterConfig

from agent import DesignAgent, Prior
from agent.cli import main
from agent.config import SpaceConfig
from agent.design_parts import make_space
from envs import CompositionSpace
from tests.agent.examples import crc_reward, quick_options


def test_a_configuration_makes_the_space_around_a_reference() -> None:
    space = make_space(SpaceConfig(reference="Sr8Ti8O24", max_edits=1, keep=["O"], elements=["Ba", "Zr"]))
    assert space.identity == CompositionSpace(["Ba", "Zr"], reference="Sr8Ti8O24", max_edits=1, keep=["O"]).identity
    assert make_space(SpaceConfig(complete="Li ? O?")).limits.required == ("Li", "O")


def test_the_embedded_prior_knows_its_way_around_a_reference() -> None:
    common = ICSD24FilterConfig(commonality="medium")
    space = CompositionSpace(reference="SrTiO3", max_edits=1, icsd24_filter=common)
    rollout = Prior.default().policy(space).sample_many(500, torch.Generator().manual_seed(0))
    found = space.decode(space.replay(rollout.actions))
    assert sum(map(found.count, ("BaTiO3", "CaTiO3", "MgTiO3", "EuTiO3"))) > 150
    supercell = CompositionSpace(reference="Sr8Ti8O24", max_edits=2, keep=["O"])
    state = supercell.replay(
        Prior.default().policy(supercell).sample_many(200, torch.Generator().manual_seed(0)).actions
    )
    assert supercell.is_finished(state).all()
    assert supercell.explain(supercell.decode(state)) == [None] * 200


def test_an_agent_around_a_reference_trains_saves_and_comes_back(tmp_path: Path) -> None:
    space = CompositionSpace(["Ba", "Ca", "Zr", "S"], reference="Sr2Ti2O6", max_edits=2)
    agent = DesignAgent(space, crc_reward, None, beta=2.0, seed=0, options=quick_options())
    agent.train(3, progress=False)
    agent.save(tmp_path / "agent.safetensors")
    again = DesignAgent.load(tmp_path / "agent.safetensors", reward=crc_reward)
    assert again.space.identity == space.identity
    materials = agent.sample(50, seed=1)["material"].tolist()
    assert again.sample(50, seed=1)["material"].tolist() == materials
    assert space.explain(materials) == [None] * 50


OBJECTIVES = ["--objectives", "[{property: toxicity, low: 0}]"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--space.reference", "SrTiO3"], "max_edits: missing"),
        (["--space.max_edits", "2"], "max_edits: 2 without a reference formula"),
        (["--space.reference", "SrTiO3", "--space.max_edits", "-1"], "max_edits: -1 is not a whole number"),
        (["--space.reference", "SrTiO3", "--space.max_edits", "x"], "space.max_edits: expected int"),
        (["--space.reference", "nonsense", "--space.max_edits", "1"], "reference: 'nonsense'"),
        (["--space.reference", "Sr8Ti8O24", "--space.max_edits", "1", "--space.max_atoms", "20"], "raise it to 40"),
        (["--space.complete", "Li?O"], "complete: 'Li?O' in 'Li?O' can be read in two ways"),
        (["--space.complete", "Na K?"], "complete: 'Na K?' cannot be filled"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["design", "--output", str(tmp_path / "run"), *OBJECTIVES, *options])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("matsmith: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "run").exists()
