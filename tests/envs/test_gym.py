"""The Gymnasium environments: the protocol, masks, rewards, and one set of rules for single and vector."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs import CompositionEnv, CompositionSpace, DesignVectorEnv
from envs.gym import MAX_REFUSALS
from tests.envs.rollouts import finish, uniform_actions
from tests.envs.strategies import amounts_of, default_space, smact_accepts

ID = "matsmith/Composition-v0"


@pytest.fixture(scope="module")
def space() -> CompositionSpace:
    return CompositionSpace(["Sr", "Ti", "Cu", "H", "Cl", "O"], max_elements=4, max_atoms=10)


def n_letters(materials: Sequence[str]) -> npt.NDArray[np.float64]:
    """A reward that tells materials apart."""
    return np.array([float(len(material)) for material in materials])


# The single environment


@pytest.mark.parametrize(
    "options",
    [{}, {"max_elements": 3, "required": ["O"]}, {"max_count": 12, "max_atoms": 30, "elements": ["Sr", "Ti", "O"]}],
    ids=str,
)
@pytest.mark.parametrize("render_mode", [None, "ansi"])
def test_check_env_passes_without_a_warning(options: dict[str, Any], render_mode: str | None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = gymnasium.make(ID, render_mode=render_mode, reward=n_letters, **options)
        check_env(env.unwrapped)
        for seed in range(3):  # through the passive checker
            finish(env, seed)
        env.close()
    assert not [str(warning.message) for warning in caught]


def test_spaces_describe_what_the_design_space_has(space: CompositionSpace) -> None:
    env = CompositionEnv(space)
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    assert env.action_space.n == space.n_actions
    assert env.observation_space.shape == (space.n_features,)
    assert env.observation_space.dtype == np.float32
    observation, _ = env.reset()
    assert observation.tolist() == space.features(space.initial(1))[0].tolist()


def test_limits_make_the_space() -> None:
    env = gymnasium.make(ID, max_elements=3, required=["O"]).unwrapped
    assert isinstance(env, CompositionEnv)
    assert env.space.limits.max_elements == 3
    assert env.space.limits.required == ("O",)


def test_reward_is_paid_once_at_the_end(space: CompositionSpace) -> None:
    seen: list[list[str]] = []

    def reward(materials: Sequence[str]) -> list[float]:
        seen.append(list(materials))
        return [7.5]

    env = CompositionEnv(space, reward)
    for seed in range(20):
        rewards, info = finish(env, seed)
        assert rewards[:-1] == [0] * (len(rewards) - 1)
        assert rewards[-1] == 7.5
        assert seen[-1] == [info["material"]]
    assert len(seen) == 20


def test_without_a_reward_each_finished_material_pays_one(space: CompositionSpace) -> None:
    assert finish(CompositionEnv(space))[0][-1] == 1


def test_random_masked_episodes_finish_valid_materials() -> None:
    env = CompositionEnv(default_space())
    for seed in range(30):
        rewards, info = finish(env, seed)
        assert smact_accepts(dict(amounts_of(info["material"])))
        assert len(rewards) <= default_space().max_steps
        assert not info["invalid_action"]


def test_masks_are_those_of_the_space(space: CompositionSpace) -> None:
    env = CompositionEnv(space)
    _, info = env.reset()
    state = space.initial(1)
    for action in space.encode(["SrTiO3"])[0].tolist():
        expected = space.mask(state)[0].numpy()
        assert env.action_masks().dtype == np.bool_
        assert (env.action_masks() == expected).all()
        assert (info["action_mask"] == expected).all()
        _, _, terminated, _, info = env.step(action)
        state = space.step(state, torch.tensor([action]))
        if terminated:
            break
    assert info["material"] == "SrTiO3"


def test_masks_given_away_cannot_change_the_environment(space: CompositionSpace) -> None:
    env = CompositionEnv(space)
    _, info = env.reset()
    expected = env.action_masks()
    env.action_masks()[:] = False
    info["action_mask"][:] = True
    assert (env.action_masks() == expected).all()
    _, _, _, _, info = env.step(np.int64(space.stop))
    assert info["invalid_action"]


def test_a_masked_out_action_is_refused_and_changes_nothing(space: CompositionSpace) -> None:
    env = CompositionEnv(space, n_letters, render_mode="ansi")
    _, info = env.reset()
    assert info["refusals"] == 0
    before, _, _, _, info = env.step(space.encode(["SrTiO3"])[0, 0].numpy())
    formula = env.render()
    for n_refused, action in enumerate(np.flatnonzero(~info["action_mask"])[:5], start=1):
        observation, reward, terminated, truncated, info = env.step(action)
        assert (observation == before).all()
        assert (reward, terminated, truncated) == (0, False, False)
        assert info["invalid_action"] is True
        assert info["refusals"] == n_refused
        assert "material" not in info
        assert env.render() == formula
    _, _, _, _, info = env.step(np.int64(np.flatnonzero(info["action_mask"])[0]))
    assert info["invalid_action"] is False
    assert env.reset()[1]["refusals"] == 0


def test_an_episode_of_refusals_is_truncated(space: CompositionSpace) -> None:
    env = CompositionEnv(space)
    env.reset()
    for n_refused in range(1, MAX_REFUSALS + 1):
        _, reward, terminated, truncated, info = env.step(np.int64(space.stop))
        assert (reward, terminated) == (0, False)
        assert truncated == (n_refused == MAX_REFUSALS)
        assert "material" not in info
    with pytest.raises(ResetNeeded):
        env.step(np.int64(0))


@pytest.mark.parametrize("action", [-1, 10**6, 1.5, "O2", None])
def test_an_action_that_does_not_exist_is_an_error(space: CompositionSpace, action: Any) -> None:
    env = CompositionEnv(space)
    env.reset()
    with pytest.raises(ValueError, match=rf"^action: .* does not exist \(expected 0-{space.n_actions - 1}\)"):
        env.step(action)


def test_stepping_before_the_start_or_after_the_end_asks_for_a_reset(space: CompositionSpace) -> None:
    env = CompositionEnv(space)
    with pytest.raises(ResetNeeded):
        env.step(np.int64(0))
    with pytest.raises(ResetNeeded):
        env.action_masks()
    finish(env)
    with pytest.raises(ResetNeeded):
        env.step(np.int64(space.stop))


def test_rendering_shows_the_growing_formula(space: CompositionSpace) -> None:
    env = CompositionEnv(space, render_mode="ansi")
    env.reset()
    shown = [env.render()]
    for action in space.encode(["SrTiO3"])[0, :4].numpy():
        env.step(action)
        shown.append(env.render())
    assert shown == ["|", "Sr |", "Sr Ti |", "Sr Ti O3 |", "SrTiO3"]


def test_rendering_without_a_mode_warns(space: CompositionSpace) -> None:
    env = CompositionEnv(space)
    env.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"render_mode": "human"}, "render_mode: unknown mode 'human'"),
        ({"reward": 3}, "reward: 3 is not callable"),
        ({"max_elements": 3}, "max_elements: limits belong to the space"),
        ({"space": "oxides"}, "space: 'oxides' is not a CompositionSpace"),
    ],
)
def test_a_bad_argument_is_named(space: CompositionSpace, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        CompositionEnv(**{"space": space} | options)


def test_a_bad_limit_is_named() -> None:
    with pytest.raises(ValueError, match=r"^elements: 'Xx' is not a chemical element"):
        gymnasium.make(ID, elements=["Xx"])


# Rewards


class MyReward:
    """A reward as an object."""

    def __init__(self, returned: Any) -> None:
        self.returned = returned

    def __call__(self, materials: Sequence[str]) -> Any:
        return self.returned


def forgetful(materials: Sequence[str]) -> None:
    return None


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (1.0, r"returned shape \(\), expected \(1,\)"),
        ([1.0, 2.0], r"returned shape \(2,\), expected \(1,\)"),
        ([[1.0]], r"returned shape \(1, 1\), expected \(1,\)"),
        ([], r"returned shape \(0,\), expected \(1,\)"),
        ([float("nan")], r"returned nan for SrTiO3, expected a finite value >= 0"),
        ([float("inf")], r"returned inf for SrTiO3"),
        ([-0.1], r"returned -0.1 for SrTiO3"),
        (["high"], r"returned \['high'\], expected 1 numbers"),
        (torch.tensor([float("nan")]), r"returned nan for SrTiO3"),
    ],
)
def test_a_faulty_reward_is_an_error_that_names_it(space: CompositionSpace, returned: Any, message: str) -> None:
    for env in (CompositionEnv(space, MyReward(returned)), DesignVectorEnv(space, 1, MyReward(returned))):
        env.reset()
        with pytest.raises(ValueError, match=rf"^reward .*MyReward: {message}") as error:
            for action in space.encode(["SrTiO3"])[0].numpy():
                env.step(np.array([action]) if isinstance(env, DesignVectorEnv) else action)
        assert "\n" not in str(error.value)


def test_a_reward_that_returns_nothing_is_an_error_that_names_it(space: CompositionSpace) -> None:
    with pytest.raises(ValueError, match=r"^reward .*forgetful: "):
        finish(CompositionEnv(space, forgetful))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "returned", [[2], (2.0,), np.array([2], dtype=np.int32), torch.tensor([2.0], requires_grad=True)]
)
def test_a_reward_may_be_any_array(space: CompositionSpace, returned: Any) -> None:
    assert finish(CompositionEnv(space, MyReward(returned)))[0][-1] == 2


def test_zero_is_a_reward(space: CompositionSpace) -> None:
    assert finish(CompositionEnv(space, MyReward([0.0])))[0][-1] == 0


# The vector environment


def test_vector_and_single_environments_agree_on_a_random_run(space: CompositionSpace) -> None:
    n = 7
    single = SyncVectorEnv([lambda: CompositionEnv(space, n_letters)] * n, autoreset_mode=AutoresetMode.SAME_STEP)
    vector = DesignVectorEnv(space, n, n_letters)
    assert single.observation_space == vector.observation_space
    assert single.action_space == vector.action_space
    assert data_equivalence(single.reset(seed=3), vector.reset(seed=3), exact=True)
    generator = np.random.default_rng(3)
    n_finished = n_refused = 0
    for _ in range(60):
        actions = uniform_actions(vector.action_masks(), generator)
        blind = generator.random(n) < 0.2  # some masked-out actions among them
        actions[blind] = generator.integers(space.n_actions, size=int(blind.sum()))
        of_single, of_vector = single.step(actions), vector.step(actions)
        assert data_equivalence(of_single, of_vector, exact=True)
        n_finished += of_vector[2].sum()
        n_refused += of_vector[4]["invalid_action"].sum()
    assert n_finished > 50
    assert n_refused > 20


def test_vector_environments_truncate_endless_refusals_as_single_ones_do(space: CompositionSpace) -> None:
    single = SyncVectorEnv([lambda: CompositionEnv(space, n_letters)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    vector = DesignVectorEnv(space, 2, n_letters)
    single.reset()
    vector.reset()
    builds = space.encode(["SrTiO3"])[0, :4].tolist()  # the second finishes in the step that truncates the first
    schedule = [space.stop] * (MAX_REFUSALS - len(builds)) + builds + [space.stop] * 3
    ends = []
    for action in schedule:
        actions = np.array([space.stop, action])
        of_single, of_vector = single.step(actions), vector.step(actions)
        assert data_equivalence(of_single, of_vector, exact=True)
        ends.append((of_vector[2].tolist(), of_vector[3].tolist()))
    assert ends[MAX_REFUSALS - 1] == ([False, True], [True, False])
    assert ends.count(([False, False], [False, False])) == len(schedule) - 1


def test_vector_reward_is_called_once_per_step_with_those_that_finished(space: CompositionSpace) -> None:
    calls: list[list[str]] = []

    def reward(materials: Sequence[str]) -> npt.NDArray[np.float64]:
        calls.append(list(materials))
        return n_letters(materials)

    env = DesignVectorEnv(space, 32, reward)
    env.reset()
    generator = np.random.default_rng(0)
    for _ in range(12):
        n_calls = len(calls)
        _, rewards, terminated, _, infos = env.step(uniform_actions(env.action_masks(), generator))
        assert len(calls) - n_calls == int(terminated.any())
        assert (rewards[~terminated] == 0).all()
        if terminated.any():
            final = infos["final_info"]
            assert final["material"][final["_material"]].tolist() == calls[-1]
            assert rewards[terminated].tolist() == n_letters(calls[-1]).tolist()


def test_vector_environment_conforms_to_its_spaces() -> None:
    env = gymnasium.make_vec(ID, num_envs=5, required=["O"], max_elements=3)
    assert isinstance(env, DesignVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observations, infos = env.reset(seed=1)
    for _ in range(8):
        assert observations in env.observation_space
        assert observations.dtype == np.float32
        assert infos["action_mask"].shape == (5, env.space.n_actions)
        assert (infos["action_mask"] == env.action_masks()).all()
        actions = uniform_actions(env.action_masks(), env.np_random)
        assert actions in env.action_space
        observations, rewards, terminated, truncated, infos = env.step(actions)
        for array in (rewards, terminated, truncated):
            assert array.shape == (5,)
        assert not truncated.any()
    env.close()


def test_gymnasium_wrappers_accept_the_vector_environment(space: CompositionSpace) -> None:
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(DesignVectorEnv(space, 4, n_letters))
    env.reset(seed=0)
    generator = np.random.default_rng(0)
    returns: list[float] = []
    expected: list[float] = []
    for _ in range(12):
        _, rewards, terminated, _, infos = env.step(uniform_actions(env.unwrapped.action_masks(), generator))
        expected += rewards[terminated].tolist()
        if "episode" in infos:
            returns += infos["episode"]["r"][infos["_episode"]].tolist()
    assert returns == expected


@pytest.mark.parametrize("num_envs", [0, -1, 2.0, True, "4"])
def test_a_bad_number_of_environments_is_named(space: CompositionSpace, num_envs: Any) -> None:
    with pytest.raises(ValueError, match=r"^num_envs: .* is not a positive whole number"):
        DesignVectorEnv(space, num_envs)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0], "expected 2 integers"),
        ([0.0, 1.0], "expected 2 integers"),
        ([[0], [1]], "expected 2 integers"),
        ([0, -1], "-1 does not exist"),
        ([10**6, 0], "1000000 does not exist"),
    ],
)
def test_bad_vector_actions_are_named(space: CompositionSpace, actions: Any, message: str) -> None:
    env = DesignVectorEnv(space, 2)
    with pytest.raises(ResetNeeded):
        env.step(np.array([0, 0]))
    env.reset()
    with pytest.raises(ValueError, match=f"^actions: {message}"):
        env.step(actions)


# Agents of others


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # of Stable-Baselines3 and its imports
def test_maskable_ppo_of_sb3_contrib_trains_unchanged() -> None:
    from sb3_contrib import MaskablePPO
    from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported

    def prefers_oxides(materials: Sequence[str]) -> list[float]:
        return [1.0 if "O" in dict(amounts_of(material)) else 0.1 for material in materials]

    env = gymnasium.make(ID, elements=["Na", "Cl", "S", "Ti", "O"], max_elements=3, reward=prefers_oxides)
    assert is_masking_supported(env)
    model = MaskablePPO("MlpPolicy", env, n_steps=128, batch_size=64, seed=0)
    model.learn(512)
    for seed in range(10):
        observation, info = env.reset(seed=seed)
        ended = False
        while not ended:
            action, _ = model.predict(observation, action_masks=get_action_masks(env))
            observation, _, ended, truncated, info = env.step(action)
            assert not truncated
            assert not info["invalid_action"]
        assert smact_accepts(dict(amounts_of(info["material"])))
