"""`CrystalEnv`: the Gymnasium protocol, pymatgen structures as its products, its text and its picture."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from pymatgen.core import Composition, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from envs import CompositionSpace, CrystalBatch, CrystalEnv, CrystalSpace, DesignVectorEnv
from envs.crystal_drawing import SIZE
from envs.gym import MAX_REFUSALS
from tests.envs.rollouts import finish, uniform_actions

ID = "matsmith/Crystal-v0"
RUTILE = "TiO2 | 136 | Ti a | O f 0.305 | 4.594 4.594 2.959 90 90 90"
OXIDES = {"elements": ["Sr", "Ti", "O"]}


@pytest.fixture(scope="module")
def space() -> CrystalSpace:
    return CrystalSpace(CompositionSpace(**OXIDES), max_atoms=10)  # type: ignore[arg-type]


def densities(structures: Sequence[Structure]) -> list[float]:
    """A reward that only a structure can give, g/cm3."""
    return [float(structure.density) for structure in structures]


def build(env: CrystalEnv, text: str) -> tuple[list[Any], dict[str, Any]]:
    """Build a crystal; return what is rendered after each step, the empty crystal first, and the last info."""
    env.reset()
    render = env.render if env.render_mode else lambda: None
    shown: list[Any] = [render()]
    for action in env.space.encode([text])[0].numpy():
        _, _, terminated, _, info = env.step(action)
        shown.append(render())
        if terminated:
            return shown, info
    raise AssertionError("never finished")


# The single environment


@pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
def test_check_env_passes_without_a_warning(render_mode: str | None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = gymnasium.make(ID, render_mode=render_mode, reward=densities, composition=OXIDES, max_atoms=10)
        check_env(env.unwrapped)
        for seed in range(3):  # through the passive checker
            finish(env, seed)
            env.render() if render_mode else None
        env.close()
    assert not [str(warning.message) for warning in caught]


def test_spaces_describe_what_the_design_space_has(space: CrystalSpace) -> None:
    env = CrystalEnv(space)
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    assert env.action_space.n == space.n_actions
    assert env.observation_space.shape == (space.n_features,)
    observation, info = env.reset()
    assert observation.dtype == np.float32
    assert observation.tolist() == space.features(space.initial(1))[0].tolist()
    assert (info["action_mask"] == space.mask(space.initial(1))[0].numpy()).all()
    assert (env.action_masks() == info["action_mask"]).all()


def test_observations_stay_within_their_bounds(space: CrystalSpace) -> None:
    env = CrystalEnv(space)
    for seed in range(6):
        generator = np.random.default_rng(seed)
        observation, info = env.reset()
        terminated = False
        while not terminated:
            assert observation in env.observation_space
            action = uniform_actions(info["action_mask"], generator)
            observation, _, terminated, _, info = env.step(action)


@pytest.mark.parametrize("composition", [OXIDES, CompositionSpace(["Sr", "Ti", "O"])], ids=["mapping", "space"])
def test_limits_make_the_space(composition: Any) -> None:
    env = gymnasium.make(ID, composition=composition, max_atoms=10, crystal_systems=["cubic"]).unwrapped
    assert isinstance(env, CrystalEnv)
    assert set(env.space.composition.elements) == {"Sr", "Ti", "O"}
    assert env.space.limits.max_atoms == 10
    assert set(env.space.limits.groups) == set(range(195, 231))


def test_a_space_may_be_given_to_make(space: CrystalSpace) -> None:
    env = gymnasium.make(ID, space=space)
    assert finish(env)[0][-1] == 1


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib on its next release
def test_an_episode_ends_with_the_structure_and_its_text(space: CrystalSpace) -> None:
    _, info = build(CrystalEnv(space), RUTILE)
    structure = info["structure"]
    assert isinstance(structure, Structure)
    assert len(structure) == 6
    assert structure.charge == 0
    assert {str(species) for species in structure.species} == {"Ti4+", "O2-"}
    assert SpacegroupAnalyzer(structure).get_space_group_number() == 136
    assert info["material"].startswith("TiO2 | 136 | Ti a | O f 0.3125 |")
    from_text = CrystalBatch.from_texts([info["material"]]).structures()[0]
    assert structure.volume == pytest.approx(from_text.volume, rel=1e-4)


def test_random_masked_episodes_finish_neutral_crystals(space: CrystalSpace) -> None:
    env = CrystalEnv(space)
    for seed in range(10):
        rewards, info = finish(env, seed)
        assert info["structure"].charge == 0
        assert len(info["structure"]) <= 10
        assert len(rewards) <= space.max_steps
        assert rewards == [0] * (len(rewards) - 1) + [1]
        formula = info["material"].split(" | ")[0]
        assert info["structure"].composition.element_composition.reduced_composition == Composition(formula)


def test_reward_is_called_with_the_structure_once_at_the_end(space: CrystalSpace) -> None:
    seen: list[Any] = []

    def reward(structures: Sequence[Structure]) -> list[float]:
        seen.extend(structures)
        return densities(structures)

    rewards, info = finish(CrystalEnv(space, reward))
    assert len(seen) == 1
    assert seen[0] is info["structure"]
    assert rewards[:-1] == [0] * (len(rewards) - 1)
    assert rewards[-1] == info["structure"].density


def no_number(structures: Sequence[Structure]) -> list[float]:
    return [float("nan")] * len(structures)


def test_a_faulty_reward_is_an_error_of_one_line_that_names_it(space: CrystalSpace) -> None:
    with pytest.raises(ValueError, match=r"^reward .*no_number: returned nan for TiO2 \| 136 \| Ti a") as error:
        build(CrystalEnv(space, no_number, render_mode="ansi"), RUTILE)
    assert "\n" not in str(error.value)


def test_a_masked_out_action_is_refused_at_every_stage_and_changes_nothing(space: CrystalSpace) -> None:
    env = CrystalEnv(space, render_mode="rgb_array")
    before, info = env.reset()
    for n_refused, action in enumerate(space.encode([RUTILE])[0].numpy(), start=1):
        if info["action_mask"][space.stop]:
            break
        frame = env.render()
        wrong = np.flatnonzero(~info["action_mask"])[n_refused % (~info["action_mask"]).sum()]
        observation, reward, terminated, truncated, info = env.step(wrong)
        assert (observation == before).all()
        assert np.array_equal(env.render(), frame)  # type: ignore[arg-type]
        assert (reward, terminated, truncated) == (0, False, False)
        assert info["invalid_action"] is True
        assert info["refusals"] == n_refused
        before, _, _, _, info = env.step(action)
        assert info["invalid_action"] is False
    assert n_refused > 8


def test_an_episode_of_refusals_is_truncated(space: CrystalSpace) -> None:
    env = CrystalEnv(space)
    env.reset()
    for n_refused in range(1, MAX_REFUSALS + 1):
        _, reward, terminated, truncated, info = env.step(np.int64(space.stop))
        assert (reward, terminated) == (0, False)
        assert truncated == (n_refused == MAX_REFUSALS)
        assert not {"material", "structure"} & info.keys()
    with pytest.raises(ResetNeeded):
        env.step(np.int64(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"render_mode": "human"}, r"render_mode: unknown mode 'human' \(expected 'ansi', 'rgb_array' or None\)"),
        ({"reward": 3}, "reward: 3 is not callable"),
        ({"max_atoms": 3}, "max_atoms: limits belong to the space"),
        ({"space": CompositionSpace(["Ti", "O"])}, r"space: CompositionSpace.* is not a CrystalSpace"),
        ({"space": None, "composition": "oxides"}, "composition: 'oxides' is not a CompositionSpace"),
        ({"space": None, "composition": {"elements": ["Xx"]}}, "elements: 'Xx' is not a chemical element"),
    ],
)
def test_a_bad_argument_is_named(space: CrystalSpace, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        CrystalEnv(**{"space": space} | options)


# Text


def test_text_grows_block_by_block(space: CrystalSpace) -> None:
    shown, info = build(CrystalEnv(space, render_mode="ansi"), RUTILE)
    volume = info["structure"].volume  # a primitive lattice: also that of the conventional cell
    assert shown == [
        "|",
        "Ti |",
        "Ti O2 |",
        "TiO2 |",
        "TiO2 x2 |",
        "TiO2 x2 | P4_2/mnm |",
        "TiO2 x2 | P4_2/mnm | Ti a |",
        "TiO2 x2 | P4_2/mnm | Ti a | O f |",
        "TiO2 x2 | P4_2/mnm | Ti a | O f | c/a 0.6389 |",
        "TiO2 x2 | P4_2/mnm | Ti a | O f x=0.3125 | c/a 0.6389 |",
        f"TiO2 x2 | P4_2/mnm | Ti a | O f x=0.3125 | c/a 0.6389 | volume {volume:.4g} A3 |",
        info["material"],
    ]


def test_every_step_is_told_by_the_text(space: CrystalSpace) -> None:
    env = CrystalEnv(space, render_mode="ansi")
    for seed in range(5):
        generator = np.random.default_rng(seed)
        _, info = env.reset()
        lines, terminated = [env.render()], False
        while not terminated:
            _, _, terminated, _, info = env.step(uniform_actions(info["action_mask"], generator))
            lines.append(env.render())
        assert all(before != after for before, after in pairwise(lines))
        assert all("\n" not in str(line) for line in lines)
        assert lines[-1] == info["material"]


# Picture


def test_frames_are_pictures_that_differ_and_repeat_exactly(space: CrystalSpace) -> None:
    env = CrystalEnv(space, render_mode="rgb_array")
    frames, _ = build(env, RUTILE)
    again, _ = build(CrystalEnv(space, render_mode="rgb_array"), RUTILE)
    for frame in frames:
        assert isinstance(frame, np.ndarray)
        assert frame.shape == (SIZE, SIZE, 3)
        assert frame.dtype == np.uint8
    assert all(np.array_equal(frame, other) for frame, other in zip(frames, again, strict=True))
    assert all(not np.array_equal(before, after) for before, after in pairwise(frames))


def reddish(frame: npt.NDArray[np.uint8]) -> int:
    """Pixels in the colour of oxygen, above the legend."""
    red, green, blue = frame[: SIZE - 30].astype(int).transpose(2, 0, 1)
    return int(((red > green + 60) & (red > blue + 60)).sum())


def test_atoms_appear_when_their_coordinates_are_settled(space: CrystalSpace) -> None:
    frames, _ = build(CrystalEnv(space, render_mode="rgb_array"), RUTILE)
    red = [reddish(frame) for frame in frames]
    assert red[:9] == [0] * 9  # until x of oxygen is chosen
    assert all(count > 500 for count in red[9:])


def test_any_crystal_has_a_picture() -> None:
    env = CrystalEnv(render_mode="rgb_array")
    for seed in range(4):
        finish(env, seed)
        frame = env.render()
        assert isinstance(frame, np.ndarray)
        assert frame.shape == (SIZE, SIZE, 3)
        assert (frame[120:370] != 255).any()


# The vector environment


def test_vector_and_single_environments_agree_on_a_random_run(space: CrystalSpace) -> None:
    n = 4
    single = SyncVectorEnv([lambda: CrystalEnv(space, densities)] * n, autoreset_mode=AutoresetMode.SAME_STEP)
    vector = DesignVectorEnv(space, n, densities)
    assert single.observation_space == vector.observation_space
    assert single.action_space == vector.action_space
    assert data_equivalence(single.reset(seed=3), vector.reset(seed=3), exact=True)
    generator = np.random.default_rng(3)
    n_finished = n_refused = 0
    for _ in range(50):
        actions = uniform_actions(vector.action_masks(), generator)
        blind = generator.random(n) < 0.1  # some masked-out actions among them
        actions[blind] = generator.integers(space.n_actions, size=int(blind.sum()))
        of_single, of_vector = single.step(actions), vector.step(actions)
        assert data_equivalence(of_single, of_vector)
        n_finished += of_vector[2].sum()
        n_refused += of_vector[4]["invalid_action"].sum()
    assert n_finished > 6
    assert n_refused > 6


def test_vector_reward_is_called_once_per_step_with_the_structures_that_finished(space: CrystalSpace) -> None:
    calls: list[list[Structure]] = []

    def reward(structures: Sequence[Structure]) -> list[float]:
        calls.append(list(structures))
        return densities(structures)

    env = DesignVectorEnv(space, 16, reward)
    env.reset()
    generator = np.random.default_rng(0)
    for _ in range(30):
        n_calls = len(calls)
        _, rewards, terminated, _, infos = env.step(uniform_actions(env.action_masks(), generator))
        assert len(calls) - n_calls == int(terminated.any())
        if terminated.any():
            final = infos["final_info"]
            assert (final["_structure"] == terminated).all()
            assert (final["_material"] == terminated).all()
            assert all(a is b for a, b in zip(final["structure"][terminated], calls[-1], strict=True))
            assert all(isinstance(text, str) for text in final["material"][terminated])
            assert rewards[terminated].tolist() == densities(calls[-1])
            assert all(nothing is None for nothing in final["structure"][~terminated])
    assert calls


def test_make_vec_makes_a_batch() -> None:
    env = gymnasium.make_vec(ID, num_envs=3, composition=OXIDES, max_atoms=10, space_groups=[221, 225])
    assert isinstance(env, DesignVectorEnv)
    assert isinstance(env.space, CrystalSpace)
    assert env.space.limits.groups == (221, 225)
    observations, infos = env.reset(seed=1)
    for _ in range(12):
        assert observations in env.observation_space
        assert infos["action_mask"].shape == (3, env.space.n_actions)
        actions = uniform_actions(env.action_masks(), env.np_random)
        observations, *_, infos = env.step(actions)
    env.close()


# Agents of others


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # of Stable-Baselines3 and its imports
def test_maskable_ppo_of_sb3_contrib_trains_unchanged() -> None:
    from sb3_contrib import MaskablePPO
    from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported

    env = gymnasium.make(ID, composition=OXIDES, max_atoms=10, crystal_systems=["cubic"], reward=densities)
    assert is_masking_supported(env)
    torch.manual_seed(0)
    model = MaskablePPO("MlpPolicy", env, n_steps=128, batch_size=64, seed=0)
    model.learn(256)
    observation, info = env.reset(seed=0)
    ended = False
    while not ended:
        action, _ = model.predict(observation, action_masks=get_action_masks(env))
        observation, _, ended, truncated, info = env.step(action)
        assert not truncated
        assert not info["invalid_action"]
    assert info["structure"].charge == 0
