"""How good are crystals that are built block by block: raw samples, known structures found again, and an open design.

    pip install -e '.[benchmark]'
    python experiments/benchmarks/crystals.py --parts '[exact, raw]'
    python experiments/benchmarks/crystals.py --parts '[known]' --table mp20_val.csv.gz --results runs/crystals.jsonl
    python experiments/benchmarks/crystals.py --parts '[open]' --results runs/crystals.jsonl

exact  a space of 2,888 crystals, enumerated: total variation between the policy's exact distribution and the target.
raw    1,000 samples of the uniform policy, of the prior and of a trained policy: what is true of every one of them.
known  the composition of a stable compound is given. From samples of the prior at three temperatures the ten of lowest
       CHGNet energy, not more than three of one space group with the same positions, are relaxed; beside it the first
       ten distinct samples at temperature 1, and ten random symmetric crystals by pyxtal. Counted: lowest energy
       within 0.1 and 0.03 eV/atom of the relaxed known structure, and single relaxations within 0.1.
open   compositions from the trained policy, one crystal each: its own, a random symmetric one, the composition's
       species in a known prototype drawn at random, and the prior's structure for a uniformly drawn valid composition.
       Counted: share within 0.1 and 0.05 eV/atom of the hull after relaxation (CHGNet, not DFT; within the prototype
       library), failures counted as unstable.

Results are kept line by line; what is there is not computed again. A failed relaxation counts as a miss everywhere.
"""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jsonargparse import auto_cli
from pymatgen.core import Structure
from random_symmetric import random_symmetric
from tqdm import tqdm

from agent import DesignAgent, Objective, Policy, Prior, Reward
from agent.crystal_candidates import sites_of
from agent.design_agent import uniform_policy
from agent.training_options import TrainingOptions
from envs import CompositionSpace, CrystalBatch, CrystalSpace
from envs.crystal_grid import VOLUME_RATIOS
from envs.formula import parse_formula, reduce_amounts
from envs.wyckoff import space_group
from surrogates import ReferenceHull
from surrogates.potential import CHGNetPotential
from surrogates.prototypes import decorated_prototypes
from surrogates.reference_table import read_reference_table
from surrogates.relaxation import RelaxationOptions, relax

RELAXATION = RelaxationOptions(fmax=0.1, max_steps=150)
CONTESTANTS = ("policy", "random symmetric", "prototypes", "uniform compositions")


@dataclass
class Options:
    """Settings of the benchmark."""

    parts: list[str] = field(default_factory=lambda: ["exact", "raw", "known", "open"])
    table: Path | None = None
    """CSV with pretty_formula, cif, e_above_hull and spacegroup.number: known compounds, and how often groups occur."""
    results: Path = Path("runs/crystals.jsonl")
    prior: Path | None = None
    """A prior of crystals; the embedded one when left out."""
    compounds: int = 24
    relaxations: int = 10
    samples: int = 300
    """Samples of the prior for each known compound and temperature, whose CHGNet energies are computed."""
    temperatures: list[float] = field(default_factory=lambda: [1.0, 1.5, 2.0])
    """The higher, the more the samples differ from the structure types that the prior was fitted to."""
    same_sites: int = 3
    """Most relaxations of one space group with the same positions."""
    max_atoms: int = 20
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    materials: int = 40
    """Relaxations a contestant and seed in the open design."""
    steps: int = 300
    beta: float = 8.0
    threads: int = 1


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    options.results.parent.mkdir(parents=True, exist_ok=True)
    prior = Prior.default_crystals() if options.prior is None else Prior.load(options.prior)
    if "exact" in options.parts:
        exact_distribution(options)
    if "raw" in options.parts or "open" in options.parts:
        agent = trained_agent(prior, options)
    if "raw" in options.parts:
        print(raw_samples(agent, prior, options).to_string(index=False))
    if "known" in options.parts:
        find_known(prior, options)
    if "open" in options.parts:
        open_design(agent, options)


# Exact distribution


def exact_distribution(options: Options) -> None:
    space = CrystalSpace(CompositionSpace(["Mg", "O"], max_atoms=2), max_atoms=2, space_groups=[123, 221, 225])
    every = space.enumerate()

    def reward(structures: Sequence[Structure]) -> np.ndarray:
        volume = np.array([structure.volume / len(structure) for structure in structures])
        return np.exp(-(((volume - 10) / 3) ** 2)) + 0.06

    values = torch.tensor(reward(space.decode(every)))
    target = values / values.sum()
    agent = DesignAgent(space, reward, seed=options.seeds[0], options=TrainingOptions(batch_size=256))
    for steps in (0, 300, 300):
        if steps:
            agent.train(steps)
        share = agent.policy.log_prob_in_chunks(space.actions_of(every)).double().exp()
        print(
            f"{len(every)} crystals, {256 * len(agent.history):,} trajectories: total variation "
            f"{float((share - target).abs().sum() / 2):.3f}, sum of probabilities {float(share.sum()):.6f}"
        )
    print(f"log Z {agent.log_partition():.4f}, exact {float(values.sum().log()):.4f}")


# Raw samples


def trained_agent(prior: Prior, options: Options) -> DesignAgent:
    reward = Reward([Objective("e_above_hull", "minimize", 0.0, 0.3)])
    space = CrystalSpace(CompositionSpace(max_elements=4), max_atoms=options.max_atoms)
    settings = TrainingOptions(batch_size=128)
    agent = DesignAgent(space, reward, prior, beta=options.beta, seed=options.seeds[0], options=settings)
    agent.train(options.steps)
    print(agent.coverage(2048))
    return agent


def raw_samples(agent: DesignAgent, prior: Prior, options: Options, n: int = 1000) -> pd.DataFrame:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    space = agent.space
    assert isinstance(space, CrystalSpace)
    known = {entry.composition.reduced_formula for entry in reference_structures()}
    rows = []
    for name, policy in (
        ("uniform", uniform_policy(space)),
        ("prior", prior.policy(space)),
        ("trained", agent.policy),
    ):
        generator = torch.Generator().manual_seed(options.seeds[0])
        policy.sample_many(256, generator)
        start = time.process_time()
        rollout = policy.sample_many(4096, generator, size=1024)
        rate = 4096 / (time.process_time() - start)
        state = rollout.state[:n]
        start = time.process_time()
        structures = space.decode(state)
        decoding = n / (time.process_time() - start)
        batch = space.materials(state)
        groups = [space_group_of(structure) for structure in structures]
        declared = batch.space_group.tolist()
        cells = batch.structures(primitive=False)
        matcher = StructureMatcher()
        plain = batch.structures()
        unique = len(matcher.group_structures(plain))
        rows.append(
            {
                "policy": name,
                "neutral": np.mean([abs(structure.charge) < 1e-9 for structure in structures]),
                "apart": np.mean([far_enough(space, s, row) for s, row in zip(structures, state, strict=True)]),
                "declared group": np.mean([a == b for a, b in zip(groups, declared, strict=True)]),
                "or a supergroup": np.mean([symmetric(s, b) for s, b in zip(cells, declared, strict=True)]),
                "P1": np.mean([number == 1 for number in groups]),
                "groups": len(set(declared)),
                "unique": unique / n,
                "formula not in reference": np.mean([s.composition.reduced_formula not in known for s in plain]),
                "atoms": float(batch.n_atoms.double().mean()),
                "crystals/s": rate,
                "structures/s": decoding,
            }
        )
    return pd.DataFrame(rows)


def space_group_of(structure: Structure) -> int:
    import spglib

    cell = (structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure])
    found = spglib.get_symmetry_dataset(cell, symprec=0.01)
    return 0 if found is None else int(found.number)


def symmetric(cell: Structure, number: int) -> bool:
    """Whether every operation of a space group maps a conventional cell onto itself."""
    points, numbers = cell.frac_coords, np.array([site.specie.Z for site in cell])
    for operation in space_group(number).operations.numpy():
        images = points @ operation[:, :3].T + operation[:, 3]
        apart = images[:, None] - points[None]
        same = (np.abs(apart - apart.round()).max(2) < 1e-4) & (numbers[:, None] == numbers[None])
        if not same.any(1).all():
            return False
    return True


def far_enough(space: CrystalSpace, structure: Structure, row: torch.Tensor) -> bool:
    """Whether all pairs keep the distance that the space promises, images included, by pymatgen."""
    limits = space.geometry.limits(row[None])[0]
    numbers = space.geometry.compositions(row[None]).atomic_numbers[0].tolist()
    place = {z: k for k, z in enumerate(numbers)}
    kinds = [place[site.specie.Z] for site in structure]
    reach = float(limits.max())
    first, second, _, distance = structure.get_neighbor_list(reach)
    return all(
        d >= float(limits[kinds[i], kinds[j]]) - 1e-4
        for i, j, d in zip(first.tolist(), second.tolist(), distance.tolist(), strict=True)
    )


# Known structures


def find_known(prior: Prior, options: Options) -> None:
    assert options.table is not None, "known: needs --table"
    potential = CHGNetPotential()
    compounds, counts = known_compounds(options, potential)
    reference = set(read_reference_table().materials)
    done = {(r["formula"], r["contestant"]) for r in read_results(options.results) if r["part"] == "known"}
    for formula, energy in tqdm(compounds, desc="known compounds"):
        space = CrystalSpace(fixed_composition(formula), max_atoms=options.max_atoms)
        for contestant in ("prior, by energy", "prior, first ten", "random symmetric"):
            if (formula, contestant) in done:
                continue
            start = time.process_time()
            if contestant == "random symmetric":
                generator = np.random.default_rng(options.seeds[0])
                drawn = random_symmetric(formula, options.relaxations, counts, generator)
                picked = [structure for structure in drawn if structure is not None]
            else:
                rank = contestant == "prior, by energy"
                picked = pick(prior, space, potential if rank else None, options)
            above = relaxed_energies(picked, potential) - energy
            single = float((above <= 0.1).sum() / options.relaxations)
            write_result(
                options.results,
                part="known",
                formula=formula,
                contestant=contestant,
                in_reference=formula in reference,
                lowest=float(above.min(initial=np.inf)),
                single=single,
                seconds=round(time.process_time() - start, 1),
            )
    frame = pd.DataFrame([r for r in read_results(options.results) if r["part"] == "known"])
    for contestant, part in frame.groupby("contestant"):
        for name, rows in (("all", part), ("formula not in the reference table", part[~part["in_reference"]])):
            print(
                f"{contestant}, {name}: {(rows.lowest <= 0.1).sum()} within 0.1 and {(rows.lowest <= 0.03).sum()} "
                f"within 0.03 eV/atom of {len(rows)}; single {rows.single.mean():.1%}; "
                f"{rows.seconds.mean():.0f} s a compound"
            )


def known_compounds(options: Options, potential: CHGNetPotential) -> tuple[list[tuple[str, float]], Counter[int]]:
    """Stable compounds of 3-10 atoms that lie inside the space, with their relaxed energies, and counts of groups."""
    table = pd.read_csv(options.table, keep_default_na=False)
    counts = Counter(table["spacegroup.number"].astype(float).astype(int).tolist())
    stable = table[table["e_above_hull"].astype(float) <= 1e-6]
    inside = [reason is None for reason in CompositionSpace().explain(stable["pretty_formula"])]
    stable = stable[inside].drop_duplicates("pretty_formula").sample(frac=1, random_state=options.seeds[0])
    formulas, structures = [], []
    for row in stable.itertuples():
        structure = Structure.from_str(row.cif, fmt="cif").get_primitive_structure()
        if 3 <= len(structure) <= 10:
            formulas.append(row.pretty_formula)
            structures.append(structure)
        if len(structures) == options.compounds:
            break
    energies = {r["formula"]: r["energy"] for r in read_results(options.results) if r["part"] == "reference"}
    missing = [k for k, formula in enumerate(formulas) if formula not in energies]
    relaxed = relax([structures[k] for k in missing], potential, RelaxationOptions(fmax=0.05, max_steps=300))
    for k, result in zip(missing, relaxed, strict=True):
        write_result(options.results, part="reference", formula=formulas[k], energy=result.energy)
        energies[formulas[k]] = result.energy
    return [(formula, energies[formula]) for formula in formulas], counts


def fixed_composition(formula: str) -> CompositionSpace:
    amounts = {symbol: int(amount) for symbol, amount in reduce_amounts(parse_formula(formula)).items()}
    return CompositionSpace(
        elements=list(amounts),
        required=list(amounts),
        count_ranges={symbol: (amount, amount) for symbol, amount in amounts.items()},
        max_elements=len(amounts),
        max_atoms=sum(amounts.values()),
    )


def pick(prior: Prior, space: CrystalSpace, potential: CHGNetPotential | None, options: Options) -> list[Structure]:
    """Distinct samples that are not stretched: the first ones, or those of lowest energy."""
    generator = torch.Generator().manual_seed(options.seeds[0])
    texts: dict[str, None] = {}
    for temperature in options.temperatures if potential is not None else [1.0]:
        with torch.no_grad():
            state = prior.policy(space).sample(options.samples, generator, temperature=temperature).state
        kept = space.geometry.least_ratio(state) < float(VOLUME_RATIOS[-1])
        texts |= dict.fromkeys(space.materials(state[kept]))
    crystals = list(texts)
    structures = CrystalBatch.from_texts(crystals).structures()
    if potential is None:
        return structures[: options.relaxations]
    energies = np.concatenate([potential.energies(structures[k : k + 32]) for k in range(0, len(structures), 32)])
    taken: Counter[str] = Counter()
    picked, others = [], []
    for k in np.argsort(np.nan_to_num(energies, nan=np.inf), kind="stable").tolist():
        sites = sites_of(crystals[k])
        taken[sites] += 1
        (picked if taken[sites] <= options.same_sites else others).append(structures[k])
    return (picked + others)[: options.relaxations]


def relaxed_energies(structures: Sequence[Structure], potential: CHGNetPotential) -> np.ndarray:
    """Energies after relaxation, eV/atom; infinite where it failed."""
    results = relax(structures, potential, RELAXATION)
    return np.array([r.energy if np.isfinite(r.energy) and r.structure is not None else np.inf for r in results])


# Open design


def open_design(agent: DesignAgent, options: Options) -> None:
    space = agent.space
    assert isinstance(space, CrystalSpace)
    potential, hull = CHGNetPotential(), ReferenceHull.default()
    counts = (
        Counter(pd.read_csv(options.table)["spacegroup.number"].astype(int).tolist())
        if options.table
        else Counter(space_group_of(structure) for structure in reference_structures())
    )
    done = {(r["seed"], r["contestant"]) for r in read_results(options.results) if r["part"] == "open"}
    for seed in options.seeds:
        generator = torch.Generator().manual_seed(1000 + seed)
        own = distinct_compositions(space, agent.policy, options.materials, generator)
        formulas = list(own.compositions)
        for contestant in CONTESTANTS:
            if (seed, contestant) in done:
                continue
            structures = candidates(contestant, agent, own, counts, seed)
            present = [k for k, structure in enumerate(structures) if structure is not None]
            energies = np.full(len(structures), np.inf)
            energies[present] = relaxed_energies([structures[k] for k in present], potential)
            above = above_hull(hull, structures, energies)
            write_result(
                options.results,
                part="open",
                seed=seed,
                contestant=contestant,
                formulas=formulas if contestant == "policy" else [],
                above=[round(float(value), 4) for value in above],
            )
    frame = pd.DataFrame([r for r in read_results(options.results) if r["part"] == "open"])
    for contestant, part in frame.groupby("contestant", sort=False):
        for limit in (0.1, 0.05):
            shares = [float(np.mean(np.array(above) <= limit)) for above in part["above"]]
            low, high = bootstrap([float(v <= limit) for above in part["above"] for v in above])
            print(
                f"{contestant}: {np.mean(shares):.1%} within {limit} eV/atom of the hull "
                f"(95 % {low:.1%}-{high:.1%}; seeds {', '.join(f'{share:.0%}' for share in shares)})"
            )


def distinct_compositions(space: CrystalSpace, policy: Policy, n: int, generator: torch.Generator) -> CrystalBatch:
    """The first samples of n different compositions of known hull."""
    covered = set(read_reference_table().element_energies().isfinite().nonzero().squeeze(1).tolist())
    batch = space.materials(policy.sample_many(20 * n, generator).state)
    first: dict[str, int] = {}
    for row, formula in enumerate(batch.compositions):
        if set(batch.element[row].tolist()) - {0} <= covered:
            first.setdefault(formula, row)
    return batch.rows(torch.tensor(list(first.values())[:n]))


def candidates(
    contestant: str, agent: DesignAgent, own: CrystalBatch, counts: Counter[int], seed: int
) -> list[Structure | None]:
    """One structure for each composition, None where there is none."""
    space = agent.space
    assert isinstance(space, CrystalSpace)
    generator = np.random.default_rng(seed)
    if contestant == "policy":
        return list(own.structures())
    if contestant == "random symmetric":
        return [random_symmetric(formula, 1, counts, generator)[0] for formula in own.compositions]
    if contestant == "prototypes":
        found = [decorated_prototypes(formula) for formula in own.compositions]
        return [entries[generator.integers(len(entries))].structure if entries else None for entries in found]
    drawn = distinct_uniform(space, len(own), torch.Generator().manual_seed(seed))
    result: list[Structure | None] = []
    for formula in drawn:
        fixed = CrystalSpace(fixed_composition(formula), max_atoms=space.limits.max_atoms)
        assert agent.prior is not None
        rollout = agent.prior.policy(fixed).sample(1, torch.Generator().manual_seed(seed))
        result += fixed.materials(rollout.state).structures()
    return result


def distinct_uniform(space: CrystalSpace, n: int, generator: torch.Generator) -> list[str]:
    covered = set(read_reference_table().element_energies().isfinite().nonzero().squeeze(1).tolist())
    batch = space.composition.materials(space.composition.sample_uniform_policy(50 * n, generator))
    rows = [k for k, numbers in enumerate(batch.atomic_numbers.tolist()) if set(numbers) - {0} <= covered]
    return list(dict.fromkeys(batch[k] for k in rows))[:n]


def above_hull(hull: ReferenceHull, structures: Sequence[Structure | None], energies: np.ndarray) -> np.ndarray:
    """Distance to the hull, eV/atom; infinite where there is no energy."""
    result = np.full(len(structures), np.inf)
    rows = [k for k, energy in enumerate(energies) if np.isfinite(energy)]
    formulas = [structures[k].composition.reduced_formula for k in rows]  # type: ignore[union-attr]
    formation = hull.formation_energy(formulas, torch.tensor(energies[rows]))
    result[rows] = hull.e_above_hull(formulas, formation).numpy()
    return result


def bootstrap(values: Sequence[float], n: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean."""
    drawn = np.random.default_rng(0).choice(values, (n, len(values))).mean(1)
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


# Results


def reference_structures() -> Iterator[Structure]:
    import gzip
    from importlib import resources

    from pymatgen.core import Lattice

    content = (resources.files("surrogates.data") / "reference_structures.jsonl.gz").read_bytes()
    for line in gzip.decompress(content).decode().splitlines():
        entry = json.loads(line)
        yield Structure(Lattice(entry["lattice"]), entry["species"], entry["positions"])


def read_results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_result(path: Path, **values: Any) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


if __name__ == "__main__":
    main(auto_cli(Options))
