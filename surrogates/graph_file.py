"""Weights of the graph model on disk: safetensors with the settings as JSON in the header."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from surrogates.graph_network import FittedGraph, new_network
from surrogates.graph_options import GraphOptions
from surrogates.graph_spread import GraphSpread, GraphValidation
from surrogates.known_compounds import KNOWN_ENERGIES, known_structures
from surrogates.weights_file import read_weights, write_weights

FORMAT = "matsmith graph 1"

PROBE_TOLERANCE = 0.005
"""eV/atom; how far the energies of known structures may move between writing and reading."""


def write_graph(path: str | Path, model: FittedGraph, validation: GraphValidation | None) -> None:
    """Write a fitted network with its measures.

    Raises:
        RuntimeError: The network has no spread.
    """
    if model.spread is None:
        raise RuntimeError("write_graph: the network has no spread; fit it first")
    tensors = {f"network.{name}": tensor for name, tensor in model.network.state_dict().items()}
    tensors |= {"element_energies": model.element_energies, "moment": model.spread.moment}
    settings = {
        "options": asdict(model.options),
        "elements": model.elements,
        "mean": model.mean,
        "std": model.std,
        "spread": {"count": model.spread.count, "scale": model.spread.scale, "power": model.spread.power},
        "validation": validation and validation.as_dict(),
        "probe": model.evaluate(known_structures())[0].tolist(),
    }
    write_weights(path, FORMAT, tensors, settings)


def read_graph(path: str | Path) -> tuple[FittedGraph, GraphValidation | None]:
    """Read a network that `write_graph` wrote, with its measures.

    Raises:
        ValueError: The file is missing, cut short or holds something else, or the network gives other energies with the
            installed MatGL than when it was written; the message names it.
    """
    tensors, settings = read_weights(path, FORMAT, "a graph model")
    options = GraphOptions(**settings["options"])
    network = new_network(options, seed=0)
    moment, element_energies = tensors.pop("moment"), tensors.pop("element_energies")
    network.load_state_dict({name.removeprefix("network."): tensor for name, tensor in tensors.items()})
    network.eval().requires_grad_(False)
    spread = GraphSpread(moment, **settings["spread"])
    elements = tuple(settings["elements"])
    model = FittedGraph(network, options, elements, element_energies, settings["mean"], settings["std"], spread)
    now = model.evaluate(known_structures())[0].tolist()
    pairs = list(zip(KNOWN_ENERGIES, now, settings["probe"], strict=True))
    if not all(abs(energy - before) <= PROBE_TOLERANCE for _, energy, before in pairs):
        figures = ", ".join(f"{formula} {energy:.3f} (was {before:.3f})" for formula, energy, before in pairs)
        raise ValueError(f"{path}: these weights do not fit this MatGL: {figures} eV/atom")
    return model, GraphValidation(**settings["validation"]) if settings["validation"] else None
