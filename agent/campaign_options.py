"""How a campaign selects and labels; no torch is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SelectionMethod = Literal["ehvi", "qlognehvi", "qlogei", "thompson", "greedy", "random"]
ModelKind = Literal["auto", "gaussian-process", "forest"]


@dataclass(frozen=True)
class CampaignOptions:
    """Settings of the rounds of labelling."""

    batch: int = 10
    """Materials labelled in a round."""
    initial: int = 20
    """Materials labelled before the first round, drawn from the prior (or uniformly, without one)."""
    steps: int = 200
    """Training steps in each round after the first, which takes `steps` of the run."""
    pool: int = 2000
    """Samples of the policy, over all preferences, that a batch is selected from."""
    method: SelectionMethod = "ehvi"
    """ehvi: expected hypervolume improvement; qlognehvi, qlogei: BoTorch's; thompson, greedy, random."""
    greedy_share: float = 0.25
    """Share of a batch that is taken by the highest reward instead."""
    random_picks: int = 1
    """Materials of a batch that are picked at random, as an insurance against a wrong model."""
    label_known: bool = False
    """Whether materials in the lists of known formulas may be labelled, too."""
    model: ModelKind = "auto"
    """Model of the labels: gaussian-process, forest, or auto: a Gaussian process up to 500 labels, a forest beyond."""
    distance_penalty: float = 0.0
    """Nats by which an expected gain is lowered for each unit of distance to the nearest labelled material (1.3 is the
    median of random pairs)."""
    task_size: int = 1
    """Materials sent to a worker at a time."""
    retries: int = 2
    """Times that a material is tried again after its worker was lost or took too long."""
    time_limit: float = 1800.0
    """Seconds after which a worker is ended; materials of a task share them. Not in-process."""

    def check(self) -> None:
        """Raise a ValueError unless every setting is in its range; the message names it."""
        limits = {
            "batch": (1, 10_000), "initial": (1, 100_000), "steps": (1, 10_000_000), "pool": (1, 1_000_000),
            "random_picks": (0, self.batch), "task_size": (1, 10_000), "retries": (0, 100),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"campaign.{name}: {value} is not in {low}..{high:,}")
        if not 0 <= self.greedy_share <= 1:
            raise ValueError(f"campaign.greedy_share: {self.greedy_share:g} is not in 0..1")
        if not 0 <= self.distance_penalty <= 100:
            raise ValueError(f"campaign.distance_penalty: {self.distance_penalty:g} is not in 0..100")
        if not 0 < self.time_limit <= 1e7:
            raise ValueError(f"campaign.time_limit: {self.time_limit:g} is not a positive number of seconds")
