"""Campaigns in which cheaper oracles label as well."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pandas as pd
import pytest
import torch

import agent.campaign
from agent.campaign import STORE, Campaign, CampaignResult
from agent.campaign_options import CampaignOptions
from agent.campaign_run import LABEL_FILES, load_campaign
from agent.command_parser import read_config
from agent.condition_options import ConditionOptions
from agent.config import DesignConfig, PlugIn
from agent.fidelities import Fidelity, check_cheaper, price
from agent.metrics import hypervolume
from agent.objective import Objective
from agent.run_folder import RunFolder
from agent.store import CampaignStore
from agent.training_options import TrainingOptions
from surrogates.base import Label
from surrogates.oracle import FunctionOracle
from tests.agent.campaign_driver import full_config, quicken, run_campaign
from tests.agent.examples import RECIPE, space_named

BATCH, INITIAL, COST = 4, 14, 10.0


def gap(material: str) -> float:
    """A band gap, eV, that nothing predicts."""
    return 0.1 + crc32(material.encode()) % 4000 / 1000


def noise(material: str) -> float:
    return 0.1 + crc32(f"{material} otherwise".encode()) % 4000 / 1000


class GapOracle:
    """Band gaps at a cost.

    Args:
        kind: What it labels: truth, noise, or nearly, the truth with an error of 0.1 eV.
        cost: Core-seconds.
    """

    version = "1"

    def __init__(self, kind: str = "truth", cost: float = COST) -> None:
        self.name, self.kind, self.cost = f"{kind} at {cost:g}", kind, cost

    def label(self, materials: Sequence[Any]) -> list[Label]:
        return [Label(material, {"band_gap": self._value(material)}) for material in materials]

    def _value(self, material: str) -> float:
        if self.kind == "nearly":
            return 0.3 + 1.1 * gap(material) + random.Random(material).gauss(0, 0.1)
        return noise(material) if self.kind == "noise" else gap(material)


TARGET = PlugIn("tests.agent.test_fidelities.GapOracle")
EQUAL = PlugIn("tests.agent.test_fidelities.GapOracle", {"cost": COST / 10})
NEARLY = PlugIn("tests.agent.test_fidelities.GapOracle", {"kind": "nearly", "cost": COST / 10})
NOISE = PlugIn("tests.agent.test_fidelities.GapOracle", {"kind": "noise", "cost": COST / 10})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch.setattr)


def campaign(folder: Path, *cheaper: Any, rounds: int = 2, oracle: Any = TARGET, **changes: Any) -> Campaign:
    settings: dict[str, Any] = {
        "batch": BATCH, "initial": INITIAL, "steps": 6, "pool": 60, "label_known": True, "random_picks": 0,
        "greedy_share": 0.2, "model": "forest",
    }  # fmt: skip
    return Campaign(
        space_named("larger"),
        [Objective("band_gap", "maximize", 0.0, 5.0), Objective("toxicity", "minimize", 0.0, 1.0)],
        oracle,
        folder,
        beta=2.0,
        rounds=rounds,
        steps=10,
        options=CampaignOptions(**(settings | changes)),
        training=TrainingOptions(**RECIPE),
        conditions=ConditionOptions(preference=False, beta_range=None),
        executor="in-process",
        workers=1,
        cheaper=cheaper,
    )


def spent(result: CampaignResult, number: int) -> float:
    """Cost of what a round asked for."""
    cheap = result.cheaper_labels["round"] == number
    return COST * float((result.labels["round"] == number).sum()) + COST / 10 * float(cheap.sum())


@pytest.fixture(scope="module")
def equal(tmp_path_factory: pytest.TempPathFactory) -> tuple[CampaignResult, Path]:
    folder = tmp_path_factory.mktemp("equal")
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch.setattr)
        return campaign(folder, EQUAL).run(progress=False), folder


def test_a_cheap_oracle_that_equals_the_target_is_used_mostly(equal: tuple[CampaignResult, Path]) -> None:
    result, _ = equal
    for number in (1, 2):
        cheap = result.cheaper_labels[result.cheaper_labels["round"] == number]
        assert len(cheap) > 2 * (result.labels["round"] == number).sum() > 0
        assert set(cheap["picked_by"]) == {"ehvi"}
    assert result.rounds[1]["cheaper"][0]["share"] > 0.9
    told = set(result.cheaper_labels["material"]) - set(result.labels["material"][:INITIAL])
    assert told & set(result.labels["material"][INITIAL:])  # what it labelled, the target may label later


def test_a_batch_costs_no_more_than_one_of_the_target(equal: tuple[CampaignResult, Path]) -> None:
    result, _ = equal
    assert spent(result, 0) == INITIAL * (COST + COST / 10)
    for number in (1, 2):
        assert (BATCH - 1) * COST < spent(result, number) <= BATCH * COST


def test_measures_are_of_the_target_alone(equal: tuple[CampaignResult, Path]) -> None:
    result, folder = equal
    assert set(result.labels["oracle"]) == {"truth at 10"} and set(result.cheaper_labels["oracle"]) == {"truth at 1"}
    last = result.rounds[2]
    assert last["calls_total"] == len(result.labels)
    achieved = result.wanted.achieved(list(result.labels["material"]), {"band_gap": list(result.labels["band_gap"])})
    assert last["hypervolume"] == pytest.approx(hypervolume(achieved.utilities), abs=1e-3)
    assert last["cheaper"][0]["calls_total"] == len(result.cheaper_labels)
    assert last["cheaper"][0]["cost_total"] == len(result.cheaper_labels) * COST / 10
    with CampaignStore.read(folder / STORE) as store:
        assert store.settings["cheaper"] == [["truth at 1", "1", COST / 10]]


def test_models_know_what_a_cheap_oracle_labelled(equal: tuple[CampaignResult, Path]) -> None:
    result, _ = equal
    only_cheap = sorted(set(result.cheaper_labels["material"]) - set(result.labels["material"]))
    predicted = result.wanted.model.predict(only_cheap)
    truth = torch.tensor([gap(material) for material in only_cheap])
    assert (predicted.mean[:, 0] - truth).abs().max() < 0.05
    assert predicted.std.max() < 0.1


def test_noise_is_not_used_after_the_first_round(tmp_path: Path) -> None:
    with_noise = campaign(tmp_path / "noise", NOISE).run(progress=False)
    alone = campaign(tmp_path / "alone").run(progress=False)
    assert set(with_noise.cheaper_labels["round"]) == {0}
    columns = ["material", "round", "picked_by", "band_gap", "band_gap_predicted", "band_gap_predicted_std"]
    assert with_noise.labels[columns].equals(alone.labels[columns])  # as if it were not there
    for one, other in zip(with_noise.rounds, alone.rounds, strict=True):
        assert {name: one[name] for name in other} == other


@pytest.mark.slow
def test_predictions_are_better_with_cheap_labels(tmp_path: Path) -> None:
    informed = campaign(tmp_path / "informed", NEARLY, rounds=3).run(progress=False)
    alone = campaign(tmp_path / "alone", rounds=3).run(progress=False)
    assert informed.rounds[3]["properties"]["band_gap"]["mae"] < alone.rounds[3]["properties"]["band_gap"]["mae"]


@pytest.mark.parametrize(
    "moment",
    [
        "between",
        *(pytest.param(moment, marks=pytest.mark.slow) for moment in ("draw_initial", "propose_batch", "label")),
    ],
)
def test_a_campaign_goes_on_where_it_was_cut_off(
    tmp_path: Path, equal: tuple[CampaignResult, Path], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class StopError(Exception):
        pass

    def stop(*_: Any, **__: Any) -> Any:
        raise StopError

    with monkeypatch.context() as patch:
        if moment == "between":  # rounds
            patch.setattr(agent.campaign, "judge_round", after(1, agent.campaign.judge_round, stop))
        elif moment == "label":
            patch.setattr(CampaignStore, "finish", after(2 * INITIAL + 3, CampaignStore.finish, stop))
        else:  # once the proposals for the cheap oracle are committed, and those for the target are not
            calls = 1 if moment == "draw_initial" else 3
            patch.setattr(CampaignStore, "propose", after(calls, CampaignStore.propose, stop))
        with pytest.raises(StopError):
            campaign(tmp_path, EQUAL).run(progress=False)
    resumed, whole = campaign(tmp_path, EQUAL).run(progress=False), equal[0]
    for one, other in ((resumed.labels, whole.labels), (resumed.cheaper_labels, whole.cheaper_labels)):
        assert one.drop(columns="seconds").equals(other.drop(columns="seconds"))
    assert resumed.rounds == whole.rounds


def after(calls: int, function: Callable[..., Any], stop: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does the same for some calls, then something else."""
    done = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal done
        done += 1
        return function(*arguments, **options) if done <= calls else stop()

    return call


# Which oracle


def fidelity(share: float, cost: float, known: Sequence[str] = (), labelled: Sequence[str] = ()) -> Fidelity:
    return Fidelity(GapOracle("noise", cost), share, {*known, *labelled}, set(labelled))


def test_prices_weigh_what_a_label_tells_against_its_cost() -> None:
    coarse, fine = fidelity(0.3, 1.0, ["KCl"], ["NaCl"]), fidelity(0.9, 4.0, [], ["K2O"])
    prices = price(["MgO", "KCl", "NaCl", "K2O"], GapOracle(), [coarse, fine])
    assert prices.choice == [0, 1, 1, -1]  # of NaCl, the coarse one has told what it can; of K2O, the fine one has
    assert prices.cost.tolist() == [1.0, 4.0, 4.0, COST]
    assert prices.per_gain.tolist() == pytest.approx([1 / 0.3, 4 / 0.9, 4 / 0.9, COST])


def test_what_does_not_pay_is_not_asked_for() -> None:
    assert price(["MgO"], GapOracle(), [fidelity(0.39, 4.0), fidelity(0.0, 1.0)]).choice == [-1]


def test_a_free_oracle_has_a_price() -> None:
    assert price(["MgO"], GapOracle(), [fidelity(0.5, 0.0)]).cost.tolist() == [COST / 100]


def test_an_oracle_that_refuses_a_material_or_does_not_list_it_is_not_asked() -> None:
    refusing, listing = GapOracle("noise", 1.0), GapOracle("noise", 1.0)
    refusing.refuses = lambda materials: [None if m == "MgO" else "no" for m in materials]  # type: ignore[attr-defined]
    listing.materials = ["KCl"]  # type: ignore[attr-defined]
    cheaper = [Fidelity(oracle, 1.0, (), ()) for oracle in (refusing, listing)]
    assert price(["MgO", "KCl", "NaCl"], GapOracle(), cheaper).choice == [0, 1, -1]


# Mistakes


@pytest.mark.parametrize(
    ("cheaper", "message"),
    [
        ([GapOracle("nearly", 10.0)], "nearly at 10 1 costs 10 core-seconds a label, no less than truth at 10 1 with"),
        ([GapOracle("truth", 10.0)], "truth at 10 1 has the same name and version as oracle"),
        ([GapOracle("noise", 1.0)] * 2, "noise at 1 1 has the same name and version as another one"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, cheaper: list[GapOracle], message: str) -> None:
    with pytest.raises(ValueError, match=f"^cheaper_oracles: {message}") as caught:
        campaign(tmp_path, *cheaper)
    assert "\n" not in str(caught.value)


def test_methods_that_do_not_weigh_costs_are_refused() -> None:
    check_cheaper(GapOracle(), [], "thompson")
    with pytest.raises(ValueError, match=r"^campaign\.method: thompson does not weigh costs"):
        check_cheaper(
            GapOracle(), [FunctionOracle(lambda material: {"band_gap": gap(material)}, "mine", cost=1.0)], "thompson"
        )


# Configuration


def test_configuration_says_which_oracles_are_cheaper(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "oracle: chgnet\nrounds: 1\ncheaper_oracles:\n- volume-scan\n- class_path: a.B\n  init_args: {cost: 1.0}\n"
    )
    config = read_config(tmp_path / "config.yaml")
    assert config.cheaper_oracles == [PlugIn("volume-scan"), PlugIn("a.B", {"cost": 1.0})]
    assert [PlugIn.read(entry.as_dict()) for entry in config.cheaper_oracles] == config.cheaper_oracles


def design_config(folder: Path) -> DesignConfig:
    return replace(
        full_config(folder),
        oracle=TARGET,
        cheaper_oracles=[EQUAL],
        rounds=1,
        campaign=CampaignOptions(batch=BATCH, initial=INITIAL, steps=6, pool=100, label_known=True),
    )


@pytest.mark.slow
def test_a_design_run_keeps_the_labels_of_both_apart(tmp_path: Path) -> None:
    config = design_config(tmp_path)
    run_campaign(config)
    folder = RunFolder(config.output)
    labels, cheaper = (pd.read_csv(folder.path / name) for name in LABEL_FILES)
    assert set(labels["oracle"]) == {"truth at 10"} and set(cheaper["oracle"]) == {"truth at 1"}
    assert labels["material"].is_unique and cheaper["material"].is_unique and len(cheaper) > len(labels)
    run_campaign(config)  # goes on, with nothing left to do
    assert pd.read_csv(folder.path / LABEL_FILES[1]).equals(cheaper)
    _, wanted = load_campaign(config, folder, None)
    only_cheap = sorted(set(cheaper["material"]) - set(labels["material"]))
    assert wanted.model.predict(only_cheap).std.max() < 0.1


def test_cheaper_oracles_without_rounds_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^cheaper_oracles: they label nothing while rounds is 0"):
        run_campaign(replace(design_config(tmp_path), rounds=0, oracle=None))
