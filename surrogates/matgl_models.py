"""Networks that others trained with MatGL, loaded by name or from a folder, and refused when they load wrong.

Weights written for MatGL before release 3 load without an error into later releases and give wrong energies, since the
direction of the messages changed. So every network is asked for a few energies that are known.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surrogates.known_compounds import KNOWN_ENERGIES, energy_mismatch, known_structures

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True, eq=False)
class PretrainedGraph:
    """Somebody else's network for the formation energy in eV/atom; structures go in as they are."""

    name: str
    network: Any
    """A MatGL model with the method `predict_structure`."""

    elements: tuple[str, ...]
    spread: float
    """Standard deviation of every prediction, eV/atom."""

    @torch.no_grad()
    def energies(self, structures: Sequence[Structure]) -> Tensor:
        """Return energies, float32 (N,), eV/atom.

        Raises:
            ValueError: The network does not return one number per structure.
        """
        values = [torch.as_tensor(self.network.predict_structure(structure)).reshape(-1) for structure in structures]
        for value in values:
            if len(value) != 1:
                raise ValueError(f"{self.name}: expected one energy for a structure, not {len(value)} values")
        return torch.cat([torch.zeros(0), *values]).float()


def load_pretrained(name_or_path: str | Path, spread: float) -> PretrainedGraph:
    """Load a property model with `matgl.load_model` and compare it with known formation energies.

    Args:
        name_or_path: A model of MatGL's hub, or a folder with model.pt, state.pt and model.json.
        spread: Standard deviation of its predictions, eV/atom.

    Raises:
        ValueError: Nothing is found offline, the files are damaged, or the energies of known compounds come out wrong.
    """
    name = str(name_or_path)
    network = _load(name)
    inner = getattr(network, "model", network)
    if not hasattr(network, "predict_structure") or not hasattr(inner, "element_types"):
        raise ValueError(f"{name}: expected a property model of MatGL, found {type(network).__name__}")
    model = PretrainedGraph(name, network.eval(), tuple(inner.element_types), spread)
    missing = {site.specie.symbol for s in known_structures() for site in s} - set(model.elements)
    if missing:
        compounds = ", ".join(KNOWN_ENERGIES)
        raise ValueError(
            f"{name}: cannot be checked against {compounds}: it does not know {', '.join(sorted(missing))}"
        )
    try:
        energies = model.energies(known_structures()).tolist()
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name}: not a model of the formation energy ({_first_line(error)})") from error
    mismatch = energy_mismatch(energies)
    if mismatch is not None:
        raise ValueError(f"{name}: wrong formation energies, so these weights do not fit this MatGL: {mismatch}")
    return model


def _load(name: str) -> Any:
    with warnings.catch_warnings():
        # Deprecations inside the packages, and MatGL's guess about versions, which the known energies answer better.
        warnings.simplefilter("ignore")
        import matgl

        try:
            return matgl.load_model(name)
        except (ValueError, RuntimeError) as error:  # what MatGL turns every failure into
            reason = _first_line(error.__cause__ or error)
            if Path(name).exists():
                raise ValueError(f"{name}: not a readable MatGL model ({reason})") from error
            raise ValueError(
                f"no weights found offline: {name!r} is neither a folder with model.pt, state.pt and model.json nor a "
                f"model that MatGL could download ({reason})"
            ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
