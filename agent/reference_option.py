"""The option `reference`: formation energies and hull from a user's table or the Materials Project."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from surrogates.energy import EnergyModel, training_table
from surrogates.hull import ReferenceHull
from surrogates.materials_project import load_materials_project
from surrogates.reference_table import DuplicateFormulasWarning, ReferenceTable, load_reference_table

MATERIALS_PROJECT = "materials-project"
FEWEST_COMPOUNDS = 500
"""Compounds in a table below which the embedded networks are kept, and only the hull is the table's."""


def make_energy_model(
    reference: str, elements: Iterable[str], seed: int, say: Callable[[str], None], stored: Path | None = None
) -> EnergyModel:
    """Return the model of formation energies that a `reference` names, fitted to it where it is large enough.

    Args:
        reference: A table, or "materials-project".
        elements: What to fetch from the Materials Project.
        seed: Of the fit.
        say: Receives what was read, converted or left out.
        stored: Networks fitted to this reference earlier, which are read instead of fitting again.

    Raises:
        ValueError: The table cannot be used, or the Materials Project refuses.
    """
    table = _read(reference, elements)
    hull = ReferenceHull(table)
    say(f"reference: {hull.source}")
    for note in table.notes:
        say(f"  {note}")
    if stored is not None and stored.is_file():
        return EnergyModel.load(stored, hull)
    materials, energies = training_table(hull)
    if len(materials) < FEWEST_COMPOUNDS:
        say(
            f"  {len(materials):,} compounds are too few to learn from (at least {FEWEST_COMPOUNDS}): formation "
            "energies come from the embedded networks (CHGNet), distances refer to the hull of the table"
        )
        return EnergyModel.default(hull)
    say(f"  fitting formation energies of {len(materials):,} compounds (a few minutes)")
    model = EnergyModel(seed=seed, hull=hull)
    validation = model.cross_validate(materials, energies)
    model.fit(materials, energies)
    model.validation = validation
    say(f"  {validation}")
    return model


def _read(reference: str, elements: Iterable[str]) -> ReferenceTable:
    if reference == MATERIALS_PROJECT:
        try:
            return load_materials_project(list(elements))
        except ImportError as error:
            raise ValueError(f"reference: {error}") from error
    if not Path(reference).exists():
        raise ValueError(
            f"reference: {reference!r} is no file (expected a table of energies, or {MATERIALS_PROJECT}; a formula to "
            "stay close to is space.reference)"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DuplicateFormulasWarning)  # the table's notes say it as well
        return load_reference_table(reference)
