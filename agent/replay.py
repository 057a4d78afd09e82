"""Replay: a ring of finished materials, from which trajectories are drawn in proportion to any target.

Each entry keeps what the log-reward depends on and the log-density of the mixture it was drawn from, so that its
importance weight is exact under any condition, whatever the condition it was found under (hindsight). Trajectories are
unique, so the actions are all there is to a material; the ring also is the cache by which no reward is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """N finished materials."""

    actions: Tensor
    """Long (N, T)."""
    log_base: Tensor
    """Log-probability under the base measure (the prior), float (N,)."""
    outcomes: Tensor
    """What the log-reward under any condition depends on, float (N, K); see `RewardValues.outcomes`."""
    log_mixture: Tensor
    """Log-density of the mixture that they were drawn from, float (N,)."""

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        return Batch(self.actions[rows], self.log_base[rows], self.outcomes[rows], self.log_mixture[rows])

    @classmethod
    def join(cls, parts: Sequence[Batch]) -> Batch:
        """Return the materials of several batches."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def log_mean_exp(values: Tensor) -> float:
    """Return log(mean(exp(values))) of a vector; -inf when it is empty."""
    if not len(values):
        return -float("inf")
    return float(values.double().logsumexp(0) - torch.tensor(float(len(values)), dtype=torch.float64).log())


def log_mean_exp_rows(values: Tensor) -> Tensor:
    """Return log(mean(exp(values))) of each row, float (G, n) -> (G,)."""
    highest = values.amax(1, keepdim=True)
    return ((values - highest).exp().mean(1, dtype=torch.float64).log() + highest.squeeze(1)).float()


def effective_share(log_weights: Tensor) -> float:
    """Return the effective sample size of importance weights as a share of their number (Kong 1992)."""
    weights = log_weights.double().softmax(0)
    return float(1.0 / (weights.square().sum() * len(weights)))


class Replay:
    """A ring buffer of finished materials.

    Args:
        capacity: Entries kept; the oldest are overwritten.
        max_steps: Length of the action sequences.
        n_outcomes: Columns of the outcomes.
    """

    def __init__(self, capacity: int, max_steps: int, n_outcomes: int) -> None:
        self.capacity = capacity
        self.actions = torch.zeros(capacity, max_steps, dtype=torch.long)
        self.outcomes = torch.zeros(capacity, n_outcomes)
        self.log_base, self.log_mixture = torch.zeros(capacity), torch.zeros(capacity)
        self.position = 0
        self.size = 0
        self.n_requested = 0
        """Materials whose outcomes were asked for so far."""
        self.n_evaluated = 0
        """Those among them that had to be computed."""
        self._row_of: dict[bytes, int] = {}

    def __len__(self) -> int:
        return self.size

    @property
    def hit_rate(self) -> float:
        """Share of the outcomes asked for that were known already."""
        return 1.0 - self.n_evaluated / max(self.n_requested, 1)

    def outcomes_of(self, actions: Tensor, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the outcomes of materials, float (N, K), each computed only when the ring does not hold it.

        Args:
            actions: Long (N, T).
            evaluate: Receives the rows of new materials, long (M,), and returns their outcomes, float (M, K).
        """
        outcomes = torch.zeros(len(actions), self.outcomes.shape[1])
        first: dict[bytes, int] = {}
        known_rows, ring_rows, repeated, origin = [], [], [], []
        for row, key in enumerate(_keys(actions)):
            held = self._row_of.get(key)
            if held is not None:
                known_rows.append(row)
                ring_rows.append(held)
            elif key in first:
                repeated.append(row)
                origin.append(first[key])
            else:
                first[key] = row
        if known_rows:
            outcomes[known_rows] = self.outcomes[ring_rows]
        if first:
            new = torch.tensor(list(first.values()))
            outcomes[new] = evaluate(new)
        if repeated:
            outcomes[repeated] = outcomes[origin]
        self.n_requested += len(actions)
        self.n_evaluated += len(first)
        return outcomes

    def add(self, batch: Batch) -> None:
        """Store N materials over the oldest ones."""
        rows = (self.position + torch.arange(len(batch.actions))) % self.capacity
        if self.size == self.capacity or self.position + len(rows) > self.capacity:
            for row, key in zip(rows.tolist(), _keys(self.actions[rows]), strict=True):
                if self._row_of.get(key) == row:
                    del self._row_of[key]
        self.actions[rows] = batch.actions
        self.log_base[rows] = batch.log_base
        self.outcomes[rows] = batch.outcomes
        self.log_mixture[rows] = batch.log_mixture
        self.position = (self.position + len(rows)) % self.capacity
        self.size = min(self.capacity, self.size + len(rows))
        self._row_of.update(zip(_keys(batch.actions), rows.tolist(), strict=True))

    def contents(self) -> Batch:
        """Return all entries."""
        n = self.size
        return Batch(self.actions[:n], self.log_base[:n], self.outcomes[:n], self.log_mixture[:n])

    def latest(self, most: int) -> Batch:
        """Return the entries added last, the newest at the end, `most` of them at most."""
        n = min(most, self.size)
        return self.contents()[(self.position - n + torch.arange(n)) % max(self.size, 1)]

    def window(self, most: int, generator: torch.Generator) -> Batch:
        """Return all entries, or a run of `most` neighbours that starts anywhere."""
        if self.size <= most:
            return self.contents()
        first = int(torch.randint(self.size, (1,), generator=generator))
        whole = self.contents()
        tail = whole[first : first + most]
        missing = most - len(tail.actions)
        return Batch.join([tail, whole[:missing]]) if missing else tail

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a checkpoint needs."""
        return {
            "actions": self.actions[: self.size].to(torch.int32),
            "log_base": self.log_base[: self.size],
            "outcomes": self.outcomes[: self.size],
            "log_mixture": self.log_mixture[: self.size],
            "counts": torch.tensor([self.position, self.n_requested, self.n_evaluated]),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.size = len(state["actions"])
        self.outcomes = torch.zeros(self.capacity, state["outcomes"].shape[1])
        self.actions[: self.size] = state["actions"]
        self.log_base[: self.size] = state["log_base"]
        self.outcomes[: self.size] = state["outcomes"]
        self.log_mixture[: self.size] = state["log_mixture"]
        self.position, self.n_requested, self.n_evaluated = state["counts"].tolist()
        oldest = self.position if self.size == self.capacity else 0
        rows = (oldest + torch.arange(self.size)) % self.capacity
        self._row_of = dict(zip(_keys(self.actions[rows]), rows.tolist(), strict=True))


def draw(entries: Batch, log_weights: Tensor, n: int, generator: torch.Generator) -> tuple[Batch, Tensor]:
    """Draw from N entries, with repetition, in proportion to importance weights.

    Args:
        entries: What is drawn from.
        log_weights: Of every entry under each of G targets, float (G, N).
        n: Entries drawn in all, as evenly over the targets as possible.
        generator: Source of all randomness.

    Returns:
        The entries drawn, and the target of each, long (n,).
    """
    target = torch.arange(n) % len(log_weights)
    cumulative = (log_weights - log_weights.amax(1, keepdim=True)).exp().double().cumsum(1)
    uniform = torch.rand(n, dtype=torch.float64, generator=generator) * cumulative[target, -1]
    rows = torch.empty(n, dtype=torch.long)
    for number, column in enumerate(cumulative):
        rows[number :: len(cumulative)] = torch.searchsorted(column, uniform[number :: len(cumulative)].contiguous())
    return entries[rows.clamp_max(log_weights.shape[1] - 1)], target


def _keys(actions: Tensor) -> list[bytes]:
    """Return one exact key a row of actions, (N, T)."""
    rows = actions.contiguous().numpy()
    return [row.tobytes() for row in rows]
