"""What `matsmith sample` reads of its options and prints: samples, a Pareto front, a sweep over prior weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from agent.objective import Objective


def numbers_by_name(option: str, text: str | None) -> dict[str, float] | None:
    """Read "band_gap=0.7,e_above_hull=0.3".

    Raises:
        ValueError: Something else; the message names the option.
    """
    if text is None:
        return None
    values: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise ValueError(
                f"{option}: {part.strip()!r} is not name=number (expected e.g. band_gap=0.7,e_above_hull=0.3)"
            )
        if name in values:
            raise ValueError(f"{option}: {name} is given twice")
        values[name] = value
    return values


def print_samples(frame: pd.DataFrame, as_json: bool, whole: bool) -> None:
    """Print samples of one condition, or only what they were asked for."""
    if as_json:
        print(json.dumps({**frame.attrs, "samples": _records(frame)}))
        return
    if whole:
        print(table_text(_shown(frame)))
    size, asked = frame.attrs["effective_sample_size"], _named(frame.attrs["condition"])
    print(f"{len(frame)} samples; effective sample size {size:.0f} of {frame.attrs['n_drawn']} drawn{asked}")


def print_front(frame: pd.DataFrame, objectives: Sequence[Objective], as_json: bool, whole: bool) -> None:
    """Print the Pareto front of samples of a sweep over preferences, or only its measures."""
    from agent.front import pareto_front

    front = pareto_front(frame, objectives)
    if as_json:
        print(json.dumps({**frame.attrs, "front": vars(front.measures), "samples": _records(front.materials)}))
        return
    if whole:
        hidden = ("log_prob", "log_prior", "log_reward")
        shown = [n for n in front.materials if n not in hidden and not str(n).endswith("_std")]
        print(table_text(_shown(front.materials[shown])))
    print(f"{len(frame)} samples under {len(front.measures.hits)} preferences. {front.measures}")


def print_prior_weights(frame: pd.DataFrame, as_json: bool, whole: bool) -> None:
    """Print the figures of a sweep over prior weights."""
    if as_json:
        print(json.dumps({**frame.attrs, "prior_weights": _records(frame)}))
        return
    if whole:
        print(table_text(frame.dropna(axis="columns", how="all")))
    asked = _named({name: value for name, value in frame.attrs["condition"].items() if name != "prior_weight"})
    print(f"{frame.attrs['n_drawn']} samples under each of {len(frame)} prior weights{asked}")


def table_text(frame: pd.DataFrame) -> str:
    """Return a table as plain text."""
    return frame.to_string(index=False, float_format=lambda value: f"{value:.4g}", max_colwidth=44)


def _named(condition: dict[str, Any]) -> str:
    """Say what samples were asked for: "; band_gap 0.7, supply_risk 0.3; beta 12; prior weight 0.3"."""
    parts = [
        f"{what}{', '.join(f'{name} {value:.4g}' for name, value in condition[key].items())}"
        for what, key in (("", "preference"), ("target ", "target"))
        if condition[key]
    ]
    weight = [f"prior weight {condition['prior_weight']:.4g}"] if "prior_weight" in condition else []
    return "; ".join(["", *parts[:1], f"beta {condition['beta']:.4g}", *parts[1:], *weight])


def _records(frame: pd.DataFrame) -> Any:
    return json.loads(frame.to_json(orient="records"))


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    if "space_group" not in frame:
        return frame
    from agent.crystal_table import samples_table

    return samples_table(frame)
