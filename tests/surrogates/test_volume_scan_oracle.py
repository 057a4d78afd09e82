from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from pymatgen.core import Structure

import surrogates.reference_export
from agent.config import PlugIn
from agent.oracle_source import OracleSource
from surrogates.base import Oracle
from surrogates.oracle import CHGNetOracle, RelaxationOracle
from surrogates.prototype_library import prototype_library
from surrogates.prototypes import decorate
from surrogates.reference_export import ReferenceStructure
from surrogates.relaxation import RelaxationOptions
from surrogates.volume_scan_oracle import VolumeScanOracle
from tests.surrogates.analytic_potentials import FORMATION_ENERGIES, Compounds
from tests.surrogates.test_oracle import ELEMENTS, HULL, rocksalt

OPTIONS = RelaxationOptions(fmax=0.005)


@pytest.fixture(autouse=True)
def reference_structures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Structures of five elements for the analytic potentials."""
    if request.node.get_closest_marker("slow"):
        return
    held = {
        symbol: ReferenceStructure(name, decorate(symbol, prototype_library()[name]).structure)
        for symbol, name in ELEMENTS.items()
    }
    monkeypatch.setattr(surrogates.reference_export, "read_reference_structures", lambda: held)


@pytest.fixture
def oracle() -> VolumeScanOracle:
    return VolumeScanOracle(options=OPTIONS, hull=HULL, check=False, potential=Compounds())


def test_it_is_an_oracle_of_another_name_that_costs_less(oracle: VolumeScanOracle) -> None:
    assert isinstance(oracle, Oracle)
    assert (oracle.name, oracle.version) == ("analytic volume scan", "1")
    assert 0 < oracle.cost < CHGNetOracle.cost


def test_where_only_the_volume_matters_labels_are_those_of_relaxation(oracle: VolumeScanOracle) -> None:
    relaxing = RelaxationOracle(Compounds(), OPTIONS, HULL, check=False)
    for label, expected in zip(oracle.label(["NaCl", "MgO"]), relaxing.label(["NaCl", "MgO"]), strict=True):
        assert dict(label.values) == pytest.approx(dict(expected.values), abs=0.02)
        assert label.values["formation_energy"] == pytest.approx(FORMATION_ENERGIES[label.material], abs=0.02)
        assert label.prototype and label.structure is not None
        assert label.steps is None and label.converged is None


def test_nothing_of_the_compound_is_relaxed(oracle: VolumeScanOracle, monkeypatch: pytest.MonkeyPatch) -> None:
    relaxed: list[Structure] = []
    relax: Callable[..., object] = surrogates.oracle.relax

    def noted(structures: list[Structure], *options: object) -> object:
        relaxed.extend(structures)
        return relax(structures, *options)

    monkeypatch.setattr(surrogates.oracle, "relax", noted)
    oracle.label(["NaCl"])
    assert {structure.composition.reduced_formula for structure in relaxed} == {"Na", "Cl2"}


def test_a_structure_is_scanned_as_it_is(oracle: VolumeScanOracle) -> None:
    given = rocksalt(per_atom=16.0)
    (label,) = oracle.label([given])
    assert label.values["volume"] == pytest.approx(20.0, rel=0.02) and label.structure is not None
    assert np.allclose(label.structure.frac_coords, given.frac_coords)
    assert given.volume / len(given) == pytest.approx(16.0)


def test_what_cannot_be_labelled_is_refused_and_fails_with_a_reason(oracle: VolumeScanOracle) -> None:
    relaxing = RelaxationOracle(Compounds(), OPTIONS, HULL, check=False)
    assert oracle.refuses(["NaCl", "Na17Cl19"]) == relaxing.refuses(["NaCl", "Na17Cl19"])
    for label in oracle.label(["Na17Cl19", "not a formula"]):
        assert not label.values and label.failure and "\n" not in label.failure


def test_a_structure_without_a_minimum_is_a_failure(oracle: VolumeScanOracle) -> None:
    (label,) = oracle.label([rocksalt(per_atom=400.0)])
    assert label.failure is not None and "no minimum" in label.failure


@pytest.mark.slow
def test_chgnet_scans_lie_above_relaxations_and_near_them() -> None:
    scanning = OracleSource(PlugIn("volume-scan", {"check": False})).make()
    assert scanning.name == "CHGNet volume scan"
    formulas = ["NaCl", "MgO", "SrTiO3", "GaAs"]
    relaxed = CHGNetOracle(check=False).label(formulas)
    for label, expected in zip(scanning.label(formulas), relaxed, strict=True):
        assert label.failure is None and math.isfinite(label.values["e_above_hull"])
        assert -0.01 < label.values["formation_energy"] - expected.values["formation_energy"] < 0.15
