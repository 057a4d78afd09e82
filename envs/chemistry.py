"""The elements as the design rules see them: order of electronegativity and oxidation states.

Both come from SMACT (Davies et al., J. Open Source Softw. 4, 1361 (2019)), so that a mask built here and
`smact.screening.smact_validity` judge by the same numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from types import MappingProxyType

from smact import Element, ordered_elements
from smact.screening import ICSD24FilterConfig, _get_icsd24_oxidation_dict

MAX_ATOMIC_NUMBER = 103
SYMBOLS: tuple[str, ...] = tuple(ordered_elements(1, MAX_ATOMIC_NUMBER))
"""Element symbols; SYMBOLS[z - 1] has atomic number z."""

ATOMIC_NUMBERS: Mapping[str, int] = MappingProxyType({symbol: z for z, symbol in enumerate(SYMBOLS, start=1)})

OXIDATION_STATE_SETS: tuple[str, ...] = ("icsd24", "smact14", "icsd16", "pymatgen_sp", "wiki")

_ATTRIBUTE_OF_SET = {
    "smact14": "oxidation_states_smact14",
    "icsd16": "oxidation_states_icsd16",
    "pymatgen_sp": "oxidation_states_sp",
    "wiki": "oxidation_states_wiki",
}


def _read_electronegativities() -> dict[str, float | None]:
    return {symbol: Element(symbol).pauling_eneg for symbol in SYMBOLS}


ELECTRONEGATIVITY: Mapping[str, float | None] = MappingProxyType(_read_electronegativities())
"""Pauling electronegativity as tabulated by SMACT; None for He, Ne, Ar, Pm, Rn and Lr."""


def formula_order(symbol: str) -> tuple[float, int]:
    """Return the sort key of an element within a formula: ascending electronegativity, then atomic number.

    Elements without an electronegativity come first.
    """
    return (ELECTRONEGATIVITY[symbol] or 0.0, ATOMIC_NUMBERS[symbol])


def check_elements(symbols: Iterable[str], where: str) -> tuple[str, ...]:
    """Return the symbols as a tuple without repetitions, in the order given.

    Raises:
        ValueError: Not a list of symbols, or a symbol is not one of the elements 1-103; the message names the value
            and `where`.
    """
    if isinstance(symbols, str) and symbols not in ATOMIC_NUMBERS:
        raise ValueError(f"{where}: {symbols!r} is one text (expected a list of element symbols such as ['Sr', 'Ti'])")
    if not isinstance(symbols, Iterable):
        raise ValueError(f"{where}: {symbols!r} is not a list of element symbols such as ['Sr', 'Ti']")
    given = [symbols] if isinstance(symbols, str) else list(symbols)
    for symbol in given:
        if not isinstance(symbol, str) or symbol not in ATOMIC_NUMBERS:
            close = get_close_matches(str(symbol).capitalize(), SYMBOLS, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{where}: {symbol!r} is not a chemical element (expected a symbol such as Fe){hint}")
    return tuple(dict.fromkeys(given))


@lru_cache(maxsize=16)
def oxidation_states(
    name: str = "icsd24", icsd24_filter: ICSD24FilterConfig | None = None
) -> Mapping[str, tuple[int, ...]]:
    """Return the oxidation states of each element in one of SMACT's sets, ascending; elements without any are absent.

    Args:
        name: One of `OXIDATION_STATE_SETS`. "icsd24" is the set that `smact_validity` uses by default: states reported
            in the ICSD (2024), filtered by `icsd24_filter`.
        icsd24_filter: Consensus, commonality and whether zero counts; SMACT's defaults when None.

    Raises:
        ValueError: Unknown set, a filter given for another set than icsd24, or one that leaves nothing.
    """
    if name not in OXIDATION_STATE_SETS:
        raise ValueError(f"oxidation_states: unknown set {name!r} (expected one of {', '.join(OXIDATION_STATE_SETS)})")
    if name == "icsd24":
        chosen = icsd24_filter or ICSD24FilterConfig()
        try:
            table = _get_icsd24_oxidation_dict(chosen.include_zero, chosen.consensus, chosen.commonality)
        except (TypeError, ValueError) as error:  # an unknown commonality; an empty table, over which SMACT trips
            raise ValueError(f"icsd24_filter: no oxidation state can be read with {chosen} ({error})") from error
        return MappingProxyType({symbol: tuple(sorted(states)) for symbol, states in table.items()})
    if icsd24_filter is not None:
        raise ValueError(f"icsd24_filter: only the set 'icsd24' can be filtered, not {name!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the lookup warns for elements without states; here they are simply absent
        states_of = {symbol: getattr(Element(symbol), _ATTRIBUTE_OF_SET[name]) for symbol in SYMBOLS}
    return MappingProxyType({symbol: tuple(sorted(set(states))) for symbol, states in states_of.items() if states})
