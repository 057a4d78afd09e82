import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

import surrogates.convex_hull
from envs.formula import CompositionBatch, parse_formula, reduced_formula
from surrogates.convex_hull import ConvexHull


def random_compositions(n, elements, sizes, generator, max_count=6):
    """Random compositions over a few atomic numbers, unique by reduced formula."""
    pool, width = torch.tensor(elements), max(sizes)
    numbers, amounts = torch.zeros(n, width, dtype=torch.long), torch.zeros(n, width)
    for row in range(n):
        size = sizes[int(torch.randint(len(sizes), (1,), generator=generator))]
        numbers[row, :size] = pool[torch.randperm(len(pool), generator=generator)[:size]]
        amounts[row, :size] = torch.randint(1, max_count + 1, (size,), generator=generator).float()
    batch = CompositionBatch(numbers, amounts)
    first = {reduced_formula(formula): row for row, formula in enumerate(batch)}
    return batch.rows(torch.tensor(sorted(first.values())))


def random_table(seed, elements, n=60, sizes=(2, 3, 4)):
    generator = torch.Generator().manual_seed(seed)
    materials = random_compositions(n, elements, sizes, generator)
    scale = 1 - materials.fractions.double().square().sum(1)
    noise = torch.randn(len(materials), generator=generator, dtype=torch.float64)
    return materials, scale * (-1 + 0.7 * noise)


def reference_energy(materials, energies, formula, exclude_self=False):
    """Hull energy by pymatgen's PhaseDiagram."""
    target = Composition(parse_formula(formula))
    entries = [PDEntry(Composition({element: 1}), 0) for element in target.chemical_system_set]
    for other, energy in zip(materials, energies.tolist(), strict=True):
        composition = Composition(parse_formula(other))
        if not composition.chemical_system_set <= target.chemical_system_set:
            continue
        if exclude_self and composition.reduced_composition.almost_equals(target.reduced_composition):
            continue
        entries.append(PDEntry(composition, energy * composition.num_atoms))
    return PhaseDiagram(entries).get_hull_energy_per_atom(target)


def assert_agrees(table, energies, queries, exclude_self=False):
    found = ConvexHull(table, energies).energy(queries, exclude_self)
    expected = [reference_energy(table, energies, formula, exclude_self) for formula in queries]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-8, rtol=0)


@pytest.mark.parametrize("exclude_self", [False, True])
@given(seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_hull_is_that_of_pymatgen(seed, exclude_self):
    generator = torch.Generator().manual_seed(seed + 1)
    elements = [3, 8, 16, 26, 22][: 3 + seed % 3]
    table, energies = random_table(seed, elements, sizes=range(2, len(elements) + 1))
    queries = random_compositions(8, elements, range(1, len(elements) + 1), generator)
    both = list(queries) + [table[row] for row in range(0, len(table), 7)]
    assert_agrees(table, energies, CompositionBatch.from_formulas(both), exclude_self)


def test_compounds_hidden_by_the_excluded_one_become_vertices():
    # NaCl puts the others above the hull, so that they are pruned; without it they carry the hull.
    table = CompositionBatch.from_formulas(["NaCl", "Na2Cl", "NaCl2", "Na3Cl"])
    energies = torch.tensor([-3.0, -1.0, -1.2, -0.1], dtype=torch.float64)
    hull = ConvexHull(table, energies)
    assert hull.n_vertices == 1
    assert_agrees(table, energies, table)
    assert_agrees(table, energies, table, exclude_self=True)
    assert float(hull.energy(CompositionBatch.from_formulas(["Na2Cl2"]), exclude_self=True)) == pytest.approx(-1.1)


def test_ties_and_compositions_on_a_tie_line_are_exact():
    table = CompositionBatch.from_formulas(["SrO", "TiO2", "SrTiO3", "Sr2TiO4", "Sr3Ti2O7", "Ti2O3"])
    energies = torch.tensor([-3.0, -3.3, -3.3 * 3 / 5 - 3 * 2 / 5, -3.0857142857142, -3.1, -3.2], dtype=torch.float64)
    queries = CompositionBatch.from_formulas([*table, "Sr4Ti3O10", "Sr3TiO5", "SrTiO3", "Sr2O2", "O2", "TiO", "SrTi"])
    assert_agrees(table, energies, queries)
    assert_agrees(table, energies, queries, exclude_self=True)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_many_degenerate_entries_do_not_cycle(exclude_self):
    # Equal energies per bond: whole families of compositions lie on the same facets.
    elements = [3, 8, 16, 26, 22]
    table, _ = random_table(3, elements, n=200, sizes=(2, 3, 4, 5))
    fractions = table.dense_fractions().double()
    energies = -(fractions[:, 2] * fractions[:, 7]).clamp_max(0.1) - (fractions[:, 7].minimum(fractions[:, 25]))
    queries = random_compositions(30, elements, (3, 4, 5), torch.Generator().manual_seed(1))
    assert_agrees(table, energies, queries, exclude_self)


def test_result_does_not_depend_on_order_size_padding_or_batch():
    table, energies = random_table(5, [3, 8, 16, 26])
    hull = ConvexHull(table, energies)
    queries = ["LiFeO2", "O2FeLi", "Li2Fe2O4", "Li0.5Fe0.5O", "Fe3O4", "O4Fe3"]
    batch = CompositionBatch.from_formulas(queries)
    wide = CompositionBatch.from_formulas([*queries, "LiFeSO4"])[:-1]
    zero = CompositionBatch(torch.tensor([[3, 16, 26, 8]]), torch.tensor([[1.0, 0.0, 1.0, 2.0]]))
    together = hull.energy(batch)
    assert torch.equal(together, hull.energy(wide))
    torch.testing.assert_close(together[:4], together[:1].expand(4), atol=1e-12, rtol=0)
    torch.testing.assert_close(hull.energy(zero), together[:1], atol=1e-12, rtol=0)
    alone = torch.cat([hull.energy(batch.rows(torch.tensor([row]))) for row in range(len(batch))])
    torch.testing.assert_close(alone, together, atol=1e-12, rtol=0)


def test_fractional_amounts_of_single_precision_are_the_same_composition():
    table = CompositionBatch.from_formulas(["La0.3Sr0.7", "LaSr"])
    hull = ConvexHull(table, torch.tensor([-1.0, -0.1]))
    found = hull.energy(CompositionBatch.from_formulas(["La3Sr7", "La0.9Sr2.1"]))
    assert found.tolist() == pytest.approx([-1.0, -1.0], abs=1e-6)
    assert hull.energy(CompositionBatch.from_formulas(["La3Sr7"]), exclude_self=True).item() > -0.1


@pytest.mark.parametrize("exclude_self", [False, True])
def test_more_than_eight_elements_are_solved_too(exclude_self):
    elements = [3, 8, 16, 26, 22, 12, 30, 31, 9, 11]
    table, energies = random_table(6, elements, n=60, sizes=(2, 3, 9))
    queries = random_compositions(2, elements, (9, 10), torch.Generator().manual_seed(2), max_count=3)
    own = [formula for formula in table if len(parse_formula(formula)) == 9][:1]
    hull = ConvexHull(table, energies)
    batch = CompositionBatch.from_formulas([*queries, *own])
    found = hull.energy(batch, exclude_self)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [_linear_programme(table, energies, formula, exclude_self) for formula in batch]
    assert found.tolist() == pytest.approx(expected, abs=1e-8)


def _linear_programme(table, energies, formula, exclude_self):
    from scipy.optimize import linprog

    target = CompositionBatch.from_formulas([formula]).dense_fractions().double()[0]
    columns = torch.cat([torch.eye(103, dtype=torch.float64), table.dense_fractions().double()])
    costs = torch.cat([torch.zeros(103, dtype=torch.float64), energies])
    kept = torch.ones(len(costs), dtype=torch.bool)
    if exclude_self:
        kept[103:] = (columns[103:] - target).abs().amax(1) > 1e-6
    return linprog(costs[kept].numpy(), A_eq=columns[kept].T.numpy(), b_eq=target.numpy(), method="highs").fun


def test_rows_without_a_certificate_are_solved_by_highs(monkeypatch):
    table, energies = random_table(7, [3, 8, 16, 26])
    queries = random_compositions(20, [3, 8, 16, 26], (2, 3, 4), torch.Generator().manual_seed(3))
    hull = ConvexHull(table, energies)
    expected = hull.energy(queries)
    calls = []
    solve = surrogates.convex_hull._solve_with_highs
    monkeypatch.setattr(surrogates.convex_hull, "_MAX_PIVOTS", 1)
    monkeypatch.setattr(surrogates.convex_hull, "_solve_with_highs", lambda *args: calls.append(1) or solve(*args))
    torch.testing.assert_close(hull.energy(queries), expected, atol=1e-8, rtol=0)
    assert len(calls) > 5


def test_empty_tables_and_batches():
    none = CompositionBatch.from_formulas([])
    queries = CompositionBatch.from_formulas(["NaCl", "Na", "LiFePO4"])
    for table, energies in [(none, torch.zeros(0)), (queries, torch.tensor([0.5, 0.0, 0.1]))]:
        hull = ConvexHull(table, energies)
        assert hull.energy(queries).tolist() == [0, 0, 0]
        assert hull.energy(queries, exclude_self=True).tolist() == [0, 0, 0]
        assert hull.energy(none).shape == (0,)


def test_a_batch_is_fast():
    """A generous floor that a loop over rows would miss."""
    import time

    elements = list(range(3, 60))
    generator = torch.Generator().manual_seed(0)
    table, energies = random_table(0, elements, n=3000, sizes=(2, 2, 3))
    hull = ConvexHull(table, energies)
    numbers = torch.stack([torch.tensor(elements)[torch.randperm(57, generator=generator)[:5]] for _ in range(2048)])
    batch = CompositionBatch(numbers, torch.randint(1, 9, (2048, 5), generator=generator).float())
    start = time.process_time()
    hull.energy(batch)
    assert 2048 / (time.process_time() - start) > 2000
