"""Sets of charges, packed: charge `lowest + i` is bit i of non-negative int64 words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BITS_PER_WORD = 63
"""The sign bit stays free, so that shifting right fills with zeros."""

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


def n_words(n_charges: int) -> int:
    """Return how many words hold so many charges."""
    return -(-n_charges // BITS_PER_WORD)


def pack_bits(charges: BoolArray) -> IntArray:
    """Pack bool (..., Q) into int64 words (..., W), `BITS_PER_WORD` bits each, lowest charge first."""
    words = n_words(charges.shape[-1])
    padded = np.zeros((*charges.shape[:-1], words * BITS_PER_WORD), dtype=np.int64)
    padded[..., : charges.shape[-1]] = charges
    by_word = padded.reshape(*charges.shape[:-1], words, BITS_PER_WORD)
    packed: IntArray = (by_word << np.arange(BITS_PER_WORD, dtype=np.int64)).sum(axis=-1)
    return packed


def shift(words: Tensor, amounts: Tensor) -> Tensor:
    """Move the bits of packed sets (n, W) up by each of (n, R) amounts, down when negative; return (n, R, W)."""
    word_mask = (1 << BITS_PER_WORD) - 1
    width = words.shape[1]
    if width == 1:
        up = (words << amounts.clamp(0, BITS_PER_WORD)) & word_mask
        return (up >> (-amounts).clamp(0, BITS_PER_WORD)).unsqueeze(-1)
    by_words = amounts.div(BITS_PER_WORD, rounding_mode="floor").unsqueeze(-1)
    by_bits = (amounts % BITS_PER_WORD).unsqueeze(-1)
    source = torch.arange(width) - by_words  # (n, R, W)
    words = words[:, None].expand_as(source)

    def at(position: Tensor) -> Tensor:
        inside = (position >= 0) & (position < width)
        return torch.where(inside, words.gather(2, position.clamp(0, width - 1)), 0)

    return ((at(source) << by_bits) & word_mask) | (at(source - 1) >> (BITS_PER_WORD - by_bits))


def union(sets: Tensor, member: Tensor) -> Tensor:
    """Union over R of packed sets (n, R, W), where they are members (n, R); return (n, W)."""
    total = torch.zeros_like(sets[:, 0])
    for part in torch.where(member.unsqueeze(-1), sets, 0).unbind(1):
        total |= part
    return total
