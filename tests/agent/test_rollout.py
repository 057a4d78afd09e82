"""Walks: trajectories that wait for each other are the same trajectories."""

from __future__ import annotations

import pytest
import torch

from agent.rollout import Walk, visit
from envs import CompositionSpace, DesignSpace
from tests.envs.crystals import default_crystal_space
from tests.envs.mixed_spaces import ColouredNumbers


def walked(space: DesignSpace, actions: torch.Tensor, keep_states: bool, by_kind: bool) -> tuple[torch.Tensor, int]:
    """The states along action sequences, and the number of kinds that were due at once at most."""
    walk, most = Walk(space, len(actions), actions.shape[1], keep_states, by_kind), 0
    while len(walk.rows):
        most = max(most, len(space.rows_by_kind(walk.open)))
        walk.advance(actions[walk.rows, walk.steps])
    return walk.states, most


@pytest.mark.parametrize("name", ["numbers", "compositions", "crystals"])
def test_waiting_for_each_other_changes_no_state(name: str) -> None:
    space: DesignSpace = {
        "numbers": ColouredNumbers,
        "compositions": lambda: CompositionSpace(["Ti", "O", "Sr"], max_elements=3),
        "crystals": default_crystal_space,
    }[name]()
    actions = space.actions_of(space.sample_uniform_policy(24, torch.Generator().manual_seed(2)))
    expected = torch.stack([space.replay(actions[:, :step]) for step in range(actions.shape[1] + 1)])
    for by_kind in (False, True):
        states, most = walked(space, actions, True, by_kind)
        assert states.equal(expected)
        assert walked(space, actions, False, by_kind)[0].equal(expected[-1:])
        assert (most == 1) == (by_kind or len(space.kinds) == 1)


def test_a_walk_ends_at_its_length() -> None:
    space = ColouredNumbers()
    actions = space.actions_of(space.sample_uniform_policy(40, torch.Generator().manual_seed(3)))[:, :5]
    for by_kind in (False, True):
        states, _ = walked(space, actions, False, by_kind)
        assert states[0].equal(space.replay(actions))
        assert not space.is_finished(states[0]).all()
    assert visit(space, actions[:0]).states.shape[1] == 0
    assert len(visit(space, actions[:, :0], keep_states=False).states[0]) == 40


def test_choices_stand_at_the_steps_of_their_trajectories() -> None:
    space = ColouredNumbers()
    actions = space.actions_of(space.sample_uniform_policy(30, torch.Generator().manual_seed(4)))
    visited = visit(space, actions)
    for group in visited.groups:
        state = visited.states[group.step, group.row]
        assert space.kind(state).eq(group.kind).all()
        assert space.mask_of(group.kind, state).equal(group.mask)
        assert space.features_of(group.kind, state).equal(group.features)
    assert len({(r, s) for g in visited.groups for r, s in zip(g.row.tolist(), g.step.tolist(), strict=True)}) == sum(
        len(group.row) for group in visited.groups
    )
