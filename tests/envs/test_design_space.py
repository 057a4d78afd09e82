"""What `DesignSpace` gives to every space, on a toy one: words of the letters a and b that start with a."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import pytest
import torch
from torch import Tensor

from envs import DesignSpace, DesignVectorEnv
from envs.design_space import ActionKind
from tests.envs.mixed_spaces import ColouredNumbers, every_coloured_number

LENGTH = 3


class Words(DesignSpace):
    """States are (stopped, letters...), a letter being 1 for a, 2 for b, 0 for none."""

    n_actions = 3
    max_steps = LENGTH + 1
    state_size = 1 + LENGTH

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        return ("a", "b", "STOP")

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(f"letter {i} is {letter}" for i in range(LENGTH) for letter in "ab")

    @property
    def identity(self) -> dict[str, object]:
        return {"length": LENGTH}

    def initial(self, n: int) -> Tensor:
        return torch.zeros(n, self.state_size, dtype=torch.long)

    def mask(self, state: Tensor) -> Tensor:
        stopped, length = state[:, 0] == 1, (state[:, 1:] > 0).sum(1)
        may_grow = ~stopped & (length < LENGTH)
        return torch.stack([may_grow, may_grow & (length > 0), length > 0], dim=1)

    def allowed(self, state: Tensor, actions: Tensor) -> Tensor:
        return self.mask(state).gather(1, actions[:, None]).squeeze(1)

    def step(self, state: Tensor, actions: Tensor) -> Tensor:
        state = state.clone()
        stops = actions == self.stop
        state[stops, 0] = 1
        rows = (~stops & (state[:, 0] == 0)).nonzero().squeeze(1)
        state[rows, 1 + (state[rows, 1:] > 0).sum(1)] = actions[rows] + 1
        return state

    def is_finished(self, state: Tensor) -> Tensor:
        return state[:, 0] == 1

    def features(self, state: Tensor) -> Tensor:
        return torch.stack([state[:, 1:] == 1, state[:, 1:] == 2], dim=2).flatten(1).float()

    def materials(self, state: Tensor) -> Sequence[str]:
        return ["".join(" ab"[letter] for letter in row).strip() for row in state[:, 1:].tolist()]

    def actions_of(self, state: Tensor) -> Tensor:
        letters = torch.where(state[:, 1:] > 0, state[:, 1:] - 1, self.stop)
        return torch.cat([letters, torch.full((len(state), 1), self.stop)], dim=1)

    def explain(self, materials: Iterable[str]) -> list[str | None]:
        return [None for _ in materials]

    def encode(self, materials: Iterable[str]) -> Tensor:
        return torch.tensor([["ab".index(c) for c in word] + [2] * (self.max_steps - len(word)) for word in materials])


@pytest.fixture
def words() -> Words:
    return Words()


def test_stop_is_the_last_action_and_features_are_counted(words: Words) -> None:
    assert words.stop == 2
    assert words.n_features == 6


def test_features_lie_in_zero_to_one_unless_a_space_says_otherwise(words: Words) -> None:
    low, high = words.feature_bounds
    assert low.tolist() == [0] * 6
    assert high.tolist() == [1] * 6


def test_replay_rebuilds_what_was_encoded(words: Words) -> None:
    materials = ["a", "ab", "abb"]
    assert words.decode(words.replay(words.encode(materials))) == materials


def test_undo_takes_back_the_last_action_of_each_row(words: Words) -> None:
    running = words.step(words.step(words.initial(1), torch.tensor([0])), torch.tensor([1]))  # ab
    finished = words.step(running, torch.tensor([2]))
    states = torch.cat([finished, running, words.initial(1)])
    before = words.undo(states)
    assert before[0].equal(running[0])
    assert words.decode(before) == ["ab", "a", ""]
    assert not words.is_finished(before).any()


def test_the_uniform_policy_samples_every_word_as_often_as_the_masks_say(words: Words) -> None:
    counts = Counter(words.decode(words.sample_uniform_policy(30_000, torch.Generator().manual_seed(0))))
    exact = {"a": 1 / 3, **dict.fromkeys(["aa", "ab"], 1 / 9), **dict.fromkeys(["aaa", "aab", "aba", "abb"], 1 / 9)}
    assert counts.keys() == exact.keys()
    for word, probability in exact.items():
        assert counts[word] / 30_000 == pytest.approx(probability, abs=4 * (probability / 30_000) ** 0.5)


def test_the_vector_environment_takes_any_space(words: Words) -> None:
    env = DesignVectorEnv(words, 4, lambda materials: [len(word) for word in materials])
    observations, infos = env.reset(seed=0)
    assert observations in env.observation_space
    assert infos["action_mask"].tolist() == [[True, False, False]] * 4
    env.step(np.array([0, 0, 0, 0]))
    _, rewards, terminated, _, infos = env.step(np.array([0, 1, 2, 1]))
    assert terminated.tolist() == [False, False, True, False]
    assert rewards.tolist() == [0, 0, 1, 0]
    assert infos["final_info"]["material"].tolist() == [None, None, "a", None]
    assert env.action_masks().tolist() == [[True, True, True]] * 2 + [[True, False, False]] + [[True, True, True]]


# Kinds of action


def test_a_space_has_one_kind_of_action_unless_it_says_otherwise(words: Words) -> None:
    assert words.kinds == (ActionKind("action", 0, 3, 0),)
    assert words.feature_sets == (words.feature_names,)
    assert words.names_of_part(0) == words.action_names
    state = words.replay(words.encode(["a", "ab"]))
    assert words.kind(state).tolist() == [0, 0]
    assert words.mask_of(0, state).equal(words.mask(state))
    assert words.features_of(0, state).equal(words.features(state))
    assert words.rows_by_kind(state) == [(0, slice(None))]


@pytest.fixture
def numbers() -> ColouredNumbers:
    return ColouredNumbers()


def test_names_of_a_part_are_those_of_its_kinds_in_order(numbers: ColouredNumbers) -> None:
    assert numbers.names_of_part(0) == ("red", "green", "blue", "more", "last")
    assert numbers.names_of_part(1) == ("digit 1", "digit 2", "digit 3", "STOP")


def test_rows_by_kind_holds_every_row_once(numbers: ColouredNumbers) -> None:
    fresh, finished = numbers.initial(2), numbers.replay(numbers.encode(["blue 33"]))
    coloured = numbers.step(fresh, torch.tensor([0, 1]))
    assert numbers.rows_by_kind(fresh) == [(0, slice(None))]
    assert numbers.rows_by_kind(finished) == [(3, slice(None))]  # the kind that holds STOP
    groups = numbers.rows_by_kind(torch.cat([coloured, finished, fresh]))
    assert [(kind, torch.arange(5)[rows].tolist()) for kind, rows in groups] == [(0, [3, 4]), (1, [0, 1]), (3, [2])]
    assert numbers.rows_by_kind(fresh[:0]) == []


def test_every_material_of_a_space_with_several_kinds_is_enumerated(numbers: ColouredNumbers) -> None:
    assert sorted(numbers.decode(numbers.enumerate())) == sorted(every_coloured_number())
    actions = numbers.encode(every_coloured_number())
    assert actions.shape == (len(every_coloured_number()), 14)
    assert numbers.decode(numbers.replay(actions)) == every_coloured_number()


def test_the_uniform_policy_asks_for_the_mask_of_the_kind_alone(
    numbers: ColouredNumbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, exact = 20_000, {}
    for text, actions in zip(every_coloured_number(), numbers.encode(every_coloured_number()), strict=True):
        state, exact[text] = numbers.initial(1), 1.0
        for action in actions[: int((actions != numbers.stop).sum())]:
            exact[text] /= int(numbers.mask(state).sum())
            state = numbers.step(state, action[None])
    monkeypatch.delattr(ColouredNumbers, "mask")
    ColouredNumbers.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    counts = Counter(numbers.decode(numbers.sample_uniform_policy(n, torch.Generator().manual_seed(0))))
    assert sum(exact.values()) == pytest.approx(1.0)
    for text, probability in exact.items():
        assert counts[text] / n == pytest.approx(probability, abs=4.5 * (probability / n) ** 0.5)


def test_edited_materials_of_a_space_with_several_kinds_are_valid(numbers: ColouredNumbers) -> None:
    actions = numbers.encode(every_coloured_number())
    edited = numbers.edit(actions, torch.Generator().manual_seed(0))
    texts = numbers.decode(numbers.replay(edited))
    assert set(texts) <= set(every_coloured_number())
    assert numbers.encode(texts).equal(edited)
    changed = (edited != actions).any(1).float().mean()
    assert 0.3 < changed < 1.0
