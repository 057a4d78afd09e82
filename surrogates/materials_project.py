"""A reference table from the Materials Project, through its client `mp-api` (an optional package).

export MP_API_KEY=...                       # from https://materialsproject.org/api
table = load_materials_project(["Li", "Fe", "O"])
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib import import_module
from itertools import combinations
from typing import Any
from urllib.parse import quote

import numpy as np

from envs.chemistry import check_elements
from envs.formula import CompositionBatch
from surrogates.reference_table import (
    ReferenceTable,
    check_end_members,
    lowest_of_each_formula,
)

API_KEY_VARIABLE = "MP_API_KEY"
THERMO_TYPE = "GGA_GGA+U"
"""Mixed GGA and GGA+U calculations with the Materials Project's corrections (MP2020)."""

MAX_SYSTEMS = 5000
"""Most chemical systems asked for; 12 elements have 4,095."""

_SYSTEMS_PER_REQUEST = 100  # the client does not split them, and an address has a largest length
_FIELDS = ["formula_pretty", "energy_per_atom"]


def load_materials_project(elements: Iterable[str], max_elements: int | None = None) -> ReferenceTable:
    """Return the phases of all chemical systems within a set of elements, the lowest energy of each formula.

    The key is read from the environment variable MP_API_KEY and from nowhere else; it is in no message.

    Args:
        elements: Symbols.
        max_elements: Largest number of elements of a phase; all of them when None.

    Raises:
        ValueError: An element is unknown; there are more than 5,000 chemical systems; the key is missing or refused;
            the request failed; a pure element is missing from the answer. One line.
        ImportError: mp-api is not installed; the message tells how to install it.
    """
    symbols = sorted(check_elements(elements, "elements"))
    largest = len(symbols) if max_elements is None else max_elements
    if not symbols or not 1 <= largest <= len(symbols):
        raise ValueError(f"max_elements: expected 1 to the {len(symbols)} given elements, not {largest}")
    sizes = range(1, largest + 1)
    systems = ["-".join(subset) for size in sizes for subset in combinations(symbols, size)]
    if len(systems) > MAX_SYSTEMS:
        raise ValueError(
            f"Materials Project: {len(symbols)} elements have {len(systems):,} chemical systems of up to {largest} "
            f"elements (expected at most {MAX_SYSTEMS:,}); name fewer elements or lower max_elements"
        )
    documents = _search(systems)
    where = f"Materials Project, {'-'.join(symbols)}"
    if not documents:
        raise ValueError(f"{where}: there are no entries of the kind {THERMO_TYPE}")
    materials = CompositionBatch.from_formulas(str(_field(document, "formula_pretty")) for document in documents)
    energies = np.array([float(_field(document, "energy_per_atom")) for document in documents])
    source = f"within the Materials Project ({THERMO_TYPE}), {len(documents):,} entries of {'-'.join(symbols)}"
    table = lowest_of_each_formula(materials, energies, source)
    check_end_members(where, table)
    return table


def _search(systems: list[str]) -> list[Any]:
    """Return the thermodynamic documents of the chemical systems."""
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    if not key:
        raise ValueError(
            f"Materials Project: the environment variable {API_KEY_VARIABLE} is not set (expected an API key from "
            "https://materialsproject.org/api)"
        )
    try:
        rester: Any = import_module("mp_api.client").MPRester
    except ImportError as error:
        raise ImportError(
            "the Materials Project needs the package mp-api: pip install 'matsmith[materials-project]'"
        ) from error
    failure = None
    documents: list[Any] = []
    try:
        with rester(key, mute_progress_bars=True) as client:
            for start in range(0, len(systems), _SYSTEMS_PER_REQUEST):
                part = systems[start : start + _SYSTEMS_PER_REQUEST]
                documents += client.materials.thermo.search(
                    chemsys=part, thermo_types=[THERMO_TYPE], all_fields=False, fields=_FIELDS
                )
    except Exception as error:  # the client raises many types, and any of their texts may hold the key
        failure = _without_key(error, key)
    if failure is not None:  # raised here, so that the exception that may hold the key is not its context
        raise ValueError(f"Materials Project: {failure}")
    return documents


def _without_key(error: Exception, key: str) -> str:
    text = str(error).replace(key, "***").replace(quote(key, safe=""), "***")
    lines = text.split("\n")
    reason = (lines[0].strip() or type(error).__name__)[:300]
    refused = any(word in text.lower() for word in ("401", "403", "unauthorized", "forbidden", "api key", "api_key"))
    return f"the key in {API_KEY_VARIABLE} was refused ({reason})" if refused else f"the request failed ({reason})"


def _field(document: Any, name: str) -> Any:
    return document[name] if isinstance(document, Mapping) else getattr(document, name)
