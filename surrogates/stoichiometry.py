"""Batched integer stoichiometry: amounts as smallest integers, and a key that is equal for equal materials."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from envs.chemistry import MAX_ATOMIC_NUMBER
from envs.formula import CompositionBatch

MAX_SCALE = 20
_TOLERANCE = 1e-3


def integer_amounts(materials: CompositionBatch) -> tuple[Tensor, Tensor]:
    """Return the amounts without common divisor, long (N, K), and which rows are exact, bool (N,).

    Fractional amounts are multiplied by the smallest factor up to 20 that makes all of them integers; where there is
    none the row is not exact and its amounts are 0.
    """
    amounts = materials.amounts.double()
    rounded, exact = amounts.round(), _near_integers(amounts)
    if not bool(exact.all()):
        for scale in range(2, MAX_SCALE + 1):
            scaled = amounts * scale
            fits = _near_integers(scaled) & ~exact
            rounded = torch.where(fits.unsqueeze(1), scaled.round(), rounded)
            exact = exact | fits
    integers = rounded.long() * exact.unsqueeze(1)
    divisor = integers[:, 0]
    for column in range(1, integers.shape[1]):
        divisor = torch.gcd(divisor, integers[:, column])
    return integers // divisor.clamp_min(1).unsqueeze(1), exact


def _near_integers(amounts: Tensor) -> Tensor:
    rounded = amounts.round()
    return (((amounts - rounded).abs() < _TOLERANCE) & ((rounded > 0) | (amounts == 0))).all(1)


@lru_cache(maxsize=1)
def _key_of_element() -> Tensor:
    generator = torch.Generator().manual_seed(2**31 - 1)
    keys = torch.randint(-(2**63), 2**63 - 1, (MAX_ATOMIC_NUMBER + 1,), generator=generator, dtype=torch.int64)
    keys[0] = 0
    return keys


def material_keys(materials: CompositionBatch) -> Tensor:
    """Return a 64-bit key per reduced formula, long (N,); rows without integer amounts get the key 0.

    Equal reduced formulas have equal keys, whatever the order of the elements; the chance that two different formulas
    share a key is 2^-64.
    """
    amounts, _ = integer_amounts(materials)
    return (_key_of_element()[materials.atomic_numbers] * amounts).sum(1)
