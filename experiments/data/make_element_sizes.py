"""Make `envs/data/element_sizes.csv`: how much room each element takes in a crystal.

    python experiments/data/make_element_sizes.py

- `volume_A3`: additive volume in compounds, by non-negative least squares (relative errors) on the relaxed structures
  of `surrogates/data/reference_structures.jsonl.gz` (CHGNet, not DFT); elements that are in none of them get the median
  of volume over covalent radius cubed times their own radius cubed.
- `covalent_radius_A`: Cordero et al., Dalton Trans. 2008, 2832, as in `surrogates/data/element_properties.csv`.
- `anion_radius_A`: six-coordinate radius of the closed-shell anion, Shannon, Acta Cryst. A32, 751 (1976),
  four-coordinate for N3-; H-: Gibb, Prog. Inorg. Chem. 3, 315 (1962). Empty where an element is no such anion.
"""

from __future__ import annotations

import gzip
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from envs.chemistry import ATOMIC_NUMBERS, SYMBOLS
from surrogates.datasets import read_element_properties

ANION_RADII = {
    "H": 1.40,
    "N": 1.46,
    "O": 1.40,
    "F": 1.33,
    "S": 1.84,
    "Cl": 1.81,
    "Se": 1.98,
    "Br": 1.96,
    "Te": 2.21,
    "I": 2.20,
}
OUTPUT = Path(__file__).parents[2] / "envs" / "data" / "element_sizes.csv"


def main() -> None:
    """Fit and write."""
    content = (resources.files("surrogates.data") / "reference_structures.jsonl.gz").read_bytes()
    shares, volumes = [], []
    for line in gzip.decompress(content).decode().splitlines():
        entry = json.loads(line)
        if len(set(entry["species"])) < 2:
            continue
        share = np.zeros(len(SYMBOLS))
        np.add.at(share, [ATOMIC_NUMBERS[symbol] - 1 for symbol in entry["species"]], 1 / len(entry["species"]))
        shares.append(share)
        volumes.append(abs(np.linalg.det(np.array(entry["lattice"]))) / len(entry["species"]))
    x, y = np.array(shares), np.array(volumes)
    fitted, _ = nnls(x / y[:, None], np.ones(len(y)))
    radii = read_element_properties()["covalent_radius_pm"].reindex(list(SYMBOLS)).to_numpy() / 100
    known = x.any(0)
    per_radius = np.median(fitted[known] / radii[known] ** 3)
    table = pd.DataFrame(
        {
            "element": SYMBOLS,
            "volume_A3": np.where(known, fitted, per_radius * radii**3).round(2),
            "covalent_radius_A": radii.round(2),
            "anion_radius_A": [ANION_RADII.get(symbol) for symbol in SYMBOLS],
        }
    )
    table.to_csv(OUTPUT, index=False)
    ratio = y / (x @ fitted)
    quantiles = ", ".join(f"{q:.2f}" for q in np.quantile(ratio, [0.01, 0.05, 0.5, 0.95, 0.99]))
    print(f"{len(y)} compounds; volume over the additive one at 1, 5, 50, 95, 99 %: {quantiles}")


if __name__ == "__main__":
    main()
