import re

import pytest
import torch

from envs import CrystalBatch
from envs.formula import CompositionBatch
from surrogates import (
    PROPERTIES,
    BandGapModel,
    Prediction,
    Property,
    PropertyDistribution,
    Surrogate,
    SurrogateProperty,
    evaluate_properties,
)
from surrogates.crystal_energy import CrystalEnergyModel
from surrogates.plausibility import plausibility

FORMULAS = ["SrTiO3", "GaAs", "Fe3Al"]


class Constant:
    """A surrogate of a user: the same value everywhere."""

    def __init__(self, mean: float = 1.0, std: float = 0.5, outputs: int = 1) -> None:
        self.mean, self.std, self.outputs = mean, std, outputs

    def fit(self, materials, labels):
        return self

    def members(self, materials):
        return torch.full((2, len(materials), self.outputs), self.mean)

    def predict(self, materials):
        shape = (len(materials), self.outputs)
        return Prediction(torch.full(shape, self.mean), torch.full(shape, self.std))


def test_every_registered_property_is_a_distribution_of_n_materials():
    result = evaluate_properties(PROPERTIES, FORMULAS)
    assert list(result) == list(PROPERTIES)
    for name, distribution in result.items():
        assert PROPERTIES[name].name == name
        assert isinstance(distribution, PropertyDistribution)
        assert distribution.mean.shape == distribution.std.shape == (3,)
        assert torch.isfinite(distribution.mean).all()
        inside = distribution.probability_between(0.5, 2.0)
        assert ((inside >= 0) & (inside <= 1)).all()
        if name not in ("band_gap", "formation_energy", "e_above_hull"):
            assert distribution.std.tolist() == [0, 0, 0]
            assert set(inside.tolist()) <= {0.0, 1.0}


def test_values_are_those_of_the_functions_behind_them():
    batch = CompositionBatch.from_formulas(FORMULAS)
    result = evaluate_properties(["plausibility", "band_gap"], batch)
    assert torch.equal(result["plausibility"].mean, plausibility(batch))
    assert torch.equal(result["band_gap"].mean, BandGapModel.default().predict(batch).mean.squeeze(1))


def test_columns_carry_the_unit():
    assert PROPERTIES["band_gap"].column == "band_gap_eV"
    assert PROPERTIES["band_gap"].unit == "eV"


def test_unknown_property_lists_the_known_ones():
    with pytest.raises(ValueError, match=re.escape("unknown property 'bandgap' (expected one of band_gap,")) as error:
        evaluate_properties(["bandgap"], FORMULAS)
    assert str(error.value).endswith("did you mean band_gap?")


def test_a_surrogate_replaces_or_adds_a_property():
    assert isinstance(Constant(), Surrogate)
    result = evaluate_properties(
        ["band_gap", "hardness"], FORMULAS, {"band_gap": Constant(2.0), "hardness": Constant()}
    )
    assert result["band_gap"].mean.tolist() == [2, 2, 2]
    assert result["hardness"].std.tolist() == [0.5, 0.5, 0.5]
    expected = torch.special.ndtr(torch.tensor(1.0)) - torch.special.ndtr(torch.tensor(-1.0))
    torch.testing.assert_close(result["hardness"].probability_between(0.5, 1.5), expected.expand(3))


def test_a_surrogate_with_its_own_distribution_keeps_it():
    model = BandGapModel.default()
    result = evaluate_properties(["band_gap"], FORMULAS, {"band_gap": model})
    assert torch.equal(result["band_gap"].mean, model.distribution(FORMULAS).mean)


@pytest.mark.parametrize(
    ("model", "output", "message"),
    [
        (Constant(float("nan")), 0, "Constant.predict: mean of hardness must be finite"),
        (Constant(std=-1.0), 0, "Constant.predict: std of hardness must be finite and a std not negative"),
        (Constant(), 1, "Constant.predict: mean of hardness must have the shape (3, m > 1), not (3, 1)"),
    ],
)
def test_an_unusable_prediction_names_the_surrogate(model, output, message):
    hardness = Property("hardness", "GPa", "Vickers hardness", "test", "hardness_GPa")
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_properties(["hardness"], FORMULAS, {"hardness": SurrogateProperty(hardness, model, output)})


def test_prediction_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"the shape \(N, m\)"):
        Prediction(torch.zeros(3), torch.zeros(3))


# Crystals


CRYSTALS = CrystalBatch.from_texts(
    [
        "TiO2 | 136 | Ti a | O f 0.305 | 4.594 4.594 2.959 90 90 90",
        "TiO2 | 225 | Ti a | O c | 4.8 4.8 4.8 90 90 90",
        "NaCl | 225 | Na a | Cl b | 5.64 5.64 5.64 90 90 90",
    ]
)


def test_energies_of_crystals_depend_on_the_structure_and_other_properties_on_the_composition():
    result = evaluate_properties(PROPERTIES, CRYSTALS)
    of_compositions = evaluate_properties(PROPERTIES, ["TiO2", "TiO2", "NaCl"])
    model = CrystalEnergyModel.default()
    assert list(result) == list(PROPERTIES)
    for name, found in result.items():
        if name in ("formation_energy", "e_above_hull"):
            expected = getattr(model, name)(CRYSTALS)
            assert found.mean[0] != found.mean[1]
        else:
            expected = of_compositions[name]
            assert found.mean[0] == found.mean[1]
        assert torch.equal(found.mean, expected.mean) and torch.equal(found.std, expected.std)


class Reads(Constant):
    """Notes what it is given."""

    def __init__(self, reads_crystals: object) -> None:
        super().__init__()
        self.given: list[object] = []
        if reads_crystals is not None:
            self.reads_crystals = reads_crystals

    def predict(self, materials):
        self.given.append(materials)
        return super().predict(materials)


@pytest.mark.parametrize("reads_crystals", [True, False, None])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_surrogate_is_given_crystals_when_it_reads_them(reads_crystals, wrapped):
    model = Reads(reads_crystals)
    source = SurrogateProperty(PROPERTIES["e_above_hull"], model) if wrapped else model
    found = evaluate_properties(["e_above_hull"], CRYSTALS, {"e_above_hull": source})["e_above_hull"]
    assert found.mean.tolist() == [1.0, 1.0, 1.0]
    (given,) = model.given
    assert isinstance(given, CrystalBatch if reads_crystals else CompositionBatch)
    assert list(given) == (list(CRYSTALS) if reads_crystals else ["TiO2", "TiO2", "NaCl"])
    evaluate_properties(["e_above_hull"], FORMULAS, {"e_above_hull": source})
    assert isinstance(model.given[-1], CompositionBatch)
