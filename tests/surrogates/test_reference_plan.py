"""What the reference table is made of: complete, charge-neutral, the same wherever it is planned."""

import math
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, product

import pytest
import smact
from pymatgen.core import Composition, Element
from smact.screening import smact_validity

from envs.formula import CompositionBatch, anonymous_formula, parse_formula, reduced_formula
from surrogates.datasets import read_known_formulas
from surrogates.prototype_library import prototype_library
from surrogates.prototypes import decorate
from surrogates.reference_plan import DEFAULT_ELEMENTS, ReferenceOptions, compound_tasks, element_tasks
from surrogates.standard_enthalpies import read_standard_enthalpies

SMALL = ReferenceOptions(("Na", "Ti", "Al", "Fe", "O", "Cl", "H"), known_ternaries=20, other_ternaries=30)
METALLIC_SHAPES = {"AB", "AB2", "AB3"}
IONIC_AMOUNTS = {(1, 1), (1, 2), (1, 3), (2, 3), (1, 4), (3, 4), (1, 6)}
"""Smallest integer amounts of the structure types for ionic binaries, ascending."""
WELL_KNOWN = {
    formula
    for formula in map(reduced_formula, read_standard_enthalpies()["formula"])
    if len(parse_formula(formula)) == 3
}
"""Ternaries with a measured enthalpy of formation, which are always computed."""


@lru_cache
def elements_of(options):
    return element_tasks(options)


@lru_cache
def compounds_of(options):
    return compound_tasks(options)


def charges(symbol):
    element = Element(symbol)
    return element.common_oxidation_states or element.oxidation_states


def neutral(formula):
    """Whether common oxidation states, one an element, add up to nothing."""
    amounts = Composition(formula).get_el_amt_dict()
    return any(
        sum(amount * charge for amount, charge in zip(amounts.values(), states, strict=True)) == 0
        for states in product(*map(charges, amounts))
    )


def neutral_by_smact(formula):
    amounts = {symbol: int(amount) for symbol, amount in Composition(formula).get_el_amt_dict().items()}
    stoichiometries = [(amount,) for amount in amounts.values()]
    return any(smact.neutral_ratios(states, stoichiometries) for states in product(*map(charges, amounts)))


def check_tasks(tasks):
    library = prototype_library()
    for formula, name in tasks:
        prototype = library[name]
        assert anonymous_formula(formula) == anonymous_formula(prototype.structure.composition.reduced_formula)
        assert reduced_formula(formula) == formula
    assert len(set(tasks)) == len(tasks)
    compositions = {}
    for formula in {formula for formula, _ in tasks}:
        assert compositions.setdefault(frozenset(parse_formula(formula).items()), formula) == formula


def test_tasks_are_sorted_unique_reduced_and_fit_their_structure_types():
    compounds, elements = compounds_of(SMALL), elements_of(SMALL)
    check_tasks(compounds)
    check_tasks(elements)
    assert compounds == sorted(compounds)
    assert [symbol for symbol, _ in elements] == sorted(symbol for symbol, _ in elements)
    assert {symbol for symbol, _ in elements} == set(SMALL.elements)


def test_structures_hold_the_composition_they_are_planned_for():
    for formula, name in [*elements_of(SMALL), *compounds_of(SMALL)]:
        structure = decorate(formula, prototype_library()[name]).structure
        assert structure.composition.reduced_composition.almost_equals(Composition(formula).reduced_composition)
        assert len(structure) <= 34


def test_own_structure_types_of_the_elements_are_among_theirs():
    planned = set(elements_of(ReferenceOptions(("Mn", "O", "Cl", "N", "Fe"))))
    for prototype in prototype_library().values():
        if prototype.elements in (("Mn",), ("O",), ("Cl",), ("N",), ("Fe",)):
            assert (prototype.elements[0], prototype.name) in planned


def binary_pairs(tasks):
    return {frozenset(found) for formula, _ in tasks if len(found := parse_formula(formula)) == 2}


def missing_pairs(options):
    pairs = binary_pairs(compounds_of(options))
    return [pair for pair in combinations(sorted(options.elements), 2) if frozenset(pair) not in pairs]


def test_binaries_of_a_small_system_are_all_there():
    assert missing_pairs(SMALL) == []


def test_pairs_without_fitting_oxidation_states_are_there():
    assert missing_pairs(replace(SMALL, elements=("Pd", "H", "Te", "O", "F", "Pt"))) == []


@pytest.mark.slow
def test_binaries_of_at_least_75_elements_are_there():
    assert len(DEFAULT_ELEMENTS) >= 75
    assert missing_pairs(ReferenceOptions()) == []
    assert len(elements_of(ReferenceOptions())) + len(compounds_of(ReferenceOptions())) >= 20_000


@pytest.mark.slow
def test_default_plan_fits_its_structure_types():
    check_tasks(compounds_of(ReferenceOptions()))
    assert compounds_of(ReferenceOptions()) == sorted(compounds_of(ReferenceOptions()))


def test_well_known_binaries_are_planned():
    formulas = {formula for formula, _ in compounds_of(SMALL)}
    assert {
        "NaCl",
        "Na2O",
        "TiO2",
        "Al2O3",
        "FeO",
        "Fe2O3",
        "AlCl3",
        "FeCl2",
        "FeCl3",
        "NaH",
        "TiAl",
        "TiFe",
    } <= formulas
    assert ("NaCl", "AB_cF8_225_a_b NaCl") in compounds_of(SMALL)
    assert ("TiO2", "A2B_tP6_136_f_a TiO2") in compounds_of(SMALL)
    assert ("Al2O3", "A2B3_hR10_167_c_e Al2O3") in compounds_of(SMALL)


def test_ionic_binaries_are_charge_neutral():
    options = replace(SMALL, known_ternaries=0, other_ternaries=0)
    formulas = sorted({formula for formula, _ in compounds_of(options)})
    ionic = [f for f in formulas if {"O", "Cl", "H"} & parse_formula(f).keys()]
    assert len(ionic) > 15
    for formula in ionic:
        assert (neutral(formula) and neutral_by_smact(formula)) or smact_validity(formula, include_alloys=False), (
            formula
        )
    metallic = [formula for formula in formulas if formula not in ionic]
    assert metallic and {anonymous_formula(formula) for formula in metallic} <= METALLIC_SHAPES


@pytest.mark.slow
def test_other_ternaries_are_charge_neutral_and_known_ones_are_known():
    drawn = ReferenceOptions(known_ternaries=0, other_ternaries=1000)
    ternaries = {formula for formula, _ in compounds_of(drawn) if len(parse_formula(formula)) == 3}
    assert 900 < len(ternaries) <= 1000 + len(WELL_KNOWN)
    for formula in sorted(ternaries):
        assert neutral(formula) and neutral_by_smact(formula), formula
    listed = ReferenceOptions(known_ternaries=300, other_ternaries=0)
    ternaries = {formula for formula, _ in compounds_of(listed) if len(parse_formula(formula)) == 3}
    assert 300 <= len(ternaries) <= 300 + len(WELL_KNOWN)
    assert ternaries >= WELL_KNOWN
    ternaries -= WELL_KNOWN
    assert ternaries <= set(read_known_formulas()["formula"])


def test_numbers_of_ternaries_are_limits():
    def ternaries(**changes):
        tasks = compounds_of(replace(SMALL, **changes))
        return {formula for formula, _ in tasks if len(parse_formula(formula)) == 3}

    always = ternaries(known_ternaries=0, other_ternaries=0)
    assert always == {formula for formula in WELL_KNOWN if set(parse_formula(formula)) <= set(SMALL.elements)}
    assert 0 < len(ternaries(known_ternaries=5, other_ternaries=0) - always) <= 5
    assert 0 < len(ternaries(known_ternaries=0, other_ternaries=7) - always) <= 7
    assert ternaries(known_ternaries=0, other_ternaries=7) != ternaries(known_ternaries=0, other_ternaries=7, seed=1)


def test_systems_of_few_elements_are_planned():
    for elements in (("Na",), ("O",), ("Na", "O"), ("O", "Cl"), ("Xe", "Na"), ("At", "Ra", "O")):
        options = ReferenceOptions(elements)
        assert {symbol for symbol, _ in elements_of(options)} == set(elements)
        check_tasks(compounds_of(options))
    assert compounds_of(ReferenceOptions(("Na",))) == []


def test_order_and_repetition_of_the_elements_do_not_matter():
    turned = replace(SMALL, elements=[*reversed(SMALL.elements), "Na", "O"])
    assert isinstance(turned.elements, tuple) and len(turned.elements) == len(SMALL.elements)
    assert turned.as_dict() == SMALL.as_dict()
    assert element_tasks(turned) == elements_of(SMALL)
    assert compound_tasks(turned) == compounds_of(SMALL)


SCRIPT = """
from hashlib import sha256
from surrogates.prototype_library import prototype_library
from surrogates.prototypes import decorate
from surrogates.reference_plan import ReferenceOptions, compound_tasks, element_tasks
options = ReferenceOptions(("Na", "Ti", "Al", "Fe", "O", "Cl", "H"), known_ternaries=20, other_ternaries=30)
digest = sha256()
for formula, name in [*element_tasks(options), *compound_tasks(options)]:
    structure = decorate(formula, prototype_library()[name]).structure
    digest.update(f"{formula} {name} {[site.specie.symbol for site in structure]}".encode())
    digest.update(structure.lattice.matrix.tobytes() + structure.frac_coords.tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_plan_and_structures_are_the_same_to_the_bit_in_every_process():
    found = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"elements": ("Na", "Xx")}, r"elements: 'Xx' is not a chemical element"),
        ({"elements": "NaCl"}, r"elements: 'NaCl' is one text"),
        ({"elements": ()}, r"elements: the list is empty, expected at least one element"),
        ({"elements": ("Na", "Cm")}, r"elements: CHGNet does not know Cm \(expected elements up to plutonium\)"),
        ({"known_ternaries": -1}, r"known_ternaries: -1 is negative"),
        ({"other_ternaries": -1}, r"other_ternaries: -1 is negative"),
        ({"relaxations": -2}, r"relaxations: -2 is negative"),
        ({"seed": -1}, r"seed: -1 is negative"),
        ({"relaxed_per_formula": 0}, r"relaxed_per_formula: 0 is not a positive number"),
        ({"max_steps": 0}, r"max_steps: 0 is not a positive number"),
        ({"fmax": 0.0}, r"fmax: 0.0 is not a positive number"),
        ({"fmax": math.nan}, r"fmax: nan is not a positive number"),
        ({"fmax": math.inf}, r"fmax: inf is not a positive number"),
        ({"weights": "9.9"}, r"weights: CHGNet has none named '9.9' \(expected 0.3.0, 0.2.0, r2scan\)"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        replace(SMALL, **changes)
    assert "\n" not in str(caught.value)


def test_weights_are_those_of_the_package():
    from surrogates.potential import CHGNetPotential

    for weights in ("0.3.0", "0.2.0", "r2scan"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert CHGNetPotential(weights).version == ReferenceOptions(weights=weights).weights


def test_formulas_of_the_plan_can_be_read_as_a_batch():
    formulas = sorted({formula for formula, _ in compounds_of(SMALL)})
    assert CompositionBatch.from_formulas(formulas).formulas == formulas
