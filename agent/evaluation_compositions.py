"""Figures on a list of compositions: charges, uniqueness, novelty, recovery, and how its chemistry is distributed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from envs.chemistry import MAX_ATOMIC_NUMBER, SYMBOLS
from envs.formula import CompositionBatch
from surrogates.charge_balance import CHARGE_SETTINGS, cdvae_validity, judge_charges
from surrogates.datasets import read_known_formulas
from surrogates.decimal_amounts import whole_amounts
from surrogates.stoichiometry import material_keys

_Name = TypeVar("_Name")
_FRACTION_STEPS = 99_991  # as in `agent.metrics`: no fraction of few atoms lies halfway between two steps


@dataclass(frozen=True)
class ChargeShares:
    """Shares of all compositions under one set of oxidation states; elements alone pass."""

    neutral: float
    """Some choice of one state per element sums to zero."""
    balanced: float
    """Some choice has a cation and an anion, and every cation less electronegative than every anion."""
    neutral_and_balanced: float
    """One choice does both: `smact_validity(include_alloys=False)`."""


@dataclass(frozen=True)
class Recovery:
    """How much of a hold-out was found again."""

    held_out: int
    """Distinct materials of the hold-out."""
    found: int
    """Those of them in the list."""

    @property
    def share(self) -> float:
        """Found of held out."""
        return self.found / self.held_out if self.held_out else 0.0


@dataclass(frozen=True)
class CompositionFigures:
    """Figures on N compositions, N at least 1; the reference is what novelty and distances refer to."""

    n: int
    distinct: int
    """Distinct reduced formulas."""
    unique: float
    """Distinct reduced formulas of all N."""
    novel: float
    """Of the distinct formulas, those that are not in the reference."""
    reference: str
    """What the reference is."""
    n_reference: int
    """Distinct reduced formulas of the reference."""
    charges: Mapping[str, ChargeShares]
    """By set of oxidation states, those of `CHARGE_SETTINGS`."""
    cdvae_valid: float
    """Valid as CDVAE defines it, of all N."""
    valid_unique_novel: float
    """Distinct, novel, and neutral and balanced under icsd24; of all N."""
    element_distance: float
    """Jensen-Shannon distance of how often each element occurs, to the reference, 0 to 1."""
    arity_distance: float
    """Jensen-Shannon distance of the numbers of elements, to the reference, 0 to 1."""
    elements: Mapping[str, tuple[float, float]]
    """Share of the compositions, and of the reference, that contain an element."""
    arities: Mapping[int, tuple[float, float]]
    """Share of the compositions, and of the reference, with a number of elements."""
    chemical_systems: int
    """Distinct sets of elements."""
    systems_covered: float
    """Of the chemical systems of the reference, those that occur."""
    n_reference_systems: int
    not_integer: int
    """Compositions with amounts of more than three decimals, which cannot be neutral."""
    recovery: Recovery | None
    """None without a hold-out."""


@dataclass(frozen=True, eq=False)
class ReferenceFormulas:
    """What novelty and distributions refer to: M distinct compositions."""

    compositions: CompositionBatch
    description: str

    @classmethod
    def embedded(cls) -> ReferenceFormulas:
        """Return the embedded known formulas."""
        return _known_formulas()

    @classmethod
    def of(cls, compositions: CompositionBatch, name: str) -> ReferenceFormulas:
        """Return a user's own, without repetitions."""
        batch = compositions.rows(_first_of_each(composition_keys(compositions)))
        return cls(batch, f"the {len(batch):,} formulas of {name}")

    @cached_property
    def keys(self) -> Tensor:
        """Long (M,), see `composition_keys`."""
        return composition_keys(self.compositions)

    @cached_property
    def element_counts(self) -> Tensor:
        """How many contain each element, long (103,)."""
        return presence(self.compositions).sum(0)

    @cached_property
    def arity_counts(self) -> Tensor:
        """How many have 0, 1, ... elements, long (104,)."""
        return arities(self.compositions)

    @cached_property
    def systems(self) -> set[tuple[int, ...]]:
        """Their chemical systems."""
        return chemical_systems(self.compositions)


@lru_cache(maxsize=1)
def _known_formulas() -> ReferenceFormulas:
    batch = CompositionBatch.from_formulas(read_known_formulas()["formula"])
    return ReferenceFormulas(batch, f"the {len(batch):,} known formulas embedded in MatSmith")


def measure_compositions(
    materials: CompositionBatch, reference: ReferenceFormulas, holdout: CompositionBatch | None = None
) -> CompositionFigures:
    """Return the figures of N compositions.

    Args:
        materials: N compositions, N at least 1.
        reference: What novelty and distributions refer to.
        holdout: Compositions that are to be found again.

    Raises:
        ValueError: There are no compositions, or none in the reference.
    """
    if not len(materials) or not len(reference.compositions):
        raise ValueError("materials: none to measure" if not len(materials) else "reference: no formula in it")
    keys, known = composition_keys(materials), reference.keys
    first = _first_of_each(keys)
    distinct = materials.rows(first)
    copies = _copies(keys, keys[first])
    novel = ~torch.isin(keys[first], known)
    judgements = {name: judge_charges(distinct, name) for name in CHARGE_SETTINGS}

    def share(passed: Tensor) -> float:
        return float((passed * copies).sum()) / len(materials)

    element_counts = presence(materials).sum(0), reference.element_counts
    arity_counts = arities(materials), reference.arity_counts
    systems, known_systems = chemical_systems(distinct), reference.systems
    return CompositionFigures(
        n=len(materials),
        distinct=len(first),
        unique=len(first) / len(materials),
        novel=float(novel.double().mean()),
        reference=reference.description,
        n_reference=len(known),
        charges={
            name: ChargeShares(share(found.neutral), share(found.balanced), share(found.neutral_and_balanced))
            for name, found in judgements.items()
        },
        cdvae_valid=share(cdvae_validity(distinct)),
        valid_unique_novel=float((novel & judgements["icsd24"].neutral_and_balanced).sum()) / len(materials),
        element_distance=jensen_shannon_distance(*element_counts),
        arity_distance=jensen_shannon_distance(*arity_counts),
        elements=_shares(element_counts, (len(materials), len(known)), dict(enumerate(SYMBOLS))),
        arities=_shares(arity_counts, (len(materials), len(known)), {n: n for n in range(MAX_ATOMIC_NUMBER + 1)}),
        chemical_systems=len(systems),
        systems_covered=len(systems & known_systems) / len(known_systems),
        n_reference_systems=len(known_systems),
        not_integer=int((~whole_amounts(materials)[1]).sum()),
        recovery=None if holdout is None else recovery(keys, composition_keys(holdout)),
    )


def jensen_shannon_distance(counts: Tensor, others: Tensor) -> float:
    """Return the square root of the Jensen-Shannon divergence in bits, 0 (equal) to 1 (nothing in common).

    Endres and Schindelin, IEEE Trans. Inf. Theory 49, 1858 (2003).

    Args:
        counts: Float or long (C,), at least 0, not all 0; normalised here.
        others: The same.

    Raises:
        ValueError: Different lengths, or weights that are negative, not finite or 0 throughout.
    """
    if counts.shape != others.shape or counts.ndim != 1:
        raise ValueError(
            f"counts: found shapes {tuple(counts.shape)} and {tuple(others.shape)}, expected the same (C,)"
        )
    for weights in (counts, others):
        if not (torch.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise ValueError("counts: expected finite numbers of at least 0, not all 0")
    p, q = counts.double() / counts.sum(), others.double() / others.sum()
    entropy = torch.special.entr
    divergence = entropy((p + q) / 2).sum() - (entropy(p).sum() + entropy(q).sum()) / 2
    return float((divergence / torch.log(torch.tensor(2.0, dtype=torch.double))).clamp(0, 1).sqrt())


def composition_keys(materials: CompositionBatch) -> Tensor:
    """Return a number per reduced formula, long (N,), equal for equal ones.

    Amounts of more than three decimals are compared by their fractions, to five digits.
    """
    counts, exact = whole_amounts(materials)
    whole = CompositionBatch(materials.atomic_numbers, torch.where(exact[:, None], counts, 1).double())
    keys = material_keys(whole)
    rows = (~exact).nonzero().squeeze(1)
    if len(rows):
        steps = (materials.fractions[rows].double() * _FRACTION_STEPS).round().long().tolist()
        numbers = materials.atomic_numbers[rows].tolist()
        found = [
            hash(tuple(sorted((number, step) for number, step in zip(*pair, strict=True) if number)))
            for pair in zip(numbers, steps, strict=True)
        ]  # hashes of integers are the same in every run
        keys[rows] = torch.tensor(found)
    return keys


def recovery(keys: Tensor, held_out: Tensor) -> Recovery:
    """Return how many of the distinct held-out keys (M,) are among the keys (N,)."""
    distinct = held_out[_first_of_each(held_out)]
    return Recovery(len(distinct), int(torch.isin(distinct, keys).sum()))


def presence(materials: CompositionBatch) -> Tensor:
    """Return which elements each composition contains, bool (N, 103)."""
    found = torch.zeros(len(materials), MAX_ATOMIC_NUMBER + 1, dtype=torch.bool)
    return found.scatter_(1, materials.atomic_numbers, True)[:, 1:]


def arities(materials: CompositionBatch) -> Tensor:
    """Return how many compositions have 0, 1, ... elements, long (104,)."""
    return (materials.atomic_numbers > 0).sum(1).bincount(minlength=MAX_ATOMIC_NUMBER + 1)


def chemical_systems(materials: CompositionBatch) -> set[tuple[int, ...]]:
    """Return the distinct sets of elements, as ascending atomic numbers."""
    ordered = materials.atomic_numbers.sort(1).values.tolist()
    return {tuple(number for number in row if number) for row in ordered}


def most_common_systems(materials: CompositionBatch, most: int = 10) -> list[tuple[str, int]]:
    """Return the chemical systems with the most compositions, as text and how many: ("O-Sr-Ti", 12)."""
    ordered = materials.atomic_numbers.sort(1).values.tolist()
    counts = Counter(tuple(number for number in row if number) for row in ordered)
    named = [("-".join(sorted(SYMBOLS[number - 1] for number in system)), n) for system, n in counts.items()]
    return sorted(named, key=lambda entry: (-entry[1], entry[0]))[:most]


def _first_of_each(keys: Tensor) -> Tensor:
    """Return the rows of the first occurrence of each key, ascending."""
    order = keys.argsort(stable=True, dim=0)
    ordered = keys[order]
    starts = torch.ones(len(keys), dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    return order[starts].sort().values


def _copies(keys: Tensor, distinct: Tensor) -> Tensor:
    """Return how often each of the distinct keys (D,) occurs, long (D,)."""
    ordered = keys.sort().values
    return torch.searchsorted(ordered, distinct, right=True) - torch.searchsorted(ordered, distinct)


def _shares(
    counts: tuple[Tensor, Tensor], totals: tuple[int, int], names: Mapping[int, _Name]
) -> dict[_Name, tuple[float, float]]:
    own, other = (c.tolist() for c in counts)
    return {
        name: (own[place] / totals[0], other[place] / totals[1])
        for place, name in names.items()
        if own[place] or other[place]
    }
