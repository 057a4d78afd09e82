"""Oracles that cost nothing, and oracles that go wrong on purpose; workers import them by class path."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from surrogates.base import Label

KINDS = ("exception", "nan", "hang", "kill", "malformed")
MATERIALS = [
    f"{a}{m or ''}{b}{n or ''}" for a in ("Na", "K", "Mg") for b in ("Cl", "O") for m in (0, 2) for n in range(5)
]
"""60 formulas, some of them twice in another spelling."""


def value_of(material: str) -> float:
    """A value from -1 to 0 that depends on the formula alone."""
    return -(crc32(material.encode()) % 1000) / 1000


class QuickOracle:
    """Deterministic values at once; or after a pause, with a note of who was asked for what."""

    name = "quick"
    version = "1"
    cost = 0.0

    def __init__(self, pause: float = 0.0, log: str | None = None) -> None:
        self.pause, self.log = pause, log

    def label(self, materials: Sequence[Any]) -> list[Label]:
        if self.log is not None:
            with (Path(self.log) / str(os.getpid())).open("a") as file:
                file.writelines(f"{material}\n" for material in materials)
        time.sleep(self.pause)
        return [Label(material, {"energy": value_of(material)}) for material in materials]


class FaultyOracle(QuickOracle):
    """A share of the materials goes wrong, each in one way, always the same.

    Args:
        rate: The share.
        seed: Another seed, other materials.
        kinds: How they go wrong: exception, nan, hang, kill (of the worker process) or malformed.
        once_in: A folder; a material goes wrong only the first time, which is noted there.
    """

    name = "faulty"

    def __init__(
        self, rate: float = 0.2, seed: int = 0, kinds: Sequence[str] = KINDS, once_in: str | None = None
    ) -> None:
        super().__init__()
        self.rate, self.seed, self.kinds, self.once_in = rate, seed, tuple(kinds), once_in

    def fault_of(self, material: str) -> str | None:
        """How a material goes wrong."""
        draw = crc32(f"{self.seed} {material}".encode())
        return self.kinds[draw // 1000 % len(self.kinds)] if draw % 1000 < 1000 * self.rate else None

    def label(self, materials: Sequence[Any]) -> list[Label]:
        labels = super().label(materials)
        for row, material in enumerate(materials):
            match self.fault_of(material) if self._is_due(material) else None:
                case "exception":
                    raise RuntimeError(f"no luck\nwith {material}")
                case "nan":
                    labels[row] = Label(material, {"energy": float("nan")})
                case "hang":
                    time.sleep(3600)
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "malformed":
                    labels[row] = {"energy": -1.0}  # type: ignore[call-overload]
        return labels

    def _is_due(self, material: str) -> bool:
        if self.once_in is None:
            return True
        try:
            (Path(self.once_in) / f"{self.seed}_{material}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class ScriptedOracle(QuickOracle):
    """Answers with whatever a function of the test's returns, for oracles used in this process."""

    name = "scripted"

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def label(self, materials: Sequence[Any]) -> Any:
        return self.answer(materials)


class StructureOracle(QuickOracle):
    """Labels with a relaxed structure."""

    name = "structures"

    def label(self, materials: Sequence[Any]) -> list[Label]:
        from pymatgen.core import Lattice, Structure

        structure = Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        return [Label(m, {"energy": -1.0}, None, structure, 7, True, "CsCl") for m in materials]


class KeyedOracle(QuickOracle):
    """Needs a key, and says it where it should not."""

    def __init__(self, api_key: str, refuses: bool = False) -> None:
        super().__init__()
        self.api_key = api_key
        if refuses:
            raise ValueError(f"the key {api_key} is refused")

    def label(self, materials: Sequence[Any]) -> list[Label]:
        return [Label(material, failure=f"https://example.org?key={self.api_key}: 403") for material in materials]


def function(materials: Sequence[Any]) -> list[float]:
    """Is no oracle."""
    return [0.0] * len(materials)


class BoomOracle(QuickOracle):
    """Kills its process at the material boom."""

    def label(self, materials: Sequence[Any]) -> list[Label]:
        if "boom" in materials:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().label(materials)


class VaguePrice(QuickOracle):
    """Has a cost that is no number."""

    cost = float("nan")
