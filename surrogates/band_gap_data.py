"""What the band-gap model learns from: measured gaps and classes, and classes computed from transport."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from envs.formula import CompositionBatch
from surrogates.datasets import read_band_gaps, read_known_formulas, read_metal_classes


@dataclass(frozen=True, eq=False)
class LabelledMaterials:
    """Compositions with one label each."""

    materials: CompositionBatch
    labels: Tensor
    """Float (N,)."""

    def rows(self, index: Tensor) -> LabelledMaterials:
        """Return the rows that a long or boolean index selects."""
        return LabelledMaterials(self.materials.rows(index), self.labels[index])

    def without(self, formulas: set[str]) -> LabelledMaterials:
        """Return the rows whose formula is not among the given reduced formulas."""
        return self.rows(torch.tensor([formula not in formulas for formula in self.materials], dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.materials)


@lru_cache(maxsize=1)
def measured_gaps() -> LabelledMaterials:
    """Return the experimental band gaps in eV, 0 for metals.

    A non-metal of the class table whose gap is not tabulated is left out.
    """
    gaps, classes = read_band_gaps(), read_metal_classes()
    metals = classes.loc[(classes["gapped"] == 0) & ~classes["formula"].isin(gaps["formula"]), "formula"]
    labels = torch.cat([torch.tensor(gaps["band_gap_eV"].to_numpy(dtype="float32")), torch.zeros(len(metals))])
    return LabelledMaterials(CompositionBatch.from_formulas([*gaps["formula"], *metals]), labels)


@lru_cache(maxsize=1)
def computed_classes() -> LabelledMaterials:
    """Return, for each formula of the transport table, the share of its structures that are gapped (0 to 1)."""
    table = read_known_formulas()
    table = table[table["entries"] > 0]
    labels = torch.tensor(table["gapped"].to_numpy(dtype="float32"))
    return LabelledMaterials(CompositionBatch.from_formulas(table["formula"]), labels)
