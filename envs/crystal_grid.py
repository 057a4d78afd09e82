"""The grids on which free coordinates and volumes are chosen."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.element_sizes import element_sizes

N_COORDINATES = 24
"""Values of each free coordinate."""
OFFSETS: Tensor = torch.tensor([0.5, 0.3, 0.65], dtype=torch.float64)
"""The values of x, y, z are (k + offset) / 24. Chosen so that no point of a grid lies on an axis, plane or centre of
symmetry of its own: not on x = y, x = -y, x = 2y, and so on, nor on a multiple of 1/24. 24 values leave room for 20
atoms on any line."""
N_VOLUMES = 16
"""Bins of the volume."""
VOLUME_RATIOS: Tensor = 0.72 * 1.07 ** torch.arange(N_VOLUMES, dtype=torch.float64)
"""Volume relative to the sum of the elements' volumes, 0.72 to 1.99. Of 4,387 relaxed compounds (CHGNet) 98 % lie
between 0.80 and 1.70. The last bin stretches as far as it must for all atoms to keep their distance."""


def coordinates(bins: Tensor) -> Tensor:
    """Return coordinates x, y, z, float64 (..., 3), from their bins, long (..., 3); 0 where the bin is -1."""
    return torch.where(bins >= 0, (bins + OFFSETS) / N_COORDINATES, 0.0)


def axis_values(axis: Tensor) -> Tensor:
    """Return all values of the coordinates along axes 0-2, float64 (..., N_COORDINATES), from long (...)."""
    return (torch.arange(N_COORDINATES) + OFFSETS[axis][..., None]) / N_COORDINATES


def coordinate_bins(values: Tensor) -> Tensor:
    """Return the bin nearest to each coordinate, long (..., 3), from (..., 3)."""
    return (values * N_COORDINATES - OFFSETS).round().long() % N_COORDINATES


def volumes_of_elements(atomic_numbers: Tensor, counts: Tensor) -> Tensor:
    """Return the sum of the elements' volumes, float64 (n,), A3, from long (n, K) each."""
    return (element_sizes().volume[atomic_numbers].double() * counts).sum(1)
