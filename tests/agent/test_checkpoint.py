"""Checkpoints: training goes on bit for bit, and files that are none are refused in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from agent import DesignAgent, Objective, Reward
from agent.network_file import read_tensors, write_tensors
from envs import CompositionSpace, CrystalSpace
from tests.agent.examples import (
    SMALL,
    crc_reward,
    quick_options,
    random_prior,
    small_agent,
    space_named,
)


def make(loss: str = "tb", with_prior: bool = True, **options: Any) -> DesignAgent:
    space = space_named()
    prior = random_prior(space) if with_prior else None
    settings = quick_options(loss=loss, **options)
    return DesignAgent(space, crc_reward, prior, 0.5, 2.0, seed=3, options=settings)


def assert_equal_agents(one: DesignAgent, other: DesignAgent) -> None:
    assert one.history == other.history
    for name in ("network", "average"):
        for first, second in zip(
            getattr(one.trainer, name).parameters(), getattr(other.trainer, name).parameters(), strict=True
        ):
            assert torch.equal(first, second)
    assert one.sample(20).equals(other.sample(20))
    assert one.sample(20, corrected=True).equals(other.sample(20, corrected=True))
    assert one.coverage(64) == other.coverage(64)
    assert one.trainer.replay.n_evaluated == other.trainer.replay.n_evaluated


@pytest.mark.parametrize("loss", ["tb", "subtb", "lpv", "rtb"])
@pytest.mark.parametrize("with_prior", [True, False])
def test_training_goes_on_bit_for_bit(tmp_path: Path, loss: str, with_prior: bool) -> None:
    steps, cut = 12, 7  # beta rises by itself at steps that ten divides
    whole, part = make(loss, with_prior), make(loss, with_prior)
    for agent in (whole, part):
        agent.sample(7)  # the agent's own sequence of samples goes on as well
    whole.train(steps, progress=False)

    class Stop(Exception):  # noqa: N818
        pass

    def stop(report: Any) -> None:
        if report.step == cut:
            raise Stop

    with pytest.raises(Stop):
        part.train(steps, progress=False, callback=stop)
    part.save(tmp_path / "agent.safetensors")
    loaded = DesignAgent.load(tmp_path / "agent.safetensors", reward=crc_reward)
    assert loaded.trainer.step == cut
    assert loaded.trainer.segment == (0, steps)
    loaded.train(1, progress=False)
    assert loaded.trainer.step == steps
    assert_equal_agents(whole, loaded)


def test_a_checkpoint_of_an_untrained_or_a_finished_agent(tmp_path: Path) -> None:
    agent = make(epsilon=0.2)
    for steps in (2, 12):
        agent.save(tmp_path / "agent.safetensors")
        loaded = DesignAgent.load(tmp_path / "agent.safetensors", reward=crc_reward)
        agent.train(steps, progress=False)
        loaded.train(steps, progress=False)
        assert_equal_agents(agent, loaded)
    assert len(agent.trainer.replay) == 14 * 10  # policy's and base measure's samples of each step


def test_a_full_ring_is_restored(tmp_path: Path) -> None:
    agent = make(replay_capacity=23)
    agent.train(7, progress=False)
    agent.save(tmp_path / "agent.safetensors")
    loaded = DesignAgent.load(tmp_path / "agent.safetensors", reward=crc_reward)
    for one in (agent, loaded):
        one.train(3, progress=False)
    assert_equal_agents(agent, loaded)


def test_everything_that_defines_an_agent_is_restored(tmp_path: Path) -> None:
    from smact.screening import ICSD24FilterConfig

    space = CompositionSpace(
        ["Na", "Fe", "O"],
        required=["O"],
        count_ranges={"O": (1, 4)},
        icsd24_filter=ICSD24FilterConfig(include_zero=True, consensus=2, commonality=5.0),
    )
    reward = Reward(
        [Objective("toxicity", "minimize", 0, 1, weight=0.3), Objective("plausibility", low=0.1, caution=2.0)], "sum"
    )
    agent = DesignAgent(space, reward, random_prior(space), 0.25, 3.0, 9, quick_options(loss="lpv", epsilon=0.125))
    agent.save(tmp_path / "agent.safetensors")
    loaded = DesignAgent.load(tmp_path / "agent.safetensors")
    assert loaded.space.identity == space.identity
    assert isinstance(loaded.reward, Reward)
    assert loaded.reward.objectives == reward.objectives
    assert loaded.reward.scalarization == "sum"
    assert (loaded.prior_weight, loaded.beta, loaded.seed, loaded.options) == (0.25, 3.0, 9, agent.options)
    assert loaded.prior is not None and agent.prior is not None
    assert loaded.prior.report == agent.prior.report
    assert_equal_agents(agent, loaded)
    assert DesignAgent.load(tmp_path / "agent.safetensors", space=space).space is space


@pytest.mark.parametrize("loss", ["tb", "subtb", "rtb"])
def test_training_in_a_space_with_several_kinds_of_action_goes_on_bit_for_bit(tmp_path: Path, loss: str) -> None:
    space, path = space_named("coloured"), tmp_path / "agent.safetensors"
    whole, part = (
        DesignAgent(space, crc_reward, random_prior(space), 0.5, 2.0, seed=3, options=quick_options(loss=loss))
        for _ in range(2)
    )
    for agent in (whole, part):
        agent.train(6, progress=False)
    part.save(path)
    with pytest.raises(ValueError, match="belongs to a ColouredNumbers; pass that space as space="):
        DesignAgent.load(path, reward=crc_reward)
    loaded = DesignAgent.load(path, reward=crc_reward, space=space)
    for agent in (whole, loaded):
        agent.train(6, progress=False)
    assert_equal_agents(whole, loaded)


@pytest.mark.parametrize("loss", ["tb", "rtb"])
def test_checkpoints_from_before_networks_had_parts_still_load(tmp_path: Path, loss: str) -> None:
    path, agent = tmp_path / "agent.safetensors", make(loss)
    agent.train(6, progress=False)
    agent.save(path)
    tensors, description = read_tensors(path, "agent")
    (part,) = description["prior"].pop("parts")
    del description["prior"]["kinds"]
    description["prior"] |= part
    older = {re.sub(r"^(network|average|prior)\.0\.", r"\1.", name): value for name, value in tensors.items()}
    assert older.keys() != tensors.keys()
    write_tensors(path, older, description)
    loaded = DesignAgent.load(path, reward=crc_reward)
    for one in (agent, loaded):
        one.train(6, progress=False)
    assert_equal_agents(agent, loaded)


def test_loading_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    make().save(tmp_path / "agent.safetensors")
    before = torch.random.get_rng_state()
    DesignAgent.load(tmp_path / "agent.safetensors", reward=crc_reward)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "agent.safetensors"
    agent = make()
    agent.save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_tensors(path, {"a": torch.zeros(2)}, {"not": object()})
    assert path.read_bytes() == before
    with pytest.raises(OSError):
        write_tensors(tmp_path / "deep", {"a": torch.zeros(2)}, {})  # a folder
    assert [entry.name for entry in path.parent.iterdir()] == ["agent.safetensors"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["deep"]


# Files that are no checkpoint of this agent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "agent.safetensors"
    agent = small_agent()
    agent.train(2, progress=False)
    agent.save(path)
    return path


def refuse(path: Path, message: str, **arguments: Any) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        DesignAgent.load(path, **{"reward": crc_reward, **arguments})
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_space(path: Path) -> None:
    refuse(path, r"another design space \(differs in elements\)", space=space_named("larger"))
    refuse(path, "differs in max_count", space=CompositionSpace(**{**SMALL, "max_count": 2}))


def test_an_own_reward_must_be_brought(path: Path) -> None:
    refuse(path, "a reward or property model of your own; pass it as reward=", reward=None)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refuse(path, "not a readable safetensors file, or cut short")


def test_files_of_other_kinds(path: Path, tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", r"no such file \(expected an agent written by MatSmith\)")
    refuse(tmp_path, "no such file")
    (tmp_path / "text").write_text("hello, world " * 100)
    refuse(tmp_path / "text", "not a readable safetensors file")
    random_prior(space_named()).save(tmp_path / "prior")
    refuse(tmp_path / "prior", "holds a prior, expected an agent")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign")
    refuse(tmp_path / "foreign", "not one written by MatSmith")
    save_file({"a": torch.zeros(2)}, tmp_path / "odd", metadata={"description": "[1, 2]"})
    refuse(tmp_path / "odd", "holds something else, expected an agent")


@pytest.mark.parametrize("missing", ["space", "reward", "prior_weight", "options", "training", "history", "prior"])
def test_a_description_without_a_part(path: Path, missing: str) -> None:
    tensors, description = read_tensors(path, "agent")
    del description[missing]
    write_tensors(path, tensors, description)
    refuse(path, "does not fit this version of MatSmith", reward=None if missing == "reward" else crc_reward)


@pytest.mark.parametrize(
    "missing", ["network.0.input.weight", "generator", "recent.actions", "replay.log_base", "replay.counts"]
)
def test_tensors_that_are_missing(path: Path, missing: str) -> None:
    tensors, description = load_file(path), read_tensors(path, "agent")[1]
    del tensors[missing]
    save_file(tensors, path, metadata={"description": json.dumps(description)})
    refuse(path, "does not fit this version of MatSmith")


def test_options_of_another_version(path: Path) -> None:
    tensors, description = read_tensors(path, "agent")
    description["options"]["momentum"] = 0.9
    write_tensors(path, tensors, description)
    refuse(path, "does not fit this version of MatSmith .*momentum")


# Crystals


@pytest.mark.parametrize("with_prior", [True, False])
def test_an_agent_of_crystals_is_restored_with_its_space(tmp_path: Path, with_prior: bool) -> None:
    from smact.screening import ICSD24FilterConfig

    space = CrystalSpace(
        CompositionSpace(
            ["Na", "K", "Cl", "O"],
            max_elements=2,
            count_ranges={"O": (1, 2)},
            icsd24_filter=ICSD24FilterConfig(consensus=2),
        ),
        max_atoms=4,
        formula_units=[1, 2],
        space_groups=["Fm-3m", 221],
        crystal_systems=["cubic"],
        min_distance=0.8,
    )
    reward = Reward([Objective("toxicity", "minimize", 0, 1), Objective("plausibility", low=0.1)])
    prior = random_prior(space) if with_prior else None
    settings = quick_options(batch_size=8)
    whole, part = (DesignAgent(space, reward, prior, 0.5, 2.0, seed=3, options=settings) for _ in range(2))
    path = tmp_path / "agent.safetensors"
    for agent in (whole, part):
        agent.train(3, progress=False)
    part.save(path)
    loaded = DesignAgent.load(path)
    assert isinstance(loaded.space, CrystalSpace)
    assert loaded.space is not space and loaded.space.identity == space.identity
    assert loaded.space.action_names == space.action_names
    assert DesignAgent.load(path, space=space).space is space
    other = CrystalSpace(CompositionSpace(["Na", "K", "Cl", "O"]), max_atoms=4)
    with pytest.raises(ValueError, match=r"another design space \(differs in composition, formula_units"):
        DesignAgent.load(path, space=other)
    with pytest.raises(ValueError, match="another design space"):
        DesignAgent.load(path, space=space.composition)
    for agent in (whole, loaded):
        agent.train(3, progress=False)
    assert_equal_agents(whole, loaded)
