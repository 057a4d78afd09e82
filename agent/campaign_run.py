"""A campaign from configuration to files: the rounds of `matsmith design`, `resume` and `sample`.

What it leaves beside the files of a run without rounds: campaign.db (SQLite), labels.csv, campaign.json (measures of
each round), labels_ase.db (ASE), and labels.extxyz and cifs/ where the oracle relaxed structures. Labels of cheaper
oracles are in campaign.db and labels_ase.db, and in labels_cheaper.csv in place of labels.csv.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import pandas as pd

from agent.campaign import STORE, Campaign, CampaignResult
from agent.campaign_labels import fit_to, split_labels
from agent.config import DesignConfig
from agent.design_agent import DesignAgent
from agent.design_parts import make_objectives, make_prior, make_space
from agent.fidelities import trials_of
from agent.labelled_objectives import LabelledObjectives
from agent.run_folder import RunFolder
from agent.store import CampaignStore
from agent.store_export import export_ase
from agent.store_records import Trial
from surrogates.energy import EnergyModel
from surrogates.properties import column_of

LABEL_FILES = ("labels.csv", "labels_cheaper.csv")
"""Of the oracle that counts, and of all others."""
_ALWAYS = ("material", "round", "state", "picked_by", "oracle", "version", "training_distance", "seconds", "failure")


def make_campaign(
    config: DesignConfig, folder: RunFolder, energies: EnergyModel | None, progress: bool = True
) -> Campaign:
    """Put a campaign together from a configuration.

    Raises:
        ValueError: A setting is wrong, or the oracle cannot be made.
    """
    if config.reward is not None:
        raise ValueError("reward: rounds of labelling need objectives, whose properties the oracle labels")
    if config.oracle is None:
        raise ValueError("oracle: none given (expected one, e.g. chgnet, since rounds is not 0)")
    space = make_space(config.space)
    objectives, constraints = make_objectives(config, energies)
    return Campaign(
        space,
        objectives,
        config.oracle,
        folder.path,
        constraints=constraints,
        scalarization=config.scalarization,
        prior=make_prior(config, space, progress),
        prior_weight=config.prior_weight,
        beta=config.beta,
        rounds=config.rounds,
        steps=config.steps,
        options=config.campaign,
        training=config.training,
        conditions=config.conditions,
        energies=energies,
        seed=config.seed,
        executor=config.executor,
        workers=config.workers,
        cheaper=config.cheaper_oracles,
    )


def run_campaign(campaign: Campaign, folder: RunFolder, progress: bool, say: Callable[[str], None]) -> CampaignResult:
    """Run or go on with a campaign, and write its labels.

    Raises:
        CampaignInterrupted: Ctrl-C; what was done is kept.
    """
    try:
        result = campaign.run(progress, say)
    except BaseException:
        if campaign.has_begun:
            with suppress(OSError, ValueError):  # what stopped the campaign is what counts
                write_labels(folder)
        raise
    write_labels(folder)
    return result


def write_labels(folder: RunFolder) -> None:
    """Write labels.csv, labels_cheaper.csv, campaign.json, labels_ase.db and the structures from the store."""
    with CampaignStore.read(folder.path / STORE) as store:
        oracle, version = store.settings["oracle"]
        for name, labels in zip(LABEL_FILES, split_labels(store.labels(), oracle, version), strict=True):
            if len(labels) or name == LABEL_FILES[0]:
                folder.write_text(name, with_units(labels).to_csv(index=False, float_format="%.6g"))
        rounds = [{"number": entry.number, "state": entry.state, **entry.metrics} for entry in store.rounds()]
        folder.write_json("campaign.json", {"rounds": rounds, "events": [vars(event) for event in store.events()]})
        done = trials_of(store.trials(states=["done"]), oracle, version)
        trials = [trial for trial in done if trial.label is not None and trial.label.structure is not None]
        export_ase(store, folder.path / "labels_ase.db")
    if trials:
        _write_structures(trials, folder)


def with_units(labels: pd.DataFrame) -> pd.DataFrame:
    """Return the labels of a store with units in the names of columns, and without columns that are empty."""
    suffixes = ("_predicted_std", "_predicted", "")
    names = {}
    for column in labels.columns:
        suffix = next(ending for ending in suffixes if str(column).endswith(ending))
        names[column] = column_of(str(column).removesuffix(suffix) if suffix else str(column)) + suffix
    filled = [column for column in labels.columns if column in _ALWAYS or labels[column].notna().any()]
    return labels[filled].rename(columns=names)


def _write_structures(trials: list[Trial], folder: RunFolder) -> None:
    from ase.io import write
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.cif import CifWriter

    (folder.path / "cifs").mkdir(exist_ok=True)
    images = []
    for trial in trials:
        assert trial.label is not None
        atoms = AseAtomsAdaptor.get_atoms(trial.label.structure, msonable=False)
        described = {"formula": trial.material, "round": trial.round, "oracle": trial.oracle}
        atoms.info = described | dict(trial.label.values)
        atoms.info["source"] = f"{trial.oracle} {trial.version}"
        images.append(atoms)
        folder.write_text(f"cifs/{trial.material}.cif", str(CifWriter(trial.label.structure, symprec=0.01)))
    target = folder.path / "labels.extxyz"
    temporary = target.with_name(f"{target.name}.part-{os.getpid()}")
    try:
        write(temporary, images, format="extxyz")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def load_campaign(
    config: DesignConfig, folder: RunFolder, energies: EnergyModel | None
) -> tuple[DesignAgent, LabelledObjectives]:
    """Return policy and objectives of a campaign as they are on the disk; other processes may be running it.

    Raises:
        ValueError: No checkpoint yet.
    """
    if not folder.checkpoint.is_file():
        raise ValueError(f"run: {folder.path} holds no policy yet (round 0 is not finished)")
    objectives, constraints = make_objectives(config, energies)
    with CampaignStore.read(folder.path / STORE) as store:
        trials, first, settings = store.trials(states=["done"]), store.rounds()[0].metrics, store.settings
    wanted = LabelledObjectives(
        objectives,
        first["properties"],
        constraints,
        config.scalarization,
        energies,
        config.campaign.model,
        config.seed,
        " ".join(settings["oracle"]),
    )
    fit_to(wanted, trials, settings)
    return DesignAgent.load(folder.checkpoint, space=make_space(config.space), reward=wanted.reward), wanted


def add_labels(candidates: pd.DataFrame, labels: pd.DataFrame, labelled: tuple[str, ...]) -> pd.DataFrame:
    """Return the candidates with what the oracle said of those among them that it labelled.

    Columns added: <property>_<unit>_labelled, NaN where not labelled; rung becomes "labelled".
    """
    done = labels[labels["state"] == "done"].set_index("material")
    result = candidates.copy()
    for name in labelled:
        result[f"{column_of(name)}_labelled"] = result["formula"].map(done[name]) if name in done else float("nan")
    result.loc[result["formula"].isin(done.index), "rung"] = "labelled"
    return result
