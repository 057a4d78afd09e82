"""The same batches and results however often a computation is interrupted; relaxations are chosen by the hull."""

import contextlib
import hashlib
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Lattice, Structure

import surrogates.reference_build
from surrogates.prototype_library import prototype_library
from surrogates.reference_build import build_reference, choose_relaxations, decode_structure, encode_structure
from surrogates.reference_plan import ReferenceOptions, compound_tasks, element_tasks
from surrogates.reference_store import StoredResult

OPTIONS = ReferenceOptions(
    ("Na", "Mg", "Al", "Cl", "O"), known_ternaries=0, other_ternaries=3, relaxations=25, relaxed_per_formula=2
)
OF_A_BATCH = 24
STAGES = ("element_scan", "element_relaxation", "scan", "relaxation")
STRUCTURE = '{"lattice":[[3,0,0],[0,3,0],[0,0,3]],"species":["Na"],"positions":[[0,0,0]]}'


def number(*parts):
    """A number in [0, 1) without rhyme or reason."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


def fake_batch(stage, tasks, volumes, options):
    """Results that depend on the whole batch, as the last digits of real ones do, and on the volumes."""
    for place, (formula, name) in enumerate(tasks):
        own = number(formula, name)
        failed = own < 0.15 or (volumes is not None and own < 0.25)
        energy = -1 - 4 * own + 1e-6 * number(stage, place, *tasks)
        if volumes is not None:
            energy -= 0.1 + 1e-9 * volumes[place]
        yield StoredResult(
            stage,
            formula,
            name,
            None if failed else energy,
            None if failed else 10 + 10 * number(name, place, *tasks),
            0 if volumes is None else int(100 * own),
            "no minimum" if failed else None,
            None if failed or volumes is None else STRUCTURE,
            225,
        )


class Synchronous(Executor):
    """Computes in `submit`; interrupted before the calls with the given numbers."""

    def __init__(self, interruptions=()):
        self.batches = []
        self.interruptions = set(interruptions)
        self.calls = 0

    def submit(self, fn, /, stage, tasks, volumes, options):
        self.calls += 1
        if self.calls - 1 in self.interruptions:
            raise KeyboardInterrupt
        self.batches.append((stage, tuple(tasks)))
        future = Future()
        try:
            future.set_result(fn(stage, tasks, volumes, options))
        except Exception as error:
            future.set_exception(error)
        return future


def use_fake(monkeypatch):
    """Put the fake in the place of CHGNet, and plan once what is computed often."""
    monkeypatch.setattr(surrogates.reference_build, "compute_batch", lambda *given: list(fake_batch(*given)))
    for plan in (cached_element_tasks, cached_compound_tasks):
        monkeypatch.setattr(surrogates.reference_build, plan.__wrapped__.__name__, plan)


cached_element_tasks, cached_compound_tasks = lru_cache(element_tasks), lru_cache(compound_tasks)


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    use_fake(monkeypatch)


def outcome(folder, options=OPTIONS, executor=None, workers=2, progress=None):
    store = build_reference(folder, options, executor or Synchronous(), workers, progress)
    try:
        return [store.results(stage) for stage in STAGES]
    finally:
        store.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Results and batches of a run without an interruption."""
    executor = Synchronous()
    with pytest.MonkeyPatch.context() as patch:
        use_fake(patch)
        found = outcome(tmp_path_factory.mktemp("undisturbed"), executor=executor)
    return found, executor.batches


def test_every_task_has_a_result(undisturbed):
    (element_scans, element_relaxations, scans, relaxations), batches = undisturbed
    assert {(r.formula, r.prototype) for r in element_scans} == set(element_tasks(OPTIONS))
    assert [(r.formula, r.prototype) for r in scans] == compound_tasks(OPTIONS)
    assert len(relaxations) == OPTIONS.relaxations
    computed = Counter((stage, task) for stage, tasks in batches for task in tasks)
    assert set(computed.values()) == {1}
    assert len(computed) == sum(map(len, (element_scans, element_relaxations, scans, relaxations)))
    assert [stage for stage, _ in batches] == sorted((stage for stage, _ in batches), key=STAGES.index)


def test_elements_are_relaxed_in_their_four_best_structures(undisturbed):
    (element_scans, element_relaxations, _, _), _ = undisturbed
    for symbol in OPTIONS.elements:
        ranked = sorted((r.energy, r.prototype) for r in element_scans if r.formula == symbol and r.energy is not None)
        assert {r.prototype for r in element_relaxations if r.formula == symbol} == {name for _, name in ranked[:4]}


def test_relaxations_start_at_the_volume_of_the_scan(tmp_path, monkeypatch):
    given_volumes = {}

    def record(stage, tasks, volumes, options):
        if volumes is not None:
            given_volumes.update(zip(tasks, volumes, strict=True))
        return list(fake_batch(stage, tasks, volumes, options))

    monkeypatch.setattr(surrogates.reference_build, "compute_batch", record)
    element_scans, element_relaxations, scans, relaxations = outcome(tmp_path)
    scanned = {(r.formula, r.prototype): r.volume for r in (*element_scans, *scans)}
    assert len(given_volumes) == len(element_relaxations) + len(relaxations)
    for task, volume in given_volumes.items():
        assert volume == scanned[task]


def test_finished_computation_is_not_repeated(tmp_path, undisturbed):
    assert outcome(tmp_path) == undisturbed[0]
    again = Synchronous()
    assert outcome(tmp_path, executor=again) == undisturbed[0]
    assert again.batches == []


@settings(max_examples=15)
@given(st.lists(st.integers(0, 30), max_size=4), st.integers(1, 4))
def test_interruptions_anywhere_change_neither_batches_nor_results(undisturbed, interruptions, workers):
    results, batches = undisturbed
    with tempfile.TemporaryDirectory() as folder:
        for point in interruptions:
            executor = Synchronous({point})
            with contextlib.suppress(KeyboardInterrupt):
                outcome(Path(folder), executor=executor, workers=workers)
            assert set(executor.batches) <= set(batches)
        executor = Synchronous()
        assert outcome(Path(folder), executor=executor, workers=workers) == results
        assert set(executor.batches) <= set(batches)


def test_interruption_loses_only_what_was_under_way(tmp_path):
    workers = 2
    first = Synchronous({7})
    with pytest.raises(KeyboardInterrupt):
        outcome(tmp_path, executor=first, workers=workers)
    second = Synchronous()
    outcome(tmp_path, executor=second, workers=workers)
    assert len(set(first.batches) & set(second.batches)) <= 2 * workers


def test_order_in_which_batches_end_does_not_matter(tmp_path, undisturbed, monkeypatch):
    generator, lock = np.random.default_rng(0), threading.Lock()

    def slow(*given_):
        with lock:
            pause = 0.02 * generator.random()
        time.sleep(pause)
        return list(fake_batch(*given_))

    monkeypatch.setattr(surrogates.reference_build, "compute_batch", slow)
    with ThreadPoolExecutor(4) as executor:
        assert outcome(tmp_path, executor=executor, workers=4) == undisturbed[0]


def test_number_of_batches_under_way_is_bounded(tmp_path, monkeypatch):
    under_way, most, lock = [], [], threading.Lock()

    class Counting(ThreadPoolExecutor):
        def submit(self, *given_):
            future = super().submit(*given_)
            with lock:
                under_way.append(future)
                most.append(sum(not entry.done() for entry in under_way))
            return future

    with Counting(2) as executor:
        outcome(tmp_path, executor=executor, workers=2)
    assert max(most) <= 4


def test_progress_counts_results_and_failures(tmp_path):
    seen = []
    results = outcome(tmp_path, progress=lambda *given_: seen.append(given_))
    for stage, found in zip(STAGES, results, strict=True):
        finished = [entry[1] for entry in seen if entry[0] == stage]
        assert finished == sorted(finished)
        failures = sum(result.failure is not None for result in found)
        assert [entry for entry in seen if entry[0] == stage][-1] == (stage, len(found), len(found), failures)


def test_progress_after_an_interruption_counts_what_was_there(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        outcome(tmp_path, executor=Synchronous({4}), workers=1)
    seen = []
    results = outcome(tmp_path, progress=lambda *given_: seen.append(given_))
    assert seen[0][1] > OF_A_BATCH
    assert seen[-1][1] == seen[-1][2] == len(results[-1])


def test_other_options_are_refused_and_nothing_is_computed(tmp_path):
    outcome(tmp_path)
    executor = Synchronous()
    with pytest.raises(ValueError, match=r"reference.db: was started with another fmax \(there 0.08, now 0.1\)"):
        outcome(tmp_path, replace(OPTIONS, fmax=0.1), executor)
    assert executor.calls == 0


def test_element_without_a_structure_is_named(tmp_path, monkeypatch):
    def failing(stage, tasks, volumes, options):
        return [
            replace(r, energy=None, volume=None, failure="no") if r.formula in ("Al", "O") else r
            for r in fake_batch(stage, tasks, volumes, options)
        ]

    monkeypatch.setattr(surrogates.reference_build, "compute_batch", failing)
    with pytest.raises(ValueError, match=r"^elements: no structure of Al, O could be relaxed") as caught:
        outcome(tmp_path)
    assert "\n" not in str(caught.value)


def test_exception_of_a_batch_ends_the_computation_and_keeps_what_is_stored(tmp_path, monkeypatch, undisturbed):
    calls = []

    def failing(*given_):
        calls.append(1)
        if len(calls) == 9:
            raise OSError("disk full")
        return list(fake_batch(*given_))

    monkeypatch.setattr(surrogates.reference_build, "compute_batch", failing)
    with pytest.raises(OSError, match="disk full"):
        outcome(tmp_path, workers=1)
    executor = Synchronous()
    assert outcome(tmp_path, executor=executor) == undisturbed[0]
    assert len(executor.batches) < len(undisturbed[1])


def scan(formula, prototype, energy):
    return StoredResult("scan", formula, prototype, energy, 20.0, 0, None, None, 225)


REFERENCES = {"Na": -1.3, "Cl": -1.8, "O": -4.9}
TYPES = {
    "AB_cF8_225_a_b NaCl": True,
    "AB_cP2_221_b_a CsCl": True,
    "AB_hP4_186_b_b ZnS": False,
    "A2B_cF24_227_c_a SiO2": True,
    "A2B_tP6_136_f_a TiO2": False,
    "AB2_cP12_205_a_c FeS2": False,
}
"""Structure types, and whether symmetry leaves only the volume to relax."""
FORMULAS = ("NaCl", "Na2O", "NaO", "NaO3", "NaO2", "Cl2O", "ClO2", "NaCl3", "NaClO", "NaClO3", "Na3ClO")


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(0, 30))
def test_relaxations_are_the_best_of_each_formula_nearest_to_the_hull_first(seed, per_formula, count):
    generator = np.random.default_rng(seed)
    scans = []
    for formula in FORMULAS:
        composition = Composition(formula).fractional_composition
        apart = sum(share * REFERENCES[element.symbol] for element, share in composition.items())
        energies = apart + generator.normal(-0.3, 0.5, generator.integers(1, 6))
        names = generator.permutation(list(TYPES))[: len(energies)].tolist()
        scans += [scan(formula, name, float(energy)) for name, energy in zip(names, energies, strict=True)]
    options = replace(OPTIONS, relaxations=count, relaxed_per_formula=per_formula)
    chosen = choose_relaxations(scans, REFERENCES, options)

    entries = [PDEntry(Composition(symbol), energy) for symbol, energy in REFERENCES.items()]
    entries += [PDEntry(Composition(r.formula), r.energy * Composition(r.formula).num_atoms) for r in scans]
    diagram = PhaseDiagram(entries)
    by_formula = defaultdict(list)
    for entry in sorted(scans, key=lambda entry: entry.energy):
        by_formula[entry.formula].append(entry)
    expected = []
    for formula, ranked in by_formula.items():
        hull = diagram.get_hull_energy_per_atom(Composition(formula))
        for entry in ranked[:per_formula]:
            expected.append((TYPES[entry.prototype], round(entry.energy - hull, 6), formula, entry.prototype))
    assert [(r.formula, r.prototype) for r in chosen] == [entry[2:] for entry in sorted(expected)[:count]]
    assert max(Counter(r.formula for r in chosen).values(), default=0) <= per_formula


def test_types_fixed_by_symmetry_are_known():
    assert {name: prototype_library()[name].fixed_by_symmetry for name in TYPES} == TYPES


def test_structures_of_equal_energy_are_relaxed_once():
    energies = dict(zip(sorted(TYPES), (-3.00005, -3.0, -2.9, -2.0), strict=False))
    scans = [scan("NaCl", name, energy) for name, energy in energies.items()]
    chosen = choose_relaxations(scans, REFERENCES, OPTIONS)
    assert sorted(r.energy for r in chosen) == [-3.00005, -2.9]


def test_scans_without_energy_are_not_relaxed():
    assert (
        choose_relaxations([replace(scan("NaCl", min(TYPES), 0.0), energy=None, failure="no")], REFERENCES, OPTIONS)
        == []
    )
    assert choose_relaxations([], REFERENCES, OPTIONS) == []
    assert choose_relaxations([scan("NaCl", min(TYPES), -3.0)], REFERENCES, replace(OPTIONS, relaxations=0)) == []


@given(st.integers(0, 1000), st.integers(1, 12))
def test_structures_are_written_and_read_alike(seed, atoms):
    generator = np.random.default_rng(seed)
    lattice = Lattice(5 * np.eye(3) + generator.normal(0, 0.5, (3, 3)))
    structure = Structure(
        lattice, generator.choice(["Na", "No", "Cl", "N"], atoms).tolist(), generator.random((atoms, 3))
    )
    text = encode_structure(structure)
    read = decode_structure(text)
    assert "\n" not in text and " " not in text
    assert [site.specie.symbol for site in read] == [site.specie.symbol for site in structure]
    np.testing.assert_allclose(read.lattice.matrix, structure.lattice.matrix, atol=6e-5)
    np.testing.assert_allclose(read.frac_coords, structure.frac_coords, atol=6e-6)
    assert encode_structure(read) == text


@pytest.mark.slow
def test_real_batches_are_the_same_to_the_bit_after_other_batches(monkeypatch):
    monkeypatch.undo()
    small = ReferenceOptions(("Na", "Cl"), 0, 0, max_steps=8)
    tasks = compound_tasks(small)[:4]
    compute = surrogates.reference_build.compute_batch
    first = compute("scan", tasks, None, small)
    volumes = [result.volume for result in first]
    relaxed = compute("relaxation", tasks[:3], volumes[:3], small)
    compute("scan", element_tasks(small)[:5], None, small)
    assert compute("scan", tasks, None, small) == first
    assert compute("relaxation", tasks[:3], volumes[:3], small) == relaxed
    assert all(np.isfinite(result.energy) for result in first)
