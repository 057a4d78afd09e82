"""Fit `BandGapModel` to the embedded tables and write its weights into `surrogates/data/`.

python experiments/data/fit_band_gap.py
"""

from __future__ import annotations

from pathlib import Path

import torch

from surrogates.band_gap import DEFAULT_WEIGHTS, fit_default

TABLES = Path(__file__).resolve().parents[2] / "surrogates" / "data"


def main(seed: int = 0, threads: int = 1) -> None:
    """Fit and write.

    Args:
        seed: Seed of everything random.
        threads: Threads of torch.
    """
    torch.set_num_threads(threads)
    path = TABLES / DEFAULT_WEIGHTS
    fit_default(seed).save(path)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
