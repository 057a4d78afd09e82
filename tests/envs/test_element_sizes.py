"""Volumes and radii of the elements, against ASE's and pymatgen's tables."""

from __future__ import annotations

import pytest
import torch
from ase.data import covalent_radii

from envs.chemistry import ATOMIC_NUMBERS, MAX_ATOMIC_NUMBER, SYMBOLS
from envs.element_sizes import element_sizes
from tests.envs.crystals import CURIUM, anion_radius


def test_every_element_has_a_volume_and_a_covalent_radius() -> None:
    sizes = element_sizes()
    for values in (sizes.volume, sizes.covalent_radius, sizes.anion_radius):
        assert values.shape == (MAX_ATOMIC_NUMBER + 1,)
        assert values[0] == 0
    assert (sizes.volume[1:] > 0).all()
    assert (sizes.volume < 120).all()
    assert ((sizes.covalent_radius[1:] > 0.2) & (sizes.covalent_radius[1:] < 3)).all()


def test_covalent_radii_are_those_of_cordero() -> None:
    expected = torch.from_numpy(covalent_radii[1 : CURIUM + 1]).float()
    assert element_sizes().covalent_radius[1 : CURIUM + 1].allclose(expected)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_anion_radii_are_those_of_shannon(symbol: str) -> None:
    expected = anion_radius(symbol)
    assert float(element_sizes().anion_radius[ATOMIC_NUMBERS[symbol]]) == pytest.approx(expected, abs=0.006)


def test_the_volumes_of_common_compounds_add_up() -> None:
    volume = element_sizes().volume
    for amounts, known in (({"Na": 1, "Cl": 1}, 44.9), ({"Sr": 1, "Ti": 1, "O": 3}, 59.5), ({"Ti": 1, "O": 2}, 31.2)):
        added = sum(count * float(volume[ATOMIC_NUMBERS[symbol]]) for symbol, count in amounts.items())
        assert added == pytest.approx(known, rel=0.35)
