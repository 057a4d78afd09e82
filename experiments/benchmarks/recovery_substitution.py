"""Species substitution into known formulas, one of the contestants of `recovery.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from envs import CompositionBatch, CompositionSpace
from envs.chemistry import ATOMIC_NUMBERS, oxidation_states
from envs.formula import parse_formula, reduce_amounts
from envs.oxidation import assign_oxidation_states


@dataclass(frozen=True, eq=False)
class IonTable:
    """Which ions replace which, after Hautier et al., Inorg. Chem. 50, 656 (2011)."""

    ions: list[tuple[str, int]]
    """Symbol and charge."""
    weights: np.ndarray
    """Float (ions, ions): odds that the ion of a column replaces that of the row; 0 for itself."""


@lru_cache(maxsize=1)
def ion_table() -> IonTable:
    """Return pymatgen's table, `SubstitutionProbability`."""
    from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionProbability

    table = SubstitutionProbability()
    ions = sorted(
        (ion for ion in table.species if ion.symbol in ATOMIC_NUMBERS),
        key=lambda ion: (ATOMIC_NUMBERS[ion.symbol], ion.oxi_state),
    )
    weights = np.exp([[table.get_lambda(new, old) for new in ions] for old in ions])
    np.fill_diagonal(weights, 0.0)
    return IonTable([(ion.symbol, int(ion.oxi_state)) for ion in ions], weights)


class Substitution:
    """Known formulas with one or two ions exchanged, by the probability that one replaces the other.

    The probabilities are those of Hautier et al., Inorg. Chem. 50, 656 (2011), as tabulated in pymatgen
    (`SubstitutionProbability`); they were learned from the ICSD, so the table has seen most of what is held out here.
    Oxidation states of a formula are its most common neutral ones. A formula, the number of ions and the ions to leave
    are drawn uniformly, the ions to come in proportion to their probability given those that leave; draws that are not
    neutral, or hold an element twice, are no composition.

    Args:
        space: The space whose oxidation states are used.
        training: Formulas inside the space.
    """

    may_be_invalid = True
    parameters = 0

    def __init__(self, space: CompositionSpace, training: Sequence[str]) -> None:
        table = ion_table()
        index = {ion: place for place, ion in enumerate(table.ions)}
        self._numbers = np.array([*(ATOMIC_NUMBERS[symbol] for symbol, _ in table.ions), 0])
        self._charges = np.array([*(charge for _, charge in table.ions), 0])
        self._cumulative = table.weights.cumsum(1) / table.weights.sum(1, keepdims=True)
        states = oxidation_states(space.limits.oxidation_states)
        found, counts = [], []
        for formula in training:
            amounts = {symbol: int(n) for symbol, n in reduce_amounts(parse_formula(formula)).items()}
            chosen = assign_oxidation_states(amounts, states) or {}
            places = [index.get((symbol, charge)) for symbol, charge in chosen.items()]
            if chosen and None not in places:
                found.append(places)
                counts.append([amounts[symbol] for symbol in chosen])
        width = max(map(len, found), default=1)
        self._ions = np.array([row + [len(index)] * (width - len(row)) for row in found]).reshape(-1, width)
        self._counts = np.array([row + [0] * (width - len(row)) for row in counts]).reshape(-1, width)
        self.note = f"{len(found):,} of {len(training):,} formulas have ions of the table only and are substituted into"

    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> CompositionBatch:
        """Return n samples; see `Contestant`."""

        def uniform(*shape: int) -> np.ndarray:
            return torch.rand(shape, generator=generator, dtype=torch.double).numpy()

        rows = (uniform(n) * len(self._ions)).astype(int)
        ions, counts = self._ions[rows], self._counts[rows]
        order = np.where(counts > 0, uniform(*ions.shape), 2.0).argsort(1)  # the elements of each in random order
        ions, counts = np.take_along_axis(ions, order, 1), np.take_along_axis(counts, order, 1)
        for column, replaced in enumerate([np.ones(n, bool), uniform(n) < 0.5][: ions.shape[1]]):
            drawn = (self._cumulative[ions[replaced, column]] <= uniform(int(replaced.sum()))[:, None]).sum(1)
            ions[replaced, column] = drawn.clip(max=len(self._cumulative) - 1)
        numbers = self._numbers[ions]
        ordered = np.sort(numbers, axis=1)
        repeated = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any(1)
        fails = repeated | ((self._charges[ions] * counts).sum(1) != 0)
        numbers[fails], counts[fails] = 0, 0
        return CompositionBatch(torch.from_numpy(numbers), torch.from_numpy(counts).float())

    def likelihood(self, formulas: Sequence[str], temperature: float = 1.0) -> None:
        """Return None: a formula arises in many ways, which are not summed."""
        return
