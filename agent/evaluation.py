"""Any list of compositions or structures, measured with the field's metrics.

    found = evaluate(["SrTiO3", "NaCl", "NaCl2"], holdout=["NaCl", "KCl"])
    found.compositions.charges["icsd24"].neutral_and_balanced    # 0.67
    found.compositions.recovery.share                            # 0.5
    print(found)                                                 # every figure with its definition

The same for what MatSmith designed and for anyone's: formulas, pymatgen structures, or files by `matsmith evaluate`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from agent.evaluation_compositions import (
    CompositionFigures,
    ReferenceFormulas,
    measure_compositions,
)
from agent.evaluation_structures import ReferenceStructures, StructureFigures, measure_structures
from surrogates.material_lists import MaterialList, Refused, collect_materials

MOST_REFUSED = 200
"""Materials that could not be read which are listed as JSON and on the page, of each list."""


@dataclass(frozen=True)
class Evaluation:
    """What was found about a list of materials."""

    given: int
    """Materials, readable or not."""
    compositions: CompositionFigures
    structures: StructureFigures | None
    """None when there are formulas only, or no structure can be measured."""
    refused: tuple[Refused, ...]
    """Materials that could not be read, all of them; they are in no figure."""
    heavy_hydrogen: int
    """Materials with deuterium or tritium, which count as hydrogen."""
    reference_refused: tuple[Refused, ...] = ()
    """Entries of the reference that could not be read, all of them; they are in no figure."""
    holdout_refused: tuple[Refused, ...] = ()
    """The same of the hold-out."""

    def as_dict(self) -> dict[str, Any]:
        """Return what can be written as JSON; shares are 0 to 1, what does not apply is null.

        Of what could not be read, the first `MOST_REFUSED` of each list.
        """
        from agent.evaluation_table import definitions

        values = asdict(self)
        for name in ("refused", "reference_refused", "holdout_refused"):
            values[name] = {"count": len(values[name]), "first": values[name][:MOST_REFUSED]}
        for part in ("compositions", "structures"):
            for entry in (values[part] or {}, *((values[part] or {}).get("charges") or {}).values()):
                if entry.get("recovery"):
                    entry["recovery"]["share"] = getattr(self, part).recovery.share
        values["definitions"] = definitions(self)
        as_json: dict[str, Any] = json.loads(json.dumps(values))
        return as_json

    def __str__(self) -> str:
        from agent.evaluation_table import as_text

        return as_text(self)


def evaluate(
    materials: Iterable[object],
    *,
    reference: Iterable[object] | None = None,
    holdout: Iterable[object] | None = None,
    relax: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Measure materials: charges, validity, uniqueness, novelty, recovery, distributions; for structures also geometry.

    Args:
        materials: Formulas, pymatgen compositions or pymatgen structures. What cannot be read is counted and listed.
        reference: The same, that novelty and distributions refer to; the embedded known formulas and structures when
            None. Structures are compared with those in it; with the embedded ones when it holds none.
        holdout: The same, of which is counted how many were found again.
        relax: Whether to relax structures with CHGNet and measure their distance to the embedded hull.
        progress: Whether to show bars for what is slow, on standard error.

    Raises:
        ValueError: Nothing can be read of one of the lists, or there is no structure to relax.
    """
    return evaluate_lists(
        _collected(materials, "materials"),
        reference=None if reference is None else _collected(reference, "reference"),
        holdout=None if holdout is None else _collected(holdout, "holdout"),
        relax=relax,
        progress=progress,
    )


def evaluate_lists(
    materials: MaterialList,
    *,
    reference: MaterialList | None = None,
    reference_name: str = "the reference",
    holdout: MaterialList | None = None,
    relax: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Do as `evaluate` for lists that were read from files."""
    for name, found in (("files", materials), ("reference", reference), ("holdout", holdout)):
        if found is not None:
            check_readable(name, found)
    structures = [structure for structure in materials.structures if structure is not None]
    if relax and not structures:
        raise ValueError("relax: there is no structure among the materials")
    formulas = (
        ReferenceFormulas.embedded()
        if reference is None
        else ReferenceFormulas.of(reference.compositions, reference_name)
    )
    found_structures = None
    if structures:
        held_out = [structure for structure in holdout.structures if structure is not None] if holdout else []
        found_structures = measure_structures(
            structures,
            _reference_structures(reference, reference_name),
            held_out or None,
            relax,
            progress,
        )
    return Evaluation(
        given=materials.given,
        compositions=measure_compositions(
            materials.compositions, formulas, None if holdout is None else holdout.compositions
        ),
        structures=found_structures,
        refused=materials.refused,
        heavy_hydrogen=materials.heavy_hydrogen,
        reference_refused=() if reference is None else reference.refused,
        holdout_refused=() if holdout is None else holdout.refused,
    )


def check_readable(name: str, found: MaterialList) -> None:
    """Raise a ValueError when a list holds nothing that could be read; one line that names the first reason."""
    if len(found.compositions):
        return
    if not found.refused:
        raise ValueError(f"{name}: no materials")
    others = f" (and {len(found.refused) - 1:,} more)" if len(found.refused) > 1 else ""
    raise ValueError(f"{name}: nothing could be read: {found.refused[0]}{others}")


def _collected(materials: Iterable[object], name: str) -> MaterialList:
    if isinstance(materials, str):
        raise ValueError(f"{name}: {materials!r} is one text (expected a list of formulas or structures)")
    found = collect_materials(materials)
    check_readable(name, found)
    return found


def _reference_structures(reference: MaterialList | None, name: str) -> ReferenceStructures:
    held = [structure for structure in reference.structures if structure is not None] if reference else []
    if not held:
        return ReferenceStructures.embedded()
    return ReferenceStructures(held, f"the {len(held):,} structures of {name}")
