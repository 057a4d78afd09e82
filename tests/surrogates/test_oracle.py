import math
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

import surrogates.reference_export
from envs.formula import CompositionBatch
from surrogates.base import Label, Oracle
from surrogates.hull import ReferenceHull
from surrogates.oracle import CHGNetOracle, FunctionOracle, MatGLOracle, RelaxationOracle, TableOracle
from surrogates.potential import CHGNetPotential, PotentialValues
from surrogates.prototype_library import prototype_library
from surrogates.prototypes import decorate
from surrogates.reference_export import ReferenceStructure
from surrogates.reference_table import ReferenceTable
from surrogates.relaxation import RelaxationOptions
from tests.surrogates.analytic_potentials import FORMATION_ENERGIES, Compounds, Wrapped

ELEMENTS = {
    "Na": "A_cI2_229_a W",
    "Cl": "A_oC8_64_f I",
    "Mg": "A_hP2_194_c Mg",
    "O": "A_mC4_12_i O2",
    "Al": "A_cF4_225_a Cu",
}


def rocksalt(per_atom=18.0, species=("Na", "Cl")):
    matrix = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * (8 * per_atom) ** (1 / 3)
    return Structure(matrix, list(species), [[0, 0, 0], [0.5, 0.5, 0.5]])


def hull_of(energies):
    count = len(energies)
    return ReferenceHull(
        ReferenceTable(
            CompositionBatch.from_formulas(list(energies)),
            torch.tensor(list(energies.values()), dtype=torch.float64),
            "of a test",
            [""] * count,
            torch.ones(count, dtype=torch.bool),
        )
    )


HULL = hull_of({"Na": 0.0, "Cl": 0.0, "NaCl": -2.2, "Mg": 0.0, "O": 0.0, "MgO": -3.0})


@pytest.fixture(autouse=True)
def reference_structures(request, monkeypatch):
    """Structures of five elements for the analytic potentials; CHGNet's own, the embedded ones, in slow tests."""
    if request.node.get_closest_marker("slow"):
        return
    held = {
        symbol: ReferenceStructure(name, decorate(symbol, prototype_library()[name]).structure)
        for symbol, name in ELEMENTS.items()
    }
    monkeypatch.setattr(surrogates.reference_export, "read_reference_structures", lambda: held)


def one_line(label):
    assert label.values == {} and label.failure and "\n" not in label.failure
    return label.failure


def analytic_oracle(potential=None, **options):
    return RelaxationOracle(potential or Compounds(), RelaxationOptions(fmax=0.005), hull=HULL, **options)


def test_label_of_a_formula():
    (label,) = analytic_oracle().label(["NaCl"])
    assert label.failure is None and label.converged and label.steps >= 0
    assert label.material == "NaCl" and label.prototype.startswith("AB_")
    assert label.values == pytest.approx(
        {"formation_energy": -2.10, "e_above_hull": 0.10, "energy": -2.10 - 1.55, "volume": 20.0}, abs=2e-3, rel=1e-3
    )
    assert label.structure.composition.reduced_formula == "NaCl"


def test_labels_keep_the_order_of_formulas_structures_and_failures():
    materials = ["MgO", rocksalt(), "Na7Cl5O11", "not a formula", "ClNa", "Mg2O2", 5, None]
    labels = analytic_oracle().label(materials)
    assert [label.material for label in labels[:3]] == ["MgO", "NaCl", "Na7Cl5O11"]
    assert [label.failure is None for label in labels] == [True, True, False, False, True, True, False, False]
    energies = [label.values.get("formation_energy", math.nan) for label in labels]
    assert np.array(energies)[[0, 1, 4, 5]] == pytest.approx([-3.05, -2.10, -2.10, -3.05], abs=2e-3)
    assert one_line(labels[2]) == "no prototype of the anonymous formula A5B7C11 in the library"
    assert "not a formula" in one_line(labels[3])
    assert one_line(labels[6]) == "expected a pymatgen Structure, not int"
    assert labels[1].prototype == ""
    assert analytic_oracle().label([]) == []


def test_structure_is_relaxed_as_it_is():
    caesium_chloride = Structure(Lattice.cubic(3.3), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    before = caesium_chloride.copy()
    (label,) = analytic_oracle().label([caesium_chloride])
    assert caesium_chloride == before
    assert StructureMatcher().fit(label.structure, caesium_chloride)
    assert label.structure.volume == pytest.approx(40.0, rel=5e-3)


def test_oxidation_states_and_site_properties_do_not_matter():
    dressed = rocksalt().copy(site_properties={"selective_dynamics": [[False] * 3, [True] * 3]})
    dressed.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    plain, same = analytic_oracle().label([rocksalt(), dressed])
    assert same.values == pytest.approx(plain.values)
    assert same.material == plain.material == "NaCl"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Structure(Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0], [0.01, 0, 0]]), "apart"),
        (Structure(Lattice(np.zeros((3, 3))), ["Na"], [[0, 0, 0]]), "a volume of 0"),
        (rocksalt(species=[{"Na": 0.5}, "Cl"]), "partially occupied"),
        (rocksalt(species=["X", "Cl"]), "not a chemical element"),
        (Structure(Lattice.cubic(5), [], []), "no atoms"),
        ("", "formula"),
        ("NaXx", "Xx"),
        ("Na0.5Cl0.5", "no prototype"),
        ("KCl", "no reference structure of the element K"),
    ],
)
def test_bad_input_is_a_label_with_a_reason(bad, reason):
    class AnyElement(Compounds):
        def minimum(self, structure):
            return -3.0 if "K" in structure.composition else super().minimum(structure)

    first, label, last = analytic_oracle(AnyElement()).label(["NaCl", bad, "MgO"])
    assert first.failure is None and last.failure is None
    assert reason in one_line(label)


def test_a_potential_that_raises_fails_the_material_alone():
    def change(structure, values):
        if structure.composition.chemical_system == "Na-O":
            raise RuntimeError("out of\nmemory")
        return values

    oracle = analytic_oracle(Wrapped(Compounds(), change))
    first, formula, structure, last = oracle.label(["NaCl", "NaO", rocksalt(species=("Na", "O")), "MgO"])
    assert first.failure is None and last.failure is None
    assert one_line(formula).startswith("none of ") and one_line(formula).endswith("the potential failed: out of")
    assert one_line(structure) == "the potential failed: out of"


def test_relaxation_that_does_not_end_is_a_failure():
    oracle = RelaxationOracle(Compounds(), RelaxationOptions(fmax=1e-9, max_steps=1), hull=HULL, check=False)
    (label,) = oracle.label([rocksalt(12.0)])
    assert one_line(label).startswith("not converged after 1 steps")
    assert label.converged is False and label.steps == 1 and label.structure is not None


def test_an_element_that_cannot_be_relaxed_is_named_and_tried_once():
    tried = []

    def change(structure, values):
        if structure.composition.chemical_system != "Cl":
            return values
        tried.append(structure)
        return PotentialValues(math.nan, values.forces, values.stress)

    oracle = analytic_oracle(Wrapped(Compounds(), change), check=False)
    for label in oracle.label([rocksalt(), rocksalt()]):
        assert one_line(label) == "the element Cl could not be relaxed: energy or forces are not finite"
    assert len(tried) == 1


def test_hull_without_the_elements_leaves_the_distance_out():
    oracle = RelaxationOracle(Compounds(), hull=hull_of({"Na": 0.0, "Cl": 0.0}), check=False)
    salt, oxide = oracle.label([rocksalt(), rocksalt(species=("Mg", "O"))])
    assert salt.values["e_above_hull"] == pytest.approx(-2.10, abs=0.01)
    assert oxide.failure is None and set(oxide.values) == {"formation_energy", "energy", "volume"}


def test_the_embedded_hull_is_the_default(monkeypatch):
    monkeypatch.setattr(ReferenceHull, "default", classmethod(lambda cls: HULL))
    oracle = RelaxationOracle(Compounds(), check=False)
    assert oracle.label([rocksalt()])[0].values["e_above_hull"] == pytest.approx(0.1, abs=0.01)


def test_the_best_structure_type_wins():
    class Rocksalt(Compounds):
        """0.2 eV/atom more than in rocksalt, everywhere else."""

        def minimum(self, structure):
            ideal = len(structure) == 2 and structure.lattice.angles == pytest.approx((60, 60, 60), abs=0.5)
            return super().minimum(structure) + (0.0 if ideal else 0.2)

    (label,) = analytic_oracle(Rocksalt(), check=False).label(["NaCl"])
    assert label.structure.lattice.angles == pytest.approx((60, 60, 60), abs=0.5)
    assert label.prototype in {"AB_cF8_225_a_b NaCl", "AB_cF8_216_c_a ZnS"}
    few = analytic_oracle(check=False, largest_cell=2).label(["NaCl"])[0]
    assert len(few.structure) <= 2


def test_known_compounds_are_checked_first():
    oracle = analytic_oracle()
    assert oracle.check_known_compounds() == pytest.approx(FORMATION_ENERGIES, abs=2e-3)
    figures = r"NaCl -1.68 \(measured -2.13\), MgO -2.44 \(measured -3.12\), Al2O3 -2.72 \(measured -3.47\)"
    with pytest.raises(ValueError, match=rf"^analytic 1: refused, .*{figures} eV/atom; expected within 0.15 ") as error:
        analytic_oracle(Compounds(scale=0.8))
    assert "\n" not in str(error.value)
    assert analytic_oracle(Compounds(scale=0.8), check=False).label(["NaCl"])[0].failure is None


def test_a_potential_that_fails_on_a_known_compound_is_refused_with_the_reason():
    def change(structure, values):
        return "no parameters for Al" if "Al" in structure.composition else values

    with pytest.raises(ValueError, match=r"refused, Al2O3 failed: no parameters for Al$"):
        analytic_oracle(Wrapped(Compounds(), change))


def test_one_text_is_no_list_of_materials():
    for oracle in (analytic_oracle(check=False), FunctionOracle(len)):
        with pytest.raises(ValueError, match="expected a list of materials, not the text 'NaCl'"):
            oracle.label("NaCl")


def test_oracles_are_oracles(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("formula,gap\nNaCl,8.5\n")
    for oracle in (analytic_oracle(check=False), TableOracle(table), FunctionOracle(len)):
        assert isinstance(oracle, Oracle)
        assert oracle.name and oracle.version and oracle.cost >= 0
        assert all(isinstance(label, Label) for label in oracle.label(["NaCl", "MgO"]))


def test_table_is_looked_up_by_reduced_formula(tmp_path):
    path = tmp_path / "measured.csv"
    path.write_text("formula,gap,hardness,source\nNa2Cl2,8.5,2.5,me\nClNa,1,1,you\nTiO2,3.0,6.0,me\n")
    oracle = TableOracle(str(path))
    assert (oracle.name, oracle.version, oracle.cost) == ("table", "measured.csv", 0.0)
    labels = oracle.label(["NaCl", "O4Ti2", rocksalt(), "MgO", "no formula", "Na0.5Cl0.5"])
    assert labels[0].values == labels[2].values == {"gap": 8.5, "hardness": 2.5}
    assert labels[1].values == {"gap": 3.0, "hardness": 6.0}
    assert labels[2].material == "NaCl"
    assert one_line(labels[3]) == "not in the table measured.csv"
    assert "no formula" in one_line(labels[4])
    labels[0].values["gap"] = 0.0
    assert oracle.label(["NaCl"])[0].values["gap"] == 8.5


def test_table_of_structures(tmp_path):
    path = tmp_path / "measured.parquet"
    table = pyarrow.table({"cif": [rocksalt().to(fmt="cif")], "gap": [8.5]})
    pyarrow.parquet.write_table(table, path)
    assert TableOracle(path).label(["NaCl"])[0].values == {"gap": 8.5}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("formula,gap\nNaCl,\n", "finite"),
        ("a,b\n1,2\n", "formula column"),
        ("formula,gap\nQq,1\n", "row 1"),
        ("", "empty"),
    ],
)
def test_unreadable_table_is_named(tmp_path, text, reason):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason) as error:
        TableOracle(path)
    assert "bad.csv" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"missing.csv"):
        TableOracle(tmp_path / "missing.csv")


def hardness(material):
    """A user's function, with all that may go wrong."""
    answers = {
        "NaCl": {"hardness": 2.5},
        "MgO": {"hardness": np.float32(6.0), 7: torch.tensor(1.0)},
        "TiO2": {"hardness": math.nan},
        "SiO2": {"hardness": 7, "density": -math.inf},
        "LiF": {},
        "KCl": None,
        "KBr": 3.0,
        "KI": {"hardness": "hard"},
        "CaO": {"hardness": None},
        "BaO": SimpleNamespace(items=lambda: [("hardness", 3.5)]),  # as a pandas Series has
    }
    if material not in answers:
        raise KeyError("the furnace\nbroke")
    return answers[material]


@pytest.mark.parametrize(
    ("material", "reason"),
    [
        ("TiO2", "hardness: hardness is nan"),
        ("SiO2", "hardness: density is -inf"),
        ("LiF", "hardness: no values returned"),
        ("KCl", "hardness: TypeError: expected a mapping of property names to numbers, not NoneType"),
        ("KBr", "hardness: TypeError: expected a mapping of property names to numbers, not float"),
        ("KI", "hardness: ValueError: could not convert string to float: 'hard'"),
        ("CaO", "hardness: TypeError: float() argument must be a string or a real number, not 'NoneType'"),
        ("FeO", r"hardness: KeyError: 'the furnace\nbroke'"),
    ],
)
def test_failures_of_a_function_are_labels(material, reason):
    first, label, last = FunctionOracle(hardness).label(["NaCl", material, "MgO"])
    assert first.values == {"hardness": 2.5} and last.values == {"hardness": 6.0, "7": 1.0}
    assert one_line(label) == reason and label.material == material


def test_function_oracle_of_anything():
    assert FunctionOracle(hardness).label(["BaO"])[0].values == {"hardness": 3.5}
    seen = []
    oracle = FunctionOracle(lambda material: seen.append(material) or {"x": 1}, name="mine", version="2", cost=60.0)
    assert (oracle.name, oracle.version, oracle.cost) == ("mine", "2", 60.0)
    structure, partial = rocksalt(), rocksalt(species=[{"Na": 0.5}, "Cl"])
    labels = oracle.label([structure, partial, 17])
    assert seen[0] is structure and seen[2] == 17
    assert [label.material for label in labels][::2] == ["NaCl", "17"]
    assert all("\n" not in label.material for label in labels)
    assert oracle.label([]) == []


def test_silent_exceptions_and_blank_messages_have_a_reason():
    def fail(material):
        raise ValueError("\n  \nthe third line says it" if material == "NaCl" else "")

    first, second = FunctionOracle(fail).label(["NaCl", "MgO"])
    assert one_line(first) == "fail: ValueError: the third line says it"
    assert one_line(second) == "fail: ValueError"


def test_interrupting_a_function_is_no_failure():
    def interrupted(material):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FunctionOracle(interrupted).label(["NaCl"])


@pytest.mark.slow
def test_chgnet_finds_rocksalt_with_the_known_energy_and_volume():
    oracle = CHGNetOracle(hull=HULL)
    assert isinstance(oracle, Oracle) and (oracle.name, oracle.version) == ("CHGNet", "0.3.0")
    formula, given = oracle.label(["MgO", rocksalt(22.4)])
    known = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert StructureMatcher().fit(formula.structure, known)
    assert formula.values["volume"] == pytest.approx(9.35, rel=0.05)
    assert formula.values["formation_energy"] == pytest.approx(-3.12, abs=0.15)
    assert given.values["volume"] == pytest.approx(22.4, rel=0.05)
    assert given.values["formation_energy"] == pytest.approx(-2.13, abs=0.15)


@pytest.mark.slow
def test_chgnet_with_wrong_energies_is_refused():
    def scaled(structure, values):
        return PotentialValues(0.8 * values.energy, 0.8 * values.forces, 0.8 * values.stress)

    class Scaled(Wrapped):
        name, version = "scaled", "0"

        def values(self, structure):
            return self.change(structure, self.potential.evaluate([structure])[0])

    with pytest.raises(ValueError, match=r"^scaled 0: refused, .*NaCl -1.\d\d \(measured -2.13\)"):
        RelaxationOracle(Scaled(CHGNetPotential(), scaled), hull=HULL)


@pytest.mark.slow
def test_matgl_model_that_is_not_here_is_named():
    with pytest.raises(ValueError, match=r"^model 'No-Such-PES': no weights found") as error:
        MatGLOracle("No-Such-PES")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_chgnet_weights_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match=r"^CHGNet weights '1.0': expected one of"):
        CHGNetOracle("1.0")


def test_what_cannot_be_tried_is_refused_without_cost():
    oracle = RelaxationOracle(Compounds(), hull=HULL, check=False)
    refused = oracle.refuses(["NaCl", "ZnNi4P4", "Na0.5Cl", "no formula"])
    assert refused[0] is None
    assert refused[1] == "no prototype of the anonymous formula AB4C4 in the library"
    assert all(refused[1:])
    labels = oracle.label(["ZnNi4P4"])
    assert labels[0].failure == refused[1]


def test_table_lists_its_materials(tmp_path):
    (tmp_path / "table.csv").write_text("formula,gap\nNa2Cl2,5.0\nMgO,7.8\nClNa,4.0\n")
    oracle = TableOracle(tmp_path / "table.csv")
    assert sorted(oracle.materials) == ["MgO", "NaCl"]
    assert all(label.failure is None for label in oracle.label(oracle.materials))
