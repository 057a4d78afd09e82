"""How the structure-to-energy network is built and trained; apart from the training itself, which is slow to import."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class GraphOptions:
    """Shape and training of the network."""

    units: int = 32
    blocks: int = 2
    cutoff: float = 4.5
    """Å, after the structures were scaled until their atoms touch."""
    radial_functions: int = 20
    radial_sharpness: float = 8.0
    """Å⁻²; the radial functions are exp(-sharpness (r - r_k)²)."""
    batch: int = 64
    epochs: int = 20
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    warm_epochs: int = 5
    """Passes of a warm start; more for few structures, until `warm_steps` are done."""
    warm_steps: int = 100
    warm_learning_rate: float = 5e-4
    held_out: int = 10
    """One of this many parts of the chemical systems is kept back: it picks the weights and calibrates the spread."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is not positive, or `held_out` is below 2; the message names it.
        """
        for name, value in vars(self).items():
            low = 2 if name == "held_out" else 0
            if not (value >= low if name in ("held_out", "weight_decay") else value > low):
                raise ValueError(f"GraphOptions: {name} must be {'at least 2' if low else 'positive'}, not {value!r}")

    def default_epochs(self, structures: int, warm_start: bool) -> int:
        """Return the passes over this many structures when the caller names none."""
        if not warm_start:
            return self.epochs
        return max(self.warm_epochs, ceil(self.warm_steps / ceil(structures / self.batch)))
