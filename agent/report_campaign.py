"""The part of the report on labels: what an oracle said in rounds of labelling, against what was predicted before."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from agent import report_figures as figures
from agent.report_campaign_figures import curve, parity
from agent.report_figures import Figure, Quantity
from agent.report_goals import Goals, Verdict, goals_of, judge
from agent.report_properties import name_and_unit

CAMPAIGN_FILES = ("campaign.json", "labels.csv")
"""What a run with rounds of labelling leaves; see `agent.campaign_run`."""
BEST_ROWS = 30
"""Materials in the table of the best; labels.csv has all."""
MOST_REASONS = 3
"""Reasons of failures that are named, the most frequent first."""

_LONGEST_REASON = 160
_POTENTIALS = {"CHGNet"}
"""Oracles of the embedded kind, whose values could be taken for DFT."""
_ABOUT_TRIAL = (
    "material", "round", "state", "picked_by", "oracle", "version", "training_distance", "seconds", "failure",
)  # fmt: skip
_FINISHED = ("done", "failed")
_MEASURES = ("n", "mae", "bias", "within_one_std")
_ENDING = re.compile(r"_predicted(_std)?$")


@dataclass(frozen=True)
class CampaignFiles:
    """What a run folder holds of a campaign, as read; empty where a file is missing or not readable."""

    labels: pd.DataFrame
    """labels.csv, all columns as text, as written by `agent.campaign_run.write_labels`."""
    measures: dict[str, Any]
    """campaign.json: rounds and events."""


@dataclass(frozen=True)
class LabelledProperty:
    """One property of N materials, labelled and predicted before."""

    name: str
    """As in campaign.json."""
    value: Quantity
    """Labels; NaN where there is none."""
    predicted: Quantity
    """As predicted when the material was picked; NaN where it was not."""


@dataclass(frozen=True)
class RoundRow:
    """One round as the table has it; None where campaign.json does not tell."""

    number: int
    state: str
    labelled: int
    failed: int
    waiting: int
    """Materials that are still to be labelled."""
    hits: float | None
    hits_total: float | None
    hypervolume: float | None
    promised: float | None
    found: float | None
    comparisons: list[dict[str, float | None]]
    """By compared property: n, mae, bias, within_one_std."""


@dataclass(frozen=True)
class Labelling:
    """What the report shows of a campaign."""

    oracles: list[str]
    """Name and version of who labelled, "CHGNet 0.3.0"."""
    n_labelled: int
    n_failed: int
    n_waiting: int
    reasons: list[tuple[str, int]]
    """The most frequent reasons of failures, with how often each was given."""
    n_other_reasons: int
    """Failures for other reasons."""
    alarms: list[str]
    notes: list[str]
    """Other events."""
    rounds: list[RoundRow]
    compared: list[LabelledProperty]
    """Those that were predicted before."""
    parities: list[tuple[str, LabelledProperty]]
    """With the id of their figure."""
    models: list[dict[str, Any]]
    """One row a round and property: round, property, kind, labels, mae, embedded_mae, within_one_std."""
    columns: list[tuple[Quantity, bool]]
    """Of the table of the best, in each whether the oracle labelled it; else it is a prediction."""
    best: list[dict[str, Any]]
    """The first `BEST_ROWS`: material, values, verdict, round, picked_by, source."""
    goals: Goals
    figures: dict[str, Figure]

    @property
    def n_goals(self) -> int:
        """Objectives and constraints that labels are judged by."""
        return len(self.goals.all)

    @property
    def n_batches(self) -> int:
        """Rounds that followed the first draw."""
        return sum(row.number > 0 for row in self.rounds)


def labelling(files: CampaignFiles, config: str) -> Labelling:
    """Return what to show of a campaign.

    Args:
        files: Labels and measures.
        config: config.yaml as text, which has the goals; may be empty.
    """
    frame = files.labels
    texts = {name: _texts(frame, name) for name in _ABOUT_TRIAL}
    entries = _entries(files.measures)
    goals = goals_of(config)
    properties = _properties(frame, _names(entries.values()), goals)
    predicted = {name for entry in entries.values() for name in _mapping(entry.get("properties"))}
    compared = [p for p in properties if p.name in predicted or np.isfinite(p.predicted.means).any()]
    rows = _rounds(entries, texts, [p.name for p in compared])
    done = [i for i, state in enumerate(texts["state"]) if state == "done"]
    formulas = [texts["material"][i] for i in done]
    verdict = judge(goals, formulas, {p.name: p.value.means[done] for p in properties})
    order = verdict.order[:BEST_ROWS]
    columns = _columns(properties, done, verdict, goals)
    reasons = Counter(
        _shortened(text) for text, state in zip(texts["failure"], texts["state"], strict=True) if state == "failed"
    )
    frequent = reasons.most_common(MOST_REASONS)
    drawn, rounds = _curves(rows, entries), figures.numbers(frame, "round")
    parities: list[tuple[str, LabelledProperty]] = []
    for prop in compared:
        value = replace(prop.value, window=goals.window(prop.name))
        plot = parity(value, prop.predicted, texts["material"], rounds, texts["picked_by"])
        if plot is not None:
            parities.append((f"labels-parity-{len(parities)}", prop))
            drawn[parities[-1][0]] = plot
    states = Counter(texts["state"])
    return Labelling(
        oracles=list(dict.fromkeys(_sources(texts))),
        n_labelled=states["done"] if len(frame) else sum(row.labelled for row in rows),
        n_failed=states["failed"] if len(frame) else sum(row.failed for row in rows),
        n_waiting=len(frame) - states["done"] - states["failed"],
        reasons=frequent,
        n_other_reasons=reasons.total() - sum(n for _, n in frequent),
        alarms=_alarms(entries, files.measures),
        notes=[f"{kind}: {text}" for kind, text in _events(files.measures) if kind != "alarm"],
        rounds=rows,
        compared=compared,
        parities=parities,
        models=_models(entries, properties),
        columns=columns,
        best=[
            {
                "material": formulas[i],
                "values": [(*quantity.at(i)[:2], labelled) for quantity, labelled in columns],
                "hit": verdict.hits[i],
                "met": verdict.met[i],
                "round": texts["round"][done[i]],
                "picked_by": texts["picked_by"][done[i]],
                "source": _source(texts["oracle"][done[i]], texts["version"][done[i]]),
            }
            for i in order
        ],
        goals=goals,
        figures=drawn,
    )


# Reading


def _texts(frame: pd.DataFrame, column: str) -> list[str]:
    return [str(value).strip() for value in frame[column]] if column in frame.columns else [""] * len(frame)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _entries(measures: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """Return what campaign.json says of each round, by its number."""
    rounds = measures.get("rounds")
    rounds = [entry for entry in rounds if isinstance(entry, dict)] if isinstance(rounds, list) else []
    found = {entry["number"]: entry for entry in rounds if type(entry.get("number")) is int}
    return dict(sorted(found.items()))


def _events(measures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return kind and text of each event; some were noted twice, when a run stopped before its round was done."""
    events = measures.get("events")
    events = [event for event in events if isinstance(event, dict)] if isinstance(events, list) else []
    return list(dict.fromkeys((str(event.get("kind", "")), str(event.get("detail", ""))) for event in events))


def _alarms(entries: Mapping[int, Mapping[str, Any]], measures: Mapping[str, Any]) -> list[str]:
    of_rounds = [f"round {number}: {entry['alarm']}" for number, entry in entries.items() if entry.get("alarm")]
    return list(dict.fromkeys([*of_rounds, *(text for kind, text in _events(measures) if kind == "alarm")]))


def _names(entries: Any) -> list[str]:
    """Return the properties that campaign.json names."""
    found: dict[str, None] = {}
    for entry in entries:
        for part in ("properties", "models"):
            named = entry.get(part)
            found |= dict.fromkeys(map(str, named)) if isinstance(named, list | dict) else {}
    return list(found)


def _properties(frame: pd.DataFrame, names: Sequence[str], goals: Goals) -> list[LabelledProperty]:
    """Return the properties among the columns and those that are only named, goals first."""
    from surrogates.properties import PROPERTIES, column_of

    columns = [str(column) for column in frame.columns if column not in _ABOUT_TRIAL]
    wanted = [goal.property for goal in goals.all]
    name_of = {column_of(name): name for name in dict.fromkeys([*PROPERTIES, *wanted, *names])}
    bases = [_ENDING.sub("", column) for column in columns] + [column_of(name) for name in names]
    found = []
    for column in dict.fromkeys(bases):
        printed, unit = name_and_unit(column, set(PROPERTIES))
        nothing = np.full(len(frame), np.nan)
        value = Quantity(printed, unit, figures.numbers(frame, column), nothing)
        spread = figures.numbers(frame, f"{column}_predicted_std")
        predicted = Quantity(printed, unit, figures.numbers(frame, f"{column}_predicted"), spread)
        found.append(LabelledProperty(name_of.get(column, column), value, predicted))
    return sorted(found, key=lambda p: wanted.index(p.name) if p.name in wanted else len(wanted))


def _shortened(reason: str) -> str:
    reason = reason or "no reason given"
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON].rstrip()}\N{HORIZONTAL ELLIPSIS}"


def _sources(texts: Mapping[str, list[str]]) -> list[str]:
    return [f"{o} {v}".strip() or "oracle" for o, v in zip(texts["oracle"], texts["version"], strict=True)]


def _source(oracle: str, version: str) -> str:
    """Return where a label comes from: "CHGNet 0.3.0, not DFT"."""
    return (f"{oracle} {version}".strip() or figures.NO_VALUE) + (", not DFT" if oracle in _POTENTIALS else "")


# Tables


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and figures.is_number(value) else None


def _rounds(
    entries: Mapping[int, Mapping[str, Any]], texts: Mapping[str, list[str]], compared: Sequence[str]
) -> list[RoundRow]:
    """Return all rounds; where campaign.json does not tell how many labels there are, as counted."""
    counted = Counter(
        (int(number), state)
        for number, state in zip(texts["round"], texts["state"], strict=True)
        if re.fullmatch(r"\d{1,9}", number)
    )
    rows = []
    for number in sorted({*entries, *(number for number, _ in counted)}):
        entry = entries.get(number, {})
        labelled, failed = (_number(entry.get(name)) for name in ("labelled", "failed"))
        of_properties = _mapping(entry.get("properties"))
        hits, hits_total = _number(entry.get("hits")), _number(entry.get("hits_total"))
        following = entries.get(1, {})
        if number == 0 and hits is None and {"hits", "hits_total"} <= set(following):
            total, of_first = _number(following["hits_total"]), _number(following["hits"])
            hits = hits_total = None if total is None or of_first is None else total - of_first
        rows.append(
            RoundRow(
                number=number,
                state=str(entry.get("state", "open")),
                labelled=counted[number, "done"] if labelled is None else int(labelled),
                failed=counted[number, "failed"] if failed is None else int(failed),
                waiting=sum(n for (of, state), n in counted.items() if of == number and state not in _FINISHED),
                hits=hits,
                hits_total=hits_total,
                hypervolume=_number(entry.get("hypervolume")),
                promised=_number(entry.get("promised")),
                found=_number(entry.get("found")),
                comparisons=[
                    {key: _number(_mapping(of_properties.get(name)).get(key)) for key in _MEASURES} for name in compared
                ],
            )
        )
    return rows


def _models(entries: Mapping[int, Mapping[str, Any]], properties: Sequence[LabelledProperty]) -> list[dict[str, Any]]:
    quantities = {prop.name: prop.value for prop in properties}
    keys = ("labels", "mae", "embedded_mae", "within_one_std")
    return [
        {"round": number, "property": quantities.get(name) or name, "kind": str(model.get("kind") or figures.NO_VALUE)}
        | {key: _number(model.get(key)) for key in keys}
        for number, entry in entries.items()
        for name, model in _mapping(entry.get("models")).items()
        if isinstance(model, dict)
    ]


def _columns(
    properties: Sequence[LabelledProperty], done: list[int], verdict: Verdict, goals: Goals
) -> list[tuple[Quantity, bool]]:
    """Return the columns of the best materials: the goals, labelled or predicted, then what else was labelled."""
    from surrogates.properties import PROPERTIES, column_of

    labelled = {
        p.name: Quantity(p.value.name, p.value.unit, p.value.means[done], p.value.spread[done])
        for p in properties
        if np.isfinite(p.value.means[done]).any()
    }
    columns = []
    for name in dict.fromkeys(goal.property for goal in goals.all):
        if name in labelled:
            columns.append((labelled.pop(name), True))
        elif name in verdict.predicted:
            printed, unit = name_and_unit(column_of(name), set(PROPERTIES))
            columns.append((Quantity(printed, unit, *verdict.predicted[name]), False))
    return [*columns, *((quantity, True) for quantity in labelled.values())]


# Figures


def _curves(rows: Sequence[RoundRow], entries: Mapping[int, Mapping[str, Any]]) -> dict[str, Figure]:
    """Return hypervolume and hits over the oracle calls so far, where campaign.json tells them."""
    calls, so_far = [], 0.0
    for row in rows:
        stated = _number(entries.get(row.number, {}).get("calls_total"))
        so_far = so_far + row.labelled + row.failed if stated is None else stated
        calls.append(so_far)
    numbers = [row.number for row in rows]
    lines = {
        "labels-hypervolume": [row.hypervolume for row in rows],
        "labels-hits": [row.hits_total for row in rows],
    }
    return {id: curve(calls, values, numbers) for id, values in lines.items() if any(v is not None for v in values)}
