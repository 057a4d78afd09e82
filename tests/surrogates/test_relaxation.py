import math
import re

import numpy as np
import pytest
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure import IStructure

from surrogates.potential import PotentialValues
from surrogates.relaxation import Relaxation, RelaxationOptions, relax
from tests.surrogates.analytic_potentials import Birch, LennardJones, Wrapped

TIGHT = RelaxationOptions(fmax=0.005)


def rocksalt(per_atom=18.0, species=("Na", "Cl")):
    matrix = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * (8 * per_atom) ** (1 / 3)
    return Structure(matrix, list(species), [[0, 0, 0], [0.5, 0.5, 0.5]])


def distorted(a=4.1):
    """A cubic close packing of four atoms, strained and displaced."""
    matrix = a * np.array([[1.03, 0.02, 0], [0, 0.98, 0.01], [0.01, 0, 1.0]])
    return Structure(matrix, ["Ar"] * 4, [[0.02, 0, 0], [0.5, 0.51, 0], [0.5, 0, 0.48], [0, 0.5, 0.5]])


def raises(structure, values):
    raise RuntimeError("cannot\ndo this")


def test_lennard_jones_crystal_relaxes_as_with_ase_alone():
    (found,) = relax([distorted()], LennardJones(), TIGHT)
    atoms = distorted().to_ase_atoms(msonable=False)
    atoms.calc = LennardJones().ase_calculator()
    optimizer = BFGS(FrechetCellFilter(atoms), logfile=None, maxstep=0.15)
    assert optimizer.run(fmax=0.005, steps=200)
    assert found.converged and found.failure is None
    assert found.steps == optimizer.nsteps
    assert found.energy == pytest.approx(atoms.get_potential_energy() / 4, abs=1e-9)
    assert found.structure.volume == pytest.approx(atoms.get_volume(), abs=1e-6)
    assert found.structure.distance_matrix == pytest.approx(atoms.get_all_distances(mic=True), abs=1e-4)


def test_known_volume_and_energy_are_reached():
    starts = [rocksalt(16.0), rocksalt(20.0), rocksalt(27.0)]
    for found in relax(starts, Birch(energy=-2.0, volume=20.0), TIGHT):
        assert found.energy == pytest.approx(-2.0, abs=1e-4)
        assert found.structure.volume / 2 == pytest.approx(20.0, rel=2e-3)
        assert found.structure.composition.reduced_formula == "NaCl"


def test_a_relaxed_structure_takes_no_step():
    (found,) = relax([rocksalt(20.0)], Birch())
    assert found.steps == 0 and found.converged


def test_structures_are_relaxed_in_order_whatever_the_size_of_a_batch():
    starts = [distorted(), rocksalt(), rocksalt(22.0)]
    before = [start.copy() for start in starts]
    alone = [relax([start], LennardJones())[0] for start in starts]
    assert starts == before
    for size in (1, 2):
        options = RelaxationOptions(batch_size=size)
        for found, expected in zip(relax(starts, LennardJones(), options), alone, strict=True):
            assert found.steps == expected.steps
            assert found.energy == pytest.approx(expected.energy, abs=1e-9)
            assert found.structure.composition == expected.structure.composition
    assert relax([], LennardJones()) == []


def test_each_result_is_reported_once_and_bad_input_first():
    reported = {}

    def after_each(row, result):
        assert row not in reported
        reported[row] = result

    starts = [rocksalt(), Structure(Lattice.cubic(5), [], []), rocksalt(26.0)]
    found = relax(starts, Birch(), after_each=after_each)
    assert [reported[row] for row in range(3)] == found
    assert next(iter(reported)) == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Structure(Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0], [0.01, 0, 0]]), "Na and Cl .* apart"),
        (Structure(Lattice.cubic(5), ["Na", "Na"], [[0, 0, 0], [0, 0, 0]]), "0.00 Å apart"),
        (Structure(Lattice(np.zeros((3, 3))), ["Na"], [[0, 0, 0]]), "volume of 0"),
        (rocksalt(species=[{"Na": 0.5}, "Cl"]), "partially occupied"),
        (rocksalt(species=["X", "Cl"]), "not a chemical element"),
        (Structure(Lattice.cubic(5), ["Na"], [[0, 0, math.nan]]), "not finite"),
        ("NaCl", "expected a pymatgen Structure, not str"),
        (None, "expected a pymatgen Structure, not NoneType"),
    ],
)
def test_unsound_structure_is_a_failure_and_spares_the_others(bad, reason):
    first, found, last = relax([rocksalt(), bad, rocksalt()], Birch())
    assert isinstance(found, Relaxation) and found.structure is None and math.isnan(found.energy)
    assert not found.converged and "\n" not in found.failure
    assert pytest.approx(first.energy, abs=1e-9) == last.energy
    assert re.search(reason, found.failure), found.failure


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s, v: PotentialValues(math.nan, v.forces, v.stress), "energy or forces are not finite"),
        (lambda s, v: PotentialValues(v.energy, v.forces * math.nan, v.stress), "energy or forces are not finite"),
        (lambda s, v: PotentialValues(v.energy, v.forces, v.stress * math.inf), "energy or forces are not finite"),
        (lambda s, v: PotentialValues(-80.0, v.forces, v.stress), "energy -80.0 eV/atom outside -50 to 20"),
        (lambda s, v: PotentialValues(v.energy, v.forces[:1], v.stress), r"shapes \(1, 3\) and \(3, 3\), expected"),
        (lambda s, v: PotentialValues(v.energy, v.forces, v.stress[0]), r"shapes \(2, 3\) and \(3,\), expected"),
        (lambda s, v: "no parameters for K", "^no parameters for K$"),
        (raises, "^the potential failed: cannot$"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")  # inf times 0, on purpose
def test_nonsense_from_the_potential_fails_one_structure_only(change, reason):
    def for_potassium(structure, values):
        return change(structure, values) if "K" in structure.composition else values

    first, found, last = relax(
        [rocksalt(), rocksalt(species=("K", "Cl")), rocksalt()], Wrapped(Birch(), for_potassium), TIGHT
    )
    for other in (first, last):
        assert other.converged and other.energy == pytest.approx(-2.0, abs=1e-4)
    assert not found.converged and math.isnan(found.energy) and found.structure.composition.reduced_formula == "KCl"
    assert re.search(reason, found.failure), found.failure


def test_a_failure_under_way_does_not_give_the_energy_of_an_earlier_step():
    potential = Birch()
    calls = []

    def later_nonsense(structure, values):
        calls.append(structure)
        return values if len(calls) < 3 else PotentialValues(math.nan, values.forces, values.stress)

    (found,) = relax([rocksalt(12.0)], Wrapped(potential, later_nonsense), TIGHT)
    assert found.steps == 2 and math.isnan(found.energy) and found.failure == "energy or forces are not finite"


def test_interrupting_is_no_failure():
    def interrupted(structure, values):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relax([rocksalt()], Wrapped(Birch(), interrupted))


def test_steps_run_out():
    found, quick = relax([rocksalt(12.0), rocksalt(20.0)], Birch(), RelaxationOptions(fmax=1e-4, max_steps=2))
    assert quick.converged
    assert found.steps == 2 and not found.converged
    assert found.failure.startswith("not converged after 2 steps (") and found.failure.endswith(" eV/A left)")
    assert found.energy == Birch().values(found.structure).energy
    assert relax([rocksalt(12.0)], Birch(), RelaxationOptions(max_steps=0))[0].steps == 0


def test_time_runs_out():
    found, quick = relax([rocksalt(12.0), rocksalt(20.0)], Birch(), RelaxationOptions(time_limit=0.0))
    assert quick.converged
    assert not found.converged and found.failure == "time-out after 0 s and 0 steps"


@pytest.mark.parametrize("volume", [7.0, 60.0])
def test_collapse_and_expansion_are_failures(volume):
    (found,) = relax([rocksalt(20.0)], Birch(volume=volume, stiffness=3.0), RelaxationOptions(fmax=1e-3))
    assert found.failure.startswith("volume changed by a factor of ")
    assert not found.converged


def test_atoms_that_end_on_top_of_each_other_are_a_failure():
    squeezed = Structure(Lattice.cubic(8.0), ["H", "H"], [[0, 0, 0], [0.1, 0, 0]])

    def pull(structure, values):
        apart = structure.get_distance(0, 1)
        forces = np.zeros((2, 3))
        forces[:, 0] = (2 * apart, -2 * apart) if apart > 0.45 else 0.0
        return PotentialValues(apart**2 / 2 - 3.0, forces, np.zeros((3, 3)))

    (found,) = relax([squeezed], Wrapped(Birch(volume=256.0), pull))
    assert not found.converged and "H and H (sites 1 and 2) are" in found.failure


def test_forces_that_confuse_the_optimiser_are_a_failure():
    def constant(structure, values):
        forces = np.zeros((2, 3))
        forces[:, 0] = (0.4, -0.4)
        return PotentialValues(-3.0, forces, np.zeros((3, 3)))

    def for_potassium(structure, values):
        return constant(structure, values) if "K" in structure.composition else values

    found, other = relax([rocksalt(species=("K", "Cl")), rocksalt()], Wrapped(Birch(), for_potassium))
    assert other.converged
    assert not found.converged and found.failure.startswith("the optimiser failed: ") and found.energy == -3.0


def test_charges_moments_and_constraints_of_a_structure_change_nothing():
    bare = distorted()
    dressed = bare.copy(
        site_properties={
            "magmom": [1.0] * 4,
            "forces": [[0, 0, 1]] * 4,
            "selective_dynamics": [[False] * 3, [True] * 3, [True, False, True], [True] * 3],
        }
    )
    dressed.add_oxidation_state_by_element({"Ar": 1})
    frozen = IStructure.from_sites(bare.sites)
    first, *others = relax([bare, dressed, frozen], LennardJones(), TIGHT)
    for other in others:
        assert other.failure is None
        assert other.energy == pytest.approx(first.energy, abs=1e-9)
        assert other.structure.volume == pytest.approx(first.structure.volume, abs=1e-6)
