"""Candidates that are crystals: which are relaxed, what is written beside them, and potentials that fail."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pandas as pd
import pytest
from pymatgen.core import Composition

from agent import DesignAgent
from agent.config import CrystalConfig
from agent.crystal_candidates import (
    RELAXED_HULL,
    CrystalCandidates,
    check_crystal_options,
    choose,
    collect_crystals,
    sites_of,
)
from agent.crystal_table import samples_table, short_table, summary_of
from envs import CompositionSpace, CrystalBatch, CrystalSpace
from surrogates.structure_funnel import StructureFunnel
from tests.agent.crystal_examples import Stiff, by_sites, crystal_agent


@pytest.fixture(scope="module")
def agent() -> DesignAgent:
    return crystal_agent()


def collect(agent: DesignAgent, potential: Any = None, n: int = 25, **options: Any) -> CrystalCandidates:
    settings = CrystalConfig(**({"screen": 20, "relax": 4} | options))
    return collect_crystals(agent, n, 60, 3, settings, potential=potential or Stiff())


# Which crystals are relaxed


def rows_of(*entries: tuple[str, str, float]) -> pd.DataFrame:
    """A table of (formula, sites, energy as built) in the order of the reward."""
    texts = [f"{formula} | {sites} | 4 4 4 90 90 90" for formula, sites, _ in entries]
    energies = [energy for *_, energy in entries]
    formulas = [formula for formula, *_ in entries]
    return pd.DataFrame({"crystal": texts, "formula": formulas, "built_energy_eV_per_atom": energies})


def test_every_composition_comes_once_before_any_comes_twice() -> None:
    table = rows_of(
        ("KCl", "225 | K a | Cl b", -1.0),
        ("KCl", "221 | K a | Cl b", -3.0),
        ("KCl", "216 | K a | Cl c", -2.0),
        ("NaCl", "225 | Na a | Cl b", -1.0),
        ("K2O", "225 | K c | O a", -9.0),
        ("NaCl", "221 | Na a | Cl b", -2.0),
    )
    assert choose(table, 100) == [1, 5, 4, 2, 3, 0]
    assert choose(table, 4) == [1, 5, 4, 2]
    assert choose(table, 0) == []
    assert choose(table[:0], 3) == []


def test_at_most_two_have_the_same_sites_whatever_the_origin() -> None:
    table = rows_of(
        ("KCl", "166 | K c 0.1 | Cl c 0.3", -1.0),
        ("KCl", "166 | K c 0.2 | Cl c 0.3", -4.0),
        ("KCl", "166 | K c 0.3 | Cl c 0.4", -2.0),
        ("KCl", "225 | K a | Cl b", -3.0),
        ("KCl", "225 | K b | Cl a", -3.5),
        ("KCl", "225 | K a | Cl b", -3.6),
        ("KCl", "221 | K a | Cl b", 5.0),
    )
    assert choose(table, 100) == [1, 5, 4, 2, 6]


def test_rows_keep_their_numbers_when_some_are_left_out() -> None:
    table = rows_of(("KCl", "225 | K a | Cl b", -1.0), ("NaCl", "225 | Na a | Cl b", -1.0))
    assert choose(table[1:], 2) == [1]


def test_sites_leave_out_what_relaxation_changes() -> None:
    rutile = "TiO2 | 136 | Ti a | O f 0.305 | 4.594 4.594 2.959 90 90 90"
    assert sites_of(rutile) == "TiO2 | 136 | Ti a | O f"
    assert sites_of(rutile.replace("0.305", "0.31").replace("4.594", "4.6")) == sites_of(rutile)
    assert sites_of(rutile.replace("Ti a", "Ti b")) == sites_of(rutile)  # the other origin
    assert sites_of(rutile.replace("O f", "O e")) != sites_of(rutile)
    assert sites_of(rutile.replace("136", "138")) != sites_of(rutile)


# The table


def test_candidates_are_distinct_ranked_and_as_in_the_samples(agent: DesignAgent) -> None:
    found = collect(agent, relax=0)
    table, samples = found.table, agent.sample(60, seed=3)
    assert table["rank"].tolist() == list(range(1, 26))
    assert table["crystal"].is_unique and set(table["crystal"]) <= set(samples["material"])
    assert table["reward"].is_monotonic_decreasing
    best = sorted(samples.drop_duplicates("material")["log_reward"], reverse=True)[:25]
    assert table["reward"].map(math.log).tolist() == pytest.approx(best, abs=1e-5)
    assert table["rung"].eq("surrogate").all()
    assert "built_energy_eV_per_atom" not in table and RELAXED_HULL not in table
    for row, frame in zip(table.itertuples(), found.frames, strict=True):
        assert frame.structure.composition.reduced_composition == Composition(row.formula).reduced_composition
        assert len(frame.structure) == row.n_atoms
        assert frame.name == f"{row.rank:04d}_{row.formula}"
        assert int(str(row.space_group).rpartition("(")[2][:-1]) == int(str(row.crystal).split(" | ")[1])


def test_the_best_are_screened_and_some_of_these_relaxed(agent: DesignAgent) -> None:
    potential = Stiff()
    found = collect(agent, potential)
    table = found.table
    assert table["built_energy_eV_per_atom"].notna().sum() == 20
    tried = table.index[table["converged"].notna()]
    assert sorted(tried) == sorted(choose(table[table["built_energy_eV_per_atom"].notna()], 4))
    assert len(tried) == 4
    for _, rows in table.groupby("reward", sort=False):  # of equal reward, the lowest in energy comes first
        assert rows["built_energy_eV_per_atom"].dropna().is_monotonic_increasing
    built = potential.energies(CrystalBatch.from_texts(table["crystal"][:5]).structures())
    assert table["built_energy_eV_per_atom"][:5].tolist() == pytest.approx(built.tolist(), abs=1e-5)
    for row in tried:
        frame = found.frames[row]
        assert table["relaxed_energy_eV_per_atom"][row] == pytest.approx(potential.minimum(frame.structure), abs=1e-3)
        assert frame.structure.volume / len(frame.structure) == pytest.approx(20.0, rel=0.02)
        assert frame.told["energy_eV_per_atom"] == table["relaxed_energy_eV_per_atom"][row]
        assert table["rung"][row] in ("relaxed", "hull")
        assert (table["reason"][row] == "") == (table["rung"][row] == "hull")
        assert (table["rung"][row] == "hull") == (table[RELAXED_HULL][row] <= 0.1)
    others = table.drop(index=tried)
    assert others["rung"].eq("surrogate").all() and others["reason"].eq("").all()
    assert others[RELAXED_HULL].isna().all() and others["relaxed_space_group"].eq("").all()


def test_more_relaxations_than_candidates(agent: DesignAgent) -> None:
    table = collect(agent, n=5, screen=0, relax=1000).table
    assert len(table) == 5
    sites = Counter(map(sites_of, table["crystal"]))
    assert table["converged"].notna().sum() == sum(min(2, count) for count in sites.values())


def test_a_crystal_that_relaxes_into_another_names_it(agent: DesignAgent) -> None:
    table = collect(agent, relax=12).table
    same = table[table["duplicate_of"] != ""]
    assert len(same)  # KCl on a, b and on b, a
    for row in same.itertuples():
        first = table.iloc[int(str(row.duplicate_of)[:4]) - 1]
        assert row.duplicate_of == f"{first['rank']:04d}_{first['formula']}"
        assert first["formula"] == row.formula and first["duplicate_of"] == ""
        assert first["n_atoms"] == row.n_atoms


# Potentials that fail


def is_chloride(structure: Any) -> bool:
    return "Cl" in structure.composition.as_dict()


def test_crystals_without_an_energy_are_not_relaxed_and_say_why(agent: DesignAgent) -> None:
    for potential in (Stiff(refuses=is_chloride), Stiff(raises=is_chloride)):
        table = collect(agent, potential).table
        screened = table[table["built_energy_eV_per_atom"].notna() | (table["reason"] != "")]
        chlorides = screened["formula"].str.contains("Cl")
        assert len(screened) == 20 and 0 < chlorides.sum() < 20
        assert screened["built_energy_eV_per_atom"].isna().tolist() == chlorides.tolist()
        assert table["reason"][chlorides[chlorides].index].str.contains("no energy for the crystal as built").all()
        tried = table[table["converged"].notna()]
        assert len(tried) and not tried["formula"].str.contains("Cl").any()


def test_the_potential_says_itself_why_it_cannot_tell(agent: DesignAgent) -> None:
    class Unknowing(Stiff):
        def evaluate(self, structures: Any) -> Any:
            return [
                "Cl is not known" if is_chloride(s) else values
                for s, values in zip(structures, super().evaluate(structures), strict=True)
            ]

    table = collect(agent, Unknowing(refuses=is_chloride)).table
    without = table[table["built_energy_eV_per_atom"].isna() & (table["reason"] != "")]
    assert len(without) and without["reason"].eq("Cl is not known").all()
    assert "not: Cl is not known" in summary_of(table)
    table = collect(agent, Refusing()).table
    assert table["reason"][table["reason"] != ""].eq("the potential failed: out of memory").all()


class Refusing(Stiff):
    """Cannot tell anything about anything."""

    def energies(self, structures: Any) -> Any:
        raise MemoryError

    def evaluate(self, structures: Any) -> Any:
        raise RuntimeError("out of memory\nat line 3")


def test_a_potential_that_knows_nothing_leaves_candidates_as_built(agent: DesignAgent) -> None:
    found = collect(agent, Stiff(raises=lambda structure: True))
    assert found.table["converged"].isna().all()
    assert found.table["rung"].eq("surrogate").all()
    assert (found.table["reason"] != "").sum() == 20
    assert "0 relaxed" in summary_of(found.table) and "20 not: the potential gives no energy" in summary_of(found.table)
    assert len(short_table(found.table))


class FailsAtWork(Stiff):
    """Energies for all, but chlorides cannot be relaxed."""

    def evaluate(self, structures: Any) -> Any:
        if any(map(is_chloride, structures)):
            raise KeyError("Cl")
        return super().evaluate(structures)


def test_relaxations_that_fail_are_rows_with_a_reason(agent: DesignAgent) -> None:
    found = collect(agent, FailsAtWork(), relax=8)
    tried = found.table[found.table["converged"].notna()]
    chlorides = tried["formula"].str.contains("Cl")
    assert 0 < chlorides.sum() < len(tried)
    assert not tried["converged"][chlorides].any() and tried["converged"][~chlorides].any()
    assert tried["reason"][chlorides].str.contains("the potential failed").all()
    for row in tried.index[chlorides]:  # as built
        text = found.table["crystal"][row]
        assert found.frames[row].structure == CrystalBatch.from_texts([text]).structures()[0]
        assert pd.isna(found.frames[row].told.get("energy_eV_per_atom", math.nan))


def test_an_interruption_is_not_a_result(agent: DesignAgent) -> None:
    class Interrupted(Stiff):
        def evaluate(self, structures: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(agent, Interrupted())


def test_elements_that_the_hull_does_not_know_are_a_reason() -> None:
    space = CrystalSpace(CompositionSpace(["Po", "O"]), max_atoms=3, space_groups=[225])
    table = collect(crystal_agent(by_sites, space=space), relax=1).table
    (row,) = table.index[table["converged"].notna()]
    assert table["converged"][row]
    assert math.isnan(table[RELAXED_HULL][row])
    assert table["rung"][row] == "relaxed"
    assert "no hull" in table["reason"][row] or "pure element" in table["reason"][row]


def test_alloys_are_not_held_to_charge_rules() -> None:
    space = CrystalSpace(
        CompositionSpace(["Ni", "Al"], max_count=1, charge_neutral=False), max_atoms=2, space_groups=[221]
    )
    table = collect(crystal_agent(by_sites, space=space), relax=1).table
    assert table["converged"].eq(True).sum() == 1


# What the user reads


def test_the_short_table_begins_with_what_is_nearest_to_the_hull(agent: DesignAgent) -> None:
    table = collect(agent, relax=12).table
    short = short_table(table)
    assert short[RELAXED_HULL].is_monotonic_increasing
    relaxed = table[table[RELAXED_HULL].notna() & (table["duplicate_of"] == "")]
    assert short["rank"].tolist() == relaxed.sort_values(RELAXED_HULL)["rank"].tolist()[:10]
    assert not {"crystal", "log_prob", "rung", "duplicate_of"} & set(short)
    for row in short.itertuples():
        sites = str(table["crystal"][row.Index]).split(" | ")[2:-1]
        assert row.positions == ", ".join(" ".join(site.split()[:2]) for site in sites)
    text = summary_of(table)
    assert text.startswith(f"{int(table['converged'].notna().sum())} relaxed")
    assert f"{int((relaxed[RELAXED_HULL] <= 0.05).sum())} within 0.05 eV/atom" in text


def test_without_relaxation_the_short_table_shows_each_set_of_sites_once(agent: DesignAgent) -> None:
    table = collect(agent, relax=0, n=60).table
    short = short_table(table, 1000)
    assert len(short) == table["crystal"].map(sites_of).nunique() < len(table)
    assert short["rank"].is_monotonic_increasing and short["rank"].iloc[0] == 1
    assert summary_of(table) == ""


def test_samples_are_shown_with_their_positions(agent: DesignAgent) -> None:
    samples = agent.sample(5, seed=0)
    shown = samples_table(samples)
    assert list(shown)[:3] == ["formula", "space_group", "positions"]
    assert "material" not in shown and len(shown) == 5


# Options


@pytest.mark.parametrize("name", ["screen", "relax", "elastic", "phonon"])
def test_numbers_below_zero_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^crystal: {name}: -1 is not 0 or more$"):
        check_crystal_options(CrystalConfig(**{name: -1}))


@pytest.mark.parametrize("name", ["elastic", "phonon"])
def test_what_needs_relaxed_crystals_is_refused_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"^crystal: {name}: only relaxed crystals can be judged, but relax is 0$"):
        check_crystal_options(CrystalConfig(**{name: 1, "relax": 0}))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"^crystal: {name}: .* is not installed; pip install"):
        check_crystal_options(CrystalConfig(**{name: 1}))
    check_crystal_options(CrystalConfig())


def test_elastic_tensors_and_vibrations_are_asked_of_the_nearest(
    agent: DesignAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def note(self: StructureFunnel, *arguments: Any) -> Any:
        asked.append(self.options)
        raise KeyboardInterrupt

    monkeypatch.setattr(StructureFunnel, "run", note)
    with pytest.raises(KeyboardInterrupt):
        collect(agent, elastic=2, phonon=3)
    assert (asked[0].elastic, asked[0].phonon, asked[0].top) == (True, True, 3)
