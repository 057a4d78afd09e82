"""What the command line and YAML files can say. Importing this costs nothing: no torch, no SMACT.

`SpaceConfig` mirrors the arguments of `envs.CompositionSpace`, `ObjectiveConfig` those of `agent.Objective`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agent.campaign_options import CampaignOptions
from agent.condition_options import ConditionOptions
from agent.training_options import TrainingOptions


@dataclass(frozen=True)
class PlugIn:
    """A class or function of your own."""

    class_path: str
    """Where it can be imported from, e.g. my_module.MyReward; the current folder is searched as well."""
    init_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the class."""

    @classmethod
    def read(cls, value: object) -> PlugIn:
        """Return the plug-in that a configuration names: a class path, or a mapping of class_path and init_args.

        Raises:
            ValueError: Anything else; the message says what was expected.
        """
        if isinstance(value, str):
            return cls(value)
        path = value.get("class_path") if isinstance(value, dict) else None
        arguments = (value.get("init_args") or {}) if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(path, str) or not isinstance(arguments, dict):
            raise ValueError(f"expected a mapping of class_path and init_args, not {value!r}")
        if unknown := [str(key) for key in value if key not in ("class_path", "init_args")]:
            raise ValueError(f"unknown key {unknown[0]!r} (expected class_path and init_args)")
        return cls(path, arguments)

    def as_dict(self) -> dict[str, Any]:
        """Return what `read` reads."""
        return {"class_path": self.class_path, "init_args": self.init_args}


@dataclass(frozen=True)
class ICSD24FilterOptions:
    """How the oxidation-state set icsd24 is filtered."""

    include_zero: bool = False
    """Whether the oxidation state 0 counts."""
    consensus: int = 3
    """Fewest reports of an ion."""
    commonality: str | float = "low"
    """low, medium (>= 10 % of an element's reports), high (>= 50 %), main, or a percentage."""


@dataclass(frozen=True)
class SpaceConfig:
    """What may be built."""

    elements: list[str] | None = None
    """Elements that may be used; all when left out."""
    required: list[str] = field(default_factory=list)
    """Elements that every composition contains."""
    forbidden: list[str] = field(default_factory=list)
    """Elements that none contains."""
    min_elements: int = 2
    """Fewest elements in a composition."""
    max_elements: int = 5
    """Most elements in a composition."""
    max_atoms: int | None = None
    """Most atoms in the reduced formula; 20 when left out, or around a reference as many as its edits can reach."""
    max_count: int | None = None
    """Most atoms of one element; 8 when left out, or as many as the edits of a reference can reach."""
    count_ranges: dict[str, list[int]] | None = None
    """Lowest and highest count by element, when it is present, e.g. {O: [2, 4]}."""
    oxidation_states: str = "icsd24"
    """Set of oxidation states: icsd24, smact14, icsd16, pymatgen_sp or wiki."""
    icsd24_filter: ICSD24FilterOptions | None = None
    """Filter of the set icsd24."""
    charge_neutral: bool = True
    """False switches the charge rules off, as intermetallics need."""
    pauling: bool = True
    """Whether every cation must be less electronegative than every anion."""
    reference: str | None = None
    """Formula to stay close to, as written: SrTiO3, or a supercell such as Sr8Ti8O24."""
    max_edits: int | None = None
    """Most edits away from the reference; one exchanges, adds or removes an atom."""
    keep: list[str] = field(default_factory=list)
    """Elements whose count stays that of the reference."""
    complete: str | None = None
    """Partial formula with blanks for elements (?) or counts (O?), such as "Li ? O"."""


@dataclass(frozen=True)
class CrystalConfig:
    """Which crystals may be built, and what is done with the best."""

    max_atoms: int = 20
    """Most atoms in the primitive cell, up to 24."""
    formula_units: list[int] | None = None
    """Numbers of formula units in the primitive cell that may be chosen; all that fit when left out."""
    space_groups: list[int | str] | None = None
    """Numbers or symbols of the space groups that may be chosen; all 230 when left out."""
    crystal_systems: list[str] | None = None
    """Crystal systems that may be chosen, triclinic, monoclinic, orthorhombic, tetragonal, trigonal, hexagonal, cubic;
    all when left out."""
    min_distance: float = 0.75
    """Least distance of two atoms in units of the sum of their radii."""
    screen: int = 300
    """Candidates whose energy is computed with CHGNet as they were built, to choose which are relaxed."""
    relax: int = 30
    """Candidates that are relaxed with CHGNet; 0 for none."""
    elastic: int = 0
    """Relaxed candidates, those nearest to the hull and within 0.1 eV/atom, whose elastic tensor is computed; with
    phonon as well, the larger number holds for both."""
    phonon: int = 0
    """The same whose vibrations are computed."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """A property and what is wanted of it."""

    property: str
    """band_gap (eV), formation_energy and e_above_hull (eV/atom), supply_risk (0-10,000), plausibility (0-1), toxicity,
    electronegativity_difference, or yours."""
    goal: Literal["window", "minimize", "maximize"] = "window"
    """window: between low and high; minimize and maximize: utility from 0 to 1 between low and high."""
    low: float | None = None
    """Lower bound in the unit of the property."""
    high: float | None = None
    """Upper bound in the unit of the property."""
    weight: float = 1.0
    """Importance relative to the other objectives."""
    caution: float = 1.0
    """Standard deviations by which minimize and maximize distrust a prediction."""
    target_range: tuple[float, float] | None = None
    """Range that the centre of a window can be moved in when sampling (--target), its width kept."""
    model: PlugIn | None = None
    """A fitted property model of your own."""


@dataclass(frozen=True)
class ConstraintConfig:
    """A window that is not traded off: the reward is multiplied by the probability of lying in it."""

    property: str
    """As for an objective."""
    low: float | None = None
    """Lower bound in the unit of the property; none when left out."""
    high: float | None = None
    """Upper bound in the unit of the property; none when left out."""
    model: PlugIn | None = None
    """A fitted property model of your own."""


@dataclass(frozen=True)
class DesignConfig:
    """Train a policy on objectives and write ranked candidates with a report."""

    output: Path = Path("runs/design")
    """Folder for everything that the run leaves."""
    overwrite: bool = False
    """Whether to replace a run that the folder holds already."""
    objectives: list[ObjectiveConfig] = field(default_factory=list)
    """What is wanted."""
    constraints: list[ConstraintConfig] = field(default_factory=list)
    """What must hold whatever the preference."""
    scalarization: Literal["tchebycheff", "sum", "product"] = "tchebycheff"
    """How the objectives become one score."""
    reward: PlugIn | None = None
    """A reward of your own, in place of objectives."""
    reference: str | None = None
    """What formation_energy and e_above_hull refer to: a table of yours (CSV or Parquet with formula or cif, and
    energies), or materials-project (key in MP_API_KEY); when left out, the embedded table of CHGNet energies."""
    space: SpaceConfig = field(default_factory=SpaceConfig)
    """What may be built."""
    crystal: CrystalConfig | None = None
    """Build complete crystals of these compositions; {} for the defaults. Compositions alone when left out."""
    prior: str = "default"
    """Base measure: default, none, a prior file, or what to fit one to: a table of known formulas (CSV or Parquet), or
    for crystals a folder of structure files."""
    prior_weight: float = 1.0
    """Exponent of the prior in the target, 0 to 1; conditions.prior_weight_range makes it a dial when sampling."""
    beta: float = 8.0
    """Inverse temperature of the reward: how greedy."""
    conditions: ConditionOptions | None = None
    """What can be asked of the policy once it is trained; when left out, any preference at beta 1 to 32 if there are
    several objectives, else nothing."""
    steps: int = 1000
    """Training steps; with rounds, those of the first."""
    rounds: int = 0
    """Rounds in which an oracle labels a batch, models are refitted and the policy is trained on; 0 for none."""
    oracle: PlugIn | None = None
    """Who labels: chgnet, or a class of yours with name, version, cost and label(materials)."""
    cheaper_oracles: list[PlugIn] = field(default_factory=list)
    """Who may label as well where that tells more of the oracle's labels for its cost: volume-scan, or yours."""
    campaign: CampaignOptions = field(default_factory=CampaignOptions)
    """How batches are selected and labelled."""
    executor: str = "process"
    """Where the oracle runs: in-process, process, dask (a local cluster), or dask:tcp://host:port (one that runs)."""
    workers: int | None = None
    """Processes that label; one a core when left out."""
    training: TrainingOptions = field(default_factory=TrainingOptions)
    """Settings of the training."""
    candidates: int = 500
    """Most candidates written."""
    samples: int = 5000
    """Samples from which the candidates are picked."""
    seed: int = 0
    """Source of all randomness."""
    threads: int = 1
    """Processor threads; more pay little for networks of this size, and cost much on a busy machine."""


@dataclass(frozen=True)
class ReferenceConfig:
    """Compute a reference table with CHGNet: elements, binaries and ternaries in common structure types."""

    output: Path = Path("runs/reference")
    """Folder of the results; a computation that was interrupted goes on there."""
    elements: list[str] | None = None
    """Elements covered; 78 when left out."""
    known_ternaries: int = 2000
    """Most known ternary compositions."""
    other_ternaries: int = 1000
    """Charge-neutral ternary compositions of common oxidation states, drawn at random."""
    relaxations: int = 4500
    """Structures relaxed beside those of the elements: those nearest to the hull of all scans first,
    and last those of which symmetry leaves only the volume to relax."""
    relaxed_per_formula: int = 3
    """Most structures relaxed of one composition."""
    weights: str = "0.3.0"
    """Version of CHGNet's weights: 0.3.0, 0.2.0 or r2scan."""
    fmax: float = 0.08
    """Largest force at which a structure counts as relaxed, eV/A."""
    max_steps: int = 100
    """Steps after which a relaxation is given up."""
    seed: int = 0
    """Of the compositions that are drawn."""
    workers: int | None = None
    """Processes; one a core when left out."""


@dataclass(frozen=True)
class ValidateConfig:
    """Judge crystal structures from files: readable, charges, relaxation, distance to the hull, stability."""

    files: list[Path]
    """Structure files (*.cif, POSCAR, *.vasp, *.extxyz, *.xyz, also with .gz) and folders of such files."""
    output: Path = Path("runs/validate")
    """Folder of the table and the relaxed structures."""
    overwrite: bool = False
    """Whether to replace results that the folder holds already."""
    relax: bool = True
    """Whether to relax with CHGNet and compute distances to the hull."""
    elastic: bool = False
    """Whether to compute elastic tensors (needs matcalc)."""
    phonon: bool = False
    """Whether to compute vibrations (needs phonopy)."""
    top: int | None = None
    """For how many structures, those nearest to the hull, elastic tensors and vibrations are computed; all that pass
    the hull when left out."""
    charge_rules: bool = True
    """Whether charges must balance; false for alloys and intermetallics."""
    closest_ratio: float = 0.6
    """Smallest distance of two atoms as a share of the sum of their covalent radii."""
    max_atoms: int = 200
    """Most atoms of a cell that is relaxed."""
    max_e_above_hull: float | None = 0.1
    """Largest distance to the hull that passes, eV/atom; null for any."""
    skip_duplicates: bool = False
    """Whether only the first of several equal structures is relaxed."""
    fmax: float = 0.05
    """Largest force at which a structure counts as relaxed, eV/A."""
    max_steps: int = 300
    """Steps after which a relaxation is given up."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure lists of compositions or structures: charges, uniqueness, novelty, recovery, distributions, geometry."""

    files: list[Path]
    """Tables with formulas (*.csv, *.txt, *.parquet, also with .gz), structure files (*.cif, POSCAR, *.vasp, *.extxyz,
    *.xyz, also with .gz) and folders of structure files; all together are one list."""
    reference: Path | None = None
    """What novelty and distributions refer to, a file or folder of the same kinds; the known materials embedded in
    MatSmith when left out."""
    holdout: Path | None = None
    """Materials of which is counted how many were found again, a file or folder of the same kinds."""
    column: str | None = None
    """Column of the tables measured: one with formulas, or cif for structures; when left out, the first with a usual
    name, such as formula, or the only one."""
    output: Path | None = None
    """Where to write a page, *.html; none when left out. A page that is there is replaced."""
    relax: bool = False
    """Whether to relax structures with CHGNet and measure their distance to the hull."""
