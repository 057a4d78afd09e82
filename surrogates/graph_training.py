"""Training of the structure-to-energy network with MatGL's Lightning modules.

The network is a small TensorNet (Simeon and De Fabritiis, NeurIPS 2023). It learns what a linear regression on the
composition leaves over, and its element embeddings start from tabulated properties of the elements, which halves the
error on chemical systems that it has never seen.

MatGL and Lightning take many seconds to import: import this module inside functions only.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from envs.chemistry import SYMBOLS
from surrogates.features import element_property_table
from surrogates.graph_options import GraphOptions

with warnings.catch_warnings():  # deprecations inside the packages are not ours to mend
    warnings.simplefilter("ignore")
    import lightning
    import matgl.models  # noqa: F401  (its own imports must not warn later either)
    from matgl.ext.pymatgen import Structure2Graph
    from matgl.graph.data import MGLDataLoader, MGLDataset, collate_fn_graph
    from matgl.models import TensorNet
    from matgl.utils.training import ModelLightningModule

if TYPE_CHECKING:
    from pymatgen.core import Structure

WARM_UP = 0.15
"""Share of the steps in which the learning rate rises."""

LINEAR_ABOVE = 0.1
"""Errors, in standard deviations of the labels, above which the loss is linear."""


def build_network(options: GraphOptions) -> TensorNet:
    """Return an untrained network over the elements 1-103; random numbers come from torch's global generator."""
    network = TensorNet(
        element_types=SYMBOLS,
        units=options.units,
        nblocks=options.blocks,
        num_rbf=options.radial_functions,
        width=options.radial_sharpness,
        cutoff=options.cutoff,
        rbf_type="Gaussian",
        readout_type="weighted_atom",
        is_intensive=True,
        use_warp=False,
    )
    properties = element_property_table()[1:]
    projection = torch.randn(properties.shape[1], options.units) / properties.shape[1] ** 0.5
    with torch.no_grad():
        network.tensor_embedding.emb.weight.copy_(properties @ projection)
    return network


class _EnergyModule(ModelLightningModule):
    """MatGL's module with AdamW and a learning rate that rises and falls over all steps."""

    def __init__(self, model: nn.Module, options: GraphOptions, learning_rate: float, steps: int) -> None:
        decayed = [weight for name, weight in model.named_parameters() if weight.ndim > 1 and ".emb." not in name]
        others = [weight for name, weight in model.named_parameters() if weight.ndim < 2 or ".emb." in name]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=learning_rate,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, learning_rate, total_steps=max(steps, 2), pct_start=WARM_UP
        )
        super().__init__(
            model,
            loss="smooth_l1_loss",
            loss_params={"beta": LINEAR_ABOVE},
            optimizer=optimizer,
            scheduler=schedule,
            lr=learning_rate,
        )

    def configure_optimizers(self) -> Any:
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": self.scheduler, "interval": "step"}}


class _BestWeights(lightning.Callback):
    """Keeps the weights of the epoch with the smallest held-out error and tells about each."""

    def __init__(self, network: nn.Module, on_improvement: Callable[[], None] | None, bar: Any) -> None:
        self.network, self.on_improvement, self.bar = network, on_improvement, bar
        self.error = float("inf")
        self.weights = _copied(network)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        error = float(trainer.callback_metrics["val_MAE"])
        if error < self.error:
            self.error, self.weights = error, _copied(self.network)
            if self.on_improvement is not None:
                self.on_improvement()
        if self.bar is not None:
            self.bar.set_postfix_str(f"held-out error {error:.3f} standard deviations, best {self.error:.3f}")
            self.bar.update(1)


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def train(
    network: nn.Module,
    training: tuple[Sequence[Structure], Tensor],
    held_out: tuple[Sequence[Structure], Tensor],
    options: GraphOptions,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    on_improvement: Callable[[], None] | None = None,
    progress: bool = False,
) -> None:
    """Train a network in place and leave it with the weights that were best on the held-out structures.

    Args:
        network: A TensorNet over the elements 1-103.
        training: Structures to learn from and their standardised labels (N,).
        held_out: Structures to judge by, and their labels.
        options: Batch size, cutoff and weight decay.
        epochs: Passes over the structures.
        learning_rate: Highest learning rate.
        seed: Seed of the order of the structures.
        on_improvement: Called after each epoch that was the best so far, with the network at its weights.
        progress: Show a bar over the epochs.
    """
    generator = torch.Generator().manual_seed(seed)
    converter = Structure2Graph(SYMBOLS, options.cutoff)
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        first, second = (_dataset(part, converter, f"{folder}/{k}") for k, part in enumerate((training, held_out)))
        loaders = MGLDataLoader(
            first,
            second,
            collate_fn=collate_fn_graph,
            batch_size=options.batch,
            num_workers=0,
            pin_memory=False,
            generator=generator,
        )
    with _bar(epochs, progress) as bar, _quiet():
        module = _EnergyModule(network, options, learning_rate, steps=epochs * len(loaders[0]))
        best = _BestWeights(network, on_improvement, bar)
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
            callbacks=[best],
        )
        trainer.fit(module, loaders[0], loaders[1])
    network.load_state_dict(best.weights)
    network.eval().requires_grad_(False)


def _dataset(part: tuple[Sequence[Structure], Tensor], converter: Structure2Graph, folder: str) -> MGLDataset:
    structures, labels = part
    with contextlib.redirect_stderr(io.StringIO()):  # MatGL always shows a bar, PyG always a message
        return MGLDataset(
            structures=list(structures),
            labels={"energy": labels.tolist()},
            converter=converter,
            save_cache=False,
            root=folder,
        )


@contextlib.contextmanager
def _bar(epochs: int, progress: bool) -> Iterator[Any]:
    from tqdm import tqdm

    if not progress:
        yield None
        return
    with tqdm(total=epochs, desc="training", unit="epoch") as bar:
        yield bar


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning: its log lines on the hardware, its advice on loader workers, deprecations inside packages."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(lightning|torch|torchmetrics|torch_geometric|matgl|monty)\b")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
