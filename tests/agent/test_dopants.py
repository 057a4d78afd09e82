"""Dopant suggestions: charges, sites, and what a chemist would name first."""

from __future__ import annotations

import pytest

from agent.dopants import suggest_dopants
from agent.prior import EMBEDDED_TEMPERATURE, Prior
from envs.chemistry import oxidation_states


def test_dopants_of_a_binary_are_ions_on_sites_of_their_sign() -> None:
    frame = suggest_dopants("GaN", max_edits=3)
    assert not {"Ga", "N"} & set(frame["element"])
    assert (frame["charge"] * frame["host_charge"] > 0).all()
    assert set(zip(frame["host"], frame["host_charge"], strict=True)) == {("Ga", 3), ("N", -3)}
    states = oxidation_states("icsd24")
    assert all(charge in states[symbol] for symbol, charge in zip(frame["element"], frame["charge"], strict=True))
    kinds = frame["charge"] - frame["host_charge"]
    assert (frame["kind"] == kinds.map(lambda d: "isovalent" if d == 0 else "n-type" if d > 0 else "p-type")).all()
    assert frame["score"].is_monotonic_decreasing
    assert frame.groupby("host")["score"].sum().tolist() == pytest.approx([1.0, 1.0])
    assert not frame.duplicated(["element", "charge", "host"]).any()
    isovalent = frame[(frame["kind"] == "isovalent") & (frame["host"] == "Ga")]
    assert "Al" in isovalent["element"].tolist()[:10]


def test_the_embedded_prior_is_taken_as_sharp_as_it_was_fitted() -> None:
    sharp = Prior.default().sharpened(EMBEDDED_TEMPERATURE)
    default, given, flat = (suggest_dopants("MgO", prior, max_edits=2) for prior in (None, sharp, Prior.default()))
    assert default.equals(given) and not default.equals(flat)


def test_a_host_that_is_not_neutral_is_refused() -> None:
    for host in ("NaO3", "HeO", "Fe3O4"):
        with pytest.raises(ValueError, match=f"host: '{host}' is not neutral"):
            suggest_dopants(host)
    with pytest.raises(ValueError, match="not a chemical formula"):
        suggest_dopants("???")
