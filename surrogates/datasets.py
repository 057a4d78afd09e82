"""Tables of materials and properties: the embedded ones, and a user's CSV or Parquet."""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib import resources
from typing import IO

import pandas as pd


def open_data_file(name: str) -> IO[bytes]:
    """Open a file of `surrogates/data` for reading; names ending in .gz are decompressed."""
    file = (resources.files("surrogates") / "data" / name).open("rb")
    return gzip.open(file) if name.endswith(".gz") else file  # type: ignore[return-value]


@lru_cache(maxsize=1)
def read_band_gaps() -> pd.DataFrame:
    """Return experimental band gaps: columns formula, band_gap_eV (median of the entries), entries.

    Source: Zhuo et al., J. Phys. Chem. Lett. 9, 1668 (2018).
    """
    with open_data_file("band_gaps.csv.gz") as file:
        return pd.read_csv(file, keep_default_na=False)


@lru_cache(maxsize=1)
def read_metal_classes() -> pd.DataFrame:
    """Return experimental classes: columns formula, gapped (1 for a non-metal, 0 for a metal).

    Source: Zhuo et al., J. Phys. Chem. Lett. 9, 1668 (2018).
    """
    with open_data_file("metal_classes.csv.gz") as file:
        return pd.read_csv(file, keep_default_na=False)


@lru_cache(maxsize=1)
def read_known_formulas() -> pd.DataFrame:
    """Return the known materials, one row a reduced formula, sorted.

    Columns: formula; entries (number of crystal structures in the transport table, 0 for formulas known from
    experimental tables only); and, empty where entries is 0: gapped (share of the structures whose Seebeck
    coefficients tell a gap: S_p > 100 and S_n < -100 uV/K), S_p and S_n (median, uV/K).

    Source: Ricci et al., Sci. Data 4, 170085 (2017) and Zhuo et al., J. Phys. Chem. Lett. 9, 1668 (2018).
    """
    with open_data_file("known_formulas.csv.gz") as file:
        return pd.read_csv(file, keep_default_na=False, na_values={"gapped": "", "S_p": "", "S_n": ""})


@lru_cache(maxsize=1)
def read_element_properties() -> pd.DataFrame:
    """Return numeric properties of the elements 1-103, indexed by symbol; no value is missing.

    Source: Ward et al., npj Comput. Mater. 2, 16028 (2016), and SMACT's oxidation-state counts for the common charges.
    """
    with open_data_file("element_properties.csv") as file:
        return pd.read_csv(file, keep_default_na=False, index_col="symbol")
