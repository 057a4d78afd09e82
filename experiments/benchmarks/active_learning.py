"""How good are the materials that are found, by number of calls of an expensive oracle?

The oracle is a table whose true Pareto front is known; every contestant starts from the same random labels and then
takes batches from the table, and is judged by what it labelled:

- campaign: `agent.Campaign`, candidates drawn from the policy, which is trained on in every round;
- campaign, fixed policy: the same without training after the first round;
- ehvi, qlognehvi, greedy: the same models, selection over the whole table (qlognehvi, BoTorch's, over a shortlist);
- nsga2: crossover and mutation in feature space, snapped to the nearest material of the table not labelled yet;
- random.

    python experiments/benchmarks/active_learning.py --table mp20_val.csv.gz --results runs/active_learning.jsonl

Without a table the embedded one of CHGNet energies serves. Results are kept line by line and not computed again.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pandas as pd
import torch
from jsonargparse import auto_cli
from torch import Tensor
from tqdm import tqdm

from agent import Objective, Prior
from agent.campaign import Campaign, round_seed
from agent.campaign_batch import draw_initial, listed_in
from agent.campaign_options import CampaignOptions
from agent.labelled_objectives import LabelledObjectives
from agent.metrics import hypervolume, is_non_dominated
from agent.selection import select_batch
from envs import CompositionBatch, CompositionSpace
from envs.formula import reduced_formula
from surrogates import TableOracle, load_reference_table
from surrogates.compact_features import COMPACT, CompactFeatures

CONTESTANTS = ["campaign", "campaign, fixed policy", "ehvi", "qlognehvi", "greedy", "nsga2", "random"]
OBJECTIVES = [
    Objective("band_gap", "window", 1.0, 1.6),
    Objective("formation_energy", "minimize", -3.5, 0.0),
    Objective("supply_risk", "minimize", 1000, 6000),
]
WITHOUT_GAP = [
    Objective("e_above_hull", "minimize", 0.0, 0.3),
    Objective("formation_energy", "minimize", -3.5, 0.0),
    Objective("supply_risk", "minimize", 1000, 6000),
]
"""For the embedded table, which has no gaps."""


@dataclass
class Options:
    """Settings of the benchmark."""

    table: Path | None = None
    """Columns pretty_formula or formula, formation_energy_per_atom or formation_energy (eV/atom), band_gap (eV)."""
    contestants: list[str] = field(default_factory=lambda: list(CONTESTANTS))
    seeds: list[int] = field(default_factory=lambda: list(range(5)))
    initial: int = 50
    rounds: int = 20
    batch: int = 10
    steps: int = 300
    """Training steps of the first round of a campaign."""
    further_steps: int = 30
    """Of every other round."""
    shortlist: int = 500
    """Materials among which qlognehvi chooses: half by reward, half at random."""
    members: int = 32
    """Functions of the models that qlognehvi sees."""
    results: Path = Path("runs/active_learning.jsonl")
    picture: Path | None = None
    """HTML file for the curves of hypervolume."""
    threads: int = 1


@dataclass(frozen=True, eq=False)
class Task:
    """The table as a problem."""

    space: CompositionSpace
    oracle: TableOracle
    objectives: list[Objective]
    materials: list[str]
    table: pd.DataFrame
    """Labels by material, one column a property."""
    utilities: Tensor
    """Float (N, 3)."""
    hits: Tensor
    """Bool (N,)."""

    def labels(self, rows: list[int]) -> dict[str, list[float]]:
        """Return the values of some materials by property."""
        return {str(name): self.table[name].iloc[rows].tolist() for name in self.table.columns}


def make_task(options: Options) -> Task:
    """Read the table, and find out what the best in it is."""
    if options.table is None:
        reference = load_reference_table()
        energies = reference.formation_energies()
        frame = pd.DataFrame({"formula": reference.materials.formulas(), "formation_energy": energies.numpy()})
        objectives = WITHOUT_GAP
    else:
        found = pd.read_csv(options.table)
        if "e_above_hull" in found:
            found = found.sort_values("e_above_hull", kind="stable")  # of each formula the stablest counts
        known = {"pretty_formula": "formula", "formation_energy_per_atom": "formation_energy"}
        frame = found.rename(columns=known)[["formula", "formation_energy", "band_gap"]]
        objectives = OBJECTIVES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        frame.dropna().to_csv(path, index=False)
        oracle = TableOracle(path)
    space = CompositionSpace(max_elements=3)
    materials = listed_in(space, oracle.materials)
    values = pd.DataFrame([dict(label.values) for label in oracle.label(materials)], index=materials)
    wanted = LabelledObjectives(objectives, list(values.columns))
    wanted.fit(materials[:20], {str(name): values[name].iloc[:20].tolist() for name in values.columns})
    achieved = wanted.achieved(materials, {str(name): values[name].tolist() for name in values.columns})
    return Task(space, oracle, objectives, materials, values, achieved.utilities, achieved.hits)


def run_campaign(task: Task, options: Options, seed: int, further_steps: int) -> list[int]:
    """Return the rows that a campaign labelled, in order."""
    settings = CampaignOptions(
        batch=options.batch, initial=options.initial, steps=further_steps, pool=1000, label_known=True
    )
    folder = tempfile.mkdtemp()
    try:
        campaign = Campaign(
            task.space,
            task.objectives,
            task.oracle,
            folder,
            prior=Prior.default(),
            rounds=options.rounds,
            steps=options.steps,
            options=settings,
            seed=seed,
            executor="in-process",
        )
        labels = campaign.run(progress=False).labels
    finally:
        shutil.rmtree(folder)
    row_of = {material: row for row, material in enumerate(task.materials)}
    return [row_of[reduced_formula(material)] for material in labels["material"]]


def run_pool(task: Task, options: Options, seed: int, method: str) -> list[int]:
    """Return the rows that a selection over the table labelled, in order."""
    generator = torch.Generator().manual_seed(seed)
    settings = CampaignOptions(initial=options.initial, label_known=True)
    first = draw_initial(task.space, None, task.oracle, settings, round_seed(seed, 0))
    row_of = {material: row for row, material in enumerate(task.materials)}
    rows = [row_of[material] for material in first]
    features = CompactFeatures()(task.materials).features[:, :COMPACT].numpy()
    wanted = LabelledObjectives(task.objectives, list(task.table.columns), seed=seed)
    for _ in range(options.rounds):
        left = sorted(set(range(len(task.materials))) - set(rows))
        if method == "random":
            order = torch.randperm(len(left), generator=generator)[: options.batch]
            rows += [left[place] for place in order.tolist()]
        elif method == "nsga2":
            rows += evolve(task, features, rows, options.batch, generator)
        else:
            rows += select(task, wanted, rows, left, method, options, generator)
    return rows


def select(
    task: Task,
    wanted: LabelledObjectives,
    rows: list[int],
    left: list[int],
    method: str,
    options: Options,
    generator: torch.Generator,
) -> list[int]:
    """Fit the models to the rows labelled, and select a batch of those left."""
    labelled = [task.materials[row] for row in rows]
    wanted.fit(labelled, task.labels(rows))
    score = wanted.reward(CompositionBatch.from_formulas([task.materials[row] for row in left])).log_reward
    order = score.sort(descending=True, stable=True).indices
    if method == "qlognehvi":
        half = options.shortlist // 2
        others = half + torch.randperm(len(left) - half, generator=generator)[:half]
        order = torch.cat([order[:half], order[others]])
    candidates = [left[place] for place in order.tolist()]
    table = wanted.members([task.materials[row] for row in candidates])
    if method == "qlognehvi":
        table = type(table)(table.utilities[: options.members], None)
    selection = select_batch(
        table,
        options.batch,
        task.utilities[rows],
        score[order],
        generator,
        method=method,  # type: ignore[arg-type]
        greedy_share=0.0,
        random_picks=0,
    )
    return [candidates[place] for place in selection.rows]


def evolve(task: Task, features: np.ndarray, rows: list[int], n: int, generator: torch.Generator) -> list[int]:
    """Return the offspring of a generation of NSGA-II (Deb et al. 2002), its parents the best fifty so far."""
    from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    losses = -task.utilities[rows].numpy()
    survivors: list[int] = []
    rank: dict[int, tuple[int, float]] = {}
    for number, front in enumerate(NonDominatedSorting().do(losses)):
        crowding = calc_crowding_distance(losses[front])
        for place in np.argsort(-crowding, kind="stable"):
            rank[int(front[place])] = (number, -float(crowding[place]))
            survivors.append(int(front[place]))
    survivors = survivors[:50]
    seeds = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    taken, children = set(rows), []
    while len(children) < n:
        parents = [min(seeds.choice(survivors, 2), key=lambda place: rank[int(place)]) for _ in range(2)]
        mixed = np.where(seeds.random(features.shape[1]) < 0.5, *(features[rows[int(p)]] for p in parents))
        mixed = mixed + seeds.normal(0, 0.1, features.shape[1])
        distance = np.square(features - mixed).sum(1)
        distance[list(taken)] = np.inf
        child = int(distance.argmin())
        taken.add(child)
        children.append(child)
    return children


def judge(task: Task, rows: list[int], options: Options) -> dict[str, object]:
    """Return hypervolume (as a share of the table's), share of the front and hits after every batch."""
    true_front = set(is_non_dominated(task.utilities).nonzero().flatten().tolist())
    whole = hypervolume(task.utilities)
    calls = list(range(options.initial, len(rows) + 1, options.batch))
    curve = [hypervolume(task.utilities[rows[:n]]) / whole for n in calls]
    return {
        "calls": calls,
        "hypervolume": curve,
        "area": (sum(curve) - 0.5 * (curve[0] + curve[-1])) / (len(curve) - 1),
        "front": len(true_front & set(rows)) / len(true_front),
        "hits": int(task.hits[rows].sum()),
    }


def main(options: Options) -> None:
    """Run what the results file does not hold, and print means and 95 % intervals."""
    torch.set_num_threads(options.threads)
    task = make_task(options)
    n_front = int(is_non_dominated(task.utilities).sum())
    print(f"{len(task.materials)} materials, {int(task.hits.sum())} hits, {n_front} on the front", flush=True)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    done = read_results(options)
    missing = [(s, c) for s in options.seeds for c in options.contestants if (s, c) not in done]
    for seed, contestant in tqdm(missing, unit="run"):
        started = time.perf_counter()
        if contestant.startswith("campaign"):
            steps = 1 if contestant == "campaign, fixed policy" else options.further_steps
            rows = run_campaign(task, options, seed, steps)
        else:
            rows = run_pool(task, options, seed, contestant)
        result = {"seed": seed, "contestant": contestant, "seconds": round(time.perf_counter() - started, 1)}
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result | judge(task, rows, options)) + "\n")
    summarise(read_results(options), options)


def read_results(options: Options) -> dict[tuple[int, str], dict]:
    """Return the stored results by seed and contestant."""
    if not options.results.exists():
        return {}
    entries = [json.loads(line) for line in options.results.read_text(encoding="utf-8").splitlines()]
    return {(entry["seed"], entry["contestant"]): entry for entry in entries}


def summarise(results: dict[tuple[int, str], dict], options: Options) -> None:
    """Print means over seeds with 95 % intervals (normal), and paired differences of area to the campaign."""
    print(f"{'':24s}{'area under hypervolume':>26s}{'last hypervolume':>20s}{'front':>16s}{'hits':>14s}{'s':>7s}")
    for contestant in options.contestants:
        of_it = [results[s, contestant] for s in options.seeds if (s, contestant) in results]
        if not of_it:
            continue
        columns = [
            interval([entry["area"] for entry in of_it]),
            interval([entry["hypervolume"][-1] for entry in of_it]),
            interval([entry["front"] for entry in of_it], 2),
            interval([entry["hits"] for entry in of_it], 1),
        ]
        seconds = mean(entry["seconds"] for entry in of_it)
        print(f"{contestant:24s}{columns[0]:>26s}{columns[1]:>20s}{columns[2]:>16s}{columns[3]:>14s}{seconds:7.0f}")
    for contestant in options.contestants[1:]:
        pairs = [s for s in options.seeds if (s, contestant) in results and (s, "campaign") in results]
        gaps = [results[s, "campaign"]["area"] - results[s, contestant]["area"] for s in pairs]
        if gaps:
            wins = sum(gap > 0 for gap in gaps)
            print(f"campaign - {contestant}: area {interval(gaps)}, above in {wins} of {len(gaps)} seeds")
    if options.picture is not None:
        draw(results, options)


def interval(values: list[float], digits: int = 3) -> str:
    """Return mean and half the width of its 95 % interval."""
    half = 1.96 * stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{mean(values):.{digits}f} ± {half:.{digits}f}"


def draw(results: dict[tuple[int, str], dict], options: Options) -> None:
    """Write the mean curves with their bands as one HTML file."""
    import plotly.graph_objects as go
    from plotly.colors import qualitative

    figure = go.Figure()
    for colour, contestant in zip(qualitative.Plotly, options.contestants, strict=False):
        of_it = [results[s, contestant] for s in options.seeds if (s, contestant) in results]
        if not of_it:
            continue
        curves = np.array([entry["hypervolume"] for entry in of_it])
        centre, half = curves.mean(0), 1.96 * curves.std(0) / max(len(curves), 1) ** 0.5
        calls = of_it[0]["calls"]
        band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(x=calls, y=centre - half, **band)
        figure.add_scatter(x=calls, y=centre + half, fill="tonexty", fillcolor=f"rgba{rgb(colour, 0.15)}", **band)
        figure.add_scatter(x=calls, y=centre, name=contestant, line={"color": colour})
    figure.update_layout(
        xaxis_title="calls of the oracle", yaxis_title="hypervolume, share of the table's", template="plotly_white"
    )
    assert options.picture is not None
    figure.write_html(options.picture)


def rgb(colour: str, opacity: float) -> tuple[float, ...]:
    """Return a colour #rrggbb as red, green, blue and opacity."""
    return (*(int(colour[place : place + 2], 16) for place in (1, 3, 5)), opacity)


if __name__ == "__main__":
    main(auto_cli(Options, as_positional=False))
