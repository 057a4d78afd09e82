"""Training of the crystal energy networks, and a spread that holds for unseen chemical systems and structure types.

A batch holds several structures of each of its formulas: besides the energies themselves the networks learn the
differences between structures of one composition, which decide what crystallises how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from envs.chemistry import MAX_ATOMIC_NUMBER
from envs.crystal_batch import CrystalBatch
from surrogates.crystal_energy_batches import FormulaBatches
from surrogates.crystal_energy_network import CrystalInputs, CrystalNetwork, NetworkShape
from surrogates.crystal_site_features import structure_type_keys
from surrogates.energy_training import SMALLEST_SPREAD, EnergySpread, calibrated_spread
from surrogates.pair_features import seen_pairs, unseen_share
from surrogates.reference_table import composition_keys
from surrogates.validation import grouped_folds

FEWEST_ERRORS = 20
"""Held-out errors that a spread of its own needs."""
Progress = Callable[[str, float], object]
"""Told now and then what is being done and the share of it that is done."""
_CHUNK = 256
_SMOOTH = 0.1  # standard deviations below which the loss is quadratic


@dataclass(frozen=True)
class CrystalTrainingOptions:
    """How the networks are trained."""

    shape: NetworkShape = field(default_factory=NetworkShape)
    steps: int = 5000
    """Most steps; fewer for few crystals, so that none is seen more than `passes` times."""
    passes: int = 200
    formulas: int = 16
    """Formulas in a batch, a member."""
    structures: int = 4
    """Most structures of each of them."""
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    hidden_groups: float = 0.3
    """Share of the crystals whose space group number is hidden, so that the networks learn to do without it; what they
    know of groups outside the training set is the features of groups and positions."""
    folds: int = 4
    """Parts that chemical systems and structure types are divided into, one of which is held out at a time."""
    held_out: int = 1
    """How many of the parts are held out in turn to measure the spread, 1 to `folds`: one more training for each."""


@dataclass(frozen=True, eq=False)
class FittedCrystalNetwork:
    """Trained networks with what their outputs are scaled by, and what they were trained on."""

    network: CrystalNetwork
    energy_mean: float
    energy_std: float
    seen: Tensor
    """Bool (104 * 104,), pairs of elements that occurred together in training."""
    types: Tensor
    """Long (T,), ascending, the structure types that occurred in training, by `structure_type_keys`."""
    spread: EnergySpread
    """Spread for those structure types."""
    new_type_spread: EnergySpread
    """Spread for all others."""

    def knows_elements(self, crystals: CrystalBatch) -> Tensor:
        """Return whether each element of a crystal occurred in training, bool (N,)."""
        trained = self.seen.view(MAX_ATOMIC_NUMBER + 1, -1).any(1)
        return (trained[crystals.element] | (crystals.element == 0)).all(1)

    def knows_types(self, crystals: CrystalBatch) -> Tensor:
        """Return whether the structure type of each crystal occurred in training, bool (N,)."""
        return torch.isin(structure_type_keys(crystals), self.types)

    def energies(self, crystals: CrystalBatch) -> Tensor:
        """Return the formation energy by each member, (S, N), eV/atom."""
        order = (crystals.element > 0).sum(1).argsort(stable=True)  # crystals of like size need little padding
        result = torch.empty(self.network.shape.members, len(crystals))
        for rows in torch.split(order, _CHUNK):
            result[:, rows] = self.of_inputs(CrystalInputs.from_crystals(_trimmed(crystals.rows(rows))))
        return result

    @torch.no_grad()
    def of_inputs(self, inputs: CrystalInputs) -> Tensor:
        """Return the formation energy by each member, (S, N), eV/atom."""
        energies: Tensor = self.network(inputs) * self.energy_std + self.energy_mean
        return energies

    def std(self, crystals: CrystalBatch, energies: Tensor) -> Tensor:
        """Return the calibrated standard deviation of the mean of the members' energies (S, N), (N,)."""
        disagreement = energies.std(0, correction=0)
        unseen = unseen_share(crystals.compositions, self.seen)
        known = self.spread(disagreement, unseen)
        return torch.where(self.knows_types(crystals), known, self.new_type_spread(disagreement, unseen).maximum(known))


@dataclass(frozen=True, eq=False)
class HeldOutCrystals:
    """What networks say of crystals that they were not trained on; all tensors (N,)."""

    rows: Tensor
    """Long, which crystals."""
    part: Tensor
    """Long, for calibration on other chemical systems, or structure types, than those that are judged."""
    mean: Tensor
    """eV/atom."""
    error: Tensor
    """Predicted minus true energy, eV/atom."""
    disagreement: Tensor
    unseen: Tensor
    """Inputs of `EnergySpread`."""

    def spread(self, used: Tensor | None = None) -> EnergySpread | None:
        """Return the spread calibrated on all or on a mask of them; None when they are too few."""
        chosen = torch.ones_like(self.part, dtype=torch.bool) if used is None else used
        if int(chosen.sum()) < FEWEST_ERRORS:
            return None
        return calibrated_spread(self.error[chosen].abs(), self.disagreement[chosen], self.unseen[chosen])

    def calibrated_std(self) -> Tensor:
        """Return the standard deviation of each, eV/atom, calibrated on the other parts; NaN where too few are left."""
        result = torch.full_like(self.mean, torch.nan)
        for part in torch.unique(self.part):
            test = self.part == part
            spread = self.spread(~test)
            if spread is not None:
                result[test] = spread(self.disagreement[test], self.unseen[test])
        return result


def train_crystal_networks(
    crystals: CrystalBatch,
    energies: Tensor,
    options: CrystalTrainingOptions,
    seed: int,
    progress: Progress | None = None,
) -> tuple[FittedCrystalNetwork, HeldOutCrystals, HeldOutCrystals]:
    """Train on formation energies (N,), eV/atom, and calibrate the spread on what is held out in turn.

    A part of the chemical systems and a part of the structure types are left out of a training together.

    Args:
        crystals: N crystals.
        energies: (N,), eV/atom.
        options: How to train.
        seed: Seed of parts and networks.
        progress: Called now and then with what is being done and the share of it that is done.

    Returns:
        The fitted networks; crystals of new systems and known types; and crystals of new types.
    """
    inputs, keys = CrystalInputs.from_crystals(crystals), structure_type_keys(crystals)
    formulas = torch.unique(composition_keys(crystals.compositions), return_inverse=True)[1]
    system_fold, type_fold = (
        grouped_folds(crystals.compositions, options.folds, seed),
        _folds(keys, options.folds, seed),
    )
    halves = (grouped_folds(crystals.compositions, 2, seed + 1), _folds(keys, 2, seed + 1))
    found: tuple[list[HeldOutCrystals], list[HeldOutCrystals]] = ([], [])
    for fold in range(options.held_out):
        systems, types = system_fold == fold, type_fold == fold
        training = ~systems & ~types
        if 4 * int(training.sum()) < int((~systems).sum()):
            types = torch.zeros_like(types)  # one structure type makes up most of the data
            training = ~systems
        if not bool(training.any()) or bool(training.all()):
            continue
        note = _named(progress, f"part {fold + 1} of {options.held_out} held out")
        fitted = _train(crystals, inputs, energies, formulas, training, options, seed + 1 + fold, note)
        for into, half, chosen in zip(found, halves, (systems & ~types, types), strict=True):
            rows = chosen.nonzero()[:, 0]
            if len(rows):
                into.append(_held_out(fitted, crystals, inputs, energies, rows, 2 * fold + half[rows]))
    new_systems, new_types = (_joined(parts) for parts in found)
    everything = torch.ones(len(energies), dtype=torch.bool)
    note = _named(progress, "all crystals")
    fitted = _train(crystals, inputs, energies, formulas, everything, options, seed, note)
    spread = new_systems.spread() or EnergySpread(max(float(energies.std(correction=0)), SMALLEST_SPREAD), 1.0, 0.0)
    fitted = replace(fitted, types=torch.unique(keys), spread=spread, new_type_spread=new_types.spread() or spread)
    return fitted, new_systems, new_types


def _named(progress: Progress | None, name: str) -> Callable[[float], object] | None:
    return None if progress is None else partial(progress, name)


def _trimmed(crystals: CrystalBatch) -> CrystalBatch:
    """Return the crystals without columns that are padding for all of them, where these are the last."""
    used = (crystals.element > 0).any(0).nonzero()
    width = int(used[-1]) + 1 if len(used) else 1
    element, position, free = crystals.element[:, :width], crystals.position[:, :width], crystals.free[:, :width]
    return CrystalBatch(crystals.compositions, crystals.space_group, element, position, free, crystals.lattice)


def _folds(keys: Tensor, folds: int, seed: int) -> Tensor:
    """Return the fold of each row; rows with equal keys share one."""
    groups = torch.unique(keys, return_inverse=True)[1]
    generator = torch.Generator().manual_seed(seed)
    return (torch.randperm(int(groups.max()) + 1, generator=generator) % folds)[groups]


def _held_out(
    fitted: FittedCrystalNetwork,
    crystals: CrystalBatch,
    inputs: CrystalInputs,
    energies: Tensor,
    rows: Tensor,
    part: Tensor,
) -> HeldOutCrystals:
    found = torch.cat([fitted.of_inputs(inputs.rows(chunk)) for chunk in torch.split(rows, _CHUNK)], 1)
    mean = found.mean(0)
    unseen = unseen_share(crystals.compositions.rows(rows), fitted.seen)
    return HeldOutCrystals(rows, part, mean, mean - energies[rows], found.std(0, correction=0), unseen)


def _joined(parts: list[HeldOutCrystals]) -> HeldOutCrystals:
    names = ("rows", "part", "mean", "error", "disagreement", "unseen")
    empty = (torch.zeros(0, dtype=torch.long),) * 2 + (torch.zeros(0),) * 4
    return HeldOutCrystals(
        *(torch.cat([none, *(getattr(part, name) for part in parts)]) for name, none in zip(names, empty, strict=True))
    )


def _train(
    crystals: CrystalBatch,
    inputs: CrystalInputs,
    energies: Tensor,
    formulas: Tensor,
    used: Tensor,
    options: CrystalTrainingOptions,
    seed: int,
    progress: Callable[[float], object] | None,
) -> FittedCrystalNetwork:
    """Train on the rows that a mask selects; absolute errors, smoothed near zero, of energies and of differences."""
    generator = torch.Generator().manual_seed(seed)
    batches = FormulaBatches(formulas, used, seed)
    mean, std = float(energies[used].mean()), max(float(energies[used].std(correction=0)), 1e-3)
    network = CrystalNetwork(options.shape, inputs, generator)
    network.standardise(inputs.composition[used])
    biases = {name for name, _ in network.named_parameters() if "bias" in name}
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in network.named_parameters() if n not in biases], "weight_decay": options.weight_decay},
        {"params": [p for n, p in network.named_parameters() if n in biases], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)
    batch = options.formulas * options.structures
    steps = min(options.steps, max(100, options.passes * int(used.sum()) // batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=steps, pct_start=0.15)
    for step in range(steps):
        rows, counted = batches.draw((options.shape.members, options.formulas), options.structures)
        chosen = inputs.rows(rows.flatten(1))
        hidden = torch.rand(chosen.group.shape, generator=generator) < options.hidden_groups
        outputs = network(replace(chosen, group=torch.where(hidden, 0, chosen.group))).view(rows.shape)
        loss = _loss(outputs, (energies[rows] - mean) / std, counted.float())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if progress is not None and (step + 1) % 50 == 0:
            progress((step + 1) / steps)
    network.half().float().eval().requires_grad_(False)  # the precision of the file
    uncalibrated = EnergySpread(SMALLEST_SPREAD, 1.0, 0.0)
    seen = seen_pairs(crystals.compositions.rows(used))
    elements = torch.unique(crystals.element[used])
    seen.view(MAX_ATOMIC_NUMBER + 1, -1)[elements[elements > 0], elements[elements > 0]] = True
    types = torch.zeros(0, dtype=torch.long)
    return FittedCrystalNetwork(network, mean, std, seen, types, uncalibrated, uncalibrated)


def _loss(outputs: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """Return the sum over members of the mean loss of energies and of differences within formulas; all (S, F, K)."""
    single = smooth_l1_loss(outputs, targets, beta=_SMOOTH, reduction="none") * counted
    pairs = counted[..., :, None] * counted[..., None, :] * (1 - torch.eye(counted.shape[-1]))
    double = smooth_l1_loss(_differences(outputs), _differences(targets), beta=_SMOOTH, reduction="none") * pairs
    return (single.sum((1, 2)) / counted.sum((1, 2)) + double.sum((1, 2, 3)) / pairs.sum((1, 2, 3)).clamp_min(1)).sum()


def _differences(values: Tensor) -> Tensor:
    return values[..., :, None] - values[..., None, :]
