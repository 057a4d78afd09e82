"""What the tests of `envs` share: the independent truth (SMACT, plain enumeration) and hypothesis strategies."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, reduce
from itertools import combinations, product
from math import gcd
from typing import Any
from unittest import mock

import torch
from hypothesis import strategies as st
from pymatgen.core import Composition
from smact import Element
from smact.screening import ICSD24FilterConfig, smact_validity

from envs import CompositionSpace
from envs.chemistry import SYMBOLS
from envs.formula import parse_formula

Amounts = frozenset[tuple[str, int]]
"""A composition as (element, count) pairs, whatever their order."""


def amounts_of(formula: str) -> Amounts:
    return frozenset((symbol, int(amount)) for symbol, amount in parse_formula(formula).items())


@lru_cache
def _element(symbol: str) -> Element:
    return Element(symbol)


def _cached_elements(symbols: Sequence[str]) -> dict[str, Element]:
    return {symbol: _element(symbol) for symbol in symbols}


def smact_accepts(
    amounts: Mapping[str, float],
    oxidation_states: str = "icsd24",
    icsd24_filter: ICSD24FilterConfig | None = None,
    pauling: bool = True,
) -> bool:
    """SMACT's verdict on a composition of two or more elements.

    SMACT reads its tables anew for each composition, which takes nine tenths of its time: here elements are kept.
    """
    with (
        mock.patch("smact.screening.element_dictionary", _cached_elements),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # SMACT warns of the set "wiki", and of elements without states
        return smact_validity(
            Composition(dict(amounts)),
            use_pauling_test=pauling,
            include_alloys=False,
            oxidation_states_set=None if oxidation_states == "icsd24" else oxidation_states,
            icsd_filter=icsd24_filter,
        )


def compositions_by_brute_force(
    elements: Sequence[str],
    required: Sequence[str] = (),
    forbidden: Sequence[str] = (),
    min_elements: int = 2,
    max_elements: int = 5,
    max_atoms: int = 20,
    max_count: int = 8,
    count_ranges: Mapping[str, tuple[int, int]] | None = None,
    charge_neutral: bool = True,
    **chemistry: Any,
) -> Iterator[Amounts]:
    """All compositions of a `CompositionSpace` with the same arguments, by trying every one."""
    ranges = {symbol: (count_ranges or {}).get(symbol, (1, max_count)) for symbol in elements}
    usable = [symbol for symbol in elements if symbol not in forbidden]
    for n_elements in range(min_elements, max_elements + 1):
        for symbols in combinations(usable, n_elements):
            if not set(required) <= set(symbols):
                continue
            for counts in product(*(range(ranges[s][0], ranges[s][1] + 1) for s in symbols)):
                if sum(counts) > max_atoms or reduce(gcd, counts) != 1:
                    continue
                amounts = dict(zip(symbols, counts, strict=True))
                if not charge_neutral or smact_accepts(amounts, **chemistry):
                    yield frozenset(amounts.items())


def compositions_by_masks(space: CompositionSpace) -> list[Amounts]:
    """All materials that the masks of a space lead to; fails when a mask strands a state."""
    found: list[str] = []
    state = space.initial(1)
    while len(state):
        mask = space.mask(state)
        assert mask.any(1).all(), f"stuck at {space.decode(state[~mask.any(1)])[:3]}"
        rows, actions = mask.nonzero(as_tuple=True)
        state = space.step(state[rows], actions)
        finished = space.is_finished(state)
        found += space.decode(state[finished])
        state = state[~finished]
    return [amounts_of(formula) for formula in found]


@lru_cache
def default_space() -> CompositionSpace:
    return CompositionSpace()


def random_states(space: CompositionSpace, n: int, seed: int) -> torch.Tensor:
    """States at random depths of random rollouts, finished ones among them."""
    generator = torch.Generator().manual_seed(seed)
    state = space.initial(n)
    depth = torch.randint(space.max_steps + 1, (n,), generator=generator)
    for step in range(space.max_steps):
        actions = torch.multinomial(space.mask(state).float(), 1, generator=generator).squeeze(1)
        state = torch.where((step < depth)[:, None], space.step(state, actions), state)
    return state


seeds = st.integers(0, 2**31 - 1)

tied_elements = st.sampled_from(
    [("K", "Rb"), ("C", "Se"), ("Ru", "Pd", "Os", "Ir", "Pt", "H"), ("Si", "Cu", "Bi"), ("Ca", "Lu"), ("B", "As")]
)
"""Elements of equal electronegativity."""


@st.composite
def amounts(draw: st.DrawFn, max_elements: int = 6, max_count: int = 9) -> dict[str, int]:
    """Any composition of two or more elements, seldom valid, often with ties."""
    symbols = draw(st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=max_elements - 1, unique=True))
    symbols += draw(st.lists(st.sampled_from(["O", "F", "Cl", "S", "N", "H", "C", "Se"]), max_size=2))
    symbols += draw(st.one_of(st.just(()), tied_elements))[:2]
    if len(set(symbols)) < 2:
        symbols += ["Na", "Cl"]
    return {symbol: draw(st.integers(1, max_count)) for symbol in dict.fromkeys(symbols)}


@st.composite
def nearly_valid_amounts(draw: st.DrawFn, space: CompositionSpace) -> dict[str, int]:
    """A material of the space, or one with a count or an element changed."""
    state = space.sample_uniform_policy(1, torch.Generator().manual_seed(draw(seeds)))
    material = dict(amounts_of(space.decode(state)[0]))
    symbol = draw(st.sampled_from(sorted(material)))
    change = draw(st.sampled_from(["nothing", "count", "element"]))
    if change == "count":
        material[symbol] = draw(st.integers(1, space.limits.max_count + 1))
    elif change == "element":
        count = material.pop(symbol)
        material[draw(st.sampled_from([s for s in SYMBOLS if s not in material]))] = count
    return material


_CHEMISTRIES: list[dict[str, Any]] = [
    {},
    {"icsd24_filter": ICSD24FilterConfig(consensus=10)},
    {"icsd24_filter": ICSD24FilterConfig(commonality="medium")},
    {"icsd24_filter": ICSD24FilterConfig(include_zero=True)},
    {"oxidation_states": "smact14"},
    {"oxidation_states": "icsd16"},
    {"oxidation_states": "pymatgen_sp"},
    {"oxidation_states": "wiki"},
    {"pauling": False},
    {"charge_neutral": False},
]

_ELEMENTS = [
    *("K", "Rb", "C", "Se", "Ru", "Pd", "Os", "Ir", "Pt", "H", "Si", "Cu", "Bi", "Ca", "Lu"),  # with ties
    *("O", "F", "Na", "Cl", "Fe", "Ti", "N", "S", "Sn", "La"),
]


@st.composite
def small_limits(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of spaces small enough to enumerate; some of them leave nothing."""
    elements = draw(st.lists(st.sampled_from(_ELEMENTS), min_size=2, max_size=5, unique=True))
    min_elements = draw(st.integers(2, 3))
    limits: dict[str, Any] = {
        "elements": elements,
        "min_elements": min_elements,
        "max_elements": draw(st.integers(min_elements, 3)),
        "max_atoms": draw(st.integers(3, 9)),
        "max_count": draw(st.integers(1, 4)),
    }
    symbols = st.sampled_from(elements)
    required = draw(st.lists(symbols, max_size=2, unique=True)) if draw(st.booleans()) else []
    limits["required"] = required
    limits["forbidden"] = draw(st.lists(symbols.filter(lambda symbol: symbol not in required), max_size=1))
    low = st.integers(1, 3)
    ranges = draw(st.dictionaries(symbols, st.tuples(low, st.integers(0, 2)), max_size=2))
    limits["count_ranges"] = {symbol: (least, least + more) for symbol, (least, more) in ranges.items()}
    return limits | draw(st.sampled_from(_CHEMISTRIES))
