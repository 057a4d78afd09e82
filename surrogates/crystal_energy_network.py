"""An ensemble of small message-passing networks over the occupied positions of crystals, without coordinates.

Occupied positions send messages to each other that depend on both elements, both site symmetries and on how far apart
the positions lie in a cell of nominal shape; what they hold is then averaged by the share of the atoms. The idea of
learning from composition, space group and Wyckoff positions alone is that of Wren (Goodall et al., Sci. Adv. 8,
eabn4117 (2022)); features and network are this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from envs.chemistry import MAX_ATOMIC_NUMBER
from envs.crystal_batch import CrystalBatch
from envs.wyckoff import N_SPACE_GROUPS
from surrogates.crystal_site_features import site_tables
from surrogates.features import composition_features, element_property_table
from surrogates.pair_features import pair_features

DISTANCE_CENTRES = tuple(0.6 + 0.15 * i for i in range(12))
"""Centres of the Gaussians over distances, in units of the cube root of the volume per atom; their width is 0.15."""
_WIDTH = 0.15
_LARGEST_FEATURE = 6.0


@dataclass(frozen=True, eq=False)
class CrystalInputs:
    """What the network sees of N crystals with up to S occupied positions; floats standardised or of order one."""

    element: Tensor
    """Long (N, S): atomic number, 0 where padded."""
    site: Tensor
    """Float (N, S, F): site symmetry, freedom and multiplicity."""
    share: Tensor
    """Float (N, S): share of the atoms, 0 where padded; sums to 1."""
    neighbours: Tensor
    """Float (N, S, S, R): smoothed numbers of points of the second position at distances from one of the first."""
    group: Tensor
    """Long (N,): number of the space group."""
    crystal: Tensor
    """Float (N, G): features of the group and the cell."""
    composition: Tensor
    """Float (N, C): features of the composition."""

    @classmethod
    def from_crystals(cls, crystals: CrystalBatch) -> CrystalInputs:
        """Return the inputs of a batch; lattice and free parameters are not looked at."""
        tables, occupied = site_tables(), crystals.element > 0
        site = torch.where(occupied[..., None], tables.sites[crystals.flat_position], 0)
        atoms = crystals.multiplicity.float()
        n_atoms = atoms.sum(1, keepdim=True)
        both = occupied[:, :, None] & occupied[:, None, :]
        crystal, first, second = both.nonzero().unbind(1)
        pairs = tables.distances[crystals.flat_position[crystal, first], crystals.position[crystal, second]]
        neighbours = torch.zeros(*both.shape, len(DISTANCE_CENTRES))
        neighbours[both] = _smoothed(pairs * n_atoms[crystal].pow(1 / 3))
        freedom = site[..., 2:6] @ torch.arange(4.0)
        sizes = [n_atoms.log2() / 3, occupied.sum(1, keepdim=True) / 4, (freedom.sum(1, keepdim=True) / n_atoms)]
        return cls(
            crystals.element,
            site,
            atoms / n_atoms,
            neighbours,
            crystals.space_group,
            torch.cat([tables.groups[crystals.space_group - 1], *sizes], 1),
            torch.cat([composition_features(crystals.compositions), pair_features(crystals.compositions)], 1),
        )

    def rows(self, index: Tensor) -> CrystalInputs:
        """Return the crystals that an index of any shape selects, in that shape."""
        return CrystalInputs(*(getattr(self, f.name)[index] for f in fields(self)))


def _smoothed(distances: Tensor) -> Tensor:
    """Return the number of distances (P, K) near each of `DISTANCE_CENTRES`, (P, R), in units of four."""
    return torch.stack([torch.exp(-((distances - c) / _WIDTH).square() / 2).sum(1) for c in DISTANCE_CENTRES], 1) / 4


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of the network."""

    members: int = 4
    width: int = 64
    layers: int = 2
    readout: int = 128
    element_width: int = 8
    group_width: int = 8


class CrystalNetwork(nn.Module):
    """S networks of the same shape, run together.

    Args:
        shape: Sizes.
        like: Inputs of any number of crystals; the numbers of features are read from them.
        generator: Source of the initial weights.
    """

    def __init__(self, shape: NetworkShape, like: CrystalInputs, generator: torch.Generator | None = None) -> None:
        super().__init__()
        site_features, crystal_features = like.site.shape[-1], like.crystal.shape[-1]
        composition_features = like.composition.shape[-1]
        self.shape = shape
        self.input_mean: Tensor
        self.input_std: Tensor
        self.register_buffer("input_mean", torch.zeros(composition_features))
        self.register_buffer("input_std", torch.ones(composition_features))
        width, distances = shape.width, len(DISTANCE_CENTRES)
        properties = element_property_table().shape[1]

        def linear(fan_in: int, fan_out: int, scale: float = 1.0) -> nn.Parameter:
            values = torch.randn(shape.members, fan_in, fan_out, generator=generator)
            return nn.Parameter(values * scale * (2 / fan_in) ** 0.5)

        def bias(size: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape.members, 1, size))

        elements = torch.randn(shape.members, MAX_ATOMIC_NUMBER + 1, shape.element_width, generator=generator)
        self.elements = nn.Parameter(0.1 * elements)
        self.groups = nn.Parameter(torch.zeros(shape.members, N_SPACE_GROUPS + 1, shape.group_width))
        self.enter = linear(properties + shape.element_width + site_features + 1, width)
        self.enter_bias = bias(width)
        self.receive = nn.ParameterList([linear(width, width, 0.5) for _ in range(shape.layers)])
        self.send = nn.ParameterList([linear(width, width, 0.5) for _ in range(shape.layers)])
        self.near = nn.ParameterList([linear(distances, width, 0.5) for _ in range(shape.layers)])
        self.gate = nn.ParameterList([linear(distances, width, 0.3) for _ in range(shape.layers)])
        self.message_bias = nn.ParameterList([bias(width) for _ in range(shape.layers)])
        self.update = nn.ParameterList([linear(width, width, 0.5) for _ in range(shape.layers)])
        whole = width + crystal_features + shape.group_width + composition_features
        self.read = linear(whole, shape.readout)
        self.read_bias = bias(shape.readout)
        self.deepen = linear(shape.readout, width)
        self.deepen_bias = bias(width)
        self.leave = linear(width, 1, 0.5)
        self.leave_bias = bias(1)

    def standardise(self, composition: Tensor) -> None:
        """Scale the features of compositions by the mean and deviation of these, (N, C)."""
        self.input_mean.copy_(composition.mean(0))
        self.input_std.copy_(composition.std(0, correction=0).clamp_min(1e-3))

    def forward(self, inputs: CrystalInputs) -> Tensor:
        """Return outputs, (S, N), for inputs (N, ...) or (S, N, ...) with a batch per member."""
        members = self.shape.members
        if inputs.group.ndim == 1:
            expanded = (getattr(inputs, f.name) for f in fields(inputs))
            inputs = CrystalInputs(*(t.expand(members, *t.shape) for t in expanded))
        _, n, positions = inputs.element.shape
        member = torch.arange(members)
        embedded = self.elements[member[:, None, None], inputs.element]
        properties = element_property_table()[inputs.element]
        start = torch.cat([properties, embedded, inputs.site, inputs.share[..., None]], -1).flatten(1, 2)
        hidden = nn.functional.silu(torch.baddbmm(self.enter_bias, start, self.enter))  # (S, N positions, width)
        pair = _occupied_pairs(inputs.element)  # (S, P), few of all N positions^2
        near = inputs.neighbours.flatten(1, 3)[member[:, None], pair]
        share = inputs.share.flatten(1)
        first = pair // positions
        second = first // positions * positions + pair % positions
        weight = share[member[:, None], second][..., None] * (share[member[:, None], first] > 0)[..., None]
        rows = (member[:, None] * (n * positions) + first).flatten()
        others = (member[:, None] * (n * positions) + second).flatten()
        for layer in range(self.shape.layers):
            receive = torch.baddbmm(self.message_bias[layer], hidden, self.receive[layer]).flatten(0, 1)
            send = torch.bmm(hidden, self.send[layer]).flatten(0, 1)
            pairs = torch.bmm(near, self.near[layer])
            pairs = pairs + (receive.index_select(0, rows) + send.index_select(0, others)).view_as(pairs)
            gate = torch.bmm(near, self.gate[layer])
            messages = nn.functional.silu(pairs) * (1 + gate) * weight
            total = torch.zeros_like(receive).index_add_(0, rows, messages.flatten(0, 1)).view_as(hidden)
            hidden = hidden + torch.bmm(total, self.update[layer])
        pooled = (hidden.view(members, n, positions, -1) * inputs.share[..., None]).sum(2)
        groups = self.groups[member[:, None], inputs.group]
        composition = ((inputs.composition - self.input_mean) / self.input_std).clamp(
            -_LARGEST_FEATURE, _LARGEST_FEATURE
        )
        whole = torch.cat([pooled, inputs.crystal, groups, composition], -1)
        read = nn.functional.silu(torch.baddbmm(self.read_bias, whole, self.read))
        deep = nn.functional.silu(torch.baddbmm(self.deepen_bias, read, self.deepen))
        return torch.baddbmm(self.leave_bias, deep, self.leave).squeeze(-1)


def _occupied_pairs(element: Tensor) -> Tensor:
    """Return the pairs of occupied positions of N crystals, (S, N, K), as numbers in N K K, long (S, P).

    Where members have different numbers of them, others fill up the rest; these weigh nothing.
    """
    occupied = element > 0
    both = (occupied[..., :, None] & occupied[..., None, :]).flatten(1)
    most = int(both.sum(1).max())
    order: Tensor = both.byte().argsort(dim=1, descending=True, stable=True)
    return order[:, :most]
