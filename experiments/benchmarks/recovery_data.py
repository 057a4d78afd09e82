"""What `recovery.py` is measured on: the known formulas split in two, strings of atoms, distinct samples counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agent.evaluation_compositions import composition_keys
from envs import CompositionBatch, CompositionSpace
from envs.chemistry import ATOMIC_NUMBERS, SYMBOLS, formula_order
from envs.formula import chemical_system, parse_formula, reduce_amounts
from surrogates.charge_balance import judge_charges
from surrogates.stoichiometry import integer_amounts

SPLITS = ["systems", "random"]


@dataclass(frozen=True)
class Split:
    """Known formulas in two parts; no reduced formula is in both."""

    name: str
    training: list[str]
    """The remaining formulas inside the space, what every contestant learns from."""
    reachable: list[str]
    """The held-out formulas inside the space, what is to be found."""
    n_held_out: int
    """Held-out formulas, inside the space or not."""

    @property
    def reachable_share(self) -> float:
        """Reachable of held out."""
        return len(self.reachable) / self.n_held_out


def distinct_formulas(formulas: Sequence[str]) -> list[str]:
    """Return the first formula of each reduced composition, in the order given."""
    keys = composition_keys(CompositionBatch.from_formulas(formulas)).numpy()
    return [formulas[place] for place in np.sort(np.unique(keys, return_index=True)[1])]


def held_out_places(name: str, formulas: Sequence[str], share: float, seed: int) -> list[int]:
    """Return the places of the formulas that are held out, ascending.

    Args:
        name: "random": each formula alike; "systems": whole chemical systems, until the share is reached.
        formulas: Distinct formulas.
        share: Of the formulas, 0 to 1.
        seed: Source of all randomness.

    Raises:
        ValueError: Unknown split.
    """
    if name not in SPLITS:
        raise ValueError(f"splits: unknown split {name!r} (expected some of {', '.join(SPLITS)})")
    generator = torch.Generator().manual_seed(seed)
    n_held_out = round(share * len(formulas))
    if name == "random":
        return sorted(torch.randperm(len(formulas), generator=generator)[:n_held_out].tolist())
    members: dict[str, list[int]] = defaultdict(list)
    for place, formula in enumerate(formulas):
        members[chemical_system(formula)].append(place)
    systems, held_out = sorted(members), []
    for number in torch.randperm(len(systems), generator=generator).tolist():
        if len(held_out) >= n_held_out:
            break
        held_out += members[systems[number]]
    return sorted(held_out)


def split_formulas(name: str, space: CompositionSpace, formulas: Sequence[str], share: float, seed: int) -> Split:
    """Return a split of distinct formulas; see `held_out_places`."""
    held_out = set(held_out_places(name, formulas, share, seed))
    inside = [reason is None for reason in space.explain(formulas)]
    training = [f for place, f in enumerate(formulas) if inside[place] and place not in held_out]
    reachable = [f for place, f in enumerate(formulas) if inside[place] and place in held_out]
    return Split(name, training, reachable, len(held_out))


def without_a_twentieth(n: int, seed: int) -> tuple[list[int], list[int]]:
    """Return which of n formulas to fit on and which twentieth to stop early by: the same as in `Prior.fit`."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    n_held_out = max(n // 20, 5)
    return order[n_held_out:], order[:n_held_out]


@dataclass(frozen=True)
class IonicShares:
    """Formulas that pass SMACT's rules (`smact_validity(include_alloys=False)`), and those that encode in a space."""

    ionic: int
    within_limits: int
    """Those of them within the space's elements, number of elements, atoms and counts."""
    encoded: int


def ionic_shares(space: CompositionSpace, formulas: Sequence[str]) -> IonicShares:
    """Return how many formulas of at least two elements are ionic, and how many of those the space can build."""
    materials = CompositionBatch.from_formulas(formulas)
    ionic = judge_charges(materials).neutral_and_balanced & ((materials.atomic_numbers > 0).sum(1) > 1)
    reasons = [None if reason is None else reason.split(":")[0] for reason in space.explain(formulas)]
    within = ionic & torch.tensor([reason in (None, "charge") for reason in reasons])
    encoded = ionic & torch.tensor([reason is None for reason in reasons])
    return IonicShares(int(ionic.sum()), int(within.sum()), int(encoded.sum()))


def is_inside(space: CompositionSpace, materials: CompositionBatch) -> Tensor:
    """Return which compositions of whole amounts a space without reference accepts, bool (N,): `space.explain`."""
    counts, exact = integer_amounts(materials)
    rank = torch.full((len(SYMBOLS) + 1,), len(SYMBOLS))  # padding sorts last
    for place, symbol in enumerate(sorted(SYMBOLS, key=formula_order)):
        rank[ATOMIC_NUMBERS[symbol]] = place
    action_of = torch.full((len(SYMBOLS) + 1,), -1)
    for place, symbol in enumerate(space.elements):
        action_of[ATOMIC_NUMBERS[symbol]] = place * space.rules.max_count
    order = rank[materials.atomic_numbers].argsort(dim=1)
    numbers, counts = materials.atomic_numbers.gather(1, order), counts.gather(1, order)
    present = numbers > 0
    known = (action_of[numbers] >= 0) & (counts >= 1) & (counts <= space.rules.max_count)
    valid = exact & (known | ~present).all(1) & present.any(1) & (present.sum(1) < space.max_steps)
    rows = valid.nonzero().squeeze(1)
    actions = torch.full((len(rows), space.max_steps), space.stop)
    width = min(numbers.shape[1], space.max_steps - 1)
    placing = action_of[numbers] + counts - 1
    actions[:, :width] = torch.where(present, placing, space.stop)[rows, :width]
    state, allowed = space.initial(len(rows)), torch.ones(len(rows), dtype=torch.bool)
    for column in actions.T:
        allowed &= space.allowed(state, column)
        state = space.step(state, torch.where(allowed, column, space.stop))
    valid[rows] = allowed
    return valid


class AtomStrings:
    """Formulas as strings of element symbols, one an atom, in ascending electronegativity: "Sr Ti O O O".

    Tokens are the elements of a space, then `end`, `begin` and `padding`.

    Args:
        space: The space whose elements, and whose most atoms, are those of the strings.
    """

    def __init__(self, space: CompositionSpace) -> None:
        self.symbols = sorted(space.elements, key=formula_order)
        self.end = len(self.symbols)
        self.begin, self.padding = self.end + 1, self.end + 2
        self.n_outcomes, self.n_tokens = self.end + 1, self.end + 3
        """Tokens that can follow (elements and the end), and all tokens."""
        self.length = space.limits.max_atoms + 1
        """Tokens of the longest string, its end included."""
        self._index = {symbol: token for token, symbol in enumerate(self.symbols)}
        self._atomic_numbers = torch.tensor([ATOMIC_NUMBERS[symbol] for symbol in self.symbols])

    def encode(self, formulas: Sequence[str]) -> Tensor:
        """Return the tokens of reduced formulas, their end included, long (n, length), padded on the right."""
        tokens = torch.full((len(formulas), self.length), self.padding)
        for row, formula in enumerate(formulas):
            amounts = reduce_amounts(parse_formula(formula))
            atoms = [self._index[s] for s in sorted(amounts, key=formula_order) for _ in range(int(amounts[s]))]
            tokens[row, : len(atoms) + 1] = torch.tensor([*atoms, self.end])
        return tokens

    def decode(self, tokens: Tensor) -> CompositionBatch:
        """Return compositions of strings in any order of atoms; a string that is empty or has no end: no element."""
        counts = torch.zeros(len(tokens), self.n_tokens)
        counts.scatter_add_(1, tokens, torch.ones(tokens.shape))
        counts = counts[:, : self.end] * (tokens == self.end).any(1, keepdim=True)
        absent = counts == 0
        width = max(1, int((~absent).sum(1).max()) if len(tokens) else 1)
        columns = absent.to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        amounts = counts.gather(1, columns)
        return CompositionBatch(torch.where(amounts > 0, self._atomic_numbers[columns], 0), amounts)


@dataclass(frozen=True)
class Checkpoint:
    """What had been found when so many distinct materials were drawn."""

    distinct: int
    draws: int
    """Samples drawn until then, repeated and unreadable ones included."""
    found: int
    """Held-out materials among the distinct ones."""


class DistinctCounter:
    """Counts distinct materials in the order of drawing and notes what was found at given numbers of them.

    Args:
        held_out: Keys to be found, distinct, int64 (M,).
        counts: Numbers of distinct materials at which to note, ascending.
        known: Keys that do not count, int64 (K,).
    """

    def __init__(self, held_out: np.ndarray, counts: Sequence[int], known: np.ndarray | None = None) -> None:
        self.checkpoints: list[Checkpoint] = []
        self.last = Checkpoint(0, 0, 0)
        """As it stands."""
        self._held_out, self._counts = np.sort(held_out), list(counts)
        self._seen = np.unique(known) if known is not None else np.empty(0, np.int64)

    @property
    def is_complete(self) -> bool:
        """Whether every number was reached."""
        return len(self.checkpoints) == len(self._counts)

    def add(self, keys: np.ndarray, draws: np.ndarray, n_draws: int) -> int:
        """Count a batch and return how many materials were new.

        Args:
            keys: Of the materials in the order of drawing, int64 (n,).
            draws: Samples drawn until each of them, it included, int64 (n,).
            n_draws: Samples drawn until the end of the batch.
        """
        distinct, first = np.unique(keys, return_index=True)
        places = np.searchsorted(self._seen, distinct)
        fresh = ~_is_in(self._seen, places, distinct)
        distinct, first, places = distinct[fresh], first[fresh], places[fresh]
        self._seen = np.insert(self._seen, places, distinct)
        first.sort()
        new = keys[first]
        found = self.last.found + np.cumsum(_is_in(self._held_out, np.searchsorted(self._held_out, new), new))
        before, after = self.last.distinct, self.last.distinct + len(new)
        while not self.is_complete and self._counts[len(self.checkpoints)] <= after:
            count = self._counts[len(self.checkpoints)]
            place = count - before - 1
            self.checkpoints.append(Checkpoint(count, int(draws[first[place]]), int(found[place])))
        self.last = Checkpoint(after, n_draws, int(found[-1]) if len(new) else self.last.found)
        return len(new)


def _is_in(ordered: np.ndarray, places: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Whether keys stand in an ascending array at the places where they would be inserted, bool (n,)."""
    if not len(ordered):
        return np.zeros(len(keys), bool)
    return ordered[np.minimum(places, len(ordered) - 1)] == keys
