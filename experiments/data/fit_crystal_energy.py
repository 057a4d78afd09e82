"""Fit `CrystalEnergyModel` to the embedded reference table and write its weights into `surrogates/data/`.

python experiments/data/fit_crystal_energy.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from surrogates.crystal_energy import DEFAULT_WEIGHTS, CrystalEnergyModel
from surrogates.crystal_energy_data import reference_crystals
from surrogates.crystal_energy_training import CrystalTrainingOptions

TABLES = Path(__file__).resolve().parents[2] / "surrogates" / "data"


def main(
    output: Path = TABLES / DEFAULT_WEIGHTS,
    options: CrystalTrainingOptions | None = None,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Fit and write, with the measures on held-out chemical systems and structure types.

    Args:
        output: File of weights to write.
        options: How to train.
        seed: Seed of everything random.
        threads: Threads of torch.
    """
    torch.set_num_threads(threads)
    crystals, energies = reference_crystals()
    print(f"{len(crystals):,} crystals in {len(torch.unique(crystals.space_group))} space groups", flush=True)
    with tqdm(total=1.0, bar_format="{desc} {percentage:3.0f} %|{bar}| {elapsed}") as bar:

        def show(what: str, share: float) -> None:
            bar.set_description(what, refresh=False)
            bar.update(share - bar.n)

        model = CrystalEnergyModel(options, seed).fit(crystals, energies, show)
    print(model.validation)
    model.save(output)
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
