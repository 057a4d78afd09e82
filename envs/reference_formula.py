"""The reference formula of a `CompositionSpace`: read, checked, and what it makes of the other limits."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from operator import index
from typing import SupportsIndex

from envs.formula import parse_formula, write_formula

HIGHEST = {"min_elements": 20, "max_elements": 20, "max_atoms": 1000, "max_count": 200}
"""Values beyond which enumerating the budgets of the look-ahead would not end."""

MOST_EDITS = 20

DEFAULT_MAX_ATOMS, DEFAULT_MAX_COUNT = 20, 8
"""What max_atoms and max_count are when they are left out, without a reference formula."""


def read_reference(formula: object) -> dict[str, int]:
    """Return the atoms of each element of a reference formula, as written.

    Raises:
        ValueError: Not a formula with whole amounts, or one too large to tabulate.
    """
    if not isinstance(formula, str):
        raise ValueError(f"reference: {formula!r} is not a chemical formula such as Sr8Ti8O24")
    try:
        amounts = parse_formula(formula)
    except ValueError as error:
        raise ValueError(f"reference: {error}") from None
    for symbol, amount in amounts.items():
        if amount != int(amount):
            raise ValueError(
                f"reference: {amount:g} of {symbol} in {formula} is not a whole number (expected the formula of a "
                "supercell, such as Sr8Ti8O24)"
            )
    size, most = sum(amounts.values()), max(amounts.values())
    for what, value, highest in (
        ("atoms", size, HIGHEST["max_atoms"]),
        ("atoms of one element", most, HIGHEST["max_count"]),
        ("elements", len(amounts), HIGHEST["max_elements"]),
    ):
        if value > highest:
            raise ValueError(f"reference: the {value:g} {what} of {formula} are more than {highest}")
    return {symbol: int(amount) for symbol, amount in amounts.items()}


def default_sizes(reference: str | None, max_edits: object) -> tuple[int, int]:
    """Return max_atoms and max_count when they are left out: 20 and 8, or what the edits of a reference can reach."""
    if reference is None:
        return DEFAULT_MAX_ATOMS, DEFAULT_MAX_COUNT
    counts = read_reference(reference)
    added = max(0, index(max_edits)) if isinstance(max_edits, SupportsIndex) else 0
    return (
        min(sum(counts.values()) + added, HIGHEST["max_atoms"]),
        min(max(counts.values()) + added, HIGHEST["max_count"]),
    )


def check_max_edits(max_edits: object, reference: str) -> int:
    """Return the edits allowed, or raise a ValueError."""
    if max_edits is None:
        raise ValueError(
            f"max_edits: missing (expected how many atoms may be exchanged, added or removed around {reference})"
        )
    edits = index(max_edits) if isinstance(max_edits, SupportsIndex) and not isinstance(max_edits, bool) else -1
    if not 0 <= edits <= MOST_EDITS:
        raise ValueError(f"max_edits: {max_edits!r} is not a whole number from 0 to {MOST_EDITS}")
    return edits


def check_keep(
    keep: Sequence[str],
    counts: Mapping[str, int],
    forbidden: Container[str],
    count_ranges: Mapping[str, tuple[int, int]],
) -> None:
    """Raise a ValueError unless each element whose count is kept is in the reference and may have that count."""
    for symbol in keep:
        if symbol not in counts:
            raise ValueError(f"keep: {symbol} is not in the reference (expected some of {', '.join(counts)})")
        if symbol in forbidden:
            raise ValueError(f"keep: {symbol} is also among the forbidden elements")
        low, high = count_ranges.get(symbol, (1, counts[symbol]))
        if not low <= counts[symbol] <= high:
            raise ValueError(
                f"keep: the reference has {counts[symbol]} of {symbol}, which count_ranges limits to {low}-{high}"
            )


def check_size(counts: Mapping[str, int], limited: Sequence[int], sizes: Mapping[str, int]) -> None:
    """Raise a ValueError if the reference is larger than the other limits.

    Args:
        counts: Atoms of each element in the reference.
        limited: The counts that max_count limits.
        sizes: max_atoms, max_elements and max_count.
    """
    found = {
        "max_atoms": (sum(counts.values()), "atoms"),
        "max_elements": (len(counts), "elements"),
        "max_count": (max(limited, default=0), "atoms of one element"),
    }
    for name, (size, what) in found.items():
        if size > sizes[name]:
            formula = write_formula({symbol: float(count) for symbol, count in counts.items()})
            raise ValueError(
                f"reference: {formula} has {size} {what}, more than {name}={sizes[name]}: raise it to {size} or more"
            )
