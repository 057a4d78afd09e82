import pickle
from io import BytesIO

import pandas as pd
import pytest
import torch
from pymatgen.core import Composition

import surrogates.reference_table
from envs.formula import CompositionBatch, parse_formula
from surrogates.hull import ReferenceHull
from surrogates.reference_table import load_reference_table, lowest_of_each_formula, read_reference_table
from tests.surrogates.test_convex_hull import random_compositions, random_table
from tests.surrogates.test_reference_table import ENTRIES

TOTALS = """formula,energy_per_atom
Sr,-1.7
Ti,-7.8
O,-4.9
SrO,-6.0
TiO2,-9.0
SrTiO3,-8.0
Sr2TiO4,-7.0
Ti2O3,-8.9
"""

NO_NOBLE_GASES = [number for number in range(3, 33) if number not in (10, 18)]


@pytest.fixture(scope="module")
def hull(tmp_path_factory):
    path = tmp_path_factory.mktemp("hull") / "totals.csv"
    path.write_text(TOTALS, encoding="utf-8")
    return ReferenceHull(load_reference_table(path))


def test_formation_energy_by_hand(hull):
    assert hull.formation_energy(["SrO", "O2"]).tolist() == pytest.approx([-6.0 + (1.7 + 4.9) / 2, 0])
    given = hull.formation_energy(["TiO", "Ti2O2"], torch.tensor([-8.0, -8.0]))
    assert given.tolist() == pytest.approx([-8 + (7.8 + 4.9) / 2] * 2)
    assert bool(torch.isnan(hull.formation_energy(["TiO", "Sr0.9995TiO3"])).all())
    assert hull.formation_energy(["Sr2O2", "O1Sr1", "Sr0.5O0.5"]).tolist() == pytest.approx([-2.7] * 3)


def test_distance_to_the_hull_by_hand(hull):
    stable, above = hull.e_above_hull(["SrTiO3", "Sr2TiO4"]).tolist()
    assert stable == pytest.approx(0, abs=1e-9)
    # Sr2TiO4 (7 atoms) against SrO (2 atoms) and SrTiO3 (5 atoms)
    assert above == pytest.approx(-7.0 - (2 * -6.0 + 5 * -8.0) / 7, abs=1e-8)
    given = hull.e_above_hull(["Sr2TiO4"], torch.tensor([-5.0]))
    assert given.item() == pytest.approx(-5.0 - hull.hull_energy(["Sr2TiO4"]).item())
    # SrTiO3 against SrO and TiO2
    apart = hull.e_above_hull(["SrTiO3"], exclude_self=True).item()
    assert apart == pytest.approx(-8.0 - (2 * -6.0 + 3 * -9.0) / 5, abs=1e-8)


def test_decomposition_gives_formulas_and_shares_of_atoms(hull):
    assert hull.decomposition("Sr2TiO4") == pytest.approx({"SrO": 2 / 7, "SrTiO3": 5 / 7})
    assert hull.decomposition("Ti2Sr2O6") == pytest.approx({"SrTiO3": 1})
    assert hull.decomposition("O") == pytest.approx({"O": 1})


def test_decomposition_carries_the_hull_energy():
    materials, energies = random_table(11, [3, 8, 16, 26])
    hull = reference_hull(materials, energies)
    for formula in ("LiFeS2O", "Li3FeO4", "FeSO4", "Fe5Li"):
        shares = hull.decomposition(formula)
        phases = CompositionBatch.from_formulas(shares)
        weights = torch.tensor(list(shares.values()), dtype=torch.float64)
        energy = (weights * hull.formation_energy(phases)).sum().item()
        assert energy == pytest.approx(hull.hull_energy([formula]).item(), abs=1e-8)
        mixture = (weights.unsqueeze(1) * phases.dense_fractions()).sum(0)
        target = CompositionBatch.from_formulas([formula]).dense_fractions()[0].double()
        torch.testing.assert_close(mixture, target, atol=1e-6, rtol=0)


def reference_hull(materials, energies):
    elements = CompositionBatch.from_formulas(["Li", "O", "S", "Fe"])
    everything = CompositionBatch.from_formulas([*materials, *elements])
    values = torch.cat([energies, torch.zeros(4, dtype=torch.float64)]).numpy()
    return ReferenceHull(lowest_of_each_formula(everything, values, "random"))


@pytest.mark.parametrize("seed", range(3))
def test_batched_distances_are_those_of_the_phase_diagram(seed):
    hull = reference_hull(*random_table(seed, [3, 8, 16, 26]))
    diagram = hull.phase_diagram({"Li", "O", "S", "Fe"})
    found = hull.e_above_hull(hull.table.materials)
    entries = {entry.name: entry for entry in diagram.all_entries}
    expected = [diagram.get_e_above_hull(entries[formula]) for formula in hull.table.materials]
    assert found.tolist() == pytest.approx(expected, abs=1e-8)
    stable = [
        row for row, value in enumerate(expected) if value < 1e-9 and len(parse_formula(hull.table.materials[row])) > 1
    ]
    assert stable
    negative = hull.e_above_hull(hull.table.materials, exclude_self=True)
    enthalpies = [diagram.get_phase_separation_energy(entries[hull.table.materials[row]]) for row in stable]
    assert negative[stable].tolist() == pytest.approx(enthalpies, abs=1e-8)


def test_missing_end_members_are_named_or_nan(hull):
    message = r"no hull without end members: there is no energy of the pure elements Pm, Ra of the table totals.csv"
    batch = CompositionBatch.from_formulas(["SrO", "Pm2O3", "RaO"])
    for method in (hull.hull_energy, hull.e_above_hull, hull.formation_energy):
        with pytest.raises(ValueError, match=message):
            method(batch)
        assert torch.isnan(method(batch, missing="nan")).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="pure elements Pm"):
        hull.decomposition("Pm2O3")
    with pytest.raises(ValueError, match="pure elements Pm"):
        hull.phase_diagram({"Pm", "O"})
    with pytest.raises(ValueError, match="expected chemical elements, not Xx"):
        hull.phase_diagram({"Xx"})


def test_wrong_shapes_are_named(hull):
    with pytest.raises(ValueError, match=r"energies: expected the shape \(1,\), not \(2,\)"):
        hull.formation_energy(["SrO"], torch.zeros(2))
    with pytest.raises(ValueError, match=r"formation_energies: expected the shape \(1,\), not \(1, 1\)"):
        hull.e_above_hull(["SrO"], torch.zeros(1, 1))


def test_source_is_said(hull):
    assert hull.source == "of the table totals.csv, 8 entries"
    assert str(hull) == hull.describe() == "convex hull of 8 formulas of 3 elements of the table totals.csv, 8 entries"


def test_phase_diagrams_are_kept_up_to_a_number(hull, monkeypatch):
    monkeypatch.setattr("surrogates.hull._CACHED_PHASE_DIAGRAMS", 2)
    first = hull.phase_diagram(["O", "Ti"])
    assert hull.phase_diagram(["Ti", "O"]) is first
    hull.phase_diagram(["Ti"])
    hull.phase_diagram(["Sr"])
    assert len(hull._phase_diagrams) <= 2
    assert pickle.loads(pickle.dumps(hull)).source == hull.source


def test_default_is_the_embedded_table(monkeypatch):
    monkeypatch.setattr(surrogates.reference_table, "open_data_file", lambda name: BytesIO(ENTRIES.encode()))
    read_reference_table.cache_clear()
    ReferenceHull.default.cache_clear()
    try:
        hull = ReferenceHull.default()
        assert hull is ReferenceHull.default()
        assert hull.e_above_hull(["NaCl"]).item() == pytest.approx(0, abs=1e-9)
        assert "CHGNet prototype library" in str(hull)
    finally:
        read_reference_table.cache_clear()
        ReferenceHull.default.cache_clear()


def test_wide_table_agrees_with_pymatgen(tmp_path):
    materials, energies = random_table(2, NO_NOBLE_GASES, n=1500, sizes=(2, 2, 2, 3))
    path = tmp_path / "phases.csv"
    pd.DataFrame({"formula": list(materials), "e_form": energies.numpy()}).to_csv(path, index=False)
    hull = ReferenceHull(load_reference_table(path))
    generator = torch.Generator().manual_seed(0)
    new = random_compositions(60, NO_NOBLE_GASES, (4, 5), generator)
    for batch in (materials[:60], new):
        found = hull.hull_energy(batch)
        expected = [
            hull.phase_diagram(parse_formula(formula)).get_hull_energy_per_atom(Composition(parse_formula(formula)))
            for formula in batch
        ]
        assert found.tolist() == pytest.approx(expected, abs=1e-8)


def test_noble_gases_do_not_warn(tmp_path):
    path = tmp_path / "phases.csv"
    path.write_text("formula,e_form\nXeF2,-0.5\nArF2,0.4\nNeLi,-0.1\n", encoding="utf-8")
    hull = ReferenceHull(load_reference_table(path))
    assert hull.decomposition("ArF2") == pytest.approx({"Ar": 1 / 3, "F": 2 / 3})
    assert hull.decomposition("Ne2Li2") == pytest.approx({"NeLi": 1})
    assert hull.e_above_hull(["ArF2"]).item() == pytest.approx(0.4)
