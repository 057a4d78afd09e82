"""How much of what was left out of the known formulas is found again by a generator of compositions?

A tenth of the known formulas is held out, whole chemical systems at a time and, separately, at random. Every contestant
learns from the same rest and is sampled until it has given so many distinct reduced formulas; formulas that it recites
count as well, and in the second block of the table only those that are not in its training data. Recovery is the share
of the held-out formulas inside the design space that are among them.

- transformer prior, MLP prior: `Prior.fit`, sampled as fitted (temperature 1);
- uniform-valid: chooses uniformly among the actions that lead to a valid composition;
- n-gram: Witten-Bell over strings of atoms, see `recovery_baselines.py`;
- GPT-2: over the same strings, see `recovery_gpt.py`;
- substitution: ions of known formulas exchanged, see `recovery_substitution.py`; its table was learned from the ICSD.

What may lie outside the space is counted as drawn and, in a row of its own ("valid only"), after its invalid samples
were thrown away. A contestant that needs more than `draws_a_new` samples for a new formula stops there.

    pip install -e '.[benchmark]'
    python experiments/benchmarks/recovery.py --output recovery.json
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from recovery_baselines import Contestant, Ngram, PolicyContestant, UniformValid
from recovery_data import (
    SPLITS,
    Checkpoint,
    DistinctCounter,
    Split,
    distinct_formulas,
    ionic_shares,
    is_inside,
    split_formulas,
)
from recovery_gpt import Gpt, GptSettings
from recovery_substitution import Substitution
from tqdm import tqdm

from agent.evaluation_compositions import composition_keys
from agent.text_file import replace_text
from envs import CompositionBatch, CompositionSpace
from surrogates.datasets import read_known_formulas

PRIORS: dict[str, dict[str, Any]] = {
    "transformer prior": {
        "architecture": "transformer",
        "width": 128,
        "depth": 1,
        "dropout": 0.15,
        "learning_rate": 3e-3,
        "max_epochs": 30,
    },
    "MLP prior": {
        "architecture": "mlp",
        "width": 256,
        "depth": 1,
        "dropout": 0.15,
        "learning_rate": 3e-3,
        "max_epochs": 30,
    },
}
"""Settings of `Prior.fit` by name; the transformer's are those of `experiments/data/fit_prior.py`."""
CONTESTANTS = [*PRIORS, "uniform-valid", "n-gram", "GPT-2", "substitution"]
TEMPERED = [*PRIORS, "n-gram", "GPT-2"]
"""Those that can sample at another temperature than 1."""
BLOCKS = {"distinct": "all distinct formulas", "novel": "distinct formulas that are not in the training data"}


@dataclass
class Options:
    """Settings of the benchmark."""

    splits: list[str] = field(default_factory=lambda: list(SPLITS))
    """systems: whole chemical systems are held out; random: each formula alike."""
    held_out_share: float = 0.1
    formulas: int | None = None
    """So many of the known formulas, drawn with the seed, in place of all."""
    contestants: list[str] = field(default_factory=lambda: list(CONTESTANTS))
    counts: list[int] = field(default_factory=lambda: [10_000, 100_000, 1_000_000])
    """Numbers of distinct formulas at which recovery is measured."""
    temperatures: list[float] = field(default_factory=lambda: [1.0])
    """Of all contestants with a likelihood but the uniform one."""
    orders: list[int] = field(default_factory=lambda: [2, 3, 4, 5, 6])
    """Of the n-gram, one of which is chosen by held-out likelihood."""
    gpt: GptSettings = field(default_factory=GptSettings)
    draws_a_new: float = 40.0
    """Samples for a new formula, over a batch, beyond which a contestant stops."""
    batch: int = 16_384
    """Samples drawn at a time."""
    seed: int = 0
    threads: int = 1
    output: Path | None = None
    """JSON file to which results are added as they come; those in it under the same settings are not measured again."""
    json: bool = False
    """Print one JSON object last."""

    def __post_init__(self) -> None:
        self.counts = sorted(set(self.counts))
        for name in self.contestants:
            if name not in CONTESTANTS:
                raise ValueError(f"contestants: unknown {name!r} (expected some of {', '.join(CONTESTANTS)})")


def settings_of(name: str, options: Options) -> dict[str, Any]:
    """Return what the results of a contestant depend on, as JSON-compatible values."""
    own: dict[str, Any] = {"n-gram": {"orders": options.orders}, "GPT-2": asdict(options.gpt), **PRIORS}
    shared = ("held_out_share", "formulas", "counts", "draws_a_new", "batch", "seed")
    return {**{key: getattr(options, key) for key in shared}, **own.get(name, {})}


def fit(name: str, space: CompositionSpace, training: Sequence[str], options: Options) -> Contestant:
    """Fit one contestant to formulas inside the space."""
    if name in PRIORS:
        return PolicyContestant.fit(space, training, options.seed, PRIORS[name])
    if name == "uniform-valid":
        return UniformValid(space)
    if name == "n-gram":
        return Ngram.fit(space, training, options.seed, options.orders)
    if name == "GPT-2":
        return Gpt.fit(space, training, options.seed, options.gpt)
    return Substitution(space, training)


def draw(
    contestant: Contestant, space: CompositionSpace, split: Split, options: Options, temperature: float
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Sample until every count is complete or new formulas have become too rare.

    Returns:
        Results by block (see `BLOCKS`) for all samples ("") and, where some may be invalid, for those inside the space
        alone (", valid only"); and the number of samples with the shares that are no composition, valid, and recited.
    """
    held_out = composition_keys(CompositionBatch.from_formulas(split.reachable)).numpy()
    known = np.unique(composition_keys(CompositionBatch.from_formulas(split.training)).numpy())
    rows = ["", ", valid only"] if contestant.may_be_invalid else [""]
    counters = {
        (row, block): DistinctCounter(held_out, options.counts, known if block == "novel" else None)
        for row in rows
        for block in BLOCKS
    }
    generator = torch.Generator().manual_seed(options.seed)
    running, n_draws = dict(counters), 0
    totals = dict.fromkeys(("malformed", "valid", "recited"), 0)
    bar = tqdm(total=options.counts[-1], desc="distinct formulas", disable=None)
    while running:
        samples = contestant.sample(options.batch, generator, temperature)
        keys = composition_keys(samples).numpy()
        readable = (samples.atomic_numbers > 0).any(1).numpy()
        valid = is_inside(space, samples).numpy() if contestant.may_be_invalid else readable
        places = n_draws + np.arange(1, len(keys) + 1)
        n_draws += len(keys)
        for (row, block), counter in list(running.items()):
            counted = valid if row else readable
            n_new = counter.add(keys[counted], places[counted], n_draws)
            if counter.is_complete or n_new * options.draws_a_new < len(keys):
                del running[row, block]
        totals["malformed"] += int((~readable).sum())
        totals["valid"] += int(valid.sum())
        totals["recited"] += int(np.isin(keys[readable], known).sum())
        bar.update(min(counters["", "distinct"].last.distinct, options.counts[-1]) - bar.n)
    bar.close()
    found = {
        row: {block: results_of(counters[row, block], len(held_out), options.counts) for block in BLOCKS}
        for row in rows
    }
    return found, {"draws": n_draws, **{name: total / n_draws for name, total in totals.items()}}


def results_of(counter: DistinctCounter, reachable: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Return an entry a count; where one was not reached, how far the contestant came."""
    reached: list[Checkpoint] = [*counter.checkpoints, *[counter.last] * (len(counts) - len(counter.checkpoints))]
    return [
        {"count": count, **asdict(point), "recovery": point.found / reachable}
        for count, point in zip(counts, reached, strict=True)
    ]


def measure(
    name: str, space: CompositionSpace, split: Split, options: Options, temperatures: Sequence[float]
) -> Iterator[list[dict[str, Any]]]:
    """Fit a contestant and yield its results, one or two rows a temperature."""
    started = time.perf_counter()
    contestant = fit(name, space, split.training, options)
    fit_seconds = time.perf_counter() - started
    for temperature in temperatures:
        likelihood = contestant.likelihood(split.reachable, temperature)
        started = time.perf_counter()
        found, shares = draw(contestant, space, split, options, temperature)
        shared = {
            "split": split.name,
            "contestant": name,
            "temperature": temperature,
            "settings": settings_of(name, options),
            "parameters": contestant.parameters,
            "note": contestant.note,
            "held_out": None if likelihood is None else asdict(likelihood),
            **shares,
            "fit_seconds": fit_seconds,
            "sample_seconds": time.perf_counter() - started,
        }
        yield [{"row": name + row, **shared, **blocks} for row, blocks in found.items()]


class Results:
    """Rows of results, in a file where one is given."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = json.loads(path.read_text())["results"] if path and path.exists() else []

    def of(self, split: str, name: str, temperature: float, options: Options) -> list[dict[str, Any]]:
        """Return the rows of a contestant that were measured under the same settings."""
        wanted = {"split": split, "contestant": name, "temperature": temperature}
        wanted["settings"] = json.loads(json.dumps(settings_of(name, options)))
        return [row for row in self._rows if all(row[key] == value for key, value in wanted.items())]

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows and write the file anew, all or nothing."""
        self._rows += json.loads(json.dumps(rows))
        if self._path:
            replace_text(self._path, json.dumps({"results": self._rows}, indent=1))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results of a split as text, with what the priors reach over the others."""
    lines = []
    for block, title in BLOCKS.items():
        counts = [entry["count"] for entry in rows[0][block]]
        lines.append(f"\nrecovery after so many of {title} (in brackets: how many there were, where fewer)")
        lines.append(
            f"{'':<32}{'numbers':>10} {'nats':>7} {'perplexity':>18} {'valid':>7} {'recited':>8} {'samples':>11}"
            + "".join(f"{count:>20,}" for count in counts)
        )
        for row in rows:
            nats, held_out = "", row["held_out"]
            if held_out:
                nats, perplexity = f"{held_out['nats']:.2f}", f"{held_out['perplexity']:.2f} / {held_out['token']}"
            lines.append(
                f"{label(row):<32}{row['parameters']:>10,} {nats:>7} {perplexity if held_out else '':>18} "
                f"{row['valid']:>7.1%} {row['recited']:>8.1%} {row[block][-1]['draws']:>11,}"
                + "".join(f"{reached(entry):>20}" for entry in row[block])
            )
        for prior in (row for row in rows if row["contestant"] in PRIORS):
            lines.append(f"{label(prior)} over")
            for other in (row for row in rows if row["contestant"] not in PRIORS):
                pairs = zip(prior[block], other[block], strict=True)
                lines.append(f"  {label(other):<92}" + "".join(f"{ratio(*pair):>20}" for pair in pairs))
    return "\n".join(lines)


def label(row: Mapping[str, Any]) -> str:
    """Return the name of a row, with its temperature where that is not 1."""
    return row["row"] if row["temperature"] == 1 else f"{row['row']}, T = {row['temperature']:g}"


def reached(entry: Mapping[str, Any]) -> str:
    """Return a recovery as text."""
    short = "" if entry["distinct"] == entry["count"] else f" ({entry['distinct']:,})"
    return f"{entry['recovery']:.2%}{short}"


def ratio(ours: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return how many times as much was recovered, as text."""
    return f"{ours['recovery'] / other['recovery']:.2f} x" if other["recovery"] else "nothing found"


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    space = CompositionSpace()
    formulas = distinct_formulas(read_known_formulas()["formula"].tolist())
    if options.formulas is not None:
        order = torch.randperm(len(formulas), generator=torch.Generator().manual_seed(options.seed))
        formulas = [formulas[place] for place in sorted(order[: options.formulas].tolist())]
    ionic = ionic_shares(space, formulas)
    print(
        f"{len(formulas):,} known formulas; {ionic.ionic:,} are ionic by SMACT's rules, of which {ionic.encoded:,} "
        f"({ionic.encoded / ionic.ionic:.1%}) are inside the space: {ionic.encoded / ionic.within_limits:.1%} of the "
        f"{ionic.within_limits:,} within its limits of elements, atoms and counts"
    )
    results, printed = Results(options.output), {}
    for name in options.splits:
        split = split_formulas(name, space, formulas, options.held_out_share, options.seed)
        print(
            f"\nsplit {name}: {split.n_held_out:,} formulas held out, {len(split.reachable):,} of them "
            f"({split.reachable_share:.1%}) reachable; {len(split.training):,} to learn from",
            flush=True,
        )
        rows = []
        for contestant in options.contestants:
            asked = options.temperatures if contestant in TEMPERED else [1.0]
            missing = [t for t in asked if not results.of(name, contestant, t, options)]
            for new in measure(contestant, space, split, options, missing) if missing else ():
                results.add(new)
                print(
                    f"{label(new[0])}: {new[0]['note']}; {new[0]['fit_seconds']:.0f} s + "
                    f"{new[0]['sample_seconds']:.0f} s",
                    flush=True,
                )
            rows += [row for t in asked for row in results.of(name, contestant, t, options)]
        print(table(rows), flush=True)
        printed[name] = {
            "held_out": split.n_held_out,
            "reachable": len(split.reachable),
            "training": len(split.training),
            "results": rows,
        }
    if options.json:
        print(json.dumps({"formulas": len(formulas), "ionic": asdict(ionic), "splits": printed}))


if __name__ == "__main__":
    main(auto_cli(Options))
