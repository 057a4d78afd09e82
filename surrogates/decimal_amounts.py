"""Amounts of doped compositions as whole numbers: La0.825Sr0.175MnO3 is La33Sr7Mn40O120."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.formula import CompositionBatch
from surrogates.stoichiometry import integer_amounts

_SCALES = (100, 1000)
_TOLERANCE = 2e-3
_PRECISION = 2e-7  # relative, of single precision


def whole_amounts(materials: CompositionBatch) -> tuple[Tensor, Tensor]:
    """Return the amounts as whole numbers without common divisor, long (N, K), and which rows are exact, bool (N,).

    As `integer_amounts`, and where no factor up to 20 makes all amounts integers, 100 or 1000 is tried; amounts with
    more digits are 0 and not exact.
    """
    counts, exact = integer_amounts(materials)
    if bool(exact.all()):
        return counts, exact
    amounts = materials.amounts.double()
    for scale in _SCALES:
        scaled = amounts * scale
        rounded = scaled.round()
        near = (scaled - rounded).abs() < torch.clamp_min(scaled * _PRECISION, _TOLERANCE)
        fits = ~exact & (near & ((rounded > 0) | (amounts == 0))).all(1)
        counts = torch.where(fits[:, None], rounded.long(), counts)
        exact = exact | fits
    divisor = counts[:, 0]
    for column in range(1, counts.shape[1]):
        divisor = torch.gcd(divisor, counts[:, column])
    return counts // divisor.clamp_min(1)[:, None], exact
