"""What a policy sees of a composition under construction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from envs.charge_sets import BITS_PER_WORD

_CHARGES = BITS_PER_WORD  # charges 0..62 that a policy sees; higher ones occur only far outside the defaults
_ATOMS = 20
_ELEMENTS = 6
_COUNT_UNIT = 8


class CompositionFeatures:
    """States -> features, float (n, F).

    Args:
        elements: The elements of the space, in order.
        lowest_charge: Charge of the first bit of a charge set.
    """

    def __init__(self, elements: Sequence[str], lowest_charge: int) -> None:
        self.elements = tuple(elements)
        self._position = torch.arange(_CHARGES) - lowest_charge  # of each charge among the bits of a set

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Presence and count of each element, elements and atoms used, common divisor, charges within reach."""
        return (
            *(f"has {symbol}" for symbol in self.elements),
            *(f"count {symbol}" for symbol in self.elements),
            *(f"last {symbol}" for symbol in self.elements),
            *(f"{n} elements" for n in range(_ELEMENTS)),
            *(f">= {n} atoms" for n in range(1, _ATOMS + 1)),
            *("counts coprime", "counts even", "may stop"),
            *(f"charge {q:+d} without anion" for q in range(_CHARGES)),
            *(f"charge {q:+d} with anion" for q in range(_CHARGES)),
        )

    def highest_counts(self, count_range: Sequence[tuple[int, int]]) -> tuple[slice, Tensor]:
        """Return which features are counts, and the highest value of each."""
        n = len(self.elements)
        return slice(n, 2 * n), torch.tensor([high / _COUNT_UNIT for _, high in count_range])

    def __call__(
        self, element: Tensor, count: Tensor, last: Tensor, used: Tensor, may_stop: Tensor, charges: Sequence[Tensor]
    ) -> Tensor:
        """Return the features, float (n, F), in the order of `names`.

        Args:
            element: Elements placed by their index + 1, 0 for none, long (n, k).
            count: Atoms of each, long (n, k).
            last: Index + 1 of the element placed last, 0 for none, long (n,).
            used: Elements placed, atoms placed and greatest common divisor of the counts, long (n, 3).
            may_stop: Whether the composition is valid as it is, bool (n,).
            charges: Packed sets of the charges within reach without and with an anion, long (n, W) each.
        """
        by_element = torch.zeros(len(last), 3, len(self.elements) + 1)
        by_element[:, 0].scatter_(1, element, 1.0)
        by_element[:, 1].scatter_(1, element, count / _COUNT_UNIT)
        by_element[:, 2].scatter_(1, last[:, None], 1.0)
        n_elements = torch.zeros(len(last), _ELEMENTS).scatter_(1, used[:, :1].clamp_max(_ELEMENTS - 1), 1.0)
        atoms = (used[:, 1:2] >= torch.arange(1, _ATOMS + 1)).float()
        divisor = torch.stack([used[:, 2] == 1, used[:, 2] % 2 == 0, may_stop], dim=1).float()
        bits = [self._charge_bits(words) for words in charges]
        return torch.cat([by_element[:, :, 1:].flatten(1), n_elements, atoms, divisor, *bits], dim=1)

    def _charge_bits(self, words: Tensor) -> Tensor:
        """Charges 0.._CHARGES - 1 of packed sets (n, W), float (n, _CHARGES)."""
        exists = self._position < words.shape[1] * BITS_PER_WORD  # not n_charges, which would differ between spaces
        position = torch.where(exists, self._position, 0)
        bits = (words[:, position // BITS_PER_WORD] >> (position % BITS_PER_WORD)) & 1
        return (bits * exists).float()
