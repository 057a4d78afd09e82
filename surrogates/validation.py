"""Cross-validation that keeps all compositions of a chemical system in the same fold."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.chemistry import MAX_ATOMIC_NUMBER
from envs.formula import CompositionBatch


def chemical_system_groups(materials: CompositionBatch) -> Tensor:
    """Return a group number per composition, long (N,); equal numbers mean the same set of elements."""
    present = torch.zeros(len(materials), MAX_ATOMIC_NUMBER + 1)
    present.scatter_add_(1, materials.atomic_numbers, (materials.amounts > 0).float())
    groups: Tensor = torch.unique(present > 0, dim=0, return_inverse=True)[1]
    return groups


def grouped_folds(materials: CompositionBatch, folds: int, seed: int) -> Tensor:
    """Return the fold of each composition, long (N,), 0 to folds - 1; a chemical system is never split."""
    groups = chemical_system_groups(materials)
    generator = torch.Generator().manual_seed(seed)
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    fold_of_group = torch.randperm(n_groups, generator=generator) % folds
    return fold_of_group[groups]
