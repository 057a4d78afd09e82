"""Known materials: is a composition among them, and which of them are nearest.

"Known" means that the reduced formula is in the embedded list (`read_known_formulas`); "novel" is its negation.

Distances are root-mean-square differences of the element-property means and deviations of two compositions, each in
units of its standard deviation over the known materials: 0 for equal compositions, 1.3 is the median of random pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from envs.formula import CompositionBatch
from surrogates.band_gap_data import measured_gaps
from surrogates.datasets import read_known_formulas
from surrogates.features import composition_features, element_property_names
from surrogates.stoichiometry import material_keys

_CHUNK = 256


@dataclass(frozen=True, eq=False)
class NearestMaterials:
    """The k nearest known materials of each of N compositions, nearest first."""

    formulas: list[list[str]]
    """N lists of k reduced formulas."""

    distances: Tensor
    """(N, k)."""

    measured_gap: Tensor
    """(N, k), experimental band gap in eV, 0 for a metal, NaN where none is tabulated."""


@dataclass(frozen=True, eq=False)
class _KnownMaterials:
    formulas: list[str]
    keys: Tensor  # sorted, of the formulas with integer amounts
    points: Tensor  # (M, D)
    measured_gap: Tensor  # (M,)
    training_points: Tensor
    location: Tensor
    scale: Tensor


def is_known(materials: CompositionBatch) -> Tensor:
    """Return whether the reduced formula of each material is among the known ones, bool (N,)."""
    known = _known_materials().keys
    keys = material_keys(materials)
    place = torch.searchsorted(known, keys).clamp_max(len(known) - 1)
    return known[place] == keys


def nearest(materials: CompositionBatch, k: int = 3) -> NearestMaterials:
    """Return the k nearest known materials of each composition; a known composition is its own nearest.

    Raises:
        ValueError: k is not between 1 and the number of known materials.
    """
    known = _known_materials()
    if not 1 <= k <= len(known.formulas):
        raise ValueError(f"k: expected 1 to {len(known.formulas)}, not {k}")
    distances, index = _smallest_distances(_points(materials, known), known.points, k)
    formulas = [[known.formulas[column] for column in row] for row in index.tolist()]
    return NearestMaterials(formulas, distances, known.measured_gap[index])


def distance_to_training(materials: CompositionBatch) -> Tensor:
    """Return the distance of each composition to the nearest one with a measured band gap above zero, (N,)."""
    known = _known_materials()
    return _smallest_distances(_points(materials, known), known.training_points, 1)[0].squeeze(1)


def distance_between(materials: CompositionBatch, others: CompositionBatch) -> Tensor:
    """Return the distance of each composition to the nearest of others, (N,); infinite when there are none."""
    if not len(others):
        return torch.full((len(materials),), torch.inf)
    known = _known_materials()
    return _smallest_distances(_points(materials, known), _points(others, known), 1)[0].squeeze(1)


def _descriptors(materials: CompositionBatch) -> Tensor:
    """Return means and deviations of the element properties, (N, D)."""
    return composition_features(materials)[:, : 2 * len(element_property_names())]


def _points(materials: CompositionBatch, known: _KnownMaterials) -> Tensor:
    return (_descriptors(materials) - known.location) / known.scale


def _smallest_distances(points: Tensor, others: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k smallest root-mean-square differences of each row and their indices, each (N, k)."""
    squares = others.square().sum(1)
    index = torch.cat(
        [
            (squares - 2 * part @ others.T).topk(k, dim=1, largest=False, sorted=True).indices
            for part in torch.split(points, _CHUNK)
        ]
        or [torch.zeros(0, k, dtype=torch.long)]
    )
    distances = (points.unsqueeze(1) - others[index]).square().mean(2).sqrt()
    distances, order = distances.sort(stable=True, dim=1)  # the differences are exact where the products round
    return distances, index.gather(1, order)


@lru_cache(maxsize=1)
def _known_materials() -> _KnownMaterials:
    formulas = list(read_known_formulas()["formula"])
    batch = CompositionBatch.from_formulas(formulas)
    descriptors = _descriptors(batch)
    location, scale = descriptors.mean(0), descriptors.std(0).clamp_min(1e-3)
    measured = measured_gaps()
    gap_of = dict(zip(measured.materials, measured.labels.tolist(), strict=True))
    gapped = measured.materials.rows(measured.labels > 0)
    return _KnownMaterials(
        formulas=formulas,
        keys=material_keys(batch).sort().values,
        points=(descriptors - location) / scale,
        measured_gap=torch.tensor([gap_of.get(formula, float("nan")) for formula in formulas]),
        training_points=(_descriptors(gapped) - location) / scale,
        location=location,
        scale=scale,
    )
