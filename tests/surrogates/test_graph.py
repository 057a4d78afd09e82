import itertools
import json
import logging
import math
import struct
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from safetensors import safe_open
from safetensors.torch import save_file

from surrogates.base import Prediction
from surrogates.graph import DEFAULT_WEIGHTS, GraphModel
from surrogates.graph_options import GraphOptions
from surrogates.graph_replay import rehearsed_structures
from surrogates.graph_spread import GraphSpread, GraphValidation
from surrogates.graph_structures import covalent_radii, touching_ratio, touching_structure
from surrogates.known_compounds import KNOWN_ENERGIES, TOLERANCE, energy_mismatch, known_structures

SMALL = GraphOptions(
    units=8, blocks=1, radial_functions=8, batch=16, epochs=25, learning_rate=1e-2, warm_learning_rate=3e-3
)
CATIONS, ANIONS = ("Li", "Na", "K", "Rb", "Mg", "Ca", "Sr", "Zn"), ("F", "Cl", "Br", "O", "S", "Se")


def rocksalt(cation="Na", anion="Cl", a=5.6):
    half = a / 2
    lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
    return Structure(lattice, [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def caesium_chloride(cation="Na", anion="Cl"):
    return Structure(Lattice.cubic(3.3), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def made_up_energy(structure):
    """A smooth energy of the elements, lower by 0.3 eV/atom in a cell with c = a."""
    radius = [covalent_radii()[site.specie.symbol] for site in structure]
    a, _, c = structure.lattice.abc
    return -radius[0] + 0.8 * radius[1] - 0.5 * radius[0] * radius[1] - (0.3 if abs(c - a) < 1e-6 else 0.0)


def made_up_table():
    structures = []
    for cation, anion in itertools.product(CATIONS, ANIONS):
        structures += [caesium_chloride(cation, anion), stretched(cation, anion)]
    return structures, torch.tensor([made_up_energy(structure) for structure in structures])


def stretched(cation, anion):
    return Structure(Lattice.tetragonal(3.3, 5.0), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture(scope="module")
def fitted():
    structures, labels = made_up_table()
    return GraphModel(SMALL, seed=1).fit(structures, labels)


def test_learns_elements_and_structure(fitted):
    structures, labels = made_up_table()
    prediction = fitted.predict(structures)
    assert isinstance(prediction, Prediction)
    assert prediction.mean.shape == prediction.std.shape == (len(structures), 1)
    assert (prediction.mean[:, 0] - labels).abs().mean() < 0.3 * labels.std()
    difference = prediction.mean[0::2, 0] - prediction.mean[1::2, 0]  # the same elements in the other cell
    assert -0.45 < difference.mean() < -0.15


def test_volume_and_setting_do_not_matter(fitted):
    given = caesium_chloride("Ca", "O")
    other = given.copy()
    other.scale_lattice(given.volume * 3)
    charged = given.copy().add_oxidation_state_by_element({"Ca": 2, "O": -2})
    moved = Structure(given.lattice, given.species[::-1], given.frac_coords[::-1] + np.array([0.3, 0.1, 2.7]))
    mean = fitted.predict([given, other, given * (2, 1, 1), charged, moved]).mean[:, 0]
    torch.testing.assert_close(mean, mean[:1].expand(5), atol=2e-4, rtol=0)


def test_a_batch_gives_what_single_structures_give(fitted):
    structures = [rocksalt("Mg", "O"), stretched("Na", "Br"), caesium_chloride("K", "F") * (2, 1, 1)]
    together = fitted.predict(structures)
    for row, structure in enumerate(structures):
        single = fitted.predict([structure])
        torch.testing.assert_close(single.mean[0], together.mean[row], atol=1e-5, rtol=0)
        torch.testing.assert_close(single.std[0], together.std[row], atol=1e-5, rtol=0)


def test_members_have_the_mean_and_the_spread_of_the_prediction(fitted):
    structures = made_up_table()[0][:9]
    members, prediction = fitted.members(structures), fitted.predict(structures)
    assert members.shape == (16, 9, 1)
    torch.testing.assert_close(members.mean(0), prediction.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(members.std(0, correction=0), prediction.std, atol=1e-5, rtol=1e-4)


def test_no_structures_give_no_predictions(fitted):
    assert fitted.predict([]).mean.shape == (0, 1)
    assert fitted.members([]).shape == (16, 0, 1)


def test_fit_is_seeded_and_leaves_the_global_generator_alone():
    structures, labels = made_up_table()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = GraphModel(SMALL, seed=3).fit(structures[:30], labels[:30], epochs=2).predict(structures[:1]).mean
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(9)
    second = GraphModel(SMALL, seed=3).fit(structures[:30], labels[:30], epochs=2).predict(structures[:1]).mean
    assert torch.equal(first, second)


def test_fit_is_silent_and_leaves_no_files(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    structures, labels = made_up_table()
    with caplog.at_level(logging.INFO):
        GraphModel(SMALL).fit(structures[:24], labels[:24].unsqueeze(1), epochs=1)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_warm_start_keeps_what_was_learnt_and_takes_in_a_new_element(fitted, tmp_path):
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    model = GraphModel.load(path)
    structures = made_up_table()[0]
    before = model.predict(structures).mean
    with pytest.raises(ValueError, match=r"structure 1 \(BaO\): Ba is not an element that the network was trained on"):
        model.predict([caesium_chloride("Ba", "O")])
    new = [caesium_chloride("Ba", anion) for anion in ("O", "S", "F")]
    target = torch.tensor([made_up_energy(structure) for structure in new])
    unlearnt = GraphModel.load(path).fit(new, target, warm_start=True, epochs=1)
    model.fit(new, target, warm_start=True)
    error, first = ((m.predict(new).mean[:, 0] - target).abs().mean() for m in (model, unlearnt))
    assert error < 0.5 * first
    after = model.predict(structures)
    assert after.std.isfinite().all()
    assert (after.mean - before).abs().mean() < 0.5 * before.std()  # near 0.3, by machine; a constant is 0.87 off
    assert torch.equal(fitted.predict(structures).mean, before)


def test_warm_start_of_a_shared_model_leaves_the_others_alone(fitted):
    structures, labels = made_up_table()
    other = GraphModel(SMALL)
    other._fitted = fitted._fitted
    before = fitted.predict(structures[:4]).mean
    other.fit(structures[:5], labels[:5] + 1, warm_start=True, epochs=3)
    assert torch.equal(fitted.predict(structures[:4]).mean, before)
    assert not torch.allclose(other.predict(structures[:4]).mean, before)


def test_saved_and_loaded_model_predicts_the_same(fitted, tmp_path):
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    structures = made_up_table()[0]
    loaded = GraphModel.load(path)
    assert torch.equal(loaded.predict(structures).mean, fitted.predict(structures).mean)
    assert torch.equal(loaded.members(structures), fitted.members(structures))
    assert loaded.elements == fitted.elements and loaded.options == SMALL
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_checkpoint_holds_the_best_weights_while_training(tmp_path):
    structures, labels = made_up_table()
    path = tmp_path / "best.safetensors"
    model = GraphModel(SMALL).fit(structures, labels, epochs=2, checkpoint=path)
    assert torch.equal(GraphModel.load(path).predict(structures).mean, model.predict(structures).mean)


def overlapping():
    return Structure(Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0], [0.04, 0, 0]])


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (overlapping(), r"structure 2 \(NaCl\): Na and Cl .* 0.20 Å apart"),
        (Structure(Lattice.cubic(5), ["Na", {"Cl": 0.5}], [[0, 0, 0], [0.5] * 3]), "site 2 is partially occupied"),
        (Structure(Lattice([[4, 0, 0], [4, 0, 0], [0, 0, 4]]), ["Na"], [[0] * 3]), r"\(Na\): .* volume of 0 Å3"),
        (rocksalt("U", "Pu"), r"\(PuU\): Pu, U are not elements that the network was trained on"),
        ("NaCl", "structure 2: expected a pymatgen Structure, not str"),
    ],
)
def test_unfit_structures_are_named(fitted, structure, reason):
    for method in (fitted.predict, fitted.members):
        with pytest.raises(ValueError, match=reason) as caught:
            method([rocksalt(), structure])
        assert "\n" not in str(caught.value)


def test_fit_names_what_is_wrong():
    structures, labels = made_up_table()
    model = GraphModel(SMALL)
    with pytest.raises(ValueError, match=r"structure 2 \(NaCl\): Na and Cl"):
        model.fit([structures[0], overlapping()], labels[:2])
    with pytest.raises(ValueError, match=r"expected one label for each of 96 structures .*, not \(95,\)"):
        model.fit(structures, labels[:-1])
    with pytest.raises(ValueError, match=r"structure 3 \(LiCl\): the label is nan, not finite"):
        model.fit(structures, labels.index_fill(0, torch.tensor([2]), math.nan))
    with pytest.raises(ValueError, match="at least 20 structures are needed, not 19"):
        model.fit(structures[:19], labels[:19])
    with pytest.raises(ValueError, match="epochs must be at least 1, not 0"):
        model.fit(structures, labels, epochs=0)
    with pytest.raises(RuntimeError, match="not fitted"):
        model.fit(structures, labels, warm_start=True)
    with pytest.raises(RuntimeError, match="not fitted"):
        model.predict(structures)


@pytest.mark.parametrize(("name", "value"), [("units", 0), ("cutoff", -1.0), ("held_out", 1), ("epochs", 0)])
def test_options_are_checked(name, value):
    with pytest.raises(ValueError, match=rf"GraphOptions: {name} must be .*, not {value}"):
        GraphOptions(**{name: value})


def test_calibrated_spread_holds_two_thirds_of_the_errors(fitted):
    structures, labels = made_up_table()
    model = GraphModel(SMALL)
    model._fitted = fitted._fitted
    noise = torch.randn(len(labels), generator=torch.Generator().manual_seed(0))
    model.calibrate(structures, labels + noise)
    assert 0.6 < model.validate(structures, labels + noise).coverage_68 < 0.76
    assert model.predict(structures).std.mean() > 0.5


def test_spread_grows_with_the_distance_from_the_training_structures():
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(500, 4, generator=generator), torch.randn(400, 4, generator=generator)
    reach = torch.rand(400, generator=generator) * 4
    test = test * reach.unsqueeze(1)
    errors = reach * torch.randn(400, generator=generator)
    spread = GraphSpread.from_features(train).calibrated(test, errors)
    assert spread.power > 0.5
    assert spread.std(4 * test).mean() > 1.5 * spread.std(test).mean()
    assert 0.66 < float((errors.abs() <= spread.std(test)).float().mean()) < 0.70
    # The leverage as its definition says: n φᵀ (ΦᵀΦ + λ)⁻¹ φ over its mean.
    inputs, given = (torch.cat([x.double(), torch.ones(len(x), 1)], 1) for x in (test, train))
    leverage = len(train) * torch.einsum("if,fg,ig->i", inputs, torch.linalg.inv(given.T @ given), inputs)
    torch.testing.assert_close(spread.distance(test), (leverage / 5).sqrt(), rtol=1e-3, atol=1e-3)


def test_touching_structure_by_brute_force():
    structure = Structure(
        Lattice([[4, 0, 0], [1, 5, 0], [0.5, 1, 6]]), ["Cs", "O", "O"], [[0] * 3, [0.4] * 3, [0.7] * 3]
    )
    radii = [covalent_radii()[symbol] for symbol in ("Cs", "O", "O")]
    ratios = []
    for shift in itertools.product(range(-3, 4), repeat=3):
        for i, j in itertools.product(range(3), repeat=2):
            vector = structure.lattice.get_cartesian_coords(structure.frac_coords[j] + shift - structure.frac_coords[i])
            if i != j or any(shift):
                ratios.append(float((vector @ vector) ** 0.5) / (radii[i] + radii[j]))
    assert touching_ratio(structure) == pytest.approx(min(ratios))
    assert touching_ratio(touching_structure(structure)) == pytest.approx(1.0)


def test_rehearsed_structures_keep_the_cell_and_take_known_elements():
    given = [stretched("Ba", "At"), caesium_chloride("Ba", "Ba")]
    rehearsed = rehearsed_structures(given, ("Na", "Cl", "O"), seed=0)
    assert len(rehearsed) == 128
    assert {site.specie.symbol for s in rehearsed for site in s} == {"Na", "Cl", "O"}
    for structure in rehearsed:
        is_stretched = structure.lattice.c > 1.2 * structure.lattice.a
        assert len({site.specie for site in structure}) == (2 if is_stretched else 1)
        assert touching_ratio(structure) == pytest.approx(1.0)


def test_large_atoms_beyond_the_cutoff_are_no_error(fitted):
    alone = Structure(Lattice.cubic(6), ["Rb"], [[0, 0, 0]])  # Rb-Rb touch at 4.4 Å, near the cutoff
    short = GraphModel(GraphOptions(units=8, blocks=1, cutoff=3.0, epochs=1))
    structures, labels = made_up_table()
    short.fit(structures, labels)
    assert short.predict([alone]).mean.isfinite().all()


def test_damaged_files_are_named(fitted, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match=r"missing.safetensors: not a readable safetensors file"):
        GraphModel.load(tmp_path / "missing.safetensors")
    fitted.save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"model.safetensors: not a readable safetensors file"):
        GraphModel.load(path)
    save_file({"x": torch.zeros(1)}, str(path))
    with pytest.raises(ValueError, match=r"model.safetensors: not a graph model"):
        GraphModel.load(path)


def test_weights_that_mean_something_else_now_are_refused(fitted, tmp_path):
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    with safe_open(str(path), framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors["network.linear.weight"] *= 1.5
    save_file(tensors, str(path), metadata=metadata)
    with pytest.raises(ValueError, match=r"do not fit this MatGL: NaCl .* \(was .*\), MgO .* eV/atom"):
        GraphModel.load(path)


def tiny_matgl_network(offset):
    from matgl.models import MEGNet

    torch.manual_seed(0)
    network = MEGNet(dim_edge_embedding=8, nblocks=1, element_types=("O", "Na", "Mg", "Al", "Cl"))
    with torch.no_grad():  # a network that only knows one number
        for weight in network.output_proj.last_linear.parameters():
            weight.zero_()
        network.output_proj.last_linear.bias.fill_(offset)
    return network


def test_matgl_weights_that_miss_known_energies_are_refused(tmp_path):
    tiny_matgl_network(-1.76).save(str(tmp_path), makedirs=True)
    figures = r"NaCl -1.76 \(measured -2.13\), MgO -1.76 \(measured -3.12\), Al2O3 -1.76 \(measured -3.47\) eV/atom"
    with pytest.raises(ValueError, match=figures) as caught:
        GraphModel.from_matgl(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_matgl_weights_that_agree_are_used(tmp_path, monkeypatch):
    tiny_matgl_network(-2.1).save(str(tmp_path), makedirs=True)
    known = dict.fromkeys(KNOWN_ENERGIES, -2.1)
    monkeypatch.setattr("surrogates.known_compounds.KNOWN_ENERGIES", known)
    model = GraphModel.from_matgl(tmp_path, spread=0.2)
    structures = [rocksalt(), rocksalt("Mg", "O", 4.2)]
    prediction, members = model.predict(structures), model.members(structures)
    torch.testing.assert_close(prediction.mean, torch.full((2, 1), -2.1))
    torch.testing.assert_close(prediction.std, torch.full((2, 1), 0.2))
    torch.testing.assert_close(members.mean(0), prediction.mean)
    torch.testing.assert_close(members.std(0, correction=0), prediction.std)
    model.calibrate(structures, torch.tensor([-2.5, -2.5]))
    torch.testing.assert_close(model.predict(structures).std, torch.full((2, 1), 0.4))
    with pytest.raises(ValueError, match="K is not an element that the network was trained on"):
        model.predict([rocksalt("K")])
    with pytest.raises(ValueError, match=r"cannot refit .*, which was trained elsewhere"):
        model.fit(structures, torch.zeros(2), warm_start=True)
    with pytest.raises(ValueError, match=r"cannot save .*, which was trained elsewhere"):
        model.save(tmp_path / "model.safetensors")


def test_missing_and_damaged_matgl_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no weights found offline: 'MEGNet-MP-2018.6.1-Eform'") as caught:
        GraphModel.from_matgl("MEGNet-MP-2018.6.1-Eform")
    assert "\n" not in str(caught.value)
    tiny_matgl_network(-2.1).save(str(tmp_path), makedirs=True)
    (tmp_path / "state.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable MatGL model") as caught:
        GraphModel.from_matgl(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="spread must be positive"):
        GraphModel.from_matgl(tmp_path, spread=0)


def test_known_structures_are_the_compounds():
    assert [s.composition.reduced_formula for s in known_structures()] == list(KNOWN_ENERGIES)
    assert [len(s) for s in known_structures()] == [2, 2, 10]
    assert energy_mismatch([-2.2, -3.1, -3.4]) is None
    assert "NaCl -1.90" in energy_mismatch([-1.9, -3.0, -3.4])


def test_validation_by_hand():
    mean, std, truth = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.2, 0.2, 1.0]), torch.tensor([1.1, 2.3, 2.0])
    validation = GraphValidation.from_predictions(mean, std, truth, 2)
    assert validation.mae_eV_per_atom == pytest.approx(0.8)
    assert validation.rmse_eV_per_atom == pytest.approx(((0.01 + 0.09 + 4) / 3) ** 0.5)
    assert validation.coverage_68 == pytest.approx(1 / 3)
    assert validation.coverage_95 == pytest.approx(2 / 3)
    assert "MAE 0.800" in str(validation)


def test_importing_the_model_loads_no_heavy_package():
    heavy = ("matgl", "lightning", "torch_geometric", "pymatgen.analysis")
    code = f"import sys, surrogates.graph; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


needs_weights = pytest.mark.skipif(
    not (resources.files("surrogates") / "data" / DEFAULT_WEIGHTS).is_file(), reason="the weights are being trained"
)


@needs_weights
def test_default_weights_are_small_accurate_and_no_pickle():
    path = resources.files("surrogates") / "data" / DEFAULT_WEIGHTS
    content = path.read_bytes()
    assert len(content) < 2e6
    length = struct.unpack("<Q", content[:8])[0]
    assert "settings" in json.loads(content[8 : 8 + length])["__metadata__"]
    validation = GraphModel.default().validation
    assert validation.mae_eV_per_atom <= 0.12
    assert 0.60 <= validation.coverage_68 <= 0.76


@needs_weights
def test_default_knows_common_compounds_from_any_volume():
    structures = known_structures()
    for structure in structures:
        structure.scale_lattice(structure.volume * 1.3)
    prediction = GraphModel.default().predict(structures)
    for mean, std, (formula, known) in zip(prediction.mean, prediction.std, KNOWN_ENERGIES.items(), strict=True):
        assert abs(float(mean) - known) < max(TOLERANCE, 2 * float(std)), (formula, float(mean), float(std))


@needs_weights
def test_default_prefers_the_right_structure():
    model = GraphModel.default()
    mean = model.predict([rocksalt("Mg", "O"), caesium_chloride("Mg", "O")]).mean
    assert mean[0] < mean[1]
    assert model is not GraphModel.default()
