"""Figures of an evaluation: lists with known figures, closed forms, and independent truth for structures."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure
from scipy.spatial.distance import jensenshannon

import agent
import surrogates.structure_funnel
from agent import evaluate
from agent.evaluation import Evaluation
from agent.evaluation_compositions import composition_keys, jensen_shannon_distance, most_common_systems
from agent.evaluation_structures import closest_distances
from envs.formula import CompositionBatch
from surrogates.datasets import read_known_formulas
from surrogates.material_lists import collect_materials
from surrogates.reference_export import read_reference_structures
from tests.envs.strategies import smact_accepts
from tests.surrogates.analytic_potentials import Compounds
from tests.surrogates.crystals import perovskite, rocksalt

# Compositions


def test_a_list_with_known_figures() -> None:
    materials = ["NaCl", "Na2Cl2", "MgO", "NaCl2", "Fe", "NiAl", "Na7F7O", "bad", "KCl"]
    found = evaluate(materials, holdout=["ClNa", "KCl", "LiF", "NaCl"], reference=["NaCl", "MgO", "LiF", "CaO", "LiF"])
    assert found.given == 9 and found.compositions.n == 8 and len(found.refused) == 1
    assert found.refused[0].where == "material 8" and found.structures is None
    figures = found.compositions
    assert figures.distinct == 7 and figures.unique == pytest.approx(7 / 8)
    assert figures.novel == pytest.approx(5 / 7) and figures.n_reference == 4
    charges = figures.charges["icsd24"]
    assert list(figures.charges) == ["icsd24", "smact14", "icsd16", "pymatgen_sp"]
    assert smact_accepts({"Ni": 1, "Al": 1}, pauling=False) and not smact_accepts({"Ni": 1, "Al": 1})
    assert charges.neutral == pytest.approx(6 / 8)  # not NaCl2, nor Na7F7O; Fe is an element
    assert charges.balanced == pytest.approx(7 / 8)  # not NiAl
    assert charges.neutral_and_balanced == pytest.approx(5 / 8)
    assert figures.cdvae_valid == pytest.approx(6 / 8)
    assert figures.valid_unique_novel == pytest.approx(2 / 8)  # Fe, KCl
    assert figures.recovery is not None
    assert (figures.recovery.held_out, figures.recovery.found) == (3, 2)
    assert figures.recovery.share == pytest.approx(2 / 3)
    assert figures.chemical_systems == 6 and figures.systems_covered == pytest.approx(2 / 4)
    assert figures.elements["Na"] == (4 / 8, 1 / 4) and figures.elements["Ca"] == (0, 1 / 4)
    assert figures.arities == {1: (1 / 8, 0), 2: (6 / 8, 1), 3: (1 / 8, 0)}
    expected = jensenshannon([1, 6, 1], [0, 4, 0], 2)
    assert figures.arity_distance == pytest.approx(expected)


def test_known_formulas_measured_against_themselves() -> None:
    known = list(read_known_formulas()["formula"])
    found = evaluate(known, holdout=known[:100]).compositions
    assert found.unique == 1 and found.novel == 0 and found.valid_unique_novel == 0
    assert found.element_distance == pytest.approx(0, abs=1e-6) and found.arity_distance == pytest.approx(0, abs=1e-6)
    assert found.systems_covered == 1 and found.recovery is not None and found.recovery.share == 1
    assert found.n_reference == len(known) and f"{len(known):,}" in found.reference


def test_formulas_that_are_equal_count_once_whatever_their_form() -> None:
    found = evaluate(["Ca(OH)2", "CaH2O2", "O2H2Ca", "Ca2O4H4", "Ca0.5OH"]).compositions
    assert found.distinct == 1
    found = evaluate(["La0.825Sr0.175MnO3", "Sr0.175La0.825O3Mn", "La1.65Sr0.35Mn2O6", "La0.826Sr0.174MnO3"])
    assert found.compositions.distinct == 2 and found.compositions.not_integer == 0
    found = evaluate(["Na0.31234Cl", "NaCl"])
    assert "1 with amounts of more than three decimals" in str(found)


@given(st.lists(st.dictionaries(st.sampled_from(["Na", "Cl", "O", "D"]), st.integers(1, 6), min_size=1), min_size=1))
def test_distinct_formulas_are_those_of_pymatgen(compositions: list[dict[str, int]]) -> None:
    formulas = ["".join(f"{symbol}{n}" for symbol, n in amounts.items()) for amounts in compositions]
    expected = {Composition(formula.replace("D", "H")).reduced_formula for formula in formulas}
    # pymatgen reduces an element to its molecule
    batch = collect_materials(formulas).compositions
    assert len(set(composition_keys(batch).tolist())) == len(expected)


def test_keys_are_equal_for_equal_fractions_only() -> None:
    batch = CompositionBatch.from_formulas(["Na0.31234Cl", "ClNa0.31234", "Na0.31236Cl", "K0.31234Cl", "NaCl"])
    keys = composition_keys(batch).tolist()
    assert keys[0] == keys[1] and len(set(keys)) == 4


def test_jensen_shannon_distance_in_closed_form() -> None:
    one, other = torch.tensor([1, 0]), torch.tensor([0, 7])
    assert jensen_shannon_distance(one, other) == 1
    assert jensen_shannon_distance(one, one * 5) == 0
    half = math.sqrt(1.5 - 0.75 * math.log2(3))  # of (1, 0) and (1/2, 1/2)
    assert jensen_shannon_distance(one, torch.tensor([0.5, 0.5])) == pytest.approx(half)
    for wrong in (torch.zeros(2), torch.tensor([1.0, -1.0]), torch.tensor([1.0, math.nan])):
        with pytest.raises(ValueError, match="at least 0, not all 0"):
            jensen_shannon_distance(one, wrong)
    with pytest.raises(ValueError, match="expected the same"):
        jensen_shannon_distance(one, torch.ones(3))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=8))
def test_jensen_shannon_distance_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    counts = torch.tensor([[a + (i == 0), b + (i == 0)] for i, (a, b) in enumerate(pairs)])
    expected = jensenshannon(*counts.double().numpy().T, 2)
    found = jensen_shannon_distance(counts[:, 0], counts[:, 1])
    assert found == pytest.approx(float(np.nan_to_num(expected)), abs=1e-6)
    assert found == jensen_shannon_distance(counts[:, 1], counts[:, 0])


def test_most_common_systems() -> None:
    batch = CompositionBatch.from_formulas(["SrTiO3", "TiSrO2", "NaCl", "Sr2TiO4", "Na2Cl2", "CaO"])
    assert most_common_systems(batch, 2) == [("O-Sr-Ti", 3), ("Cl-Na", 2)]


# Structures


def close_pair(distance: float) -> Structure:
    return Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [distance / 4, 0, 0]])


def test_structures_with_known_figures() -> None:
    salt = rocksalt("Na", "Cl", 5.6)
    supercell = salt.copy()
    supercell.make_supercell(2)
    disordered = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    flat = Structure(Lattice.orthorhombic(1, 0.5, 0.19), ["Na"], [[0, 0, 0]])
    caesium = Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    distorted = Structure(Lattice.from_parameters(4, 5, 6, 80, 95, 101), ["Na", "Cl"], [[0, 0, 0], [0.41, 0.47, 0.55]])
    structures = [salt, supercell, disordered, flat, close_pair(0.4), caesium, rocksalt("Ni", "Al", 5), distorted]
    found = evaluate([*structures, "KCl"], reference=[rocksalt("Na", "Cl", 5.5), "KCl"], holdout=[salt, caesium, salt])
    figures = found.structures
    assert found.compositions.n == 9 and figures is not None
    assert (figures.n, figures.not_measured, figures.compared) == (7, 1, 5)
    assert figures.valid == pytest.approx(5 / 7)
    assert figures.valid_with_composition == pytest.approx(5 / 7)  # NiAl is an alloy
    assert figures.unique == pytest.approx(4 / 5) and figures.novel == pytest.approx(3 / 4)
    assert figures.reference == "the 1 structures of the reference"
    assert figures.space_groups == {"225 Fm-3m": 3, "1 P1": 1, "221 Pm-3m": 1} or figures.p1 == 0
    assert figures.closest_distance is not None
    assert figures.closest_distance[1] == pytest.approx(2.8)
    assert figures.recovery is not None
    assert (figures.recovery.held_out, figures.recovery.found) == (2, 2)
    assert figures.relaxed is None


def test_validity_as_cdvae_defines_it() -> None:
    for distance, valid in ((0.49, 0), (0.51, 1)):
        figures = evaluate([close_pair(distance)]).structures
        assert figures is not None and figures.valid == figures.valid_with_composition == valid
    assert figures is not None
    lonely = Structure(Lattice.cubic(0.47), ["Na"], [[0, 0, 0]])  # its own images do not count, its volume does
    tiny = Structure(Lattice.cubic(0.46), ["Na"], [[0, 0, 0]])
    for structure, valid in ((lonely, 1), (tiny, 0)):
        figures = evaluate([structure]).structures
        assert figures is not None and figures.valid == valid


@given(st.integers(0, 1000), st.integers(1, 6))
def test_closest_distances_are_those_of_all_images(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    lattice = Lattice.from_parameters(*generator.uniform(2, 6, 3), *generator.uniform(60, 115, 3))
    structure = Structure(lattice, ["Na"] * n, generator.uniform(0, 1, (n, 3)))
    shifts = np.array(np.meshgrid(*[range(-3, 4)] * 3)).reshape(3, -1).T
    images = (structure.frac_coords[:, None] + shifts).reshape(-1, 3) @ lattice.matrix
    owners = np.repeat(np.arange(n), len(shifts))
    distances = np.linalg.norm(structure.cart_coords[:, None] - images[None], axis=2)
    same = np.arange(n)[:, None] == owners[None]
    expected_between = distances[~same].min() if n > 1 else math.inf
    expected = distances[distances > 1e-6].min()
    between, closest = closest_distances(structure)
    assert between == pytest.approx(expected_between) and closest == pytest.approx(expected)


def test_embedded_structures_are_not_novel() -> None:
    held = list(read_reference_structures().values())[500:512]
    figures = evaluate([entry.structure for entry in held] + [perovskite("Cs", "Fr", "I", 7)]).structures
    assert figures is not None and figures.compared == 13
    assert figures.novel == pytest.approx(1 / 13) and "embedded" in figures.reference


def test_another_polymorph_of_an_embedded_composition_is_novel_as_the_definition_says() -> None:
    diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
    pyrite = Structure.from_spacegroup(
        "Pa-3", Lattice.cubic(5.42), ["Fe", "S"], [[0, 0, 0], [0.385, 0.385, 0.385]]
    )  # fmt: skip
    held = read_reference_structures()
    assert "Si" in held and "FeS2" not in held
    found = evaluate([diamond, held["Si"].structure, pyrite])
    assert found.structures is not None and found.structures.novel == pytest.approx(2 / 3)
    definition = found.as_dict()["definitions"]["novel structures"]
    assert f"one relaxed structure for each of {len(held):,} compositions" in definition
    assert "another polymorph of a known compound (diamond Si) counts as novel" in definition


def test_relaxation_and_distance_to_the_hull(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogates.structure_funnel, "CHGNetPotential", Compounds)
    found = evaluate([rocksalt("Na", "Cl", 5.4), rocksalt("Mg", "O", 5.4), close_pair(0.3)], relax=True).structures
    assert found is not None and found.relaxed is not None
    assert found.relaxed.converged == pytest.approx(2 / 3) and 0 < found.relaxed.near_hull <= 2 / 3
    assert "not DFT" in found.relaxed.source and "prototype library" in found.relaxed.source
    with pytest.raises(ValueError, match="relax: there is no structure"):
        evaluate(["NaCl"], relax=True)


def test_structures_of_which_none_can_be_measured() -> None:
    disordered = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    found = evaluate([disordered])
    assert found.structures is None and found.compositions.n == 1


# The whole


def test_an_evaluation_is_a_frozen_value_that_can_be_printed_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agent.evaluate is evaluate and agent.Evaluation is Evaluation
    found = evaluate(["NaCl", "D2O", "Fe3+", rocksalt("Mg", "O", 4.2)], holdout=["NaCl"])
    with pytest.raises(FrozenInstanceError):
        found.given = 3  # type: ignore[misc]
    text = str(found)
    for part in (
        "3 of 4", "icsd24", "smact14", "icsd16", "pymatgen_sp", "known formulas embedded in MatSmith", "Jensen-Shannon",
        "1 could not be read", "material 3: 'Fe3+'", "1 with deuterium", "225 Fm-3m", "those found again: 1 of 1",
    ):  # fmt: skip
        assert part in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 118
    values: dict[str, Any] = json.loads(json.dumps(found.as_dict()))
    assert values["compositions"]["recovery"] == {"held_out": 1, "found": 1, "share": 1.0}
    assert values["refused"]["count"] == 1 and values["refused"]["first"][0]["what"] == "Fe3+"
    assert values["structures"]["closest_distance"][0] == pytest.approx(2.1)
    assert {"novel", "neutral", "neutral and balanced", "icsd16", "arity distance"} <= set(values["definitions"])


def test_nothing_to_evaluate() -> None:
    with pytest.raises(ValueError, match="materials: no materials"):
        evaluate([])
    with pytest.raises(ValueError, match=r"materials: nothing could be read: material 1: 'x' .*\(and 1 more\)"):
        evaluate(["x", "y"])
    with pytest.raises(ValueError, match="holdout: nothing could be read"):
        evaluate(["NaCl"], holdout=["x"])
    with pytest.raises(ValueError, match="materials: 'NaCl' is one text"):
        evaluate("NaCl")
