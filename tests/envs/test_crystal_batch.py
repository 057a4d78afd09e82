"""Crystals as text and tensors: round trips, structures against pymatgen, texts that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Lattice

from envs.crystal_batch import CrystalBatch, lattice_vectors, position_tables
from envs.formula import CompositionBatch
from envs.wyckoff import N_SPACE_GROUPS, all_space_groups, space_group
from tests.envs.crystals import default_crystal_space, found_group, has_operations, known_structures

TEXTS = {
    "rutile": "TiO2 | 136 | Ti a | O f 0.305 | 4.594 4.594 2.959 90 90 90",
    "anatase": "TiO2 | 141 | Ti b | O e 0.1669 | 3.785 3.785 9.514 90 90 90",
    "perovskite": "SrTiO3 | 221 | Sr a | Ti b | O c | 3.905 3.905 3.905 90 90 90",
    "rocksalt": "NaCl | 225 | Na a | Cl b | 5.64 5.64 5.64 90 90 90",
    "fluorite": "CaF2 | 225 | Ca a | F c | 5.463 5.463 5.463 90 90 90",
    "spinel": "MgAl2O4 | 227 | Mg a | Al d | O e 0.2624 | 8.083 8.083 8.083 90 90 90",
    "wurtzite": "ZnS | 186 | Zn b 0 | S b 0.3748 | 3.82 3.82 6.26 90 90 120",
    "corundum": "Al2O3 | 167 | Al c 0.3522 | O e 0.3063 | 4.759 4.759 12.991 90 90 120",
}
TRICLINIC = (
    "Na2ClO | 1 | Na a 0.1 0.2 0.3 | Na a 0.9 0.5 0.75 | Cl a 0.5 0.05 0.6 | O a 0.25 0.65 0 | 4 5 6 80 95 105.5"
)


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_known_crystals_make_the_known_crystals(name: str) -> None:
    batch, known = CrystalBatch.from_texts([TEXTS[name]]), known_structures()[name]
    for primitive in (True, False):
        structure = batch.structures(primitive)[0]
        assert StructureMatcher(ltol=0.01, stol=0.02, angle_tol=0.5).fit(structure, known)
        assert found_group(structure) == int(batch.space_group[0])
    assert batch.structures(primitive=False)[0].volume == pytest.approx(known.volume)
    assert int(batch.n_atoms[0]) == len(batch.structures()[0])


def test_a_batch_is_a_sequence_of_its_texts() -> None:
    texts = [*TEXTS.values(), TRICLINIC]
    batch = CrystalBatch.from_texts(texts)
    assert list(batch) == texts
    assert len(batch) == len(texts)
    assert batch[2] == texts[2]
    assert batch[-1] == texts[-1]
    assert list(batch[2:5]) == texts[2:5]
    assert list(batch[::-1]) == texts[::-1]
    assert list(batch.rows(torch.tensor([3, 0]))) == [texts[3], texts[0]]
    assert list(batch.rows(torch.arange(len(texts)) % 2 == 1)) == texts[1::2]
    assert CrystalBatch.from_texts(batch) is batch
    assert isinstance(batch.compositions, CompositionBatch)
    assert list(batch.compositions)[:3] == ["TiO2", "TiO2", "SrTiO3"]


def test_no_texts_at_all() -> None:
    batch = CrystalBatch.from_texts([])
    assert len(batch) == 0
    assert list(batch) == []
    assert batch.structures() == []


def test_spaces_and_order_of_the_formula_do_not_matter() -> None:
    loose = "O2Ti|136|Ti a|O  f  +.305 |4.594  4.594 2.959 90.0 90 90"
    assert list(CrystalBatch.from_texts([loose])) == [TEXTS["rutile"]]
    assert list(CrystalBatch.from_texts([TEXTS["rutile"].replace("TiO2 ", "Ti2O4 ")])) == [TEXTS["rutile"]]


def test_texts_of_samples_are_read_as_they_were() -> None:
    space = default_crystal_space()
    batch = space.materials(space.sample_uniform_policy(80, torch.Generator().manual_seed(1)))
    again = CrystalBatch.from_texts(batch.texts)
    assert again.texts == batch.texts
    assert again.space_group.equal(batch.space_group)
    assert again.n_atoms.equal(batch.n_atoms)
    width = again.element.shape[1]
    assert again.element.equal(batch.element[:, :width])
    taken = again.element > 0
    assert again.position[taken].equal(batch.position[:, :width][taken])
    assert again.free[taken].allclose(batch.free[:, :width][taken], atol=6e-6)
    assert again.lattice.det().allclose(batch.lattice.det(), rtol=1e-4)


def test_structures_have_the_stated_composition_cell_and_symmetry() -> None:
    space = default_crystal_space()
    batch = space.materials(space.sample_uniform_policy(24, torch.Generator().manual_seed(2)))
    for row, (small, large) in enumerate(zip(batch.structures(), batch.structures(primitive=False), strict=True)):
        group = space_group(int(batch.space_group[row]))
        assert len(small) == int(batch.n_atoms[row])
        assert len(large) == len(small) * group.n_centring
        assert large.volume == pytest.approx(small.volume * group.n_centring)
        assert small.composition.reduced_formula == Composition(batch.compositions[row]).reduced_formula
        assert has_operations(large, group.number)
        assert ((small.frac_coords >= 0) & (small.frac_coords <= 1)).all()


def test_oxidation_states_stand_on_the_sites_where_they_are_known() -> None:
    batch = CrystalBatch.from_texts([TEXTS["rutile"]])
    assert [str(s) for s in batch.structures()[0].species] == ["Ti"] * 2 + ["O"] * 4
    charged = CrystalBatch(
        batch.compositions,
        batch.space_group,
        batch.element,
        batch.position,
        batch.free,
        batch.lattice,
        torch.tensor([[4, -2]]),
    )
    assert [str(s) for s in charged.structures()[0].species] == ["Ti4+"] * 2 + ["O2-"] * 4
    assert charged.structures()[0].charge == 0
    assert charged.rows(torch.tensor([0])).charge is not None
    assert list(charged) == list(batch)


@given(
    st.tuples(*[st.floats(0.5, 50)] * 3),
    st.tuples(*[st.floats(50, 130)] * 3).filter(lambda a: sum(a) < 350 and 2 * max(a) < sum(a) - 5),
)
def test_lattice_vectors_are_those_of_pymatgen(
    lengths: tuple[float, float, float], angles: tuple[float, float, float]
) -> None:
    cell = lattice_vectors(torch.tensor([*lengths, *angles], dtype=torch.float64)).numpy()
    expected = Lattice.from_parameters(*lengths, *angles)
    assert Lattice(cell).parameters == pytest.approx(expected.parameters, rel=1e-6)
    assert np.linalg.det(cell) == pytest.approx(expected.volume, rel=1e-6)
    assert cell[0, 1] == cell[0, 2] == cell[1, 2] == 0


def test_position_tables_hold_what_the_groups_say() -> None:
    tables = position_tables()
    assert len(tables.primitive_multiplicity) == 1731
    free = torch.tensor([0.123, 0.456, 0.789], dtype=torch.float64)
    for group in all_space_groups()[::7]:
        first = int(tables.first[group.number - 1])
        assert int(tables.count[group.number - 1]) == len(group.positions)
        assert tables.primitive_basis[group.number - 1].equal(group.primitive_basis)
        for flat, position in enumerate(group.positions, start=first):
            m = position.primitive_multiplicity
            assert int(tables.primitive_multiplicity[flat]) == m
            assert int(tables.degrees_of_freedom[flat]) == position.degrees_of_freedom
            assert tuple(tables.free_axes[flat].tolist()) == position.free_axes
            points = tables.maps[flat, :, :, :3] @ free + tables.maps[flat, :, :, 3]
            assert points[:m].allclose(position.orbit(free, primitive=True))
            assert points[m:].allclose(points[:1].expand(48 - m, 3))
    assert int(tables.count.sum()) == 1731
    assert len(tables.first) == N_SPACE_GROUPS


BAD_TEXTS = {
    "": "fewer than four parts",
    "TiO2": "fewer than four parts",
    "TiO2 | 136 | 4 4 3 90 90 90": "fewer than four parts",
    "TiO2 | 231 | Ti a | 4 4 3 90 90 90": "space group '231' is not a number from 1 to 230",
    "TiO2 | P4_2/mnm | Ti a | 4 4 3 90 90 90": "space group 'P4_2/mnm' is not a number",
    "TiO2 | 136 | Tx a | O f 0.3 | 4 4 3 90 90 90": "'Tx' is not a chemical element",
    "TiO2 | 136 | Ti z | O f 0.3 | 4 4 3 90 90 90": "'z' is not a position of P4_2/mnm",
    "TiO2 | 136 | Ti ab | O f 0.3 | 4 4 3 90 90 90": "'ab' is not a position of P4_2/mnm",
    "TiO2 | 136 | Ti | O f 0.3 | 4 4 3 90 90 90": "'' is not a position of P4_2/mnm",
    "TiO2 | 136 | Ti a | | 4 4 3 90 90 90": "'' is not a chemical element",
    "TiO2 | 136 | Ti a | O f | 4 4 3 90 90 90": "position f needs 1 free parameters",
    "TiO2 | 136 | Ti a 0.1 | O f 0.3 | 4 4 3 90 90 90": "position a needs 0 free parameters",
    "TiO2 | 136 | Ti a | O f x | 4 4 3 90 90 90": "position f needs 1 free parameters",
    "TiO2 | 136 | Ti a | O f nan | 4 4 3 90 90 90": "position f needs 1 free parameters",
    "TiO2 | 136 | Ti a | O f 0.3 | 4 4 3 90 90": "is not six positive cell parameters",
    "TiO2 | 136 | Ti a | O f 0.3 | 4 4 -3 90 90 90": "is not six positive cell parameters",
    "TiO2 | 136 | Ti a | O f 0.3 | 4 4 0 90 90 90": "is not six positive cell parameters",
    "TiO2 | 136 | Ti a | O f 0.3 | 4 5 3 90 90 90": "is no tetragonal cell",
    "TiO2 | 136 | Ti a | O f 0.3 | 4 4 3 90 91 90": "is no tetragonal cell",
    "NaCl | 225 | Na a | Cl b | 5.6 5.6 5.7 90 90 90": "is no cubic cell",
    "ZnS | 186 | Zn b 0 | S b 0.37 | 3.8 3.8 6.2 90 90 90": "is no hexagonal cell",
    "Na2ClO | 1 | Na a 0 0 0 | Na a 0 0 0.5 | Cl a 0 0.5 0 | O a 0.5 0 0 | 4 5 6 30 30 120": "no cell with a volume",
    "Na2ClO | 1 | Na a 0 0 0 | Na a 0 0 0.5 | Cl a 0 0.5 0 | O a 0.5 0 0 | 4 5 6 90 90 180": "no cell with a volume",
    "TiO3 | 136 | Ti a | O f 0.3 | 4 4 3 90 90 90": "the positions make TiO2, not TiO3",
    "Ti | 136 | Ti a | O f 0.3 | 4 4 3 90 90 90": "the positions make TiO2, not Ti",
}


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_what_is_wrong_with_a_text_is_named(text: str) -> None:
    with pytest.raises(ValueError) as error:
        CrystalBatch.from_texts([TEXTS["rocksalt"], text])
    message = str(error.value)
    assert message.startswith(f"crystal {text!r}: ")
    assert BAD_TEXTS[text] in message
    assert "expected a text such as" in message
    assert "\n" not in message


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"crystal 5: fewer than four parts"):
        CrystalBatch.from_texts([5])  # type: ignore[list-item]


def test_a_formula_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="chemical"):
        CrystalBatch.from_texts(["Xy2 | 136 | Ti a | O f 0.3 | 4 4 3 90 90 90"])
