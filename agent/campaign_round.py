"""How a round of a campaign went: what was predicted against what the oracle said, and what has been reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from agent.fidelities import trials_of
from agent.labelled_objectives import LabelledObjectives
from agent.metrics import hypervolume, is_non_dominated
from agent.store_records import Trial, label_columns
from surrogates.base import Oracle

_ALARM_SHARE = 0.5
"""A batch that keeps less than this share of the utility promised is suspected of fooling the models."""
_FEWEST_FOR_ALARM = 5


def judge_round(trials: Sequence[Trial], number: int, wanted: LabelledObjectives) -> dict[str, Any]:
    """Return measures of a round as JSON-compatible values.

    Args:
        trials: Of all rounds so far, those of the oracle that counts.
        number: The round.
        wanted: The objectives with the models by which the batch was chosen.

    Returns:
        labelled, failed (of this round); properties: by name n, mae, bias (predicted minus labelled) and
        within_one_std (0.68 would be right); promised and found (mean score of the batch, predicted and labelled);
        hits, hits_total, calls_total; hypervolume of all labels; front (materials on it); alarm (one line, or "").
    """
    of_round = [trial for trial in trials if trial.round == number]
    done = [trial for trial in of_round if trial.state == "done"]
    every = [trial for trial in trials if trial.state == "done" and trial.round <= number]
    achieved = wanted.achieved([t.material for t in every], label_columns(every))
    feasible = achieved.utilities[achieved.feasible]
    in_round = torch.tensor([trial.round == number for trial in every], dtype=torch.bool)
    promised, found = _promised(done, wanted), achieved.utilities[in_round].mean(1)
    metrics: dict[str, Any] = {
        "labelled": len(done),
        "failed": sum(trial.state == "failed" for trial in of_round),
        "calls_total": sum(trial.round <= number and trial.state in ("done", "failed") for trial in trials),
        "properties": {name: _compare(done, name) for name in wanted.labelled},
        "models": {name: vars(report) for name, report in wanted.model.reports.items()},
        "promised": float(promised.mean()) if len(done) else None,
        "found": float(found.mean()) if len(done) else None,
        "hits": int(achieved.hits[in_round].sum()),
        "hits_total": int(achieved.hits.sum()),
        "hypervolume": hypervolume(feasible) if len(feasible) else 0.0,
        "front": int(is_non_dominated(feasible).sum()) if len(feasible) else 0,
    }
    return metrics | {"alarm": _alarm(promised, found)}


def judge_cheaper(
    trials: Sequence[Trial], number: int, oracles: Sequence[Oracle], shares: Sequence[float] = ()
) -> list[dict[str, Any]]:
    """Return for each cheaper oracle, as JSON-compatible values, what it did.

    Args:
        trials: Of all oracles and rounds so far.
        number: The round.
        oracles: The cheaper oracles.
        shares: Squared correlation with the target by which the batch was chosen, none in round 0.

    Returns:
        oracle, version; labelled, failed (of this round), calls_total, cost (core-seconds of a label) and cost_total;
        share.
    """
    found = []
    for position, oracle in enumerate(oracles):
        own = [trial for trial in trials_of(trials, oracle.name, oracle.version) if trial.round <= number]
        states = [trial.state for trial in own if trial.round == number]
        calls = sum(trial.state in ("done", "failed") for trial in own)
        found.append(
            {
                "oracle": oracle.name,
                "version": oracle.version,
                "labelled": states.count("done"),
                "failed": states.count("failed"),
                "calls_total": calls,
                "cost": oracle.cost,
                "cost_total": calls * oracle.cost,
                "share": shares[position] if shares else None,
            }
        )
    return found


def _compare(trials: Sequence[Trial], name: str) -> dict[str, float | int]:
    rows = [
        (*trial.predicted[name], trial.label.values[name])
        for trial in trials
        if trial.label is not None and name in trial.predicted and name in trial.label.values
    ]
    if not rows:
        return {"n": 0, "mae": math.nan, "bias": math.nan, "within_one_std": math.nan}
    mean, std, value = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return {
        "n": len(rows),
        "mae": float((mean - value).abs().mean()),
        "bias": float((mean - value).mean()),
        "within_one_std": float(((mean - value).abs() <= std).double().mean()),
    }


def _promised(trials: Sequence[Trial], wanted: LabelledObjectives) -> Tensor:
    """Return the mean utility that was predicted of each material, (n,)."""
    if not trials:
        return torch.zeros(0)
    return torch.stack(list(wanted.reward([trial.material for trial in trials]).utilities.values()), 1).mean(1)


def _alarm(promised: Tensor, found: Tensor) -> str:
    """Return a warning when a batch falls short of what was promised by more than chance would have it."""
    n = len(promised)
    if n < _FEWEST_FOR_ALARM or float(promised.mean()) <= 0:
        return ""
    shortfall = promised - found
    error = float(shortfall.std()) / n**0.5
    if float(found.mean()) >= _ALARM_SHARE * float(promised.mean()) or float(shortfall.mean()) < 2 * error:
        return ""
    return (
        f"the batch promised a mean utility of {float(promised.mean()):.2f} and has {float(found.mean()):.2f}; "
        "the policy may exploit errors of the models"
    )


def describe_round(number: int, metrics: Any) -> str:
    """Return one line on a round for the user."""
    parts = [f"round {number}: {metrics['labelled']} labels, {metrics['failed']} failed"]
    parts += [f"{entry['labelled']} of {entry['oracle']}" for entry in metrics.get("cheaper", ())]
    parts += [f"{metrics['hits_total']} hits so far", f"hypervolume {metrics['hypervolume']:.3f}"]
    for name, entry in metrics["properties"].items():
        if entry["n"]:
            parts.append(f"{name} off by {entry['mae']:.3g} ({entry['within_one_std']:.0%} within one std)")
    return ", ".join(parts) + (f"; ALARM: {metrics['alarm']}" if metrics["alarm"] else "")
