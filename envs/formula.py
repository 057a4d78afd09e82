"""Compositions as text and as tensors.

Hot paths work on `CompositionBatch`; text is parsed once on the way in and written once on the way out.

    batch = CompositionBatch.from_formulas(["SrTiO3", "Ca(OH)2"])
    batch.atomic_numbers  # tensor([[38, 22, 8], [20, 1, 8]])
    batch.amounts         # tensor([[1., 1., 3.], [1., 2., 2.]])
    list(batch)           # ["SrTiO3", "CaH2O2"]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import gcd
from typing import overload

import torch
from torch import Tensor

from envs.chemistry import ATOMIC_NUMBERS, MAX_ATOMIC_NUMBER, SYMBOLS, formula_order

_PLAIN_FORMULA = re.compile(r"(?:[A-Z][a-z]?(?:\d+(?:\.\d+)?|\.\d+)?)+")
_TERM = re.compile(r"([A-Z][a-z]?)(\d+(?:\.\d+)?|\.\d+)?")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_HYDRATE = re.compile(
    r"(?P<last>[A-Z][a-z]?|[)\]])(?P<count>\d*)\s*(?P<dot>[.·•⋅∙*])\s*(?:(?P<n>(?:0|[1-9]\d?)(?:\.\d+)?)\s*)?"
    r"(?:(?P<water>[HD]2O)|\((?P<round>[HD]2O)\)|\[(?P<square>[HD]2O)\])(?![a-z\d])"
)


def plain_digits(text: str) -> str:
    """Return the text with subscripts as digits: "SrTiO₃" -> "SrTiO3"."""
    return text if text.isascii() else text.translate(_SUBSCRIPTS)


def hydrate_problem(text: str) -> str | None:
    """Return why a formula with water behind a dot is refused and what was expected, or None for all others.

    The dot looks like a decimal point: "CuSO4.5H2O" would be read as O4.5 and H2O. Decimals for certain are amounts of
    zero and a fraction ("VO0.5H2O"), or of three decimals, and, so that whatever `write_formula` writes can be read,
    those of an element that is less electronegative than hydrogen ("Sr1.5H2O").
    """
    text = plain_digits(text.strip())
    if "2O" not in text:
        return None
    for found in _HYDRATE.finditer(text):
        is_point = found["dot"] == "."
        in_order = found["last"] in ATOMIC_NUMBERS and formula_order(found["last"]) < formula_order("H")
        if is_point and (in_order or found["n"] == "0" or re.fullmatch("0+", found["count"])):
            continue
        n = found["n"] if found["n"] not in (None, "1") else ""
        rest, water = text[: found.start("dot")].rstrip(), found["water"] or found["round"] or found["square"]
        expected = f"{rest}({water}){n}" if found.end() == len(text) else ""
        if "." in rest or not _reads(re.sub("D(?![a-z])", "H", expected)):
            expected = "brackets, as in CuSO4(H2O)5"
        return f"{'can be read in two ways' if is_point else 'is not a chemical formula'} (expected {expected})"
    return None


def _reads(text: str) -> bool:
    try:
        return bool(parse_formula(text))
    except ValueError:
        return False


def parse_formula(formula: str) -> dict[str, float]:
    """Return the amount of each element of a formula, as written (not reduced); digits may be subscripts.

    Raises:
        ValueError: The text is not a formula of the elements 1-103, or a hydrate written with a dot; the message names
            it.
    """
    text = plain_digits(formula.strip()) if isinstance(formula, str) else ""
    problem = hydrate_problem(text)
    if problem is not None:
        raise ValueError(f"{formula!r} {problem}")
    if _PLAIN_FORMULA.fullmatch(text):
        amounts: dict[str, float] = {}
        for symbol, amount in _TERM.findall(text):
            amounts[symbol] = amounts.get(symbol, 0.0) + (float(amount) if amount else 1.0)
    else:
        amounts = _parse_with_pymatgen(text, formula)
    for symbol, amount in amounts.items():
        if symbol not in ATOMIC_NUMBERS:
            raise ValueError(f"formula {formula!r}: {symbol!r} is not a chemical element")
        if not amount > 0:
            raise ValueError(f"formula {formula!r}: the amount of {symbol} must be positive, not {amount:g}")
    return amounts


def _parse_with_pymatgen(text: str, formula: object) -> dict[str, float]:
    from pymatgen.core import Composition

    try:
        parsed = Composition(text).get_el_amt_dict() if text else {}
    except Exception as error:  # pymatgen raises several types for unreadable text
        raise ValueError(f"{formula!r} is not a chemical formula") from error
    if not parsed:
        raise ValueError(f"{formula!r} is not a chemical formula")
    return dict(parsed)


def write_formula(amounts: dict[str, float]) -> str:
    """Return the formula with the elements in ascending electronegativity, e.g. "SrTiO3"."""
    return "".join(
        f"{symbol}{'' if amounts[symbol] == 1 else format(amounts[symbol], 'g')}"
        for symbol in sorted(amounts, key=formula_order)
    )


def reduced_formula(formula: str) -> str:
    """Return the formula divided by the common divisor of its amounts; unchanged when an amount is not an integer."""
    return write_formula(reduce_amounts(parse_formula(formula)))


def reduce_amounts(amounts: dict[str, float]) -> dict[str, float]:
    """Return the amounts divided by their common divisor; unchanged when one is not an integer."""
    if any(amount != int(amount) for amount in amounts.values()):
        return amounts
    divisor = reduce(gcd, (int(amount) for amount in amounts.values()))
    return {symbol: amount / divisor for symbol, amount in amounts.items()}


def anonymous_formula(formula: str) -> str:
    """Return the formula with letters for elements, by ascending amount: "SrTiO3" -> "ABC3"."""
    amounts = sorted(reduce_amounts(parse_formula(formula)).values())
    return "".join(
        f"{letter}{'' if amount == 1 else format(amount, 'g')}"
        for letter, amount in zip(_LETTERS, amounts, strict=False)
    )


def chemical_system(formula: str) -> str:
    """Return the elements of a formula in alphabetical order: "SrTiO3" -> "O-Sr-Ti"."""
    return "-".join(sorted(parse_formula(formula)))


@dataclass(frozen=True, eq=False)
class CompositionBatch(Sequence[str]):
    """N compositions as tensors; also a sequence of N formula strings, written on demand."""

    atomic_numbers: Tensor
    """Long (N, K), 0 where a composition has fewer than K elements."""

    amounts: Tensor
    """Float (N, K), atoms of each element per formula unit, 0 where padded."""

    @classmethod
    def from_formulas(cls, formulas: Iterable[str]) -> CompositionBatch:
        """Parse formulas; amounts stay as written and may be fractional.

        Raises:
            ValueError: A formula cannot be read; the message names it.
        """
        if isinstance(formulas, CompositionBatch):
            return formulas
        parsed = [parse_formula(formula) for formula in formulas]
        width = max((len(amounts) for amounts in parsed), default=1)
        numbers = torch.zeros(len(parsed), width, dtype=torch.long)
        amounts = torch.zeros(len(parsed), width)
        if parsed:
            rows = torch.tensor([row for row, entry in enumerate(parsed) for _ in entry])
            columns = torch.tensor([column for entry in parsed for column in range(len(entry))])
            numbers[rows, columns] = torch.tensor([ATOMIC_NUMBERS[s] for entry in parsed for s in entry])
            amounts[rows, columns] = torch.tensor([a for entry in parsed for a in entry.values()])
        return cls(numbers, amounts)

    @cached_property
    def fractions(self) -> Tensor:
        """Atomic fractions, float (N, K); rows sum to one."""
        return self.amounts / self.amounts.sum(1, keepdim=True)

    def dense_fractions(self) -> Tensor:
        """Atomic fractions by atomic number, float (N, 103)."""
        dense = self.fractions.new_zeros(len(self), MAX_ATOMIC_NUMBER + 1)
        return dense.scatter_add_(1, self.atomic_numbers, self.fractions)[:, 1:]

    def rows(self, index: Tensor) -> CompositionBatch:
        """Return the compositions that a long or boolean index selects."""
        return CompositionBatch(self.atomic_numbers[index], self.amounts[index])

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> CompositionBatch: ...
    def __getitem__(self, index: int | slice) -> str | CompositionBatch:
        if isinstance(index, slice):
            return CompositionBatch(self.atomic_numbers[index], self.amounts[index])
        return self.formulas[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.formulas)

    @cached_property
    def formulas(self) -> list[str]:
        """Formula strings, elements in ascending electronegativity."""
        return [
            write_formula({SYMBOLS[z - 1]: a for z, a in zip(numbers, amounts, strict=True) if z})
            for numbers, amounts in zip(self.atomic_numbers.tolist(), self.amounts.tolist(), strict=True)
        ]
