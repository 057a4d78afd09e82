import math

import numpy as np
import pytest
from ase import units
from pymatgen.core import Lattice, Structure

import surrogates.potential
from surrogates.potential import CHGNetPotential, MatGLPotential, PotentialValues, plain_atoms

STRAIN = np.array([[0.02, 0.01, 0], [0.01, -0.015, 0.005], [0, 0.005, 0.01]])


def rocksalt(a=5.6, species=("Na", "Cl")):
    matrix = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * a
    return Structure(matrix, list(species), [[0, 0, 0], [0.5, 0.5, 0.5]])


def distorted():
    """Two strained and displaced structures of different size."""
    small = Structure(rocksalt().lattice.matrix @ (np.eye(3) + STRAIN), ["Na", "Cl"], [[0, 0, 0], [0.53, 0.49, 0.5]])
    positions = [[0.01, 0, 0], [0.5, 0.5, 0.52], [0.5, 0.5, 0], [0.5, 0.03, 0.5], [0, 0.5, 0.5]]
    large = Structure(3.95 * (np.eye(3) + STRAIN), ["Sr", "Ti", "O", "O", "O"], positions)
    return [small, large]


def moved(structure, site, axis, distance):
    positions = structure.cart_coords.copy()
    positions[site, axis] += distance
    return Structure(structure.lattice, structure.species, positions, coords_are_cartesian=True)


def strained(structure, strain):
    return Structure(structure.lattice.matrix @ (np.eye(3) + strain), structure.species, structure.frac_coords)


def check_finite_differences(potential, structure, step, tolerance):
    """Forces (eV/A) and stress (eV/A^3) against differences of total energies."""

    def total(*structures):
        return potential.energies(list(structures)) * len(structure)

    (values,) = potential.evaluate([structure])
    for site, axis in ((0, 0), (1, 2), (len(structure) - 1, 1)):
        up, down = total(moved(structure, site, axis, step), moved(structure, site, axis, -step))
        assert values.forces[site, axis] == pytest.approx(-(up - down) / (2 * step), abs=tolerance)
    for i, j in ((0, 0), (1, 2), (2, 2)):
        strain = np.zeros((3, 3))
        strain[i, j] += step / 8
        strain[j, i] += step / 8
        up, down = total(strained(structure, strain), strained(structure, -strain))
        slope = (up - down) / (np.abs(strain).sum() * 2)
        assert values.stress[i, j] * structure.volume == pytest.approx(slope, abs=4 * tolerance)
    assert values.stress == pytest.approx(values.stress.T)
    assert np.abs(values.stress).max() * structure.volume > 20 * tolerance  # else nothing was tested


@pytest.fixture(scope="module")
def chgnet():
    return CHGNetPotential()


@pytest.mark.slow
def test_chgnet_agrees_with_its_own_predictions(chgnet):
    structures = [*distorted(), rocksalt(4.2, ("Mg", "O"))]
    values = chgnet.evaluate(structures)
    energies = chgnet.energies(structures)
    for structure, found, energy in zip(structures, values, energies, strict=True):
        expected = chgnet._model.predict_structure(structure, task="efs")
        assert energy == pytest.approx(float(expected["e"]), abs=2e-6)
        assert found.energy == pytest.approx(float(expected["e"]), abs=2e-6)
        assert found.forces == pytest.approx(expected["f"], abs=2e-5)
        assert found.stress == pytest.approx(expected["s"] * units.GPa, rel=3e-4, abs=2e-6)
        assert found.forces.dtype == found.stress.dtype == np.float64


@pytest.mark.slow
def test_chgnet_forces_and_stress_are_slopes_of_its_energy(chgnet):
    for structure in distorted():
        check_finite_differences(chgnet, structure, step=0.02, tolerance=0.01)


@pytest.mark.slow
def test_chgnet_batches_do_not_change_the_values(chgnet, monkeypatch):
    structures = [*distorted(), rocksalt(), Structure(Lattice.cubic(15), ["Na"], [[0, 0, 0]]), *distorted()]
    whole = chgnet.evaluate(structures)
    monkeypatch.setattr(surrogates.potential, "_EDGES_OF_A_BATCH", 1)
    for together, alone in zip(whole, chgnet.evaluate(structures), strict=True):
        if isinstance(together, str):
            assert together == alone
        else:
            assert together.energy == pytest.approx(alone.energy, abs=2e-6)
            assert together.forces == pytest.approx(alone.forces, abs=2e-5)
            assert together.stress == pytest.approx(alone.stress, abs=2e-6)
    assert len(chgnet.energies([])) == 0 and chgnet.evaluate([]) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Structure(Lattice.cubic(15), ["Na"], [[0, 0, 0]]), "an atom has no neighbour within 6 A"),
        (rocksalt(species=("Cf", "Cl")), "CHGNet does not know Cf"),
        (rocksalt(species=("Am", "Es")), "CHGNet does not know Am, Es"),
        (rocksalt(species=[{"Na": 0.5}, "Cl"]), "site 1 is partially occupied (Na:0.5)"),
        (rocksalt(species=("X", "Cl")), "X0+ on site 1 is not a chemical element"),
        (Structure(Lattice(np.zeros((3, 3))), ["Na"], [[0, 0, 0]]), "the cell has a volume of 0 Å3"),
        (Structure(Lattice.cubic(5), ["Na"], [[0, 0, math.nan]]), "the position of site 1 is not finite"),
        (Structure(Lattice.cubic(5), [], []), "the structure has no atoms"),
    ],
)
def test_chgnet_says_why_and_spares_the_others(chgnet, bad, reason):
    first, found, last = chgnet.evaluate([rocksalt(), bad, rocksalt()])
    assert found == reason
    assert isinstance(first, PotentialValues) and first.energy == pytest.approx(last.energy, abs=2e-6)
    energies = chgnet.energies([rocksalt(), bad, rocksalt()])
    assert np.isnan(energies).tolist() == [False, True, False]


@pytest.mark.slow
def test_oxidation_states_do_not_matter_to_chgnet(chgnet):
    charged = rocksalt().add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    assert chgnet.energies([charged]) == pytest.approx(chgnet.energies([rocksalt()]), abs=1e-7)


@pytest.mark.slow
def test_chgnet_weights_are_named(chgnet):
    assert (chgnet.name, chgnet.version) == ("CHGNet", "0.3.0")
    older = CHGNetPotential("0.2.0")
    assert older.version == "0.2.0"
    assert older.energies([rocksalt()]) == pytest.approx(chgnet.energies([rocksalt()]), abs=0.1)
    assert older.energies([rocksalt()]) != pytest.approx(chgnet.energies([rocksalt()]), abs=1e-3)
    with pytest.raises(ValueError, match=r"^CHGNet weights '9.9': expected one of 0.3.0, 0.2.0 and r2scan$"):
        CHGNetPotential("9.9")


def test_ase_atoms_hold_elements_and_positions_alone():
    structure = rocksalt().copy(site_properties={"magmom": [1, 2], "selective_dynamics": [[False] * 3] * 2})
    structure.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    atoms = plain_atoms(structure)
    assert atoms.get_chemical_formula() == "ClNa" and atoms.pbc.all()
    assert not atoms.constraints and not atoms.get_initial_magnetic_moments().any()
    assert atoms.positions == pytest.approx(structure.cart_coords)
    assert atoms.cell.array == pytest.approx(structure.lattice.matrix)


@pytest.fixture(scope="module")
def matgl_folder(tmp_path_factory):
    """A network with random weights, saved as MatGL saves its potentials; scaled up, since it hardly has any slope."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside MatGL's packages
        from matgl.apps.pes import Potential
        from matgl.models import TensorNet

        torch.manual_seed(1)
        network = TensorNet(
            element_types=("Na", "Cl", "Sr", "Ti", "O"), units=8, nblocks=1, num_rbf=8, is_intensive=False
        )
        folder = tmp_path_factory.mktemp("potential") / "tiny"
        Potential(network, data_mean=-3.0, data_std=1000.0, element_refs=[-1.0, -2.0, -3.0, -4.0, -5.0]).save(folder)
        network.save(folder.with_name("property"))
    return folder


@pytest.mark.slow
def test_matgl_forces_and_stress_are_slopes_of_its_energy(matgl_folder):
    potential = MatGLPotential(matgl_folder)
    assert (potential.name, potential.version) == ("MatGL", str(matgl_folder))
    for structure in distorted():
        check_finite_differences(potential, structure, step=0.04, tolerance=0.02)


@pytest.mark.slow
def test_matgl_agrees_with_its_own_predictions(matgl_folder):
    import matgl
    from matgl.ext.ase import PESCalculator

    calculator = PESCalculator(matgl.load_model(matgl_folder), stress_unit="GPa")
    for structure in distorted():
        atoms = structure.to_ase_atoms(msonable=False)
        atoms.calc = calculator
        (found,) = MatGLPotential(str(matgl_folder)).evaluate([structure])
        assert found.energy * len(atoms) == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        assert found.forces == pytest.approx(atoms.get_forces(), abs=1e-5)
        assert found.stress == pytest.approx(atoms.get_stress(voigt=False) * units.GPa, abs=1e-6)


@pytest.mark.slow
def test_matgl_says_why_and_spares_the_others(matgl_folder):
    bad = [
        rocksalt(species=("K", "Cl")),
        rocksalt(species=[{"Na": 0.5}, "Cl"]),
        Structure(Lattice(np.zeros((3, 3))), ["Na"], [[0, 0, 0]]),
    ]
    potential = MatGLPotential(matgl_folder)
    first, *failed, last = potential.evaluate([rocksalt(), *bad, rocksalt()])
    assert isinstance(first, PotentialValues) and first.energy == last.energy
    for reason in failed:
        assert isinstance(reason, str) and reason and "\n" not in reason
    assert "partially occupied" in failed[1] and "volume of 0" in failed[2]
    assert np.isnan(potential.energies(bad)).all()


@pytest.mark.slow
def test_matgl_weights_that_cannot_be_loaded_are_named(matgl_folder, tmp_path):
    with pytest.raises(ValueError, match=r"^model 'No-Such-Model-PES': no weights found \(expected") as error:
        MatGLPotential("No-Such-Model-PES")
    assert "\n" not in str(error.value)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in matgl_folder.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes()[:100])
    for folder in (tmp_path, damaged, matgl_folder.with_name("property")):
        with pytest.raises(ValueError, match=r"^model .*: not a readable MatGL potential \(") as error:
            MatGLPotential(folder)
        assert "\n" not in str(error.value)
