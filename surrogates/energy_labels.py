"""What models of formation energies share: labels that are checked, and draws with the spread of a prediction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FEWEST_MATERIALS = 20
"""Materials below which nothing is fitted."""


def checked_energies(materials: Sequence[str], labels: Tensor, what: str) -> Tensor:
    """Return formation energies as float (N,).

    Args:
        materials: N of them; one is named in a message.
        labels: In eV/atom, (N,) or (N, 1).
        what: What messages call the materials, such as "crystals".

    Raises:
        ValueError: The labels have another shape, one is not finite, or there are fewer than 20.
    """
    energies = torch.as_tensor(labels, dtype=torch.float32)
    if energies.shape not in ((len(materials),), (len(materials), 1)):
        raise ValueError(
            f"formation energies: expected one label for each of {len(materials)} {what}, not {tuple(energies.shape)}"
        )
    if len(materials) < FEWEST_MATERIALS:
        raise ValueError(f"formation energies: at least {FEWEST_MATERIALS} are needed, not {len(materials)}")
    energies = energies.reshape(len(materials))
    bad = (~torch.isfinite(energies)).nonzero()
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"formation energy of {materials[row]}: expected a finite value in eV/atom, not {float(energies[row]):g}"
        )
    return energies


def standard_deviations(energies: Tensor) -> Tensor:
    """Return by how many standard deviations over members each energy lies off the mean, (S, N).

    Networks agree more closely than they err, so draws are these times the calibrated spread.
    """
    deviation = energies - energies.mean(0)
    return deviation / deviation.square().mean(0).sqrt().clamp_min(1e-9)
