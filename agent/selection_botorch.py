"""BoTorch's acquisition functions over a table of member values: `agent.selection` without our own shortcuts.

A material is its row in the table, and the posterior's samples are the members, all of them in every evaluation.
Importing this module imports BoTorch, which takes seconds.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, Literal

import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import GenericMCMultiOutputObjective
from botorch.acquisition.objective import GenericMCObjective
from botorch.models.ensemble import EnsembleModel
from botorch.optim.optimize import optimize_acqf_discrete
from botorch.posteriors.ensemble import EnsemblePosterior
from botorch.posteriors.posterior import Posterior
from botorch.sampling.base import MCSampler
from torch import Tensor

from agent.reward import scalarize
from agent.selection import MemberTable

_SHARP = 1e-10  # temperature of BoTorch's smooth indicators, minima and ramps: members are compared as they are
_AT_ONCE = 2**22  # values that an evaluation holds


class MemberModel(EnsembleModel):
    """A model whose input is a row number and whose posterior is the members' values of that row.

    Args:
        values: Float (S, rows, outcomes).
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self._num_outputs = values.shape[-1]
        self.register_buffer("values", values)
        self.values: Tensor

    def forward(self, X: Tensor) -> Tensor:
        """Return the values of rows (..., q, 1), float (..., S, q, outcomes)."""
        return self.values[:, X[..., 0].long()].movedim(0, -3)


class AllMembers(MCSampler):
    """Returns every member of an ensemble once, whatever the batch; BoTorch's own sampler draws members anew.

    Args:
        n_members: S.
    """

    def __init__(self, n_members: int) -> None:
        super().__init__(torch.Size([n_members]), seed=0)

    def forward(self, posterior: Posterior) -> Tensor:
        """Return the values of an `EnsemblePosterior`, float (S, ..., q, outcomes)."""
        assert isinstance(posterior, EnsemblePosterior)
        return posterior.values.movedim(-3, 0)

    def _update_base_samples(self, posterior: Posterior, base_sampler: MCSampler) -> None:
        """Nothing is drawn, so there is nothing to keep."""


class PerCost(AcquisitionFunction):
    """A log improvement minus the logarithm of the cost.

    Args:
        improvement: Its input is a row number.
        costs: Float (N,) > 0.
    """

    def __init__(self, improvement: AcquisitionFunction, costs: Tensor) -> None:
        super().__init__(improvement.model)
        self.improvement = improvement
        self.log_costs = costs.log()
        self.X_pending = improvement.X_pending

    def set_X_pending(self, X_pending: Tensor | None = None) -> None:  # noqa: N802  # BoTorch's name
        """Set the rows that count as observed."""
        self.improvement.set_X_pending(X_pending)
        self.X_pending = self.improvement.X_pending

    def forward(self, X: Tensor) -> Tensor:
        """Return the values of rows (b, 1, 1), float (b,)."""
        value: Tensor = self.improvement(X)
        return value - self.log_costs[X[..., 0, 0].long()]


def botorch_picks(
    method: Literal["qlognehvi", "qlogei"],
    table: MemberTable,
    n: int,
    observed: Tensor,
    pending: MemberTable | None,
    weights: Tensor,
    baseline: MemberTable | None,
    costs: Tensor | None,
) -> list[int]:
    """Return n rows, picked one after the other; arguments as of `select_batch`.

    Args:
        method: qlognehvi: qLogNoisyExpectedHypervolumeImprovement, with one objective and with qlogei
            qLogNoisyExpectedImprovement (of the scalarised utility).
        table: Of the N candidates.
        n: At most N.
        observed: Float (K, m).
        pending: Count as observed with each member's values.
        weights: Float (m,).
        baseline: In place of `observed` in qlognehvi.
        costs: Float (N,) > 0.
    """
    S, m = table.n_members, table.n_objectives
    exact = torch.cat([observed.detach().cpu().double(), torch.zeros(1, m, dtype=torch.float64)])  # and the reference
    labelled = [MemberTable(exact.expand(S, -1, -1), None)]
    if baseline is not None and method == "qlognehvi":
        labelled = [baseline, MemberTable(exact[-1:].expand(S, -1, -1), None)]
    parts = [table, *([] if pending is None else [pending]), *labelled]
    model = MemberModel(torch.cat([_outcomes(part) for part in parts], dim=1))
    rows = torch.arange(model.values.shape[1], dtype=torch.float64)[:, None]
    candidates, known = rows[: len(table)], rows[len(table) :]
    settings: dict[str, Any] = {
        "model": model,
        "sampler": AllMembers(S),
        "constraints": [lambda samples: -samples[..., -1]],
        "eta": _SHARP,
        "tau_relu": _SHARP,
        "tau_max": _SHARP,
        "prune_baseline": False,
        "cache_root": False,
    }
    improvement: AcquisitionFunction
    n_values = S * m * (len(known) + n)  # that the evaluation of one candidate holds
    if method == "qlognehvi" and m > 1:
        n_pending = 0 if pending is None else len(pending)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to compile fused qLogEHVI")  # without a compiler it is slower
            improvement = qLogNoisyExpectedHypervolumeImprovement(
                X_baseline=known[n_pending:],
                X_pending=known[:n_pending] if n_pending else None,
                ref_point=[0.0] * m,
                objective=GenericMCMultiOutputObjective(_utilities),
                **settings,
            )
        n_values = max(n_values, improvement.get_buffer("cell_lower_bounds").numel())
    else:  # pending ones are part of the baseline, since the function forgets X_pending after the first pick
        improvement = qLogNoisyExpectedImprovement(
            X_baseline=known,
            objective=GenericMCObjective(partial(_scalarized, weights=weights)),
            **settings,
        )
    acquisition = improvement if costs is None else PerCost(improvement, costs.detach().cpu().double())
    picked, _ = optimize_acqf_discrete(acquisition, n, candidates, max_batch_size=max(1, _AT_ONCE // n_values))
    return [round(row) for row in picked[:, 0].tolist()]


def _utilities(samples: Tensor, X: Tensor | None = None) -> Tensor:
    return samples[..., :-1]


def _scalarized(samples: Tensor, X: Tensor | None = None, *, weights: Tensor) -> Tensor:
    return scalarize(_utilities(samples), weights, "tchebycheff")


def _outcomes(table: MemberTable) -> Tensor:
    """Return the utilities, and 1 where feasible and -1 where not as a further column, double (S, N, m + 1)."""
    utilities = table.utilities.detach().cpu().double()
    feasible = torch.ones(utilities.shape[:2], dtype=torch.bool) if table.feasible is None else table.feasible.cpu()
    return torch.cat([utilities, feasible.double()[..., None] * 2 - 1], dim=2)
