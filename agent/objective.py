"""An objective: a property and what is wanted of it, as a utility in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from surrogates.base import Surrogate
    from surrogates.distribution import PropertyDistribution
    from surrogates.properties import SurrogateProperty

Goal = Literal["window", "minimize", "maximize"]


@dataclass(frozen=True)
class Objective:
    """A property and what is wanted of it.

    The utility of a window is the predicted probability of lying in it. The utility of a monotone goal falls linearly
    from the good bound (1) to the bad bound (0) at a cautious value: the mean, moved by `caution` standard deviations
    to the bad side.

    Raises:
        ValueError: Unknown goal, bounds missing, not finite or in the wrong order, or a weight that is not positive.
    """

    property: str
    """Name of an embedded property, or of what `model` predicts."""
    goal: Goal = "window"
    """window: between low and high; minimize: low is as good as it gets, high worthless; maximize: the reverse."""
    low: float | None = None
    """Lower bound in the unit of the property; may be left out for an open window."""
    high: float | None = None
    """Upper bound in the unit of the property; may be left out for an open window."""
    weight: float = 1.0
    """Importance relative to the other objectives."""
    caution: float = 1.0
    """Standard deviations by which a monotone goal distrusts the prediction."""
    target_range: tuple[float, float] | None = None
    """Range of values that the centre of a window can be moved to when sampling; its width stays."""
    model: Surrogate | SurrogateProperty | None = None
    """A fitted property model of your own, or one output of it; None: the embedded property of that name."""

    def __post_init__(self) -> None:
        where = f"objective {self.property!r}"
        if self.goal not in ("window", "minimize", "maximize"):
            raise ValueError(f"{where}: unknown goal {self.goal!r} (expected window, minimize or maximize)")
        for name in ("low", "high"):
            bound = getattr(self, name)
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"{where}: {name} is {bound!r}, expected a finite number")
        if self.goal == "window" and self.low is None and self.high is None:
            raise ValueError(f"{where}: a window needs low, high or both")
        if self.goal != "window" and (self.low is None or self.high is None):
            raise ValueError(f"{where}: {self.goal} needs low and high, between which the utility goes from 0 to 1")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"{where}: low={self.low:g} is not below high={self.high:g}")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"{where}: weight is {self.weight!r}, expected a positive number")
        if not (math.isfinite(self.caution) and self.caution >= 0):
            raise ValueError(f"{where}: caution is {self.caution!r}, expected a number >= 0")
        if self.target_range is not None:
            object.__setattr__(self, "target_range", tuple(float(bound) for bound in self.target_range))
            self._check_target_range(where)

    def _check_target_range(self, where: str) -> None:
        assert self.target_range is not None
        low, high = self.target_range
        if self.goal != "window" or self.low is None or self.high is None:
            raise ValueError(f"{where}: a target_range needs a window with low and high, whose centre it moves")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"{where}: target_range [{low:g}, {high:g}] is not an interval")
        if not low <= self.centre() <= high:
            raise ValueError(
                f"{where}: target_range [{low:g}, {high:g}] leaves out the window's own centre {self.centre():g}"
            )

    def centre(self) -> float:
        """Centre of a window with both bounds, in the unit of the property."""
        assert self.low is not None and self.high is not None
        return 0.5 * (self.low + self.high)

    def utility(self, predicted: PropertyDistribution, target: Tensor | None = None) -> Tensor:
        """Return the utility of N materials, float (N,) in [0, 1].

        Args:
            predicted: N distributions.
            target: Centres to which the window is moved, broadcast against N.
        """
        if self.goal == "window" and target is not None:
            assert self.low is not None and self.high is not None
            half = 0.5 * (self.high - self.low)
            return predicted.probability_between(target - half, target + half)
        if self.goal == "window":
            low = -math.inf if self.low is None else self.low
            high = math.inf if self.high is None else self.high
            return predicted.probability_between(low, high)
        assert self.low is not None and self.high is not None
        span = self.high - self.low
        if self.goal == "maximize":
            share = (predicted.mean - self.caution * predicted.std - self.low) / span
        else:
            share = (self.high - predicted.mean - self.caution * predicted.std) / span
        return share.clamp(0.0, 1.0)

    def contains(self, values: Tensor) -> Tensor:
        """Return whether values of the property meet the objective, bool (N,): within the bounds that are set."""
        low = -math.inf if self.low is None or self.goal == "minimize" else self.low
        high = math.inf if self.high is None or self.goal == "maximize" else self.high
        return (values >= low) & (values <= high)

    def __str__(self) -> str:
        if self.goal != "window":
            return f"{self.property} {self.goal} between {self.low:g} and {self.high:g}"
        low = "-inf" if self.low is None else f"{self.low:g}"
        high = "inf" if self.high is None else f"{self.high:g}"
        return f"{self.property} in {low}..{high}"
