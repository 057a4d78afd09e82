"""Candidates: distinct samples, ranked, each with its evidence."""

from __future__ import annotations

import pandas as pd
import torch

from agent.design_agent import DesignAgent
from envs import CompositionBatch, CompositionSpace
from envs.chemistry import oxidation_states
from envs.composition_limits import CompositionLimits
from envs.formula import parse_formula
from envs.oxidation import assign_oxidation_states, write_ions
from surrogates.datasets import read_known_formulas
from surrogates.known import distance_to_training, is_known, nearest
from surrogates.plausibility import best_oxidation_states


def collect_candidates(agent: DesignAgent, n: int, n_samples: int, seed: int) -> pd.DataFrame:
    """Sample, keep distinct materials, rank them by reward, and gather the evidence on the best n.

    Args:
        agent: A trained agent.
        n: Candidates wanted; fewer when the samples hold fewer distinct materials.
        n_samples: Samples drawn.
        seed: Of the sampling.

    Returns:
        One row a candidate, best first: rank, formula, reward, log_prob, log_prior, predictions with their spread,
        utilities, oxidation_states, novel, nearest_known, nearest_distance, training_distance, rung.
    """
    samples = agent.sample(n_samples, seed=seed)
    distinct = samples.drop_duplicates("material")
    best = distinct.sort_values("log_reward", ascending=False, kind="stable").head(n)
    table = best.rename(columns={"material": "formula"}).reset_index(drop=True)
    table.insert(0, "rank", range(1, len(table) + 1))
    table.insert(2, "reward", table.pop("log_reward").map(lambda value: float(torch.tensor(value).exp())))
    assert isinstance(agent.space, CompositionSpace)
    return pd.concat([table, gather_evidence(table["formula"].tolist(), agent.space.limits)], axis=1)


def gather_evidence(formulas: list[str], limits: CompositionLimits) -> pd.DataFrame:
    """Return what is known about each formula beside its predictions.

    Args:
        formulas: Compositions within the limits.
        limits: Of the design space; its oxidation states are those that a material is described with.
    """
    batch = CompositionBatch.from_formulas(formulas)
    neighbours = nearest(batch, k=3)
    texts = []
    for names, gaps in zip(neighbours.formulas, neighbours.measured_gap.tolist(), strict=True):
        parts = [
            f"{name} ({gap:.2f} eV measured)" if gap == gap else name for name, gap in zip(names, gaps, strict=True)
        ]
        texts.append("; ".join(parts))
    return pd.DataFrame(
        {
            "oxidation_states": [write_ions(states) for states in describe_oxidation_states(batch, limits)],
            "novel": (~is_known(batch)).tolist(),
            "nearest_known": texts,
            "nearest_distance": neighbours.distances[:, 0].tolist(),
            "training_distance": distance_to_training(batch).tolist(),
            "rung": "surrogate",
        }
    )


def describe_oxidation_states(batch: CompositionBatch, limits: CompositionLimits) -> list[dict[str, int]]:
    """Return oxidation states by which each composition is neutral: the most plausible ones, if the limits allow them.

    If not, they are those among the allowed ones whose ions have the most ICSD entries. Empty where no choice is
    neutral, which the charge rules of the limits rule out, and for amounts that are not whole.
    """
    plausible = best_oxidation_states(batch)
    if not limits.charge_neutral:
        return plausible
    allowed = oxidation_states(limits.oxidation_states, limits.icsd24_filter)
    found = []
    for formula, states in zip(batch, plausible, strict=True):
        amounts = parse_formula(formula)
        whole = {symbol: int(amount) for symbol, amount in amounts.items()}
        if whole != amounts:
            states = {}
        elif not states or any(charge not in allowed[symbol] for symbol, charge in states.items()):
            states = assign_oxidation_states(whole, allowed, limits.pauling) or {}
        found.append(states)
    return found


def predict_known(agent: DesignAgent, n: int, seed: int) -> pd.DataFrame:
    """Return known materials of the agent's space with their predictions and utilities, n of them at most.

    Returns:
        Columns formula, the properties with their spread, the utilities under the agent's own targets.
    """
    if not isinstance(agent.space, CompositionSpace):
        return pd.DataFrame({"formula": []})  # of known formulas no structure is embedded
    formulas = read_known_formulas()["formula"].to_list()
    order = torch.randperm(len(formulas), generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = [formulas[row] for row in order[: 10 * n]]
    reasons = agent.space.explain(shuffled)
    inside = [formula for formula, reason in zip(shuffled, reasons, strict=True) if reason is None][:n]
    if not inside:
        return pd.DataFrame({"formula": []})
    values = agent.reward(CompositionBatch.from_formulas(inside))
    columns = {name: column.numpy() for name, column in values.columns().items()}
    return pd.DataFrame({"formula": inside, **columns})
