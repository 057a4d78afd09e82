import dataclasses
import math

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure import IStructure
from scipy.optimize import minimize_scalar

from surrogates.volume_scan import scan_volumes
from tests.surrogates.analytic_potentials import Analytic, Birch, LennardJones, Wrapped


def rocksalt(per_atom, species=("Na", "Cl")):
    matrix = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * (8 * per_atom) ** (1 / 3)
    return Structure(matrix, list(species), [[0, 0, 0], [0.5, 0.5, 0.5]])


def face_centred(per_atom):
    return Structure(
        np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * (4 * per_atom) ** (1 / 3), ["Ar"], [[0, 0, 0]]
    )


class OfVolume(Analytic):
    """Energies that are a function of the volume per atom."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def energies(self, structures):
        return np.array([self.function(structure.volume / len(structure)) for structure in structures])


@pytest.mark.parametrize("start", [11.5, 14.0, 20.0, 23.0, 37.0])
def test_birch_minimum_is_found_exactly_from_any_start(start):
    found = scan_volumes([rocksalt(start)], Birch(energy=-2.0, volume=20.0))[0]
    assert found.failure is None
    assert found.energy == pytest.approx(-2.0, abs=1e-9)
    assert found.volume == pytest.approx(20.0, abs=1e-6)


@pytest.mark.parametrize("start", [11.0, 16.0, 25.0])
def test_lennard_jones_crystal_agrees_with_a_continuous_minimisation(start):
    potential = LennardJones()
    truth = minimize_scalar(lambda v: potential.energies([face_centred(v)])[0], bounds=(9, 30), method="bounded")
    found = scan_volumes([face_centred(start)], potential)[0]
    assert found.volume == pytest.approx(truth.x, rel=0.03)
    assert found.energy == pytest.approx(truth.fun, rel=0.02)


def test_structures_of_a_batch_do_not_mix_and_stay_as_they_were():
    starts = [rocksalt(12.0), face_centred(30.0), rocksalt(33.0)]
    before = [start.copy() for start in starts]
    together = scan_volumes(starts, LennardJones())
    assert starts == before
    assert together == [scan_volumes([start], LennardJones())[0] for start in starts]
    assert scan_volumes([], Birch()) == []


def test_energy_that_falls_out_of_the_range_has_no_minimum():
    shrinking = OfVolume(lambda volume: 0.1 * volume)
    growing = OfVolume(lambda volume: -0.1 * volume)
    below, above = scan_volumes([rocksalt(40.0)], shrinking)[0], scan_volumes([rocksalt(40.0)], growing)[0]
    assert below.failure == "no minimum: the energy still falls below the range of volumes"
    assert above.failure == "no minimum: the energy still falls above the range of volumes"
    assert math.isnan(below.energy) and math.isnan(below.volume)


def test_no_graph_is_made_of_a_crushed_cell():
    asked = []
    scan_volumes([rocksalt(6.0)], OfVolume(lambda volume: asked.append(volume) or 0.1 * volume))
    assert min(asked) >= 4.5


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf, -300.0, 1000.0])
def test_nonsense_energies_never_win(nonsense):
    everywhere = scan_volumes([rocksalt(20.0)], OfVolume(lambda volume: nonsense))[0]
    assert everywhere.failure == "no finite energy at any volume"
    exact = Birch()
    partly = OfVolume(lambda volume: nonsense if volume < 15 else exact.energies([rocksalt(volume)])[0])
    assert scan_volumes([rocksalt(20.0)], partly)[0].volume == pytest.approx(20.0, abs=1e-6)


def test_a_structure_that_makes_the_potential_raise_does_not_spoil_the_batch():
    def change(structure, values):
        if "K" in structure.composition:
            raise RuntimeError("no potassium\nhere")
        return values

    found = scan_volumes([rocksalt(18.0), rocksalt(18.0, ("K", "Cl"))], Wrapped(Birch(), change))
    assert found[0].failure is None and found[0].volume == pytest.approx(20.0, abs=1e-6)
    assert found[1].failure == "the potential failed: no potassium"


def test_unsound_structures_are_failures_with_a_reason():
    bad = [
        Structure(Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0], [0.01, 0, 0]]),
        Structure(Lattice(np.zeros((3, 3))), ["Na"], [[0, 0, 0]]),
        rocksalt(20.0, [{"Na": 0.5}, "Cl"]),
    ]
    *failed, good = scan_volumes([*bad, rocksalt(18.0)], Birch())
    assert good.failure is None
    for found, reason in zip(failed, ("apart", "volume of 0", "partially occupied"), strict=True):
        assert reason in found.failure and "\n" not in found.failure


def test_lists_of_energies_and_immutable_structures_are_fine():
    class Lists(Birch):
        def energies(self, structures):
            return super().energies(structures).tolist()

    (found,) = scan_volumes([IStructure.from_sites(rocksalt(18.0).sites)], Lists())
    assert dataclasses.asdict(found) == pytest.approx({"energy": -2.0, "volume": 20.0, "failure": None})
