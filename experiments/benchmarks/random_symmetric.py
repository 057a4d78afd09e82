"""Random symmetric crystals by pyxtal (Fredericks et al., Comput. Phys. Commun. 261, 107810 (2021)): a baseline.

crystals = random_symmetric("TiO2", 10, group_counts, generator)    # pymatgen structures, None where it failed
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

from envs.formula import parse_formula
from envs.wyckoff_counts import multisets_fit

if TYPE_CHECKING:
    from pymatgen.core import Structure

MOST_ATOMS = 20
TRIES = 20


def random_symmetric(
    formula: str, n: int, group_counts: Mapping[int, int], generator: np.random.Generator
) -> list[Structure | None]:
    """Return n random crystals of a composition.

    Args:
        formula: With whole amounts.
        n: How many.
        group_counts: How often each space group is drawn.
        generator: Source of all randomness.
    """
    from pyxtal import pyxtal
    from pyxtal.msg import Comp_CompatibilityError, VolumeError

    amounts = {symbol: int(amount) for symbol, amount in parse_formula(formula).items()}
    assert gcd(*amounts.values()) == 1
    most_units = max(1, MOST_ATOMS // sum(amounts.values()))
    groups = np.array(list(group_counts))
    shares = np.array([group_counts[number] for number in groups], dtype=float)
    result: list[Structure | None] = []
    for _ in range(n):
        found = None
        for _ in range(TRIES):
            number = int(generator.choice(groups, p=shares / shares.sum()))
            units = int(generator.integers(1, most_units + 1))
            counts = [units * amount for amount in amounts.values()]
            if not multisets_fit(counts, number):
                continue
            crystal = pyxtal()
            centring = _primitive_cells(number)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    crystal.from_random(
                        3, number, list(amounts), [centring * count for count in counts], random_state=generator
                    )
            except (Comp_CompatibilityError, VolumeError, RuntimeError, ValueError):
                continue
            if crystal.valid:
                found = crystal.to_pymatgen().get_primitive_structure()
                break
        result.append(found)
    return result


def _primitive_cells(number: int) -> int:
    from envs.wyckoff import space_group

    return space_group(number).n_centring
