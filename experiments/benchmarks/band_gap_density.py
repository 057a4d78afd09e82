"""Does the density of the structure help a band gap model that knows the composition?

Measured gaps of compounds whose relaxed structure is in the reference table (CHGNet), five folds by chemical system:
extremely randomised trees on features of the composition, with and without density and volume an atom.

    python experiments/benchmarks/band_gap_density.py
"""

from __future__ import annotations

import gzip
import json
from importlib import resources

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import GroupKFold

from envs import CompositionBatch
from envs.formula import chemical_system, reduced_formula
from surrogates.band_gap_data import measured_gaps
from surrogates.features import composition_features


def main() -> None:
    """Print the errors."""
    from pymatgen.core import Lattice, Structure

    content = (resources.files("surrogates.data") / "reference_structures.jsonl.gz").read_bytes()
    structures = {}
    for line in gzip.decompress(content).decode().splitlines():
        entry = json.loads(line)
        structures[entry["formula"]] = Structure(Lattice(entry["lattice"]), entry["species"], entry["positions"])
    measured = measured_gaps()
    pairs = [
        (reduced_formula(formula), float(gap))
        for formula, gap in zip(measured.materials, measured.labels.tolist(), strict=True)
        if reduced_formula(formula) in structures
    ]
    formulas, values = [formula for formula, _ in pairs], np.array([gap for _, gap in pairs])
    composition = composition_features(CompositionBatch.from_formulas(formulas)).numpy()
    found = [structures[formula] for formula in formulas]
    geometry = np.array([[s.density, s.volume / len(s)] for s in found])
    groups = [chemical_system(formula) for formula in formulas]
    print(f"{len(formulas)} compounds with a measured gap and a relaxed structure")
    for name, features in (
        ("composition", composition),
        ("composition and density", np.hstack([composition, geometry])),
    ):
        errors = []
        for seed in range(3):
            predicted = np.empty(len(values))
            for training, test in GroupKFold(5, shuffle=True, random_state=seed).split(features, values, groups):
                model = ExtraTreesRegressor(300, random_state=seed, n_jobs=1).fit(features[training], values[training])
                predicted[test] = model.predict(features[test])
            errors.append(np.abs(predicted - values).mean())
        print(f"{name}: mean absolute error {np.mean(errors):.3f} eV ({', '.join(f'{e:.3f}' for e in errors)})")


if __name__ == "__main__":
    main()
