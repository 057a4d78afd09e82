"""What the rest of the project expects of a property model and of an oracle.

To plug in a property model of your own, write a class with these methods and name it in the configuration:

    class MyModel:
        def fit(self, materials, labels): ...            # labels (N, m); returns self
        def members(self, materials): ...                # tensor (S, N, m)
        def predict(self, materials): ...                # Prediction(mean, std), each (N, m)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted properties of N materials."""

    mean: Tensor
    """(N, m)."""

    std: Tensor
    """(N, m), standard deviation in the unit of the mean; 0 for exact properties."""

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: mean and std are not matrices of the same shape.
        """
        if self.mean.ndim != 2 or self.mean.shape != self.std.shape:
            shapes = f"{tuple(self.mean.shape)} and {tuple(self.std.shape)}"
            raise ValueError(f"Prediction: mean and std must both have the shape (N, m), not {shapes}")


@dataclass(frozen=True)
class Label:
    """What an oracle says about one material: values by property, or the reason why it failed."""

    material: str
    values: Mapping[str, float] = field(default_factory=dict)
    """Values by property name, in the property's unit."""

    failure: str | None = None
    """One line when the oracle failed on this material; None when it succeeded."""

    structure: Structure | None = None
    """Relaxed structure, from oracles that relax one."""

    steps: int | None = None
    """Steps of that relaxation."""

    converged: bool | None = None
    """Whether the relaxation converged."""

    prototype: str = ""
    """Structure type that the relaxation started from, when the material was a formula."""


@runtime_checkable
class Surrogate(Protocol):
    """A fast model of m properties with an uncertainty; refitted as labels come in."""

    def fit(self, materials: Sequence[str], labels: Tensor) -> Self:
        """Fit to labels (N, m) and return the model."""
        ...

    def members(self, materials: Sequence[str]) -> Tensor:
        """Return (S, N, m) predictions of S ensemble members or posterior samples."""
        ...

    def predict(self, materials: Sequence[str]) -> Prediction:
        """Return mean and calibrated standard deviation, each (N, m)."""
        ...


@runtime_checkable
class Oracle(Protocol):
    """The expensive truth in the loop.

    An oracle may also have a method `refuses(materials) -> list[str | None]` that tells at no cost why each formula
    could not be labelled, None where it can be tried: a campaign then proposes none of the former. One that can label a
    finite list of materials only may have them as `materials`, formulas: a campaign then draws from these.
    """

    name: str
    version: str
    cost: float
    """Typical cost of a label in core-seconds."""

    def label(self, materials: Sequence[Any]) -> list[Label]:
        """Return one label per material, in order; failures are labels with a reason, not exceptions."""
        ...
