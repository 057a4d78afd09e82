"""Settings of the conditions that one policy answers. Importing this costs nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ConditionOptions:
    """Which conditions a policy is trained for, and how they are drawn while training.

    Raises:
        ValueError: A value out of range; the message names it.
    """

    preference: bool = True
    """Whether any preference over the objectives can be asked for, or only the objectives' own weights."""
    beta_range: tuple[float, float] | None = (1.0, 32.0)
    """Lowest and highest beta that can be asked for; null: only the run's own beta."""
    prior_weight_range: tuple[float, float] | None = None
    """Lowest and highest prior_weight that can be asked for, within 0..1; null: only the run's own."""
    own_share: float = 0.25
    """Share of the trajectories at the run's own weights, beta, targets and prior_weight; the others are drawn from all
    there are."""
    corner_share: float = 0.1
    """Share of the drawn preferences that want one objective alone; the others are uniform on the simplex."""

    def __post_init__(self) -> None:
        if self.beta_range is not None:
            low, high = self._read_interval("beta_range")
            if not 0 < low < high < 1000:
                raise ValueError(f"beta_range: [{low:g}, {high:g}] is not an interval of positive numbers below 1000")
        if self.prior_weight_range is not None:
            low, high = self._read_interval("prior_weight_range")
            if not 0 <= low < high <= 1:
                raise ValueError(f"prior_weight_range: [{low:g}, {high:g}] is not an interval within 0..1")
        for name in ("own_share", "corner_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name):g} is not in 0..1")

    def _read_interval(self, name: str) -> tuple[float, float]:
        """Store a range as two numbers and return them."""
        value = getattr(self, name)
        try:
            low, high = (float(bound) for bound in value)
        except (TypeError, ValueError):
            raise ValueError(f"{name}: {value!r} is not two numbers") from None
        object.__setattr__(self, name, (low, high))
        return low, high

    @classmethod
    def fixed(cls) -> ConditionOptions:
        """Return the settings of a policy for the run's own weights, beta, targets and prior_weight alone."""
        return cls(preference=False, beta_range=None)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as they are stored; what older versions did not know is left out unless it is set."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name != "prior_weight_range" or value is not None}
