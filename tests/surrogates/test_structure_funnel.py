"""How far structures get, with potentials whose answers are known; with CHGNet in the slow tests."""

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from surrogates.funnel_records import COLUMNS, RUNGS
from surrogates.phonons import PhononOptions
from surrogates.relaxation import RelaxationOptions
from surrogates.structure_files import StructureEntry
from surrogates.structure_funnel import FunnelOptions, StructureFunnel
from tests.surrogates.analytic_potentials import FORMATION_ENERGIES, Compounds, LennardJones, Wrapped
from tests.surrogates.crystals import face_centred, perovskite, rocksalt

NACL, MGO = rocksalt("Na", "Cl", 5.4), rocksalt("Mg", "O", 5.4)


def run(structures, potential=None, names=None, **options):
    funnel = StructureFunnel(potential=potential or Compounds(), options=FunnelOptions(**options))
    return funnel.run(structures, names)


def only(structure, **options):
    result = run([structure], **options)
    return result.table.iloc[0], result.structures[0]


def test_a_sound_structure_reaches_the_hull():
    row, relaxed = only(NACL)
    assert row["rung"] == "hull" and row["failed_at"] == "" and row["reason"] == ""
    assert [row[rung] for rung in RUNGS] == ["passed"] * 5 + ["", ""]
    assert row["name"] == "1" and row["formula"] == "NaCl" and row["n_atoms"] == 2
    assert row["space_group"] == row["relaxed_space_group"] == "Fm-3m"
    assert row["space_group_number"] == row["relaxed_space_group_number"] == 225
    assert row["formation_energy_eV_per_atom"] == pytest.approx(FORMATION_ENERGIES["NaCl"], abs=1e-3)
    assert relaxed.volume / 2 == pytest.approx(20.0, rel=0.01)  # what the potential wants
    assert row["volume_change"] == pytest.approx(relaxed.volume / NACL.volume - 1)
    assert row["density_g_per_cm3"] == pytest.approx(NACL.density)
    assert row["converged"] and row["steps"] > 0 and row["seconds"] > 0
    assert not row["novel_formula"] and not row["novel_structure"]
    assert row["predicted_band_gap_eV"] > 4 and row["predicted_band_gap_std_eV"] > 0


def test_distance_to_the_hull_is_that_of_the_hull():
    from surrogates.hull import ReferenceHull

    row, _ = only(NACL)
    formation = row["formation_energy_eV_per_atom"]
    expected = formation - float(ReferenceHull.default().hull_energy(["NaCl"])[0])
    assert row["e_above_hull_eV_per_atom"] == pytest.approx(expected, abs=1e-9)


def test_a_structure_above_the_hull_fails_there_unless_any_distance_is_allowed():
    row, relaxed = only(NACL, potential=Compounds(0.5))
    assert row["failed_at"] == "hull" and row["rung"] == "relaxed" and relaxed is not None
    assert "eV/atom above the hull, more than 0.1" in row["reason"]
    row, _ = only(NACL, potential=Compounds(0.5), max_e_above_hull=None)
    assert row["rung"] == "hull"


def test_structures_fall_at_the_first_rung_they_miss():
    disordered = Structure(Lattice.cubic(3), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    overlapping = Structure(Lattice.cubic(3), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.1]])
    near = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.3]])
    alloy = rocksalt("Ni", "Al", 5.0)
    charged = NACL.copy()
    charged.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    large = NACL * [4, 3, 3]
    table = run([disordered, overlapping, near, alloy, charged, large, NACL], max_atoms=50).table
    assert table["failed_at"].tolist() == ["built", "built", "rules", "rules", "", "relaxed", ""]
    parts = ["partially occupied", "apart", "covalent radii", "charge neutral", "", "72 atoms in the cell", ""]
    assert all(part in reason for part, reason in zip(parts, table["reason"], strict=True))
    assert table["rung"].tolist() == ["", "", "built", "built", "hull", "surrogate", "hull"]
    assert table["name"].tolist() == list("1234567")
    assert run([alloy], charge_rules=False).table["rules"].tolist() == ["passed"]
    assert run([near], closest_ratio=0.2).table["rules"].tolist() == ["passed"]


def test_entries_without_a_structure_are_rows_with_their_reason():
    entries = [
        StructureEntry("bad", "bad.cif", None, "the file is empty"),
        StructureEntry("good", "g", NACL, None, "odd"),
    ]
    result = StructureFunnel(potential=Compounds()).run_entries(entries)
    assert result.table["reason"].tolist() == ["the file is empty", ""]
    assert result.table["file"].tolist() == ["bad.cif", "g"] and result.table["note"].tolist() == ["", "odd"]
    assert result.structures[0] is None and result.structures[1] is not None


def test_nothing_at_all_and_nothing_sound():
    assert list(run([]).table.columns) == list(COLUMNS)
    result = run([None, "NaCl", 3])
    assert result.table["failed_at"].tolist() == ["built"] * 3
    assert "expected a pymatgen Structure, not str" in result.table["reason"][1]


def test_without_relaxation_the_funnel_ends_at_the_surrogates():
    potential = Compounds()
    result = run([NACL], potential, relax=False)
    assert result.table["rung"].tolist() == ["surrogate"] and potential.evaluated == []
    assert result.structures == [None]


def test_duplicates_before_and_after_relaxation():
    shifted = NACL * [2, 1, 1]
    shifted.translate_sites(range(4), [0.2, 0.1, 0.3])
    result = run([MGO, NACL, shifted, rocksalt("Cl", "Na", 6.0)])
    assert result.table["duplicate_of"].tolist() == [pd.NA, pd.NA, 2, 2]
    assert result.table["relaxed_duplicate_of"].tolist() == [pd.NA, pd.NA, 2, 2]
    assert result.table["rung"].tolist() == ["hull"] * 4
    skipped = run([MGO, NACL, shifted], skip_duplicates=True).table
    assert skipped["failed_at"].tolist() == ["", "", "rules"]
    assert skipped["reason"][2] == "the same structure as 2"


def test_novelty_of_formula_and_structure():
    zincblende = Structure(face_centred(6.0), ["Na", "Cl"], [[0, 0, 0], [0.25, 0.25, 0.25]])
    new = perovskite("Cs", "Sc", "Te", 5.5)
    table = run([NACL, zincblende, new], relax=False, charge_rules=False).table
    assert table["novel_structure"].tolist() == [False, True, True]
    assert table["novel_formula"].tolist() == [False, False, True]


def test_relaxations_that_fail_or_explode_keep_their_reason():
    def explode(structure, values):
        if "Mg" in structure.composition and structure.volume < 45:
            return type(values)(-1e5, values.forces, values.stress)
        return values

    table = run([NACL, MGO], Wrapped(Compounds(), explode)).table
    assert table["failed_at"].tolist() == ["", "relaxed"]
    assert "outside -50 to 20" in table["reason"][1]
    assert np.isnan(table["energy_eV_per_atom"][1]) and not table["converged"][1]


def test_elements_that_cannot_be_relaxed_leave_no_formation_energy():
    def fail(structure, values):
        return "too soft" if structure.composition.reduced_formula == "Na" else values

    table = run([NACL, MGO], Wrapped(Compounds(), fail)).table
    assert table["failed_at"].tolist() == ["hull", ""]
    assert table["reason"][0] == "the element Na could not be relaxed: too soft"


def test_ctrl_c_keeps_what_was_finished():
    class Interrupted(Compounds):
        def evaluate(self, structures):
            if any("Mg" in s.composition and len(s.composition) == 2 for s in structures):
                raise KeyboardInterrupt
            return super().evaluate(structures)

    options = FunnelOptions(relaxation=RelaxationOptions(batch_size=1, max_steps=100))
    funnel = StructureFunnel(potential=Interrupted(), options=options)
    result = funnel.run([NACL, MGO * [2, 1, 1]])
    assert result.interrupted
    assert result.table["rung"].tolist() == ["hull", "surrogate"]
    assert result.table["failed_at"].tolist() == ["", ""] and result.table["relaxed"].tolist() == ["passed", ""]
    assert result.table["seconds"][0] > 0


def test_the_bar_tells_how_far_it_is(capsys):
    StructureFunnel(potential=Compounds()).run([NACL, MGO], progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "relaxation: 100%" in err and "2/2" in err


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"elastic": True, "relax": False}, "elastic: only relaxed structures"),
        ({"phonon": True, "relax": False}, "phonon: only relaxed structures"),
        ({"top": 0}, "top: 0"),
        ({"max_atoms": 0}, "max_atoms: 0"),
        ({"max_e_above_hull": -1.0}, "max_e_above_hull: -1"),
        ({"max_e_above_hull": float("nan")}, "max_e_above_hull: nan"),
        ({"closest_ratio": 3.0}, "closest_ratio: 3"),
    ],
)
def test_wrong_options_are_named(options, part):
    with pytest.raises(ValueError, match=part):
        FunnelOptions(**options)


def test_names_must_be_one_each():
    with pytest.raises(ValueError, match="names: 1 for 2 structures"):
        run([NACL, MGO], names=["a"])


def test_vibrations_of_stable_and_unstable_lennard_jones_crystals():
    close_packed = Structure(face_centred(3.9), ["Cu"], [[0, 0, 0]])
    simple_cubic = Structure(Lattice.cubic(2.7), ["Cu"], [[0, 0, 0]])
    options = {"phonon": True, "max_e_above_hull": None, "phonons": PhononOptions(supercell_edge=7.0)}
    table = run([simple_cubic, close_packed], LennardJones(), **options).table
    assert table["rung"].tolist() == ["hull", "phonon"] and table["failed_at"].tolist() == ["phonon", ""]
    assert "dynamically unstable: an imaginary mode of" in table["reason"][0]
    assert table["lowest_frequency_THz"][0] < -0.5 and table["lowest_frequency_THz"][1] > 0.1
    assert table["highest_frequency_THz"].gt(0).all()
    nearest = run([simple_cubic, close_packed], LennardJones(), **options, top=1).table
    assert nearest["phonon"].tolist() == ["", "passed"]


@pytest.mark.slow
def test_chgnet_takes_rocksalts_up_and_leaves_cubic_barium_titanate_behind():
    """Cubic BaTiO3 exists above 393 K only: its ferroelectric mode at Gamma is imaginary at 0 K."""
    structures = [rocksalt("Na", "Cl", 5.69), rocksalt("Mg", "O", 4.26), perovskite("Ba", "Ti", "O", 4.03)]
    result = StructureFunnel(options=FunnelOptions(elastic=True, phonon=True)).run(structures)
    table = result.table
    assert table["rung"].tolist() == ["phonon", "phonon", "elastic"]
    assert table["failed_at"].tolist() == ["", "", "phonon"]
    assert table["lowest_frequency_q"][2] == "0 0 0" and table["lowest_frequency_THz"][2] < -1
    assert table["e_above_hull_eV_per_atom"].abs().max() < 0.01
    assert table["bulk_modulus_GPa"][0] == pytest.approx(25, rel=0.3)  # measured 25 and 163 GPa; CHGNet is soft
    assert table["bulk_modulus_GPa"][1] == pytest.approx(163, rel=0.3)
    assert "CHGNet 0.3.0, not DFT" in result.source and "prototype library" in result.source


@pytest.mark.slow
def test_chgnet_puts_sodium_chloride_of_another_type_above_the_hull():
    caesium_type = Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    row = StructureFunnel().run([caesium_type]).table.iloc[0]
    assert row["space_group"] == "Pm-3m" and row["novel_structure"]
    assert 0.02 < row["e_above_hull_eV_per_atom"] < 0.3
