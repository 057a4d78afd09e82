"""Toxicity by element list.

The list holds the elements whose compounds are toxic in every common oxidation state and restricted in products or
at work in most countries: beryllium, arsenic, cadmium, mercury, thallium and lead (all six are toxic pollutants by the
US 40 CFR 401.15; As, Be and Cd are IARC group 1 carcinogens), and the elements without a stable isotope. Chromium and
nickel are absent: their hazard depends on the oxidation state or the route of exposure. Bismuth, whose one isotope
has a half-life of 2e19 years, counts as stable.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from envs.chemistry import ATOMIC_NUMBERS, MAX_ATOMIC_NUMBER, SYMBOLS
from envs.formula import CompositionBatch

TOXIC_ELEMENTS: tuple[str, ...] = ("Be", "As", "Cd", "Hg", "Tl", "Pb")
RADIOACTIVE_ELEMENTS: tuple[str, ...] = ("Tc", "Pm", *SYMBOLS[83:])
"""Technetium, promethium, and polonium and all beyond."""


@lru_cache(maxsize=1)
def _listed() -> Tensor:
    listed = torch.zeros(MAX_ATOMIC_NUMBER + 1)
    listed[[ATOMIC_NUMBERS[symbol] for symbol in (*TOXIC_ELEMENTS, *RADIOACTIVE_ELEMENTS)]] = 1.0
    return listed


def toxicity(materials: CompositionBatch) -> Tensor:
    """Return the share of atoms whose element is on the list of toxic or radioactive elements, (N,), 0 to 1."""
    return (_listed()[materials.atomic_numbers] * materials.fractions).sum(1)
