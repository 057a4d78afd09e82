import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy.stats import spearmanr

from envs.crystal_batch import CrystalBatch
from envs.formula import CompositionBatch
from envs.wyckoff import space_group
from surrogates.base import Surrogate
from surrogates.crystal_energy import CrystalEnergyModel
from surrogates.crystal_energy_batches import FormulaBatches
from surrogates.crystal_energy_data import decorated_crystals, reference_crystals
from surrogates.crystal_energy_network import CrystalInputs, CrystalNetwork, NetworkShape
from surrogates.crystal_energy_training import CrystalTrainingOptions, train_crystal_networks
from surrogates.crystal_energy_validation import CrystalValidation, RankingMeasures
from surrogates.crystal_site_features import SHELLS, site_tables, structure_type_keys
from surrogates.energy import UNKNOWN_STD
from surrogates.hull import ReferenceHull

CUBE = "4.2 4.2 4.2 90 90 90"
ROCKSALT = "{0}{1} | 225 | {0} a | {1} b | " + CUBE
CAESIUM_CHLORIDE = "{0}{1} | 221 | {0} a | {1} b | " + CUBE
ZINCBLENDE = "{0}{1} | 216 | {0} a | {1} c | " + CUBE
RUTILE = "TiO2 | 136 | Ti a | O f 0.305 | 4.594 4.594 2.959 90 90 90"
PEROVSKITE = "SrTiO3 | 221 | Sr a | Ti b | O c | " + CUBE
CRYSTALS = [ROCKSALT.format("Na", "Cl"), RUTILE, PEROVSKITE, ZINCBLENDE.format("Zn", "S")]
CATIONS = ("Li", "Na", "K", "Rb", "Mg", "Ca", "Sr", "Ba", "Zn", "Cd", "Mn", "Fe")
ANIONS = ("F", "Cl", "Br", "O", "S", "Se")
SMALL = CrystalTrainingOptions(NetworkShape(3, 16, 1, 16), steps=120, formulas=8, folds=2)
TINY = replace(SMALL, steps=10)


def made_up() -> tuple[CrystalBatch, torch.Tensor]:
    """Three structure types of binaries; rocksalt is lowest for halides and zincblende for chalcogenides."""
    texts, energies = [], []
    for cation in CATIONS:
        for place, anion in enumerate(ANIONS):
            for kind, text in enumerate((ROCKSALT, CAESIUM_CHLORIDE, ZINCBLENDE)):
                texts.append(text.format(cation, anion))
                energies.append(-1.0 - 0.1 * place + 0.3 * abs(kind - 2 * (place > 2)))
    return CrystalBatch.from_texts(texts), torch.tensor(energies)


@pytest.fixture(scope="module")
def fitted() -> CrystalEnergyModel:
    return CrystalEnergyModel(SMALL).fit(*made_up())


@pytest.fixture(scope="module")
def default() -> CrystalEnergyModel:
    return CrystalEnergyModel.default()


def rearranged(crystals: CrystalBatch, order: list[int]) -> CrystalBatch:
    """The same crystals with their columns in another order, a new one of padding among them."""
    padded = [torch.nn.functional.pad(t, (0, 1)) for t in (crystals.element, crystals.position)]
    element, position = (t[:, order] for t in padded)
    position = torch.where(element > 0, position, 5)  # whatever stands in a padded column counts for nothing
    free = torch.zeros(*element.shape, 3, dtype=torch.float64)
    return CrystalBatch(crystals.compositions, crystals.space_group, element, position, free, crystals.lattice)


def test_is_a_surrogate(fitted):
    assert isinstance(fitted, Surrogate)
    crystals, _ = made_up()
    prediction, members = fitted.predict(crystals), fitted.members(crystals)
    assert prediction.mean.shape == prediction.std.shape == (len(crystals), 1)
    assert members.shape == (3, len(crystals), 1)
    torch.testing.assert_close(members.mean(0), prediction.mean)
    torch.testing.assert_close(members.std(0, correction=0), prediction.std)


def test_fit_learns_which_structure_is_lowest(fitted):
    crystals, energies = made_up()
    mean = fitted.predict(crystals).mean[:, 0]
    assert (mean - energies).abs().mean() < 0.1
    assert (mean.view(-1, 3).argmin(1) == energies.view(-1, 3).argmin(1)).float().mean() > 0.9


def test_fit_measures_itself_on_what_it_held_out(fitted):
    assert fitted.validation is not None
    assert (fitted.validation.held_out, fitted.validation.folds) == (1, 2)
    assert 0 < fitted.validation.new_systems.crystals <= 3 * len(CATIONS) * len(ANIONS)
    assert CrystalValidation.from_dict(fitted.validation.as_dict()) == fitted.validation


def test_same_seed_same_model():
    first, again = (CrystalEnergyModel(TINY).fit(*made_up()) for _ in range(2))
    assert torch.equal(again.predict(CRYSTALS).mean, first.predict(CRYSTALS).mean)
    other = CrystalEnergyModel(TINY, seed=1).fit(*made_up())
    assert not torch.equal(other.predict(CRYSTALS).mean, first.predict(CRYSTALS).mean)


def test_one_structure_type_alone_can_be_fitted():
    texts = [ROCKSALT.format(c, a) for c in CATIONS for a in ANIONS]
    model = CrystalEnergyModel(TINY).fit(texts, torch.linspace(-2, 0, len(texts)))
    assert torch.isfinite(model.predict(CRYSTALS).std).all()


def test_batch_agrees_with_single_predictions(default):
    crystals, _ = made_up()
    together = default.predict([*crystals, *CRYSTALS])
    alone = [default.predict([text]) for text in [*crystals, *CRYSTALS]]
    torch.testing.assert_close(together.mean, torch.cat([p.mean for p in alone]), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.std, torch.cat([p.std for p in alone]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1]])
def test_order_of_positions_and_padding_change_nothing(default, order):
    crystals = CrystalBatch.from_texts(CRYSTALS)
    moved = rearranged(crystals, order)
    torch.testing.assert_close(default.predict(moved).mean, default.predict(crystals).mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(default.predict(moved).std, default.predict(crystals).std, atol=1e-5, rtol=0)


def test_texts_and_tensors_agree(default):
    crystals = CrystalBatch.from_texts(CRYSTALS)
    assert torch.equal(default.predict(CRYSTALS).mean, default.predict(crystals).mean)
    assert torch.equal(default.formation_energy(crystals).mean, default.predict(CRYSTALS).mean[:, 0])


def test_lattice_and_free_parameters_do_not_matter(default):
    other = RUTILE.replace("0.305", "0.21").replace("2.959", "4.1")
    assert torch.equal(default.predict([RUTILE]).mean, default.predict([other]).mean)


@pytest.mark.parametrize("number", [47, 62, 123, 136, 166, 194, 216, 221, 225, 227])
def test_equivalent_descriptions_have_the_same_energy(default, number):
    group = space_group(number)
    n = len(group.positions)
    occupied = torch.tensor([0, 1, n // 2, n - 2])
    elements = torch.tensor([[22, 38, 8, 9]])
    images = torch.tensor(group.equivalent_sets)[:40, occupied]
    size = len(images)
    counts = torch.tensor([[group.positions[i].primitive_multiplicity for i in occupied.tolist()]]).float()
    batch = CrystalBatch(
        CompositionBatch(elements.expand(size, 4), counts.expand(size, 4)),
        torch.full((size,), number),
        elements.expand(size, 4),
        images,
        torch.zeros(size, 4, 3, dtype=torch.float64),
        torch.eye(3, dtype=torch.float64).expand(size, 3, 3),
    )
    mean = default.predict(batch).mean
    assert len(torch.unique(structure_type_keys(batch, with_elements=True))) == 1
    torch.testing.assert_close(mean, mean[:1].expand_as(mean), atol=2e-5, rtol=0)


def test_type_keys_tell_structure_types_apart():
    texts = [ROCKSALT.format("Na", "Cl"), ROCKSALT.format("Mg", "O"), CAESIUM_CHLORIDE.format("Na", "Cl"), RUTILE]
    keys = structure_type_keys(CrystalBatch.from_texts(texts))
    assert keys[0] == keys[1]
    assert len(torch.unique(keys)) == 3
    assert len(torch.unique(structure_type_keys(CrystalBatch.from_texts(texts), with_elements=True))) == 4


@pytest.mark.parametrize("number", [1, 12, 47, 136, 194, 225, 230])
def test_site_symmetry_agrees_with_the_multiplicity(number):
    """The stabiliser of a point, counted from the operations, has point group order / multiplicity elements."""
    tables, group = site_tables(), space_group(number)
    first = sum(len(space_group(n).positions) for n in range(1, number))
    for place, position in enumerate(group.positions):
        features = tables.sites[first + place]
        order = group.point_group_order / position.primitive_multiplicity
        assert features[0] == pytest.approx(np.log2(order) / 5, abs=1e-6)
        assert features[6:].sum() == pytest.approx(1 - 1 / order, abs=1e-6)  # all but the identity


def test_distances_of_rocksalt_agree_with_pymatgen():
    crystal = CrystalBatch.from_texts([ROCKSALT.format("Na", "Cl")])
    structure = crystal.structures()[0]
    found = site_tables().distances[crystal.flat_position[0, 0], :2] * structure.volume ** (1 / 3)
    neighbours = structure.get_neighbors(structure[0], 6.0)
    for column, symbol in enumerate(("Na", "Cl")):
        true = sorted(n.nn_distance for n in neighbours if n.specie.symbol == symbol)[:SHELLS]
        np.testing.assert_allclose(found[column].numpy(), true, rtol=1e-5)


def test_ensemble_equals_its_members_run_alone():
    inputs = CrystalInputs.from_crystals(CrystalBatch.from_texts(CRYSTALS))
    network = CrystalNetwork(NetworkShape(3, 8, 2, 8), inputs, torch.Generator().manual_seed(0))
    rows = torch.tensor([[0, 1], [2, 3], [1, 2]])
    together, each = network(inputs.rows(rows)), network(inputs)
    torch.testing.assert_close(together, each.gather(1, rows))


def contents(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - not a mapping


def test_save_and_load_keep_every_bit(fitted, tmp_path):
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    loaded = CrystalEnergyModel.load(path)
    assert torch.equal(loaded.members(CRYSTALS), fitted.members(CRYSTALS))
    assert str(loaded.validation) == str(fitted.validation)
    loaded.save(tmp_path / "again.safetensors")
    first, again = (contents(tmp_path / name) for name in ("model.safetensors", "again.safetensors"))
    assert first[1] == again[1]  # the header, whose order in the file is not fixed
    assert first[0].keys() == again[0].keys()
    assert all(torch.equal(value, again[0][name]) for name, value in first[0].items())


def test_default_ranks_the_structure_types_of_common_compounds(default):
    def lowest(cation: str, anion: str) -> int:
        types = (ROCKSALT, CAESIUM_CHLORIDE, ZINCBLENDE)
        return int(default.predict([text.format(cation, anion) for text in types]).mean.argmin())

    assert [lowest(*pair) for pair in (("Na", "Cl"), ("Mg", "O"), ("K", "Br"), ("Ca", "O"))] == [0] * 4
    assert [lowest(*pair) for pair in (("Zn", "S"), ("Ga", "As"), ("B", "N"))] == [2] * 3


def test_default_agrees_with_the_table_it_was_fitted_to(default):
    assert default.validation is not None
    assert default.validation.new_systems.mae_eV_per_atom < 0.2
    assert default.validation.new_systems.pair_accuracy > 0.8
    assert default.validation.new_systems.coverage_68 == pytest.approx(0.683, abs=0.05)
    names = ["AB_cF8_225_a_b NaCl", "AB_cP2_221_b_a CsCl"]
    formulas = ["MgO", "CaS", "LiF", "KCl", "BaO", "SrSe"]
    for name in names:
        batch = decorated_crystals(CompositionBatch.from_formulas(formulas), formulas, [name] * len(formulas))
        assert set(batch.space_group.tolist()) == {int(name.split("_")[2])}
        assert torch.isfinite(default.predict(batch).mean).all()


def test_unknown_structure_types_and_elements_are_less_certain(default):
    known = default.predict([PEROVSKITE]).std
    assert default.predict(["SrTiO3 | 160 | Sr a 0 | Ti a 0.5 | O b 0.1 0.2 | 5 5 7 90 90 120"]).std > known
    assert default.predict(["LrO | 225 | Lr a | O b | " + CUBE]).std >= UNKNOWN_STD


def test_distance_to_the_hull_is_the_energy_minus_that_of_the_hull(default):
    crystals = CrystalBatch.from_texts([*CRYSTALS, "LrO | 225 | Lr a | O b | " + CUBE])
    hull = ReferenceHull.default().hull_energy(crystals.compositions[:4], missing="nan")
    found = default.e_above_hull(crystals)
    torch.testing.assert_close(found.mean[:4], default.predict(crystals).mean[:4, 0] - hull.float())
    assert float(found.mean[4]) == 0.5
    assert float(found.std[4]) == UNKNOWN_STD


def test_measures_agree_with_brute_force():
    generator = torch.Generator().manual_seed(0)
    energies, mean = torch.randn(2, 60, generator=generator)
    formulas = torch.arange(60) // 4 % 12  # twelve formulas, three of which occur twice as often
    measures = RankingMeasures.from_predictions(mean, torch.ones(60), energies, formulas)
    order, regret = [], []
    for formula in range(12):
        rows = [i for i in range(60) if formulas[i] == formula]
        order += [mean[i] > mean[j] for i in rows for j in rows if energies[i] - energies[j] > 0.02]
        regret.append(energies[min(rows, key=lambda i: mean[i])] - min(energies[i] for i in rows))
    assert measures.formulas == 12
    assert measures.pair_accuracy == pytest.approx(np.mean([bool(right) for right in order]))
    assert measures.regret_eV_per_atom == pytest.approx(float(np.mean(regret)), abs=1e-6)
    assert measures.spearman == pytest.approx(spearmanr(mean, energies).statistic, abs=1e-6)


def test_held_out_rows_are_not_trained_on():
    crystals, energies = made_up()
    _, systems, types = train_crystal_networks(crystals, energies, replace(TINY, held_out=2), 0)
    keys = structure_type_keys(crystals)
    for fold in range(2):
        known, new = (keys[found.rows[found.part // 2 == fold]] for found in (systems, types))
        assert len(known)
        assert len(new)
        assert not torch.isin(known, new).any()
    assert len(torch.unique(systems.rows)) == len(systems.rows)
    assert torch.equal(types.rows.sort().values, torch.arange(len(crystals)))


def test_batches_hold_each_structure_of_a_formula_once():
    formulas, used = torch.tensor([0, 0, 1, 2, 2, 2, 2, 2, 3]), torch.arange(9) < 8
    rows, counted = FormulaBatches(formulas, used, 0).draw((2, 50), 4)
    assert rows.shape == counted.shape == (2, 50, 4)
    assert set(rows[counted].tolist()) == set(range(8))
    for group, valid in zip(rows.flatten(0, 1), counted.flatten(0, 1), strict=True):
        assert len(torch.unique(formulas[group])) == 1
        assert (
            len(torch.unique(group[valid])) == int(valid.sum()) == min(4, int((formulas == formulas[group[0]]).sum()))
        )


@pytest.mark.parametrize(
    ("materials", "message"),
    [
        ([], "empty batch"),
        (["NaXx | 225 | Na a | Xx b | " + CUBE], "'Xx' is not a chemical element"),
        (["NaCl"], "fewer than four parts"),
    ],
)
def test_bad_materials_are_named(default, materials, message):
    for call in (default.predict, default.members, default.formation_energy, default.e_above_hull):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(materials)


def test_bad_tensors_are_named(default):
    crystals = CrystalBatch.from_texts(CRYSTALS)
    crystals.element[1, 0] = 119
    with pytest.raises(ValueError, match="crystal 1: atomic number 119"):
        default.predict(crystals)
    crystals.element[1] = 0
    with pytest.raises(ValueError, match="crystal 1: expected at least one occupied position"):
        default.predict(crystals)


def test_bad_labels_are_named():
    crystals, energies = made_up()
    model = CrystalEnergyModel(SMALL)
    with pytest.raises(ValueError, match=r"one label for each of 216 crystals, not \(215,\)"):
        model.fit(crystals, energies[1:])
    with pytest.raises(ValueError, match=r"one label for each of 216 crystals, not \(216, 2\)"):
        model.fit(crystals, torch.stack([energies, energies], 1))
    with pytest.raises(ValueError, match=r"formation energy of LiF .*finite value"):
        model.fit(crystals, torch.where(torch.arange(216) == 0, torch.nan, energies))
    with pytest.raises(ValueError, match="at least 20 are needed, not 4"):
        model.fit(CRYSTALS, torch.zeros(4))
    with pytest.raises(RuntimeError, match="not fitted"):
        model.predict(CRYSTALS)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        CrystalEnergyModel.load(path)


@pytest.mark.slow
def test_reference_crystals_are_the_table(default):
    crystals, energies = reference_crystals()
    assert len(crystals) == len(energies) > 30_000
    keys = structure_type_keys(crystals, with_elements=True)
    assert len(torch.unique(keys)) == len(keys)
    atoms = torch.zeros(len(crystals), 104).scatter_add_(1, crystals.element, crystals.multiplicity.float())[:, 1:]
    dense = torch.zeros(len(crystals), 104).scatter_add_(
        1, crystals.compositions.atomic_numbers, crystals.compositions.fractions.float()
    )[:, 1:]
    torch.testing.assert_close(atoms / atoms.sum(1, keepdim=True), dense)
    assert (default.predict(crystals).mean[:, 0] - energies).abs().mean() < 0.15
