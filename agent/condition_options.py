"""Settings of the conditions that one policy answers. Importing this costs nothing."""

from __future__ import annotations

from dataclasses import dataclass


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
    own_share: float = 0.25
    """Share of the trajectories at the run's own weights, beta and targets; the others are drawn from all there are."""
    corner_share: float = 0.1
    """Share of the drawn preferences that want one objective alone; the others are uniform on the simplex."""

    def __post_init__(self) -> None:
        if self.beta_range is not None:
            object.__setattr__(self, "beta_range", tuple(float(bound) for bound in self.beta_range))
            low, high = self.beta_range
            if not 0 < low < high < 1000:
                raise ValueError(f"beta_range: [{low:g}, {high:g}] is not an interval of positive numbers below 1000")
        for name in ("own_share", "corner_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name):g} is not in 0..1")

    @classmethod
    def fixed(cls) -> ConditionOptions:
        """Return the settings of a policy for the run's own weights, beta and targets alone."""
        return cls(preference=False, beta_range=None)
