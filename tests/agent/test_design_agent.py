"""`DesignAgent` and its trainer, against the exact target of enumerated spaces."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from agent import DesignAgent, TrainingOptions
from agent.interruption import ForcedInterrupt, interrupt_between_steps
from agent.trainer import StepReport
from envs import CompositionSpace
from tests.agent.examples import (
    SMALL,
    all_formulas,
    chi_square_p,
    crc_reward,
    exact_log_target,
    frequencies,
    log_distribution,
    quick_options,
    random_prior,
    small_agent,
    space_named,
    total_variation,
)
from tests.envs.mixed_spaces import every_coloured_number


def trained(steps: int, **changes: Any) -> DesignAgent:
    options = {"batch_size": 64, "replay_capacity": 4000, "learning_rate": 3e-3, "average_decay": 0.95}
    agent = small_agent(**{"width": 48, **changes, "options": options | changes.pop("options", {})})
    agent.train(steps, progress=False)
    return agent


def distance(agent: DesignAgent) -> float:
    return total_variation(log_distribution(agent.policy), exact_log_target(agent)[0])


# The target


@pytest.mark.parametrize("prior_weight", [0.0, 0.5, 1.0])
def test_training_comes_close_to_the_target(prior_weight: float) -> None:
    start = distance(small_agent(prior_weight=prior_weight, beta=4.0, width=48))
    agent = trained(60, prior_weight=prior_weight, beta=4.0)
    _, log_z = exact_log_target(agent)
    assert start > 0.3
    assert distance(agent) < 0.5 * start
    assert agent.history[-1]["log_z"] == pytest.approx(log_z, abs=0.25)
    assert agent.history[-1]["beta"] == 4.0
    assert agent.history[-1]["covered"] == pytest.approx(1.0, abs=0.2)
    others = {0.0, 0.5, 1.0} - {prior_weight}
    for other in others:  # the exponent matters: the targets are far apart
        assert (
            total_variation(exact_log_target(agent)[0], exact_log_target(small_agent(prior_weight=other, beta=4.0))[0])
            > 0.1
        )


@pytest.mark.slow
def test_training_without_a_prior_comes_close_to_the_reward() -> None:
    space = space_named("larger")
    options = quick_options(batch_size=128, replay_capacity=10_000)
    agent = DesignAgent(space, crc_reward, beta=2.0, options=options)
    start = distance(agent)
    agent.train(250, progress=False)
    assert start > 0.4
    assert distance(agent) < 0.12
    coverage = agent.coverage(4096)
    assert coverage.log_z_mixture == pytest.approx(exact_log_target(agent)[1], abs=0.05)
    assert coverage.covered == pytest.approx(1.0, abs=0.08)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "furthest"), [("tb", 0.04), ("subtb", 0.4)])
def test_training_over_several_kinds_of_action_comes_close_to_the_reward(loss: str, furthest: float) -> None:
    options = quick_options(loss=loss, batch_size=128, replay_capacity=10_000, learning_rate=3e-3, average_decay=0.98)
    agent = DesignAgent(space_named("coloured"), crc_reward, beta=2.0, options=options)
    start = distance(agent)
    agent.train(200, progress=False)
    assert start > 0.5
    assert distance(agent) < furthest
    coverage = agent.coverage(4096)
    assert coverage.log_z_mixture == pytest.approx(exact_log_target(agent)[1], abs=0.05)
    assert coverage.covered == pytest.approx(1.0, abs=0.08)


def test_samples_name_materials_as_surrogates_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = small_agent("coloured")
    monkeypatch.setattr(type(agent.space), "decode", lambda *_: pytest.fail("decode may build structures"))
    assert set(agent.sample(50)["material"]) <= set(every_coloured_number())


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["tb", "subtb", "lpv", "rtb"])
def test_every_loss_trains(loss: str) -> None:
    steps = 250 if loss == "subtb" else 80  # which has its state flows to learn as well
    agent = trained(steps, beta=4.0, options={"loss": loss})
    assert distance(agent) < 0.6 * distance(small_agent(beta=4.0, width=48))


@pytest.mark.parametrize("exploration", [{"epsilon": 0.5}, {"temperature": 2.0}])
def test_exploration_does_not_bias_log_z(exploration: dict[str, float]) -> None:
    """Without the exploring density in the importance weights the estimate is off by more than a nat."""
    options = {
        "batch_size": 128,
        "replay_capacity": 40_000,
        "base_share": 0.0,
        "policy_share": 1.0,
        "learning_rate": 1e-9,
    }
    agent = trained(20, beta=1.0, prior_weight=0.0, scale=0.7, options=options | exploration)
    assert agent.history[-1]["log_z"] == pytest.approx(exact_log_target(agent)[1], abs=0.1)


def test_replay_weights_are_those_of_the_mixture_that_was_drawn_from() -> None:
    """The mean weight of samples of a mixture is Z, whatever the mixture; each entry's weight is recomputed here."""
    options = {
        "batch_size": 64,
        "policy_share": 0.5,
        "base_share": 0.25,
        "replay_capacity": 4000,
        "learning_rate": 1e-9,
    }
    agent = small_agent(beta=1.0, prior_weight=0.5, options=options)
    with torch.no_grad():  # policy and base measure apart
        agent.trainer.network.parts[0].output.bias += torch.linspace(-1, 1, agent.space.n_actions)
    agent.train(20, progress=False)
    entries = agent.trainer.replay.contents()
    assert len(entries.actions) == 20 * 48
    policy = agent.trainer.policy.log_prob_in_chunks(entries.actions).double()
    base = agent.base.log_prob_in_chunks(entries.actions).double()
    assert entries.log_base == pytest.approx(base, abs=1e-4)
    expected = torch.logaddexp(policy + math.log(32 / 48), base + math.log(16 / 48))
    assert entries.log_mixture == pytest.approx(expected, abs=1e-3)
    rewards = crc_reward(agent.space.decode(agent.space.replay(entries.actions)))
    assert entries.outcomes[:, 0] == pytest.approx(torch.tensor(rewards).log(), abs=1e-5)


def test_beta_rises_to_its_final_value() -> None:
    agent = small_agent(beta=6.0, options={"annealing": 0.5, "least_effective_share": 1.0})
    history = agent.train(20, progress=False)
    floor = [6.0 * min(1.0, step / 10) for step in range(20)]
    assert history["beta"].tolist() == pytest.approx(floor)
    eager = small_agent(beta=6.0, options={"annealing": 1.0, "least_effective_share": 0.0}).train(20, progress=False)
    assert eager["beta"].iloc[-1] == 6.0
    assert (eager["beta"].diff().dropna() >= 0).all()


@pytest.mark.parametrize(
    "shares",
    [
        {"batch_size": 11, "policy_share": 0.5, "base_share": 0.5},  # round up both
        {"policy_share": 1.0, "base_share": 0.0},
        {"policy_share": 0.01, "base_share": 0.99},
        {"policy_share": 0.3, "base_share": 0.0},
        {"likelihood_weight": 0.0},
    ],
)
def test_any_mixture_of_sources_trains(shares: dict[str, float]) -> None:
    history = small_agent(options=shares).train(4, progress=False)
    assert history["loss"].map(math.isfinite).all()


@pytest.mark.parametrize("loss", ["tb", "subtb", "lpv", "rtb"])
@pytest.mark.parametrize("with_prior", [True, False])
def test_every_loss_runs(loss: str, with_prior: bool) -> None:
    space = space_named()
    options = quick_options(loss=loss)
    agent = DesignAgent(space, crc_reward, random_prior(space) if with_prior else None, options=options)
    history = agent.train(3, progress=False)
    assert history["loss"].map(math.isfinite).all()
    assert history["step"].tolist() == [1, 2, 3]


def test_the_policy_in_use_is_the_moving_average_of_the_weights() -> None:
    agent = small_agent(options={"average_decay": 0.3})
    network, expected = agent.trainer.network, agent.trainer.network.parts[0].output.bias.detach().clone()
    weights: list[torch.Tensor] = []
    agent.train(4, progress=False, callback=lambda _: weights.append(network.parts[0].output.bias.detach().clone()))
    for step, bias in enumerate(weights):
        decay = min(0.3, (step + 1) / (step + 10))  # faster at the start
        expected = decay * expected + (1 - decay) * bias
    assert agent.policy.network.parts[0].output.bias == pytest.approx(expected, abs=1e-6)
    assert (agent.policy.network.parts[0].output.bias - weights[-1]).abs().max() > 1e-5


@pytest.mark.parametrize("loss", ["tb", "lpv", "rtb"])
def test_the_loss_of_the_first_step_by_hand(loss: str) -> None:
    """At beta 0 the target is the base measure to the power of one half, and the policy is the base measure."""
    options = {"loss": loss, "policy_share": 1.0, "base_share": 0.0, "likelihood_weight": 0.0, "residual_scale": 1.0}
    agent = small_agent(prior_weight=0.5, seed=5, options=options | {"batch_size": 64})
    log_base = agent.base.sample(64, torch.Generator().manual_seed(5)).log_prob.double()
    log_z = float((-0.5 * log_base).logsumexp(0)) - math.log(64)
    residual = 0.5 * log_base
    size = (residual - residual.mean() if loss == "lpv" else residual + log_z).abs()
    expected = torch.where(size <= 1, size.square() / 2, size - 0.5).mean()
    history = agent.train(1, progress=False)
    assert history["log_z"][0] == pytest.approx(log_z, abs=1e-4)
    assert history["loss"][0] == pytest.approx(float(expected), rel=1e-4)


def test_relative_trajectory_balance_is_trajectory_balance_for_the_same_target() -> None:
    """The base measure enters the one as a distribution and the other as a part of the reward."""
    losses = {}
    for loss in ("tb", "rtb"):
        agent = small_agent(beta=2.0, prior_weight=0.5, options={"loss": loss, "likelihood_weight": 0.0})
        losses[loss] = agent.train(4, progress=False)["loss"].tolist()
    assert losses["tb"] == pytest.approx(losses["rtb"], rel=1e-3)


# Samples


def test_samples_carry_their_exact_numbers() -> None:
    agent = small_agent(beta=2.0, prior_weight=0.5)
    frame = agent.sample(300, seed=1)
    assert list(frame.columns) == ["material", "log_prob", "log_prior", "log_reward"]
    materials = frame["material"].tolist()
    assert frame["log_prob"].to_numpy() == pytest.approx(agent.log_prob(materials).numpy(), abs=1e-4)
    base = agent.base.log_prob_in_chunks(agent.space.encode(materials))
    assert frame["log_prior"].to_numpy() == pytest.approx(base.numpy(), abs=1e-4)
    assert frame["log_reward"].to_numpy() == pytest.approx([math.log(r) for r in crc_reward(materials)], abs=1e-5)
    assert frame.attrs["n_drawn"] == 300
    assert 0 < frame.attrs["effective_sample_size"] <= 300


@pytest.mark.parametrize("prior_weight", [0.0, 1.0])
def test_corrected_samples_follow_the_target_and_not_the_policy(prior_weight: float) -> None:
    agent = small_agent(beta=3.0, prior_weight=prior_weight, scale=0.35)  # never trained
    log_target, _ = exact_log_target(agent)
    log_policy = log_distribution(agent.policy)
    counts = frequencies(agent.space, agent.sample(4000, corrected=True, seed=0)["material"])  # type: ignore[arg-type]
    raw = frequencies(agent.space, agent.sample(4000, seed=0)["material"])  # type: ignore[arg-type]

    def distance_to_target(frequency: torch.Tensor) -> float:
        return total_variation((frequency / frequency.sum()).log(), log_target)

    assert chi_square_p(raw, log_policy) > 0.001
    assert distance_to_target(raw) > 0.25
    assert distance_to_target(counts) < 0.12  # 4,000 exact samples are at 0.05
    assert distance_to_target(counts) < 0.4 * distance_to_target(raw)


def test_a_seeded_call_repeats_and_others_go_on() -> None:
    agent, twin = small_agent(), small_agent()
    assert agent.sample(20, seed=3)["material"].tolist() == twin.sample(20, seed=3)["material"].tolist()
    first, second = agent.sample(20)["material"].tolist(), agent.sample(20)["material"].tolist()
    assert first != second
    assert [twin.sample(20)["material"].tolist() for _ in range(2)] == [first, second]


def test_log_prob_refuses_what_lies_outside() -> None:
    agent = small_agent()
    assert agent.log_prob(["NaCl", "ClNa"]).diff().item() == 0
    with pytest.raises(ValueError, match="'NaCl9' is outside the design space: count"):
        agent.log_prob(["NaCl9"])
    with pytest.raises(ValueError, match="FeO"):
        agent.log_prob(["FeO"])
    assert len(agent.log_prob(all_formulas(space_named()))) == len(all_formulas(space_named()))


# Seeds


@pytest.mark.parametrize("loss", ["tb", "subtb"])
@pytest.mark.parametrize("with_prior", [True, False])
def test_the_seed_decides_everything_and_the_global_state_nothing(loss: str, with_prior: bool) -> None:
    space = space_named()

    def run(seed: int, global_seed: int) -> tuple[Any, Any]:
        torch.manual_seed(global_seed)
        prior = random_prior(space) if with_prior else None
        agent = DesignAgent(space, crc_reward, prior, beta=2.0, seed=seed, options=quick_options(loss=loss))
        history = agent.train(3, progress=False)
        return history.to_dict("list"), agent.sample(30).to_dict("list")

    with torch.random.fork_rng():
        assert run(0, 1) == run(0, 2)
        assert run(0, 1)[1] != run(1, 1)[1]


def test_the_global_random_state_is_left_alone() -> None:
    space = space_named()
    before = torch.random.get_rng_state()
    agent = DesignAgent(space, crc_reward, random_prior(space), options=quick_options())
    agent.train(2, progress=False)
    agent.sample(5)
    agent.coverage(50)
    DesignAgent(space, crc_reward, options=quick_options(loss="subtb"))
    assert torch.equal(torch.random.get_rng_state(), before)


# Interruptions


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own handler of Ctrl-C, which tests started in the background do not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_waits_for_the_end_of_the_step() -> None:
    agent, twin = small_agent(), small_agent()
    evaluate = agent.reward.function  # type: ignore[union-attr]

    def impatient(materials: Any) -> Any:
        if agent.trainer.step == 3 and not agent.history[3:]:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(materials)

    agent.reward.function = impatient  # type: ignore[union-attr]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        agent.train(6, progress=False)
    assert agent.trainer.step == len(agent.history) == 4
    assert signal.getsignal(signal.SIGINT) is before
    agent.train(1, progress=False)  # finishes the schedule first
    assert agent.history == twin.train(6, progress=False).to_dict("records")


@pytest.mark.usefixtures("interruptible")
def test_a_second_interruption_does_not_wait() -> None:
    with pytest.raises(ForcedInterrupt), interrupt_between_steps():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt_between_steps() as raise_if_asked:
            signal.raise_signal(signal.SIGINT)
            raise_if_asked()
    finally:
        signal.signal(signal.SIGINT, before)


def test_every_step_is_reported() -> None:
    reports: list[StepReport] = []
    agent = small_agent()
    agent.train(3, progress=False, callback=reports.append)
    agent.train(2, progress=False, callback=reports.append)
    assert [report.step for report in reports] == [1, 2, 3, 4, 5]
    assert len(agent.history) == 5


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior_weight": 1.5}, "prior_weight: 1.5 is not in 0..1"),
        ({"prior_weight": math.nan}, "prior_weight: nan"),
        ({"beta": 0.0}, "beta: 0 is not a positive number"),
        ({"beta": -1.0}, "beta: -1"),
        ({"beta": math.inf}, "beta: inf"),
        ({"seed": -1}, "seed: -1"),
        ({"seed": 10**30}, "seed: 10+ is not a whole number"),
        ({"reward": lambda materials: [-1.0] * len(materials)}, "reward '.*lambda.*': returned -1 for"),
    ],
)
def test_wrong_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        small_agent(**arguments)


def test_wrong_calls_are_named() -> None:
    agent = small_agent()
    with pytest.raises(ValueError, match="steps: 0"):
        agent.train(0)
    with pytest.raises(ValueError, match="n: 0"):
        agent.sample(0)
    with pytest.raises(ValueError, match="seed: -4"):
        agent.sample(1, seed=-4)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("loss", "db"),
        ("batch_size", 4),
        ("batch_size", 10**9),
        ("policy_share", 0.0),
        ("policy_share", math.nan),
        ("base_share", 0.9),
        ("base_share", -0.1),
        ("learning_rate", 0.0),
        ("learning_rate", math.inf),
        ("likelihood_weight", -1.0),
        ("likelihood_weight", math.nan),
        ("epsilon", 1.0),
        ("epsilon", -0.1),
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("annealing", 1.5),
        ("least_effective_share", -0.5),
        ("replay_capacity", 100),
        ("replay_capacity", 10**10),
        ("average_decay", 1.5),
        ("residual_scale", 0.0),
    ],
)
def test_a_wrong_training_option_is_named(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        TrainingOptions(**{option: value})


def test_an_agent_needs_no_more_than_a_design_space() -> None:
    """The reward of a plug-in that fails late says for which material."""
    space = CompositionSpace(**SMALL)
    calls = []

    def tired(materials: list[str]) -> list[float]:
        calls.append(materials)
        return [1.0 if len(calls) < 3 else math.nan] * len(materials)

    agent = DesignAgent(space, tired, options=quick_options())
    with pytest.raises(ValueError, match=r"^reward '.*tired': returned nan for"):
        agent.train(5, progress=False)
