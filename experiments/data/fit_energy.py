"""Fit `EnergyModel` to the embedded reference table and write its weights into `surrogates/data/`.

python experiments/data/fit_energy.py
python experiments/data/fit_energy.py --table my_phases.csv --output my_energy.safetensors
"""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from surrogates.energy import DEFAULT_WEIGHTS, fit_default
from surrogates.energy_training import EnergyTrainingOptions
from surrogates.hull import ReferenceHull
from surrogates.reference_table import load_reference_table

TABLES = Path(__file__).resolve().parents[2] / "surrogates" / "data"


def main(
    table: Path | None = None,
    output: Path = TABLES / DEFAULT_WEIGHTS,
    options: EnergyTrainingOptions | None = None,
    seed: int = 0,
    threads: int = 1,
    validate: bool = True,
) -> None:
    """Fit and write.

    Args:
        table: Table of phases to learn from; the embedded one when None.
        output: File of weights to write.
        options: How to train.
        seed: Seed of everything random.
        threads: Threads of torch.
        validate: Cross-validate by chemical system and store the measures with the weights.
    """
    torch.set_num_threads(threads)
    hull = ReferenceHull.default() if table is None else ReferenceHull(load_reference_table(table))
    print(hull)
    model = fit_default(seed, options, hull)
    if validate:
        with tqdm(total=5, desc="cross-validation", unit="fold") as bar:
            model.validation = model.cross_validate(folds=5, progress=lambda _: bar.update())
        print(model.validation)
    model.save(output)
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
