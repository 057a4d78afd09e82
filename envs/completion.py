"""Partial formulas with blanks, such as "Li ? O": read, and turned into limits of a `CompositionSpace`.

- `?` is a further element, in any count;
- `O?` is oxygen in any count;
- `O3` is three oxygen atoms and `Ti` one, as in any formula.

Blanks stand apart, for "Li?O" could be either; terms without one may be run together: "? TiO3". The counts are those of
the reduced formula, which has exactly the elements and blanks that are written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.chemistry import check_elements
from envs.composition_limits import is_whole
from envs.formula import plain_digits
from envs.reference_formula import HIGHEST

_EXPECTED = 'expected elements with blanks for elements or counts, such as "Li ? O" or "Li2 ? O?"'
_TERM = re.compile(r"([A-Z][a-z]?)(\d*)")


@dataclass(frozen=True)
class Completion:
    """A partial formula."""

    text: str
    counts: Mapping[str, int | None]
    """Atoms of each element named; None where they are open."""
    blanks: int
    """Further elements."""

    @property
    def n_elements(self) -> int:
        """Elements of a completed formula."""
        return len(self.counts) + self.blanks


def read_completion(text: object) -> Completion:
    """Read a partial formula.

    Raises:
        ValueError: It cannot be read, names an element twice, or has no blank; the message names it.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"complete: {text!r} is not a partial formula ({_EXPECTED})")
    text = plain_digits(text)
    counts: dict[str, int | None] = {}
    blanks = 0
    for token in text.split():
        if token == "?":
            blanks += 1
            continue
        for symbol, count in _terms(text, token):
            check_elements([symbol], "complete")
            if symbol in counts:
                raise ValueError(f"complete: {symbol} occurs twice in {text!r}")
            if count == "0" * len(count) and count:
                raise ValueError(f"complete: {text!r} has {count} atoms of {symbol} (expected a count from 1 up)")
            counts[symbol] = None if count == "?" else int(count or 1)
    if not blanks and None not in counts.values():
        raise ValueError(f"complete: {text!r} has no blank ({_EXPECTED})")
    return Completion(" ".join(text.split()), counts, blanks)


def _terms(text: str, token: str) -> list[tuple[str, str]]:
    """Elements and counts, as written, of a part of a partial formula that has no space."""
    if re.fullmatch(r"[A-Z][a-z]?\?", token):
        return [(token[:-1], "?")]
    if re.fullmatch(r"(?:[A-Z][a-z]?\d*)+", token):
        return _TERM.findall(token)
    if re.fullmatch(r"\?\d+", token):
        raise ValueError(
            f"complete: {token!r} in {text!r} sets a count for a blank element, which is open (expected ?)"
        )
    if re.fullmatch(r"(?:\?|[A-Z][a-z]?\d*)+", token):
        raise ValueError(
            f'complete: {token!r} in {text!r} can be read in two ways (expected blanks apart, as in "Li ? O")'
        )
    raise ValueError(f"complete: {token!r} in {text!r} is no element and no blank ({_EXPECTED})")


def complete_limits(
    text: object,
    elements: Sequence[str] | None,
    required: Sequence[str],
    forbidden: Sequence[str],
    count_ranges: Mapping[str, tuple[int, int]],
    max_atoms: int,
) -> dict[str, Any]:
    """Return the arguments of `CompositionLimits` that a partial formula sets.

    Args:
        text: The partial formula.
        elements: Those that may fill blanks, None for all; the ones named in the text may be used anyway.
        required: Elements that must be there: they fill blanks if the text does not name them.
        forbidden: Elements that must not.
        count_ranges: Of elements whose count the text leaves open.
        max_atoms: Most atoms of a formula.

    Raises:
        ValueError: The text cannot be read, or contradicts another limit.
    """
    partial = read_completion(text)
    if not isinstance(count_ranges, Mapping):
        raise ValueError(f"count_ranges: {count_ranges!r} is not a mapping such as {{'O': (1, 3)}}")
    for symbol, count in partial.counts.items():
        if symbol in forbidden:
            raise ValueError(f"complete: {symbol} in {partial.text!r} is among the forbidden elements")
        if count is not None and symbol in count_ranges:
            raise ValueError(f"complete: the count of {symbol} in {partial.text!r} is set by count_ranges as well")
    further = [symbol for symbol in required if symbol not in partial.counts]
    if len(further) > partial.blanks:
        raise ValueError(
            f"complete: the required {', '.join(further)} cannot fill the blanks for elements of {partial.text!r}: "
            f"it has {partial.blanks or 'none'}"
        )
    if partial.n_elements > HIGHEST["max_elements"]:
        raise ValueError(f"complete: {partial.n_elements} elements are more than {HIGHEST['max_elements']}")
    fewest = partial.blanks + sum(count or 1 for count in partial.counts.values())
    if is_whole(max_atoms) and fewest > max_atoms:
        raise ValueError(
            f"complete: {partial.text!r} takes at least {fewest} atoms, more than max_atoms={max_atoms}: "
            "raise max_atoms"
        )
    return {
        "elements": None if elements is None else (*elements, *partial.counts),
        "required": (*partial.counts, *further),
        "min_elements": partial.n_elements,
        "max_elements": partial.n_elements,
        "count_ranges": {**count_ranges, **{s: (n, n) for s, n in partial.counts.items() if n is not None}},
    }
