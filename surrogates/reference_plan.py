"""What the reference table is made of: which compositions, in which structure types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, permutations, product
from math import gcd, isfinite
from typing import Any

import numpy as np

from envs.chemistry import ATOMIC_NUMBERS, ELECTRONEGATIVITY, check_elements
from envs.formula import anonymous_formula, parse_formula, reduced_formula, write_formula
from surrogates.datasets import read_known_formulas
from surrogates.prototype_library import prototype_library

DEFAULT_ELEMENTS: tuple[str, ...] = tuple(
    symbol
    for symbol, number in ATOMIC_NUMBERS.items()
    if (number <= 83 or symbol in ("Th", "U")) and symbol not in ("He", "Ne", "Ar", "Kr", "Xe", "Tc", "Pm")
)
"""78 elements: up to bismuth, thorium and uranium, without noble gases, technetium and promethium."""

ANIONS: tuple[str, ...] = ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "As", "Se", "Br", "Sb", "Te", "I")
_ALLOYING = ("B", "C", "Si", "P", "As", "Sb")
"""Anions that form alloys and interstitial compounds as well."""
_TERNARY_ANIONS: tuple[str, ...] = ("O", "F", "S", "Cl", "Se", "Br", "I", "N", "Te", "P", "H", "As")

_CHGNET_WEIGHTS = ("0.3.0", "0.2.0", "r2scan")
_CHGNET_ELEMENTS = 94
"""CHGNet knows the elements up to this atomic number."""

# Structure types that many compounds of a stoichiometry have, by a unique beginning of their names.
_IONIC = {
    "AB": ("AB_cF8_225_a_b", "AB_cP2_221_b_a", "AB_cF8_216_c_a", "AB_hP4_186_b_b", "AB_hP4_194_c_a", "AB_tP4_129_a_c"),
    "AB2": (
        "AB2_cF12_225_a_c",
        "A2B_tP6_136_f_a",
        "AB2_hP3_164_a_d",
        "AB2_hP6_194_c_f",
        "A2B_cF24_227_c_a",
        "CaC2",
        "A2B_cP6_224_b_a",
    ),
    "AB3": (
        "A3B_cP4_221_d_a",
        "AB3_cF16_225_a_bc",
        "AB3_hR8_148_c_f",
        "AB3_mC16_12_g_ij",
        "UCl3",
        "AB3_hP8_194_c_bf",
        "AB3_hR8_155_c_de",
    ),
    "A2B3": ("A2B3_hR10_167_c_e", "La2O3", "A2B3_hR5_166_c_ac"),
    "AB4": ("A4B_cI10_217_c_a", "AB4_tI10_87_a_h"),
    "A3B4": ("Th3P4",),
    "AB6": ("A6B_cP7_221_f_a",),
}
_METALLIC = {
    "AB": ("AB_cP2_221_b_a", "AB_tP2_123_a_d"),
    "AB2": ("A2B_cF24_227_d_a", "AB2_tI6_139_a_e"),
    "AB3": ("AB3_cP4_221_a_c",),
}
_BORIDES = {"AB2": ("AB2_hP3_191_a_d",)}
_TERNARY = {
    "ABC": ("ABC_cF12_216_b_c_a", "ABC_tP6_129_c_a_c", "ABC_hP3_187_a_d_f", "ZrNiAl"),
    "ABC2": (
        "AB2C_cF16_225_a_c_b",
        "ABC2_tI16_122_a_b_d",
        "ABC2_hR4_166_a_b_c",
        "delafossite",
    ),
    "ABC3": ("AB3C_cP5_221_a_c_b", "AB3C_hR10_148_c_f_c", "BaNiO3"),
    "AB2C4": ("AB2C4_tI14_139_a_e_ce", "A2BC4_cF56_227_d_a_e", "A2BC4_tI14_82_bc_a_g"),
    "ABC4": ("scheelite", "A4BC_tI24_141_h_b_a", "AB4C_tI12_82_c_g_a"),
    "AB2C6": ("K2PtCl6",),
    "AB2C2": ("ThCr2Si2", "CaAl2Si2"),
    "AB3C4": ("A3B4C_cP8_215_d_e_a", "AB3C4_cP8_215_a_c_e"),
}
_LARGE_TERNARY = {"ABC3": ("AB3C_oP20_62_c_cd_a", "ABC3_hR10_167_a_b_e CaCO3"), "AB2C4": ("olivine",)}
"""Only for some of the known oxides and fluorides."""
_LARGE_FORMULAS = 150
_LAVES = "A2B_cF24_227_d_a"
_LAVES_RATIOS = (1.05, 1.45)
"""Ratio of the atomic radii of A and B in Laves phases AB2; 1.225 is ideal."""
_MOLECULAR = ("H", "N", "O", "F", "Cl", "Br", "I")
"""Elements that are computed only in structure types named after one of them: others would be strongly compressed."""
_SHAPES = ((1, 1, 1), (1, 1, 2), (1, 1, 3), (2, 1, 4), (1, 1, 4), (2, 1, 6), (1, 2, 2), (3, 1, 4))


@dataclass(frozen=True)
class ReferenceOptions:
    """What the reference table covers."""

    elements: tuple[str, ...] = DEFAULT_ELEMENTS
    """Elements whose binaries, and ternaries below, are computed."""
    known_ternaries: int = 2000
    """Most known ternary compositions."""
    other_ternaries: int = 1000
    """Charge-neutral ternary compositions of common oxidation states, drawn at random."""
    relaxations: int = 4500
    """Structures relaxed beside those of the elements: those nearest to the hull of all scans first,
    and last those of which symmetry leaves only the volume to relax."""
    relaxed_per_formula: int = 3
    """Most structures relaxed of one composition."""
    weights: str = "0.3.0"
    """Version of CHGNet's weights."""
    fmax: float = 0.08
    """Largest force at which a structure counts as relaxed, eV/A."""
    max_steps: int = 100
    """Steps after which a relaxation is given up."""
    seed: int = 0
    """Of the compositions that are drawn."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", check_elements(self.elements, "elements"))
        if not self.elements:
            raise ValueError("elements: the list is empty, expected at least one element")
        for symbol in self.elements:
            if ATOMIC_NUMBERS[symbol] > _CHGNET_ELEMENTS:
                raise ValueError(f"elements: CHGNet does not know {symbol} (expected elements up to plutonium)")
        if self.weights not in _CHGNET_WEIGHTS:
            raise ValueError(f"weights: CHGNet has none named {self.weights!r} (expected {', '.join(_CHGNET_WEIGHTS)})")
        for name in ("known_ternaries", "other_ternaries", "relaxations", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative")
        for name in ("relaxed_per_formula", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not a positive number")
        if not (self.fmax > 0 and isfinite(self.fmax)):
            raise ValueError(f"fmax: {self.fmax} is not a positive number")

    def as_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return asdict(self) | {"elements": sorted(self.elements)}


Task = tuple[str, str]
"""A reduced formula and the name of a structure type."""


def element_tasks(options: ReferenceOptions) -> list[Task]:
    """Return each element in every elemental structure type of up to 8 atoms, and in its own larger ones."""
    types = [p for p in prototype_library().values() if len(p.elements) == 1]
    return [
        (symbol, prototype.name)
        for symbol in sorted(options.elements)
        for prototype in types
        if len(prototype.structure) <= (34 if prototype.elements == (symbol,) else 8)
        if symbol not in _MOLECULAR or prototype.elements[0] in _MOLECULAR
    ]


def compound_tasks(options: ReferenceOptions) -> list[Task]:
    """Return binaries and ternaries with their structure types, sorted, without repetitions."""
    tasks = [*_binary_tasks(options), *_ternary_tasks(options)]
    return sorted(set(tasks))


def _named(beginning: str) -> str:
    for name in prototype_library():
        if name.startswith(beginning if " " in beginning else beginning + " "):
            return name
    raise KeyError(beginning)


def _in_types(formulas: Iterable[str], types: Mapping[str, Sequence[str]]) -> list[Task]:
    names = {shape: [_named(beginning) for beginning in found] for shape, found in types.items()}
    return [(formula, name) for formula in formulas for name in names.get(anonymous_formula(formula), ())]


def _binary_tasks(options: ReferenceOptions) -> list[Task]:
    ionic: list[str] = []
    metallic: list[str] = []
    for pair in combinations(sorted(options.elements), 2):
        simple = [_binary(pair, amounts) for amounts in ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1))]
        neutral = [formula for formula in _neutral_binaries(*pair) if anonymous_formula(formula) in _IONIC]
        ionic += neutral
        if all(symbol in _ALLOYING or symbol not in ANIONS for symbol in pair):
            metallic += simple
        elif not neutral:  # palladium hydride, tellurides of noble metals
            ionic += simple
    laves = _named(_LAVES)
    intermetallic = [
        (formula, name) for formula, name in _in_types(metallic, _METALLIC) if name != laves or _fits_laves(formula)
    ]
    borides = [formula for formula in metallic if "B" in parse_formula(formula)]
    return [*_in_types(ionic, _IONIC), *intermetallic, *_in_types(borides, _BORIDES)]


def _binary(pair: tuple[str, str], amounts: tuple[int, int]) -> str:
    return write_formula({symbol: float(amount) for symbol, amount in zip(pair, amounts, strict=True)})


def _fits_laves(formula: str) -> bool:
    """Whether the minority element of an AB2 composition is larger by about the right factor."""
    from pymatgen.core import Element

    (large, _), (small, _) = sorted(parse_formula(formula).items(), key=lambda entry: entry[1])
    radii = Element(large).atomic_radius, Element(small).atomic_radius
    if None in radii:
        return False
    return _LAVES_RATIOS[0] <= float(radii[0]) / float(radii[1]) <= _LAVES_RATIOS[1]


def _neutral_binaries(first: str, second: str) -> list[str]:
    """Charge-neutral formulas, the more electronegative element as the anion in a common oxidation state.

    The cation has a common oxidation state or one of those reported in the ICSD.
    """
    cation, anion = sorted((first, second), key=lambda symbol: ELECTRONEGATIVITY[symbol] or 0.0)
    if anion not in ANIONS:
        return []
    found = set()
    for positive, negative in product(_reported_charges(cation), _charges(anion, -1)):
        divisor = gcd(positive, -negative)
        found.add(_binary((cation, anion), (-negative // divisor, positive // divisor)))
    return sorted(found)


def _charges(symbol: str, sign: int) -> list[int]:
    from pymatgen.core import Element

    element = Element(symbol)
    states = element.common_oxidation_states or element.oxidation_states
    return [state for state in states if state * sign > 0]


def _reported_charges(symbol: str) -> list[int]:
    """Positive oxidation states with at least ten ICSD entries, by pymatgen, beside the common ones."""
    from pymatgen.core import Element

    return sorted({*_charges(symbol, 1), *(state for state in Element(symbol).icsd_oxidation_states if state > 0)})


def _ternary_tasks(options: ReferenceOptions) -> list[Task]:
    inside = set(options.elements)
    generator = np.random.default_rng(options.seed)
    known = [
        formula
        for formula in read_known_formulas()["formula"]
        if len(amounts := parse_formula(formula)) == 3 and amounts.keys() <= inside
        if all(amount == int(amount) for amount in amounts.values()) and anonymous_formula(formula) in _TERNARY
    ]
    if len(known) > options.known_ternaries:
        known = sorted(generator.permutation(known)[: options.known_ternaries].tolist())
    known = sorted({*known, *_well_known(inside)})
    large = [formula for formula in known if {"O", "F"} & parse_formula(formula).keys()]
    others = _neutral_ternaries(options, generator)
    if len(large) > _LARGE_FORMULAS:
        large = sorted(generator.permutation(large)[:_LARGE_FORMULAS].tolist())
    small = _in_types([*known, *others], _TERNARY)
    return [*small, *_in_types([*large, *_well_known(inside)], _LARGE_TERNARY)]


def _well_known(elements: set[str]) -> list[str]:
    """Ternary compounds with a measured enthalpy of formation, which the hull is compared with."""
    from surrogates.standard_enthalpies import read_standard_enthalpies

    formulas = [reduced_formula(formula) for formula in read_standard_enthalpies()["formula"]]
    return [f for f in formulas if len(parts := parse_formula(f)) == 3 and parts.keys() <= elements]


def _neutral_ternaries(options: ReferenceOptions, generator: np.random.Generator) -> list[str]:
    """Draw charge-neutral A-B-X compositions of common oxidation states, X an anion."""
    anions = [symbol for symbol in sorted(options.elements) if symbol in _TERNARY_ANIONS]
    cations = [symbol for symbol in sorted(options.elements) if symbol not in ANIONS or symbol in ("B", "Si", "Sb")]
    if not anions or len(cations) < 2:
        return []
    every = []
    for anion in anions:
        for first, second in permutations(cations, 2):
            for a, b, x in _SHAPES:
                charges = product(_charges(first, 1), _charges(second, 1), _charges(anion, -1))
                if any(a * p + b * q + x * r == 0 for p, q, r in charges):
                    every.append((first, a, second, b, anion, x))
    chosen = generator.permutation(len(every))[: options.other_ternaries]
    return sorted(
        {
            reduced_formula(write_formula({first: float(a), second: float(b), anion: float(x)}))
            for first, a, second, b, anion, x in (every[row] for row in chosen)
        }
    )
