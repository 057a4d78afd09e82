"""Fit `BandGapModel` to the embedded tables and write its weights into `surrogates/data/`.

python experiments/data/fit_band_gap.py
"""

from __future__ import annotations

from pathlib import Path

import torch

from surrogates.band_gap import DEFAULT_WEIGHTS, fit_default

TABLES = Path(__file__).resolve().parents[2] / "surrogates" / "data"


def main(seed: int = 0, threads: int = 1, validate: bool = True) -> None:
    """Fit and write.

    Args:
        seed: Seed of everything random.
        threads: Threads of torch.
        validate: Cross-validate by chemical system and store the measures with the weights.
    """
    torch.set_num_threads(threads)
    path = TABLES / DEFAULT_WEIGHTS
    model = fit_default(seed)
    if validate:
        model.validation = model.cross_validate()
        print(model.validation)
    model.save(path)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
