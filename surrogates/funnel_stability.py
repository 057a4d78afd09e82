"""The rungs "elastic" and "phonon" of the validation funnel, both on a tightly relaxed primitive cell."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from surrogates.elasticity import ElasticityOptions, ElasticTensor, elastic_tensor
from surrogates.funnel_records import Record
from surrogates.phonons import PhononMeasurement, PhononOptions, Phonons, evaluate_forces
from surrogates.potential import Potential
from surrogates.progress import progress_bar
from surrogates.relaxation import RelaxationOptions, relax
from surrogates.symmetry_check import primitive_cell

_TIGHT = RelaxationOptions(fmax=0.01, max_steps=300, batch_size=4)
"""Small beside the forces and stresses that strains and displacements cause."""


def relax_tightly(records: Sequence[Record], potential: Potential, rung: str, progress: bool) -> None:
    """Give each relaxed record its primitive cell, relaxed further; what does not converge fails at the rung."""
    chosen = [record for record in records if record.going_on and record.tight is None]
    starts = [primitive_cell(record.relaxed) for record in chosen if record.relaxed is not None]
    with progress_bar(progress and bool(chosen), len(chosen), "tight relaxation", "structure") as advance:
        found = relax(starts, potential, _TIGHT, lambda row, relaxation: advance(1))
    for record, relaxation in zip(chosen, found, strict=True):
        record.tight = relaxation.structure
        if relaxation.failure is not None:
            record.take(rung, f"the tight relaxation before: {relaxation.failure}")


def check_elasticity(
    records: Sequence[Record], potential: Potential, options: ElasticityOptions, progress: bool
) -> None:
    """Take each record that is relaxed through the rung "elastic"."""
    relax_tightly(records, potential, "elastic", progress)
    chosen = [record for record in records if record.going_on]
    with progress_bar(progress and bool(chosen), len(chosen), "elastic tensors", "structure") as advance:
        for record in chosen:
            with _attempt(record, "elastic"):
                tensor = elastic_tensor(record.tight_cell, potential, options)
                _take_elasticity(record, tensor)
            advance(1)


def _take_elasticity(record: Record, tensor: ElasticTensor) -> None:
    lowest = tensor.smallest_eigenvalue
    problem = (
        None if tensor.stable else f"mechanically unstable: an eigenvalue of the elastic tensor is {lowest:.1f} GPa"
    )
    record.take(
        "elastic",
        problem,
        bulk_modulus_GPa=tensor.bulk_modulus,
        shear_modulus_GPa=tensor.shear_modulus,
        smallest_elastic_eigenvalue_GPa=lowest,
    )


def check_phonons(records: Sequence[Record], potential: Potential, options: PhononOptions, progress: bool) -> None:
    """Take each record that is relaxed through the rung "phonon"."""
    relax_tightly(records, potential, "phonon", progress)
    plans: list[tuple[Record, PhononMeasurement]] = []
    for record in records:
        if record.going_on:
            with _attempt(record, "phonon"):
                plans.append((record, PhononMeasurement(record.tight_cell, options)))
    total = sum(plan.displaced_atoms for _, plan in plans)
    with progress_bar(progress and bool(plans), total, "phonons", "atom") as advance:
        for record, plan in plans:
            with _attempt(record, "phonon"):
                _take_phonons(record, plan.finish(evaluate_forces(plan.supercells, potential, advance)))


def _take_phonons(record: Record, phonons: Phonons) -> None:
    q = " ".join(f"{value:.3g}" for value in phonons.q_point)
    lowest = phonons.lowest_frequency
    problem = None if phonons.stable else f"dynamically unstable: an imaginary mode of {-lowest:.2f} THz at q = {q}"
    record.take(
        "phonon",
        problem,
        lowest_frequency_THz=lowest,
        lowest_frequency_q=q,
        highest_frequency_THz=phonons.highest_frequency,
    )


@contextmanager
def _attempt(record: Record, rung: str) -> Iterator[None]:
    """Let a rung fail with one line for whatever the packages inside raise, and count its time."""
    began = time.monotonic()
    try:
        yield
    except Exception as error:
        record.take(rung, " ".join((str(error).strip() or type(error).__name__).split())[:200])
    finally:
        record.seconds += time.monotonic() - began
