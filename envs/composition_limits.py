"""The limits that define a `CompositionSpace`: checked, turned into rules, and explained when they conflict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any

from smact.screening import ICSD24FilterConfig

from envs.chemistry import (
    ELECTRONEGATIVITY,
    OXIDATION_STATE_SETS,
    SYMBOLS,
    check_elements,
    formula_order,
    oxidation_states,
)
from envs.edit_budget import EditBudget
from envs.look_ahead import CompositionRules, build_tables
from envs.reference_formula import (
    DEFAULT_MAX_ATOMS,
    DEFAULT_MAX_COUNT,
    HIGHEST,
    check_keep,
    check_max_edits,
    check_size,
    default_sizes,
    read_reference,
)


@dataclass(frozen=True)
class CompositionLimits:
    """The arguments of `CompositionSpace`, where they are described.

    Raises:
        ValueError: A value is out of range or contradicts another one; the message names both.
    """

    elements: tuple[str, ...] | None
    required: tuple[str, ...]
    forbidden: tuple[str, ...]
    min_elements: int
    max_elements: int
    max_atoms: int
    max_count: int
    count_ranges: Mapping[str, tuple[int, int]]
    oxidation_states: str
    icsd24_filter: ICSD24FilterConfig | None
    charge_neutral: bool
    pauling: bool
    multisets: frozenset[tuple[int, ...]] | None = None
    reference: str | None = None
    max_edits: int | None = None
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("elements", "required", "forbidden", "keep"):
            symbols = getattr(self, name)
            object.__setattr__(self, name, None if symbols is None else check_elements(symbols, name))
        if not isinstance(self.count_ranges, Mapping):
            raise ValueError(f"count_ranges: {self.count_ranges!r} is not a mapping such as {{'O': (1, 3)}}")
        check_elements(self.count_ranges, "count_ranges")
        ranges = {symbol: _checked_range(symbol, value) for symbol, value in self.count_ranges.items()}
        object.__setattr__(self, "count_ranges", ranges)
        if self.reference is None:
            for name, given in (("max_edits", self.max_edits is not None), ("keep", bool(self.keep))):
                if given:
                    raise ValueError(
                        f"{name}: {getattr(self, name)!r} without a reference formula (expected both, or neither)"
                    )
        else:
            if self.multisets is not None:
                raise ValueError("reference: crystals cannot be built around a reference formula")
            counts = self.reference_counts
            object.__setattr__(self, "reference", self.reference.strip())
            object.__setattr__(self, "max_edits", check_max_edits(self.max_edits, self.reference))
            check_keep(self.keep, counts, self.forbidden, ranges)
        for name, highest in HIGHEST.items():
            value = getattr(self, name)
            if not is_whole(value) or value < 1:
                raise ValueError(f"{name}: {value!r} is not a positive whole number")
            if value > highest:
                raise ValueError(f"{name}: {value} is more than {highest}, the most that the look-ahead can tabulate")
            object.__setattr__(self, name, int(value))
        for name in ("charge_neutral", "pauling"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: {getattr(self, name)!r} is neither true nor false")
        self._check_oxidation_states()
        if self.reference is not None:
            usable = {s: n for s, n in self.reference_counts.items() if s not in self.forbidden}
            for symbol in usable:
                self._check_known(symbol, "reference")
            sizes = {name: getattr(self, name) for name in ("max_atoms", "max_elements", "max_count")}
            check_size(self.reference_counts, [usable[s] for s in usable if s not in ranges], sizes)
        if self.min_elements > self.max_elements:
            raise ValueError(f"min_elements: {self.min_elements} is more than max_elements={self.max_elements}")
        if self.min_elements > self.max_atoms:
            raise ValueError(f"min_elements: {self.min_elements} is more than max_atoms={self.max_atoms}")
        if len(self.required) > self.max_elements:
            raise ValueError(
                f"required: {len(self.required)} elements ({', '.join(self.required)}) "
                f"are more than max_elements={self.max_elements}"
            )
        for symbol in self.required:
            if symbol in self.forbidden:
                raise ValueError(f"required: {symbol} is also among the forbidden elements")
            if self.elements is not None and symbol not in (*self.elements, *self.reference_counts):
                raise ValueError(f"required: {symbol} is not among the allowed elements ({', '.join(self.elements)})")
            self._check_known(symbol, "required")
        for symbol in self.elements or ():
            self._check_known(symbol, "elements")
        if self.elements == ():
            raise ValueError("elements: the list is empty (leave it out to allow all elements)")
        if not self.available():
            raise ValueError("elements: none is left after taking out the forbidden ones")
        if len(self.available()) < self.min_elements:
            raise ValueError(
                f"min_elements: {self.min_elements} is more than the elements available ({', '.join(self.available())})"
            )
        fewest_atoms = sum(self.count_ranges.get(symbol, (1, 1))[0] for symbol in self.required)
        if fewest_atoms > self.max_atoms:
            raise ValueError(
                f"count_ranges: the required elements ({', '.join(self.required)}) take at least {fewest_atoms} atoms, "
                f"more than max_atoms={self.max_atoms}"
            )

    def _check_oxidation_states(self) -> None:
        if self.icsd24_filter is not None and not isinstance(self.icsd24_filter, ICSD24FilterConfig):
            raise ValueError(f"icsd24_filter: {self.icsd24_filter!r} is not an ICSD24FilterConfig of SMACT")
        if self.icsd24_filter is not None and not isinstance(self.icsd24_filter.commonality, str | float | int):
            raise ValueError(f"icsd24_filter: commonality {self.icsd24_filter.commonality!r} is no word and no number")
        if not isinstance(self.oxidation_states, str):
            raise ValueError(
                f"oxidation_states: {self.oxidation_states!r} is not the name of a set "
                f"({', '.join(OXIDATION_STATE_SETS)})"
            )
        oxidation_states(self.oxidation_states, self.icsd24_filter)

    @cached_property
    def reference_counts(self) -> dict[str, int]:
        """Atoms of each element in the reference formula as written, not reduced; empty without one."""
        return {} if self.reference is None else read_reference(self.reference)

    def _check_known(self, symbol: str, where: str) -> None:
        if not self.charge_neutral:
            return
        if symbol not in oxidation_states(self.oxidation_states, self.icsd24_filter):
            raise ValueError(f"{where}: {symbol} has no oxidation state in the set {self.oxidation_states!r}")
        if self.pauling and ELECTRONEGATIVITY[symbol] is None:
            raise ValueError(
                f"{where}: {symbol} has no tabulated electronegativity, which the Pauling rule needs (pauling: true)"
            )

    def available(self) -> tuple[str, ...]:
        """Return the elements that may be used, in ascending electronegativity."""
        symbols = SYMBOLS if self.elements is None else (*self.elements, *self.reference_counts)
        if self.charge_neutral:
            known = oxidation_states(self.oxidation_states, self.icsd24_filter)
            symbols = tuple(s for s in symbols if s in known)
            if self.pauling:
                symbols = tuple(s for s in symbols if ELECTRONEGATIVITY[s] is not None)
        return tuple(sorted(set(symbols) - set(self.forbidden), key=formula_order))

    def rules(self) -> CompositionRules:
        """Return the limits in terms of the available elements."""
        symbols = self.available()
        values = [ELECTRONEGATIVITY[symbol] for symbol in symbols]
        distinct = sorted({value or 0.0 for value in values})
        states = oxidation_states(self.oxidation_states, self.icsd24_filter)
        return CompositionRules(
            tie_group=tuple(distinct.index(value or 0.0) for value in values),
            oxidation_states=tuple(states[s] if self.charge_neutral else (0,) for s in symbols),
            count_range=tuple(self._count_range(s) for s in symbols),
            required=tuple(s in (*self.required, *self.keep) for s in symbols),
            min_elements=self.min_elements,
            max_elements=self.max_elements,
            max_atoms=self.max_atoms,
            multisets=self.multisets,
            edits=self._edit_budget(symbols),
            charge_rule="none" if not self.charge_neutral else "pauling" if self.pauling else "neutral",
        )

    def _count_range(self, symbol: str) -> tuple[int, int]:
        low, high = self.count_ranges.get(symbol, (1, self.max_count))
        if self.max_edits is None:
            return low, high
        count = self.reference_counts.get(symbol, 0)
        edits = 0 if symbol in self.keep else self.max_edits
        return max(low, count - edits), min(high, count + edits)

    def _edit_budget(self, symbols: tuple[str, ...]) -> EditBudget | None:
        if self.max_edits is None:
            return None
        counts = self.reference_counts
        unavailable = sum(count for symbol, count in counts.items() if symbol not in symbols)
        return EditBudget(tuple(counts.get(symbol, 0) for symbol in symbols), unavailable, self.max_edits)

    def describe_conflict(self) -> str:
        """Return one line that names the limits which together leave no composition."""
        limits, conflict = self, []
        for name, _ in self._relaxations():
            changes = dict(limits._relaxations()).get(name)
            if changes is None:  # gone with another limit
                continue
            try:
                relaxed = replace(limits, **changes)
                may_leave_something = build_tables(relaxed.rules()).feasible
            except ValueError:  # the tables would be too large to tell
                may_leave_something = True
            if may_leave_something:
                conflict.append(name)
            else:  # the others are in conflict without it
                limits = relaxed
        return f"no composition satisfies all limits; in conflict: {'; '.join(conflict)}"

    def _relaxations(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each limit that is in force, as text, with what changes without it."""
        if self.elements is not None:
            yield f"elements={','.join(self.elements)}", {"elements": None}
        if self.required:
            yield f"required={','.join(self.required)}", {"required": ()}
        if self.forbidden:
            yield f"forbidden={','.join(self.forbidden)}", {"forbidden": ()}
        for symbol, (low, high) in self.count_ranges.items():
            others = {s: r for s, r in self.count_ranges.items() if s != symbol}
            yield f"count_ranges {symbol}={low}-{high}", {"count_ranges": others}
        if self.keep:
            yield f"keep={','.join(self.keep)}", {"keep": ()}
        if self.min_elements > 2:
            yield f"min_elements={self.min_elements}", {"min_elements": 2}
        if self.max_elements < 5:
            yield f"max_elements={self.max_elements}", {"max_elements": 5}
        atoms, count = self._roomy_sizes()
        if self.max_atoms < atoms:
            yield f"max_atoms={self.max_atoms}", {"max_atoms": atoms}
        if self.max_count < count:
            yield f"max_count={self.max_count}", {"max_count": count}
        if self.reference is not None:
            free: dict[str, Any] = {"reference": None, "max_edits": None, "keep": ()}
            free["max_atoms"] = min(self.max_atoms, DEFAULT_MAX_ATOMS)  # those of a supercell make far larger tables
            free["max_count"] = min(self.max_count, DEFAULT_MAX_COUNT)
            yield f"max_edits={self.max_edits} around reference={self.reference}", free
        if self.multisets is not None:
            yield "what fits on the Wyckoff positions of the allowed space groups", {"multisets": None}
        if self.charge_neutral:
            rule = f"charge neutrality with {self.oxidation_states} oxidation states"
            yield rule + (" and the Pauling rule" if self.pauling else ""), {"charge_neutral": False}

    def _roomy_sizes(self) -> tuple[int, int]:
        """max_atoms and max_count that stand in nobody's way: their defaults, or what large given counts can need.

        What they need is capped, for tables of many more atoms take long to build.
        """
        atoms, count = default_sizes(self.reference, self.max_edits)
        if self.reference is None and self.count_ranges:
            most = max(low for low, _ in self.count_ranges.values())
            count = max(count, min(most, self.max_count + 20, HIGHEST["max_count"]))
            given = [high for _, high in self.count_ranges.values()]
            needed = sum(given) + max(0, self.max_elements - len(given)) * count
            atoms = max(atoms, min(needed, self.max_atoms + 10, HIGHEST["max_atoms"]))
        return atoms, count

    def as_json(self) -> dict[str, object]:
        """Return the limits as JSON-compatible values."""
        values = asdict(self)
        if values.pop("multisets") is not None:
            values["multisets"] = sorted(map(list, self.multisets or ()))
        if self.reference is None:
            values = {name: value for name, value in values.items() if name not in ("reference", "max_edits", "keep")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()} | {
            "count_ranges": {symbol: list(bounds) for symbol, bounds in self.count_ranges.items()},
        }


def _checked_range(symbol: str, value: object) -> tuple[int, int]:
    bounds = tuple(value) if isinstance(value, list | tuple) else ()
    if len(bounds) != 2 or not all(map(is_whole, bounds)) or not 1 <= bounds[0] <= bounds[1]:
        raise ValueError(f"count_ranges: {symbol}: {value!r} is not a pair of counts, lowest and highest, from 1 up")
    if bounds[1] > HIGHEST["max_count"]:
        raise ValueError(f"count_ranges: {symbol}: {bounds[1]} is more than {HIGHEST['max_count']}")
    return int(bounds[0]), int(bounds[1])


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number."""
    return isinstance(value, Integral) and not isinstance(value, bool)  # Integral: NumPy's integers too
