"""A campaign's trials come back from ASE's own database, under keys that ASE leaves free."""

import numpy as np
import pytest
from ase.data import chemical_symbols
from ase.db import connect
from ase.db.core import reserved_keys
from ase.db.row import AtomsRow
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from agent.store import CampaignStore
from agent.store_export import export_ase
from agent.store_records import Proposal
from surrogates.base import Label

ROCK_SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture
def store(tmp_path):
    with CampaignStore(tmp_path / "campaign.db", {}) as opened:
        opened.begin_round(3, seed=0)
        yield opened


def label(store, *labels, version="0.3"):
    proposals = [Proposal(entry.material, "ehvi", {"band_gap": (1.0, 0.5)}, 0.2) for entry in labels]
    for trial, entry in zip(store.propose(3, proposals, "chgnet", version), labels, strict=True):
        store.finish(trial, entry, 2.0)


def rows(path):
    return list(connect(path, type="db").select(sort="id"))


def test_structures_and_values_come_back(store, tmp_path):
    label(store, Label("NaCl", {"band_gap": 5.0, "formation_energy": -2.1}, None, ROCK_SALT, 12, True, "rock salt"))
    assert export_ase(store, tmp_path / "out.db") == 1
    (row,) = rows(tmp_path / "out.db")
    assert row.key_value_pairs == {
        "trial": 1, "round": 3, "material": "NaCl", "oracle": "chgnet", "version": "'0.3'", "picked_by": "ehvi",
        "state": "done", "has_structure": True, "band_gap": 5.0, "formation_energy": -2.1,
    }  # fmt: skip
    assert row.data == {
        "material": "NaCl", "oracle": "chgnet", "version": "0.3", "picked_by": "ehvi", "failure": None, "steps": 12,
        "prototype": "rock salt", "converged": True, "seconds": 2.0, "training_distance": 0.2,
        "predicted": {"band_gap": [1.0, 0.5]},
    }  # fmt: skip
    atoms = row.toatoms()
    assert atoms.pbc.all() and atoms.get_chemical_formula() == "Cl4Na4"
    assert AseAtomsAdaptor.get_structure(atoms).matches(ROCK_SALT, scale=False)
    distances = atoms.get_distance(0, 4, mic=True), ROCK_SALT.get_distance(0, 4)
    assert distances[0] == pytest.approx(distances[1], abs=1e-3)


def test_trials_without_a_structure_are_their_formula_at_the_origin(store, tmp_path):
    label(
        store,
        Label("SrTiO3", {"band_gap": 3.2}),
        Label("Ca(OH)2", {"band_gap": 4.0}),
        Label("Li0.5CoO2", {"band_gap": 1.0}),
    )
    export_ase(store, tmp_path / "out.db")
    atoms = [row.toatoms() for row in rows(tmp_path / "out.db")]
    assert [entry.get_chemical_formula() for entry in atoms] == ["O3SrTi", "H2CaO2", "CoLiO"]
    assert not any(np.any(entry.positions) or np.any(entry.cell[:]) or entry.pbc.any() for entry in atoms)
    database = connect(tmp_path / "out.db", type="db")
    assert database.count(has_structure=0) == 3 and database.get(material="SrTiO3").band_gap == 3.2
    assert database.count("band_gap>3") == 2


def test_failed_trials_have_a_reason_and_no_values_and_open_ones_stay_out(store, tmp_path):
    label(store, Label("NaCl", {"band_gap": 5.0}), Label("MgO", {"band_gap": 9.0}, "did not converge", ROCK_SALT, 500))
    store.propose(3, [Proposal("KCl", "random"), Proposal("KBr", "random")], "chgnet", "0.3")
    store.abandon([4], "no time")
    assert export_ase(store, tmp_path / "out.db") == 2
    database = connect(tmp_path / "out.db", type="db")
    assert [row.material for row in database.select(state="done")] == ["NaCl"]
    (failed,) = database.select(state="failed")
    assert failed.data["failure"] == "did not converge" and failed.data["steps"] == 500
    assert "band_gap" not in failed and failed.has_structure


def test_every_name_and_text_is_kept_apart_from_those_of_ase(store, tmp_path):
    clashing = sorted({*reserved_keys, *chemical_symbols[1:], *vars(AtomsRow), "trial", "has_structure", "H2O", "CO"})
    odd = ["band gap (eV)", "band gap [eV]", "2d", "größe", ""]
    names = [*clashing, *odd, "band_gap"]
    values = {name: float(number) for number, name in enumerate(names)}
    label(store, Label("NaN", values), version="True")
    label(store, Label("InF", {"volume": 17.0}, structure=None), version="1e5")
    assert export_ase(store, tmp_path / "out.db") == 2
    first, second = rows(tmp_path / "out.db")
    database = connect(tmp_path / "out.db", type="db")
    described = {key: entry[0] for key, entry in database.metadata["key_descriptions"].items()}
    assert {described[key]: value for key, value in first.key_value_pairs.items() if key in described} == values
    assert first.band_gap == values["band_gap"] and first.label_energy == values["energy"]
    assert second.label_volume == 17.0
    assert [row.material for row in (first, second)] == ["'NaN'", "'InF'"]
    assert [(row.data["material"], row.data["version"]) for row in (first, second)] == [("NaN", "True"), ("InF", "1e5")]


def test_export_replaces_an_older_one_and_leaves_nothing_else(store, tmp_path):
    before = {entry.name for entry in tmp_path.iterdir()}
    assert export_ase(store, tmp_path / "out.db") == 0 and rows(tmp_path / "out.db") == []
    label(store, Label("NaCl", {"band_gap": 5.0}))
    with CampaignStore.read(store.path) as reader:
        assert export_ase(reader, tmp_path / "out.db") == 1
    assert len(rows(tmp_path / "out.db")) == 1
    assert {entry.name for entry in tmp_path.iterdir()} - before == {"out.db"}


def test_export_that_fails_keeps_the_older_file(store, tmp_path, monkeypatch):
    label(store, Label("NaCl", {"band_gap": 5.0}))
    export_ase(store, tmp_path / "out.db")
    before = {entry: entry.read_bytes() for entry in tmp_path.glob("out*")}
    label(store, Label("MgO", {"band_gap": 9.0}))
    monkeypatch.setattr("agent.store_export._data", lambda trial: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_ase(store, tmp_path / "out.db")
    assert {entry: entry.read_bytes() for entry in tmp_path.glob("out*")} == before
    monkeypatch.undo()
    with pytest.raises(OSError, match=r"nowhere/out.db: cannot be written \(.*\)$"):
        export_ase(store, tmp_path / "nowhere" / "out.db")
