"""The look-ahead over Wyckoff positions against brute force: it reaches all complete placements and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from envs.wyckoff import N_SPACE_GROUPS, space_group
from envs.wyckoff_assignment import MAX_COUNT, MAX_POSITIONS, allowed_positions, can_place
from envs.wyckoff_counts import count_multisets, feasible_groups, multisets_fit

GROUPS = (1, 2, 12, 25, 47, 62, 136, 166, 191, 194, 208, 221, 223, 224, 225, 227, 230)

State = tuple[int, tuple[int, ...], int, int]
"""Space group; atoms left of each element, the current one first; occupied positions as bits; last position."""


def sizes(group: int) -> list[tuple[int, bool]]:
    """Atoms in the primitive cell, and whether the position has free parameters, for each position."""
    return [(p.primitive_multiplicity, p.degrees_of_freedom > 0) for p in space_group(group).positions]


def followers(state: State) -> Iterator[tuple[int, State]]:
    """Every position that the rules allow next, whether or not it leads to a complete placement."""
    group, counts, occupied, last = state
    for index, (size, is_free) in enumerate(sizes(group)):
        if not counts or index < last or size > counts[0] or (occupied >> index & 1 and not is_free):
            continue
        taken = occupied if is_free else occupied | 1 << index
        if size == counts[0]:
            yield index, (group, counts[1:], taken, 0)
        else:
            yield index, (group, (counts[0] - size, *counts[1:]), taken, index)


@lru_cache(maxsize=1_000_000)
def completes(state: State) -> bool:
    return not state[1] or any(completes(after) for _, after in followers(state))


def placements(state: State) -> Iterator[tuple[int, ...]]:
    """Every complete placement, without any look-ahead."""
    if not state[1]:
        yield ()
    for index, after in followers(state):
        for rest in placements(after):
            yield (index, *rest)


def as_tensors(states: list[State]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width = max(len(counts) for _, counts, _, _ in states)
    # zeros before and after: the elements that are placed, and the slots that are not used
    rows = [[0, *counts, *[0] * (width - len(counts))] for _, counts, _, _ in states]
    return (
        torch.tensor([group for group, *_ in states]),
        torch.tensor(rows),
        torch.tensor([occupied for *_, occupied, _ in states]),
        torch.tensor([last for *_, last in states]),
    )


def masked(states: list[State]) -> list[list[int]]:
    """The positions that the masks allow in each state."""
    return [row.nonzero().flatten().tolist() for row in allowed_positions(*as_tensors(states))]


def brute_force(state: State) -> list[int]:
    return [index for index, after in followers(state) if completes(after)]


def random_counts(generator: torch.Generator, elements: int, most: int) -> tuple[int, ...]:
    n = int(torch.randint(1, elements + 1, (), generator=generator))
    return tuple((torch.randint(most, (n,), generator=generator) + 1).tolist())


def one_of(generator: torch.Generator, n: int) -> int:
    return int(torch.randint(n, (), generator=generator))


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("counts", [(1,), (4,), (1, 2), (2, 1), (2, 2, 2), (6, 2), (2, 6), (3, 3), (4, 1, 1), (8, 4)])
def test_masks_follow_exactly_the_complete_placements(group: int, counts: tuple[int, ...]) -> None:
    if group in (25, 47, 191) and sum(counts) > 5:
        counts = tuple(min(n, 2) for n in counts[:2])  # these have too many placements to list
    next_after = defaultdict[State, set[int]](set)
    start: State = (group, counts, 0, 0)
    for placement in placements(start):
        state = start
        for index in placement:
            next_after[state].add(index)
            state = dict(followers(state))[index]
    states = list(next_after) or [start]
    assert masked(states) == [sorted(next_after[state]) for state in states]


@pytest.mark.parametrize("group", GROUPS)
def test_masks_equal_brute_force_along_random_walks(group: int) -> None:
    generator = torch.Generator().manual_seed(group)
    states = []
    for _ in range(20):
        state: State = (group, random_counts(generator, 4, 12), 0, 0)
        while state[1]:
            states.append(state)
            options = brute_force(state)
            if not options:
                break
            state = dict(followers(state))[options[one_of(generator, len(options))]]
    assert masked(states) == [brute_force(state) for state in states]


def test_masks_equal_brute_force_in_any_state_of_any_group() -> None:
    """Also in states that no rollout meets, and dead ends."""
    generator = torch.Generator().manual_seed(0)
    states: list[State] = []
    for group in range(1, N_SPACE_GROUPS + 1):
        for _ in range(4):
            n = len(sizes(group))
            occupied = one_of(generator, 2**n) & one_of(generator, 2**n)
            states.append((group, random_counts(generator, 4, 12), occupied, one_of(generator, n)))
    allowed = masked(states)
    assert allowed == [brute_force(state) for state in states]
    assert can_place(*as_tensors(states)).tolist() == [bool(row) for row in allowed]
    assert 100 < sum(map(bool, allowed)) < len(states) - 100


def test_large_counts_equal_brute_force() -> None:
    generator = torch.Generator().manual_seed(1)
    states: list[State] = [
        (group, random_counts(generator, 3, 60), 0, 0) for group in (12, 62, 136, 166, 194, 208, 221, 225, 227, 230)
    ] * 2
    states += [(group, (MAX_COUNT,), 0, 0) for group in (1, 166, 221, 230)]
    assert masked(states) == [brute_force(state) for state in states]


def test_can_place_agrees_with_the_table_of_feasible_groups() -> None:
    table = feasible_groups(max_elements=5, max_atoms=14)
    counts = torch.tensor([[*multiset, *[0] * (5 - len(multiset))] for multiset in table.multisets])
    groups = torch.arange(1, N_SPACE_GROUPS + 1).repeat(len(counts))
    rows = counts.repeat_interleave(N_SPACE_GROUPS, 0)
    none = torch.zeros_like(groups)
    assert torch.equal(can_place(groups, rows, none, none).view(len(counts), -1), table.fits)
    assert can_place(*as_tensors([(225, (1, 1), 0, 0)])).item() is multisets_fit((1, 1), 225) is True


def roll_out(group: Tensor, counts: Tensor, generator: torch.Generator) -> list[list[list[int]]]:
    """Random walks under the masks: the positions of each element of each row."""
    remaining, occupied, last = counts.clone(), torch.zeros_like(group), torch.zeros_like(group)
    table = torch.zeros(N_SPACE_GROUPS + 1, MAX_POSITIONS, 2, dtype=torch.long)
    for number in range(1, N_SPACE_GROUPS + 1):
        table[number, : len(sizes(number))] = torch.tensor(sizes(number))
    chosen: list[list[list[int]]] = [[[] for _ in row] for row in counts.tolist()]
    while (live := (remaining > 0).any(1).nonzero().flatten()).numel():
        allowed = allowed_positions(group, remaining, occupied, last)
        assert allowed.any(1).nonzero().flatten().equal(live)  # never stuck, and nothing to do when done
        position = torch.multinomial(allowed[live].float(), 1, generator=generator).squeeze(1)
        element = (remaining[live] > 0).byte().argmax(1)
        size, is_free = table[group[live], position].unbind(1)
        remaining[live, element] -= size
        occupied[live] |= torch.where(is_free > 0, 0, 1 << position)
        last[live] = torch.where(remaining[live, element] > 0, position, 0)
        for row, column, index in zip(live.tolist(), element.tolist(), position.tolist(), strict=True):
            chosen[row][column].append(index)
    return chosen


def test_random_rollouts_finish_with_the_exact_counts_in_all_groups() -> None:
    generator = torch.Generator().manual_seed(2)
    multisets = [(*m, *[0] * (8 - len(m))) for m in count_multisets(max_elements=8, max_atoms=20)]
    group = torch.arange(1, N_SPACE_GROUPS + 1).repeat(60)
    counts = torch.tensor(multisets)[torch.randint(len(multisets), (len(group),), generator=generator)]
    counts = counts.gather(1, torch.rand(counts.shape, generator=generator).argsort(1))  # any order, zeros between
    fits = can_place(group, counts, torch.zeros_like(group), torch.zeros_like(group))
    assert fits.tolist() == [
        multisets_fit([n for n in row if n], number)
        for row, number in zip(counts.tolist(), group.tolist(), strict=True)
    ]
    group, counts = group[fits], counts[fits]
    assert len(group) > 2000
    for number, row, elements in zip(group.tolist(), counts.tolist(), roll_out(group, counts, generator), strict=True):
        size = sizes(number)
        assert [sum(size[i][0] for i in positions) for positions in elements] == row
        assert all(positions == sorted(positions) for positions in elements)
        fixed = [i for positions in elements for i in positions if not size[i][1]]
        assert len(fixed) == len(set(fixed))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_the_order_of_later_elements_and_zeros_do_not_matter(data: st.DataObject) -> None:
    group = data.draw(st.integers(1, N_SPACE_GROUPS))
    occupied, last = data.draw(st.integers(0, 2 ** len(sizes(group)) - 1)), data.draw(st.integers(0, 5))
    current, *later = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    rows = [[current, *data.draw(st.permutations([*later, 0, 0]))] for _ in range(3)]
    arguments = (torch.tensor(rows), torch.tensor([occupied] * 3), torch.tensor([last] * 3))
    allowed = allowed_positions(torch.tensor([group] * 3), *arguments)
    assert (allowed == allowed[0]).all()


def test_rutile_and_rocksalt() -> None:
    # P4_2/mnm: a and b hold 2 atoms, c and d 4, all without free parameters; e, f and g hold 4. Ti needs a or b
    assert masked([(136, (4, 2), 0, 0)]) == [[2, 3, 4, 5, 6]]
    assert masked([(136, (2,), 0, 0), (136, (4,), 0, 0)]) == [[0, 1], [0, 2, 3, 4, 5, 6]]
    assert masked([(136, (2, 2), 0, 0), (136, (2,), 0b1, 0), (136, (2,), 0b11, 0)]) == [[0, 1], [1], []]
    assert masked([(225, (1, 1), 0, 0), (225, (1,), 0b1, 0), (225, (1, 1), 0b1, 0)]) == [[0, 1], [1], []]


def test_nothing_left_allows_nothing_and_is_complete() -> None:
    none = torch.zeros(2, dtype=torch.long)
    nothing = (torch.tensor([1, 225]), torch.zeros(2, 3, dtype=torch.long), none, none)
    assert not allowed_positions(*nothing).any()
    assert can_place(*nothing).all()
    none = torch.zeros(0, dtype=torch.long)
    assert allowed_positions(none, torch.zeros(0, 3, dtype=torch.long), none, none).shape == (0, MAX_POSITIONS)


@pytest.mark.parametrize(
    ("group", "count", "message"),
    [
        (0, 1, "space group: 0 is not a number from 1 to 230"),
        (231, 1, "space group: 231 is not"),
        (1, -1, "remaining: -1 atoms of an element"),
        (1, MAX_COUNT + 1, "remaining: 101 atoms of an element"),
    ],
)
def test_what_is_out_of_range_is_named(group: int, count: int, message: str) -> None:
    none = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        allowed_positions(torch.tensor([group]), torch.tensor([[count, 1]]), none, none)
