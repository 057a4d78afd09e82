"""The fitted structure-to-energy network: a MatGL TensorNet, a linear part, and its spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from envs.chemistry import SYMBOLS
from surrogates.graph_options import GraphOptions
from surrogates.graph_spread import GraphSpread
from surrogates.graph_structures import batch_graphs, compositions, touching_structure

if TYPE_CHECKING:
    from pymatgen.core import Structure

CHUNK = 256
"""Structures evaluated at once."""


@dataclass(frozen=True, eq=False)
class FittedGraph:
    """A trained network with what its outputs are scaled by."""

    network: nn.Module
    """TensorNet over the elements 1-103; its output is standardised."""

    options: GraphOptions

    elements: tuple[str, ...]
    """Elements of the training structures."""

    element_energies: Tensor
    """Float64 (103,), eV/atom: the linear part is their mean weighted by atomic fraction."""

    mean: float
    std: float
    """Of what the linear part leaves over, eV/atom."""

    spread: GraphSpread | None = None

    def evaluate(self, structures: Sequence[Structure]) -> tuple[Tensor, Tensor]:
        """Return energies, float32 (N,), eV/atom, and inputs of the last layer, float32 (N, F)."""
        return self.evaluate_touching([touching_structure(structure) for structure in structures])

    @torch.no_grad()
    def evaluate_touching(self, structures: Sequence[Structure]) -> tuple[Tensor, Tensor]:
        """Return the same for structures that were scaled already."""
        if not structures:
            return torch.zeros(0), torch.zeros(0, self.options.units)
        outputs: list[Tensor] = []
        features: list[Tensor] = []
        for start in range(0, len(structures), CHUNK):
            batch = batch_graphs(structures[start : start + CHUNK], SYMBOLS, self.options.cutoff)
            with _recorded_inputs(self.network) as inputs:
                outputs.append(self.network(batch).reshape(-1))
            features.append(inputs[0])
        energies = torch.cat(outputs).double() * self.std + self.mean + self.linear(structures)
        return energies.float(), torch.cat(features)

    def standardised(self, structures: Sequence[Structure], energies: Tensor) -> Tensor:
        """Return what the network should give for these energies (N,), eV/atom, float32 (N,)."""
        rest: Tensor = (energies - self.linear(structures) - self.mean) / self.std
        return rest.float()

    def linear(self, structures: Sequence[Structure]) -> Tensor:
        """Return the linear part, float64 (N,), eV/atom."""
        return fractions(structures) @ self.element_energies


def fit_element_energies(structures: Sequence[Structure], labels: Tensor, ridge: float = 1.0) -> Tensor:
    """Return the ridge regression of energies (N,) on atomic fractions, float64 (103,)."""
    inputs = fractions(structures)
    normal = inputs.T @ inputs + ridge * torch.eye(inputs.shape[1], dtype=torch.float64)
    solved: Tensor = torch.linalg.solve(normal, inputs.T @ labels.double())
    return solved


def fractions(structures: Sequence[Structure]) -> Tensor:
    """Return the atomic fractions of the elements 1-103, float64 (N, 103)."""
    return compositions(structures).dense_fractions().double()


def new_network(options: GraphOptions, seed: int) -> nn.Module:
    """Return an untrained network and leave torch's global generator as it was."""
    from surrogates.graph_training import build_network

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(options)


@contextmanager
def _recorded_inputs(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what enters the last linear layer."""
    last = [module for module in network.get_submodule("final_layer").modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0].reshape(-1, inputs[0].shape[-1]))

    handle = last.register_forward_pre_hook(record)
    try:
        yield seen
    finally:
        handle.remove()
