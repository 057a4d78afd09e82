"""A campaign as a database of ASE, for `ase db campaign_ase.db`, `ase gui` and everything else that reads those.

    with CampaignStore.read(Path("campaign.db")) as store:
        export_ase(store, Path("campaign_ase.db"))

One row a trial that is done or failed, in order. Key-value pairs: trial, round, material, oracle, version, picked_by,
state, has_structure, and every property by its name. Failed trials have no properties; select them, or leave them out,
by `state=done`. A trial without a structure (has_structure=0) is the atoms of its formula, all at the origin, without a
cell. What else is known stands in `row.data`: failure, prototype, steps, converged, seconds, training_distance,
predicted (mean and standard deviation by property), and the texts as they are.

ASE keeps some names to itself and reads some texts as numbers:
- A property whose name ASE or this export uses for something else (energy, volume, mass, stress, state, ...), or which
  reads as a formula, gets the prefix `label_`: the energy of a label is `label_energy`. Characters that a key cannot
  have become `_`. The database's metadata tell which key is which property.
- The reduced formula is called `material`; `formula` is ASE's own, of the whole cell.
- A text that reads as a number or a truth value (the materials NaN and InF, a version 0.3) stands in quotes.
"""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.store import CampaignStore
from agent.store_records import Trial
from envs.formula import parse_formula

if TYPE_CHECKING:
    from ase import Atoms

_OWN_KEYS = ("trial", "round", "material", "oracle", "version", "picked_by", "state", "has_structure")


def export_ase(store: CampaignStore, path: Path) -> int:
    """Write the trials that are done or failed as an ASE database; an older file is replaced.

    Args:
        store: What to export.
        path: The database, in ASE's SQLite format whatever its name; it appears whole or not at all.

    Returns:
        The number of rows.

    Raises:
        OSError: The store cannot be read or the database cannot be written.
    """
    from ase.db import connect

    trials = store.trials(states=("done", "failed"))
    keys = _keys({name for trial in trials if trial.label is not None for name in trial.label.values})
    temporary = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with connect(temporary, type="db", append=False, use_lock_file=False) as database:
            database.metadata = {
                "title": "MatSmith campaign",
                "key_descriptions": {key: (name, f"{name}, as labelled", "") for name, key in keys.items()},
            }
            for trial in trials:
                database.write(_atoms(trial), key_value_pairs=_pairs(trial, keys), data=_data(trial))
        temporary.replace(path)
    except (sqlite3.Error, OSError) as error:
        raise OSError(f"{path}: cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return len(trials)


def _keys(properties: set[str]) -> dict[str, str]:
    """Return the key of each property."""
    from ase.data import atomic_numbers
    from ase.db.core import reserved_keys
    from ase.db.row import AtomsRow
    from ase.formula import Formula

    def is_free(key: str) -> bool:
        if key in reserved_keys or key in atomic_numbers or key in _OWN_KEYS or hasattr(AtomsRow, key):
            return False
        try:
            Formula(key, strict=True)
        except ValueError:
            return re.fullmatch("[A-Za-z_][A-Za-z_0-9]*", key) is not None
        return False

    keys: dict[str, str] = {}
    for name in sorted(properties):
        plain = re.sub("[^A-Za-z_0-9]", "_", name)
        key = plain if is_free(plain) else f"label_{plain}"
        while key in keys.values():
            key += "_"
        keys[name] = key
    return keys


def _atoms(trial: Trial) -> Atoms:
    from ase import Atoms

    structure = None if trial.label is None else trial.label.structure
    if structure is None:
        amounts = parse_formula(trial.material)
        whole = all(amount == int(amount) for amount in amounts.values())  # else: each element once
        return Atoms([symbol for symbol, amount in amounts.items() for _ in range(int(amount) if whole else 1)])
    return Atoms(
        [site.specie.symbol for site in structure],
        cell=structure.lattice.matrix,
        scaled_positions=structure.frac_coords,
        pbc=True,
    )


def _pairs(trial: Trial, keys: dict[str, str]) -> dict[str, Any]:
    label = trial.label
    assert label is not None
    texts = {name: _text(getattr(trial, name)) for name in ("material", "oracle", "version", "picked_by", "state")}
    own = {"trial": trial.id, "round": trial.round, "has_structure": label.structure is not None}
    return {**own, **texts, **{keys[name]: value for name, value in label.values.items()}}


def _text(text: str) -> str:
    from ase.db.core import convert_str_to_int_float_bool_or_str

    return text if isinstance(convert_str_to_int_float_bool_or_str(text), str) else f"'{text}'"


def _data(trial: Trial) -> dict[str, Any]:
    label = trial.label
    assert label is not None
    return {
        **{name: getattr(trial, name) for name in ("material", "oracle", "version", "picked_by")},
        **{name: getattr(label, name) for name in ("failure", "prototype", "steps", "converged")},
        **{name: getattr(trial, name) for name in ("seconds", "training_distance")},
        "predicted": {name: list(numbers) for name, numbers in trial.predicted.items()},
    }
