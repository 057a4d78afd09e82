import pytest
import torch

from agent import Objective
from envs.crystal_batch import CrystalBatch
from surrogates.base import Prediction, Surrogate
from surrogates.crystal_graph import CrystalGraphModel
from surrogates.hull import ReferenceHull
from surrogates.properties import evaluate_properties

ROCKSALT = "NaCl | 225 | Na a | Cl b | 5.6 5.6 5.6 90 90 90"
SHIFTED = "TiO2 | 136 | Ti a | O f 0.305 | 4.594 4.594 2.959 90 90 90"


class _Network:
    """Predicts the density, so that a test sees which structures arrive."""

    def predict(self, structures):
        densities = torch.tensor([[float(structure.density)] for structure in structures])
        return Prediction(densities, torch.full_like(densities, 0.1))

    def members(self, structures):
        return self.predict(structures).mean[None]


def test_it_is_a_surrogate_that_reads_crystals():
    assert isinstance(CrystalGraphModel(), Surrogate)
    assert CrystalGraphModel.reads_crystals


def test_the_network_sees_the_structures_and_the_hull_is_taken_off():
    batch = CrystalBatch.from_texts([ROCKSALT, SHIFTED])
    densities = torch.tensor([structure.density for structure in batch.structures()])
    formation = CrystalGraphModel("formation_energy", _Network())
    above = CrystalGraphModel("e_above_hull", _Network())
    hull = ReferenceHull.default().hull_energy(batch.compositions)
    torch.testing.assert_close(formation.predict(batch).mean[:, 0], densities, check_dtype=False)
    torch.testing.assert_close(above.predict(batch).mean[:, 0], densities - hull, check_dtype=False)
    torch.testing.assert_close(above.members(batch)[0], above.predict(list(batch)).mean)


def test_an_objective_hands_it_the_crystals():
    objective = Objective("e_above_hull", "minimize", 0.0, 10.0, model=CrystalGraphModel("e_above_hull", _Network()))
    batch = CrystalBatch.from_texts([ROCKSALT, SHIFTED])
    found = evaluate_properties(["e_above_hull"], batch, {"e_above_hull": objective.model})["e_above_hull"]
    expected = objective.model.predict(batch).mean[:, 0]
    torch.testing.assert_close(found.mean, expected)


def test_another_property_is_refused():
    with pytest.raises(ValueError, match=r"property: 'band_gap' \(expected one of formation_energy, e_above_hull\)"):
        CrystalGraphModel("band_gap")


@pytest.mark.slow
def test_the_embedded_network_puts_stable_compounds_near_the_hull():
    found = CrystalGraphModel().predict([ROCKSALT, SHIFTED])
    assert (found.mean.abs() < 0.15).all()
    assert (found.std > 0).all()
