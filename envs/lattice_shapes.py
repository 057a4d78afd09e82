"""Lattice shapes on a grid: axis ratios and angles that the crystal system leaves free, and reduced bases.

A shape has five entries: b/a, c/a, alpha, beta, gamma. Each crystal system fixes some of them; the others take the
centre of a bin. The volume is chosen apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

N_RATIOS = 32
"""Bins of b/a and of c/a."""
N_ANGLES = 16
"""Bins of each angle."""
RATIOS: Tensor = 0.2 * 50 ** ((torch.arange(N_RATIOS, dtype=torch.float64) + 0.5) / N_RATIOS)
"""Centres, from 0.2 to 10, each 1.13 times the one before."""
ANGLES: Tensor = 60 + 60 * (torch.arange(N_ANGLES, dtype=torch.float64) + 0.5) / N_ANGLES
"""Centres of alpha and gamma, from 60 to 120 degrees; see `BETAS`."""
BETAS: Tensor = 60 + 90 * (torch.arange(N_ANGLES, dtype=torch.float64) + 0.5) / N_ANGLES
"""Centres of beta, from 60 to 150 degrees: standard settings of monoclinic groups may need cells that slant far."""

FREE_ENTRIES: Mapping[str, tuple[bool, bool, bool, bool, bool]] = MappingProxyType(
    {
        "triclinic": (True, True, True, True, True),
        "monoclinic": (True, True, False, True, False),
        "orthorhombic": (True, True, False, False, False),
        "tetragonal": (False, True, False, False, False),
        "trigonal": (False, True, False, False, False),
        "hexagonal": (False, True, False, False, False),
        "cubic": (False, False, False, False, False),
    }
)
"""Which of b/a, c/a, alpha, beta, gamma are free; trigonal cells are on hexagonal axes."""
ENTRY_NAMES = ("b/a", "c/a", "alpha", "beta", "gamma")
ENTRY_SIZES = (N_RATIOS, N_RATIOS, N_ANGLES, N_ANGLES, N_ANGLES)
SMALLEST_VOLUME = 0.25
"""Least volume of a cell relative to that of right angles: what is flatter is no cell that anybody would choose."""


def entry_values(entry: int) -> Tensor:
    """Return the bin centres of an entry, ratios or degrees."""
    return (RATIOS, RATIOS, ANGLES, BETAS, ANGLES)[entry]


def nearest_bin(entry: int, value: float) -> int:
    """Return the bin whose centre is nearest, ratios on a logarithmic scale."""
    centres = entry_values(entry)
    if entry < 2:
        return int((centres.log() - torch.tensor(value, dtype=torch.float64).log()).abs().argmin())
    return int((centres - value).abs().argmin())


def shape_lattices(bins: Tensor, hexagonal: Tensor) -> Tensor:
    """Return conventional cells with a = 1, float64 (n, 3, 3), rows are vectors.

    Args:
        bins: Long (n, 5), -1 where the crystal system fixes the entry.
        hexagonal: Bool (n,): whether the fixed gamma is 120 degrees instead of 90.
    """
    b, c, alpha, beta, gamma = _LENGTHS_AND_COSINES[bins + 1, torch.arange(5)].unbind(1)
    gamma = torch.where(hexagonal & (bins[:, 4] < 0), -0.5, gamma)
    sine = (1 - gamma**2).sqrt()
    across = (alpha - beta * gamma) / sine
    height = (1 - beta**2 - across**2).clamp_min(0).sqrt()
    zero, one = torch.zeros_like(b), torch.ones_like(b)
    rows = [one, zero, zero, gamma * b, sine * b, zero, beta * c, across * c, height * c]
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def relative_volume(alpha: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    """Return the volume of cells relative to right angles, from degrees; 0 where there is no such cell."""
    a, b, c = (torch.cos(torch.deg2rad(angle)) for angle in (alpha, beta, gamma))
    return (1 - a**2 - b**2 - c**2 + 2 * a * b * c).clamp_min(0).sqrt()


def allowed_gammas(alpha: Tensor, beta: Tensor) -> Tensor:
    """Return which bins of gamma make a cell of sufficient volume, bool (n, N_ANGLES), for bins of alpha and beta."""
    return _GAMMAS[alpha, beta]


def allowed_betas(alpha: Tensor) -> Tensor:
    """Return which bins of beta leave a gamma, bool (n, N_ANGLES), for bins of alpha."""
    return _GAMMAS[alpha].any(-1)


_GAMMAS = (
    relative_volume(ANGLES[:, None, None], BETAS[None, :, None], ANGLES[None, None, :]) >= SMALLEST_VOLUME
)  # (alpha, beta, gamma)


def reduce_lattices(lattice: Tensor, rounds: int = 24) -> tuple[Tensor, Tensor]:
    """Return Minkowski-reduced bases and how they follow from the given ones.

    In a reduced basis the shortest image of a difference vector, wrapped to [-1/2, 1/2] in each coordinate, is at most
    one lattice vector away along each axis (Nguyen and Stehle 2009).

    Args:
        lattice: Float64 (n, 3, 3), rows are vectors.
        rounds: Most passes; each makes at least one basis shorter.

    Returns:
        The reduced vectors, float64 (n, 3, 3), and long (n, 3, 3) with reduced = transform @ lattice.
    """
    n = len(lattice)
    transform = torch.eye(3, dtype=torch.float64).repeat(n, 1, 1)
    reduced = lattice.clone()
    for _ in range(rounds):
        order = reduced.norm(dim=2).argsort(dim=1, stable=True)[:, :, None].expand(n, 3, 3)
        reduced, transform = reduced.gather(1, order), transform.gather(1, order)
        first, second, third = reduced.unbind(1)
        steps = -torch.round((first * second).sum(1) / (first * first).sum(1))
        best = _closest_pair(first, second, third)
        change = torch.zeros(n, 3, 3, dtype=torch.float64)
        change[:, 1, 0] = steps
        change[:, 2, 0], change[:, 2, 1] = best.unbind(1)
        change[steps != 0, 2] = 0  # the pair first
        if not change.any():
            break
        reduced, transform = reduced + change @ reduced, transform + change @ transform
    return reduced, transform.round().long()


def _closest_pair(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Multiples of the first two vectors that make the third one shortest, float64 (n, 2); 0 unless it gets shorter."""
    a, b, c = (first * first).sum(1), (first * second).sum(1), (second * second).sum(1)
    p, q = (first * third).sum(1), (second * third).sum(1)
    determinant = (a * c - b * b).clamp_min(1e-12)
    centre = torch.stack([-(c * p - b * q) / determinant, -(a * q - b * p) / determinant], dim=1).round()
    candidates = centre[:, None] + _AROUND  # (n, 9, 2)
    vectors = third[:, None] + candidates @ torch.stack([first, second], dim=1)
    lengths = vectors.norm(dim=2)
    shortest, index = lengths.min(1)
    best = candidates[torch.arange(len(first)), index]
    return torch.where((shortest < third.norm(dim=1) * (1 - 1e-9))[:, None], best, 0.0)


def _lengths_and_cosines() -> Tensor:
    """Lengths in units of a and cosines by bin, float64 (N_RATIOS + 1, 5); the first row: what is fixed."""
    table = torch.zeros(N_RATIOS + 1, 5, dtype=torch.float64)
    table[0, :2] = 1.0  # fixed lengths; fixed angles are right
    for entry, size in enumerate(ENTRY_SIZES):
        centres = entry_values(entry)
        table[1 : size + 1, entry] = centres if entry < 2 else torch.cos(torch.deg2rad(centres))
    return table


_LENGTHS_AND_COSINES = _lengths_and_cosines()
_AROUND = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=torch.float64)] * 2)
